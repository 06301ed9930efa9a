import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from eight_scenes import learn_eight_scenes
from random_weights import random_weights

from jaxcnn import batched
from jaxcnn.layers import Conv, Flatten, Sequential, count_parameters
from jaxcnn.models import alexnet, mlp, rcnn, small_rcnn
from jaxcnn.models.detection.rcnn import RCNN, warp_regions
from jaxcnn.models.text import parse_value
from jaxcnn.tasks import RCNNDetection
from jaxcnn.types import check_task

SIZE = (20, 26)


def tiny(num_classes=3):
    """An R-CNN of one dense layer on crops of 6 pixels."""
    return rcnn(mlp(2, in_channels=3, image_size=6, hidden=(5,)), num_classes, crop_size=6, context=1)


def warped(image, box, size, context):
    """Averages bilinear samples in the bins of a box with context, pixel by pixel."""
    result = np.zeros((size, size, image.shape[2]))
    spans = []
    for first, last in ((box[1], box[3]), (box[0], box[2])):
        wide = (last - first) * size / (size - 2 * context)
        spans.append(((first + last - wide) / 2, wide / size))
    counts = [int(np.ceil(step)) for _, step in spans]
    for i in range(size):
        for j in range(size):
            samples = []
            for k in range(counts[0]):
                for m in range(counts[1]):
                    y = spans[0][0] + spans[0][1] * (i + (k + 0.5) / counts[0]) - 0.5
                    x = spans[1][0] + spans[1][1] * (j + (m + 0.5) / counts[1]) - 0.5
                    samples.append(sample(image, y, x))
            result[i, j] = np.mean(samples, axis=0)
    return result


def sample(image, y, x):
    height, width, channels = image.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(channels)
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    i, j = min(int(y), height - 2), min(int(x), width - 2)
    rows = image[i : i + 2] * np.array([1 - y + i, y - i])[:, None, None]
    return (rows[:, j : j + 2] * np.array([1 - x + j, x - j])[:, None]).sum((0, 1))


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.usefixtures("float64")
def test_regions_are_warped_pixel_by_pixel(context):
    image = np.random.default_rng(0).normal(size=(*SIZE, 2))
    # Small and large ones, and one that leaves the image on two sides.
    boxes = np.array([[3.0, 4, 8, 7.5], [0, 0, 26, 20], [-9.3, 11, 6, 31.7], [5.2, 2, 25, 4]])
    crops = jax.jit(lambda *arrays: warp_regions(*arrays, 7, context=context))(image, boxes)
    for crop, box in zip(crops, boxes, strict=True):
        np.testing.assert_allclose(crop, warped(image, box, 7, context), atol=1e-12)


def test_a_region_without_context_on_whole_pixels_is_cut_out():
    image = jnp.asarray(np.random.default_rng(0).normal(size=(*SIZE, 1)), jnp.float32)
    [crop] = warp_regions(image, jnp.asarray([[3.0, 5, 9, 11]]), 6)
    np.testing.assert_allclose(crop, image[5:11, 3:9], atol=1e-6)


def batch_of(slots=5, seed=0):
    """Two images, the second without objects; slots without a box hold NaN."""
    rng = np.random.default_rng(seed)
    boxes = np.array([[2.0, 3, 10, 12], [12, 6, 24, 17], [np.nan] * 4])
    proposals = np.array([[3.0, 3, 11, 12], [11, 5, 25, 18], [0, 0, 6, 6], [14, 2, 18, 9]])
    proposals = np.concatenate([proposals, np.full((slots - 4, 4), np.nan)])
    return {
        "image": jnp.asarray(rng.uniform(size=(2, *SIZE, 3)), jnp.float32),
        "boxes": jnp.asarray([boxes, np.full((3, 4), np.nan)], jnp.float32),
        "classes": jnp.asarray([[2, 0, 9], [9, 9, 9]], jnp.int32),
        "valid": jnp.asarray([[True, True, False], [False] * 3]),
        "proposals": jnp.asarray([proposals, proposals], jnp.float32),
        "proposals_valid": jnp.asarray([np.arange(slots) < 4] * 2),
    }


def test_the_losses_are_those_of_a_loop():
    model, batch = tiny(), batch_of()
    task = model.task(SIZE)
    params, state = random_weights(model, np.float32)
    x = task.training_input(batch["image"], batch)
    outputs, _ = jax.jit(lambda x: batched(model)(params, state, x, train=True, key=jax.random.key(0)))(x)
    assert outputs["classes"].shape == (2, 8, 4)
    parts = jax.jit(task.metrics)(outputs, batch)
    expected = {"class_loss": [], "box_loss": []}
    for i in range(2):
        objects = np.asarray(batch["boxes"][i][batch["valid"][i]], float)
        regions = [*np.asarray(batch["proposals"][i, :4], float), *objects]
        rows = [0, 1, 2, 3, 5, 6][: len(regions)]
        entropies, errors = [], []
        for row, region in zip(rows, regions, strict=True):
            overlaps = [overlap(region, box) for box in objects]
            label = 0
            if overlaps and max(overlaps) >= 0.5:
                owner = int(np.argmax(overlaps))
                label = 1 + int(batch["classes"][i, owner])
                deltas = np.asarray(outputs["boxes"][i, row, label], float)
                away = np.abs(deltas - codes(objects[owner], region))
                errors.append(np.where(away < 1 / 9, 4.5 * away**2, away - 1 / 18).sum())
            logits = np.asarray(outputs["classes"][i, row], float)
            entropies.append(np.log(np.exp(logits).sum()) - logits[label])
        expected["class_loss"].append(np.mean(entropies))
        expected["box_loss"].append(sum(errors) / len(regions))
    assert sum(loss > 0 for loss in expected["box_loss"]) == 1
    for name, losses in expected.items():
        assert float(parts[name].value) == pytest.approx(np.mean(losses), rel=1e-5)


