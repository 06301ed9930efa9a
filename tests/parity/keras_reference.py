"""Makes a model of keras.applications with random, calibrated weights, its legacy .h5 file, and logits; a script.

    KERAS_BACKEND=torch python keras_reference.py '{"architecture": "ResNet50", ...}'

A process of its own, since Keras chooses its backend when it is imported, and lowers float64 to float32 in sums and
other operations of two arrays unless it is kept from it.
"""

import json
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
from keras.src.backend.common import dtypes
from keras.src.legacy.saving import legacy_h5_format

_numpy = keras.ops.convert_to_numpy


def build(task, shape):
    """Builds the model for images of a shape, without softmax."""
    options = {"weights": None, "classes": 10, "classifier_activation": None, **task["options"]}
    return getattr(keras.applications, task["architecture"])(input_shape=shape, **options)


def calibrate(model, images, seed):
    """Draws weights under which activations keep their size and every mistake shows.

    Moving moments become those of `images` at that place, changed a little. In a quarter of the channels the
    moving variance is brought down to the size of epsilon and the scale makes up for it, so that a wrong epsilon shows.
    """
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        name = variable.path.rsplit("/", 1)[-1]
        if name in ("moving_mean", "moving_variance", "mean", "variance", "count"):
            continue
        shape = tuple(variable.shape)
        if name.endswith("kernel"):
            depthwise = "depthwise" in variable.path or "dwconv" in variable.path
            fan_in = np.prod(shape[:2]) if depthwise else np.prod(shape[:-1])
            variable.assign(rng.normal(size=shape) * np.sqrt(2 / fan_in))
        elif name == "bias" or name == "beta":
            variable.assign(0.1 * rng.normal(size=shape))
        else:
            variable.assign(rng.uniform(0.5, 1.5, shape))
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    # With a momentum of zero one batch sets the moving moments; each norm sees what the ones before it gave.
    model(images, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        mean, variance = _numpy(norm.moving_mean), _numpy(norm.moving_variance)
        norm.moving_mean.assign(mean + 0.1 * np.sqrt(variance) * rng.normal(size=mean.shape))
        variance = variance * rng.uniform(0.7, 1.4, variance.shape)
        if norm.scale:
            # A small variance is made up for by a small scale: the quotient keeps its size, and epsilon counts in it.
            small = rng.uniform(size=variance.shape) < 0.25
            tiny = norm.epsilon * 10 ** rng.uniform(-1, 1, variance.shape)
            gamma = _numpy(norm.gamma)
            norm.gamma.assign(
                np.where(small, gamma * np.sqrt((tiny + norm.epsilon) / (variance + norm.epsilon)), gamma)
            )
            variance = np.where(small, tiny, variance)
        norm.moving_variance.assign(variance)


def logits_of(model, images):
    """Computes the logits in evaluation."""
    return _numpy(model(keras.ops.convert_to_tensor(images, images.dtype.name), training=False))


def write_names(task, folder):
    """Writes names.json: the shapes of all weights by the names that they have in a file."""
    model = build({**task, "options": {"classes": 1000, **task["options"]}}, None)
    shapes = {variable.path: list(variable.shape) for variable in model.weights}
    (folder / "names.json").write_text(json.dumps(shapes))


def main(task):
    """Writes into the folder weights.h5, and logits<i>.npy for each array of images.

    Without images, it writes names.json alone.
    """
    if not task["inputs"]:
        write_names(task, Path(task["folder"]))
        return
    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    folder = Path(task["folder"])
    batches = [np.load(path) for path in task["inputs"]]
    first = build(task, batches[0].shape[1:])
    drawn = np.random.default_rng(task["seed"] + 7).normal(size=(4, *batches[0].shape[1:]))
    calibrate(first, drawn, task["seed"])
    with h5py.File(folder / "weights.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, first)
    for i, images in enumerate(batches):
        model = first if i == 0 else build(task, images.shape[1:])
        model.set_weights(first.get_weights())
        np.save(folder / f"logits{i}.npy", logits_of(model, images))


main(json.loads(sys.argv[1]))
