import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from eight_scenes import learn_eight_scenes

from jaxcnn.layers import count_parameters, fold_batch_norm
from jaxcnn.models import yolov1, yolov1_tiny
from jaxcnn.models.text import parse_value
from jaxcnn.tasks import YOLOv1Detection
from jaxcnn.types import check_task

SIZE, MAP, CLASSES = (48, 32), (3, 2), 3
TASK = YOLOv1Detection(SIZE, (MAP,))


def test_the_network_is_that_of_figure_3():
    # Channels and kernels of the 24 convolutions, and the two dense layers.
    convolutions = [(3, 64, 7), (64, 192, 3), (192, 128, 1), (128, 256, 3), (256, 256, 1), (256, 512, 3)]
    convolutions += [(512, 256, 1), (256, 512, 3)] * 4 + [(512, 512, 1), (512, 1024, 3)]
    convolutions += [(1024, 512, 1), (512, 1024, 3)] * 2 + [(1024, 1024, 3)] * 4
    assert len(convolutions) == 24
    count = sum(taps**2 * inputs * outputs + outputs for inputs, outputs, taps in convolutions)
    count += (7 * 7 * 1024 + 1) * 4096 + 4097 * 7 * 7 * 30
    model = yolov1()
    assert count_parameters(model) == count == 271_703_550
    assert model.map_sizes((448, 448)) == ((7, 7),)
    outputs = jax.eval_shape(
        lambda key: model.apply(*model.init(key), jnp.zeros((448, 448, 3)), train=False)[0], jax.random.key(0)
    )
    assert {name: leaf.shape for name, leaf in outputs.items()} == {
        "classes": (98, 20),
        "boxes": (98, 4),
        "objectness": (98,),
    }


def test_the_cells_of_a_grid_are_where_the_image_has_them():
    model = yolov1_tiny(3, image_size=(96, 64))
    assert model.map_sizes((96, 64)) == ((6, 4),)
    assert model.task((96, 64)) == YOLOv1Detection((96, 64), ((6, 4),))
    with pytest.raises(ValueError, match="dense expects 6144 features on the last axis, got"):
        jax.eval_shape(lambda: model.apply(*model.init(jax.random.key(0)), jnp.zeros((96, 96, 3)), train=False))


@pytest.mark.slow
@pytest.mark.heavy
def test_folding_keeps_the_outputs():
    model = yolov1_tiny(3, image_size=32)
    params, state = model.init(jax.random.key(0))
    folded = fold_batch_norm(model, params, state, (32, 32, 3))
    assert "BatchNorm(" not in repr(folded[0])
    image = jax.random.uniform(jax.random.key(1), (32, 32, 3))
    expected, actual = (one[0].apply(*one[1:], image, train=False)[0] for one in ((model, params, state), folded))
    for name, leaf in expected.items():
        np.testing.assert_allclose(actual[name], leaf, rtol=1e-4, atol=1e-5)


