"""Mask R-CNN: torchvision's weights, losses, detections and masks."""

import jax
import numpy as np
import pytest
from detection_peer import scenes, torch_targets
from region_peer import compare_losses, detections, loaded, old_name, our_outputs
from torchvision_peer import torch, torchvision
from weights_peer import changed, check_names, error, images, record_of

from jaxcnn.layers import BatchNorm, count_parameters, multiply_adds
from jaxcnn.models import maskrcnn_resnet50_fpn_v2

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("float64")]

detection = torchvision.models.detection
SIZE = (96, 70)


def built(name, **options):
    return getattr(detection, name)(weights=None, weights_backbone=None, num_classes=4, **options)


@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2"])
def test_names_shapes_and_counts_are_those_of_torchvision(name):
    with torch.device("meta"):
        module = getattr(detection, name)(weights=None, weights_backbone=None)
    model = check_names(f"torchvision/{name}", module.state_dict(), num_classes=90)
    assert count_parameters(model) == sum(p.numel() for p in module.parameters())
    published = torchvision.models.get_model_weights(name).COCO_V1
    frozen = 53_120 if name == "maskrcnn_resnet50_fpn" else 0
    assert count_parameters(model) == published.meta["num_params"] + frozen
    assert record_of(f"torchvision/{name}").class_names == tuple(published.meta["categories"][1:])


def test_multiply_adds_are_those_that_torchvision_publishes():
    # For an image of 800x800 pixels; those of the first version are published without the masks.
    assert multiply_adds(maskrcnn_resnet50_fpn_v2(90), (800, 800, 3)) == pytest.approx(333.577e9, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rename"),
    [("maskrcnn_resnet50_fpn", old_name), ("maskrcnn_resnet50_fpn_v2", None)],
    ids=["old names", "second version"],
)
def test_masks_are_those_of_torchvision(name, rename, tmp_path):
    module = built(name, box_detections_per_img=100)
    epsilon = 0.0 if name == "maskrcnn_resnet50_fpn" else None
    weights = loaded(name, module, tmp_path, 64, epsilon=epsilon, rename=rename)
    batch = images(SIZE, batch=1)
    expected = detections(module, batch)[0]
    _, outputs = our_outputs(weights, batch)
    ours = jax.jit(weights.model.task(SIZE).decode)(outputs)
    valid = np.asarray(ours["valid"][0])
    assert valid.sum() == len(expected["boxes"]) > 10
    # Both are in the order of the scores, which are apart.
    assert error(ours["scores"][0][valid], expected["scores"]) < 1e-9
    np.testing.assert_array_equal(ours["classes"][0][valid], expected["labels"] - 1)
    assert error(ours["boxes"][0][valid], expected["boxes"]) < 1e-9
    assert error(ours["box_masks"][0][valid], expected["masks"][:, 0]) < 1e-9


@pytest.mark.slow
def test_losses_and_gradients_are_those_of_torchvision(tmp_path):
    name = "maskrcnn_resnet50_fpn"
    module = built(name)
    weights = loaded(name, module, tmp_path, 64)
    # torch does not train with the epsilon of 0 of these weights.
    weights = weights._replace(model=changed(weights.model, BatchNorm, epsilon=1e-5))
    objects = torch_targets(scenes(SIZE, 3, counts=(3,)))
    rng = np.random.default_rng(5)
    for one in objects:
        one["masks"] = torch.tensor(rng.uniform(size=(len(one["boxes"]), *SIZE)) > 0.5)
    compare_losses(name, module, weights, images(SIZE, batch=1), objects)
