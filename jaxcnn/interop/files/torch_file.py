"""Reads and writes weights of torch, `.pth` and `.pt`, without torch and without executing the pickles in them.

    tensors = read_torch("resnet50-11ad3fa6.pth")
    tensors["conv1.weight"].shape  # (64, 3, 7, 7)
    kernel = numpy.asarray(tensors["conv1.weight"])

The format of torch 1.6 and later is an uncompressed zip archive. It has a pickle of the structure, `data.pkl`, and an
entry for each storage, `data/0`, `data/1` and so on. For the older format see `torch_legacy`. A tensor is a view of a
storage: offset, shape and strides. Source: torch's notes on serialization, and the files that torch 2.13 writes.

The cost of a file is limited. Structure: 4 MiB of names of entries, 16 MiB of pickle, and 262,144 operations of the
pickle and 200 more for each storage. Values: reading a tensor takes its own size and 2 MiB. For a compressed storage it
also takes the size of the storage, which is at most that of its tensors.
"""

import functools
import math
import os
import struct
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import encode_long  # pyright: ignore[reportAttributeAccessIssue]
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

from jaxcnn.files import written_whole
from jaxcnn.interop.files.opened import reading, shown
from jaxcnn.interop.files.paths import BEFORE_1_6, FileError, describe_file, existing_file
from jaxcnn.interop.files.restricted_pickle import Global, RefusedGlobal, unpickle
from jaxcnn.interop.files.tensor import LazyTensor, Tensor, swap_bytes
from jaxcnn.interop.files.torch_archive import PIECE, Archive
from jaxcnn.interop.files.torch_legacy import LegacyFile

_STORAGES = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
    "torch.ComplexFloatStorage": np.dtype(np.complex64),
    "torch.ComplexDoubleStorage": np.dtype(np.complex128),
}

# Storages without a dtype; the tensor has it.
_UNTYPED = ("torch.storage.UntypedStorage", "torch.UntypedStorage")
_DTYPES = {
    "torch.uint16": np.dtype(np.uint16),
    "torch.uint32": np.dtype(np.uint32),
    "torch.uint64": np.dtype(np.uint64),
    "torch.float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "torch.float8_e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "torch.float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "torch.float8_e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "torch.float8_e8m0fnu": np.dtype(ml_dtypes.float8_e8m0fnu),
}

_FUNCTIONS = (
    "collections.OrderedDict",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
)
_ALLOWED = frozenset((*_FUNCTIONS, *_STORAGES, *_UNTYPED, *_DTYPES))

_MAX_RANK = 64
# Largest number of dicts of a checkpoint around its state dict.
_MAX_NESTING = 4
# A tensor whose elements share memory (strides of zero) grows when it is read; larger ones are refused.
_MAX_SHARED = 2**26
# Alignment of storages, as in torch, for memory mapping.
_ALIGNMENT = 64


class _Opened(NamedTuple):
    """An archive, and the sizes in bytes of the tensors in its pickle, by the key of their storage."""

    archive: Archive | LegacyFile
    tensors: dict[str, list[int]]


class _Storage(NamedTuple):
    """A storage in the pickle; `dtype` is None if the tensor has it."""

    key: str
    dtype: np.dtype | None
    size: int


def read_torch(path: str | os.PathLike[str], *, entry: str | None = None) -> Mapping[str, Tensor]:
    """Reads a state dict that torch saved.

    Nothing in the file is executed: its pickle may only use the names that tensors need. A checkpoint that nests the
    state dict, as in `{"state_dict": ..., "epoch": 3}`, is opened if only one entry leads to tensors and the tensors
    beside it are scalars. If the file has checksums, the first read of a storage verifies them. The file stays open as
    long as the result or one of its tensors exists, so do not overwrite it in place.

    Args:
      path: a file that `torch.save` wrote, with any extension.
      entry: entry of a checkpoint to open, such as "model_ema"; None for the only state dict.

    Returns:
      The tensors by name, in the order of the file.

    Raises:
      FileNotFoundError: the file does not exist.
      FileError: the file has another format, is damaged, exceeds the limits above, needs other types than tensors, or
        holds several state dicts or entries that are not tensors. Damaged values are detected when a tensor is read.
    """
    with reading(path):
        legacy = describe_file(existing_file(path)) == BEFORE_1_6
        archive = LegacyFile(path) if legacy else Archive(path)
        opened = _Opened(archive, {})
        try:
            content = unpickle(
                archive.pickle(),
                max_operations=archive.max_operations,
                allowed=_ALLOWED,
                call=functools.partial(_call, opened),
                load_persistent=functools.partial(_storage, archive),
            )
            archive.finish(opened.tensors)
        except RefusedGlobal as error:
            raise FileError(
                f"{str(archive.path)!r} asks for {error}, which is refused: only tensors and dicts of them are read; "
                "if you trust the file, save its tensors alone with torch.save(model.state_dict(), path)"
            ) from None
        except FileError:
            raise
        except ValueError as error:
            raise FileError(f"{str(archive.path)!r} cannot be read: {error}") from error
        return MappingProxyType(_state_dict(content, entry, archive.path))


