"""Boxes, anchors, matching and losses are torchvision's, values and gradients, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from box_samples import boxes
from torchvision_peer import torch, torchvision

from jaxcnn import ops

detection = pytest.importorskip("torchvision.models.detection._utils")
tv = torchvision.ops
pytestmark = pytest.mark.usefixtures("float64")

KINDS = {
    "iou": tv.box_iou,
    "giou": tv.generalized_box_iou,
    "diou": lambda a, b: tv.distance_box_iou(a, b, eps=0),
    # Without an epsilon, equal boxes give NaN there.
    "ciou": lambda a, b: tv.complete_box_iou(a, b, eps=1e-14),
}


def tensor(array):
    return torch.from_numpy(np.array(array))


def gradients(function, *arrays):
    """Returns the value of a torch function, and the gradients of its sum weighted by 1, 2, 3, ..."""
    tensors = [tensor(array).requires_grad_() for array in arrays]
    value = function(*tensors)
    weights = torch.arange(1, value.numel() + 1, dtype=torch.float64).reshape(value.shape)
    (value * weights).sum().backward()
    return value.detach().numpy(), [t.grad.numpy() for t in tensors]


def assert_same(function, reference, *arrays, atol=1e-12):
    expected, slopes = gradients(reference, *arrays)

    def weighted(*arrays):
        value = function(*arrays)
        return jnp.sum(value * jnp.arange(1, value.size + 1, dtype=value.dtype).reshape(value.shape)), value

    argnums = tuple(range(len(arrays)))
    ours, value = jax.jit(jax.grad(weighted, argnums, has_aux=True))(*(jnp.asarray(array) for array in arrays))
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=atol)
    for slope, ref in zip(ours, slopes, strict=True):
        np.testing.assert_allclose(slope, ref, rtol=1e-10, atol=1e-10)


def pairs():
    """Boxes and others: overlapping, apart, one in the other, and equal."""
    these, others = boxes(0, 40), boxes(1, 40)
    others[:5] = these[:5]
    others[5:15] = these[5:15] + np.array([1, 1, -0.1, -0.1]) * np.random.default_rng(0).uniform(0, 1, (10, 1))
    return these, others


@pytest.mark.parametrize("kind", KINDS)
def test_pairwise_iou(kind):
    these, others = pairs()
    assert_same(lambda a, b: ops.pairwise_iou(a, b, kind=kind), KINDS[kind], these[:12], others)


LOSSES = {
    "giou": tv.generalized_box_iou_loss,
    "diou": tv.distance_box_iou_loss,
    "ciou": tv.complete_box_iou_loss,
}


@pytest.mark.parametrize("kind", LOSSES)
def test_aligned_iou(kind):
    assert_same(lambda a, b: 1 - ops.aligned_iou(a, b, kind=kind, epsilon=1e-7), LOSSES[kind], *pairs())


def test_areas_and_clipping():
    these, _ = pairs()
    assert_same(ops.box_area, tv.box_area, these)
    expected = tv.clip_boxes_to_image(tensor(these), (50, 70)).numpy()
    np.testing.assert_array_equal(ops.clip_boxes(these, (50, 70)), expected)


@pytest.mark.parametrize("source", ["xyxy", "xywh", "cxcywh"])
@pytest.mark.parametrize("target", ["xyxy", "xywh", "cxcywh"])
def test_convert_boxes(source, target):
    some = tv.box_convert(tensor(boxes(3, 10)), "xyxy", source)
    expected = tv.box_convert(some, source, target).numpy()
    np.testing.assert_allclose(ops.convert_boxes(some.numpy(), source, target), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_deltas(weights):
    these, anchors = pairs()
    coder = detection.BoxCoder(weights)
    assert_same(lambda a, b: ops.encode_deltas(a, b, weights=weights), coder.encode_single, these, anchors)
    deltas = np.random.default_rng(0).normal(size=(40, 4)) * 3
    deltas[:3, 2:] = 40
    assert_same(lambda a, b: ops.decode_deltas(a, b, weights=weights), coder.decode_single, deltas, anchors, atol=1e-9)


def test_distances():
    these, _ = pairs()
    rng = np.random.default_rng(0)
    points, strides = rng.uniform(0, 100, (40, 2)), rng.choice([8.0, 16.0], 40)
    anchors = np.concatenate([points - strides[:, None] / 2, points + strides[:, None] / 2], axis=1)
    coder = detection.BoxLinearCoder(normalize_by_size=True)
    assert_same(lambda a: ops.encode_distances(a, points, strides), lambda a: coder.encode(tensor(anchors), a), these)
    distances = rng.uniform(0, 4, (40, 4))
    assert_same(
        lambda a: ops.decode_distances(a, points, strides), lambda a: coder.decode(a, tensor(anchors)), distances
    )
