"""Augmentations against torchvision's transforms v2, for images of floating point and of 8 bits."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_sample_images
from torchvision_peer import torch, torchvision

from jaxcnn import ops
from jaxcnn.data import crop_views
from jaxcnn.data.augment import operations
from jaxcnn.data.augment.policies import OPERATIONS, Operation, _magnitudes
from jaxcnn.data.augment.spatial import (
    _affine_coordinates,
    _draw_perspective,
    _draw_resized_crop,
    about,
    perspective_matrix,
)
from jaxcnn.data.geometry import ResizedWindow, projective

v2 = importlib.import_module("torchvision.transforms.v2")  # after torchvision_peer, which makes it importable
F = v2.functional
tv_tensors = torchvision.tv_tensors
LEVELS = load_sample_images().images[1][150:190, 280:333]
IMAGE = jnp.asarray(LEVELS / 255, jnp.float32)
BOXES = np.array([[5, 3, 20, 30], [0, 0, 53, 40], [30, 10, 41, 22]], np.float32)


def to_torch(image):
    return torch.from_numpy(np.moveaxis(np.array(image), -1, 0).copy())


def from_torch(image):
    return np.moveaxis(image.numpy(), 0, -1)


def boxes_of(boxes, shape=LEVELS.shape[:2]):
    return tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=shape)


COLOURS = {
    "grey": (lambda x: np.repeat(operations.grey(x), 3, 2), lambda x: F.rgb_to_grayscale(x, 3)),
    "invert": (lambda x: 1 - x, F.invert),
    "autocontrast": (operations.autocontrasted, F.autocontrast),
    "smooth": (operations.smoothed, lambda x: F.adjust_sharpness(x, 0.0)),
    "blur": (
        lambda x: operations.blurred(x, 9, jnp.float32(1.7)),
        lambda x: F.gaussian_blur(x, [9, 9], [1.7, 1.7]),
    ),
}
for factor in (0.0, 0.4, 1.0, 1.9):
    COLOURS |= {
        f"brightness {factor}": (
            lambda x, f=factor: operations.blended(x, jnp.zeros_like(x), jnp.float32(f - 1)),
            lambda x, f=factor: F.adjust_brightness(x, f),
        ),
        f"contrast {factor}": (
            lambda x, f=factor: operations.blended(x, jnp.mean(operations.grey(x)), jnp.float32(f - 1)),
            lambda x, f=factor: F.adjust_contrast(x, f),
        ),
        f"saturation {factor}": (
            lambda x, f=factor: operations.blended(x, operations.grey(x), jnp.float32(f - 1)),
            lambda x, f=factor: F.adjust_saturation(x, f),
        ),
        f"sharpness {factor}": (
            lambda x, f=factor: operations.sharpened(x, jnp.float32(f - 1)),
            lambda x, f=factor: F.adjust_sharpness(x, f),
        ),
    }
for shift in (-0.5, -0.13, 0.0, 0.21):
    COLOURS[f"hue {shift}"] = (
        lambda x, s=shift: operations.hue_shifted(x, jnp.float32(s)),
        lambda x, s=shift: F.adjust_hue(x, s),
    )


@pytest.mark.parametrize("name", COLOURS)
def test_changes_of_colour(name):
    ours, theirs = COLOURS[name]
    changed = np.asarray(ours(IMAGE))
    np.testing.assert_allclose(changed, from_torch(theirs(to_torch(IMAGE))), atol=3e-6)
    # uint8 is cut off to whole levels, and so is the image about which another is stretched.
    levels = from_torch(theirs(to_torch(LEVELS))).astype(int)
    assert np.abs(255 * changed - levels).max() <= (1.95 if " " in name else 1.01)


@pytest.mark.parametrize("bits", range(9))
def test_posterize_is_that_of_levels(bits):
    changed = np.asarray(operations.posterized(IMAGE, bits))
    np.testing.assert_array_equal(np.round(255 * changed), from_torch(F.posterize(to_torch(LEVELS), bits)))
    # For floating point torchvision has steps of 1 / 2**bits.
    np.testing.assert_allclose(changed, from_torch(F.posterize(to_torch(IMAGE), bits)), atol=1.001 / 255)


@pytest.mark.parametrize("threshold", [0, 77, 128, 255])
def test_solarize(threshold):
    changed = operations.solarized(IMAGE, threshold / 255)
    np.testing.assert_allclose(255 * changed, from_torch(F.solarize(to_torch(LEVELS), threshold)), atol=1e-4)


def test_equalize_is_that_of_levels():
    for levels in (LEVELS, LEVELS // 5 + 60, LEVELS[:9, :9], np.full_like(LEVELS, 3)):
        changed = operations.equalized(jnp.asarray(levels / 255, jnp.float32))
        expected = from_torch(F.equalize(to_torch(levels)))
        np.testing.assert_array_equal(np.round(255 * np.asarray(changed)), expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "window", [(0, 0, 40, 53), (3, 5, 30, 20), (11, 40, 5, 7), (39, 52, 1, 1), (0, 0, 1, 53)], ids=str
)
@pytest.mark.parametrize("size", [(24, 24), (40, 53), (7, 90)], ids=str)
def test_resized_crops(window, size, interpolation):
    top, left, height, width = window
    geometry = ResizedWindow(jnp.array([top, left]), jnp.array([height, width]), size, interpolation)
    mode = v2.InterpolationMode(interpolation)
    expected = F.resized_crop(to_torch(IMAGE), *window, size, interpolation=mode, antialias=True)
    np.testing.assert_allclose(geometry.image(IMAGE, 0), from_torch(expected), atol=5e-6)
    mask = np.arange(40 * 53).reshape(40, 53)
    nearest = F.resize(
        torch.from_numpy(mask[None, top : top + height, left : left + width]),
        size,
        interpolation=v2.InterpolationMode.NEAREST_EXACT,
    )
    np.testing.assert_array_equal(geometry.mask(jnp.asarray(mask), 0), nearest[0])
    boxes = F.clamp_bounding_boxes(F.resized_crop(boxes_of(BOXES), *window, size))
    ours = ops.clip_boxes(geometry.boxes(jnp.asarray(BOXES), 40, 53), size)
    np.testing.assert_allclose(ours, boxes, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "ratio"),
    [((64, 64), (3 / 4, 4 / 3)), ((64, 64), (1.2, 2.5)), ((40, 90), (0.5, 0.8)), ((200, 31), (1, 2))],
)
def test_windows_of_resized_crops_have_torchvisions_distribution(shape, ratio):
    transform = v2.RandomResizedCrop(8, ratio=ratio)
    torch.manual_seed(0)
    drawn = [transform.make_params([torch.zeros(3, *shape)]) for _ in range(1500)]
    theirs = np.array([[one[name] for name in ("top", "left", "height", "width")] for one in drawn], float)
    keys = jax.random.split(jax.random.key(0), 4000)

    def window(key):
        geometry = _draw_resized_crop(key, *shape, ratio=ratio)
        return jnp.concatenate([geometry.top_left, geometry.extent])

    ours = np.asarray(jax.jit(jax.vmap(window))(keys), float)
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 2:] >= 1).all()
    assert (ours[:, :2] + ours[:, 2:] <= shape).all()
    for place in range(4):
        for share in (0.1, 0.25, 0.5, 0.75, 0.9):
            one, other = np.quantile(ours[:, place], share), np.quantile(theirs[:, place], share)
            assert abs(one - other) <= 0.06 * max(shape), (place, share)
    assert abs(ours[:, 2:].prod(1).mean() / theirs[:, 2:].prod(1).mean() - 1) < 0.06


def test_boxes_and_image_of_an_affine_map():
    degrees, scale, shear, shift = 25.0, 1.2, 12.0, (3.0, -4.0)
    ours = _affine_coordinates(
        40,
        53,
        degrees=jnp.float32(degrees),
        scale=jnp.float32(scale),
        shear=jnp.float32(shear),
        shift=jnp.array(shift, jnp.float32),
    )
    # torchvision turns clockwise, and has x before y; its shear to the other side.
    options = {"angle": -degrees, "translate": [shift[1], shift[0]], "scale": scale, "shear": [-shear, 0.0]}
    image = F.affine(to_torch(IMAGE), **options, interpolation=v2.InterpolationMode.BILINEAR)
    np.testing.assert_allclose(ours.image(IMAGE, 0.0), from_torch(image), atol=2e-4)
    boxes = F.affine(boxes_of(BOXES), **options)
    np.testing.assert_allclose(ops.clip_boxes(ours.boxes(jnp.asarray(BOXES), 40, 53), (40, 53)), boxes, atol=1e-3)


def test_perspective():
    corners = [[4, 2], [47, 5], [50, 33], [3, 38]]  # (x, y)
    start = [[0, 0], [52, 0], [52, 39], [0, 39]]
    matrix = perspective_matrix(jnp.asarray(np.array(corners)[:, ::-1], jnp.float32), 40, 53)
    ours = projective(matrix, 40, 53)
    # Not with a fill of its own, into which torchvision fades the border twice.
    expected = F.perspective(to_torch(IMAGE), start, corners, interpolation=v2.InterpolationMode.BILINEAR)
    np.testing.assert_allclose(ours.image(IMAGE, 0.0), from_torch(expected), atol=1e-3)
    boxes = F.perspective(boxes_of(BOXES), start, corners)
    np.testing.assert_allclose(ops.clip_boxes(ours.boxes(jnp.asarray(BOXES), 40, 53), (40, 53)), boxes, atol=1e-2)


def test_perspective_draws_torchvisions_corners():
    """The corners move inward by uniform whole numbers, up to the same bounds: the mean of each place agrees."""
    keys = jax.random.split(jax.random.key(0), 2000)
    whole = jnp.array([[0.0, 0.0, 52.0, 39.0]])

    def box(key):
        return _draw_perspective(key, 40, 53, probability=1.0).boxes(whole, 40, 53)[0]

    ours = np.asarray(jax.jit(jax.vmap(box))(keys))
    torch.manual_seed(0)
    rows = []
    for _ in range(800):
        bound_height, bound_width = int(0.5 * 20) + 1, int(0.5 * 26) + 1
        x0, x3 = torch.randint(0, bound_width, (2,)).tolist()
        x1, x2 = torch.randint(53 - bound_width, 53, (2,)).tolist()
        y0, y1 = torch.randint(0, bound_height, (2,)).tolist()
        y2, y3 = torch.randint(40 - bound_height, 40, (2,)).tolist()
        rows.append([min(x0, x3), min(y0, y1), max(x1, x2), max(y2, y3)])
    np.testing.assert_allclose(ours.mean(0), np.mean(rows, axis=0), atol=0.6)
    np.testing.assert_allclose(ours.std(0), np.std(rows, axis=0), atol=0.5)


@pytest.fixture(scope="module")
def change():
    @jax.jit
    def nearest(kind, magnitude, image):
        operation = Operation(kind, magnitude)
        return operation.recolour(operation.geometry(*image.shape[:2], "nearest").image(image, 0.0))

    @jax.jit
    def bilinear(kind, magnitude, image):
        operation = Operation(kind, magnitude)
        return operation.recolour(operation.geometry(*image.shape[:2], "bilinear").image(image, 0.0))

    return {"nearest": nearest, "bilinear": bilinear}


POLICIES = {
    "RandAugment": (v2.RandAugment(), 31, (31, 0.3, 150 / 331 * 53, 150 / 331 * 40, 30, 0.9, (8, 4))),
    "TrivialAugmentWide": (v2.TrivialAugmentWide(), 31, (31, 0.99, 32, 32, 135, 0.99, (8, 6))),
    "AugMix": (v2.AugMix(), 10, (10, 0.3, 53 / 3, 40 / 3, 30, 0.9, (4, 4))),
}


@pytest.mark.parametrize("policy", POLICIES)
def test_magnitudes_of_policies(policy):
    transform, bins, options = POLICIES[policy]
    ours = _magnitudes(*options)
    ids = [name.replace("_", "").lower() for name in OPERATIONS]
    for name, (magnitudes, signed) in transform._AUGMENTATION_SPACE.items():
        place = ids.index(name.lower())
        theirs = magnitudes(bins, 40, 53)
        assert signed == (1 <= place < 10)
        if theirs is not None:
            np.testing.assert_allclose(ours[place], theirs, rtol=1e-5, atol=1e-6)
    left_out = {"identity"} if policy == "AugMix" else set()
    assert {name.lower() for name in transform._AUGMENTATION_SPACE} == set(ids) - left_out


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_of_policies(name, interpolation, change):
    transform = POLICIES["TrivialAugmentWide"][0]
    table = _magnitudes(*POLICIES["TrivialAugmentWide"][2])
    theirs = {one.lower(): one for one in transform._AUGMENTATION_SPACE}[name.replace("_", "")]
    kind = OPERATIONS.index(name)
    for column in (0, 11, 30):
        for sign in (1, -1) if 1 <= kind < 10 else (1,):
            magnitude = sign * float(table[kind, column])
            changed = np.asarray(change[interpolation](jnp.int32(kind), jnp.float32(magnitude), IMAGE))
            expected = transform._apply_image_or_video_transform(
                to_torch(LEVELS),
                theirs,
                magnitude,
                interpolation=v2.InterpolationMode(interpolation),
                fill=transform._fill,
            )
            difference = np.abs(255 * changed - from_torch(expected))
            # The nearest of two pixels at the same distance depends on rounding.
            assert np.mean(difference > 1.95) < 0.004, (column, sign)
            assert np.median(difference) <= 1


def test_crops_for_prediction():
    expected = F.five_crop(to_torch(IMAGE), [21, 30])
    np.testing.assert_array_equal(crop_views(IMAGE, (21, 30)), [from_torch(one) for one in expected])


def test_a_map_about_a_centre_is_the_affine_map_of_torchvision():
    linear = jnp.array([[0.9, 0.2], [-0.3, 1.1]], jnp.float32)
    matrix = np.asarray(about(linear, jnp.array([20.0, 26.5]), jnp.array([2.0, 3.0])))
    np.testing.assert_allclose(matrix @ [22, 29.5, 1], [20, 26.5, 1], atol=1e-5)
