import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.models import small_retinanet
from jaxcnn.models.text import parse_value
from jaxcnn.tasks import AnchorDetection, DefaultBoxDetection, Detection, PointDetection
from jaxcnn.types import Task, check_task

SIZE, MAPS = (32, 24), ((4, 3), (2, 2))
TASK = AnchorDetection(SIZE, MAPS, sizes=((8.0,), (16.0,)), aspect_ratios=(1.0,))
CLASSES = 3


def outputs_of(batch, seed=0):
    rng, rows = np.random.default_rng(seed), sum(TASK.level_sizes)
    return {
        "classes": jnp.asarray(rng.normal(size=(batch, rows, CLASSES)) - 1, jnp.float32),
        "boxes": jnp.asarray(0.2 * rng.normal(size=(batch, rows, 4)), jnp.float32),
    }


def batch_of(*images, slots=4):
    """Returns a batch of images, each a list of (class, box); the slots are filled from the front."""
    batch = {
        "boxes": np.zeros((len(images), slots, 4), np.float32),
        "classes": np.zeros((len(images), slots), np.int32),
        "valid": np.zeros((len(images), slots), bool),
    }
    for i, objects in enumerate(images):
        for j, (label, box) in enumerate(objects):
            batch["boxes"][i, j], batch["classes"][i, j], batch["valid"][i, j] = box, label, True
    return batch


ONE = [(1, (2, 3, 11, 12))]
TWO = [(0, (1, 1, 15, 18)), (2, (12, 8, 24, 30))]


def value(mean):
    return float(mean.total / mean.weight)


@jax.jit
def compiled_loss(outputs, batch):
    return TASK.loss(outputs, batch)


@jax.jit
def loss_gradient(outputs, batch):
    return jax.grad(lambda outputs: TASK.loss(outputs, batch).total)(outputs)


def loss(batch, outputs=None):
    return compiled_loss(outputs_of(len(batch["valid"])) if outputs is None else outputs, batch)


def test_it_is_a_task_that_comes_back_from_its_text():
    check_task("test", TASK)
    assert isinstance(TASK, Task)
    assert parse_value(repr(TASK)) == TASK


def test_the_loss_of_a_batch_is_the_mean_of_the_losses_of_its_images():
    outputs = outputs_of(3)
    whole = loss(batch_of(ONE, [], TWO), outputs)
    each = [
        value(loss(batch_of(objects), jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], outputs)))
        for i, objects in enumerate((ONE, [], TWO))
    ]
    assert float(whole.weight) == 3
    assert value(whole) == pytest.approx(np.mean(each), rel=1e-6)


def test_empty_slots_and_the_order_of_the_objects_change_nothing():
    outputs, batch = outputs_of(2), batch_of(ONE, TWO)
    expected = float(loss(batch, outputs).total)
    more = batch_of(ONE, TWO, slots=9)
    assert float(loss(more, outputs).total) == expected
    turned = {name: array[:, ::-1] for name, array in more.items()}
    nonsense = {
        "boxes": np.where(turned["valid"][..., None], turned["boxes"], np.nan),
        "classes": np.where(turned["valid"], turned["classes"], -5),
        "valid": turned["valid"],
    }
    assert float(loss(nonsense, outputs).total) == pytest.approx(expected, rel=1e-6)
    gradient = loss_gradient(outputs, nonsense)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_images_without_objects_are_all_background():
    outputs = outputs_of(1)
    logits = np.asarray(outputs["classes"], float)
    p = 1 / (1 + np.exp(-logits))
    # The focal loss of a class that is not there, with alpha 1/4 and gamma 2 (Lin et al. 2017, equation 5).
    expected = np.sum(-0.75 * p**2 * np.log(1 - p))
    assert value(loss(batch_of([]), outputs)) == pytest.approx(expected, rel=1e-5)
    no_slots = batch_of([], slots=0)
    assert value(loss(no_slots, outputs)) == pytest.approx(expected, rel=1e-5)
    gradient = loss_gradient(outputs, batch_of([]))
    assert float(jnp.abs(gradient["boxes"]).max()) == 0
    assert float(jnp.abs(gradient["classes"]).max()) > 0


def test_other_numbers_of_objects_need_no_new_program():
    traces = []

    @jax.jit
    def compiled(outputs, batch):
        traces.append(1)
        return TASK.loss(outputs, batch), TASK.decode(outputs)

    for images in ((ONE, TWO), ([], ONE), ([], [])):
        compiled(outputs_of(2), batch_of(*images))
    assert len(traces) == 1


