"""Damages small files of every format that is read, and asserts that each is read rightly or refused as documented.

    PYTHONPATH=. python tests/fuzz_weights.py --count 20000 --seed 7

A damaged file may give other values only where its format has no checksum of them; what is read must then still be
arrays of the shapes and dtypes that the reader said, without more memory than these and the limits of the readers, and
within seconds. Everything else must be `FileError`, or ValueError of `load_npz`, whose text names the file.
"""

import argparse
import copy
import dataclasses
import io
import json
import random
import struct
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from weights_files import write_checkpoint

from jaxcnn.data import load_npz
from jaxcnn.interop.files.config import read_timm_config
from jaxcnn.interop.files.keras_file import read_keras
from jaxcnn.interop.files.paths import FileError
from jaxcnn.interop.files.safetensors_file import read_safetensors, write_safetensors
from jaxcnn.interop.files.torch_file import read_torch

GOLDEN = Path(__file__).parent / "golden"
SECONDS, BYTES = 30, 64 * 2**20
ARRAYS = {
    "conv.weight": np.arange(54, dtype=np.float32).reshape(2, 3, 3, 3),
    "conv.bias": np.array([0.5, -1], np.float32),
    "steps": np.array(7),
}
CONFIG = {
    "architecture": "resnet18",
    "num_classes": 10,
    "num_features": 512,
    "global_pool": "avg",
    "model_args": {"in_chans": 3, "num_classes": 10, "drop_rate": 0.1},
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "pool_size": [7, 7],
        "tag": "a1_in1k",
    },
}


@dataclasses.dataclass(frozen=True)
class Format:
    """A format: a sound file, what reads one, and how often it is damaged, beside the others."""

    name: str
    content: bytes
    read: Callable[[Path], object]
    damage: Callable[[random.Random, bytes], bytes]
    weight: int = 10
    error: type[Exception] = FileError


def read_all(read):
    """Returns a function that reads all tensors of a file and compares them with what the reader said of them."""

    def everything(path):
        for name, tensor in read(path).items():
            values = np.asarray(tensor)
            assert isinstance(name, str)
            assert (values.shape, values.dtype) == (tensor.shape, tensor.dtype)

    return everything


def flip(rng, content):
    """Changes some bytes anywhere: other bits, other values, pieces left out, repeated or put in."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(changed) or 1)
        match rng.randrange(7):
            case 0:
                changed[at : at + 1] = bytes([changed[at] ^ 1 << rng.randrange(8)]) if changed else b""
            case 1:
                changed[at : at + 1] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80", b"[", b"{"))
            case 2:
                del changed[at : at + rng.choice((1, 4, 64))]
            case 3:
                changed[at:at] = changed[at : at + rng.choice((1, 8, 100))]
            case 4:
                changed[at : at + 8] = struct.pack("<q", rng.choice((-1, 2**31, 2**40, 2**63 - 1, 0, 1)))
            case 5:
                changed[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 2**16, 2**31, 2**32 - 1)))
            case 6:
                changed[at:at] = rng.choice((b"]" * 1000, b"[" * 5000, b"(" * 1000, b"\0" * 100, b"9" * 400))
    return bytes(changed[: rng.randrange(len(changed) or 1)] if rng.random() < 0.1 else changed)


def in_entry(rng, content):
    """Damages what is in an archive, whose own structure and checksums stay right, or the archive itself."""
    if rng.random() < 0.3:
        return flip(rng, content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    # The small ones, which hold the structure, rather than the values.
    name = rng.choice([name for name in entries if name.endswith((".pkl", "byteorder", ".npy"))])
    entries[name] = flip(rng, entries[name]) if rng.random() < 0.8 else opcodes(rng, entries[name])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return out.getvalue()


def opcodes(rng, content):
    """Puts operations of pickle at places of others."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 2, 5))):
        at = rng.randrange(len(changed) or 1)
        changed[at:at] = rng.choice(
            (b"]", b"}", b")", b"0", b"2", b"(", b"1", b"R", b"b", b"t", b"u", b"Q", b"h\0", b".")
        )
    return bytes(changed)


def in_json(rng, content):
    """Puts odd values anywhere into JSON, or damages the text."""
    if rng.random() < 0.3:
        return flip(rng, content)
    value = json.loads(content)
    for _ in range(rng.choice((1, 1, 2))):
        spots = list(places(value))
        holder, key = rng.choice(spots)
        odd = copy.deepcopy(rng.choice(ODD))
        if isinstance(holder, dict) and rng.random() < 0.2:
            holder[rng.choice(("act_layer", "output_stride", "", "x" * 500))] = odd
        else:
            holder[key] = odd
    return json.dumps(value).encode()