def write_torch(path: str | os.PathLike[str], tensors: Mapping[str, ArrayLike | Tensor]) -> None:
    """Writes a state dict atomically, without torch; `torch.load(path, weights_only=True)` reads it.

    The tensors are read and written one by one.

    Args:
      path: the file to write; an older file is replaced.
      tensors: arrays, or tensors from a reader, by name.

    Raises:
      FileNotFoundError: the folder of `path` does not exist.
      ValueError: there is no tensor, a name is not a string, or torch has no storage for a dtype.
    """
    if not tensors:
        raise ValueError("write_torch expects at least one tensor, got none")
    names = {dtype: name for name, dtype in _STORAGES.items()}
    state = [b"\x80\x02", _global("collections.OrderedDict"), b")R("]
    with written_whole(path) as file, zipfile.ZipFile(file, "w") as archive:
        for key, (name, tensor) in enumerate(tensors.items()):
            if not isinstance(name, str):
                raise ValueError(f"write_torch expects names that are strings, got {name!r}")
            values = np.asarray(tensor)
            values = np.asarray(values, values.dtype.newbyteorder("<"), order="C")
            storage = names.get(values.dtype.newbyteorder("="))
            if storage is None:
                known = ", ".join(str(dtype) for dtype in names)
                raise ValueError(f"write_torch expects dtypes {known}, got {values.dtype} for {name!r}; cast it first")
            _write_entry(archive, file, f"data/{key}", values.reshape(-1).view(np.uint8).data)
            state += [_string(name), *_tensor(storage, str(key), values.shape)]
        _write_entry(archive, file, "data.pkl", b"".join([*state, b"u."]))
        _write_entry(archive, file, "byteorder", b"little")
        _write_entry(archive, file, "version", b"3\n")


def _storage(archive: Archive | LegacyFile, persistent_id: Any) -> _Storage:
    """Returns the storage of a persistent id, after the check that its entry is long enough."""
    match persistent_id:
        # The legacy format has one more field, for storage views, which is unused.
        case ("storage", Global(name), str(key), str(), int(size), *view) if (
            (name in _STORAGES or name in _UNTYPED) and size >= 0 and not any(view)
        ):
            dtype = _STORAGES.get(name)
        case _:
            raise ValueError("expected a storage in the format of torch.save; the pickle is damaged")
    archive.declare(key, size, dtype.itemsize if dtype else 1)
    return _Storage(key, dtype, size)


def _call(opened: _Opened, name: str, arguments: tuple[Any, ...]) -> Any:
    """Returns the result of a function call in a checkpoint."""
    match name, arguments:
        case "collections.OrderedDict", ():
            return {}
        case "torch._utils._rebuild_parameter", (LazyTensor() as tensor, bool(), _):
            return tensor
        case (
            "torch._utils._rebuild_tensor_v2",
            (_Storage(dtype=np.dtype() as dtype) as storage, offset, shape, strides, bool(), _, *metadata),
        ):
            pass
        case (
            "torch._utils._rebuild_tensor_v3",
            (_Storage(dtype=None) as storage, offset, shape, strides, bool(), _, Global(named), *metadata),
        ) if named in _DTYPES:
            dtype = _DTYPES[named]
        case _:
            raise ValueError(f"expected arguments of {name} in the format of torch.save; the pickle is damaged")
    if any(metadata):
        raise ValueError("a tensor is conjugated or negated lazily; save tensor.resolve_conj().resolve_neg()")
    return _strided(opened, storage, dtype, offset, shape, strides)


