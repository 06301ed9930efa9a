import jax
import jax.numpy as jnp
import numpy as np
import pytest
from box_samples import boxes, iou_matrix

from jaxcnn import ops

KINDS = ["iou", "giou", "diou", "ciou"]
each_kind = pytest.mark.parametrize("kind", KINDS)


def as_floats(*rows):
    return jnp.array(rows, jnp.float32)


@pytest.mark.usefixtures("float64")
def test_pairwise_iou_equals_the_loop():
    these, others = boxes(0, 9), boxes(1, 30)
    expected = iou_matrix(these, others)
    assert np.sum(expected > 0) > 10
    np.testing.assert_allclose(ops.pairwise_iou(these, others), expected, rtol=1e-13)


def test_an_overlap_is_measured_on_continuous_edges():
    box = as_floats([0, 0, 2, 2])
    assert ops.box_area(box)[0] == 4
    np.testing.assert_allclose(ops.pairwise_iou(box, as_floats([1, 1, 3, 3], [2, 0, 4, 2]))[0], [1 / 7, 0])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Beside each other: the smallest box around both is 4 x 2, of which they leave out nothing.
        ("iou", 0.0),
        ("giou", 0.0),
        # Centres 2 apart, diagonal sqrt(20).
        ("diou", -4 / 20),
        ("ciou", -4 / 20),
    ],
)
def test_forms_of_two_squares_beside_each_other(kind, expected):
    overlap = ops.aligned_iou(as_floats([0, 0, 2, 2]), as_floats([2, 0, 4, 2]), kind=kind)
    np.testing.assert_allclose(overlap, [expected], rtol=1e-6)


def test_ciou_counts_the_difference_of_shapes():
    # Same centre, 4 x 1 and 1 x 4: the intersection is 1, the union 7, the centres coincide.
    flat, tall = as_floats([0, 1.5, 4, 2.5]), as_floats([1.5, 0, 2.5, 4])
    v = 4 / np.pi**2 * (np.arctan(4) - np.arctan(1 / 4)) ** 2
    expected = 1 / 7 - v / (1 - 1 / 7 + v) * v
    np.testing.assert_allclose(ops.aligned_iou(flat, tall, kind="ciou"), [expected], rtol=1e-6)


EMPTY = {
    "points": ([3, 3, 3, 3], [3, 3, 3, 3]),
    "zeros": ([0, 0, 0, 0], [0, 0, 0, 0]),
    "a point and a box": ([3, 3, 3, 3], [1, 1, 4, 5]),
    "a line and a box": ([3, 1, 3, 4], [1, 1, 4, 5]),
    "lines": ([3, 1, 3, 4], [3, 1, 3, 4]),
    "equal boxes": ([1, 1, 4, 5], [1, 1, 4, 5]),
    "inverted": ([4, 5, 1, 1], [1, 1, 4, 5]),
}


@each_kind
@pytest.mark.parametrize("pair", EMPTY)
def test_empty_and_equal_boxes_have_finite_overlaps_and_gradients(kind, pair):
    box, other = (jnp.array(box, jnp.float32) for box in EMPTY[pair])
    overlap, gradients = jax.value_and_grad(ops.aligned_iou, (0, 1))(box, other, kind=kind)
    assert np.all(np.isfinite([overlap, *np.ravel(gradients)])), (overlap, gradients)
    if pair == "equal boxes":
        assert overlap == 1
    elif kind == "iou":
        assert overlap == 0


@each_kind
def test_overlaps_are_symmetric_and_at_most_one(kind):
    these = boxes(2, 30, dtype=np.float32)
    overlap = np.asarray(ops.pairwise_iou(these, these, kind=kind))
    np.testing.assert_allclose(overlap, overlap.T, atol=1e-6)
    np.testing.assert_allclose(np.diag(overlap), 1, atol=1e-6)
    assert overlap.max() <= 1 + 1e-6
    assert overlap.min() > (0 if kind == "iou" else -2) - 1e-6


@pytest.mark.parametrize("source", ["xyxy", "xywh", "cxcywh"])
@pytest.mark.parametrize("target", ["xyxy", "xywh", "cxcywh"])
def test_convert_boxes_goes_there_and_back(source, target):
    formats = {"xyxy": [1, 2, 5, 10], "xywh": [1, 2, 4, 8], "cxcywh": [3, 6, 4, 8]}
    box = as_floats(formats[source])
    converted = ops.convert_boxes(box, source, target)
    np.testing.assert_array_equal(converted, [formats[target]])
    np.testing.assert_array_equal(ops.convert_boxes(converted, target, source), box)


