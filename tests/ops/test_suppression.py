import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from box_samples import clustered, iou

from jaxcnn import ops


def greedy(boxes, scores, threshold, max_outputs, classes=None, valid=None):
    """The definition, box by box."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if valid is not None and not valid[i]:
            continue
        rivals = [j for j in kept if classes is None or classes[j] == classes[i]]
        if len(kept) < max_outputs and all(iou(boxes[i], boxes[j]) <= threshold for j in rivals):
            kept.append(i)
    return kept


@functools.partial(jax.jit, static_argnames=("iou_threshold", "max_outputs"))
def run(boxes, scores, classes=None, valid=None, *, iou_threshold, max_outputs):
    return ops.nms(boxes, scores, classes=classes, valid=valid, iou_threshold=iou_threshold, max_outputs=max_outputs)


def kept_by(boxes, scores, threshold, max_outputs, **options):
    kept = run(jnp.asarray(boxes), jnp.asarray(scores), iou_threshold=threshold, max_outputs=max_outputs, **options)
    assert kept.indices.shape == kept.valid.shape == (max_outputs,)
    assert kept.indices.dtype == jnp.int32
    used = int(kept.valid.sum())
    np.testing.assert_array_equal(kept.valid, np.arange(max_outputs) < used)
    np.testing.assert_array_equal(kept.indices[used:], 0)
    return kept.indices[:used].tolist()


def scored(seed, count):
    """Boxes that overlap a lot, with scores of which many are equal, and three classes."""
    rng = np.random.default_rng(seed)
    scores = np.round(rng.uniform(size=count), 1 if seed % 2 else 6)
    return clustered(seed, count), scores, rng.integers(3, size=count)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("seed", range(2))
def test_nms_equals_the_loop(threshold, seed):
    # Several tiles, the last one partly filled.
    boxes, scores, classes = scored(seed, 300)
    valid = np.random.default_rng(seed).uniform(size=300) < 0.8
    expected = greedy(boxes, scores, threshold, 300)
    assert 5 < len(expected) < 290
    assert kept_by(boxes, scores, threshold, 300) == expected
    assert kept_by(boxes, scores, threshold, 7) == expected[:7]
    separate = greedy(boxes, scores, threshold, 300, classes, valid)
    assert len(separate) > len(greedy(boxes, scores, threshold, 300, None, valid))
    assert kept_by(boxes, scores, threshold, 300, classes=classes, valid=valid) == separate


def test_a_chain_of_any_length_is_followed():
    # Each box overlaps only its neighbours: every second one stays.
    left = 6 * np.arange(200.0, dtype=np.float32)
    boxes = np.stack([left, 0 * left, left + 10, 0 * left + 10], axis=1)
    assert kept_by(boxes, -left, 0.1, 200) == list(range(0, 200, 2))


def test_the_threshold_itself_does_not_suppress():
    boxes = np.float32([[0, 0, 3, 1], [1, 0, 4, 1]])
    assert kept_by(boxes, np.float32([1, 0.5]), 0.5, 2) == [0, 1]
    assert kept_by(boxes, np.float32([1, 0.5]), 0.499, 2) == [0]


def test_equal_scores_keep_their_order_and_empty_boxes_collide_with_nothing():
    boxes = np.float32([[0, 0, 0, 0], [0, 0, 0, 0], [2, 2, 4, 4], [2, 2, 4, 4], [0, 0, 9, 9]])
    assert kept_by(boxes, np.ones(5, np.float32), 0.5, 5) == [0, 1, 2, 4]


def test_nothing_comes_of_nothing():
    boxes, scores, _ = scored(0, 40)
    assert kept_by(boxes[:0], scores[:0], 0.5, 3) == []
    assert kept_by(boxes, scores, 0.5, 3, valid=np.zeros(40, bool)) == []
    assert kept_by(boxes, np.full(40, np.nan), 0.5, 3) == []
    assert kept_by(boxes[:1], scores[:1], 0.5, 3) == [0]


def test_infinite_scores_are_scores():
    boxes = np.float32([[0, 0, 4, 4], [9, 9, 12, 12], [20, 20, 24, 24]])
    assert kept_by(boxes, np.float32([3, -np.inf, np.inf]), 0.5, 3) == [2, 0, 1]
    # A box that does not exist comes after one of the smallest score.
    assert kept_by(boxes, np.float32([3, -np.inf, np.inf]), 0.5, 3, valid=np.array([False, True, True])) == [2, 1]


def test_padding_and_order_change_nothing():
    boxes, scores, classes = scored(0, 150)
    expected = kept_by(boxes, scores, 0.5, 60, classes=classes)
    rng = np.random.default_rng(0)
    for count in (1, 50, 200):
        order = rng.permutation(150 + count)
        padding = clustered(9, count), np.ones(count), np.zeros(count, int)
        more_boxes, more_scores, more_classes = (
            np.concatenate(pair)[order] for pair in zip((boxes, scores, classes), padding, strict=True)
        )
        kept = kept_by(more_boxes, more_scores, 0.5, 60, classes=more_classes, valid=order < 150)
        assert order[kept].tolist() == expected


@pytest.mark.slow
@pytest.mark.heavy
def test_vmap_equals_a_loop_and_counts_of_objects_do_not_retrace():
    batch = [scored(seed, 140) for seed in (0, 2, 4)]
    boxes, scores, classes = (jnp.asarray(np.stack(parts)) for parts in zip(*batch, strict=True))
    valid = jnp.arange(140) < jnp.array([[0], [20], [140]])
    traces = []

    @jax.jit
    def joint(boxes, scores, classes, valid):
        traces.append(1)
        return jax.vmap(functools.partial(ops.nms, iou_threshold=0.4, max_outputs=30))(
            boxes, scores, classes=classes, valid=valid
        )

    for number in (0, 1):
        kept = joint(boxes, scores, classes, valid if number == 0 else ~valid)
        for i in range(3):
            mask = valid[i] if number == 0 else ~valid[i]
            alone = ops.nms(boxes[i], scores[i], classes=classes[i], valid=mask, iou_threshold=0.4, max_outputs=30)
            jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x, i=i: x[i], kept), alone)
    assert len(traces) == 1


@pytest.mark.parametrize("count", [1, 5, 40, 60, 1000])
@pytest.mark.parametrize("decimals", [1, 6])
def test_top_pairs_equals_top_k_over_all_pairs(count, decimals):
    scores = np.round(np.random.default_rng(0).uniform(size=(50, 7)), decimals).astype(np.float32)
    pairs = ops.top_pairs(jnp.asarray(scores), count)
    order = np.argsort(-scores.ravel(), kind="stable")[:count]
    np.testing.assert_array_equal(pairs.scores, scores.ravel()[order])
    np.testing.assert_array_equal(pairs.indices, order // 7)
    np.testing.assert_array_equal(pairs.classes, order % 7)


BOX, SCORE = jnp.zeros((2, 4)), jnp.zeros(2)
nms = functools.partial(ops.nms, iou_threshold=0.5, max_outputs=3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nms(BOX[None], SCORE[None]), ValueError, r"boxes \(n, 4\) and scores \(n,\) of one image"),
        (lambda: nms(BOX, SCORE[:1]), ValueError, r"got \(2, 4\) and \(1,\); map it over a batch with jax.vmap"),
        (lambda: nms(BOX, SCORE.astype(int)), TypeError, "nms, scores, expects floating point values, got int32"),
        (lambda: nms(BOX, SCORE, classes=SCORE), TypeError, "nms expects classes of integers, got float32"),
        (lambda: nms(BOX, SCORE, valid=jnp.ones(2, int)), TypeError, "nms expects valid of bool, got int32"),
        (lambda: nms(BOX, SCORE, valid=jnp.ones(3, bool)), ValueError, r"valid of shape \(2,\), .*, got \(3,\)"),
        (lambda: nms(BOX, SCORE, iou_threshold=50), ValueError, r"expects an iou_threshold in \[0, 1\], got 50"),
        (lambda: nms(BOX, SCORE, max_outputs=0), ValueError, "expects max_outputs of at least 1, got 0"),
        (lambda: ops.top_pairs(SCORE, 3), ValueError, r"expects scores of shape \(boxes, classes\), got \(2,\)"),
        (lambda: ops.top_pairs(BOX, 0), ValueError, "expects a count of at least 1, got 0"),
    ],
)
def test_refuses_what_cannot_be_sorted(call, error, message):
    with pytest.raises(error, match=message):
        call()
