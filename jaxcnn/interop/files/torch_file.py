"""Weights of torch: `.pth` and `.pt` files, read without torch and without running what is in them.

    tensors = read_torch("resnet50-11ad3fa6.pth")
    tensors["conv1.weight"].shape  # (64, 3, 7, 7)
    kernel = numpy.asarray(tensors["conv1.weight"])

The format is that of torch 1.6 and later: a zip archive with a pickle, `data.pkl`, of the structure, and an entry for
each storage, `data/0`, `data/1` and so on, without compression. A tensor is a view of a storage: offset, shape and
strides. Source: torch's notes on serialization, and the files that torch 2.13 writes.
"""

import functools
import math
import mmap
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from pickle import encode_long  # pyright: ignore[reportAttributeAccessIssue]
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

from jaxcnn.interop.files.paths import describe_file, existing_file, is_keras_archive, written_whole
from jaxcnn.interop.files.restricted_pickle import Global, RefusedGlobal, unpickle
from jaxcnn.interop.files.tensor import LazyTensor, Tensor

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

# Of storages without a type of their own; there the tensor names its type.
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
# The structure of a checkpoint takes some hundred bytes a tensor.
_MAX_PICKLE = 2**28
# A tensor whose elements share memory (strides of zero) grows when it is read; one larger than this is no weight.
_MAX_SHARED = 2**26
# torch aligns storages for memory mapping.
_ALIGNMENT = 64


class _Storage(NamedTuple):
    """A storage as the pickle names it; `dtype` is None where the tensor names it."""

    key: str
    dtype: np.dtype | None
    size: int


def read_torch(path: str | os.PathLike[str], *, entry: str | None = None) -> Mapping[str, Tensor]:
    """Reads a state dict that torch saved.

    Nothing in the file is executed: its pickle may mention what tensors are made of, and no more. A checkpoint that
    nests the state dict, as in `{"state_dict": ..., "epoch": 3}`, is opened where one entry alone holds tensors.
    Checksums are verified when a storage is first read, where the file has them. The file is mapped into memory for as
    long as the result or one of its tensors lives, so do not overwrite it in place meanwhile.

    Args:
      path: a `.pth` or `.pt` file of torch 1.6 or later.
      entry: which entry of a checkpoint to open, such as "model_ema"; None for the only one, or the state dict itself.

    Returns:
      The tensors by name, in the order of the file.

    Raises:
      FileNotFoundError: the file is not there.
      ValueError: the file is of another format, damaged, asks for anything but tensors, holds several state dicts, or
        a state dict with entries that are not tensors.
    """
    path = existing_file(path)
    archive = _Archive(path)
    try:
        content = unpickle(
            archive.pickle(),
            allowed=_ALLOWED,
            call=functools.partial(_call, archive),
            load_persistent=functools.partial(_storage, archive),
        )
    except RefusedGlobal as error:
        raise ValueError(
            f"{str(path)!r} asks for {error}, which is refused: only tensors and dicts of them are read; if you trust "
            f"the file, save its tensors alone with torch.save(model.state_dict(), path)"
        ) from None
    except ValueError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from error
    return MappingProxyType(_state_dict(content, entry, path))