def test_image_sizes_are_height_and_width():
    box = as_floats([10, 20, 300, 50])
    np.testing.assert_array_equal(ops.clip_boxes(box, (40, 200)), [[10, 20, 200, 40]])
    np.testing.assert_array_equal(ops.clip_boxes(-box, (40, 200)), [[0, 0, 0, 0]])
    np.testing.assert_array_equal(ops.normalize_boxes(box, (40, 200)), as_floats([0.05, 0.5, 1.5, 1.25]))
    np.testing.assert_allclose(ops.denormalize_boxes(ops.normalize_boxes(box, (40, 200)), (40, 200)), box)


def test_the_size_of_the_image_may_be_data():
    sizes = jnp.array([[40, 200], [30, 100]])
    clipped = jax.jit(jax.vmap(ops.clip_boxes, (None, 0)))(as_floats([10, 20, 300, 50]), sizes)
    np.testing.assert_array_equal(clipped, [[[10, 20, 200, 40]], [[10, 20, 100, 30]]])


CODECS = {
    "deltas": (
        lambda boxes, points, strides: ops.encode_deltas(boxes, ANCHORS, weights=(10, 10, 5, 5)),
        lambda codes, points, strides: ops.decode_deltas(codes, ANCHORS, weights=(10, 10, 5, 5)),
    ),
    "distances": (ops.encode_distances, ops.decode_distances),
    "yolox": (ops.encode_yolox, ops.decode_yolox),
}
ANCHORS = boxes(4, 12, dtype=np.float32)
POINTS = np.random.default_rng(0).uniform(0, 100, (12, 2)).astype(np.float32)
STRIDES = np.repeat(np.float32([8, 16, 32]), 4)


@pytest.mark.parametrize("codec", CODECS)
def test_decoding_inverts_encoding(codec):
    encode, decode = CODECS[codec]
    some = boxes(5, 12, dtype=np.float32)
    codes = encode(some, POINTS, STRIDES)
    assert not np.allclose(codes, some, atol=1)
    np.testing.assert_allclose(decode(codes, POINTS, STRIDES), some, rtol=1e-4, atol=1e-4)


def test_boxes_of_numpy_are_computed_in_float32():
    assert ops.pairwise_iou(np.zeros((1, 4)), np.zeros((2, 4), np.float16)).dtype == jnp.float32


@pytest.mark.parametrize("codec", CODECS)
def test_codes_of_bfloat16_give_boxes_of_float32(codec):
    encode, decode = CODECS[codec]
    codes = encode(boxes(5, 12, dtype=np.float32), POINTS, STRIDES).astype(jnp.bfloat16)
    decoded = decode(codes, POINTS, STRIDES)
    assert decoded.dtype == jnp.float32
    np.testing.assert_array_equal(decoded, decode(codes.astype(jnp.float32), POINTS, STRIDES))


def test_codecs_compute_golden_numbers():
    box, anchor = as_floats([10, 20, 30, 60]), as_floats([0, 0, 20, 10])
    deltas = ops.encode_deltas(box, anchor, weights=(10, 10, 5, 5))
    np.testing.assert_allclose(deltas, as_floats([10 * 10 / 20, 10 * 35 / 10, 0, 5 * np.log(4)]), rtol=1e-6)
    distances = ops.encode_distances(box, as_floats([12, 32]), 8.0)
    np.testing.assert_array_equal(distances, as_floats([2 / 8, 12 / 8, 18 / 8, 28 / 8]))
    cells = ops.encode_yolox(box, as_floats([16, 32]), 8.0)
    np.testing.assert_allclose(cells, as_floats([4 / 8, 8 / 8, np.log(20 / 8), np.log(40 / 8)]), rtol=1e-6)


def test_sizes_are_limited_before_the_exponential():
    decoded = ops.decode_deltas(as_floats([0, 0, 300, 2]), as_floats([0, 0, 16, 16]))
    width, height = np.asarray(decoded[0, 2:] - decoded[0, :2])
    np.testing.assert_allclose([width, height], [1000, 16 * np.exp(2)], rtol=1e-5)


