"""Reads an `.h5` file of Keras in a separate process, and writes its weights to standard output as safetensors.

    python keras_child.py FILE BYTES MEMORY SECONDS

HDF5 is C code that may crash or hang on a damaged file, or exhaust memory. So `keras_file.read_keras` runs this script,
which limits itself to BYTES of weights, MEMORY bytes more than at its start, and SECONDS of processor time. If it
refuses a file, it writes the reason to standard error and exits with `REFUSED`. It does not import jaxcnn, which would
take longer than the reading.
"""

import json
import re
import sys
from typing import Any, BinaryIO

import h5py
import h5py.h5l
import numpy as np

REFUSED = 3
"""The exit code if a file is refused; the reason is on standard error."""

# Standard output and standard error, read by the parent process.
_OUTPUT, _REASON = 1, 2
# Limits on the parts of a name and the weights of a file, larger than in any model.
_MAX_DEPTH, _MAX_WEIGHTS = 32, 2**16
# The group of weights that belong to the model itself, not to a layer.
_TOP_LEVEL = "top_level_model_weights"
# Names of Keras 1, still in the published VGG files, such as block1_conv1_W_1:0.
_KERAS_1 = {"W": "kernel", "b": "bias"}
_CODES = {
    **{f"f{size}": f"F{8 * size}" for size in (2, 4, 8)},
    **{f"{kind}{size}": f"{kind.upper()}{8 * size}" for kind in "iu" for size in (1, 2, 4, 8)},
    "b1": "BOOL",
}


class Refused(Exception):
    """The file is refused; the message gives the reason."""


def limit(memory: int, seconds: int) -> None:
    """Limits the memory and time of this process, if the system supports it.

    Args:
      memory: bytes that it may allocate in addition.
      seconds: total processor time that it may use.
    """
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
    except OSError:
        return
    memory += pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def weights(file: Any) -> dict[str, Any]:
    """Finds the datasets of the weights.

    Args:
      file: the open file.

    Returns:
      The datasets by their names in `read_keras`, in the file's order of layers.

    Raises:
      Refused: the file has no named weights.
    """
    group = inside(file, "model_weights") if has(file, "model_weights") else file
    layers = texts(group, "layer_names")
    if layers is None:
        raise Refused(what_it_is(file))
    found: dict[str, Any] = {}
    for layer in [*layers, *([_TOP_LEVEL] if has(group, _TOP_LEVEL) and _TOP_LEVEL not in layers else [])]:
        part = inside(group, layer)
        for weight in texts(part, "weight_names") or ():
            dataset = inside(part, weight)
            if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
                raise Refused(f"expects {weight!r} to be an array of this file, got {dataset}")
            if dataset.dtype.str[1:] not in _CODES:
                raise Refused(f"expects numbers as {weight!r}, got dtype {dataset.dtype}")
            name = name_of(layer, weight)
            if name in found:
                raise Refused(f"has two weights with the name {name!r}; give the layers distinct names and save again")
            found[name] = dataset
            if len(found) > _MAX_WEIGHTS:
                raise Refused(f"has more than {_MAX_WEIGHTS} weights")
    return found


def inside(group: Any, name: str) -> Any:
    """Follows a name along hard links only: other links can lead to other files, to an endless pipe, or in circles."""
    parts = [part for part in name.split("/") if part]
    if len(parts) > _MAX_DEPTH:
        raise Refused(f"expects names of at most {_MAX_DEPTH} parts, got {len(parts)}")
    for part in parts:
        if not isinstance(group, h5py.Group) or not group.id.links.exists(part.encode()):
            raise Refused(f"is truncated or damaged; download or copy it again (it lacks {name!r})")
        if not has(group, part):
            raise Refused(f"expects {name!r} to be an array of this file, got a link to something else")
        group = group[part]
    return group


def has(group: Any, name: str) -> bool:
    """Returns whether a group has a hard link of this name, without following the link."""
    links = group.id.links
    return links.exists(name.encode()) and links.get_info(name.encode()).type == h5py.h5l.TYPE_HARD


def texts(group: Any, name: str) -> list[str] | None:
    """Returns an attribute that is a list of strings; Keras splits long lists into name0, name1 and so on."""
    parts = [name] if name in group.attrs else []
    while not parts or parts[0] != name:
        part = f"{name}{len(parts)}"
        if part not in group.attrs:
            break
        parts.append(part)
    if not parts:
        return None
    found = [text for part in parts for text in np.ravel(group.attrs[part]).tolist()]
    return [text.decode("utf-8") if isinstance(text, bytes) else str(text) for text in found]


def name_of(layer: str, weight: str) -> str:
    """Returns the name of a weight, prefixed by its layer."""
    weight = re.sub(r":\d+$", "", weight)
    if weight.startswith(f"{layer}/"):
        return weight
    old = re.fullmatch(re.escape(layer) + r"_(W|b)(_\d+)?", weight)
    return f"{layer}/{_KERAS_1[old[1]] if old else weight}"


def what_it_is(file: Any) -> str:
    """Describes an HDF5 file without names of layers."""
    groups = [name for name in file if has(file, name) and file.get(name, getclass=True) is h5py.Group]
    if "layers" in groups or "_layer_checkpoint_dependencies" in groups or "vars" in groups:
        return (
            "is a .weights.h5 file of Keras 3, whose weights have no names of layers; convert it with Keras: "
            "build the model, model.load_weights('name.weights.h5'), and model.save('name.h5')"
        )
    if "optimizer_weights" in groups or "optimizer" in groups:
        return "holds the state of an optimizer, but no weights of a model; expected the file of the model"
    return f"is not a file of Keras: expected the attribute layer_names, got the groups {groups[:10]}"


def write(out: BinaryIO, found: dict[str, Any], max_bytes: int) -> None:
    """Writes datasets as a safetensors file.

    Args:
      out: the file to write to.
      found: the datasets by name.
      max_bytes: largest total size of the datasets.

    Raises:
      Refused: the datasets are larger, or one cannot be read.
    """
    header, end = {}, 0
    for name, dataset in found.items():
        start, end = end, end + dataset.size * dataset.dtype.itemsize
        code = _CODES[dataset.dtype.str[1:]]
        header[name] = {"dtype": code, "shape": dataset.shape, "data_offsets": [start, end]}
    if end > max_bytes:
        raise Refused(f"holds {end} bytes of weights, expected at most {max_bytes} in a file of its size")
    encoded = json.dumps(header).encode()
    out.write(len(encoded).to_bytes(8, "little") + encoded)
    for dataset in found.values():
        try:
            values = np.asarray(dataset[()], dataset.dtype.newbyteorder("<"))
        except Exception as error:
            raise Refused(f"is damaged at {dataset.name}; download or copy it again ({error})") from error
        out.write(values.tobytes())


def main() -> int:
    """Reads the file named on the command line."""
    path, max_bytes, memory, seconds = sys.argv[1], *map(int, sys.argv[2:])
    limit(memory, seconds)
    try:
        with h5py.File(path, "r") as file, open(_OUTPUT, "wb") as out:
            write(out, weights(file), max_bytes)
    except Exception as error:
        damaged = f"is truncated or damaged; download or copy it again ({type(error).__name__}: {error})"
        with open(_REASON, "wb") as out:
            out.write((str(error) if isinstance(error, Refused) else damaged).encode("utf-8", "replace"))
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
