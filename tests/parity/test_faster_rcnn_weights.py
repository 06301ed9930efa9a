"""Faster R-CNN: torchvision's weights, losses and detections."""

import dataclasses

import jax
import numpy as np
import pytest
from detection_peer import as_set, scenes, torch_targets
from region_peer import compare_losses, detections, loaded, old_name, our_outputs, raw_outputs
from torchvision_peer import torch, torchvision, with_exact_hard_sigmoid
from weights_peer import changed, check_names, error, images, record_of

from jaxcnn.interop.weights import save_torch
from jaxcnn.layers import BatchNorm, count_parameters, multiply_adds
from jaxcnn.models import fasterrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn_v2
from jaxcnn.models.detection import region_proposals
from jaxcnn.ops import regions

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("float64")]

detection = torchvision.models.detection
SIZE = (96, 70)


def built(name, **options):
    return getattr(detection, name)(weights=None, weights_backbone=None, num_classes=4, **options)


def worst(ours, expected):
    assert set(ours) == set(expected)
    if any(ours[name].shape != expected[name].shape for name in expected):
        return np.inf
    return max(error(ours[name], expected[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize("rename", [None, old_name], ids=["new", "old"])
def test_weights_of_the_first_version_give_its_outputs(rename, tmp_path, monkeypatch):
    module = built("fasterrcnn_resnet50_fpn")
    # So that the regions of small images are on all levels.
    module.roi_heads.box_roi_pool.canonical_scale = 32
    weights = loaded("fasterrcnn_resnet50_fpn", module, tmp_path, 64, epsilon=0.0, rename=rename)
    weights = weights._replace(model=dataclasses.replace(weights.model, canonical_size=32.0))
    batch = images(SIZE)
    expected = raw_outputs(module, batch)
    ours, outputs = our_outputs(weights, batch)
    assert worst(ours, expected) < 1e-10
    compare_detections(weights, outputs, detections(module, batch))
    if rename is None:
        wrong = changed(weights.model, BatchNorm, epsilon=1e-5)
        assert worst(our_outputs(weights, batch, model=wrong)[0], expected) > 1e-5
        wrong = dataclasses.replace(weights.model, canonical_size=31.0)
        assert worst(our_outputs(weights, batch, model=wrong)[0], expected) > 1e-5
        aligned = regions.pyramid_roi_align
        monkeypatch.setattr(
            "jaxcnn.models.detection.faster_rcnn.pyramid_roi_align",
            lambda *arguments, **options: aligned(*arguments, **options, aligned=True),
        )
        wrong = dataclasses.replace(weights.model, max_detections=99)
        assert worst(our_outputs(weights, batch, model=wrong)[0], expected) > 1e-5
        monkeypatch.undo()
        anchors = region_proposals.anchor_boxes
        monkeypatch.setattr(region_proposals, "anchor_boxes", lambda *given: [level + 1 for level in anchors(*given)])
        wrong = dataclasses.replace(weights.model, max_detections=98)
        assert worst(our_outputs(weights, batch, model=wrong)[0], expected) > 1e-5


def compare_detections(weights, outputs, expected, *, size=SIZE):
    """Compares detections as sets, class by class; returns ours."""
    ours = jax.jit(weights.model.task(size).decode)(outputs)
    for i, found in enumerate(expected):
        valid = np.asarray(ours["valid"][i])
        assert valid.sum() == len(found["boxes"]) > 10
        rows = [np.asarray(ours[name][i])[valid] for name in ("boxes", "scores", "classes")]
        wanted = as_set(found["boxes"], found["scores"], found["labels"] - 1)
        np.testing.assert_allclose(as_set(*rows), wanted, rtol=1e-8, atol=1e-8)
    return ours


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"],
)
def test_weights_of_the_others_give_their_outputs(name, tmp_path):
    module = built(name)
    weights = loaded(name, module, tmp_path, 64)
    batch = images(SIZE)
    expected = raw_outputs(module, batch)
    ours, outputs = our_outputs(weights, batch)
    assert worst(ours, expected) < 1e-10
    compare_detections(weights, outputs, detections(module, batch))


NAMES = [
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_shapes_counts_and_options_are_those_of_torchvision(name):
    with torch.device("meta"):
        module = getattr(detection, name)(weights=None, weights_backbone=None)
    model = check_names(f"torchvision/{name}", module.state_dict(), num_classes=90)
    assert count_parameters(model) == sum(p.numel() for p in module.parameters())
    published = torchvision.models.get_model_weights(name).COCO_V1
    # Frozen norms have no parameters in torchvision.
    frozen = {"fasterrcnn_resnet50_fpn": 53_120, "fasterrcnn_resnet50_fpn_v2": 0}.get(name, 24_400)
    assert count_parameters(model) == published.meta["num_params"] + frozen
    assert record_of(f"torchvision/{name}").class_names == tuple(published.meta["categories"][1:])
    rpn, heads, task = model.rpn, module.roi_heads, model.task((96, 96))
    assert rpn.candidates == tuple(module.rpn._pre_nms_top_n[phase] for phase in ("training", "testing"))
    assert rpn.slots == tuple(module.rpn._post_nms_top_n[phase] for phase in ("training", "testing"))
    assert (rpn.iou_threshold, rpn.score_threshold) == (module.rpn.nms_thresh, module.rpn.score_thresh)
    options = (task.score_threshold, task.iou_threshold, task.max_detections)
    assert options == (heads.score_thresh, heads.nms_thresh, heads.detections_per_img)
    assert (model.anchor_samples, model.region_samples) == (
        module.rpn.fg_bg_sampler.batch_size_per_image,
        heads.fg_bg_sampler.batch_size_per_image,
    )


@pytest.mark.parametrize(("build", "giga"), [(fasterrcnn_resnet50_fpn, 134.38), (fasterrcnn_resnet50_fpn_v2, 280.371)])
def test_multiply_adds_are_those_that_torchvision_publishes(build, giga):
    # For an image of 800x800 pixels.
    assert multiply_adds(build(90), (800, 800, 3)) == pytest.approx(giga * 1e9, rel=1e-4)


@pytest.mark.slow
def test_losses_and_gradients_are_those_of_torchvision(tmp_path):
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    module = with_exact_hard_sigmoid(built(name))
    weights = loaded(name, module, tmp_path, 64)
    objects = torch_targets(scenes(SIZE, 3, counts=(3, 4, 2)))
    compare_losses(name, module, weights, images(SIZE, batch=3), objects)


@pytest.mark.slow
def test_batch_norms_over_regions_are_those_of_torchvision(tmp_path):
    name = "fasterrcnn_resnet50_fpn_v2"
    module = built(name, box_batch_size_per_image=32, rpn_batch_size_per_image=64)
    weights = loaded(name, module, tmp_path, 64)
    objects = torch_targets(scenes(SIZE, 3, counts=(3, 4)))
    compare_losses(name, module, weights, images(SIZE, batch=2), objects, together=True)


def test_written_weights_are_read_by_torchvision(tmp_path):
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    module = built(name)
    weights = loaded(name, module, tmp_path, 64)
    path = tmp_path / "ours.pth"
    save_torch(path, *weights[:3], architecture=f"torchvision/{name}")
    before = {key: value.clone() for key, value in module.state_dict().items()}
    ours = torch.load(path, weights_only=True)
    missing, unexpected = module.load_state_dict(ours, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    for key, value in module.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
