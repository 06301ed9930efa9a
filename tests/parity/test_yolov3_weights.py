"""YOLOv3: files of darknet, by libreyolo's interpreter of darknet's configurations and by OpenCV."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detection_peer import our_outputs, scenes
from torchvision_peer import torch
from weights_peer import changed, channels_first, error, images

import jaxcnn
from jaxcnn.interop.darknet import moved_variance
from jaxcnn.interop.files.paths import FileError
from jaxcnn.interop.weights import load_weights
from jaxcnn.layers import BatchNorm
from jaxcnn.models import yolov3, yolov3_tiny
from jaxcnn.models.detection.yolov3 import ANCHORS, TINY_ANCHORS
from jaxcnn.tasks import YOLOv3Detection

pytestmark = pytest.mark.usefixtures("float64")

cfg = pytest.importorskip("libreyolo.models.darknet.cfg")
blocks = pytest.importorskip("libreyolo.models.darknet.blocks")
reader = pytest.importorskip("libreyolo.models.darknet.reader")
network = pytest.importorskip("libreyolo.models.darknet.net")

SIZE = (96, 64)
DEEP = [pytest.mark.slow, pytest.mark.heavy]
NAMES = ["yolov3-tiny", pytest.param("yolov3", marks=DEEP)]


def peer(name, path, num_classes=3):
    """Writes a file of random weights whose activations keep their size, and returns the network of the file."""
    net = network.DarknetNet(*cfg.load_bundled_cfg(name), num_classes=num_classes).double().eval()
    rng = np.random.default_rng(0)

    def draw(values):
        return torch.from_numpy(np.asarray(values, np.float32).astype(np.float64))

    def draw_moments(norm, inputs):
        (x,) = inputs
        channels = x.transpose(0, 1).flatten(1)
        mean, var = channels.mean(1).numpy(), channels.var(1).numpy().clip(1e-6)
        # A quarter of the deviations are near darknet's epsilon, and the scales make up for it.
        small = rng.permutation(len(var)) < len(var) // 4
        running = np.where(small, 1e-12 * 10 ** rng.uniform(-1, 2, var.shape), var * rng.uniform(0.8, 1.25, var.shape))
        norm.running_mean.copy_(draw(mean))
        norm.running_var.copy_(draw(running))
        scale = rng.uniform(0.5, 1.5, var.shape) * (np.sqrt(running) + 1e-6) / np.sqrt(var)
        norm.weight.data.copy_(draw(scale))
        norm.bias.data.copy_(draw(0.1 * rng.normal(size=var.shape)))

    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d):
                shape = tuple(module.weight.shape)
                module.weight.copy_(draw(rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))))
                if module.bias is not None:
                    module.bias.copy_(draw(0.1 * rng.normal(size=shape[:1])))
        norms = [module for module in net.modules() if isinstance(module, blocks.DarknetBatchNorm2d)]
        hooks = [norm.register_forward_pre_hook(draw_moments) for norm in norms]
        net(channels_first(images(64, seed=7)))
        for hook in hooks:
            hook.remove()
    path.write_bytes(reader.save_darknet_weights(net))
    return net


def raw(maps, num_classes=3):
    """Returns outputs as ours from maps (batch, anchors * numbers, height, width), the coarsest first."""
    rows = []
    for level in reversed(maps):
        batch, channels, height, width = level.shape
        split = np.asarray(level).reshape(batch, 3, channels // 3, height, width)
        rows.append(split.transpose(0, 3, 4, 1, 2).reshape(batch, -1, channels // 3))
    rows = np.concatenate(rows, 1)
    assert rows.shape[2] == 5 + num_classes
    return {"boxes": rows[..., :4], "objectness": rows[..., 4], "classes": rows[..., 5:]}


def worst(actual, expected):
    assert set(actual) == set(expected)
    return max(error(actual[name], expected[name]) for name in actual)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_darknet_gives_its_outputs(name, tmp_path):
    net = peer(name, tmp_path / "some.weights")
    weights = load_weights(name.replace("-", "_"), tmp_path / "some.weights")
    assert weights.model == {"yolov3": yolov3, "yolov3-tiny": yolov3_tiny}[name](3)
    batch = images(SIZE)
    with torch.no_grad():
        expected = raw([level.numpy() for level in net(channels_first(batch))])
    assert worst(our_outputs(weights, batch), expected) < 1e-10
    # Epsilon within the root, as elsewhere.
    wrong = changed(weights.model, BatchNorm, epsilon=1e-5)
    assert worst(our_outputs(weights, batch, model=wrong), expected) > 1e-3


def test_a_moved_variance_divides_as_darknet_does():
    variance = np.array([0.0, 1e-14, 1e-12, 3e-9, 1.0, 50.0])
    ours = np.sqrt(moved_variance(variance) + 1e-12)
    np.testing.assert_allclose(ours, np.sqrt(variance) + 1e-6, rtol=1e-14)


def test_opencv_reads_the_same_file_with_the_same_results(tmp_path):
    cv2 = pytest.importorskip("cv2")
    net = peer("yolov3-tiny", tmp_path / "some.weights", num_classes=80)
    # OpenCV adds 1e-6 to the variance: none may be near it.
    with torch.no_grad():
        for norm in (module for module in net.modules() if isinstance(module, blocks.DarknetBatchNorm2d)):
            norm.weight.mul_((norm.running_var + 1) ** 0.5 / (norm.running_var.sqrt() + 1e-6))
            norm.running_var.add_(1)
    (tmp_path / "some.weights").write_bytes(reader.save_darknet_weights(net))
    text = cfg.bundled_cfg_path("yolov3-tiny").read_text()
    (tmp_path / "some.cfg").write_text(text)
    theirs = cv2.dnn.readNetFromDarknet(str(tmp_path / "some.cfg"), str(tmp_path / "some.weights"))
    # The layers before the two of detection.
    names = [name for name in theirs.getLayerNames() if name in ("conv_15", "conv_22")]
    assert len(names) == 2
    batch = images((416, 416), batch=1).astype(np.float32)
    theirs.setInput(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))
    expected = raw(theirs.forward(names), num_classes=80)
    weights = load_weights("yolov3_tiny", tmp_path / "some.weights")
    ours = our_outputs(weights, batch.astype(np.float64))
    assert worst(ours, expected) < 1e-4


@pytest.mark.parametrize(("build", "size"), [(yolov3, 248_007_048), (yolov3_tiny, 35_434_956)])
def test_files_have_the_published_length(build, size):
    model = build()
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    assert 20 + 4 * sum(leaf.size for leaf in jax.tree.leaves((params, state))) == size


def test_files_of_another_length_or_format_are_refused(tmp_path):
    path = tmp_path / "some.weights"
    peer("yolov3-tiny", path)
    content = path.read_bytes()
    path.write_bytes(content[:-2])
    with pytest.raises(FileError, match=r"numbers of 4 bytes each, got \d+ bytes in .*some\.weights.*cut off or dama"):
        load_weights("yolov3_tiny", path)
    for wrong in (content[:-4], content + b"\0" * 4, content[:20]):
        path.write_bytes(wrong)
        with pytest.raises(
            FileError, match=r"expected 8,858,734 numbers for yolov3_tiny of 80 classes, and 2,310 more"
        ):
            load_weights("yolov3_tiny", path)
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"expected 62,001,757 numbers for yolov3 of 80 classes"):
        load_weights("yolov3", path)
    path.write_bytes(b"\1\2")
    with pytest.raises(FileError, match=r"expected a \.weights file of darknet, got 2 bytes in"):
        load_weights("yolov3", path)
    path.write_bytes(b"<html> not found </html>")
    with pytest.raises(FileError, match=r"which begins with a version such as 0\.2, got .* it is a web page"):
        load_weights("yolov3", path)
    with pytest.raises(ValueError, match="expected entry= only for a checkpoint of torch, got 'model'"):
        load_weights("yolov3", path, entry="model")
    # Version 0.1 has a shorter number of images.
    path.write_bytes(np.array([0, 1, 0, 7], np.int32).tobytes() + content[20:])
    assert load_weights("yolov3_tiny", path).model == yolov3_tiny(3)


def test_a_published_file_is_known_by_its_name(tmp_path):
    peer("yolov3-tiny", tmp_path / "yolov3-tiny.weights", num_classes=80)
    found = jaxcnn.load(tmp_path / "yolov3-tiny.weights")
    assert (len(found.class_names), found.class_names[0]) == (80, "person")
    assert found.task == found.layer.task((416, 416))
    (tmp_path / "yolov3-tiny.weights").rename(tmp_path / "mine.weights")
    with pytest.raises(FileError, match="expected a source that names its model"):
        jaxcnn.load(tmp_path / "mine.weights")


MAPS = ((12, 8), (6, 4), (3, 2))
TASK = YOLOv3Detection(SIZE, MAPS, strides=(8, 16, 32), anchors=ANCHORS)


def drawn(batch, num_classes, seed=3):
    rng, count = np.random.default_rng(seed), sum(TASK.level_sizes)
    return {
        "classes": rng.normal(size=(batch, count, num_classes)),
        "boxes": 0.7 * rng.normal(size=(batch, count, 4)),
        "objectness": rng.normal(size=(batch, count)),
    }


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rows_of_anchors():
    """Yields column, row, stride, and width and height of the anchor of each box, in the order of the outputs."""
    for (height, width), stride, anchors in zip(MAPS, (8, 16, 32), ANCHORS, strict=True):
        for row in range(height):
            for column in range(width):
                for anchor in anchors:
                    yield column, row, stride, *anchor


def decoded(numbers):
    boxes = []
    for (x, y, w, h), (column, row, stride, width, height) in zip(numbers, rows_of_anchors(), strict=True):
        cx, cy = (sigmoid(x) + column) * stride, (sigmoid(y) + row) * stride
        w, h = width * np.exp(w), height * np.exp(h)
        boxes.append((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
    return np.array(boxes)


def iou(one, other):
    width, height = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


def test_boxes_and_scores_are_those_of_the_paper():
    outputs = drawn(1, 3)
    one = {name: array[0] for name, array in outputs.items()}
    np.testing.assert_allclose(TASK.decode_boxes(jax.tree.map(jnp.asarray, one)), decoded(one["boxes"]), rtol=1e-12)
    expected = sigmoid(one["objectness"])[:, None] * sigmoid(one["classes"])
    np.testing.assert_allclose(TASK.scores(jax.tree.map(jnp.asarray, one)), expected, rtol=1e-12)


def entropy(logit, target):
    return -target * np.log(sigmoid(logit)) - (1 - target) * np.log(1 - sigmoid(logit))


def paper_loss(outputs, boxes, classes):
    """Computes the three parts of the loss of one image by loops."""
    found, rows = decoded(outputs["boxes"]), list(rows_of_anchors())
    shapes = [(w, h) for level in ANCHORS for w, h in level]
    owners = {}
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        w, h = x2 - x1, y2 - y1
        fits = [iou((0, 0, w, h), (0, 0, *shape)) for shape in shapes]
        best = int(np.argmax(fits))
        stride = (8, 16, 32)[best // 3]
        cell = (x1 + x2) / 2 // stride, (y1 + y2) / 2 // stride
        place = rows.index((*cell, stride, *shapes[best]))
        if place not in owners or owners[place][1] < fits[best]:
            owners[place] = index, fits[best]
    parts = {"class_loss": 0.0, "box_loss": 0.0, "objectness_loss": 0.0}
    for place, (column, row, stride, width, height) in enumerate(rows):
        logit = outputs["objectness"][place]
        if place not in owners:
            if max((iou(found[place], box) for box in boxes), default=0) <= 0.5:
                parts["objectness_loss"] += entropy(logit, 0)
            continue
        parts["objectness_loss"] += entropy(logit, 1)
        index = owners[place][0]
        x1, y1, x2, y2 = boxes[index]
        w, h = x2 - x1, y2 - y1
        parts["class_loss"] += sum(
            entropy(logit, float(label == classes[index])) for label, logit in enumerate(outputs["classes"][place])
        )
        tx, ty, tw, th = outputs["boxes"][place]
        error = entropy(tx, (x1 + x2) / 2 / stride - column) + entropy(ty, (y1 + y2) / 2 / stride - row)
        error += (tw - np.log(w / width)) ** 2 / 2 + (th - np.log(h / height)) ** 2 / 2
        parts["box_loss"] += (2 - w * h / (SIZE[0] * SIZE[1])) * error
    return parts


@pytest.mark.parametrize("counts", [(3, 0, 5), (0, 0, 0)], ids=["objects", "none"])
def test_losses_are_those_of_loops(counts):
    batch, outputs = scenes(SIZE, 3, counts=counts), drawn(3, 3)
    # Two objects of one image have the same box.
    if any(counts):
        first, second = np.flatnonzero(batch["valid"][2])[:2]
        batch["boxes"][2, second] = batch["boxes"][2, first] + [0.1, 0.1, 0.2, 0.2]
    each = []
    for i in range(3):
        valid = batch["valid"][i]
        one = {name: array[i] for name, array in outputs.items()}
        each.append(paper_loss(one, batch["boxes"][i][valid], batch["classes"][i][valid]))
    ours = jax.jit(TASK.metrics)(jax.tree.map(jnp.asarray, outputs), batch)
    for name, mean in ours.items():
        assert float(mean.weight) == 3
        assert float(mean.total) == pytest.approx(sum(part[name] for part in each), rel=1e-10, abs=1e-12)
    assert float(ours["box_loss"].total > 0) == any(counts)
    gradient = jax.jit(jax.grad(lambda outputs: TASK.loss(outputs, batch).total))(jax.tree.map(jnp.asarray, outputs))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_anchors_are_those_of_the_configurations():
    for name, anchors in (("yolov3", ANCHORS), ("yolov3-tiny", TINY_ANCHORS)):
        net = network.DarknetNet(*cfg.load_bundled_cfg(name))
        assert tuple(tuple(map(tuple, spec.anchors)) for spec in reversed(net.detections)) == anchors