def _strided(opened: _Opened, storage: _Storage, dtype: np.dtype, offset: Any, shape: Any, strides: Any) -> LazyTensor:
    """Makes a tensor from a view of a storage, after the check that the view lies inside the storage."""
    numbers = (offset, *shape, *strides) if type(shape) is type(strides) is tuple else (None,)
    if (
        any(type(number) is not int or not 0 <= number < 2**63 for number in numbers)
        or not len(shape) == len(strides) <= _MAX_RANK
    ):
        raise ValueError("expected offset, shape and strides of a tensor; the pickle is damaged")
    elements = math.prod(shape)
    available = storage.size if storage.dtype else storage.size // dtype.itemsize
    # The stride of an axis with one element has no effect.
    steps = tuple(stride if n > 1 else 0 for n, stride in zip(shape, strides, strict=True))
    last = offset + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    too_large = elements > max(available, _MAX_SHARED) or math.prod(filter(None, shape)) > 2**56
    if too_large or (elements and last >= available):
        raise ValueError(
            f"a tensor of shape {shape} does not lie inside its storage of {available} elements; the file is damaged"
        )

    archive = opened.archive
    opened.tensors.setdefault(storage.key, []).append(elements * dtype.itemsize)

    def rows(start: int, stop: int) -> np.ndarray:
        return read((stop - start, *shape[1:]), offset + start * steps[0])

    def read(shape: tuple[int, ...] = shape, offset: int = offset) -> np.ndarray:
        values = np.empty(shape, dtype)
        if values.size:
            with reading(archive.path):
                size = dtype.itemsize
                _gather(archive, storage.key, values, offset * size, tuple(step * size for step in steps))
        if archive.byte_order != sys.byteorder:
            swap_bytes(values)
        return values

    return LazyTensor(shape, dtype, read, rows)


def _gather(archive: Archive | LegacyFile, key: str, out: np.ndarray, offset: int, steps: tuple[int, ...]) -> None:
    """Reads a view of a storage into an array; at most one piece of the storage is in memory.

    Args:
      archive: the archive.
      key: key of the storage.
      out: the array to fill.
      offset: offset of the first element in the storage, in bytes.
      steps: distance between neighbouring elements in the storage along each axis, in bytes.
    """
    reach = [(n - 1) * step for n, step in zip(out.shape, steps, strict=True)]
    span = out.itemsize + sum(reach)
    as_stored = all(n == 1 or ours == step for n, ours, step in zip(out.shape, out.strides, steps, strict=True))
    if as_stored and out.flags.c_contiguous:
        archive.fill(key, out.reshape(-1).view(np.uint8), offset)
    elif span <= PIECE or archive.packed(key):
        piece = np.empty(span, np.uint8)
        archive.fill(key, piece, offset)
        out[...] = np.ndarray(out.shape, out.dtype, piece, 0, steps)
    else:
        axis = int(np.argmax(reach))
        half = out.shape[axis] // 2
        first, second = np.split(out, [half], axis)
        _gather(archive, key, first, offset, steps)
        _gather(archive, key, second, offset + half * steps[axis], steps)