def overlap(one, other):
    sides = [min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1)]
    both = max(sides[0], 0) * max(sides[1], 0)
    return both / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - both)


def codes(box, region):
    """Encodes a box relative to a region, times 10, 10, 5 and 5."""
    (x, y, w, h), (a, b, c, d) = (
        ((e[0] + e[2]) / 2, (e[1] + e[3]) / 2, e[2] - e[0], e[3] - e[1]) for e in (box, region)
    )
    return np.array([10 * (x - a) / c, 10 * (y - b) / d, 5 * np.log(w / c), 5 * np.log(h / d)])


def test_slots_without_a_proposal_change_nothing():
    model = tiny()
    task = model.task(SIZE)
    params, state = random_weights(model, np.float32)

    def loss(params, batch):
        x = task.training_input(batch["image"], batch)
        outputs, _ = batched(model)(params, state, x, train=True, key=jax.random.key(0))
        mean = task.loss(outputs, batch)
        return mean.total / mean.weight

    compute = jax.jit(jax.value_and_grad(loss))
    value, gradient = compute(params, batch_of(4))
    # Numbers instead of NaN, and more slots with NaN.
    for other in (jax.tree.map(lambda array: jnp.nan_to_num(array, nan=5.0), batch_of(4)), batch_of(9)):
        more, gradients = compute(params, other)
        assert float(more) == pytest.approx(float(value), rel=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient, gradients)
    x = task.evaluation_input(batch_of(9)["image"], batch_of(9))
    outputs, _ = jax.jit(lambda x: batched(model)(params, state, x, train=False))(x)
    # As many regions as proposals: the objects are not among them.
    assert outputs["valid"].shape == (2, 9)
    found = jax.jit(dataclasses.replace(task, score_threshold=0.0).decode)(outputs)
    assert found["valid"].sum(1).max() <= 4 * 3
    assert np.isfinite(found["boxes"]).all()


def test_it_is_made_of_a_classifier():
    model = rcnn(alexnet(10, dropout_rate=0.0), 20)
    assert model.head.classes.out_features == 21
    assert (model.crop_size, model.context) == (227, 16)
    assert count_parameters(small_rcnn(10)) == 896 + 18_496 + 36_928 + 524_416 + 129 * 11 + 129 * 44
    assert parse_value(repr(model)) == model
    task = model.task((64, 48), agnostic=True)
    check_task("", task)
    assert parse_value(repr(task)) == task


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RCNN(Flatten(), tiny().head, 0), "RCNN expects crop_size of at least 1, got 0"),
        (lambda: RCNN(Flatten(), tiny().head, 8, -1), "RCNN expects context of at least 0, got -1"),
        (lambda: RCNN(Flatten(), tiny().head, 8, 4), "RCNN expects context below half of crop_size 8, got 4"),
        (lambda: rcnn(Conv(3, 4, 3), 2), "rcnn expects a classifier with a Dense layer named 'head', got Conv"),
        (lambda: rcnn(Sequential(head=Conv(3, 4, 3)), 2), "rcnn expects a classifier with a Dense layer named 'head'"),
        (
            lambda: tiny().apply(*tiny().init(jax.random.key(0)), jnp.zeros((*SIZE, 3)), train=False),
            "RCNN expects an image with its proposals, {'image', 'proposals', 'valid'}, got a ",
        ),
        (
            lambda: tiny().task(SIZE).evaluation_input(None, {**batch_of(), "proposals": jnp.zeros((2, 5, 3))}),
            "RCNNDetection expects proposals (batch, regions, 4) and proposals_valid (batch, regions), got (2, 5, 3)",
        ),
        (
            lambda: tiny().task(SIZE).decode({"boxes": jnp.zeros((1, 2, 4, 4)), "classes": jnp.zeros((1, 2, 4))}),
            "RCNNDetection expects outputs with 'proposals' and 'valid', got none of 'proposals'",
        ),
        (
            lambda: (
                tiny()
                .task(SIZE)
                .decode(
                    {
                        "boxes": jnp.zeros((1, 2, 3, 4)),
                        "classes": jnp.zeros((1, 2, 4)),
                        "proposals": jnp.zeros((1, 2, 4)),
                        "valid": jnp.ones((1, 2), bool),
                    }
                )
            ),
            "RCNNDetection expects valid (batch, regions), classes (batch, regions, 1 + num_classes) and boxes (batch,",
        ),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def proposed(batch):
    """Proposes regions near the objects, and anywhere in the scenes of 64 pixels."""
    rng = np.random.default_rng(0)
    boxes = np.repeat(np.asarray(batch["boxes"]), 6, axis=1)
    sides = np.tile(boxes[..., 2:] - boxes[..., :2], 2)
    near = boxes + rng.uniform(-0.2, 0.2, boxes.shape) * sides
    corners, spans = rng.uniform(0, 48, (8, 24, 2)), rng.uniform(8, 24, (8, 24, 2))
    valid = np.repeat(np.asarray(batch["valid"]), 6, axis=1)
    return {
        "proposals": jnp.asarray(np.concatenate([near, np.concatenate([corners, corners + spans], 2)], 1), jnp.float32),
        "proposals_valid": jnp.asarray(np.concatenate([valid, np.ones((8, 24), bool)], 1)),
    }


@pytest.mark.heavy
@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_eight_scenes_are_learned():
    learned = learn_eight_scenes(small_rcnn(10), steps=60, learning_rate=1e-3, more=proposed)
    assert learned.figures["ap50"] > 0.99
    assert isinstance(learned.task, RCNNDetection)
