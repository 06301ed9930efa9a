"""SSD: torchvision's weights, losses and detections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detection_peer import as_set, loaded, our_outputs, raw_outputs, scenes, torch_targets, worst
from torchvision_peer import nn, torch, torchvision
from weights_peer import changed, check_names, images

from jaxcnn.layers import BatchNorm, count_parameters, multiply_adds
from jaxcnn.models import ssd300_vgg16
from jaxcnn.tasks import DefaultBoxDetection

pytestmark = pytest.mark.usefixtures("float64")

detection = torchvision.models.detection
# All columns: the softmax needs the background.
NAMES = {"classes": ("cls_logits", 0), "boxes": ("bbox_regression", 0)}
SIZE, MAPS = (96, 70), ((12, 9), (6, 5))
RATIOS, SCALES, STEPS = ((2.0,), (2.0, 3.0)), (0.15, 0.3, 0.6), (8, 16)
TASK = DefaultBoxDetection(SIZE, MAPS, aspect_ratios=RATIOS, scales=SCALES, steps=STEPS)


@pytest.mark.slow
def test_weights_give_the_outputs_of_torchvision(tmp_path):
    module = detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=4)
    weights = loaded("ssd300_vgg16", module, tmp_path, (268, 276))
    batch = images((300, 268), batch=1)
    assert worst(our_outputs(weights, batch), raw_outputs(module, batch), NAMES) < 1e-10
    assert weights.model == ssd300_vgg16(3)


def test_weights_of_ssdlite_give_the_outputs_of_torchvision(tmp_path):
    module = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    weights = loaded("ssdlite320_mobilenet_v3_large", module, tmp_path, 128)
    batch = images((128, 107))
    expected = raw_outputs(module, batch)
    assert worst(our_outputs(weights, batch), expected, NAMES) < 1e-10
    # The epsilon of torch's own norms, in the place of 0.001.
    wrong = changed(weights.model, BatchNorm, epsilon=1e-5)
    assert worst(our_outputs(weights, batch, model=wrong), expected, NAMES) > 1e-4


def test_names_counts_and_default_boxes_of_ssdlite_are_those_of_torchvision():
    with torch.device("meta"):
        module = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    model = check_names("torchvision/ssdlite320_mobilenet_v3_large", module.state_dict(), num_classes=90)
    assert count_parameters(model) == sum(p.numel() for p in module.parameters()) == 3_440_060
    assert multiply_adds(model, (320, 320, 3)) == pytest.approx(0.583e9, rel=1e-3)
    real = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2)
    task = model.task((320, 320))
    np.testing.assert_allclose(task.anchors, default_boxes(real.anchor_generator, (320, 320), task), rtol=0, atol=1e-4)
    options = (task.score_threshold, task.iou_threshold, task.max_detections, task.candidates)
    assert options == (real.score_thresh, real.nms_thresh, real.detections_per_img, real.topk_candidates)


def default_boxes(generator, size, task):
    """Returns torchvision's default boxes for maps of the sizes of a task."""
    image_list = detection.image_list.ImageList(torch.zeros(1, 3, *size), [size])
    return generator(image_list, [torch.zeros(1, 1, *map_size) for map_size in task.map_sizes])[0]


def test_names_shapes_counts_and_default_boxes_are_those_of_torchvision():
    with torch.device("meta"):
        module = detection.ssd300_vgg16(weights=None, weights_backbone=None)
    model = check_names("torchvision/ssd300_vgg16", module.state_dict(), num_classes=90)
    assert count_parameters(model) == sum(p.numel() for p in module.parameters()) == 35_641_826
    assert multiply_adds(model, (300, 300, 3)) == pytest.approx(34.858e9, rel=1e-4)
    generator = detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=2).anchor_generator
    task = model.task((300, 300))
    np.testing.assert_allclose(task.anchors, default_boxes(generator, (300, 300), task), rtol=0, atol=1e-4)
    options = (task.score_threshold, task.iou_threshold, task.max_detections, task.candidates, task.negatives)
    assert options == (0.01, 0.45, 200, 400, 3)


class Levels(nn.Module):
    """A backbone in name only."""


def peer(num_classes, **options):
    """Returns torchvision's SSD without a network, and its default boxes of an image."""
    generator = detection.anchor_utils.DefaultBoxGenerator(RATIOS, scales=list(SCALES), steps=list(STEPS))
    module = detection.ssd.SSD(Levels(), generator, SIZE, num_classes + 1, head=nn.Identity(), **options)
    return module, torch.tensor(TASK.anchors).double()


def drawn(batch, num_classes, sharpness):
    rng, count = np.random.default_rng(3), sum(TASK.level_sizes)
    return {
        "classes": sharpness * rng.normal(size=(batch, count, 1 + num_classes)),
        "boxes": rng.normal(size=(batch, count, 4)),
    }


def as_torch(outputs):
    given = {"cls_logits": outputs["classes"], "bbox_regression": outputs["boxes"]}
    return {name: torch.tensor(array, requires_grad=True) for name, array in given.items()}


@pytest.mark.parametrize("counts", [(3, 0, 5), (0, 0, 0)], ids=["objects", "none"])
def test_losses_and_gradients_are_those_of_torchvision(counts):
    module, anchors = peer(3)
    batch, outputs = scenes(SIZE, 3, counts=counts), drawn(3, 3, 1.0)
    theirs, targets = as_torch(outputs), torch_targets(batch)
    none = torch.full((len(anchors),), -1)
    iou = torchvision.ops.box_iou
    matches = [module.proposal_matcher(iou(one["boxes"], anchors)) if len(one["boxes"]) else none for one in targets]
    expected = module.compute_loss(targets, theirs, [anchors] * 3, matches)
    sum(expected.values()).backward()

    @jax.jit
    def loss(outputs):
        mean = TASK.loss(outputs, batch)
        # A training step divides by 1 where the weight is 0.
        return mean.total / jnp.maximum(mean.weight, 1)

    value, gradient = jax.value_and_grad(loss)(jax.tree.map(jnp.asarray, outputs))
    assert value == pytest.approx(sum(expected.values()).item(), rel=1e-10, abs=1e-300)
    assert (float(value) > 0) == any(counts)
    for ours, (name, _) in NAMES.items():
        wanted = theirs[name].grad.numpy()
        np.testing.assert_allclose(gradient[ours], wanted, rtol=0, atol=1e-10 * np.abs(wanted).max() + 1e-300)


def test_detections_are_those_of_torchvision():
    options = {"candidates": 50, "max_detections": 40, "score_threshold": 0.3}
    module, anchors = peer(3, topk_candidates=50, detections_per_img=40, score_thresh=0.3)
    outputs = drawn(2, 3, 2.0)
    theirs = {name: tensor.detach() for name, tensor in as_torch(outputs).items()}
    expected = module.postprocess_detections(theirs, [anchors] * 2, [SIZE] * 2)
    task = DefaultBoxDetection(SIZE, MAPS, aspect_ratios=RATIOS, scales=SCALES, steps=STEPS, **options)
    ours = jax.jit(task.decode)(outputs)
    for i, found in enumerate(expected):
        valid = np.asarray(ours["valid"][i])
        assert valid.sum() == len(found["boxes"]) > 10
        rows = [np.asarray(ours[name][i])[valid] for name in ("boxes", "scores", "classes")]
        wanted = as_set(found["boxes"], found["scores"], found["labels"] - 1)
        np.testing.assert_allclose(as_set(*rows), wanted, rtol=1e-9)