def test_examples_of_weight_zero_do_not_count():
    outputs = outputs_of(2)
    batch = batch_of(ONE, TWO)
    alone = loss(batch_of(ONE), jax.tree.map(lambda leaf: leaf[:1], outputs))
    weighted = loss({**batch, "weight": np.array([1.0, 0.0], np.float32)}, outputs)
    assert (float(weighted.weight), value(weighted)) == (1, pytest.approx(value(alone), rel=1e-6))


def test_a_class_out_of_range_gives_nan():
    assert np.isnan(value(loss(batch_of([(3, (1, 1, 9, 9))]))))
    assert np.isnan(value(loss(batch_of([(-1, (1, 1, 9, 9))]))))


def perfect(objects):
    """Returns outputs of detections that are the objects."""
    anchors = TASK.anchors
    outputs = {
        "classes": np.full((1, len(anchors), CLASSES), -9.0, np.float32),
        "boxes": np.zeros((1, len(anchors), 4), np.float32),
    }
    for i, (label, box) in enumerate(objects):
        x1, y1, x2, y2 = anchors[i]
        width, height = x2 - x1, y2 - y1
        left, top, right, bottom = box
        outputs["classes"][0, i, label] = 4.0 - i
        outputs["boxes"][0, i] = (
            ((left + right) / 2 - (x1 + x2) / 2) / width,
            ((top + bottom) / 2 - (y1 + y2) / 2) / height,
            np.log((right - left) / width),
            np.log((bottom - top) / height),
        )
    return jax.tree.map(jnp.asarray, outputs)


def test_detections_are_the_objects_best_first_and_the_other_slots_hold_zeros():
    task = dataclasses.replace(TASK, max_detections=5)
    found = jax.tree.map(lambda leaf: np.asarray(leaf[0]), jax.jit(task.decode)(perfect(TWO)))
    assert found["valid"].tolist() == [True, True, False, False, False]
    np.testing.assert_allclose(found["boxes"][:2], [box for _, box in TWO], rtol=1e-5)
    assert found["classes"].tolist() == [0, 2, 0, 0, 0]
    np.testing.assert_allclose(found["scores"][:2], 1 / (1 + np.exp([-4.0, -3.0])), rtol=1e-5)
    assert not found["boxes"][2:].any()
    assert not found["scores"][2:].any()


def test_only_an_agnostic_task_suppresses_across_classes():
    # The second box is the first one with another class, the third is far away.
    three = [(0, (2, 2, 12, 12)), (1, (2, 2, 12, 13)), (1, (14, 16, 22, 24))]
    assert decoded_classes(TASK, three) == [0, 1, 1]
    assert decoded_classes(dataclasses.replace(TASK, agnostic=True), three) == [0, 1]


def decoded_classes(task, objects):
    found = jax.tree.map(lambda leaf: np.asarray(leaf[0]), jax.jit(task.decode)(perfect(objects)))
    return found["classes"][found["valid"]].tolist()


def test_detections_end_at_the_border():
    found = jax.jit(TASK.decode)(perfect([(0, (-5, -2, 40, 60))]))
    assert np.asarray(found["boxes"][0, 0]).tolist() == [0, 0, SIZE[1], SIZE[0]]


MEASURED = dataclasses.replace(TASK, measures_precision=True)
measure = jax.jit(MEASURED.metrics)


def reported(detections, batch):
    return MEASURED.report(measure(detections, batch))


def test_average_precision_is_that_of_coco():
    assert reported(perfect(TWO), batch_of(TWO))["ap50"] == pytest.approx(1.0)
    # One of two objects of a class: the precision is 1 at 51 of 101 recalls (pycocotools gives 0.50495).
    pair = [(0, (1, 1, 9, 9)), (0, (12, 12, 22, 24))]
    half = reported(perfect(pair[:1]), batch_of(pair))
    assert half["ap50"] == pytest.approx(51 / 101)
    assert half["recall"] == 0.5
    # A wrong detection before the right one halves the precision.
    assert reported(perfect([(0, (1, 22, 9, 30)), pair[0]]), batch_of(pair[:1]))["ap50"] == pytest.approx(0.5)
    # Twice the same object: the second one is wrong, after all objects have been found.
    near = [(0, (1, 1, 9, 9)), (0, (3, 1, 11, 9))]
    assert reported(perfect(near), batch_of(near[:1]))["ap50"] == pytest.approx(1.0)
    assert reported(perfect([(1, pair[0][1])]), batch_of(pair[:1]))["ap50"] == 0
    assert np.isnan(reported(perfect(pair), batch_of([]))["ap50"])
    assert set(TASK.report(TASK.metrics(perfect(pair), batch_of(pair)))) == {"class_loss", "box_loss"}


