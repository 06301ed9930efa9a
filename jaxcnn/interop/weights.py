"""Converts published weights of torchvision, timm and Keras to parameters and state, and back.

    model, params, state, preprocessing = load_weights("resnet50", "timm/resnet50.a1_in1k")
    image = preprocessing(photograph)                                  # uint8 (height, width, 3) to (224, 224, 3)
    logits, _ = model.apply(params, state, image, train=False)

Neither torch nor TensorFlow is needed. The records of `jaxcnn.interop.records` describe the sources.
"""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcnn import trees
from jaxcnn.interop import conversion, darknet, own_file
from jaxcnn.interop.files import paths
from jaxcnn.interop.files.config import TimmConfig, read_timm_config
from jaxcnn.interop.files.darknet_file import read_darknet
from jaxcnn.interop.files.hub import download, verify_torchvision_name
from jaxcnn.interop.files.keras_file import read_keras
from jaxcnn.interop.files.opened import few, read_json, reading, shown, unquoted
from jaxcnn.interop.files.paths import FileError
from jaxcnn.interop.files.safetensors_file import read_metadata, read_safetensors, write_safetensors
from jaxcnn.interop.files.smp_config import SmpConfig, is_smp_config, read_smp_config
from jaxcnn.interop.files.tensor import Tensor
from jaxcnn.interop.files.torch_file import read_torch, write_torch
from jaxcnn.interop.preprocessing import Preprocessing, timm_preprocessing
from jaxcnn.interop.records import RECORDS, torchvision_files, yolo
from jaxcnn.interop.records.record import OF_TORCH, Origin, Record
from jaxcnn.interop.records.smp import smp_record
from jaxcnn.layers import Conv, Dense, identity
from jaxcnn.layers.composite import layer_paths
from jaxcnn.layers.parameters import check_positive
from jaxcnn.models import catalog
from jaxcnn.tasks import Classification, Segmentation
from jaxcnn.text import nearest, printable
from jaxcnn.types import Layer, Params, State, Task
from jaxcnn.values import Partial