def write_torch(path: str | os.PathLike[str], tensors: Mapping[str, ArrayLike | Tensor]) -> None:
    """Writes a state dict that `torch.load(path, weights_only=True)` reads, without torch, whole or not at all.

    The tensors are read and written one after the other.

    Args:
      path: where the file is to be; an older file is replaced.
      tensors: arrays, or what another reader returned, by name.

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


class _Archive:
    """The zip archive of a checkpoint, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as file:
            try:
                with zipfile.ZipFile(file) as archive:
                    infos = archive.infolist()
                    if is_keras_archive(archive):
                        raise ValueError(
                            f"{str(path)!r} is a .keras file; see keras_file.read_keras for what can be read"
                        )
            except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, OverflowError, struct.error) as error:
                raise ValueError(self.not_a_checkpoint()) from error
            self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.infos = {info.filename: info for info in infos}
        self.checked: set[str] = set()
        roots = [name.removesuffix("data.pkl") for name in self.infos if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError(
                f"{str(path)!r} is a zip archive, but no checkpoint of torch: expected one data.pkl, got {len(roots)}"
            )
        self.root = roots[0]
        if self.root + "constants.pkl" in self.infos:
            raise ValueError(
                f"{str(path)!r} is a TorchScript program; expected a state dict: save "
                "torch.jit.load(path).state_dict() with torch.save"
            )
        self.byte_order = "little"
        if self.root + "byteorder" in self.infos:
            self.byte_order = bytes(self.read("byteorder", 16)).decode("ascii", "replace")
            if self.byte_order not in ("little", "big"):
                raise ValueError(
                    f"{str(path)!r} is damaged: expected byte order 'little' or 'big', got {self.byte_order!r}"
                )

    def not_a_checkpoint(self) -> str:
        """Says why a file that is no zip archive is none."""
        words = describe_file(self.path)
        if words == "a zip archive":
            return f"{str(self.path)!r} is cut short or damaged; download or copy it again"
        if "torch before 1.6" in words:
            return (
                f"{str(self.path)!r} was written in the format of torch before 1.6; re-save it where there is a newer "
                f"torch: python -c \"import torch; torch.save(torch.load({str(self.path)!r}, map_location='cpu', "
                "weights_only=True), 'new.pth')\""
            )
        return f"read_torch expects a zip archive as torch.save writes it, but {str(self.path)!r} is {words}"

    def pickle(self) -> bytes:
        """Returns the pickle of the structure."""
        return bytes(self.read("data.pkl", _MAX_PICKLE))

    def size(self, name: str) -> int:
        """Returns the bytes of an entry, unpacked."""
        return self.info(name).file_size

    def info(self, name: str) -> zipfile.ZipInfo:
        if self.root + name not in self.infos:
            raise ValueError(f"{str(self.path)!r} is damaged: it lacks {name}")
        return self.infos[self.root + name]

    def read(self, name: str, limit: int | None = None) -> memoryview | bytes:
        """Returns the bytes of an entry, those of the file itself where they are stored without compression."""
        info = self.info(name)
        damaged = ValueError(f"{str(self.path)!r} is damaged at {name}; download or copy it again")
        if limit is not None and info.file_size > limit:
            raise ValueError(f"{str(self.path)!r} has a {name} of {info.file_size} bytes; expected at most {limit}")
        start = info.header_offset
        header = self.bytes[start : start + 30]
        if len(header) < 30 or header[:4] != b"PK\x03\x04" or info.flag_bits & 1:
            raise damaged
        # The lengths of name and padding in the entry's own header differ from those in the directory.
        start += 30 + sum(struct.unpack("<HH", header[26:]))
        end = start + info.compress_size
        if end > len(self.bytes):
            raise damaged
        data: memoryview | bytes = memoryview(self.bytes)[start:end]
        if info.compress_type == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, info.file_size + 1)
            except zlib.error as error:
                raise damaged from error
        elif info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(
                f"{str(self.path)!r} is packed by method {info.compress_type}; expected stored or deflated entries"
            )
        if len(data) != info.file_size:
            raise damaged
        # torch can save without checksums; it then writes zero.
        if info.CRC and name not in self.checked:
            if zlib.crc32(data) != info.CRC:
                raise damaged
            self.checked.add(name)
        return data


def _storage(archive: _Archive, persistent_id: Any) -> _Storage:
    """Returns what a persistent id names, once its entry is seen to be long enough."""
    match persistent_id:
        case ("storage", Global(name), str(key), str(), int(size)) if name in _STORAGES or name in _UNTYPED:
            dtype = _STORAGES.get(name)
        case _:
            raise ValueError("expected a storage as torch.save writes it; the pickle is damaged")
    available = archive.size(f"data/{key}")
    if not 0 <= size * (dtype.itemsize if dtype else 1) <= available:
        raise ValueError(f"expected {size} elements in data/{key}, got {available} bytes; the file is damaged")
    return _Storage(key, dtype, size)


def _call(archive: _Archive, name: str, arguments: tuple[Any, ...]) -> Any:
    """Returns what the call of a function in a checkpoint stands for."""
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
            raise ValueError(f"expected arguments of {name} as torch.save writes them; the pickle is damaged")
    if any(metadata):
        raise ValueError("a tensor is conjugated or negated lazily; save tensor.resolve_conj().resolve_neg()")
    return _strided(archive, storage, dtype, offset, shape, strides)


