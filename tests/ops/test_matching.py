"""Matching equals loops over objects and anchors that follow the papers; empty slots and the order change nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from box_samples import boxes, iou, iou_matrix

from jaxcnn import ops

GRID = ops.grid_points([(12, 12), (6, 6), (3, 3)], (8, 16, 32), offset=0.5)
POINTS, STRIDES, LEVELS = GRID.points.astype(float), GRID.strides.astype(float), GRID.level_sizes
ANCHORS = np.concatenate([POINTS - 2 * STRIDES[:, None], POINTS + 2 * STRIDES[:, None]], axis=1)
CLASSES = 5


def scene(seed, objects=6):
    """Objects of one image, and what a detector half trained predicts: some boxes near the objects."""
    rng = np.random.default_rng(seed)
    targets = boxes(seed, objects, size=90, largest=60)
    nearest = np.argmin(np.abs(POINTS[:, None] - (targets[:, :2] + targets[:, 2:]) / 2).max(-1), axis=1)
    return {
        "boxes": targets,
        "classes": rng.integers(CLASSES, size=objects),
        "predictions": targets[nearest] + rng.normal(size=(len(POINTS), 4)) * 5,
        "class_logits": rng.normal(size=(len(POINTS), CLASSES)) * 2,
        "objectness": rng.normal(size=len(POINTS)) * 2,
    }


def by_iou(overlaps, foreground, background, low_quality):
    matches = []
    for column in overlaps.T:
        best = int(np.argmax(column))
        matches.append(best if column[best] >= foreground else -1 if column[best] < background else -2)
    if low_quality:
        for row in overlaps:
            for a in np.flatnonzero(row == row.max()):
                matches[a] = int(np.argmax(overlaps[:, a]))
    return matches


def fcos(targets):
    matches = []
    for (x, y), stride in zip(POINTS, STRIDES, strict=True):
        fitting = []
        for m, (x1, y1, x2, y2) in enumerate(targets):
            edges = (x - x1, y - y1, x2 - x, y2 - y)
            near = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2)) < 1.5 * stride
            lower, upper = (0 if stride == 8 else 4 * stride), (np.inf if stride == 32 else 8 * stride)
            if near and min(edges) > 0 and lower < max(edges) < upper:
                fitting.append(((x2 - x1) * (y2 - y1), m))
        matches.append(min(fitting)[1] if fitting else -1)
    return matches


def atss(targets):
    claims = {}
    for m, box in enumerate(targets):
        centre, candidates, start = (box[:2] + box[2:]) / 2, [], 0
        for size in LEVELS:
            level = range(start, start + size)
            candidates += sorted(level, key=lambda a: np.hypot(*(POINTS[a] - centre)))[:9]
            start += size
        overlaps = [iou(box, ANCHORS[a]) for a in candidates]
        threshold = np.mean(overlaps) + np.std(overlaps, ddof=1)
        for a, overlap in zip(candidates, overlaps, strict=True):
            if overlap >= threshold and np.all(POINTS[a] > box[:2]) and np.all(POINTS[a] < box[2:]):
                claims.setdefault(a, []).append((-overlap, m))
    return [min(claims[a])[1] if a in claims else -1 for a in range(len(POINTS))]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def simota(scene):
    """YOLOX, section 2.1, with the class scores and the radius of its code."""
    centres = (scene["boxes"][:, :2] + scene["boxes"][:, 2:]) / 2
    near = np.abs(POINTS - centres[:, None]).max(-1) < 1.5 * STRIDES
    eligible = np.flatnonzero(near.any(0))
    overlaps = iou_matrix(scene["boxes"], scene["predictions"])
    scores = np.sqrt(sigmoid(scene["class_logits"]) * sigmoid(scene["objectness"])[:, None])
    cost = np.full(overlaps.shape, np.inf)
    for m, c in enumerate(scene["classes"]):
        for a in eligible:
            target = np.arange(CLASSES) == c
            entropy = -np.sum(np.where(target, np.log(scores[a]), np.log(1 - scores[a])))
            cost[m, a] = entropy - 3 * np.log(overlaps[m, a] + 1e-8) + (0 if near[m, a] else 1e6)
    takers = {}
    for m in range(len(cost)):
        number = max(1, int(np.sort(overlaps[m, eligible])[::-1][:10].sum()))
        for a in sorted(eligible, key=lambda a: cost[m, a])[:number]:
            takers.setdefault(a, []).append(m)
    matches = [-1] * len(POINTS)
    for a, objects in takers.items():
        matches[a] = objects[0] if len(objects) == 1 else int(np.argmin(cost[:, a]))
    return matches, [overlaps[m, a] if m >= 0 else 0 for a, m in enumerate(matches)]


def task_aligned(scene):
    overlaps = iou_matrix(scene["boxes"], scene["predictions"])
    scores = sigmoid(scene["class_logits"])
    claims, alignment = {}, np.zeros(overlaps.shape)
    for m, (box, c) in enumerate(zip(scene["boxes"], scene["classes"], strict=True)):
        inside = [a for a, p in enumerate(POINTS) if np.all(p > box[:2]) and np.all(p < box[2:])]
        alignment[m] = scores[:, c] * overlaps[m] ** 6
        for a in sorted(inside, key=lambda a: -alignment[m, a])[:13]:
            if alignment[m, a] > 0:
                claims.setdefault(a, []).append((-overlaps[m, a], m))
    matches = [min(claims[a])[1] if a in claims else -1 for a in range(len(POINTS))]
    quality = np.zeros(len(POINTS))
    for m in range(len(overlaps)):
        own = [a for a, match in enumerate(matches) if match == m]
        for a in own:
            quality[a] = alignment[m, a] / alignment[m, own].max() * overlaps[m, own].max()
    return matches, quality


def ours(name, scene, valid):
    """Returns matches and quality (None for those without), from the objects of a scene and which slots hold one."""
    targets, overlaps = scene["boxes"], ops.pairwise_iou(scene["boxes"], ANCHORS)
    objects = targets, scene["classes"], valid, scene["predictions"]
    if name == "simota":
        return ops.match_simota(*objects, scene["class_logits"], scene["objectness"], POINTS, STRIDES)
    if name == "task aligned":
        return ops.match_task_aligned(*objects, jax.nn.sigmoid(jnp.asarray(scene["class_logits"])), POINTS)
    return {
        "iou": lambda: ops.match_by_iou(overlaps, valid, foreground_iou=0.5, background_iou=0.3),
        "iou, low quality": lambda: ops.match_by_iou(
            overlaps, valid, foreground_iou=0.5, background_iou=0.3, allow_low_quality=True
        ),
        "ssd": lambda: ops.match_ssd(overlaps, valid),
        "fcos": lambda: ops.match_fcos(targets, valid, POINTS, STRIDES),
        "atss": lambda: ops.match_atss(targets, valid, ANCHORS, LEVELS),
    }[name](), None


def expected(name, scene):
    overlaps = iou_matrix(scene["boxes"], ANCHORS)
    if name in ("simota", "task aligned"):
        return (simota if name == "simota" else task_aligned)(scene)
    if name == "ssd":
        matches = by_iou(overlaps, 0.5, 0.5, False)
        for m, row in enumerate(overlaps):
            matches[int(np.argmax(row))] = m
        return matches, None
    return {
        "iou": lambda: by_iou(overlaps, 0.5, 0.3, False),
        "iou, low quality": lambda: by_iou(overlaps, 0.5, 0.3, True),
        "fcos": lambda: fcos(scene["boxes"]),
        "atss": lambda: atss(scene["boxes"]),
    }[name](), None


NAMES = ["iou", "iou, low quality", "ssd", "fcos", "atss", "simota", "task aligned"]
each_matching = pytest.mark.parametrize("name", NAMES)
run = jax.jit(ours, static_argnums=0)


@pytest.mark.usefixtures("float64")
@each_matching
def test_matching_equals_the_loop(name):
    found = set()
    for seed in range(6):
        some = scene(seed)
        matches, quality = run(name, some, np.ones(6, bool))
        correct, correct_quality = expected(name, some)
        np.testing.assert_array_equal(matches, correct, err_msg=f"seed {seed}")
        assert matches.dtype == jnp.int32
        if correct_quality is not None:
            np.testing.assert_allclose(quality, correct_quality, rtol=1e-10, atol=1e-12)
        found |= set(matches.tolist())
    assert len(found) > 5, found


def with_padding(some, slots):
    """Puts the objects of a scene into random ones of some slots; the others hold garbage."""
    rng = np.random.default_rng(slots)
    number = len(some["boxes"])
    at = rng.permutation(slots)[:number]
    padded, valid = dict(some), np.zeros(slots, bool)
    padded["boxes"], padded["classes"] = boxes(99, slots, size=90), np.full(slots, 77)
    padded["boxes"][::2] = 0
    padded["boxes"][at], padded["classes"][at], valid[at] = some["boxes"], some["classes"], True
    return padded, valid, at


@pytest.mark.usefixtures("float64")
@each_matching
@pytest.mark.parametrize("slots", [6, 7, 30])
def test_padding_and_order_change_nothing(name, slots):
    some = scene(3)
    matches, quality = run(name, some, np.ones(6, bool))
    padded, valid, at = with_padding(some, slots)
    moved, moved_quality = run(name, padded, valid)
    np.testing.assert_array_equal(moved, np.where(matches >= 0, at[np.maximum(matches, 0)], matches))
    if quality is not None:
        np.testing.assert_allclose(moved_quality, quality, rtol=1e-12)


@each_matching
def test_without_objects_all_is_background(name):
    for slots in (0, 3):
        matches, quality = run(name, with_padding(scene(0), max(slots, 6))[0] | empty(slots), np.zeros(slots, bool))
        np.testing.assert_array_equal(matches, np.full(len(POINTS), ops.BACKGROUND))
        if quality is not None:
            np.testing.assert_array_equal(quality, np.zeros(len(POINTS)))


def empty(slots):
    return {"boxes": np.zeros((slots, 4)), "classes": np.zeros(slots, int)}


@each_matching
def test_vmap_equals_a_loop_and_counts_of_objects_do_not_retrace(name):
    scenes = [with_padding(scene(seed, objects), 8) for seed, objects in ((0, 1), (1, 5), (2, 8))]
    batch = jax.tree.map(lambda *parts: jnp.stack(parts), *(some for some, _, _ in scenes))
    joint = jax.jit(jax.vmap(functools.partial(ours, name)))(batch, jnp.stack([valid for _, valid, _ in scenes]))
    traces = []
    alone = jax.jit(lambda some, valid: traces.append(1) or ours(name, some, valid))
    for i, (some, valid, _) in enumerate(scenes):
        one = alone(some, valid)
        np.testing.assert_array_equal(joint[0][i], one[0])
        assert valid[np.asarray(one[0])[np.asarray(one[0]) >= 0]].all()
    assert len(traces) == 1


def test_an_empty_slot_is_no_low_quality_match():
    # Both anchors overlap the only object too little. A row of zeros would equal its own maximum, 0, with both of them,
    # and make them matches of the object.
    overlaps, valid = jnp.array([[0.45, 0.05, 0.6], [0, 0, 0]]), jnp.array([True, False])
    options = {"foreground_iou": 0.5, "background_iou": 0.3, "allow_low_quality": True}
    np.testing.assert_array_equal(ops.match_by_iou(overlaps, valid, **options), [ops.IGNORED, ops.BACKGROUND, 0])


def test_an_object_that_overlaps_no_anchor_never_gives_it_to_an_empty_slot():
    overlaps, valid = jnp.zeros((2, 3)), jnp.array([False, True])
    options = {"foreground_iou": 0.5, "background_iou": 0.3, "allow_low_quality": True}
    np.testing.assert_array_equal(ops.match_by_iou(overlaps, valid, **options), [1, 1, 1])


def test_matching_is_in_float32_under_bfloat16():
    some = scene(1)
    half = {name: jnp.asarray(some[name], jnp.bfloat16) for name in ("class_logits", "objectness")}
    matches, quality = run("simota", some | half, np.ones(6, bool))
    assert quality.dtype == jnp.float32
    assert int(jnp.sum(matches >= 0)) > 6


def test_matching_has_no_gradient():
    some = scene(1)

    def quality(predictions):
        return jnp.sum(ours("simota", some | {"predictions": predictions}, np.ones(6, bool))[1])

    np.testing.assert_array_equal(jax.grad(quality)(jnp.asarray(some["predictions"], jnp.float32)), 0)


def sampled(matches, count, fraction, key=None):
    indices, positive, valid = map(np.asarray, ops.sample_balanced(jnp.array(matches), count, fraction, key=key))
    assert indices.shape == positive.shape == valid.shape == (count,)
    assert not np.any(positive & ~valid)
    assert np.all(indices[~valid] == 0)
    return indices[positive].tolist(), indices[valid & ~positive].tolist()


@pytest.mark.parametrize(
    ("count", "fraction", "expected"),
    [
        # Anchors 1, 4, 5, 8 have an object; 0, 3, 6, 7 are background; 2 is ignored.
        (4, 0.5, ([1, 4], [0, 3])),
        (6, 0.5, ([1, 4, 5], [0, 3, 6])),
        (8, 0.25, ([1, 4], [0, 3, 6, 7])),
        (3, 0.0, ([], [0, 3, 6])),
        (5, 1.0, ([1, 4, 5, 8], [0])),
        (20, 0.5, ([1, 4, 5, 8], [0, 3, 6, 7])),
    ],
)
def test_samples_are_filled_up_with_background(count, fraction, expected):
    matches = [-1, 2, -2, -1, 0, 1, -1, -1, 0]
    assert sampled(matches, count, fraction) == expected
    positives, negatives = sampled(matches, count, fraction, jax.random.key(0))
    assert (len(positives), len(negatives)) == tuple(map(len, expected))
    assert set(positives) <= {1, 4, 5, 8}
    assert set(negatives) <= {0, 3, 6, 7}


def test_every_anchor_is_drawn_equally_often():
    matches = jnp.array([-1, 0, -2, -1, 0, -1, 0, 0])
    draw = jax.jit(jax.vmap(lambda key: ops.sample_balanced(matches, 4, 0.5, key=key)))
    sample = draw(jax.random.split(jax.random.key(1), 2000))
    counts = np.bincount(np.ravel(sample.indices), minlength=8) / 2000
    # Two of four anchors with an object, two of three of background; five standard deviations are 0.056.
    np.testing.assert_allclose(counts, [2 / 3, 1 / 2, 0, 2 / 3, 1 / 2, 2 / 3, 1 / 2, 1 / 2], atol=0.056)


BOX, VALID, CLASS = jnp.zeros((2, 4)), jnp.ones(2, bool), jnp.zeros(2, jnp.int32)
POINT, STRIDE, SCORE = jnp.zeros((3, 2)), jnp.ones(3), jnp.zeros((3, 4))
options = {"foreground_iou": 0.5, "background_iou": 0.3}
by_overlap = functools.partial(ops.match_by_iou, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: by_overlap(BOX[None], VALID), ValueError, r"expects overlaps \(objects, anchors\) of one image"),
        (lambda: by_overlap(CLASS[None], VALID), TypeError, "match_by_iou, overlaps, expects floating point values"),
        (lambda: by_overlap(BOX, VALID, background_iou=0.6), ValueError, "0 <= background_iou <= foreground_iou <= 1"),
        (lambda: ops.match_ssd(BOX, VALID[:1]), ValueError, r"valid of shape \(2,\), one for each slot"),
        (lambda: ops.match_ssd(BOX, CLASS), TypeError, "match_ssd expects valid of bool, got int32"),
        (lambda: ops.match_fcos(BOX[None], VALID, POINT, STRIDE), ValueError, r"points \(points, 2\) of one image"),
        (lambda: ops.match_fcos(BOX, VALID, POINT, STRIDE[:1]), ValueError, r"strides of shape \(3,\), one for"),
        (lambda: ops.match_atss(BOX, VALID, SCORE, (1, 1)), ValueError, r"sum to the 3 anchors, got \(1, 1\)"),
        (lambda: ops.match_atss(BOX, VALID, SCORE, (3,), candidates=0), ValueError, "candidates of at least 1, got 0"),
        (
            lambda: ops.match_simota(BOX, CLASS, VALID, SCORE[:2], SCORE, None, POINT, STRIDE),
            ValueError,
            r"expects predictions \(3, 4\) and scores of classes \(3, num_classes\), one for each point",
        ),
        (
            lambda: ops.match_simota(BOX, CLASS, VALID, SCORE, SCORE, SCORE, POINT, STRIDE),
            ValueError,
            r"objectness_logits of shape \(3,\), got \(3, 4\)",
        ),
        (
            lambda: ops.match_simota(BOX, CLASS, VALID, SCORE, SCORE, None, POINT, STRIDE, candidates=0),
            ValueError,
            "match_simota expects candidates of at least 1, got 0",
        ),
        (
            lambda: ops.match_task_aligned(BOX, CLASS[:1], VALID, SCORE, SCORE, POINT),
            ValueError,
            r"classes of shape \(2,\), one for each box, got \(1,\)",
        ),
        (
            lambda: ops.match_task_aligned(BOX, STRIDE[:2], VALID, SCORE, SCORE, POINT),
            TypeError,
            "match_task_aligned expects classes of integers, got float32",
        ),
        (
            lambda: ops.match_task_aligned(BOX, CLASS, VALID, SCORE, SCORE, POINT, candidates=0),
            ValueError,
            "match_task_aligned expects candidates of at least 1, got 0",
        ),
        (lambda: ops.sample_balanced(BOX, 3, 0.5, key=None), ValueError, r"matches \(anchors,\) of one image"),
        (lambda: ops.sample_balanced(CLASS, 0, 0.5, key=None), ValueError, "expects a count of at least 1, got 0"),
        (lambda: ops.sample_balanced(CLASS, 3, 50, key=None), ValueError, r"positive_fraction in \[0, 1\], got 50"),
    ],
)
def test_refuses_what_does_not_fit(call, error, message):
    with pytest.raises(error, match=message):
        call()
