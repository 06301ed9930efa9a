"""RetinaNet: torchvision's weights, losses and detections."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detection_peer import as_set, loaded, our_outputs, raw_outputs, scenes, torch_targets, worst
from torchvision_peer import nn, torch, torchvision
from weights_peer import changed, check_names, images, record_of

from jaxcnn.interop import conversion
from jaxcnn.interop.weights import save_torch
from jaxcnn.layers import BatchNorm, count_parameters, multiply_adds
from jaxcnn.models import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2
from jaxcnn.tasks import AnchorDetection

pytestmark = pytest.mark.usefixtures("float64")

detection = torchvision.models.detection
NAMES = {"classes": ("cls_logits", 1), "boxes": ("bbox_regression", 0)}
SIZE = (96, 70)


def old_name(name):
    """Returns the name of an array in files of the first version."""
    name = re.sub(r"(fpn\.\w+_blocks\.\d)\.0\.", r"\1.", name)
    return re.sub(r"(head\.\w+\.conv)\.(\d)\.0\.", lambda match: f"{match[1]}.{2 * int(match[2])}.", name)


@pytest.mark.parametrize("rename", [None, old_name], ids=["new", "old"])
def test_weights_of_the_first_version_give_its_outputs(rename, tmp_path):
    module = detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4)
    weights = loaded("retinanet_resnet50_fpn", module, tmp_path, 64, epsilon=0.0, rename=rename)
    batch = images(SIZE)
    expected = raw_outputs(module, batch)
    assert worst(our_outputs(weights, batch), expected, NAMES) < 1e-10
    if rename is None:
        # The epsilon of the backbone's own norms, in the place of 0.
        wrong = changed(weights.model, BatchNorm, epsilon=1e-5)
        assert worst(our_outputs(weights, batch, model=wrong), expected, NAMES) > 1e-5


def test_weights_of_the_second_version_give_its_outputs(tmp_path):
    module = detection.retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=4)
    weights = loaded("retinanet_resnet50_fpn_v2", module, tmp_path, 64)
    batch = images(SIZE)
    assert worst(our_outputs(weights, batch), raw_outputs(module, batch), NAMES) < 1e-10


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"])
def test_names_shapes_and_counts_are_those_of_torchvision(name):
    with torch.device("meta"):
        module = detection.__dict__[name](weights=None, weights_backbone=None)
    model = check_names(f"torchvision/{name}", module.state_dict(), num_classes=90)
    # One output of each of 9 anchors, of 256 maps of 3x3 and a bias, is for the background.
    background = 9 * (9 * 256 + 1)
    assert count_parameters(model) + background == sum(p.numel() for p in module.parameters())
    published = {"retinanet_resnet50_fpn": 34_014_999, "retinanet_resnet50_fpn_v2": 38_198_935}[name]
    # The first version was trained with frozen norms, whose scales and biases count as no parameters there.
    frozen = 53_120 if name == "retinanet_resnet50_fpn" else 0
    assert count_parameters(model) + background == published + frozen
    categories = torchvision.models.get_model_weights(name).COCO_V1.meta["categories"]
    assert record_of(f"torchvision/{name}").class_names == tuple(categories[1:])


@pytest.mark.parametrize(("build", "giga"), [(retinanet_resnet50_fpn, 151.54), (retinanet_resnet50_fpn_v2, 152.238)])
def test_multiply_adds_are_those_that_torchvision_publishes(build, giga):
    # For an image of 800x800 pixels.
    assert multiply_adds(build(91), (800, 800, 3)) == pytest.approx(giga * 1e9, rel=0.003)


def test_written_weights_are_read_by_torchvision(tmp_path):
    module = detection.retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=4)
    weights = loaded("retinanet_resnet50_fpn_v2", module, tmp_path, 64)
    path, name = tmp_path / "ours.pth", "torchvision/retinanet_resnet50_fpn_v2"
    save_torch(path, *weights[:3], architecture=name)
    ours = torch.load(path, weights_only=True)
    module.load_state_dict(ours)
    record = record_of(name)
    again = conversion.usable(record, ours)
    for key, target in conversion.targets(record, weights.model).items():
        leaf = weights[1 + target.tree]
        for part in target.keys:
            leaf = leaf[part]
        np.testing.assert_array_equal(again[key], record.to_source(target.path, target.layer, target.keys[-1], leaf))
    bias = ours["head.classification_head.cls_logits.bias"].reshape(9, 4)
    assert (torch.sigmoid(bias[:, 0]) < 1e-40).all()


class Levels(nn.Module):
    """A backbone in name only."""

    out_channels = 8


def peer(size, map_sizes, num_classes, **options):
    """Returns torchvision's RetinaNet without a network, its anchors of an image, and our task."""
    sizes, ratios = ((16, 20), (32, 41), (70, 90)), (0.5, 1.0, 2.0)
    generator = detection.anchor_utils.AnchorGenerator(sizes, (ratios,) * 3)
    module = detection.RetinaNet(Levels(), num_classes + 1, anchor_generator=generator, **options)
    module.head.regression_head._loss_type = options.get("box_loss", "l1")
    image_list = detection.image_list.ImageList(torch.zeros(1, 3, *size).double(), [size])
    maps = [torch.zeros(1, 8, *map_size).double() for map_size in map_sizes]
    return module, generator(image_list, maps)[0]


