"""Boxes move along with their image, without a library to compare with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.data import (
    Composition,
    Step,
    affine,
    alternating_flip,
    brightness,
    compose,
    elastic,
    flip,
    perspective,
    random_crop,
    random_resized_crop,
    rotate,
    shift,
)
from jaxcnn.data.augment.spatial import perspective_matrix
from jaxcnn.data.geometry import projective

HEIGHT, WIDTH = 40, 52
# Inside, at two borders, a thin one, and padding.
BOXES = np.array([[10, 8, 30, 22], [0, 20, 12, 40], [40, 3, 43, 36], [0, 0, 0, 0]], np.float32)
VALID = np.array([True, True, True, False])

STEPS = [
    Step(shift, max_shift=20),
    Step(random_crop, padding=20),
    Step(random_crop, padding=20, border="edge"),
    Step(flip),
    Step(flip, axis="vertical"),
    Step(affine, max_degrees=40, max_scale=0.3, max_shear=20, max_shift=3),
    Step(rotate, max_degrees=180),
    Step(perspective, probability=1),
    Step(elastic, alpha=20, sigma=4),
    Step(random_resized_crop),
    Step(random_resized_crop, size=(30, 64)),
    Step(brightness, max_delta=0.1),
    compose(Step(flip), Step(rotate, max_degrees=20), Step(shift, max_shift=9)),
]


def keeping(step):
    """Returns the step that keeps a box as long as any of it is in the image."""
    return step if step.function is brightness else Step(step.function, **dict(step.options), least_visible=0)


def drawn(step, count=30):
    """Draws examples whose image has a channel for each box, which is one inside of it."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    inside = [(columns >= x0) & (columns < x1) & (rows >= y0) & (rows < y1) for x0, y0, x1, y1 in BOXES]
    example = {"image": jnp.asarray(np.stack(inside, axis=-1), jnp.float32), "boxes": BOXES, "valid": VALID}
    step = compose(*map(keeping, step.steps)) if isinstance(step, Composition) else keeping(step)
    keys = jax.random.split(jax.random.key(3), count)
    return {name: np.asarray(array) for name, array in jax.jit(jax.vmap(lambda key: step(key, example)))(keys).items()}


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_boxes_lie_around_the_pixels_that_moved_with_them(step):
    examples = drawn(step)
    height, width = examples["image"].shape[1:3]
    assert examples["boxes"].min() >= 0
    assert (examples["boxes"] <= [width, height, width, height]).all()
    padded = isinstance(step, Step) and "border" in dict(step.options)
    compared = 0
    for image, boxes, valid in zip(examples["image"], examples["boxes"], examples["valid"], strict=True):
        for place in range(3):
            there = image[..., place] >= 0.4
            left, top, right, bottom = boxes[place]
            if padded:  # copies of the border are no part of the object
                outside = np.ones_like(there)
                outside[int(top) : int(bottom), int(left) : int(right)] = False
                there &= ~outside
            if not valid[place]:
                assert not there.any()
                continue
            columns, rows = np.flatnonzero(there.any(0)), np.flatnonzero(there.any(1))
            if not len(columns) or min(right - left, bottom - top) < 2:
                continue
            found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            assert (boxes[place][:2] <= found[:2] + 1).all()
            assert (boxes[place][2:] >= found[2:] - 1).all()
            exact = isinstance(step, Step) and step.function in (shift, random_crop, flip, brightness)
            # Clipped, the box around the corners may hold more than the pixels that are left.
            if exact or ((boxes[place] > 0).all() and (boxes[place][2:] < [width, height]).all()):
                # Where the box has a sharp corner, pixels are covered by less than a half.
                np.testing.assert_allclose(boxes[place], found, atol=0 if exact else 2.5)
                compared += 1
    assert compared > 10
    assert not examples["valid"][:, 3].any()


def test_a_box_that_leaves_the_image_is_no_longer_valid():
    examples = drawn(Step(random_resized_crop, scale=(0.1, 0.1)))
    assert set(examples["valid"][:, :3].ravel()) == {True, False}
    sides = examples["boxes"][..., 2:] - examples["boxes"][..., :2]
    np.testing.assert_array_equal(examples["valid"][:, :3], (sides > 0).all(-1)[:, :3])


