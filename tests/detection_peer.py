"""torchvision's detectors without their transforms: raw outputs, weights in a file, scenes with objects."""

import jax
import jax.numpy as jnp
import numpy as np
from torchvision_peer import calibrate, nn, torch
from weights_peer import channels_first, error, images

from jaxcnn import batched
from jaxcnn.interop.weights import load_weights


class Raw(nn.Module):
    """The outputs of a detector's head for images of one size, as torchvision computes them from padded images."""

    def __init__(self, detector):
        super().__init__()
        self.detector = detector

    def forward(self, x):
        return self.detector.head(list(self.detector.backbone(x).values()))


def loaded(name, module, tmp_path, size, *, epsilon=None, rename=None):
    """Fills a detector with calibrated weights in float64, and loads them here from a file of it.

    Args:
      name: torchvision's name.
      module: the detector.
      tmp_path: folder for the file.
      size: height and width of the images that it is calibrated with.
      epsilon: of all batch norms, set after the calibration; None keeps theirs.
      rename: changes the names of the file; None keeps them.

    Returns:
      What `load_weights` gave.
    """
    calibrate(Raw(module.double()), channels_first(images(size, seed=7)), 0)
    if epsilon is not None:
        for norm in (part for part in module.modules() if isinstance(part, nn.BatchNorm2d)):
            norm.eps = epsilon
    tensors = module.state_dict()
    path = tmp_path / "weights.pth"
    torch.save({rename(key): value for key, value in tensors.items()} if rename else tensors, path)
    return load_weights(name, path, architecture=f"torchvision/{name}")


def raw_outputs(module, batch):
    with torch.no_grad():
        return {name: value.numpy() for name, value in Raw(module).eval()(channels_first(batch)).items()}


def our_outputs(weights, batch, *, model=None):
    model = weights.model if model is None else model
    run = jax.jit(lambda params, state, x: batched(model)(params, state, x, train=False)[0])
    return run(weights.params, weights.state, jnp.asarray(batch))


def worst(actual, expected, names):
    """Returns the largest relative error of the outputs; `names` are torchvision's by ours, and the first column."""
    assert set(actual) == set(names)
    return max(error(actual[ours], expected[theirs][..., first:]) for ours, (theirs, first) in names.items())


def scenes(size, num_classes, *, slots=6, seed=0, counts=(3, 0, 5)):
    """Draws padded objects of several images, in float64: every padding slot holds nonsense.

    Args:
      size: (height, width) of the images.
      num_classes: number of classes.
      slots: slots of each image.
      seed: of the drawing.
      counts: number of objects of each image.

    Returns:
      The batch.
    """
    rng, (height, width) = np.random.default_rng(seed), size
    valid = np.zeros((len(counts), slots), bool)
    for row, count in zip(valid, counts, strict=True):
        row[rng.permutation(slots)[:count]] = True
    corner = rng.uniform(0, 0.6, (len(counts), slots, 2))
    span = rng.uniform(0.1, 0.4, (len(counts), slots, 2))
    boxes = np.concatenate([corner, corner + span], -1) * [width, height, width, height]
    classes = rng.integers(0, num_classes, valid.shape)
    return {
        "boxes": np.where(valid[..., None], boxes, -7.0),
        "classes": np.where(valid, classes, 99).astype(np.int32),
        "valid": valid,
    }


def torch_targets(batch, *, first_class=1):
    """Returns the objects as torchvision takes them; its classes count from 1."""
    return [
        {"boxes": torch.tensor(boxes[valid]), "labels": torch.tensor(classes[valid] + first_class).long()}
        for boxes, classes, valid in zip(batch["boxes"], batch["classes"], batch["valid"], strict=True)
    ]


def as_set(boxes, scores, classes):
    """Returns detections in an order of their own, for comparison as sets."""
    rows = np.column_stack([np.asarray(classes, float), np.asarray(scores, float), np.asarray(boxes, float)])
    return rows[np.lexsort(rows.T[::-1])]
