"""Weights of Keras: `.h5` files as Keras publishes its applications, by the names of layers.

    tensors = read_keras("resnet50_weights_tf_dim_ordering_tf_kernels.h5")
    tensors["conv1_conv/kernel"].shape  # (7, 7, 3, 64)

Such a file lists its layers in an attribute, and the weights of each layer in one of the layer's group. The two formats
of Keras 3 are refused: their weights have numbers, not names, and mean nothing without the code of the model. Source:
the files that Keras 3.15 writes as `.h5`.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxcnn.interop.files.paths import describe_file, existing_file
from jaxcnn.interop.files.tensor import LazyTensor, Tensor

# Weights of the model itself, beside those of its layers.
_TOP_LEVEL = "top_level_model_weights"
# The names of Keras 1, which the published VGG files keep: block1_conv1_W_1:0.
_KERAS_1 = {"W": "kernel", "b": "bias"}


def read_keras(path: str | os.PathLike[str]) -> Mapping[str, Tensor]:
    """Reads the weights of a Keras model from an `.h5` file.

    Args:
      path: a file of weights, or of a whole model, that Keras 1 or 2, or `model.save("name.h5")` of Keras 3, wrote.

    Returns:
      The tensors in the file's order of layers, named "layer/weight" without the ":0" of TensorFlow, such as
      "conv1_conv/kernel". The names of Keras 1 become today's: "block1_conv1_W_1" is "block1_conv1/kernel". A weight
      whose own name does not begin with that of its layer, as in nested models, is named "layer/" and its whole name.

    Raises:
      FileNotFoundError: the file is not there.
      ImportError: h5py is not installed.
      ValueError: the file is damaged, of another format, one of Keras 3's own, or two weights have one name.
    """
    h5py = _package()
    path = existing_file(path)
    if not h5py.is_hdf5(path):
        what = describe_file(path)
        if what == "a zip archive":
            raise ValueError(
                f"{str(path)!r} seems to be a .keras file of Keras 3, whose weights have no names of layers; convert "
                "it where there is Keras: keras.models.load_model('name.keras').save('name.h5')"
            )
        raise ValueError(f"read_keras expects an .h5 file, but {str(path)!r} is {what}")
    try:
        # The file stays open for as long as one of its tensors lives.
        file = h5py.File(path, "r")
        return MappingProxyType(_read(h5py, file, path))
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{str(path)!r} is cut short or damaged; download or copy it again ({error})") from error


def _package() -> Any:
    """Imports h5py."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError("the format .h5 expects h5py to be installed; pip install 'jaxcnn[weights]'") from error
    return h5py


def _read(h5py: Any, file: Any, path: Path) -> dict[str, Tensor]:
    group = file.get("model_weights", file)
    layers = _texts(group, "layer_names")
    if layers is None:
        raise ValueError(f"{str(path)!r} {_what_it_is(h5py, file)}")
    tensors: dict[str, Tensor] = {}
    for layer in [*layers, *([_TOP_LEVEL] if _TOP_LEVEL in group and _TOP_LEVEL not in layers else [])]:
        for weight in _texts(group[layer], "weight_names") or ():
            dataset = group[layer][weight]
            # HDF5 can point to other files; no weights do.
            if not isinstance(dataset, h5py.Dataset) or dataset.file != file or dataset.external or dataset.is_virtual:
                raise ValueError(f"{str(path)!r} expects {weight!r} to be an array of this file, got {dataset}")
            if dataset.dtype.kind not in "fiub":
                raise ValueError(f"{str(path)!r} expects numbers as {weight!r}, got dtype {dataset.dtype}")
            name = _name(layer, weight)
            if name in tensors:
                raise ValueError(
                    f"{str(path)!r} has two weights with the name {name!r}; name the layers apart and save again"
                )
            tensors[name] = _tensor(dataset, path)
    return tensors


def _texts(group: Any, name: str) -> list[str] | None:
    """Returns an attribute that is a list of texts; Keras splits long ones into name0, name1 and so on."""
    parts = [name] if name in group.attrs else []
    while not parts or parts[0] != name:
        part = f"{name}{len(parts)}"
        if part not in group.attrs:
            break
        parts.append(part)
    if not parts:
        return None
    texts = [text for part in parts for text in np.ravel(group.attrs[part]).tolist()]
    return [text.decode("utf-8") if isinstance(text, bytes) else str(text) for text in texts]


def _name(layer: str, weight: str) -> str:
    weight = re.sub(r":\d+$", "", weight)
    if weight.startswith(f"{layer}/"):
        return weight
    old = re.fullmatch(re.escape(layer) + r"_(W|b)(_\d+)?", weight)
    return f"{layer}/{_KERAS_1[old[1]] if old else weight}"


def _tensor(dataset: Any, path: Path) -> Tensor:
    dtype = dataset.dtype.newbyteorder("=")

    def read() -> np.ndarray:
        try:
            return np.asarray(dataset[()], dtype)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"{str(path)!r} is damaged at {dataset.name}; download or copy it again ({error})"
            ) from error

    return LazyTensor(dataset.shape, dtype, read)


def _what_it_is(h5py: Any, file: Any) -> str:
    """Says what an HDF5 file without names of layers is."""
    groups = [name for name, value in file.items() if isinstance(value, h5py.Group)]
    if "layers" in groups or "_layer_checkpoint_dependencies" in groups or "vars" in groups:
        return (
            "is a .weights.h5 file of Keras 3, whose weights have no names of layers; convert it where there is Keras: "
            "build the model, model.load_weights('name.weights.h5'), and model.save('name.h5')"
        )
    if "optimizer_weights" in groups or "optimizer" in groups:
        return "holds the state of an optimizer, but no weights of a model; expected the file of the model"
    return f"is no file of Keras: expected the attribute layer_names, got the groups {groups[:10]}"