def outputs_of(batch, seed=0):
    rng, rows = np.random.default_rng(seed), MAP[0] * MAP[1] * 2
    classes = np.repeat(rng.normal(size=(batch, rows // 2, CLASSES)), 2, axis=1)
    boxes = np.concatenate([rng.uniform(0, 1, (batch, rows, 2)), rng.uniform(0.3, 0.9, (batch, rows, 2))], 2)
    return {"classes": classes, "boxes": boxes, "objectness": rng.uniform(0, 1, (batch, rows))}


def iou(one, other):
    width, height = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


def decoded(outputs):
    (rows, columns), (height, width) = MAP, SIZE
    boxes = []
    for place, (x, y, w, h) in enumerate(outputs["boxes"]):
        row, column = divmod(place // 2, columns)
        cx, cy = (column + x) * width / columns, (row + y) * height / rows
        boxes.append((cx - w**2 * width / 2, cy - h**2 * height / 2, cx + w**2 * width / 2, cy + h**2 * height / 2))
    return np.array(boxes)


def paper_loss(outputs, objects):
    """Computes the parts of equation 3 for one image by loops; objects are (class, box)."""
    (rows, columns), (height, width) = MAP, SIZE
    found, owners = decoded(outputs), {}
    for label, box in sorted(objects, key=lambda one: (one[1][2] - one[1][0]) * (one[1][3] - one[1][1])):
        centre = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        owners[int(centre[1] // (height / rows)) * columns + int(centre[0] // (width / columns))] = label, box
    parts = {"class_loss": 0.0, "box_loss": 0.0, "objectness_loss": 0.0}
    for cell in range(rows * columns):
        pair = (2 * cell, 2 * cell + 1)
        if cell not in owners:
            parts["objectness_loss"] += 0.5 * sum(outputs["objectness"][i] ** 2 for i in pair)
            continue
        label, box = owners[cell]
        overlaps = [iou(found[i], box) for i in pair]
        errors = [np.sum((found[i] - box) ** 2) for i in pair]
        best = pair[int(np.argmax(overlaps))] if max(overlaps) > 0 else pair[int(np.argmin(errors))]
        other = sum(pair) - best
        parts["objectness_loss"] += (outputs["objectness"][best] - max(overlaps)) ** 2
        parts["objectness_loss"] += 0.5 * outputs["objectness"][other] ** 2
        parts["class_loss"] += np.sum((outputs["classes"][best] - np.eye(CLASSES)[label]) ** 2)
        row, column = divmod(cell, columns)
        x, y, w, h = outputs["boxes"][best]
        cx, cy = (box[0] + box[2]) / 2 / (width / columns) - column, (box[1] + box[3]) / 2 / (height / rows) - row
        sizes = np.sqrt((box[2] - box[0]) / width), np.sqrt((box[3] - box[1]) / height)
        parts["box_loss"] += 5 * ((x - cx) ** 2 + (y - cy) ** 2 + (w - sizes[0]) ** 2 + (h - sizes[1]) ** 2)
    return parts


# The last two objects of the second image have one cell; the tiny one overlaps no box.
IMAGES = [
    [(0, (1.0, 2.0, 12.0, 20.0)), (1, (20.0, 2.0, 28.0, 13.0))],
    [(2, (20.0, 30.0, 30.0, 47.0)), (1, (1.0, 1.0, 9.0, 12.0)), (2, (3.0, 2.0, 14.0, 15.0))],
    [],
    [(1, (0.0, 0.0, 0.2, 0.1))],
]


def batch_of(images, slots=4):
    batch = {"boxes": np.full((len(images), slots, 4), np.nan), "classes": np.full((len(images), slots), -3, np.int32)}
    batch["valid"] = np.zeros((len(images), slots), bool)
    for i, objects in enumerate(images):
        for j, (label, box) in enumerate(objects, start=1):
            batch["boxes"][i, j], batch["classes"][i, j], batch["valid"][i, j] = box, label, True
    return batch


@pytest.mark.usefixtures("float64")
def test_the_loss_is_that_of_equation_3():
    outputs, batch = outputs_of(len(IMAGES)), batch_of(IMAGES)
    each = [
        paper_loss({name: array[i] for name, array in outputs.items()}, objects) for i, objects in enumerate(IMAGES)
    ]
    given = jax.tree.map(jnp.asarray, outputs)
    ours = jax.jit(TASK.metrics)(given, batch)
    for name, mean in ours.items():
        assert float(mean.weight) == len(IMAGES)
        assert float(mean.total) == pytest.approx(sum(part[name] for part in each), rel=1e-12)
    turned = {name: array[:, ::-1] for name, array in batch.items()}
    loss = jax.jit(lambda outputs, batch: TASK.loss(outputs, batch).total)
    assert float(loss(given, turned)) == pytest.approx(float(loss(given, batch)), rel=1e-12)
    gradient = jax.jit(jax.grad(loss))(given, batch)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.usefixtures("float64")
def test_boxes_and_scores_are_decoded_as_in_the_paper():
    one = {name: array[0] for name, array in outputs_of(1).items()}
    given = jax.tree.map(jnp.asarray, one)
    np.testing.assert_allclose(TASK.decode_boxes(given), decoded(one), rtol=1e-12, atol=1e-12)
    expected = (one["classes"] * one["objectness"][:, None]).clip(0, 1)
    np.testing.assert_allclose(TASK.scores(given), expected, rtol=1e-12)


def test_it_is_a_task_that_comes_back_from_its_text():
    check_task("test", TASK)
    assert parse_value(repr(TASK)) == TASK


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"map_sizes": (MAP, MAP)}, "YOLOv1Detection expects one map, got 2"),
        ({"boxes": 0}, "YOLOv1Detection expects boxes of at least 1, got 0"),
        ({"box_weight": 0.0}, r"YOLOv1Detection expects a finite box_weight above 0, got 0\.0"),
        ({"background_weight": -1.0}, r"YOLOv1Detection expects a finite background_weight above 0, got -1\.0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        YOLOv1Detection(**{"image_size": SIZE, "map_sizes": (MAP,), **options})


@pytest.mark.heavy
@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_eight_scenes_are_learned():
    model = yolov1_tiny(10, image_size=64)
    learned = learn_eight_scenes(model, steps=300, learning_rate=optax.cosine_decay_schedule(1e-3, 300))
    assert learned.figures["ap50"] > 0.9