def test_padding_encodes_to_finite_numbers():
    zeros, anchor = jnp.zeros((1, 4)), as_floats([0, 0, 8, 4])
    for codes in (
        ops.encode_deltas(zeros, anchor),
        ops.encode_deltas(anchor, zeros),
        ops.encode_distances(zeros, as_floats([3, 4])),
        ops.encode_yolox(zeros, as_floats([3, 4]), 8.0),
    ):
        assert np.all(np.isfinite(codes))
    gradient = jax.grad(lambda boxes: jnp.sum(ops.encode_deltas(boxes, anchor)))(zeros)
    assert np.all(np.isfinite(gradient))


def test_classes_share_the_anchor():
    deltas = jnp.asarray(np.random.default_rng(0).normal(size=(12, 3, 4)), jnp.float32)
    together = ops.decode_deltas(deltas, ANCHORS[:, None])
    for c in range(3):
        np.testing.assert_array_equal(together[:, c], ops.decode_deltas(deltas[:, c], ANCHORS))


def test_vmap_equals_a_loop_and_jit_equals_eager():
    batch = jnp.stack([boxes(seed, 6, dtype=np.float32) for seed in range(3)])

    def everything(some):
        return (
            ops.pairwise_iou(some, ANCHORS, kind="ciou"),
            ops.decode_deltas(ops.encode_deltas(some, ANCHORS[:6]), ANCHORS[:6]),
            ops.clip_boxes(some, (50, 60)),
        )

    joint = jax.jit(jax.vmap(everything))(batch)
    for i, some in enumerate(batch):
        jax.tree.map(
            lambda all_of, one: np.testing.assert_allclose(all_of, one, rtol=1e-5, atol=1e-6),
            jax.tree.map(lambda array, i=i: array[i], joint),
            everything(some),
        )


BOX, INTEGERS = jnp.zeros((2, 4)), jnp.zeros((2, 4), jnp.int32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.box_area(BOX[:, :2]), ValueError, r"box_area expects boxes of shape \(..., 4\), got \(2, 2\)"),
        (lambda: ops.box_area(INTEGERS), TypeError, "expects boxes of floating point, got int32; cast them to float32"),
        (lambda: ops.box_area([[0, 0, 1, 1]]), TypeError, "box_area, boxes, expects an array, got a list"),
        (lambda: ops.pairwise_iou(BOX[0], BOX), ValueError, r"expects boxes \(n, 4\) and others \(m, 4\) of one image"),
        (lambda: ops.pairwise_iou(BOX[None], BOX), ValueError, "map it over a batch with jax.vmap"),
        (lambda: ops.pairwise_iou(BOX, BOX, kind="IoU"), ValueError, "expects a kind among iou, giou, diou, ciou, got"),
        (
            lambda: ops.aligned_iou(BOX, jnp.zeros((3, 4))),
            ValueError,
            r"shapes that can be broadcast, but for the last axis, got \(2,\) of boxes and \(3,\) of others",
        ),
        (lambda: ops.decode_distances(BOX, BOX[:1, :2], jnp.ones(3)), ValueError, r"and \(3,\) of strides"),
        (lambda: ops.aligned_iou(BOX, BOX, epsilon=-1), ValueError, "finite epsilon of at least 0, got -1"),
        (lambda: ops.convert_boxes(BOX, "xyxy", "yxyx"), ValueError, "formats among xyxy, xywh, cxcywh, got 'yx"),
        (lambda: ops.clip_boxes(BOX, 32), ValueError, r"clip_boxes expects an image_size \(height, width\), got 32"),
        (lambda: ops.normalize_boxes(BOX, (1, 2, 3)), ValueError, r"image_size \(height, width\), got \(1, 2, 3\)"),
        (lambda: ops.encode_deltas(BOX, BOX, weights=(1, 1)), ValueError, "four weights, for dx, dy, dw and dh"),
        (lambda: ops.encode_distances(BOX, BOX), ValueError, r"expects points of shape \(..., 2\), got \(2, 4\)"),
        (lambda: ops.decode_yolox(BOX, BOX, 8.0), ValueError, r"expects corners of shape \(..., 2\), got \(2, 4\)"),
    ],
)
def test_refuses_what_is_no_box(call, error, message):
    with pytest.raises(error, match=message):
        call()