def test_corners_of_a_perspective_are_where_they_were_asked_to_be():
    corners = np.array([[2, 5], [4, 47], [33, 50], [38, 3]], np.float32)
    matrix = np.asarray(perspective_matrix(jnp.asarray(corners), HEIGHT, WIDTH), np.float64)
    back = np.column_stack([corners, np.ones(4)]) @ matrix.T
    expected = [[0, 0], [0, WIDTH - 1], [HEIGHT - 1, WIDTH - 1], [HEIGHT - 1, 0]]
    np.testing.assert_allclose(back[:, :2] / back[:, 2:], expected, atol=1e-3)
    # A box as large as the image (but for torchvision's last pixel) becomes the box around the corners.
    whole = jnp.asarray([[0, 0, WIDTH - 1, HEIGHT - 1]], jnp.float32)
    boxes = projective(jnp.asarray(matrix, jnp.float32), HEIGHT, WIDTH).boxes(whole, HEIGHT, WIDTH)
    np.testing.assert_allclose(boxes, [[3, 2, 50, 38]], atol=1e-3)


def test_an_image_too_small_for_a_perspective_is_refused(key):
    with pytest.raises(
        ValueError, match=r"perspective expects an image of at least 2 x 2 pixels, got shape \(1, 5, 3\)"
    ):
        perspective(key, jnp.zeros((1, 5, 3)))


def test_alternating_flips_mirror_every_image_in_one_of_two_epochs(key):
    image = jnp.arange(12.0).reshape(3, 4, 1)
    step = Step(alternating_flip)

    def mirrored(epoch, seed=0):
        chosen = step if seed == 0 else Step(alternating_flip, seed=seed)

        def one(index):
            return chosen(key, {"image": image, "index": index, "epoch": jnp.int32(epoch)})["image"][0, 0, 0]

        corner = np.asarray(jax.jit(jax.vmap(one))(jnp.arange(200)))
        assert set(corner) == {0.0, 3.0}
        return corner == 3

    first = mirrored(0)
    assert 70 < first.sum() < 130
    np.testing.assert_array_equal(mirrored(1), ~first)
    np.testing.assert_array_equal(mirrored(2), first)
    np.testing.assert_array_equal(mirrored(3), ~first)
    np.testing.assert_array_equal(mirrored(7), ~first)
    assert (mirrored(0, seed=1) != first).any()


def test_alternating_flips_move_masks_and_boxes(key):
    image, mask = jnp.arange(12.0).reshape(3, 4, 1), jnp.arange(12).reshape(3, 4)
    boxes, valid = jnp.array([[0.0, 0.0, 1.0, 2.0]]), jnp.array([True])
    seen = set()
    for epoch in range(2):
        example = {"image": image, "mask": mask, "boxes": boxes, "valid": valid, "index": 5, "epoch": epoch}
        changed = Step(alternating_flip, axis="vertical")(key, example)
        np.testing.assert_array_equal(changed["image"][..., 0], changed["mask"])
        seen.add((float(changed["image"][0, 0, 0]), *np.asarray(changed["boxes"])[0].tolist()))
        assert (changed["index"], changed["epoch"]) == (5, epoch)
    assert seen == {(0.0, 0.0, 0.0, 1.0, 2.0), (8.0, 0.0, 1.0, 1.0, 3.0)}


def test_what_an_augmentation_reads_is_listed():
    flips = compose(Step(flip), compose(Step(alternating_flip)), Step(alternating_flip, axis="vertical"))
    assert (Step(alternating_flip).reads, flips.reads) == (("index", "epoch"), ("index", "epoch"))
    assert Step(flip).reads == compose(Step(flip)).reads == compose().reads == Step(jax.random.bernoulli).reads == ()


def test_what_an_alternating_flip_needs_is_named(key):
    image = jnp.zeros((3, 4, 1))
    with pytest.raises(ValueError, match="alternating_flip expects an example with 'index', 'epoch', got 'image'"):
        Step(alternating_flip)(key, {"image": image})
    with pytest.raises(TypeError, match=r"takes the options \['axis', 'seed', 'mask_fill', 'least_visible'\], got"):
        Step(alternating_flip, epoch=3)
    example = {"image": image, "index": 0, "epoch": 0}
    with pytest.raises(ValueError, match=r"alternating_flip expects seed a whole number from 0 .*, got -1"):
        Step(alternating_flip, seed=-1)(key, example)
    with pytest.raises(ValueError, match="alternating_flip expects axis 'horizontal' or 'vertical', got 'both'"):
        Step(alternating_flip, axis="both")(key, example)
