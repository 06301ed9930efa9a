"""Boxes, anchors, matching and losses are torchvision's, values and gradients, in float64."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from box_samples import boxes
from torchvision_peer import torch, torchvision

from jaxcnn import ops, tasks

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


def overlaps_with_ties(seed):
    """Overlaps of 7 objects with 60 anchors; many are equal, an object has several best anchors, one has none."""
    overlaps = np.round(np.random.default_rng(seed).uniform(0, 0.9, (7, 60)) ** 2, 1)
    overlaps[6] = 0
    return overlaps


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("low_quality", [False, True])
def test_match_by_iou(seed, low_quality):
    overlaps = overlaps_with_ties(seed)
    expected = detection.Matcher(0.5, 0.3, low_quality)(tensor(overlaps)).numpy()
    matches = ops.match_by_iou(
        overlaps, np.ones(7, bool), foreground_iou=0.5, background_iou=0.3, allow_low_quality=low_quality
    )
    np.testing.assert_array_equal(matches, expected)


@pytest.mark.parametrize("seed", range(5))
def test_match_ssd(seed):
    overlaps = overlaps_with_ties(seed)
    overlaps[5] = overlaps[4]
    expected = detection.SSDMatcher(0.5)(tensor(overlaps)).numpy()
    np.testing.assert_array_equal(ops.match_ssd(overlaps, np.ones(7, bool)), expected)


IMAGE_SIZES = [(64, 64), (100, 75), (97, 131), (800, 1333), (33, 200)]


def images_and_maps(size, strides):
    maps = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in strides]
    image_list = torchvision.models.detection.image_list.ImageList(torch.zeros(1, 3, *size), [size])
    return image_list, [torch.zeros(1, 1, *one) for one in maps], maps


@pytest.mark.parametrize("size", IMAGE_SIZES, ids=str)
def test_anchor_boxes(size):
    images, maps, map_sizes = images_and_maps(size, (8, 16, 32, 64, 128))
    sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
    generator = torchvision.models.detection.anchor_utils.AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    ours = ops.anchor_boxes(size, map_sizes, sizes, (0.5, 1.0, 2.0))
    np.testing.assert_array_equal(np.concatenate(ours), generator(images, maps)[0].numpy())


@pytest.mark.parametrize("size", IMAGE_SIZES, ids=str)
@pytest.mark.parametrize("steps", [None, (8, 16, 32, 64, 100, 300)])
def test_default_boxes(size, steps):
    images, maps, map_sizes = images_and_maps(size, (8, 16, 32, 64, 100, 300))
    ratios, scales = [[2], [2, 3], [2, 3], [2, 3], [2], [2]], [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
    generators = torchvision.models.detection.anchor_utils.DefaultBoxGenerator
    for clip in (False, True):
        expected = generators(ratios, scales=scales, steps=steps, clip=clip)(images, maps)[0].numpy()
        ours = ops.default_boxes(size, map_sizes, ratios, scales=scales, steps=steps, clip=clip)
        np.testing.assert_array_equal(np.concatenate(ours), expected)
    spaced = generators(ratios, min_ratio=0.2, max_ratio=0.95).scales
    np.testing.assert_array_equal(ops.default_scales(6, 0.2, 0.95), spaced)


@pytest.mark.parametrize("seed", range(4))
def test_match_fcos(seed):
    """The rule is inside of the loss of torchvision's model, which hands the matches to its head."""
    size, strides = (100, 133), (8, 16, 32, 64, 128)
    images, maps, map_sizes = images_and_maps(size, strides)
    generator = torchvision.models.detection.anchor_utils.AnchorGenerator(tuple((s,) for s in strides), ((1.0,),) * 5)
    anchors = [a.double() for a in generator(images, maps)]
    objects = boxes(seed, 15, largest=90)
    seen = []

    class Head:
        def compute_loss(self, targets, outputs, anchors, matches):
            seen.extend(matches)

    class Model:
        center_sampling_radius, head = 1.5, Head()

    counts = [h * w for h, w in map_sizes]
    fcos = torchvision.models.detection.fcos.FCOS
    fcos.compute_loss(Model(), [{"boxes": tensor(objects)}], {}, anchors, counts)
    grid = ops.grid_points(map_sizes, strides, image_size=size)
    matches = ops.match_fcos(objects, np.ones(15, bool), grid.points, grid.strides)
    np.testing.assert_array_equal(matches, seen[0].numpy())
    assert len(set(seen[0].tolist())) > 6


