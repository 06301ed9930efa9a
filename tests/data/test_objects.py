"""Objects of an image: padding, and what becomes of them in a step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.data import (
    Arrays,
    Batches,
    Step,
    affine,
    arrays,
    compose,
    elastic,
    flip,
    random_crop,
    random_iou_crop,
    random_resized_crop,
    resized,
    rotate,
    scale_jitter,
    shift,
    survey,
    zoom_out,
)
from jaxcnn.data.objects import moved_objects, pad_objects

HEIGHT, WIDTH = 40, 52
BOXES = np.array([[10, 8, 30, 22], [0, 20, 12, 40], [40, 3, 43, 36]], np.float32)

STEPS = [
    Step(shift, max_shift=20),
    Step(random_crop, padding=20, border="reflect"),
    Step(flip),
    Step(flip, axis="vertical"),
    Step(affine, max_degrees=15, max_scale=0.3, max_shear=10, max_shift=8),
    Step(rotate, max_degrees=20),
    Step(elastic, alpha=20, sigma=4),
    Step(random_resized_crop, size=(30, 64)),
    Step(random_iou_crop),
    Step(zoom_out, probability=1, max_scale=2),
    Step(scale_jitter, scale=(0.5, 2.0), size=(48, 40)),
    compose(Step(flip), Step(rotate, max_degrees=10), Step(shift, max_shift=9)),
]


def masks_of(boxes, height=HEIGHT, width=WIDTH):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([(columns >= x0) & (columns < x1) & (rows >= y0) & (rows < y1) for x0, y0, x1, y1 in boxes])


def example_of(slots):
    found = {
        "boxes": BOXES,
        "classes": np.array([2, 0, 1], np.int32),
        "crowd": np.array([False, True, False]),
        "difficult": np.array([True, False, False]),
        "masks": masks_of(BOXES),
    }
    noise = np.random.default_rng(0).uniform(size=(HEIGHT, WIDTH, 2)).astype(np.float32)
    return {"image": noise} | pad_objects(found, slots)


@functools.cache
def compiled(step):
    return jax.jit(jax.vmap(step, in_axes=(0, None)))


def draw(step, example, count=24):
    keys = jax.random.split(jax.random.key(5), count)
    return jax.tree.map(np.asarray, compiled(step)(keys, example))


@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_boxes_masks_and_classes_move_together(step):
    drawn = draw(step, example_of(4))
    seen = 0
    for boxes, masks, valid, classes in zip(
        *(drawn[name] for name in ("boxes", "masks", "valid", "classes")), strict=True
    ):
        for place in np.flatnonzero(valid):
            columns, rows = np.flatnonzero(masks[place].any(0)), np.flatnonzero(masks[place].any(1))
            around = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            if "reflect" not in repr(step):  # the mirror image of an object lies outside its box
                assert (boxes[place][:2] <= around[:2] + 1).all()
                assert (boxes[place][2:] >= around[2:] - 1).all()
            seen += 1
        np.testing.assert_array_equal(classes, np.where(valid, [2, 0, 1, 0], 0))
    assert seen > 24
    assert not drawn["valid"].all(0)[3]


# One whose draw reads the boxes, and one that moves all four corners; the others share their code.
QUICK = (random_iou_crop, rotate)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "step",
    [pytest.param(step, marks=[] if getattr(step, "function", None) in QUICK else pytest.mark.slow) for step in STEPS],
    ids=repr,
)
def test_empty_slots_hold_zeros_and_change_nothing(step):
    few, many = draw(step, example_of(4)), draw(step, example_of(9))
    np.testing.assert_array_equal(few["image"], many["image"])
    for name in ("boxes", "classes", "crowd", "difficult", "masks", "valid"):
        np.testing.assert_array_equal(many[name][:, :4], few[name])
        assert not many[name][:, 4:].any()
        assert not many[name][~many["valid"]].any()
        assert many[name].dtype == example_of(4)[name].dtype


def test_the_rule_of_what_is_kept_is_that_of_a_loop():
    rng = np.random.default_rng(1)
    start = rng.uniform(-30, 60, (200, 2)).astype(np.float32)
    moved = np.concatenate([start, start + rng.uniform(0, 30, (200, 2)).astype(np.float32)], axis=1)
    before = np.concatenate([np.zeros((200, 2)), rng.uniform(0, 3, (200, 2))], axis=1).astype(np.float32)
    classes = np.arange(200, dtype=np.int32)
    for least, centred in ((0.1, False), (0.6, False), (0.0, False), (0.1, True)):
        kept = []
        for index, (x0, y0, x1, y1) in enumerate(moved.astype(float)):
            wide, high = min(x1, 52) - max(x0, 0), min(y1, 40) - max(y0, 0)
            sides = [(wide, before[index, 2]), (high, before[index, 3])]
            if not all(side > 0 and (side >= 1 or side >= old) for side, old in sides):
                continue
            visible = wide * high >= least * (x1 - x0) * (y1 - y0)
            if (0 <= (x0 + x1) / 2 < 52 and 0 <= (y0 + y1) / 2 < 40) if centred else visible:
                kept.append(index)
        assert 5 < len(kept) < 150
        objects = {"boxes": before, "valid": np.ones(200, bool), "classes": classes}
        for array in (np.asarray, jnp.asarray):
            found = moved_objects(
                {name: array(value) for name, value in objects.items()},
                array(moved),
                (40, 52),
                least_visible=least,
                centred=centred,
            )
            assert np.flatnonzero(found["valid"]).tolist() == kept
            clipped = np.clip(moved[kept], 0, [52, 40, 52, 40])
            np.testing.assert_array_equal(np.asarray(found["boxes"])[kept], clipped)


def test_an_object_without_a_pixel_of_its_mask_is_dropped():
    masks = np.zeros((2, 4, 4), bool)
    masks[0, 1, 1] = True
    boxes = np.array([[0, 0, 3, 3], [0, 0, 3, 3]], np.float32)
    found = moved_objects({"boxes": boxes, "valid": np.ones(2, bool), "masks": masks}, boxes, (4, 4))
    assert found["valid"].tolist() == [True, False]


def test_a_step_drops_what_is_hardly_visible(key):
    boxes = jnp.array([[0.0, 0, 20, 10], [10, 0, 30, 10]])
    example = {"image": jnp.zeros((10, 30, 1)), "boxes": boxes, "valid": jnp.ones(2, bool)}
    steps = [Step(shift, max_shift=9), Step(shift, max_shift=9, least_visible=0.95)]
    usual, strict = (draw(step, example, 50) for step in steps)
    areas = (usual["boxes"][..., 2:] - usual["boxes"][..., :2]).prod(-1)
    assert usual["valid"].sum() > strict["valid"].sum() > 0
    np.testing.assert_array_equal(strict["valid"], areas >= 0.95 * 200)


def test_padding_keeps_the_objects_and_marks_their_slots():
    padded = pad_objects({"boxes": BOXES, "classes": np.array([2, 0, 1], np.int32)}, 5)
    np.testing.assert_array_equal(padded["boxes"], np.concatenate([BOXES, np.zeros((2, 4), np.float32)]))
    assert padded["classes"].tolist() == [2, 0, 1, 0, 0]
    assert padded["valid"].tolist() == [True, True, True, False, False]
    empty = pad_objects({"boxes": np.zeros((0, 4), np.float32), "masks": np.zeros((0, 3, 2), bool)}, 2)
    assert {name: array.shape for name, array in empty.items()} == {"boxes": (2, 4), "masks": (2, 3, 2), "valid": (2,)}
    assert not any(array.any() for array in empty.values())


def test_more_objects_than_slots_are_refused():
    with pytest.raises(ValueError, match=r"expected at most 2 objects in 'a.jpg', .*got 3; read it with max_objects=3"):
        pad_objects({"boxes": BOXES}, 2, "'a.jpg'")


def in_arrays(**changes):
    """Makes arrays of two examples with two slots, of which the last one of the second example is empty."""
    made = {
        "image": np.zeros((2, 8, 9, 3), np.uint8),
        "boxes": np.tile(np.array([1, 2, 5, 6]), (2, 2, 1)).astype(np.float64),
        "classes": np.array([[0, 1], [2, 7]]),
        "valid": np.array([[True, True], [True, False]]),
        "masks": np.ones((2, 2, 8, 9), bool),
    }
    return {name: value for name, value in (made | changes).items() if value is not None}


def test_objects_may_be_arrays():
    source = arrays(**in_arrays())
    assert source.class_names == ("0", "1", "2")
    assert (source.spec["boxes"].dtype, source.spec["classes"].dtype) == (np.float32, np.int32)
    assert source[1]["classes"].tolist() == [2, 0]
    assert not source[1]["boxes"][1].any()
    assert not source[1]["masks"][1].any()
    assert source[1]["masks"][0].all()
    assert Batches(source, 2, seed=0)[0]["masks"].shape == (2, 2, 8, 9)
    assert resized(source, (4, 9), mode="stretch")[0]["boxes"][0].tolist() == [1, 1, 5, 3]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"valid": None}, ValueError, "objects need the entries 'boxes' and 'valid', got .* without 'valid'"),
        ({"boxes": np.zeros((2, 2, 5))}, ValueError, r"expected 'boxes' of shape \(2, 2, 4\), got \(2, 2, 5\)"),
        ({"boxes": np.zeros((2, 2, 4), int)}, TypeError, "expected 'boxes' of floating point, got int64"),
        ({"classes": np.zeros((2, 3), int)}, ValueError, r"expected 'classes' of shape \(2, 2\), got \(2, 3\)"),
        ({"classes": np.zeros((2, 2))}, TypeError, "expected 'classes' of integers, got float"),
        ({"valid": np.ones((2, 2))}, TypeError, "expected 'valid' of bool, got float"),
        ({"masks": np.ones((2, 2, 9, 8), bool)}, ValueError, r"expected 'masks' of shape \(2, 2, 8, 9\), got"),
        ({"class_names": ["a", "b"]}, ValueError, r"classes must be in \[0, 2\), got 2 at index 1"),
        ({"boxes": np.full((2, 2, 4), np.nan)}, ValueError, "'boxes' must be finite, but example 0 holds nan"),
    ],
)
def test_arrays_of_objects_that_do_not_fit_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        arrays(**in_arrays(**changes))


def test_classes_out_of_range_are_refused_in_batches():
    source = Arrays(arrays(**in_arrays()).entries, ("a", "b"))
    with pytest.raises(ValueError, match=r"classes must be in \[0, 2\), got 2 at index"):
        Batches(source, 2, seed=0)[0]


def test_sets_without_objects_are_noticed():
    found = survey(arrays(**in_arrays(valid=np.zeros((2, 2), bool), class_names=["a"])))
    assert "no image of train has an object" in found.warnings
    assert found.parts["train"].objects == ((2,), (), 0, 0)
