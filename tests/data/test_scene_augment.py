"""Crops and changes of scale of images with objects."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxcnn.data import Step, parse_augment, random_iou_crop, scale_jitter, zoom_out
from jaxcnn.data.augment.scenes import _draw_iou_crop, _draw_scale_jitter, _draw_zoom_out
from jaxcnn.data.geometry import Viewport

HEIGHT, WIDTH = 40, 52
BOXES = np.array([[10, 8, 30, 22], [0, 20, 12, 40], [40, 3, 43, 36], [0, 0, 0, 0]], np.float32)
VALID = np.array([True, True, True, False])


def view(top_left, extent, size):
    return Viewport(jnp.array(top_left, jnp.float32), jnp.array(extent, jnp.float32), size)


@pytest.mark.parametrize(
    ("window", "size"),
    [
        ((0, 0, 40, 52), (40, 52)),
        ((3.25, 5.5, 21.5, 30.75), (17, 61)),
        ((0, 0, 40, 52), (9, 11)),
        ((20, 1, 7, 50), (30, 5)),
    ],
)
def test_a_view_of_the_image_is_that_of_pillow(window, size):
    image = np.random.default_rng(0).uniform(size=(HEIGHT, WIDTH)).astype(np.float32)
    top, left, high, wide = window
    box = (left, top, left + wide, top + high)
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR, box))
    found = jax.jit(lambda image: view((top, left), (high, wide), size).image(image, 9.0))(image[..., None])
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("start", "extent"), [((-10.5, -3), (60, 104)), ((15.25, 30), (40.0, 30.5)), ((-5, 60), (9, 9))]
)
def test_what_lies_beyond_the_image_is_filled_by_area(start, extent):
    size = (20, 24)
    covered = []
    for axis, length in enumerate((HEIGHT, WIDTH)):
        edges = start[axis] + np.arange(size[axis] + 1) * extent[axis] / size[axis]
        inside = np.clip(edges, 0, length)
        covered.append((inside[1:] - inside[:-1]) / (edges[1:] - edges[:-1]))
    share = np.outer(*covered)
    found = view(start, extent, size).image(jnp.full((HEIGHT, WIDTH, 1), 0.25), 1.0)[..., 0]
    np.testing.assert_allclose(found, 0.25 * share + 1.0 * (1 - share), atol=1e-4)


def test_masks_and_boxes_of_a_view_are_those_of_a_loop():
    mask = np.random.default_rng(0).integers(0, 9, (HEIGHT, WIDTH)).astype(np.int32)
    geometry = view((-4, 7.5), (30, 60), (12, 20))
    found = geometry.mask(jnp.asarray(mask), 77)
    for i in range(12):
        for j in range(20):
            row, column = int(np.floor(-4 + (i + 0.5) * 2.5)), int(np.floor(7.5 + (j + 0.5) * 3))
            expected = mask[row, column] if 0 <= row < HEIGHT and 0 <= column < WIDTH else 77
            assert found[i, j] == expected
    moved = geometry.boxes(jnp.asarray(BOXES), HEIGHT, WIDTH)
    expected = (BOXES - [7.5, -4, 7.5, -4]) / [3, 2.5, 3, 2.5]
    np.testing.assert_allclose(moved, expected, rtol=1e-6)


def windows(least, boxes=BOXES, valid=VALID, count=300, **options):
    """Returns windows that were drawn, as edges, shape (count, 4)."""
    draw = functools.partial(_draw_iou_crop, boxes=jnp.asarray(boxes), valid=jnp.asarray(valid), **options)
    keys = jax.random.split(jax.random.key(1), count)
    found = jax.jit(jax.vmap(lambda key: draw(key, HEIGHT, WIDTH, least_overlaps=least)[:2]))(keys)
    corner, extent = (np.asarray(array) for array in found)
    return np.concatenate([corner[:, ::-1], (corner + extent)[:, ::-1]], axis=1)


def overlap(one, other):
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = np.prod(np.maximum(sides, 0))
    return shared / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - shared)


@pytest.mark.parametrize("least", [0.0, 0.1, 0.3, 0.5])
def test_a_crop_overlaps_an_object_and_holds_its_centre(least):
    found = windows((least,))
    whole = (found == [0, 0, WIDTH, HEIGHT]).all(1)
    assert whole.mean() < 0.6
    for window in found[~whole]:
        assert max(overlap(window, box) for box in BOXES[:3]) >= least - 1e-6
        centres = (BOXES[:3, :2] + BOXES[:3, 2:]) / 2
        assert ((centres >= window[:2]) & (centres < window[2:])).all(1).any()
        wide, high = window[2:] - window[:2]
        assert 0.5 <= wide / high <= 2
        assert 0.3 * WIDTH - 1 <= wide <= WIDTH
        assert 0.3 * HEIGHT - 1 <= high <= HEIGHT
        assert (window >= 0).all()
        assert (window <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()


def test_an_overlap_of_one_keeps_the_image_and_one_out_of_reach_too():
    assert (windows((1.0,), count=20) == [0, 0, WIDTH, HEIGHT]).all()
    small = np.array([[3, 3, 5, 5]], np.float32)
    assert (windows((0.9,), small, np.array([True]), count=20) == [0, 0, WIDTH, HEIGHT]).all()


def test_images_without_objects_are_cropped_too():
    found = windows((0.5,), valid=np.zeros(4, bool))
    assert (found != [0, 0, WIDTH, HEIGHT]).any(1).mean() > 0.9


def test_empty_slots_do_not_change_a_crop():
    many = np.concatenate([BOXES, np.tile(np.array([0, 0, 26, 20], np.float32), (5, 1))])
    np.testing.assert_array_equal(windows((0.3, 0.0)), windows((0.3, 0.0), many, np.arange(9) < 3))


def test_a_crop_keeps_the_objects_whose_centre_is_in_it(key):
    example = {"image": jnp.zeros((HEIGHT, WIDTH, 1)), "boxes": jnp.asarray(BOXES), "valid": jnp.asarray(VALID)}

    def crop(key):
        draw = _draw_iou_crop(key, HEIGHT, WIDTH, boxes=example["boxes"], valid=example["valid"])
        return draw.top_left, draw.extent, Step(random_iou_crop)(key, example)["valid"]

    found = jax.jit(jax.vmap(crop))(jax.random.split(key, 50))
    centres = (BOXES[:, :2] + BOXES[:, 2:])[:, ::-1] / 2
    for corner, extent, valid in zip(*map(np.asarray, found), strict=True):
        inside = ((centres >= corner) & (centres < corner + extent)).all(1) & VALID
        np.testing.assert_array_equal(valid, inside)


def test_zooming_out_keeps_the_whole_image_in_the_canvas():
    keys = jax.random.split(jax.random.key(0), 200)
    corners, extents = jax.vmap(lambda key: _draw_zoom_out(key, HEIGHT, WIDTH, max_scale=3.0, probability=0.5)[:2])(
        keys
    )
    scales = np.asarray(extents) / [HEIGHT, WIDTH]
    np.testing.assert_allclose(scales[:, 0], scales[:, 1], rtol=1e-6)
    assert 0.3 < (scales == 1).all(1).mean() < 0.7
    assert scales.min() >= 1
    assert 2.8 < scales.max() <= 3
    assert (np.asarray(corners) <= 0).all()
    assert (np.asarray(corners + extents) >= np.array([HEIGHT, WIDTH]) - 1e-3).all()


def test_jittered_images_are_scaled_and_lie_at_the_top_left_or_are_cut():
    keys = jax.random.split(jax.random.key(0), 200)
    draw = functools.partial(_draw_scale_jitter, height=HEIGHT, width=WIDTH, size=(64, 64), scale=(0.2, 2.0))
    corners, extents = (np.asarray(array) for array in jax.vmap(lambda key: draw(key)[:2])(keys))
    factors = 64 / extents / (64 / 52)
    np.testing.assert_allclose(factors[:, 0], factors[:, 1], rtol=1e-6)
    assert 0.2 <= factors.min() < 0.3
    assert 1.8 < factors.max() <= 2
    for axis, length in enumerate((HEIGHT, WIDTH)):
        smaller = extents[:, axis] >= length
        assert (corners[smaller, axis] == 0).all()
        assert (corners[:, axis] + extents[:, axis] <= np.maximum(length, extents[:, axis]) + 1e-3).all()
        assert np.ptp(corners[~smaller, axis]) > 5


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize(
    "step",
    [
        Step(zoom_out, probability=0),
        Step(scale_jitter, scale=(1, 1)),
        Step(random_iou_crop, least_overlaps=(1.0,)),
    ],
    ids=repr,
)
def test_nothing_changes_without_a_change_of_scale(step, key):
    noise = np.random.default_rng(0).uniform(size=(HEIGHT, WIDTH, 3)).astype(np.float32)
    changed = step(key, {"image": noise, "boxes": BOXES, "valid": VALID})
    np.testing.assert_allclose(changed["image"], noise, atol=1e-6)
    np.testing.assert_allclose(changed["boxes"], BOXES, rtol=1e-6)
    np.testing.assert_array_equal(changed["valid"], VALID)


@pytest.mark.slow
@pytest.mark.heavy
def test_named_augmentations_change_scenes(key):
    image = jnp.full((HEIGHT, WIDTH, 3), 0.25)
    example = {"image": image, "boxes": BOXES, "valid": VALID, "classes": np.arange(4, dtype=np.int32)}
    for name in ("ssd", "large-scale-jitter"):
        augment = parse_augment(name)
        assert augment.reads == ()
        changed = jax.eval_shape(augment, key, example)
        assert {name: array.shape for name, array in changed.items()} == {
            name: array.shape for name, array in example.items()
        }
    with pytest.raises(ValueError, match=r"random_iou_crop expects an example with 'boxes', 'valid', got 'image'"):
        parse_augment("ssd")(key, {"image": image})


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (
            random_iou_crop,
            {"least_overlaps": (0.5, 2)},
            r"least_overlaps a tuple of numbers in \[0, 1\], got .0.5, 2",
        ),
        (random_iou_crop, {"least_overlaps": ()}, "least_overlaps a tuple of numbers"),
        (random_iou_crop, {"scale": (0, 1)}, "scale a pair of numbers .least, greatest. above 0 to 1"),
        (random_iou_crop, {"ratio": (2, 1)}, "ratio a pair of numbers"),
        (random_iou_crop, {"size": (0, 4)}, "random_iou_crop: size"),
        (zoom_out, {"max_scale": 0.5}, "zoom_out expects max_scale of at least 1, got 0.5"),
        (zoom_out, {"probability": 2}, r"zoom_out expects probability in \[0, 1\], got 2"),
        (scale_jitter, {"scale": (0, 1)}, "scale_jitter expects scale a pair of numbers"),
        (scale_jitter, {"size": -3}, "scale_jitter: size"),
    ],
)
def test_options_out_of_range_are_refused(function, options, message, key):
    example = {"image": jnp.zeros((HEIGHT, WIDTH, 3)), "boxes": BOXES, "valid": VALID}
    with pytest.raises(ValueError, match=message):
        Step(function, **options)(key, example)