def test_average_precision_adds_over_batches():
    parts = [measure(perfect(TWO), batch_of(TWO)), measure(perfect(TWO[:1]), batch_of(TWO))]
    summed = jax.tree.map(lambda a, b: np.asarray(a) + np.asarray(b), *parts)
    # Class 0 is found in both images, class 2 in one of them, both at a precision of 1. Class 1 has no object.
    assert MEASURED.report(summed)["ap50"] == pytest.approx((1 + 51 / 101) / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": 1.5}, r"AnchorDetection expects score_threshold in \[0, 1\], got 1\.5"),
        ({"iou_threshold": -1}, r"AnchorDetection expects iou_threshold in \[0, 1\], got -1"),
        ({"candidates": 0}, "AnchorDetection expects candidates of at least 1, got 0"),
        ({"max_detections": 2.5}, r"AnchorDetection expects max_detections of at least 1, got 2\.5"),
        ({"sizes": ((8.0,),)}, "AnchorDetection expects sizes of anchors for each of 2 maps, got 1"),
        ({"sizes": ((8.0,), (8.0, 9.0))}, "AnchorDetection expects as many sizes for each level"),
        ({"box_loss": "l2"}, r"AnchorDetection expects a box_loss among \('l1', 'giou'\), got 'l2'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TASK, **options)


def test_levels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="PointDetection expects strides for each of 2 maps, got 1"):
        PointDetection(SIZE, MAPS, strides=(8,))
    with pytest.raises(ValueError, match="default_boxes expects aspect_ratios for each of 2 maps, got 1"):
        DefaultBoxDetection(SIZE, MAPS, aspect_ratios=((2.0,),), scales=(0.1, 0.2, 0.3))


def test_batches_and_outputs_that_do_not_fit_are_refused():
    outputs, batch = outputs_of(1), batch_of(ONE)
    with pytest.raises(ValueError, match=r"expects outputs with 'boxes' and 'classes', as a detector gives, got Array"):
        TASK.loss(outputs["boxes"], batch)
    with pytest.raises(ValueError, match=r"expects outputs with .* got \['boxes'\]"):
        TASK.decode({"boxes": outputs["boxes"]})
    fewer = {**outputs, "boxes": outputs["boxes"][:, 1:]}
    with pytest.raises(ValueError, match=r"expects boxes \(batch, 16, 4\) .* for images of 32x24, got \(1, 15, 4\)"):
        TASK.decode(fewer)
    with pytest.raises(ValueError, match=r"expects a batch with 'valid', got \['boxes', 'classes'\]"):
        TASK.loss(outputs, {name: batch[name] for name in ("boxes", "classes")})
    with pytest.raises(ValueError, match=r"expects boxes \(batch, slots, 4\), classes and valid \(batch, slots\), got"):
        TASK.loss(outputs, {**batch, "classes": batch["classes"][:, 1:]})
    with pytest.raises(TypeError, match="expects classes of integers and valid of bool, got float32, bool"):
        TASK.loss(outputs, {**batch, "classes": batch["classes"].astype(np.float32)})
    with pytest.raises(ValueError, match=r"expects images of 32x24, got 24x32; make the task by model\.task\(\(24, 32"):
        TASK.loss(outputs, {**batch, "image": np.zeros((1, 24, 32, 3), np.float32)})


def test_a_family_without_its_own_losses_is_refused():
    task = Detection(SIZE, MAPS)
    rows = {name: leaf[:, :16] for name, leaf in outputs_of(1).items()}
    with pytest.raises(NotImplementedError, match=r"Detection expects a method losses\(self, outputs, boxes"):
        task.loss(rows, batch_of(ONE))
    with pytest.raises(NotImplementedError, match=r"Detection expects a method decode_boxes\(self, outputs\)"):
        task.decode(rows)


def test_a_detector_makes_its_task():
    model = small_retinanet(4)
    task = model.task((48, 40), score_threshold=0.2)
    assert (task.image_size, task.map_sizes, task.score_threshold) == ((48, 40), ((6, 5), (3, 3)), 0.2)
    outputs = jax.eval_shape(
        lambda: model.apply(*model.init(jax.random.key(0)), jnp.zeros((48, 40, 3)), train=False)[0]
    )
    assert outputs["boxes"].shape == task.anchors.shape
