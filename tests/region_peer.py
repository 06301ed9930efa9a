"""torchvision's two-stage detectors without their transforms: outputs, losses with the first samples, detections."""

import dataclasses
import functools
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detection_peer import scenes
from torchvision_peer import calibrate, nn, torch, torchvision
from weights_peer import channels_first, compare_training, images, record_of, torch_arrays

from jaxcnn import batched
from jaxcnn.interop.weights import load_weights


def roi_align(x, rois, scale, height, width, sampling_ratio, aligned):
    """Pools regions by the rules of torchvision's compiled kernel, one region and one axis after the other.

    The version in plain torch, which is called without that kernel, clamps samples that lie beyond the map: small
    regions at its edge. The kernel takes them as 0.
    """
    offset = 0.5 if aligned else 0.0
    results = []
    for index, *box in rois:
        left, top, right, bottom = (value * scale - offset for value in box)
        weights = []
        for first, last, bins, size in ((top, bottom, height, x.shape[2]), (left, right, width, x.shape[3])):
            extent = last - first if aligned else torch.clamp(last - first, min=1.0)
            count = sampling_ratio if sampling_ratio > 0 else int(torch.ceil(extent / bins))
            places = torch.arange(bins * count, dtype=x.dtype) + 0.5
            at = first + places * extent / (bins * count)
            pixel = torch.arange(size, dtype=x.dtype)
            near = torch.clamp(1 - (at.clamp(0, size - 1)[:, None] - pixel).abs(), min=0)
            near = near * ((at >= -1) & (at <= size)).to(x.dtype)[:, None]
            weights.append(near.reshape(bins, count, size).mean(1) if count else near.new_zeros(bins, size))
        results.append(torch.einsum("ih,chw,jw->cij", weights[0], x[int(index)], weights[1]))
    return torch.stack(results) if results else x.new_zeros(0, x.shape[1], height, width)


LOSSES = {
    "objectness_loss": "loss_objectness",
    "proposal_loss": "loss_rpn_box_reg",
    "class_loss": "loss_classifier",
    "box_loss": "loss_box_reg",
    "mask_loss": "loss_mask",
}
"""Names of the parts of the loss, ours and torchvision's."""


def old_name(name):
    """Returns the name of an array in files of the first version."""
    name = re.sub(r"(fpn\.\w+_blocks\.\d)\.0\.", r"\1.", name)
    name = re.sub(r"mask_head\.(\d)\.0\.", lambda match: f"mask_head.mask_fcn{int(match[1]) + 1}.", name)
    return name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")


sys.modules["torchvision.ops.roi_align"]._roi_align = roi_align


def image_list(x):
    """Wraps images of one size, as torchvision's detectors pass them on."""
    return torchvision.models.detection.image_list.ImageList(x, [tuple(x.shape[-2:])] * len(x))


class Raw(nn.Module):
    """What a two-stage detector computes for a batch, before it chooses detections."""

    def __init__(self, detector):
        super().__init__()
        self.detector = detector

    def forward(self, x):
        rpn, heads = self.detector.rpn, self.detector.roi_heads
        features = self.detector.backbone(x)
        objectness, deltas = rpn.head(list(features.values()))
        joined = torchvision.models.detection.rpn.concat_box_prediction_layers(objectness, deltas)
        proposals, _ = rpn.eval()(image_list(x), features)
        sizes = [tuple(x.shape[-2:])] * len(x)
        classes, boxes = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, proposals, sizes)))
        result = {
            "objectness": joined[0].reshape(len(x), -1),
            "deltas": joined[1].reshape(len(x), -1, 4),
            "proposals": proposals,
            "classes": classes,
            "boxes": boxes.reshape(*classes.shape, 4),
        }
        if heads.has_mask():
            result["masks"] = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, proposals, sizes)))
        return result


def moderate(module, x):
    """Scales the last layers of a detector, so that its outputs lie around their biases and are of order 1.

    Scores of random heads are 0 or 1 and their boxes lie outside of the image, so that no region is proposed.
    """

    def scale(layer, outputs, largest):
        values = torch.cat([one.movedim(1, -1).flatten(0, -2) for one in outputs])
        mean = values.mean(0)
        factor = largest / (values - mean).abs().max()
        layer.weight *= factor
        layer.bias += factor * (layer.bias - mean)

    with torch.no_grad():
        objectness, deltas = module.rpn.head(list(module.backbone(x).values()))
        scale(module.rpn.head.cls_logits, objectness, 4.0)
        scale(module.rpn.head.bbox_pred, deltas, 1.0)
        outputs = Raw(module).eval()(x)
        assert len(torch.cat(outputs["proposals"])) > 20
        scale(module.roi_heads.box_predictor.cls_score, [outputs["classes"]], 4.0)
        scale(module.roi_heads.box_predictor.bbox_pred, [outputs["boxes"].flatten(1)], 3.0)
        if module.roi_heads.has_mask():
            scale(module.roi_heads.mask_predictor.mask_fcn_logits, [outputs["masks"]], 3.0)


def loaded(name, module, tmp_path, size, *, epsilon=None, rename=None):
    """Fills a detector with weights in float64 that keep sizes, and loads them from a file; see `detection_peer`."""
    calibrate(Raw(module.double()), channels_first(images(size, seed=7)), 0)
    if epsilon is not None:
        for norm in (part for part in module.modules() if isinstance(part, nn.BatchNorm2d)):
            norm.eps = epsilon
    # In images as large as those of the tests: the maps of MobileNet are smaller than its kernels, and vary with them.
    moderate(module, channels_first(images((96, 70), seed=7)))
    path = tmp_path / "weights.pth"
    tensors = module.state_dict()
    torch.save({rename(key): value for key, value in tensors.items()} if rename else tensors, path)
    return load_weights(name, path, architecture=f"torchvision/{name}")