@pytest.fixture
def plain_roi_align(monkeypatch):
    """torchvision's RoIAlign in Python, as it is: its operators want CUDA, and `torch.compile` takes long.

    It clamps samples off the map, which the operators take for 0: the boxes here are inside of the image.
    """
    module = importlib.import_module("torchvision.ops.roi_align")
    monkeypatch.setattr(module, "_roi_align", getattr(module._roi_align, "__wrapped__", module._roi_align))


def boxes_inside(seed, count, height, width):
    rng = np.random.default_rng(seed)
    first = rng.uniform(0, 0.7, (count, 2))
    corners = np.concatenate([first, first + rng.uniform(0.02, 0.3, (count, 2))], axis=1)
    return corners * [width, height, width, height]


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [1, 2, None])
@pytest.mark.usefixtures("plain_roi_align")
def test_roi_align(ratio, aligned):
    image, some = np.random.default_rng(0).normal(size=(13, 17, 3)), boxes_inside(0, 9, 52, 68)

    def reference(x):
        y = tv.roi_align(x.permute(2, 0, 1)[None], [tensor(some)], (3, 2), 0.25, ratio or -1, aligned)
        return y.permute(0, 2, 3, 1)

    options = {"spatial_scale": 0.25, "sampling_ratio": ratio, "aligned": aligned}
    assert_same(lambda x: ops.roi_align(x, some, (3, 2), **options), reference, image)


@pytest.mark.usefixtures("plain_roi_align")
def test_pyramid_roi_align():
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(256 >> level, 320 >> level, 3)) for level in (2, 3, 4, 5)]
    some = boxes_inside(1, 40, 256, 320)
    pooler = tv.MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2, canonical_scale=64, canonical_level=4)
    named = {str(i): tensor(one).permute(2, 0, 1)[None] for i, one in enumerate(maps)}
    expected = pooler(named, [tensor(some)], [(256, 320)]).permute(0, 2, 3, 1).numpy()
    ours = ops.pyramid_roi_align(maps, some, 7, spatial_scales=(1 / 4, 1 / 8, 1 / 16, 1 / 32), canonical_size=64.0)
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 1 / 9, 1.0])
def test_smooth_l1_loss(beta):
    codes, targets = np.random.default_rng(0).normal(size=(2, 30, 4))

    def reference(a, b):
        return torch.nn.functional.smooth_l1_loss(a, b, reduction="none", beta=beta).sum(-1)

    assert_same(lambda a, b: tasks.smooth_l1_loss(a, b, beta=beta), reference, codes, targets)


@pytest.mark.parametrize("kind", LOSSES)
def test_iou_loss(kind):
    assert_same(lambda a, b: tasks.iou_loss(a, b, kind=kind), LOSSES[kind], *pairs())


def test_the_focal_loss_of_optax():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(20, 7)) * 5, rng.integers(2, size=(20, 7)).astype(float)
    assert_same(
        lambda x: optax.sigmoid_focal_loss(x, jnp.asarray(labels), alpha=0.25, gamma=2.0),
        lambda x: tv.sigmoid_focal_loss(x, tensor(labels), alpha=0.25, gamma=2.0),
        logits,
    )


def test_hard_negatives():
    """torchvision's rule, from the loss of its SSD, which has no function of its own for it."""
    rng = np.random.default_rng(0)
    losses, positive = tensor(rng.exponential(size=(4, 50))), tensor(rng.uniform(size=(4, 50)) < 0.1)
    negative_loss = losses.clone()
    negative_loss[positive] = -float("inf")
    _, order = negative_loss.sort(1, descending=True)
    expected = order.sort(1)[1] < 3 * positive.sum(1, keepdim=True)
    chosen = jax.vmap(tasks.hard_negatives)(jnp.asarray(losses.numpy()), jnp.asarray(positive.numpy()))
    np.testing.assert_array_equal(chosen, expected.numpy())