_KERAS_FILES = (".h5", ".hdf5", ".keras")
_ENDINGS = (*_KERAS_FILES, ".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".weights")
# Prefixes that wrappers of torch add to all names: of parallel and averaged modules, compiled ones, training loops.
_WRAPPERS = ("module.", "_orig_mod.", "model.")
# The counter of an averaged module of torch.
_COUNTER = "n_averaged"
# A longer list of differences would hide their pattern.
_LISTED = 5


class Weights(NamedTuple):
    """A model with published weights.

    Attributes:
      model: the variant of the model that the weights were trained with.
      params: its parameters, float32.
      state: its state.
      preprocessing: prepares an image for the model.
    """

    model: Any
    params: Params
    state: State
    preprocessing: Preprocessing | None


class Published(NamedTuple):
    """Published weights with the names of their classes.

    Attributes:
      weights: the model, its parameters and state, and the preprocessing.
      class_names: the `label_names` of timm's config.json; empty if it has none, or not one for each class.
      task: the meaning of the outputs; None if the head is the identity, or the outputs are no logits of classes. A
        detector makes its task for a size of images: that of its preprocessing, or it has none if they differ in size.
    """

    weights: Weights
    class_names: tuple[str, ...]
    task: Task | None


class _Source(NamedTuple):
    """An open file and its possible origins; `numbers` are those of a file of darknet, which has no names."""

    path: Path
    tensors: Mapping[str, Tensor]
    origins: Sequence[Origin]
    config: TimmConfig | SmpConfig | None = None
    numbers: np.ndarray | None = None


def load_weights(
    model_name: str,
    source: str | Path,
    *,
    architecture: str | None = None,
    entry: str | None = None,
    in_channels: int | None = None,
) -> Weights:
    """Loads published weights, and builds the variant of the model that they were trained with.

    The numbers of classes and of input channels are those of the file. If the file has no weights for the classes, the
    head of the model is the identity. Every array of the file is used once and every leaf of the model is filled once;
    otherwise an error lists the differences. The prefixes `module.`, `_orig_mod.` and `model.` of torch's wrappers are
    removed.

    With `in_channels`, the first convolution is converted to images of another number of channels, as in timm
    (Wightman, `timm.models._manipulate.adapt_input_conv`): for one channel its kernel is summed over the channels of
    the file; for others it is repeated along them, cut off, and scaled by the ratio of the numbers of channels.

    Files without config.json cannot reveal differences in activation or pooling: timm's `resnetaa50`, `resnetblur50`
    and `resnetblur18` are loaded as ResNets, `efficientnetv2_s`, `_m` and `_l` as `tf_efficientnetv2`. Load a folder
    with config.json, which refuses unknown options, or pass `architecture=`.

    Loading takes the memory of the parameters and state in float32 and that of the readers, see `jaxcnn.interop.files`.

    Args:
      model_name: name of a model of the catalog, such as "resnet50".
      source: a Hugging Face hub id such as "timm/resnet50.a1_in1k" (needs a network and the package huggingface_hub); a
        folder with config.json and model.safetensors or pytorch_model.bin; or a file with any extension: of safetensors
        with torch's names or written by `save_safetensors`, of torch, a legacy `.h5` of Keras, or darknet's `.weights`.
      architecture: library and architecture, such as "timm/tf_efficientnet_b0". Needed if several variants have the
        same names and shapes and the file does not identify its variant.
      entry: entry to load from a torch checkpoint with several state dicts, such as "state_dict_ema".
      in_channels: channels of the images that the result is for; None for those of the file.

    Returns:
      Model, parameters, state and preprocessing. Numbers are float32; float64 arrays stay float64 if JAX has it
      enabled. The preprocessing is None if unknown, as for files written by `save_safetensors`, and without config.json
      for models whose images do not have 3 channels. With `in_channels` 1 or 3, that of a file with the other number
      has the average mean and standard deviation of the channels, as in timm; with others it is None.

    Raises:
      KeyError: `model_name` is unknown.
      FileNotFoundError: the file, folder or repository does not exist.
      FileError: the file is damaged, has another format, or does not match the model in names or shapes. It is a
        ValueError.
      ValueError: `source` is invalid, `architecture` is not one of the model, `entry` is given for a file without
        entries, `in_channels` is not positive, or the model does not start with a convolution.
    """
    return load_published(
        source, model_name=model_name, architecture=architecture, entry=entry, in_channels=in_channels
    ).weights


def load_published(
    source: str | Path,
    *,
    model_name: str | None = None,
    architecture: str | None = None,
    entry: str | None = None,
    in_channels: int | None = None,
) -> Published:
    """Loads published weights as `load_weights`, and reads the name of the model from the source if it is there.

    It is there in a folder or hub repository with timm's config.json, and in the name of a file as torchvision
    publishes it, such as "resnet50-11ad3fa6.pth", whose checksum is verified, or as the authors of YOLOX and
    YOLOv3 do: "yolox_s.pth", "yolov3.weights".

    Args:
      source: as in `load_weights`.
      model_name: name of a model of the catalog; None reads it from `architecture` or the source.
      architecture: as in `load_weights`.
      entry: as in `load_weights`.
      in_channels: as in `load_weights`.

    Returns:
      The weights, the names of the classes if they are known, and the task.

    Raises:
      KeyError: `model_name` is unknown.
      FileNotFoundError: the file, folder or repository does not exist.
      FileError: as in `load_weights`, or the source does not name its model.
      ValueError: as in `load_weights`.
    """
    if model_name is not None and model_name not in catalog.CATALOG:
        raise KeyError(
            f"expected the name of a model of the catalog, got {model_name!r}{nearest(model_name, catalog.CATALOG)}"
        )
    if in_channels is not None:
        check_positive("load_weights", "in_channels", in_channels)
    opened = _open(source, entry)
    model_name = _model_name(opened, architecture) if model_name is None else model_name
    record, model = _choose(model_name, opened, architecture)
    with reading(opened.path):
        if record.origin == "jaxcnn" and read_metadata(opened.path).get("model") != repr(model):
            raise FileError(
                f"expected the weights of the catalog's {model_name}, got those of a model with other options in "
                f"{printable(opened.path)}; build that one and use load_safetensors(path, model)"
            )
        params, state = _read(record, model, _usable(record, opened), opened.path)
        names = () if opened.config is None else opened.config.label_names
        if opened.path.name in torchvision_files.PREPROCESSING or _has_published_classes(record, model, opened.path):
            names = record.class_names
        weights = Weights(model, params, state, _preprocessing(record, model, opened))
    task = _task(record, model, weights.preprocessing)
    return Published(weights if in_channels is None else with_channels(weights, model_name, in_channels), names, task)


def _usable(record: Record, source: _Source) -> dict[str, Tensor]:
    """Returns the arrays of a source that a model uses, by the names of the record."""
    if source.numbers is not None:
        return darknet.named(record, source.numbers, source.path)
    return conversion.usable(record, source.tensors)


def _has_published_classes(record: Record, model: Any, path: Path) -> bool:
    """Tells whether a file has the name of one that the authors of a YOLO publish, and as many classes."""
    outputs = record.anchors * (len(record.class_names) + record.beside)
    return path.name in yolo.FILES and model[record.head].out_channels == outputs


def _task(record: Record, model: Any, preprocessing: Preprocessing | None) -> Task | None:
    head = model[record.head]
    # A single logit for each pixel, or what an activation makes of logits, is that of no task here.
    if head == identity or (record.origin == "smp" and (head.out_channels == 1 or "activation" in model.names)):
        return None
    if record.origin != "smp" and catalog.CATALOG[record.model].task == "detection":
        size = None if preprocessing is None else preprocessing.image_size
        return None if size is None else model.task(size)
    is_segmenter = record.origin == "smp" or catalog.CATALOG[record.model].task == "segmentation"
    return Segmentation(head.out_channels) if is_segmenter else Classification()


def _model_name(source: _Source, architecture: str | None) -> str:
    """Returns the name in the catalog of the model that the source, or the architecture, names."""
    told, where = architecture, ""
    if told is None and isinstance(source.config, SmpConfig):
        return _records(source)[0].model
    if told is None and source.config is not None:
        told, where = f"timm/{source.config.architecture}", f" in {printable(source.path)}"
    known = [record.architecture for record in RECORDS if record.origin == "torchvision"]
    if told is None and (name := torchvision_files.architecture_of(source.path.name, known)):
        told = f"torchvision/{name}"
    if told is None and source.path.name in yolo.FILES:
        told = yolo.FILES[source.path.name]
    if told is None:
        raise FileError(
            f"expected a source that names its model, got {printable(source.path)}; give model=, such as 'resnet50'"
        )
    models = {record.name: record.model for record in RECORDS}
    if told not in models:
        raise FileError(
            f"expected an architecture that is known here{where}, got {unquoted(told)}{nearest(told, models)}"
        )
    return models[told]


def save_torch(path: str | Path, model: Any, params: Params, state: State, *, architecture: str) -> None:
    """Writes weights atomically, under the names of torchvision, timm, segmentation_models_pytorch or YOLOX.

    Args:
      path: file to write: `.pth` or `.pt`, which `torch.load(path, weights_only=True)` reads, or `.safetensors`.
      model: the model.
      params: its parameters.
      state: its state.
      architecture: library and architecture of the names, such as "torchvision/resnet50" or "smp/Unet-resnet34".

    Raises:
      ValueError: the architecture is unknown or not of torch, the leaves of the model do not match it, or the extension
        of the file is unknown.
    """
    path = Path(path)
    known = {record.name: record for record in RECORDS if record.origin in OF_TORCH}
    if architecture not in known:
        raise ValueError(
            f"expected an architecture of torchvision, timm, smp or yolox, got {architecture!r}\n"
            f"known: {_listed(known)}"
        )
    if path.suffix not in (".pth", ".pt", ".bin", ".safetensors"):
        raise ValueError(f"expected the extension .pth, .pt or .safetensors, got {path.name!r}")
    try:
        arrays = conversion.written(known[architecture], model, params, state)
    except KeyError as error:
        raise ValueError(f"expected a model of the layers of {architecture}: {error.args[0]}") from error
    if path.suffix == ".safetensors":
        write_safetensors(path, arrays, {"format": "pt"})
    else:
        write_torch(path, arrays)


def save_safetensors(path: str | Path, model: Any, params: Params, state: State) -> None:
    """Writes weights atomically to a `.safetensors` file, under their names in the model.

    `jaxcnn.load(path)`, `load_weights(name, path)` and `load_safetensors(path, model)` read it.

    Args:
      path: file to write.
      model: the model; its constructor call is stored in the file's metadata.
      params: its parameters.
      state: its state.

    Raises:
      ValueError: parameters or state do not match the model.
    """
    conversion.check(model, params, state)
    own_file.write(path, params, state, {"model": repr(model)})


def load_safetensors(path: str | Path, model: Any, *, keep_precision: bool = False) -> tuple[Params, State]:
    """Reads a file that `save_safetensors` wrote, for any model.

    Args:
      path: the file.
      model: the model that was saved, or a model with the same leaves.
      keep_precision: whether floating-point numbers keep the dtype of the file.

    Returns:
      Parameters and state. Floating-point numbers, bfloat16 too, are float32 unless `keep_precision`; float64 stays
      float64 if JAX has it enabled, and is float32 otherwise. Others have the dtype of their leaf.

    Raises:
      FileError: the file is damaged, or names or shapes do not match the model.
    """
    record, given = _own_record(""), read_safetensors(Path(path))
    wanted = conversion.targets(record, model)
    if faults := list(conversion.differences(wanted, given)):
        raise FileError(
            "\n  ".join([f"{printable(path)} does not match the leaves of the model:", *_first_few(faults)])
        )
    with reading(path):
        return _read(record, model, given, Path(path), keep_precision=keep_precision)


def _read(
    record: Record, model: Any, given: Mapping[str, Tensor], path: Path, *, keep_precision: bool = False
) -> tuple[Params, State]:
    wanted = conversion.targets(record, model)
    for name, target in wanted.items():
        dtype = given[name].dtype
        if record.origin == "jaxcnn" and not target.floating:
            if dtype != target.dtype:
                raise FileError(f"expected {target.dtype} as {unquoted(name)} in {printable(path)}, got {dtype}")
        elif not conversion.is_floating(dtype):
            raise FileError(f"expected floating point numbers as {unquoted(name)} in {printable(path)}, got {dtype}")
    return conversion.read(record, model, wanted, given, keep_precision=keep_precision)


def _open(source: str | Path, entry: str | None) -> _Source:
    path = Path(source)
    if path.is_dir():
        return _open_folder(path, entry)
    if os.path.lexists(path):
        return _open_file(path, entry)
    if path.name.lower().endswith(_ENDINGS):
        raise FileNotFoundError(f"expected a file of weights, got {printable(path)}, which does not exist")
    hub_id = str(source).removeprefix("hf-hub:").removeprefix("hf_hub:")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", hub_id):
        raise ValueError(
            "expected a hub id such as timm/resnet50.a1_in1k, a folder with model.safetensors, or a file of weights, "
            f"got {str(source)!r}, which does not exist"
        )
    hub_id, _, revision = hub_id.partition("@")
    return _open_folder(download(hub_id, revision=revision or None), entry)


def _records(source: _Source) -> Sequence[Record]:
    """Returns the records that may describe a source."""
    if not isinstance(source.config, SmpConfig):
        return RECORDS
    try:
        return (smp_record(source.config),)
    except ValueError as error:
        raise FileError(f"{printable(source.path)}: {error}") from error


def _read_config(folder: Path) -> TimmConfig | SmpConfig | None:
    path = folder / "config.json"
    # A broken link counts as the file: it must not be skipped in favour of another file.
    if not os.path.lexists(path):
        return None
    with reading(path):
        is_smp = is_smp_config(read_json(path))
    return read_smp_config(path) if is_smp else read_timm_config(path)


def _open_folder(folder: Path, entry: str | None) -> _Source:
    known = _read_config(folder)
    origins: tuple[Origin, ...] = OF_TORCH if known is None else (_origin(known),)
    if any(os.path.lexists(folder / name) for name in ("model.safetensors", "model.safetensors.index.json")):
        _refuse_entry(entry, folder)
        return _Source(folder, _unwrapped(read_safetensors(folder)), origins, known)
    if os.path.lexists(folder / "pytorch_model.bin"):
        tensors = read_torch(folder / "pytorch_model.bin", entry=entry)
        return _Source(folder, _unwrapped(tensors), origins, known)
    raise FileNotFoundError(
        f"expected model.safetensors or pytorch_model.bin in the folder {printable(folder)}, got "
        f"{sorted(path.name for path in folder.iterdir())[:10]}"
    )


def _origin(config: TimmConfig | SmpConfig) -> Origin:
    return "timm" if isinstance(config, TimmConfig) else "smp"


def _open_file(path: Path, entry: str | None) -> _Source:
    what, ending = paths.describe_file(paths.existing_file(path)), path.suffix.lower()
    if what == paths.HDF5 or ending in _KERAS_FILES:
        _refuse_entry(entry, path)
        return _Source(path, read_keras(path), ("keras",))
    if what == paths.SAFETENSORS or ending == ".safetensors":
        _refuse_entry(entry, path)
        if read_metadata(path).get("format") == own_file.FORMAT:
            return _Source(path, read_safetensors(path), ("jaxcnn",))
        return _Source(path, _unwrapped(read_safetensors(path)), OF_TORCH)
    if ending == ".weights" and what not in (paths.ZIP, paths.BEFORE_1_6):
        _refuse_entry(entry, path)
        return _Source(path, {}, ("darknet",), numbers=read_darknet(path))
    verify_torchvision_name(path)
    return _Source(path, _unwrapped(read_torch(path, entry=entry)), OF_TORCH)


def _refuse_entry(entry: str | None, path: Path) -> None:
    if entry is not None:
        raise ValueError(f"expected entry= only for a checkpoint of torch, got {entry!r} for {printable(path)}")


def _unwrapped(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Removes the prefixes of torch's wrappers, which may be nested."""
    names, at = list(tensors), 0

    def counts(name: str) -> bool:
        return len(name) == at + len(_COUNTER) and name.endswith(_COUNTER)

    def common(prefix: str) -> bool:
        return bool(names) and all(name.startswith(prefix, at) or counts(name) for name in names)

    # The names are cut once, at the end: a file may repeat a prefix a hundred thousand times.
    while prefix := next(filter(common, _WRAPPERS), None):
        names = [name for name in names if not counts(name)]
        at += len(prefix)
    return {name[at:]: tensors[name] for name in names}


def _choose(model_name: str, source: _Source, architecture: str | None) -> tuple[Record, Any]:
    """Finds the record whose names and shapes match the file, and builds its variant of the model."""
    candidates = [
        record for record in _records(source) if record.model == model_name and record.origin in source.origins
    ]
    if "jaxcnn" in source.origins:
        candidates = [_own_record(model_name)]
    if architecture is not None:
        candidates = [record for record in candidates if record.name == architecture]
    if source.config is not None:
        candidates = [record for record in candidates if record.architecture == source.config.architecture]
    if not candidates:
        raise FileError(_no_record(model_name, source, architecture))
    fitting: dict[str, tuple[Record, Any]] = {}
    faults: list[tuple[list[str], Record, Collection[str]]] = []
    for record in candidates:
        with reading(source.path):
            given = _usable(record, source)
            model = _build(record, given)
            wanted = conversion.targets(record, model)
            found = list(conversion.differences(wanted, given))
        if found:
            faults.append((found, record, wanted))
        else:
            fitting[record.name] = record, model
    if not fitting:
        found, record, wanted = min(faults, key=lambda fault: len(fault[0]))
        raise FileError(
            "\n  ".join(
                [
                    f"{printable(source.path)} does not hold the weights of {model_name}; expected the arrays of "
                    f"{record.name}{_common_prefix(source.tensors, wanted)}:",
                    *_first_few(found),
                ]
            )
        )
    # If the same model fits two libraries, torchvision comes first and decides the preprocessing.
    if len({model for _, model in fitting.values()}) > 1:
        raise ValueError(
            f"the weights in {printable(source.path)} fit several variants of {model_name}, whose results differ; "
            f"give architecture=, one of {_listed(fitting)}"
        )
    return next(iter(fitting.values()))


def _common_prefix(names: Collection[str], wanted: Collection[str]) -> str:
    """Describes the common prefix of all names, or of most if no expected name has it; empty without one."""
    firsts = [name.partition(".")[0] + "." for name in names if "." in name]
    first, count = Counter(firsts).most_common(1)[0] if firsts else ("", 0)
    if len(names) > 1 and count == len(names):
        return f", got names with the common prefix {shown(first)}"
    if 2 * count > len(names) and not any(name.startswith(first) for name in wanted):
        others = few([name for name in names if not name.startswith(first)])
        return (
            f", got names most of which have the prefix {shown(first)}, and others: {others}; "
            "save those of the model alone"
        )
    return ""


def _first_few(lines: Sequence[str]) -> list[str]:
    rest = [f"and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    return [*(line[:200] for line in lines[:_LISTED]), *rest]


def _no_record(model_name: str, source: _Source, architecture: str | None) -> str:
    known = [record.name for record in RECORDS if record.model == model_name]
    told = printable(source.path)
    if source.config is not None:
        told = unquoted(f"{_origin(source.config)}/{source.config.architecture}")
    got = told if architecture is None else unquoted(architecture)
    elsewhere = [record.model for record in RECORDS if record.name == got]
    hint = f"; {got} is the model {elsewhere[0]!r} here" if elsewhere else ""
    if got in known and source.config:
        hint = f", and {told} in {printable(source.path)}"
    return f"expected weights of {model_name!r} from one of [{_listed(known)}], got {got}{hint}"


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))


def _build(record: Record, given: Mapping[str, Tensor]) -> Any:
    """Builds a record's model with the arrays' numbers of classes and input channels; without a head for no classes."""
    # A model of segmentation_models_pytorch need not be in the catalog: its options are in its config.
    num_classes, channels = 2, 3
    if record.model in catalog.CATALOG:
        entry = catalog.CATALOG[record.model]
        num_classes, channels = entry.num_classes, entry.image_shape[2]
    model = record.build(num_classes)
    head = given.get(record.names(record.head, model[record.head], "kernel"))
    first, layer = _first(model)
    stem = given.get(record.names(first, layer, "kernel"))
    outputs, inputs = (-1, -2) if record.origin in ("keras", "jaxcnn") else (0, 1)
    if head is not None and len(head.shape) > 1:
        num_classes = head.shape[outputs] // record.anchors - record.beside
    in_channels = channels
    if stem is not None and isinstance(layer, Conv) and len(stem.shape) == 4:
        in_channels = stem.shape[inputs] // (4 if record.has_squares(first) else 1)
    built = record.build(num_classes, in_channels=in_channels)
    headless = all(record.names(record.head, built[record.head], leaf) not in given for leaf in ("kernel", "bias"))
    return built.replace(head=identity) if headless and record.head == "head" and record.origin != "smp" else built


def _first(model: Any) -> tuple[str, Any]:
    """Finds the first layer of a model of the catalog with a kernel, which reads the image."""
    return next((path, model[path]) for path in layer_paths(model) if isinstance(model[path], Conv | Dense))


def input_channels(model: Any) -> int | None:
    """Returns the channels of the images that a model takes; None if its first layer is not a convolution.

    Args:
      model: a model of the catalog.
    """
    _, layer = _first(model)
    return layer.in_channels if isinstance(layer, Conv) else None


def with_channels(weights: Weights, model_name: str, in_channels: int) -> Weights:
    """Converts the first convolution and the preprocessing to images of another number of channels.

    Args:
      weights: what `load_weights` returned.
      model_name: name of the model, for the message.
      in_channels: number of channels, at least 1.

    Returns:
      The weights that `load_weights(..., in_channels=in_channels)` returns.

    Raises:
      ValueError: the model does not start with a convolution.
    """
    model, params, state, preprocessing = weights
    path, layer = _first(model)
    if not isinstance(layer, Conv):
        raise ValueError(f"in_channels expects a model that starts with a convolution, got {model_name}")
    if layer.in_channels == in_channels:
        return weights
    flat, name = trees.flatten(params), f"{path}/kernel"
    params = trees.unflatten({**flat, name: jax.device_put(_adapted(np.asarray(flat[name]), in_channels))})
    model = model.replace({path: dataclasses.replace(layer, in_channels=in_channels)})
    if preprocessing is not None:
        preprocessing = preprocessing.with_channels(in_channels) if in_channels in (1, 3) else None
    return Weights(model, params, state, preprocessing)


def _adapted(kernel: np.ndarray, in_channels: int) -> np.ndarray:
    """Converts a kernel (height, width, channels, out_channels) to another number of channels, as timm does."""
    if in_channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    channels = kernel.shape[2]
    repeated = kernel[:, :, np.arange(in_channels) % channels]
    return repeated * kernel.dtype.type(channels / in_channels)


def _preprocessing(record: Record, model: Any, source: _Source) -> Preprocessing | None:
    _, layer = _first(model)
    in_channels = getattr(layer, "in_channels", 3)
    if (config := source.config) is not None:
        head = model[record.head]
        outputs = head.out_channels if isinstance(head, Conv) else getattr(head, "out_features", 0)
        got, told = (in_channels, outputs), (config.in_channels, config.num_classes)
        if got != told:
            raise FileError(
                f"{printable(source.path)} has a config.json for {told[0]} channels and {told[1]} classes, and weights "
                f"for {got[0]} channels and {got[1]} classes"
            )
        if isinstance(config, SmpConfig):
            return record.preprocessing if in_channels == 3 else None
        return timm_preprocessing(config) if in_channels in (1, 3) else None
    if in_channels != 3:
        return None
    if record.read_preprocessing is not None:
        return record.read_preprocessing(source.tensors)
    published = torchvision_files.PREPROCESSING.get(source.path.name) if record.origin == "torchvision" else None
    return published or record.preprocessing


def _own_record(model_name: str) -> Record:
    """Returns the record of files of `save_safetensors`, which keep the names and the order of axes of the model."""
    build = Partial(_build_own, model_name=model_name)
    own = Record(model_name, "jaxcnn", model_name, build, _own_name, None)
    published = next((record for record in RECORDS if record.model == model_name), own)
    # What the number of classes is read from.
    return dataclasses.replace(own, head=published.head, anchors=published.anchors, beside=published.beside)


def _own_name(path: str, layer: Layer, leaf: str) -> str:
    del layer
    return f"{path}/{leaf}" if path else leaf


def _build_own(num_classes: int, *, in_channels: int | None = None, model_name: str) -> Any:
    entry = catalog.CATALOG[model_name]
    options = {} if in_channels is None or "in_channels" not in entry.takes else {"in_channels": in_channels}
    return entry.build(num_classes, **options)