def raw_outputs(module, batch):
    """Returns torchvision's outputs; those of regions image after image, without empty slots."""
    with torch.no_grad():
        outputs = Raw(module).eval()(channels_first(batch))
    outputs["proposals"] = torch.cat(outputs["proposals"])
    return {name: value.numpy() for name, value in outputs.items()}


@functools.lru_cache(maxsize=1)
def compiled(model):
    return jax.jit(lambda params, state, x: batched(model)(params, state, x, train=False)[0])


def our_outputs(weights, batch, *, model=None):
    """Returns our outputs in the form of `raw_outputs`, and as they are."""
    outputs = compiled(weights.model if model is None else model)(weights.params, weights.state, jnp.asarray(batch))
    used = np.asarray(outputs["valid"])
    each = {name: np.asarray(value) for name, value in outputs.items() if name != "valid"}
    by_region = {name for name, value in each.items() if value.shape[:2] == used.shape}
    return {name: value[used] if name in by_region else value for name, value in each.items()}, outputs


class First:
    """A sampler that takes the first anchors or regions of each kind, rather than random ones."""

    def __init__(self, count, fraction):
        self.count, self.fraction = count, fraction

    def __call__(self, matched):
        positives, negatives = [], []
        for one in matched:
            found, rest = torch.where(one >= 1)[0], torch.where(one == 0)[0]
            found = found[: int(self.count * self.fraction)]
            masks = torch.zeros(2, len(one), dtype=torch.uint8)
            masks[0, found], masks[1, rest[: self.count - len(found)]] = 1, 1
            positives.append(masks[0])
            negatives.append(masks[1])
        return positives, negatives


def training_losses(module, batch, targets, *, together=False):
    """Returns the losses of a module in training, with the first samples, as means over the images.

    Args:
      module: the detector.
      batch: images.
      targets: as of `torch_targets`, with "masks" for a detector of masks.
      together: whether the heads see the whole batch at once, as batch norms in them need; the losses are then divided
        by the numbers of the whole batch.

    Returns:
      The losses by name, scalars with gradients.
    """
    module.train()
    module.rpn.fg_bg_sampler = First(module.rpn.fg_bg_sampler.batch_size_per_image, 0.5)
    module.roi_heads.fg_bg_sampler = First(module.roi_heads.fg_bg_sampler.batch_size_per_image, 0.25)
    # Labels in float32 would round the cross-entropy.
    assign = type(module.rpn).assign_targets_to_anchors

    def wide(*given):
        labels, boxes = assign(module.rpn, *given)
        return [label.double() for label in labels], boxes

    module.rpn.assign_targets_to_anchors = wide
    x = channels_first(batch)
    features = module.backbone(x)
    parts = [slice(None)] if together else [slice(i, i + 1) for i in range(len(x))]
    totals = {}
    for part in parts:
        own = {name: value[part] for name, value in features.items()}
        proposals, first = module.rpn(image_list(x[part]), own, targets[part])
        _, second = module.roi_heads(own, proposals, [tuple(x.shape[-2:])] * len(x[part]), targets[part])
        for name, value in (first | second).items():
            totals[name] = totals.get(name, 0) + value / len(parts)
    return totals


def detections(module, batch):
    """Returns torchvision's detections of each image, in its pixels."""
    module.eval()
    x = channels_first(batch)
    with torch.no_grad():
        features = module.backbone(x)
        proposals, _ = module.rpn(image_list(x), features)
        return module.roi_heads(features, proposals, [tuple(x.shape[-2:])] * len(x))[0]


def compare_losses(name, module, weights, batch, objects, *, together=False):
    """Compares losses, gradients and new moments of one step of training."""
    size = batch.shape[1:3]
    expected = training_losses(module, batch, objects, together=together)
    sum(expected.values()).backward()
    samples = {
        "anchor_samples": module.rpn.fg_bg_sampler.count,
        "region_samples": module.roi_heads.fg_bg_sampler.count,
    }
    model = dataclasses.replace(weights.model, sampling="first", **samples)
    task = model.task(size)
    ours = scenes(size, 3, counts=tuple(len(one["boxes"]) for one in objects))
    if "masks" in objects[0]:
        ours["masks"] = all_masks(ours, objects, size)

    @jax.jit
    def step(params, state):
        def loss(params):
            x = task.training_input(jnp.asarray(batch), ours)
            outputs, new_state = batched(model)(params, state, x, train=True, key=jax.random.key(0))
            mean = task.loss(outputs, ours)
            return mean.total / mean.weight, (task.metrics(outputs, ours), new_state)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (value, (parts, new_state)), gradients = step(weights.params, weights.state)
    assert value == pytest.approx(sum(expected.values()).item(), rel=1e-10)
    for part, mean in parts.items():
        assert float(mean.value) == pytest.approx(expected[LOSSES[part]].item(), rel=1e-9)
    assert len(parts) == len(expected)
    compare_training(record_of(f"torchvision/{name}"), model, gradients, new_state, torch_arrays(module))


def all_masks(ours, objects, size):
    masks = np.zeros((*ours["valid"].shape, *size), bool)
    for row, valid, one in zip(masks, ours["valid"], objects, strict=True):
        row[valid] = one["masks"].numpy()
    return masks
