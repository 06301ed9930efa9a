"""YOLOX: the authors' weights, losses and detections, by libreyolo, which has their names of the arrays."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torchvision_peer
from detection_peer import as_set, our_outputs, scenes
from sklearn.datasets import load_sample_images
from torchvision_peer import calibrate, torch
from weights_peer import changed, channels_first, check_names, check_options, error, images, record_of
from yolox_peer import RawOutputs, losses, network

import jaxcnn
from jaxcnn.interop.weights import load_weights, save_torch
from jaxcnn.layers import BatchNorm
from jaxcnn.tasks import YOLOXDetection

pytestmark = pytest.mark.usefixtures("float64")

SIZE, MAPS = (96, 64), ((12, 8), (6, 4), (3, 2))
TASK = YOLOXDetection(SIZE, MAPS, strides=(8, 16, 32))
SIZES = {"nano": "n", "tiny": "t", "s": "s", "m": "m", "l": "l", "x": "x"}


def peer(size, num_classes=4):
    return network.LibreYOLOXModel(SIZES[size], nb_classes=num_classes)


def saved(size, path, *, num_classes=4, nested=False):
    """Writes calibrated weights in float64, and returns the module."""
    module = peer(size, num_classes).double()
    calibrate(RawOutputs(module), channels_first(images(64, seed=7)), 0)
    arrays = module.state_dict()
    # As the authors' training writes it.
    torch.save({"model": arrays, "optimizer": {"state": {}}, "start_epoch": 300} if nested else arrays, path)
    return module


def raw_outputs(module, batch):
    with torch.no_grad():
        return {name: value.numpy() for name, value in RawOutputs(module).eval()(channels_first(batch)).items()}


def worst(actual, expected):
    assert set(actual) == set(expected)
    return max(error(actual[name], expected[name]) for name in actual)


@pytest.mark.parametrize(
    ("size", "nested"), [("nano", False), ("tiny", True), pytest.param("m", False, marks=pytest.mark.slow)]
)
def test_weights_give_the_outputs_of_the_peer(size, nested, tmp_path):
    module = saved(size, tmp_path / "weights.pth", nested=nested)
    weights = load_weights(f"yolox_{size}", tmp_path / "weights.pth")
    batch = images(SIZE)
    expected = raw_outputs(module, batch)
    assert worst(our_outputs(weights, batch), expected) < 1e-10
    wrong = changed(weights.model, BatchNorm, epsilon=1e-5)
    assert worst(our_outputs(weights, batch, model=wrong), expected) > 1e-4


@pytest.mark.parametrize("size", SIZES)
def test_names_shapes_and_options_are_those_of_the_authors(size):
    with torch.device("meta"):
        module = peer(size, 80)
    check_names(f"yolox/yolox_{size}", module.state_dict(), num_classes=80)
    if size == "nano":
        compared = check_options_but_the_stem(module)
        assert compared > 100


def check_options_but_the_stem(module):
    """Compares the options of all layers but the first convolution, which is one of squares there."""
    with pytest.raises(AssertionError, match=r"backbone\.backbone\.stem\.conv\.conv\.weight"):
        check_options("yolox/yolox_nano", module, 80)
    stem = module.backbone.backbone.stem.conv.conv
    stem.stride, stem.padding = (2, 2), (2, 2)
    check_options("yolox/yolox_nano", module, 80)
    return len(list(module.modules()))


def test_written_weights_are_read_by_the_peer(tmp_path):
    module = saved("nano", tmp_path / "theirs.pth")
    weights = load_weights("yolox_nano", tmp_path / "theirs.pth")
    save_torch(tmp_path / "ours.pth", *weights[:3], architecture="yolox/yolox_nano")
    ours, theirs = torch.load(tmp_path / "ours.pth", weights_only=True), module.state_dict()
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name].double(), theirs[name].double()) for name in theirs)


def drawn(batch, num_classes):
    rng, count = np.random.default_rng(3), sum(TASK.level_sizes)
    sizes = 0.5 * rng.normal(size=(batch, count, 2)) + 0.7
    return {
        "classes": 2 * rng.normal(size=(batch, count, num_classes)) - 1,
        "boxes": np.concatenate([rng.uniform(-0.5, 1.5, size=(batch, count, 2)), sizes], 2),
        "objectness": rng.normal(size=(batch, count)),
    }


def labels_of(batch):
    """Returns the objects as the authors' code takes them: the real objects first, then rows of zeros."""
    labels = np.zeros((*batch["valid"].shape, 5))
    for i, (boxes, classes, valid) in enumerate(zip(batch["boxes"], batch["classes"], batch["valid"], strict=True)):
        centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        rows = np.column_stack([classes, centres, sizes])[valid]
        labels[i, : len(rows)] = rows
    return torch.tensor(labels)


