"""Detection in the cells of grids."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.models.text import parse_value
from jaxcnn.tasks import YOLOv3Detection, YOLOXDetection
from jaxcnn.types import check_task

SIZE, MAPS = (32, 24), ((4, 3), (2, 2))
TASK = YOLOXDetection(SIZE, MAPS, strides=(8, 16))
CLASSES = 3


def outputs_of(batch):
    rng, rows = np.random.default_rng(0), sum(TASK.level_sizes)
    drawn = {name: rng.normal(size=(batch, rows, size)) for name, size in (("classes", CLASSES), ("boxes", 4))}
    return jax.tree.map(
        lambda array: jnp.asarray(array, jnp.float32), {**drawn, "objectness": rng.normal(size=(batch, rows))}
    )


BATCH = {
    "boxes": np.float32([[(2, 3, 11, 12), (12, 8, 24, 30)], [(1, 1, 15, 18), (0, 0, 0, 0)]]),
    "classes": np.int32([[1, 0], [2, 0]]),
    "valid": np.array([[True, True], [True, False]]),
}

loss = jax.jit(TASK.loss)


def test_it_is_a_task_that_comes_back_from_its_text():
    check_task("test", TASK)
    assert parse_value(repr(TASK)) == TASK


def test_empty_slots_and_the_order_of_the_objects_change_nothing():
    outputs = outputs_of(2)
    expected = loss(outputs, BATCH)
    turned = {name: np.concatenate([array[:, ::-1], np.zeros_like(array)], axis=1) for name, array in BATCH.items()}
    nonsense = {
        "boxes": np.where(turned["valid"][..., None], turned["boxes"], np.nan),
        "classes": np.where(turned["valid"], turned["classes"], -5),
        "valid": turned["valid"],
    }
    found = loss(outputs, nonsense)
    assert float(found.weight) == float(expected.weight) > 2
    assert float(found.total) == pytest.approx(float(expected.total), rel=1e-6)
    gradient = jax.jit(jax.grad(lambda outputs: TASK.loss(outputs, nonsense).total))(outputs)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_images_without_objects_only_have_a_loss_of_objectness():
    outputs = outputs_of(2)
    found = loss(outputs, {**BATCH, "valid": np.zeros((2, 2), bool)})
    p = 1 / (1 + np.exp(-np.asarray(outputs["objectness"], float)))
    assert (float(found.total), float(found.weight)) == (pytest.approx(-np.log(1 - p).sum(), rel=1e-5), 0)


def test_a_box_is_decoded_from_the_corner_of_its_cell_in_strides():
    outputs = jax.tree.map(jnp.zeros_like, outputs_of(1))
    # The cell (1, 0) of the second level, after 4 x 3 others and 2 x 1 in its row before: corner (0, 16), stride 16.
    outputs["boxes"] = outputs["boxes"].at[0, 14].set(jnp.array([0.5, -0.25, np.log(0.5), np.log(0.75)]))
    decoded = TASK.decode_boxes({name: leaf[0] for name, leaf in outputs.items()})
    np.testing.assert_allclose(decoded[14], [8 - 4, 12 - 6, 8 + 4, 12 + 6], rtol=1e-6)
    np.testing.assert_allclose(decoded[4], [8 - 4, 8 - 4, 8 + 4, 8 + 4], rtol=1e-6)


def test_a_box_has_one_class_and_the_product_of_both_probabilities():
    outputs = jax.tree.map(lambda leaf: jnp.full_like(leaf, -20), outputs_of(1))
    outputs["boxes"] = jnp.zeros_like(outputs["boxes"])
    outputs["objectness"] = outputs["objectness"].at[0, 2].set(1.0)
    outputs["classes"] = outputs["classes"].at[0, 2].set(jnp.array([0.5, 2.0, 1.9]))
    found = jax.tree.map(lambda leaf: np.asarray(leaf[0]), jax.jit(TASK.decode)(outputs))
    assert (found["valid"].sum(), found["classes"][0]) == (1, 1)
    assert found["scores"][0] == pytest.approx(1 / (1 + np.exp(-1.0)) / (1 + np.exp(-2.0)), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anchors": (((8.0, 9.0),),)}, "YOLOv3Detection expects as many anchors for each of 2 maps, got"),
        ({"anchors": (((8.0, 9.0),), ())}, "YOLOv3Detection expects as many anchors for each of 2 maps, got"),
        ({"anchors": (((8.0, 0.0),), ((9.0, 9.0),))}, "YOLOv3Detection expects sizes of anchors above 0, got"),
        (
            {"anchors": (((8.0, 8.0),), ((9.0, 9.0),)), "ignore_iou": 2.0},
            r"YOLOv3Detection expects ignore_iou in \[0, 1\], got 2\.0",
        ),
    ],
)
def test_options_of_anchors_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        YOLOv3Detection(SIZE, MAPS, strides=(8, 16), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": (8,)}, "YOLOXDetection expects strides for each of 2 maps, got 1"),
        ({"strides": (8, 16), "l1_weight": -1}, r"YOLOXDetection expects a finite l1_weight of at least 0, got -1"),
        ({"strides": (8, 16), "score_threshold": 2}, r"YOLOXDetection expects score_threshold in \[0, 1\], got 2"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        YOLOXDetection(SIZE, MAPS, **options)


def test_the_last_epochs_have_the_l1_loss():
    assert TASK.plain() == dataclasses.replace(TASK, l1_weight=1.0)
    own = dataclasses.replace(TASK, l1_weight=0.5)
    assert own.plain() == own