def _strided(
    archive: _Archive, storage: _Storage, dtype: np.dtype, offset: Any, shape: Any, strides: Any
) -> LazyTensor:
    """Makes a tensor of a view of a storage, once the view is seen to lie inside."""
    numbers = (offset, *shape, *strides) if type(shape) is type(strides) is tuple else (None,)
    if (
        any(type(number) is not int or not 0 <= number < 2**63 for number in numbers)
        or not len(shape) == len(strides) <= _MAX_RANK
    ):
        raise ValueError("expected offset, shape and strides of a tensor; the pickle is damaged")
    elements = math.prod(shape)
    available = storage.size if storage.dtype else storage.size // dtype.itemsize
    # Along an axis of one element a stride means nothing.
    steps = tuple(stride if n > 1 else 0 for n, stride in zip(shape, strides, strict=True))
    last = offset + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    too_large = elements > max(available, _MAX_SHARED) or math.prod(filter(None, shape)) > 2**56
    if too_large or (elements and last >= available):
        raise ValueError(
            f"a tensor of shape {shape} does not lie inside its storage of {available} elements; the file is damaged"
        )

    def read() -> np.ndarray:
        if not elements:
            return np.empty(shape, dtype)
        data = archive.read(f"data/{storage.key}")
        size = dtype.itemsize
        view = np.ndarray(shape, dtype, data, offset * size, tuple(step * size for step in steps))
        values = np.array(view, order="C")
        if archive.byte_order != sys.byteorder:
            # Numpy does not swap the bytes of bfloat16.
            parts = values if dtype.kind != "V" else values.view(f"u{size}")
            parts.byteswap(inplace=True)
        return values

    return LazyTensor(shape, dtype, read)


def _state_dict(content: Any, entry: str | None, path: Path) -> dict[str, Tensor]:
    """Finds the state dict in what was saved."""
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} expects to hold a dict of tensors, got a {type(content).__name__}")
    keys = _listed(content)
    if entry is not None:
        if entry not in content:
            raise ValueError(f"{str(path)!r} has no entry {entry!r}; it has {keys}")
        content = content[entry]
        if not _has_tensors(content):
            raise ValueError(f"entry {entry!r} of {str(path)!r} is no dict of tensors; the entries are {keys}")
    elif not _has_tensors(content):
        nested = [key for key, value in content.items() if _has_tensors(value)]
        if not nested:
            raise ValueError(f"{str(path)!r} holds no state dict; it has {keys}")
        if len(nested) > 1:
            raise ValueError(
                f"{str(path)!r} holds several state dicts; choose one with entry=, such as {nested[0]!r}; it has {keys}"
            )
        content = content[nested[0]]
    others = {name: value for name, value in content.items() if not isinstance(value, LazyTensor)}
    if others:
        raise ValueError(
            f"the state dict in {str(path)!r} has entries that are not tensors: {_listed(others)}; save it without them"
        )
    unnamed = [name for name in content if not isinstance(name, str)]
    if unnamed:
        raise ValueError(f"the state dict in {str(path)!r} expects names that are strings, got {unnamed[0]!r}")
    return content


def _has_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(item, LazyTensor) for item in value.values())


def _listed(content: Mapping[Any, Any]) -> str:
    """Names the entries of a dict with their types, the first twenty."""
    entries = [f"{key!r} ({_kind(value)})" for key, value in list(content.items())[:20]]
    return ", ".join(entries) + (f" and {len(content) - 20} more" if len(content) > 20 else "") or "no entries"


def _kind(value: Any) -> str:
    return "tensor" if isinstance(value, LazyTensor) else type(value).__name__


def _write_entry(archive: zipfile.ZipFile, file: BinaryIO, name: str, data: bytes | memoryview) -> None:
    """Writes an entry without compression, its data aligned by padding in its header, as torch does."""
    info = zipfile.ZipInfo(f"archive/{name}")
    info.file_size = len(data)
    # The padding is an extra field of the header: an id, a length, and that many bytes.
    padding = -(file.tell() + 30 + len(info.filename) + 4) % _ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    with archive.open(info, "w") as entry:
        entry.write(data)


def _tensor(storage: str, key: str, shape: tuple[int, ...]) -> list[bytes]:
    """Pickles a contiguous tensor: the call of torch's own function that makes it."""
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
