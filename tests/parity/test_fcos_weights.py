"""FCOS: torchvision's weights, losses and detections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detection_peer import as_set, loaded, our_outputs, raw_outputs, scenes, torch_targets, worst
from torchvision_peer import nn, torch, torchvision
from weights_peer import check_names, images

from jaxcnn.layers import count_parameters, multiply_adds
from jaxcnn.models import fcos_resnet50_fpn
from jaxcnn.tasks import PointDetection

pytestmark = pytest.mark.usefixtures("float64")

detection = torchvision.models.detection
NAMES = {"classes": ("cls_logits", 1), "boxes": ("bbox_regression", 0), "centerness": ("bbox_ctrness", 0)}
SIZE, MAPS, STRIDES = (96, 70), ((12, 9), (6, 5), (3, 3)), (8, 16, 32)
TASK = PointDetection(SIZE, MAPS, strides=STRIDES)


def test_weights_give_the_outputs_of_torchvision(tmp_path):
    module = detection.fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4)
    weights = loaded("fcos_resnet50_fpn", module, tmp_path, 64)
    batch = images(SIZE)
    expected = raw_outputs(module, batch)
    expected["bbox_ctrness"] = expected["bbox_ctrness"][..., 0]
    assert worst(our_outputs(weights, batch), expected, NAMES) < 1e-10


def test_names_shapes_and_counts_are_those_of_torchvision():
    with torch.device("meta"):
        module = detection.fcos_resnet50_fpn(weights=None, weights_backbone=None)
    model = check_names("torchvision/fcos_resnet50_fpn", module.state_dict(), num_classes=90)
    # 3x3 of 256 maps and a bias for the background; the frozen norms of the published weights count as no parameters.
    background, frozen = 9 * 256 + 1, 53_120
    assert count_parameters(model) + background == sum(p.numel() for p in module.parameters()) == 32_269_600 + frozen
    assert multiply_adds(fcos_resnet50_fpn(91), (800, 800, 3)) == pytest.approx(128.207e9, rel=1e-4)


class Levels(nn.Module):
    """A backbone in name only."""

    out_channels = 32


def peer(num_classes, **options):
    """Returns torchvision's FCOS without a network, and its anchors of an image."""
    generator = detection.anchor_utils.AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    module = detection.FCOS(Levels(), num_classes + 1, anchor_generator=generator, **options)
    image_list = detection.image_list.ImageList(torch.zeros(1, 3, *SIZE).double(), [SIZE])
    return module, generator(image_list, [torch.zeros(1, 32, *size).double() for size in MAPS])[0]


def drawn(batch, num_classes):
    rng, count = np.random.default_rng(3), sum(TASK.level_sizes)
    return {
        "classes": 2 * rng.normal(size=(batch, count, num_classes)) - 1,
        "boxes": rng.uniform(0, 4, size=(batch, count, 4)),
        "centerness": rng.normal(size=(batch, count)),
    }


def with_background(outputs):
    """Returns the outputs as torchvision has them, with an output for the background that is never chosen."""
    given = {
        "cls_logits": np.pad(outputs["classes"], ((0, 0), (0, 0), (1, 0)), constant_values=-1e4),
        "bbox_regression": outputs["boxes"],
        "bbox_ctrness": outputs["centerness"][..., None],
    }
    return {name: torch.tensor(array, requires_grad=True) for name, array in given.items()}


@pytest.mark.parametrize("counts", [(3, 0, 5), (0, 0, 0)], ids=["objects", "none"])
def test_losses_and_gradients_are_those_of_torchvision(counts):
    module, anchors = peer(3)
    batch, outputs = scenes(SIZE, 3, counts=counts), drawn(3, 3)
    theirs = with_background(outputs)
    expected = module.compute_loss(torch_targets(batch), theirs, [anchors] * 3, list(TASK.level_sizes))
    sum(expected.values()).backward()

    def loss(outputs):
        mean = TASK.loss(outputs, batch)
        # A training step divides by 1 where the weight is 0.
        return mean.total / jnp.maximum(mean.weight, 1)

    value, gradient = jax.jit(jax.value_and_grad(loss))(jax.tree.map(jnp.asarray, outputs))
    assert value == pytest.approx(sum(expected.values()).item(), rel=1e-10)
    parts = jax.jit(TASK.metrics)(outputs, batch)
    assert (float(parts["centerness_loss"].weight) > 0) == any(counts)
    for ours, (name, first) in NAMES.items():
        wanted = theirs[name].grad.numpy()
        wanted = wanted[..., 0] if ours == "centerness" else wanted[..., first:]
        np.testing.assert_allclose(gradient[ours], wanted, rtol=0, atol=1e-10 * np.abs(wanted).max() + 1e-300)


def test_detections_are_those_of_torchvision():
    module, anchors = peer(3, topk_candidates=60, detections_per_img=200)
    outputs, sizes = drawn(2, 3), list(TASK.level_sizes)
    theirs = {name: list(tensor.detach().split(sizes, 1)) for name, tensor in with_background(outputs).items()}
    expected = module.postprocess_detections(theirs, [list(anchors.split(sizes))] * 2, [SIZE] * 2)
    task = PointDetection(SIZE, MAPS, strides=STRIDES, candidates=60, max_detections=200)
    assert (task.score_threshold, task.iou_threshold) == (module.score_thresh, module.nms_thresh)
    ours = jax.jit(task.decode)(outputs)
    for i, found in enumerate(expected):
        valid = np.asarray(ours["valid"][i])
        assert valid.sum() == len(found["boxes"]) > 10
        rows = [np.asarray(ours[name][i])[valid] for name in ("boxes", "scores", "classes")]
        wanted = as_set(found["boxes"], found["scores"], found["labels"] - 1)
        np.testing.assert_allclose(as_set(*rows), wanted, rtol=1e-9)