MAPS = ((12, 9), (6, 5), (3, 3))


def task(**options):
    return AnchorDetection(SIZE, MAPS, sizes=((16, 20), (32, 41), (70, 90)), **options)


def drawn(batch, num_classes, seed=3, spread=2.0):
    rng = np.random.default_rng(seed)
    count = sum(task().level_sizes)
    return {
        "classes": spread * rng.normal(size=(batch, count, num_classes)) - 2,
        "boxes": 0.3 * rng.normal(size=(batch, count, 4)),
    }


def with_background(outputs):
    """Returns the outputs as torchvision has them, with an output for the background that is never chosen."""
    logits = np.pad(outputs["classes"], ((0, 0), (0, 0), (1, 0)), constant_values=-1e4)
    given = {"cls_logits": logits, "bbox_regression": outputs["boxes"]}
    return {name: torch.tensor(array, requires_grad=True) for name, array in given.items()}


def test_anchors_are_those_of_torchvision():
    _, anchors = peer(SIZE, MAPS, 3)
    np.testing.assert_array_equal(task().anchors, anchors)


@pytest.mark.parametrize("box_loss", ["l1", "giou"])
def test_losses_and_gradients_are_those_of_torchvision(box_loss):
    module, anchors = peer(SIZE, MAPS, 3)
    module.head.regression_head._loss_type = box_loss
    batch, outputs = scenes(SIZE, 3), drawn(3, 3)
    theirs = with_background(outputs)
    expected = module.compute_loss(torch_targets(batch), theirs, [anchors] * 3)
    sum(expected.values()).backward()

    def loss(outputs):
        mean = task(box_loss=box_loss).loss(outputs, batch)
        return mean.total / mean.weight

    value, gradient = jax.jit(jax.value_and_grad(loss))(jax.tree.map(jnp.asarray, outputs))
    assert value == pytest.approx(sum(expected.values()).item(), rel=1e-10)
    parts = jax.jit(task(box_loss=box_loss).metrics)(outputs, batch)
    assert float(parts["class_loss"].value) == pytest.approx(expected["classification"].item(), rel=1e-10)
    assert float(parts["box_loss"].value) == pytest.approx(expected["bbox_regression"].item(), rel=1e-10)
    for ours, (name, first) in NAMES.items():
        wanted = theirs[name].grad.numpy()[..., first:]
        np.testing.assert_allclose(gradient[ours], wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())


def test_detections_are_those_of_torchvision():
    options = {"candidates": 60, "max_detections": 40, "score_threshold": 0.3}
    module, anchors = peer(SIZE, MAPS, 3, topk_candidates=60, detections_per_img=40, score_thresh=0.3)
    outputs, sizes = drawn(2, 3), list(task().level_sizes)
    theirs = {name: list(tensor.detach().split(sizes, 1)) for name, tensor in with_background(outputs).items()}
    expected = module.postprocess_detections(theirs, [list(anchors.split(sizes))] * 2, [SIZE] * 2)
    ours = jax.jit(task(**options).decode)(outputs)
    for i, found in enumerate(expected):
        valid = np.asarray(ours["valid"][i])
        assert valid.sum() == len(found["boxes"]) > 10
        rows = [np.asarray(ours[name][i])[valid] for name in ("boxes", "scores", "classes")]
        wanted = as_set(found["boxes"], found["scores"], found["labels"] - 1)
        np.testing.assert_allclose(as_set(*rows), wanted, rtol=1e-9)
