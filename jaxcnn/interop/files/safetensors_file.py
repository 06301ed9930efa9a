"""Weights in the safetensors format: one file, or a folder with shards and their index.

    tensors = read_safetensors("resnet50.a1_in1k")  # a folder from the hub, or model.safetensors itself
    write_safetensors("mine.safetensors", {"head/kernel": kernel}, {"model": "resnet50"})

The package safetensors reads and writes; here are its errors in words, shards, and writing that happens whole or not at
all. Source: the format's description by Hugging Face; the index is that of their transformers package.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

from jaxcnn.interop.files.paths import describe_file, existing_file, written_whole
from jaxcnn.interop.files.tensor import LazyTensor, Tensor

_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
    "C64": np.dtype(np.complex64),
}


def read_safetensors(path: str | os.PathLike[str]) -> Mapping[str, Tensor]:
    """Reads a safetensors file, or the shards of a folder.

    Args:
      path: a `.safetensors` file; an index, `model.safetensors.index.json`, with its shards beside it; or a folder that
        holds `model.safetensors` or such an index.

    Returns:
      The tensors by name.

    Raises:
      FileNotFoundError: the file, or a shard that the index names, is not there.
      ImportError: the package safetensors is not installed.
      ValueError: the file is damaged or of another format, or index and shards do not agree.
    """
    path = Path(path)
    if path.is_dir():
        candidates = [path / name for name in (_FILE, _INDEX) if (path / name).is_file()]
        if not candidates:
            raise FileNotFoundError(f"the folder {str(path)!r} has neither {_FILE} nor {_INDEX}")
        path = candidates[0]
    path = existing_file(path)
    return MappingProxyType(_read_shards(path) if path.suffix == ".json" else _read_file(path))


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Reads the notes that a safetensors file carries beside its tensors.

    Args:
      path: a `.safetensors` file.

    Returns:
      Texts by name; empty where there are none.

    Raises:
      FileNotFoundError: the file is not there.
      ImportError: the package safetensors is not installed.
      ValueError: the file is damaged or of another format.
    """
    return _open(existing_file(path)).metadata() or {}


def read_index(path: str | os.PathLike[str]) -> dict[str, str]:
    """Reads which shard holds which tensor.

    Args:
      path: `model.safetensors.index.json`.

    Returns:
      The name of a file in the same folder for each name of a tensor.

    Raises:
      FileNotFoundError: the file is not there.
      ValueError: it is no such index, or names files elsewhere.
    """
    path = existing_file(path)
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        elsewhere = [shard for shard in weight_map.values() if Path(shard).name != shard]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} is no index of safetensors: expected a weight_map in JSON") from error
    if elsewhere:
        raise ValueError(f"{str(path)!r} expects shards that are files beside it, got {elsewhere[0]!r}")
    return weight_map


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, ArrayLike | Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a safetensors file, whole or not at all.

    Args:
      path: where the file is to be; an older file is replaced.
      tensors: arrays, or what another reader returned, by name.
      metadata: texts to keep with them.

    Raises:
      FileNotFoundError: the folder of `path` does not exist.
      ImportError: the package safetensors is not installed.
      ValueError: there is no tensor, a name or a note is not a string, or the format lacks a dtype.
    """
    _, numpy_module = _package()
    if not tensors:
        raise ValueError("write_safetensors expects at least one tensor, got none")
    for text in (*tensors, *(metadata or {}), *(metadata or {}).values()):
        if not isinstance(text, str):
            raise ValueError(f"write_safetensors expects names and metadata that are strings, got {text!r}")
    arrays = {}
    for name, tensor in tensors.items():
        values = np.asarray(tensor)
        if values.dtype.newbyteorder("=") not in _DTYPES.values():
            known = ", ".join(str(dtype) for dtype in _DTYPES.values())
            raise ValueError(
                f"write_safetensors expects dtypes {known}, got {values.dtype} for {name!r}; cast it first"
            )
        # The package writes the memory of an array as it lies.
        arrays[name] = np.asarray(values, values.dtype.newbyteorder("<"), order="C")
    with written_whole(path) as file:
        numpy_module.save_file(arrays, file.name, metadata=dict(metadata) if metadata else None)


def _package() -> tuple[Any, Any]:
    """Imports the package."""
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "the format .safetensors expects the package safetensors to be installed; pip install 'jaxcnn[weights]'"
        ) from error
    return safetensors, safetensors.numpy


def _open(path: Path) -> Any:
    """Opens a file, which maps it into memory, and checks its header."""
    package, _ = _package()
    try:
        return package.safe_open(path, framework="numpy")
    except package.SafetensorError as error:
        what = describe_file(path)
        if what.startswith("a safetensors file"):
            what = "cut short or damaged; download or copy it again"
        raise ValueError(f"read_safetensors cannot read {str(path)!r}, which is {what} ({error})") from error


def _read_file(path: Path) -> dict[str, Tensor]:
    file = _open(path)
    tensors: dict[str, Tensor] = {}
    for name in file.keys():  # noqa: SIM118
        part = file.get_slice(name)
        code = part.get_dtype()
        if code not in _DTYPES:
            raise ValueError(f"{name!r} in {str(path)!r} has dtype {code}; expected one of {', '.join(_DTYPES)}")
        tensors[name] = LazyTensor(tuple(part.get_shape()), _DTYPES[code], lambda name=name: file.get_tensor(name))
    return tensors


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Reads the shards of an index, each tensor from the file that the index names."""
    weight_map = read_index(index)
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (index.parent / shard).is_file()]
    if missing:
        raise FileNotFoundError(f"{str(index)!r} names shards that are not there: {', '.join(missing)}; download them")
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        own = _read_file(index.parent / shard)
        named = {name for name, file in weight_map.items() if file == shard}
        if own.keys() != named:
            odd = ", ".join(sorted(own.keys() ^ named)[:5])
            raise ValueError(f"{str(index)!r} and its shard {shard} do not agree about {odd}; download them again")
        tensors |= own
    return {name: tensors[name] for name in weight_map}
