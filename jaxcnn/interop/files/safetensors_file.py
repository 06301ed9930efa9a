"""Reads and writes weights in the safetensors format: one file, or a folder with shards and their index.

    tensors = read_safetensors("resnet50.a1_in1k")  # a folder from the hub, or model.safetensors itself
    write_safetensors("mine.safetensors", {"head/kernel": kernel}, {"model": "resnet50"})

A file consists of the length of a header, the header in JSON (at most 4 MiB here), and the values, which fill the rest
of the file without gaps. No package is needed, and a tensor takes no more memory than its values. Source: the
description of the format by Hugging Face; the index is that of their transformers package.
"""

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

from jaxcnn.files import written_whole
from jaxcnn.interop.files.opened import MAX_JSON, OpenFile, few, parse_json, read_json, reading, shown, unquoted
from jaxcnn.interop.files.paths import FileError, describe_file, existing_file
from jaxcnn.interop.files.tensor import LazyTensor, Tensor, swap_bytes

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
_CODES = {dtype: code for code, dtype in _DTYPES.items()}

_METADATA = "__metadata__"


def read_safetensors(path: str | os.PathLike[str]) -> Mapping[str, Tensor]:
    """Reads a safetensors file, or the shards of a folder.

    Args:
      path: a `.safetensors` file; an index, `model.safetensors.index.json`, with its shards next to it; or a folder
        with `model.safetensors` or such an index.

    Returns:
      The tensors by name.

    Raises:
      FileNotFoundError: the file, or a shard in the index, does not exist.
      FileError: the file is damaged or has another format, or index and shards do not match.
    """
    path = Path(path)
    if path.is_dir():
        candidates = [path / name for name in (_FILE, _INDEX) if os.path.lexists(path / name)]
        if not candidates:
            raise FileNotFoundError(f"the folder {str(path)!r} has neither {_FILE} nor {_INDEX}")
        path = candidates[0]
    with reading(path):
        tensors = _read_shards(path) if path.suffix == ".json" else _Header(OpenFile(path)).tensors()
        return MappingProxyType(tensors)


def read_opened(file: OpenFile) -> Mapping[str, Tensor]:
    """Reads an open safetensors file.

    Args:
      file: the file; it stays open as long as one of its tensors exists.

    Returns:
      The tensors by name.

    Raises:
      FileError: the file is damaged or has another format.
    """
    with reading(file.path):
        return MappingProxyType(_Header(file).tensors())


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Reads the metadata of a safetensors file.

    Args:
      path: a `.safetensors` file.

    Returns:
      Strings by name; may be empty.

    Raises:
      FileNotFoundError: the file does not exist.
      FileError: the file is damaged or has another format.
    """
    with reading(path):
        return _Header(OpenFile(path)).metadata


def read_index(path: str | os.PathLike[str]) -> dict[str, str]:
    """Reads the index of shards.

    Args:
      path: `model.safetensors.index.json`.

    Returns:
      The file name of the shard in the same folder, by name of the tensor.

    Raises:
      FileNotFoundError: the file does not exist.
      FileError: the file is not an index, or names files in other folders.
    """
    path = existing_file(path)
    index = read_json(path)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise FileError(f"{str(path)!r} is not an index of safetensors: expected a weight_map in JSON")
    elsewhere = [shard for shard in weight_map.values() if shard in ("", "..") or Path(shard).name != shard]
    if elsewhere:
        raise FileError(f"{str(path)!r} expects shards in the same folder, got {shown(elsewhere[0])}")
    return weight_map


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, ArrayLike | Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a safetensors file atomically.

    Args:
      path: the file to write; an older file is replaced.
      tensors: arrays, or tensors from a reader, by name.
      metadata: strings to store as metadata.

    Raises:
      FileNotFoundError: the folder of `path` does not exist.
      ValueError: there is no tensor, a name or metadata is not a string, the format does not support a dtype, or the
        names take more than 4 MiB.
    """
    if not tensors:
        raise ValueError("write_safetensors expects at least one tensor, got none")
    for text in (*tensors, *(metadata or {}), *(metadata or {}).values()):
        if not isinstance(text, str) or text == _METADATA:
            raise ValueError(
                f"write_safetensors expects names and metadata that are strings other than {_METADATA!r}, got {text!r}"
            )
    arrays = {name: _little_endian(name, np.asarray(tensor)) for name, tensor in tensors.items()}
    # Wide dtypes first: each array is aligned to its own dtype.
    arrays = dict(sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])))
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    at = 0
    for name, values in arrays.items():
        code = _CODES[values.dtype.newbyteorder("=")]
        header[name] = {"dtype": code, "shape": values.shape, "data_offsets": (at, at + values.nbytes)}
        at += values.nbytes
    content = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    if len(content) > MAX_JSON:
        raise ValueError(f"write_safetensors expects names of at most {MAX_JSON} bytes, got {len(content)}")
    with written_whole(path) as file:
        file.write(len(content).to_bytes(8, "little") + content)
        for values in arrays.values():
            file.write(values.reshape(-1).view(np.uint8).data)