def nested(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


ODD = (None, True, False, -1, 0, 3, 1.5, 2**40, 10**400, float("nan"), float("inf"), "", "3", "é" * 50, [], {}, [[]])
ODD += ([0, 0, 0], [1e-320] * 3, [True] * 3, ["a"], {"a": {}}, nested(200), [2**31] * 3, [3, 2**14, 1])


def places(value):
    """Yields every holder of a value in JSON, with the key."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(item, dict | list):
            yield from places(item)


def in_header(rng, content):
    """Damages the header of safetensors as JSON, with a length that is right, or the bytes."""
    if rng.random() < 0.4:
        return flip(rng, content)
    length = int.from_bytes(content[:8], "little")
    header = in_json(rng, content[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def formats(folder: Path) -> list[Format]:
    """Writes the sound files."""

    def written(write, *arguments):
        path = folder / "sound"
        write(path, *arguments)
        return path.read_bytes()

    state = {"state_dict": ARRAYS, "epoch": 3, "lr": [0.1, 0.2]}
    keras, npz = folder / "sound.h5", folder / "sound.npz"
    with h5py.File(keras, "w") as file:
        file.attrs["layer_names"] = [b"conv", b"norm"]
        for layer, names in (("conv", ("kernel", "bias")), ("norm", ("gamma",))):
            file.create_group(layer).attrs["weight_names"] = [f"{layer}/{name}:0".encode() for name in names]
            for name in names:
                packed = {"chunks": (2,), "compression": "gzip"} if name == "gamma" else {}
                file[layer].create_dataset(f"{layer}/{name}:0", data=np.arange(4.0), **packed)
    np.savez_compressed(npz, images=np.zeros((4, 2, 2), np.uint8), labels=["a", "b", "a", "b"], class_names=["b", "a"])
    return [
        Format("pth", written(write_checkpoint, state), read_all(read_torch), in_entry, 30),
        Format("packed pth", written(write_checkpoint, state, zipfile.ZIP_DEFLATED), read_all(read_torch), in_entry),
        Format("views pth", (GOLDEN / "state_dict.pth").read_bytes(), read_all(read_torch), in_entry),
        Format("old pth", (GOLDEN / "before_1_6.pth").read_bytes(), read_all(read_torch), flip),
        Format("safetensors", written(write_safetensors, ARRAYS), read_all(read_safetensors), in_header, 20),
        Format("h5", keras.read_bytes(), read_all(read_keras), flip, 1),
        Format("config", json.dumps(CONFIG).encode(), read_timm_config, in_json, 15),
        Format("npz", npz.read_bytes(), load_npz, in_entry, 10, ValueError),
    ]


def check(format: Format, path: Path) -> bool:
    """Reads a damaged file.

    Returns:
      Whether it was refused.
    """
    started = time.monotonic()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    text = None
    try:
        format.read(path)
    except format.error as error:
        text = str(error)
    assert text is None or path.name in text, f"the error does not name the file: {text}"
    assert text is None or len(text) < 3000, f"the error has {len(text)} characters"
    assert time.monotonic() - started < SECONDS
    assert tracemalloc.get_traced_memory()[1] - before < BYTES
    return text is not None


def fuzz(count: int, seed: int, folder: Path, only: str | None = None) -> dict[str, tuple[int, int]]:
    """Reads many damaged files.

    Args:
      count: how many.
      seed: of the damage; file k of a seed is always the same.
      folder: where to write them.
      only: name of a format, or None for all in their proportions.

    Returns:
      How many files were read, and how many of them refused, by format.
    """
    known = [format for format in formats(folder) if only in (None, format.name)]
    for format in known:
        sound = folder / "sound.file"
        sound.write_bytes(format.content)
        assert not check(format, sound), f"a sound {format.name} is refused"
    totals = {format.name: (0, 0) for format in known}
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        (format,) = rng.choices(known, [format.weight for format in known])
        path = folder / "damaged.file"
        path.write_bytes(format.damage(rng, format.content))
        try:
            refused = check(format, path)
        except BaseException as error:
            error.add_note(f"file {number} of seed {seed}, a {format.name}")
            raise
        read, bad = totals[format.name]
        totals[format.name] = read + 1, bad + refused
    return totals


def main() -> None:
    """Reads the options and prints what was refused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=None)
    options = parser.parse_args()
    tracemalloc.start()
    with tempfile.TemporaryDirectory() as folder:
        for name, (read, refused) in fuzz(options.count, options.seed, Path(folder), options.only).items():
            print(f"{name}: {read} files, {refused} refused")


if __name__ == "__main__":
    main()