def _state_dict(content: Any, entry: str | None, path: Path) -> dict[str, Tensor]:
    """Finds the state dict in the content of a file."""
    if not isinstance(content, dict):
        raise FileError(f"expected a dict of tensors in {str(path)!r}, got a {type(content).__name__}")
    keys, depths = _listed(content), {}
    for _ in range(_MAX_NESTING):
        if entry is not None and entry in content:
            if _depth(content[entry], _MAX_NESTING, depths) is None:
                raise FileError(f"entry {entry!r} of {str(path)!r} is not a dict of tensors; the entries are {keys}")
            content, entry = content[entry], None
            continue
        nested = _nested(content, depths)
        if entry is None and (not nested or _has_weights(content)):
            break
        if len(nested) > 1 and entry is None:
            raise FileError(
                f"{str(path)!r} holds several state dicts; choose one with entry=, such as "
                f"{shown(nested[0])}; it has {_listed(content)}"
            )
        if len(nested) != 1:
            break
        content = content[nested[0]]
    if entry is not None:
        raise FileError(f"{str(path)!r} has no entry {entry!r}; it has {keys}")
    if not _has_tensors(content):
        raise FileError(f"{str(path)!r} holds no state dict; it has {keys}")
    others = {name: value for name, value in content.items() if not isinstance(value, LazyTensor)}
    if others:
        nested = _nested(content, depths)
        advice = f", or open one of them with entry=, such as {shown(nested[0])}" if nested else ""
        raise FileError(
            f"the state dict in {str(path)!r} has entries that are not tensors: {_listed(others)}; save it without "
            f"them{advice}"
        )
    unnamed = [name for name in content if not isinstance(name, str)]
    if unnamed:
        raise FileError(f"the state dict in {str(path)!r} expects names that are strings, got {shown(unnamed[0])}")
    return content


def _has_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(item, LazyTensor) for item in value.values())


def _has_weights(content: dict[Any, Any]) -> bool:
    """Tells whether a dict holds weights, not only numbers of a checkpoint that are tensors too, such as a loss."""
    return any(isinstance(item, LazyTensor) and item.shape for item in content.values())


def _nested(content: dict[Any, Any], depths: dict[tuple[int, int], int | None]) -> list[Any]:
    """Lists the entries that are dicts of tensors; if there are none, the dicts that contain one."""
    found = {key: _depth(value, _MAX_NESTING, depths) for key, value in content.items()}
    return [key for key, depth in found.items() if depth == 0] or [
        key for key, depth in found.items() if depth is not None
    ]


def _depth(value: Any, limit: int, depths: dict[tuple[int, int], int | None]) -> int | None:
    """Counts the dicts around the nearest dict of tensors; None if there is none within the limit.

    The state of an optimizer numbers its tensors, so only keys that are strings are followed.

    Args:
      value: value of an entry.
      limit: largest number of dicts to open.
      depths: the known results, by the id of a value and the limit: values may share their parts.
    """
    if not isinstance(value, dict):
        return None
    key = id(value), limit
    if key not in depths:
        inner = [_depth(item, limit - 1, depths) for name, item in value.items() if limit and isinstance(name, str)]
        known = [depth + 1 for depth in inner if depth is not None]
        depths[key] = 0 if _has_tensors(value) else min(known, default=None)
    return depths[key]


def _listed(content: Mapping[Any, Any]) -> str:
    """Lists the first twenty entries of a dict with their types."""
    entries = [f"{shown(key)} ({_kind(value)})" for key, value in list(content.items())[:20]]
    return ", ".join(entries) + (f" and {len(content) - 20} more" if len(content) > 20 else "") or "no entries"


def _kind(value: Any) -> str:
    return "tensor" if isinstance(value, LazyTensor) else type(value).__name__


def _write_entry(archive: zipfile.ZipFile, file: BinaryIO, name: str, data: bytes | memoryview) -> None:
    """Writes an uncompressed entry; padding in its header aligns the data, as in torch."""
    info = zipfile.ZipInfo(f"archive/{name}")
    info.file_size = len(data)
    # The padding is an extra field of the header: an id, a length, and that many bytes.
    padding = -(file.tell() + 30 + len(info.filename) + 4) % _ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    with archive.open(info, "w") as entry:
        entry.write(data)


def _tensor(storage: str, key: str, shape: tuple[int, ...]) -> list[bytes]:
    """Pickles a contiguous tensor as a call of torch's function that rebuilds it."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return [
        _global("torch._utils._rebuild_tensor_v2") + b"((",
        *(_string("storage"), _global(storage), _string(key), _string("cpu"), _integer(math.prod(shape)), b"tQ"),
        _integer(0),
        *(b"(", *map(_integer, shape), b"t"),
        *(b"(", *map(_integer, strides), b"t"),
        b"\x89" + _global("collections.OrderedDict") + b")RtR",
    ]


def _global(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(number: int) -> bytes:
    data = encode_long(number)
    return b"\x8a" + bytes([len(data)]) + data