def _little_endian(name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype.newbyteorder("=") not in _CODES:
        known = ", ".join(map(str, _CODES))
        raise ValueError(f"write_safetensors expects dtypes {known}, got {values.dtype} for {name!r}; cast it first")
    return np.asarray(values, values.dtype.newbyteorder("<"), order="C")


class _Header:
    """The header of a file; `tensors` checks its entries."""

    def __init__(self, file: OpenFile) -> None:
        self.file = file
        try:
            length = int.from_bytes(file.read(0, 8), "little")
            if length > MAX_JSON:
                raise ValueError(f"a header of {length} bytes, expected at most {MAX_JSON}")
            content = parse_json(file.read(8, length))
            if not isinstance(content, dict):
                raise ValueError("expected a JSON object as its header")
            metadata = content.pop(_METADATA, None) or {}
            if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
                raise ValueError("expected metadata of strings")
        except FileError as error:
            raise self.damaged("it ends within its header") from error
        except (ValueError, RecursionError) as error:
            raise self.damaged(str(error)) from error
        self.entries: dict[str, Any] = content
        self.metadata: dict[str, str] = metadata
        self.begin = 8 + length

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors in the order of the header, after the check that they fill the file without gaps."""
        tensors: dict[str, Tensor] = {}
        places = []
        for name, entry in self.entries.items():
            match entry:
                case {"dtype": str(code), "shape": [*shape], "data_offsets": [int(start), int(end)]} if all(
                    type(n) is int and 0 <= n < 2**63 for n in (*shape, start, end)
                ):
                    pass
                case _:
                    raise self.damaged(f"{shown(name)} has no dtype, shape and data_offsets")
            if code not in _DTYPES:
                raise FileError(
                    f"{shown(name)} in {str(self.file.path)!r} has dtype {unquoted(code, 20)}; "
                    f"expected one of {', '.join(_DTYPES)}"
                )
            if end - start != math.prod(shape) * _DTYPES[code].itemsize:
                raise self.damaged(f"{shown(name)} has {end - start} bytes for shape {shape}")
            places.append((start, end))
            tensors[name] = self.tensor(tuple(shape), _DTYPES[code], self.begin + start)
        at = 0
        for start, end in sorted(places):
            if start != at:
                raise self.damaged("its tensors overlap or leave gaps")
            at = end
        if self.begin + at != self.file.size:
            raise self.damaged(f"its tensors end at byte {self.begin + at} of {self.file.size}")
        return tensors

    def tensor(self, shape: tuple[int, ...], dtype: np.dtype, offset: int) -> LazyTensor:
        def rows(start: int, stop: int) -> np.ndarray:
            row = math.prod(shape[1:]) * dtype.itemsize
            return read((stop - start, *shape[1:]), offset + start * row)

        def read(shape: tuple[int, ...] = shape, offset: int = offset) -> np.ndarray:
            with reading(self.file.path):
                values = self.file.array(offset, shape, dtype)
            if sys.byteorder == "big":
                swap_bytes(values)
            return values

        return LazyTensor(shape, dtype, read, rows)

    def damaged(self, reason: str) -> FileError:
        path = self.file.path
        what = describe_file(path) if path.is_file() else "damaged"
        if what.startswith("a safetensors file"):
            what = "truncated or damaged; download or copy it again"
        return FileError(f"read_safetensors cannot read {str(path)!r}, which is {what} ({unquoted(reason, 200)})")


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Reads the shards of an index, each tensor from its shard."""
    weight_map = read_index(index)
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (index.parent / shard).exists()]
    if missing:
        raise FileNotFoundError(f"{str(index)!r} names shards that do not exist: {few(missing)}; download them")
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        own = _Header(OpenFile(index.parent / shard)).tensors()
        named = {name for name, file in weight_map.items() if file == shard}
        if own.keys() != named:
            odd = few(sorted(own.keys() ^ named))
            raise FileError(
                f"{str(index)!r} and its shard {unquoted(shard)} do not match in {odd}; download them again"
            )
        tensors |= own
    return {name: tensors[name] for name in weight_map}
