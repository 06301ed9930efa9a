"""Writes and reads parameters and state in jaxcnn's own files, without naming a model.

    save_parameters("weights.safetensors", params, state)
    params, state = load_parameters("weights.safetensors")

Such a file is a safetensors file: each array has its path in the tree as its name. The metadata are texts. "format" is
"jaxcnn", "schema" is the version of this layout, and "structure" holds parameters and state as nested dicts in JSON,
with null for each array, so that the empty dicts of layers without parameters are kept. `jaxcnn.Network.save` adds
texts that describe the model.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxcnn import trees
from jaxcnn.interop.files.opened import few, parse_json, reading, shown, unquoted
from jaxcnn.interop.files.paths import FileError
from jaxcnn.interop.files.safetensors_file import read_metadata, read_safetensors, write_safetensors
from jaxcnn.interop.files.tensor import Tensor
from jaxcnn.text import printable
from jaxcnn.types import Params, State

FORMAT = "jaxcnn"
"""The metadata "format" of own files."""

SCHEMA = "1"


def save_parameters(path: str | os.PathLike[str], params: Params, state: State) -> None:
    """Writes parameters and state atomically; `load_parameters` reads them back to the bit.

    Args:
      path: file to write, usually with the extension `.safetensors`.
      params: nested dicts of arrays; empty dicts are kept.
      state: as `params`; `{}` without state.

    Raises:
      ValueError: there is no array, the trees are not nested dicts of arrays whose keys are strings without "/", or a
        parameter and an array of the state have the same path.
    """
    write(path, params, state, {})


def load_parameters(path: str | os.PathLike[str]) -> tuple[Params, State]:
    """Reads parameters and state of any own file, without their model.

    Args:
      path: a file that `save_parameters`, `jaxcnn.Network.save` or `jaxcnn.interop.weights.save_safetensors` wrote.

    Returns:
      Parameters and state, with the dtypes of the file; float64 becomes float32 unless JAX has it enabled.

    Raises:
      FileNotFoundError: the file does not exist.
      FileError: the file is damaged, is not an own file, or has no structure because version 0.1 wrote it.
    """
    about = read_about(path)
    if about is None:
        raise FileError(
            f"expected a file that jaxcnn wrote, got {printable(path)}, which is of another program; read it with "
            "jaxcnn.load, or with jaxcnn.interop.files.safetensors_file.read_safetensors"
        )
    if "structure" not in about:
        raise FileError(
            f"expected the structure of the parameters in {printable(path)}, got a file without it, as version 0.1 "
            "wrote; read it with jaxcnn.interop.weights.load_safetensors and its model"
        )
    tensors = read_safetensors(path)
    with reading(path):
        structure = parse_json(about["structure"].encode())
        if not _is_structure(structure) or structure.keys() != {"params", "state"}:
            raise FileError(f"expected the structure of parameters and state in {printable(path)}")
        names = [name for tree in structure.values() for name in _leaf_names(tree)]
        if sorted(names) != sorted(tensors):
            odd = sorted(set(names) ^ set(tensors)) or names
            raise FileError(f"expected the arrays of its structure in {printable(path)}, got differences: {few(odd)}")
        return _filled(structure["params"], tensors), _filled(structure["state"], tensors)


def write(path: str | os.PathLike[str], params: Params, state: State, about: Mapping[str, str]) -> None:
    """Writes an own file atomically.

    Args:
      path: file to write.
      params: nested dicts of arrays.
      state: as `params`.
      about: texts that describe the model, by name.

    Raises:
      ValueError: as `save_parameters`.
    """
    arrays: dict[str, Any] = {}
    for what, tree in (("parameters", params), ("state", state)):
        for name, leaf in trees.flatten(tree).items():
            if isinstance(leaf, Mapping):
                continue
            if not hasattr(leaf, "dtype"):
                raise ValueError(f"expected {what} as nested dicts of arrays, got {leaf!r:.80} at {name!r}")
            if name in arrays:
                raise ValueError(f"expected one array for each path, got {name!r} in parameters and state; rename one")
            arrays[name] = leaf
    structure = json.dumps({"params": _structure(params), "state": _structure(state)})
    write_safetensors(path, arrays, {"format": FORMAT, "schema": SCHEMA, "structure": structure, **about})


def read_about(path: str | os.PathLike[str]) -> dict[str, str] | None:
    """Reads the texts of an own file.

    Args:
      path: a safetensors file.

    Returns:
      The texts by name; None if another program wrote the file.

    Raises:
      FileNotFoundError: the file does not exist.
      FileError: the file is damaged or has another format, or a later version wrote it.
    """
    about = read_metadata(path)
    if about.get("format") != FORMAT:
        return None
    # Version 0.1 wrote no schema.
    if about.get("schema", SCHEMA) != SCHEMA:
        raise FileError(
            f"expected schema {SCHEMA} in {printable(path)}, got {shown(about['schema'])}; a later version of jaxcnn "
            "wrote the file and can read it"
        )
    return about


def _structure(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _structure(value) if isinstance(value, Mapping) else None for name, value in tree.items()}


def _is_structure(value: Any) -> bool:
    return isinstance(value, dict) and all(inner is None or _is_structure(inner) for inner in value.values())


def _leaf_names(structure: Mapping[str, Any], path: str = "") -> list[str]:
    names = []
    for name, inner in structure.items():
        names += [f"{path}{name}"] if inner is None else _leaf_names(inner, f"{path}{name}/")
    return names


def _filled(structure: Mapping[str, Any], tensors: Mapping[str, Tensor], path: str = "") -> dict[str, Any]:
    return {
        name: _on_device(tensors[f"{path}{name}"], f"{path}{name}")
        if inner is None
        else _filled(inner, tensors, f"{path}{name}/")
        for name, inner in structure.items()
    }


def _on_device(tensor: Tensor, name: str) -> jax.Array:
    if tensor.dtype.kind in "iu" and tensor.dtype.itemsize == 8 and not jax.config.values["jax_enable_x64"]:
        raise FileError(f"expected integers of at most 32 bits as {unquoted(name)}, got {tensor.dtype}; enable x64")
    return jax.device_put(np.asarray(tensor))
