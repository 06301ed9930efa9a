"""What the C++ libraries are built from and for which processors; setup.py reads it before jaxcnn is installed.

So this module imports the standard library alone.
"""

import functools
import hashlib
import platform
import re
import sys
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
BUILT = FOLDER / "built"
"""Libraries of an installed package, where a compiler was found when it was built."""

OWN_FLAGS = {"kernels": (), "resample": ("-ffp-contract=off",)}
"""The libraries, and what each adds to the flags; without it, the weights of the second would not be Pillow's."""

_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-w")
# A package may meet a system without the compiler's own libraries; their symbols would double its size.
_ALONE = ("-static-libgcc", "-static-libstdc++", "-s")

_V2 = ("cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3")
_V3 = (*_V2, "abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")
_V4 = (*_V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")


class Variant(NamedTuple):
    """A library for a kind of processor.

    Attributes:
      name: part of the file's name.
      flags: of the compiler.
      needs: names in /proc/cpuinfo of what a processor must have.
    """

    name: str
    flags: tuple[str, ...]
    needs: tuple[str, ...] = ()


_X86 = (
    Variant("x86-64-v4-bf16", ("-march=x86-64-v4", "-mavx512bf16"), (*_V4, "avx512_bf16")),
    Variant("x86-64-v4", ("-march=x86-64-v4",), _V4),
    Variant("x86-64-v3", ("-march=x86-64-v3",), _V3),
    Variant("x86-64-v2", ("-march=x86-64-v2",), _V2),
)
_ARM = (Variant("armv8-a", ("-march=armv8-a",)),)
_VARIANTS = {"x86_64": _X86, "AMD64": _X86, "aarch64": _ARM, "arm64": _ARM}


def variants(machine: str | None = None) -> tuple[Variant, ...]:
    """Lists the variants for a machine, the fastest first.

    Args:
      machine: as `platform.machine()` names it; None for this one.
    """
    return _VARIANTS.get(platform.machine() if machine is None else machine, ())


def best(features: set[str], machine: str | None = None) -> list[Variant]:
    """Lists the variants that a processor can run, the fastest first.

    Args:
      features: the words of "flags" in /proc/cpuinfo.
      machine: as in `variants`.
    """
    return [variant for variant in variants(machine) if features.issuperset(variant.needs)]


def command(compiler: tuple[str, ...], name: str, flags: tuple[str, ...]) -> list[str]:
    """Returns the command that builds a library, without the folder of jax's headers and the output.

    Args:
      compiler: its path and own arguments.
      name: a name of `OWN_FLAGS`.
      flags: those of the processor.
    """
    return [*compiler, *_FLAGS, *flags, *OWN_FLAGS[name]]


def package_command(compiler: tuple[str, ...], name: str, variant: Variant, headers: Path, output: Path) -> list[str]:
    """Returns the command that builds a library of the package.

    Args:
      compiler: its path and own arguments.
      name: a name of `OWN_FLAGS`.
      variant: the kind of processor.
      headers: folder of jax's headers.
      output: the file to write.
    """
    alone = _ALONE if sys.platform == "linux" else ()
    source = FOLDER / f"{name}.cc"
    return [*command(compiler, name, (*variant.flags, *alone)), f"-I{headers}", str(source), "-o", str(output)]


def interface(headers: Path) -> tuple[int, int]:
    """Returns the version, major and minor, of the interface between XLA and the kernels.

    Args:
      headers: folder of jax's headers.

    Raises:
      OSError: the header is missing.
      ValueError: it does not tell.
    """
    text = (headers / "xla" / "ffi" / "api" / "c_api.h").read_text()
    found = [re.search(rf"#define XLA_FFI_API_{part} (\d+)", text) for part in ("MAJOR", "MINOR")]
    if not all(found):
        raise ValueError(f"expected the version of the interface in the headers of jax, {headers}, got none")
    major, minor = (int(match[1]) for match in found if match)
    return major, minor


def file_name(name: str, variant: Variant, version: tuple[int, int]) -> str:
    """Names a library of the package: what it is, for which processor, and for which version of the interface."""
    return f"{name}-{variant.name}-ffi{version[0]}.{version[1]}.so"


def version_of(path: Path) -> tuple[int, int]:
    """Reads the version of the interface from a name that `file_name` made."""
    major, minor = path.stem.rpartition("-ffi")[2].split(".")
    return int(major), int(minor)


@functools.cache
def _sources() -> bytes:
    files = sorted(path for path in FOLDER.iterdir() if path.suffix in (".cc", ".h"))
    return b"".join(path.read_bytes() for path in files)


def key(*facts: object) -> bytes:
    """Returns a digest of the sources and of what a library was built with; a library of others is not used."""
    return hashlib.sha256(repr(facts).encode() + _sources()).digest()


def sealed(content: bytes, key: bytes) -> bytes:
    """Appends a checksum to a library; the loader ignores trailing bytes."""
    return content + hashlib.sha256(key + content).digest()


def is_sound(library: Path, key: bytes) -> bool:
    """Checks the checksum of a library: loading a truncated file would crash the process."""
    if not library.is_file():
        return False
    content = library.read_bytes()
    return content == sealed(content[: -len(key)], key)