@pytest.mark.parametrize("l1_weight", [0.0, 1.0])
@pytest.mark.parametrize("counts", [(3, 0, 5), (0, 0, 0)], ids=["objects", "none"])
def test_losses_and_gradients_are_those_of_the_authors(counts, l1_weight):
    batch, outputs = scenes(SIZE, 3, counts=counts), drawn(3, 3)
    theirs = {name: torch.tensor(array, requires_grad=True) for name, array in outputs.items()}
    with warnings.catch_warnings():
        # It asks for CUDA's mixed precision.
        warnings.simplefilter("ignore")
        expected = losses(theirs, MAPS, labels_of(batch), use_l1=bool(l1_weight))
    expected["total_loss"].backward()
    task = YOLOXDetection(SIZE, MAPS, strides=(8, 16, 32), l1_weight=l1_weight)

    @jax.jit
    def loss(outputs):
        parts = task.metrics(outputs, batch)
        mean = task.loss(outputs, batch)
        # A training step divides by 1 where the weight is 0.
        return mean.total / jnp.maximum(mean.weight, 1), parts

    (value, parts), gradient = jax.value_and_grad(loss, has_aux=True)(jax.tree.map(jnp.asarray, outputs))
    assert value == pytest.approx(expected["total_loss"].item(), rel=1e-10)
    names = {"class_loss": "cls_loss", "box_loss": "iou_loss", "objectness_loss": "obj_loss", "l1_loss": "l1_loss"}
    assert set(parts) == set(names)
    for ours, name in names.items():
        mean = parts[ours]
        assert float(mean.total / jnp.maximum(mean.weight, 1)) == pytest.approx(
            torch.as_tensor(expected[name]).item(), rel=1e-10
        )
    assert float(parts["box_loss"].total > 0) == any(counts)
    for name, tensor in theirs.items():
        wanted = np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()
        np.testing.assert_allclose(gradient[name], wanted, rtol=0, atol=1e-10 * np.abs(wanted).max() + 1e-300)


def detections(outputs, threshold, iou_threshold):
    """Returns boxes, scores and classes of one image: the rule of the authors, from raw outputs, by torchvision."""
    places, strides = [], []
    for (height, width), stride in zip(MAPS, (8, 16, 32), strict=True):
        places += [(x, y) for y in range(height) for x in range(width)]
        strides += [stride] * (height * width)
    places, strides = np.array(places, float), np.array(strides, float)[:, None]
    centres, sizes = (outputs["boxes"][:, :2] + places) * strides, np.exp(outputs["boxes"][:, 2:]) * strides
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], 1)
    boxes = boxes.clip(0, np.tile(SIZE[::-1], 2))
    probabilities = 1 / (1 + np.exp(-outputs["classes"]))
    scores = probabilities.max(1) / (1 + np.exp(-outputs["objectness"]))
    classes, kept = probabilities.argmax(1), []
    for label in range(probabilities.shape[1]):
        own = np.flatnonzero((classes == label) & (scores > threshold))
        chosen = torchvision_peer._nms(torch.tensor(boxes[own]), torch.tensor(scores[own]), iou_threshold)
        kept += own[chosen.numpy()].tolist()
    return boxes[kept], scores[kept], classes[kept]


def test_detections_are_those_of_the_authors():
    outputs = drawn(2, 3)
    ours = jax.jit(TASK.decode)(jax.tree.map(jnp.asarray, outputs))
    assert (TASK.score_threshold, TASK.iou_threshold) == (0.01, 0.65)
    for i in range(2):
        expected = detections({name: array[i] for name, array in outputs.items()}, 0.01, 0.65)
        valid = np.asarray(ours["valid"][i])
        assert 20 < valid.sum() == len(expected[0]) < sum(TASK.level_sizes)
        rows = [np.asarray(ours[name][i])[valid] for name in ("boxes", "scores", "classes")]
        np.testing.assert_allclose(as_set(*rows), as_set(*expected), rtol=1e-9)


@pytest.mark.parametrize("turned", [False, True])
def test_photographs_are_prepared_as_by_the_authors(turned):
    cv2 = pytest.importorskip("cv2")
    photograph = load_sample_images().images[0]
    photograph = np.ascontiguousarray(np.swapaxes(photograph, 0, 1) if turned else photograph)[:, ::-1]
    ratio = min(416 / photograph.shape[0], 416 / photograph.shape[1])
    height, width = (int(side * ratio) for side in photograph.shape[:2])
    expected = np.full((416, 416, 3), 114, np.float32)
    blue_first = np.ascontiguousarray(photograph[:, :, ::-1])
    expected[:height, :width] = cv2.resize(blue_first, (width, height), interpolation=cv2.INTER_LINEAR)
    actual = record_of("yolox/yolox_nano").preprocessing(photograph)
    assert actual.shape == expected.shape
    # OpenCV's weights of pixels are multiples of 1/2048.
    assert np.abs(actual - expected).max() <= 1


def test_a_published_file_is_known_by_its_name_and_predicts_on_photographs(tmp_path):
    module = saved("nano", tmp_path / "yolox_nano.pth", num_classes=80, nested=True)
    network = jaxcnn.load(tmp_path / "yolox_nano.pth")
    assert (len(network.class_names), network.class_names[0], network.class_names[-1]) == (80, "person", "toothbrush")
    assert network.task == network.layer.task((416, 416))
    photograph = load_sample_images().images[0]
    found = network.predict(photograph)[0]
    prepared = network.preprocessing(photograph)
    raw = raw_outputs(module, prepared[None].astype(np.float64))
    # The weights were calibrated with pixels 256 times smaller, so that most logits are large.
    ours = our_outputs(network, prepared[None].astype(np.float64), model=network.layer)
    assert worst(ours, raw) < 1e-10
    expected = jax.tree.map(lambda leaf: np.asarray(leaf[0]), network.task.decode(ours))
    assert found["valid"].sum() > 0
    assert np.max(found["boxes"][:, 2]) <= 640
    assert np.max(found["boxes"][:, 3]) <= 427
    best = np.argmax(expected["scores"])
    assert found["classes"][0] == expected["classes"][best]
