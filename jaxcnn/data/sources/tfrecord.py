"""Reads TFRecord files at random, with their checksums and without TensorFlow.

A record is its length in 8 bytes, the checksum of these bytes in 4, its data, and the checksum of the data in 4, all
little endian. The checksum is CRC-32C (RFC 3720, appendix B.4), rotated and shifted so that the checksum of data that
hold checksums is not special.
"""

import functools
import mmap
import os
import struct

import numpy as np

_HEADER, _FOOTER = 12, 4

_POLYNOMIAL = 0x82F63B78
"""Of CRC-32C, lowest bit last."""

_MASK_DELTA = 0xA282EAD8

_COMPRESSED = {b"\x1f\x8b\x08": "GZIP", b"\x78\x01": "ZLIB", b"\x78\x9c": "ZLIB", b"\x78\xda": "ZLIB"}
"""First bytes of compressed files (RFC 1952, section 2.3.1, and RFC 1950, section 2.2), and the compression."""

_BLOCK = 4096
"""Bytes of a block, whose table takes 4 MiB. Larger blocks are hardly faster; most small pictures fit into one."""

_PRELUDE = np.frombuffer(bytes.fromhex("54641f64"), np.uint8)
"""Bytes that turn a register of zeros into the initial register of CRC-32C, which is all ones."""


class RecordError(ValueError):
    """A file of records is damaged or truncated. The message names the file and the byte."""


def index_records(path: str | os.PathLike[str]) -> np.ndarray:
    """Finds the records of a file, and checks their lengths.

    Args:
      path: a TFRecord file, not compressed.

    Returns:
      The offset of each record, and the length of the file: int64, shape (records + 1,).

    Raises:
      RecordError: a length is damaged, or the file ends within a record.
      OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            return np.zeros(1, np.int64)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            offsets, headers, offset = [0], [], 0
            while offset < size:
                headers.append(content[offset : offset + _HEADER])
                if offset + _HEADER > size:
                    break
                offset += _HEADER + int.from_bytes(headers[-1][:8], "little") + _FOOTER
                offsets.append(offset)
    # Checked together, which is faster; a file that ends early or a record of absurd length ends the loop above.
    whole = np.frombuffer(b"".join(headers[: len(offsets) - 1]), np.uint8).reshape(-1, _HEADER)
    wrong = np.flatnonzero(_masked(crc32c(whole[:, :8])) != whole[:, 8:].copy().view("<u4")[:, 0])
    if len(wrong):
        kind = next((kind for start, kind in _COMPRESSED.items() if headers[0].startswith(start)), None)
        if wrong[0] == 0 and kind:
            raise RecordError(
                f"expected a TFRecord file that is not compressed, got {os.fspath(path)!r} with {kind} compression: "
                "its records cannot be read at random. TensorFlow Datasets writes no such files; decompress this one"
            )
        raise RecordError(_damaged(path, offsets[wrong[0]], "the length of a record does not match its checksum"))
    if offset > size or len(headers) >= len(offsets):
        start = offsets[-2] if offset > size else offsets[-1]
        raise RecordError(_damaged(path, start, f"the record there ends after the file, which has {size:,} bytes"))
    return np.array(offsets, np.int64)


def read_record(path: str | os.PathLike[str], offset: int, end: int) -> bytes:
    """Reads a record, and checks its data.

    The checksum is computed at every read: it takes some microseconds for a small picture, and a tenth of the time of
    its decoder for a large one.

    Args:
      path: a TFRecord file.
      offset: of the record.
      end: offset of the next record.

    Returns:
      The data.

    Raises:
      RecordError: the data do not match their checksum, or the file has become shorter.
      OSError: the file cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        record = file.read(end - offset)
    if len(record) < end - offset:
        raise RecordError(_damaged(path, offset, f"expected a record of {end - offset:,} bytes, got {len(record):,}"))
    data = record[_HEADER:-_FOOTER]
    if _masked(crc32c(np.frombuffer(data, np.uint8)[None]))[0] != struct.unpack("<I", record[-_FOOTER:])[0]:
        raise RecordError(_damaged(path, offset, "the data of the record do not match their checksum"))
    return data


def crc32c(rows: np.ndarray) -> np.ndarray:
    """Computes the CRC-32C of each row.

    A checksum of zeros followed by data is that of the data, and a checksum of a sum is the sum of the checksums, apart
    from the initial register. So every byte of a block gives its part by a table, and blocks are joined in pairs.

    Args:
      rows: uint8, shape (rows, length).

    Returns:
      The checksums, uint32, shape (rows,).
    """
    count, length = rows.shape
    width = length + len(_PRELUDE)
    block = min(width, _BLOCK)
    padded = np.zeros((count, -(-width // block) * block), np.uint8)
    padded[:, padded.shape[1] - length :] = rows
    padded[:, padded.shape[1] - width :][:, : len(_PRELUDE)] = _PRELUDE
    tables, starts = _tables()
    parts = tables.ravel().take(padded.reshape(count, -1, block) + starts[-block:])
    parts = np.bitwise_xor.reduce(parts, axis=2)
    level = 0
    while parts.shape[1] > 1:
        if parts.shape[1] % 2:
            parts = np.pad(parts, ((0, 0), (1, 0)))
        parts = _advanced(parts[:, ::2], level) ^ parts[:, 1::2]
        level += 1
    return ~parts[:, 0]


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Returns the parts of a checksum, shape (block, 256), for each byte by its place, and where each place starts."""
    last = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        last = np.where(last & 1, last >> 1 ^ np.uint32(_POLYNOMIAL), last >> 1)
    tables = [last]
    while len(tables) < _BLOCK:  # one more byte of zeros follows
        tables.insert(0, last[tables[0] & 255] ^ tables[0] >> 8)
    return np.stack(tables), 256 * np.arange(_BLOCK)


@functools.cache
def _advances(level: int) -> np.ndarray:
    """Returns what 2**level blocks of zeros make of each byte of a register, shape (4, 256)."""
    return _tables()[0][:4] if level == 0 else _advanced(_advances(level - 1), level - 1)


def _advanced(registers: np.ndarray, level: int) -> np.ndarray:
    parts = (table[registers >> 8 * place & 255] for place, table in enumerate(_advances(level)))
    return functools.reduce(np.bitwise_xor, parts)


def _masked(checksums: np.ndarray) -> np.ndarray:
    return (checksums >> 15 | checksums << 17) + np.uint32(_MASK_DELTA)


def _damaged(path: str | os.PathLike[str], offset: int, reason: str) -> str:
    return f"{os.fspath(path)!r} is damaged at byte {offset:,}: {reason}; copy or prepare it again"
