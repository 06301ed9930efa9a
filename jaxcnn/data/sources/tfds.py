"""Data sets that TensorFlow Datasets has prepared, at random and without TensorFlow."""

import dataclasses
import functools
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.data.objects import pad_objects
from jaxcnn.data.pictures import PictureError, picture_size, read_mask, read_picture
from jaxcnn.data.sources.kept import kept_array
from jaxcnn.data.sources.source import ArraySpec, checksum, file_sample
from jaxcnn.data.sources.tfrecord import RecordError, index_records, read_record

_PARTS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""Names of splits in TensorFlow Datasets, and of the parts that they are."""

_NAME = re.compile(
    r"(?P<name>\w[\w.-]*)(/(?P<config>\w[\w.,=+-]*))?(:(?P<version>(\d+|\*)(\.(\d+|\*)){2}))?(:(?P<split>.+))?"
)

_FORMATS = ("tfrecord", "array_record")

_OPEN_FILES = 256
"""Number of files of array_record that are kept open."""

_SLOTS = 100
"""Number of slots for objects, as many as COCO's AP counts in an image."""

_FLAGS = {"crowd": "is_crowd", "difficult": "is_difficult"}
"""Entries of objects, and their names in TensorFlow Datasets."""

_LISTED = 10
"""Number of names that an error lists."""


class Entry(NamedTuple):
    """What an entry of an example is made of.

    Attributes:
      feature: name of the feature in the data set.
      spec: shape and dtype of the entry.
      is_file: whether the feature is the content of a picture file.
    """

    feature: str
    spec: ArraySpec
    is_file: bool


class Piece(NamedTuple):
    """Consecutive examples of a file: `take` of its `records`, after the first `skip`."""

    file: str
    skip: int
    take: int
    records: int


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Tfds:
    """A split of a prepared data set as a source; `tfds` finds and checks it.

    Records are read one by one, and files are opened when the first of their examples is read: opening a large set
    takes no time. The positions of the records of a TFRecord file are then read once.

    Args:
      folder: folder of the version, with `dataset_info.json`.
      split: split or sub-splits, as TensorFlow Datasets writes them.
      entries: name of the feature for each entry; "objects" stands for those of the objects.
      class_names: one name for each class.
      max_objects: number of slots for the objects of an image.
      clip_boxes: whether empty boxes are left out.
    """

    folder: Path
    split: str
    entries: Mapping[str, str]
    class_names: tuple[str, ...]
    max_objects: int = _SLOTS
    clip_boxes: bool = False

    @property
    def spec(self) -> Mapping[str, ArraySpec]:
        """Shape and dtype of each entry; None for a height or width that differs from example to example."""
        return {name: entry.spec for name, entry in self._entries.items()} | self._object_spec

    @functools.cached_property
    def _object_spec(self) -> dict[str, ArraySpec]:
        if "objects" not in self.entries:
            return {}
        found = _object_features(self._builder.info.features[self.entries["objects"]]) or {}
        flags = {name: ArraySpec((self.max_objects,), np.dtype(bool)) for name in _FLAGS if name in found}
        return {
            "boxes": ArraySpec((self.max_objects, 4), np.dtype(np.float32)),
            "classes": ArraySpec((self.max_objects,), np.dtype(np.int32)),
            **flags,
            "valid": ArraySpec((self.max_objects,), np.dtype(bool)),
        }

    @property
    def fingerprint(self) -> str:
        """A checksum of what `folder` says of the data, and of the sizes, beginnings and ends of their files."""
        return self._checksum

    def __len__(self) -> int:
        return int(self._ends[-1])

    @functools.cached_property
    def digests(self) -> np.ndarray:
        """A number for the place of each example, its file and its position in it: uint64, shape (examples,)."""
        starts = [int(checksum(str(Path(piece.file).resolve()))[:16], 16) for piece in self._pieces]
        places = (np.arange(piece.skip, piece.skip + piece.take, dtype=np.uint64) for piece in self._pieces)
        return np.concatenate([np.uint64(start) + place for start, place in zip(starts, places, strict=True)])

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Reads one example.

        Args:
          index: of the example.

        Returns:
          The entries; pictures are decoded by `jaxcnn.data.pictures.read_picture`, so that EXIF orientation is applied.

        Raises:
          IndexError: the index is out of range.
          RecordError: a record is damaged.
          PictureError: a picture cannot be decoded.
          ValueError: a value has another shape than the data set says.
        """
        return self._read(index, tuple(self.spec))

    def gather(self, indices: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Reads entries of several examples. Without "image" or "mask", no picture is decoded.

        Labels stand in the records beside the pictures, so the labels of all examples need the whole data set to be
        read. That is done once: they are kept in the folder of caches, until the data set changes.
        """
        if tuple(names) == ("label",) and len(indices) >= len(self):
            return {"label": self._labels[indices]}
        examples = [self._read(int(index), tuple(names)) for index in indices]
        return {name: np.stack([example[name] for example in examples]) for name in names}

    def __repr__(self) -> str:
        entries = (f"{name} {spec.dtype} {spec.shape}" for name, spec in self.spec.items())
        return f"<{len(self)} examples of {self._builder.info.full_name} {self.split}: {', '.join(entries)}>"

    def __reduce__(self) -> tuple[type["Tfds"], tuple[Any, ...]]:
        options = (dict(self.entries), self.class_names, self.max_objects, self.clip_boxes)
        return type(self), (self.folder, self.split, *options)

    def _read(self, index: int, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(f"expected an example in [0, {len(self)}), got {index}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        piece = self._pieces[number]
        position = piece.skip + piece.take - (int(self._ends[number]) - index)
        record = self._shards[piece.file].read(position)
        where = f"example {position} of {piece.file!r}"
        plain = tuple(name for name in names if name in self._entries)
        # Boxes are parts of the image, whose size they need.
        read = tuple(dict.fromkeys((*plain, "image", "objects"))) if len(plain) < len(names) else plain
        found = _parsed(self._subset(read), record, self._files(read), where)
        values = {name: _value(name, self._entries[name], found[self.entries[name]], where) for name in plain}
        if len(plain) < len(names):
            picture = values["image"] if "image" in values else found[self.entries["image"]]
            size = picture_size(picture) if isinstance(picture, bytes) else np.shape(picture)[:2]
            features = _object_features(self._builder.info.features[self.entries["objects"]]) or {}
            objects = _objects(found[self.entries["objects"]], features, size, where, clip=self.clip_boxes)
            values |= pad_objects(objects, self.max_objects, where)
        return {name: values[name] for name in names}

    @functools.cached_property
    def _builder(self) -> Any:
        return _opened(self.folder)

    @functools.cached_property
    def _entries(self) -> Mapping[str, Entry]:
        features = self._builder.info.features
        plain = {name: feature for name, feature in self.entries.items() if name != "objects"}
        return {name: _entry(name, feature, features) for name, feature in plain.items()}

    @functools.cached_property
    def _pieces(self) -> tuple[Piece, ...]:
        return _pieces(self._builder.info, self.split)

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([piece.take for piece in self._pieces])

    @functools.cached_property
    def _shards(self) -> dict[str, "_TFRecordFile | _ArrayRecordFile"]:
        kind = _TFRecordFile if self._builder.info.file_format.value == "tfrecord" else _ArrayRecordFile
        return {piece.file: kind(piece.file, piece.records) for piece in self._pieces}

    @functools.cached_property
    def _checksum(self) -> str:
        described = (self.folder / name for name in ("dataset_info.json", "features.json"))
        pieces = (part for piece in self._pieces for part in (Path(piece.file).name, repr(piece[1:])))
        samples = (file_sample(file) for file in dict.fromkeys(piece.file for piece in self._pieces))
        entries = repr(sorted(self.entries.items()))
        if "objects" in self.entries:
            entries += repr((self.max_objects, self.clip_boxes))
        return checksum(*(path.read_bytes() for path in described), *pieces, *samples, entries, *self.class_names)

    @functools.cached_property
    def _labels(self) -> np.ndarray:
        return kept_array(
            f"tfds/{self.fingerprint}.npy",
            str(self.folder),
            lambda labels: labels.shape == (len(self),) and labels.dtype == np.int32,
            lambda: np.array([self._read(index, ("label",))["label"] for index in range(len(self))]),
        )

    @functools.cached_property
    def _subsets(self) -> dict[tuple[str, ...], Any]:
        return {}

    def _subset(self, names: tuple[str, ...]) -> Any:
        """Returns the features of some entries alone: others are not parsed."""
        if names not in self._subsets:
            features = self._builder.info.features
            chosen = {self.entries[name]: features[self.entries[name]] for name in names}
            self._subsets[names] = _package().features.FeaturesDict(chosen)
        return self._subsets[names]

    def _files(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Returns the decoders that leave picture files encoded."""
        decode = _package().decode
        files = (name for name in names if name in self._entries and self._entries[name].is_file)
        return {self.entries[name]: decode.SkipDecoding() for name in files}


def tfds(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    entries: Mapping[str, str] | None = None,
    class_names: Sequence[str] | None = None,
    max_objects: int = _SLOTS,
    clip_boxes: bool = False,
) -> Tfds | dict[str, Tfds]:
    """Opens a data set that TensorFlow Datasets has prepared, as TFRecord or array_record files.

        parts = data.tfds("cifar10")                      # the parts "train" and "test"
        source = data.tfds("imagenette/160px-v2:1.0.0:train[:80%]")

    Neither TensorFlow nor the network is used, only the package tensorflow-datasets.

    Args:
      name: "NAME[/CONFIG][:VERSION][:SPLIT]". Without a configuration, the only one that is prepared or the default
        one; without a version, the highest one that is prepared. SPLIT may have parts and sums, as in "train[:80%]" and
        "train+test[10%:]", and means what it means to TensorFlow Datasets. The examples are in the order of the files.
      data_dir: the folder of prepared data sets. None for that of TensorFlow Datasets: the environment variable
        TFDS_DATA_DIR, or `~/tensorflow_datasets`.
      entries: for each entry, such as "image" and "label", the name of its feature. "image" is an image or tensor of
        uint8; an image of four channels loses its transparency (see `jaxcnn.data.pictures.read_picture`). "label" is a
        class label, or an integer with `class_names`; "mask" an image of one channel; "target" and others any numbers
        of a fixed shape. "objects" is a sequence with boxes, which has the entries "boxes", "classes" and "valid", and
        "crowd" and "difficult" if it tells them. Boxes become edges in pixels; numbers that count pixels from 1, as in
        "voc", are not shifted. None finds the image and its class label, mask, target or objects, in this order.
      class_names: the names of the classes. None takes those of the label, of a labelled image, or of the objects.
      max_objects: number of slots for the objects of an image.
      clip_boxes: drop empty boxes. Without it, reading one is an error.

    Returns:
      The source if `name` has a split. Otherwise the parts "train", "validation" and "test", as far as they are there;
      splits of other names have to be named.

    Raises:
      ImportError: tensorflow-datasets is not installed.
      FileNotFoundError: the data set is not prepared, or a file is missing.
      ValueError: the name is not of this form, there is no such split or it is empty, the format of the files is
        another one, or a feature cannot be the entry.
    """
    asked = _NAME.fullmatch(name)
    if asked is None:
        raise ValueError(
            "expected a data set as NAME[/CONFIG][:VERSION][:SPLIT], such as 'mnist' or 'mnist:3.0.1:train[:80%]', "
            f"got {name!r}"
        )
    folder = _find(asked, data_dir)
    info = _opened(folder).info
    if info.file_format.value not in _FORMATS:
        raise ValueError(
            f"expected files of the formats {' and '.join(_FORMATS)} in {str(folder)!r}, got {info.file_format.value}; "
            "prepare them again in one of these"
        )
    chosen = _find_entries(info) if entries is None else dict(entries)
    for entry, feature in chosen.items():
        if entry == "objects":
            _check_objects(chosen, feature, info.features)
        else:
            _entry(entry, feature, info.features)
    names = _class_names(info.features, chosen, class_names)
    if max_objects < 1:
        raise ValueError(f"max_objects must be at least 1, got {max_objects}")
    opened = functools.partial(
        Tfds, folder, entries=chosen, class_names=names, max_objects=max_objects, clip_boxes=clip_boxes
    )
    if asked["split"] is not None:
        _pieces(info, asked["split"])
        return opened(split=asked["split"])
    splits = [split for split in info.splits if split in _PARTS and info.splits[split].num_examples]
    parts = {_PARTS[split]: split for split in splits}
    if not parts or len(parts) < len(splits):
        raise ValueError(
            f"expected one split for each of train, validation and test in {str(folder)!r}, got "
            f"{', '.join(info.splits) or 'none'}; name one, as {name}:{next(iter(info.splits), 'train')}"
        )
    for split in parts.values():
        _pieces(info, split)
    return {part: opened(split=parts[part]) for part in dict.fromkeys(_PARTS.values()) if part in parts}


@dataclasses.dataclass(frozen=True, eq=False)
class _TFRecordFile:
    path: str
    count: int

    @functools.cached_property
    def _offsets(self) -> np.ndarray:
        offsets = index_records(self.path)
        _check_count(self.path, self.count, len(offsets) - 1)
        return offsets

    def read(self, position: int) -> bytes:
        return read_record(self.path, *self._offsets[position : position + 2].tolist())


@dataclasses.dataclass(frozen=True, eq=False)
class _ArrayRecordFile:
    path: str
    count: int

    def read(self, position: int) -> bytes:
        reader = _array_record(self.path)
        if not reader.ok():
            raise RecordError(f"{self.path!r} is damaged or truncated: it has no index; copy or prepare it again")
        _check_count(self.path, self.count, reader.num_records())
        try:
            [record] = reader.read([position])
        # The reader reports damage by its checksums, and names the byte.
        except Exception as error:
            raise RecordError(f"{self.path!r} is damaged: {error}; copy or prepare it again") from error
        return record


@functools.lru_cache(maxsize=_OPEN_FILES)
def _array_record(path: str) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(path, "readahead_buffer_size:0")


def _check_count(path: str, expected: int, count: int) -> None:
    if count != expected:
        raise RecordError(f"expected {expected:,} records in {path!r}, got {count:,}; copy or prepare it again")


def _package() -> Any:
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            "data sets of TensorFlow Datasets are read by its package; pip install tensorflow-datasets"
        ) from error
    return tensorflow_datasets


def _opened(folder: Path) -> Any:
    """Opens a prepared data set, by its description alone."""
    package = _package()
    try:
        return package.builder_from_directory(folder)
    # It parses JSON and makes features by the names of their classes, which raise several kinds of exceptions.
    except Exception as error:
        raise ValueError(
            f"expected a data set that TensorFlow Datasets can open in {str(folder)!r}, got {type(error).__name__}: "
            f"{str(error)[:200]}; prepare it again"
        ) from error


def _find(asked: re.Match[str], data_dir: str | os.PathLike[str] | None) -> Path:
    """Finds the folder of a prepared version. It neither loads the code of the data set nor uses the network."""
    root = Path(_package().core.constants.DATA_DIR if data_dir is None else data_dir).expanduser()
    base = root / asked["name"]
    if asked["config"] is not None:
        return _version(base / asked["config"], asked, root)
    if _versions(base):
        return _version(base, asked, root)
    configs = sorted(path.name for path in _folders(base) if _versions(path))
    if len(configs) > 1:
        configs = [config for config in configs if config == _default_config(base)] or configs
    if len(configs) > 1:
        raise ValueError(
            f"expected one of the configurations of {asked['name']!r} that are prepared in {str(root)!r}, as "
            f"{asked['name']}/{configs[0]}; got none of {', '.join(configs[:_LISTED])}"
        )
    return _version(base / configs[0] if configs else base, asked, root)


def _version(base: Path, asked: re.Match[str], root: Path) -> Path:
    found = _versions(base)
    wanted = asked["version"]
    pattern = ".*" if wanted is None else re.escape(wanted).replace(r"\*", r"\d+")
    fitting = [version for version in found if re.fullmatch(pattern, version)]
    if fitting:
        return base / fitting[-1]
    name = asked["name"] + (f"/{asked['config']}" if asked["config"] else "")
    prepared = sorted(path.name for path in _folders(root) if any(map(_versions, (path, *_folders(path)))))
    there = (
        f"the versions {', '.join(found[:_LISTED])}"
        if found
        else f"the data sets {', '.join(prepared[:_LISTED])}"
        if prepared
        else "no data sets"
    )
    build = asked["name"] + (f" --config={asked['config']}" if asked["config"] else "")
    raise FileNotFoundError(
        f"{name + (f':{wanted}' if wanted else '')!r} is not prepared in {str(root)!r}, which has {there}. Set "
        "data_dir or the environment variable TFDS_DATA_DIR to another folder, or prepare it; only this needs "
        "TensorFlow:\n"
        "  pip install tensorflow tensorflow-datasets\n"
        f"  tfds build {build} --data_dir={root}\n"
        f"The formats {' and '.join(_FORMATS)} are read"
    )


def _folders(path: Path) -> list[Path]:
    return [entry for entry in path.iterdir() if entry.is_dir()] if path.is_dir() else []


def _versions(base: Path) -> list[str]:
    """Returns the versions that are prepared in a folder, the highest last."""
    found = [
        path.name
        for path in _folders(base)
        if re.fullmatch(r"\d+\.\d+\.\d+", path.name) and (path / "dataset_info.json").is_file()
    ]
    return sorted(found, key=lambda version: tuple(map(int, version.split("."))))


def _default_config(base: Path) -> str | None:
    """Returns the name that TensorFlow Datasets has written for the default configuration."""
    file = base / ".config" / "metadata.json"
    return json.loads(file.read_text()).get("default_config_name") if file.is_file() else None


def _pieces(info: Any, split: str) -> tuple[Piece, ...]:
    """Returns the examples of a split, as TensorFlow Datasets finds them."""
    try:
        found = info.splits[split].file_instructions
    except (ValueError, KeyError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"expected a split of {info.full_name} such as {', '.join(info.splits)} or train[:80%], got {split!r}: "
            f"{reason}"
        ) from error
    pieces = tuple(Piece(os.fspath(i.filename), i.skip, i.take, i.examples_in_shard) for i in found if i.take > 0)
    if not pieces:
        raise ValueError(
            f"expected a split with at least one example of {info.full_name}, got {split!r}, which is empty"
        )
    missing = [piece.file for piece in pieces if not os.path.isfile(piece.file)]
    if missing:
        raise FileNotFoundError(
            f"expected {len(pieces)} files of {info.full_name} {split}, but {len(missing)} are missing, the first "
            f"{missing[0]!r}; copy or prepare them again"
        )
    return pieces


def _find_entries(info: Any) -> dict[str, str]:
    """Finds the image and what is predicted from it."""
    features, kinds = info.features, _package().features
    supervised = [key for key in info.supervised_keys or () if isinstance(key, str)]

    def choose(keys: list[str], preferred: str) -> str | None:
        first = [key for key in (*supervised, preferred) if key in keys]
        return (first or (keys if len(keys) == 1 else [None]))[0]

    images = [key for key, feature in features.items() if _is_image(feature)]
    image = choose([key for key in images if not isinstance(features[key], kinds.LabeledImage)], "image")
    label = choose([key for key, feature in features.items() if isinstance(feature, kinds.ClassLabel)], "label")
    masks = [key for key in images if key != image and features[key].shape[-1] == 1]
    mask = choose([key for key in masks if isinstance(features[key], kinds.LabeledImage) or key in supervised], "mask")
    numbers = [key for key in supervised if key in features and _is_numbers(features[key]) and key != image]
    for entry, feature in (("label", label), ("mask", mask), ("target", numbers[0] if numbers else None)):
        if image is not None and feature is not None:
            return {"image": image, entry: feature}
    objects = choose([key for key, feature in features.items() if _object_features(feature)], "objects")
    if image is not None and objects is not None:
        return {"image": image, "objects": objects}
    raise ValueError(
        "expected one image and one class label, mask, target or sequence of objects among the features of "
        f"{info.full_name}, got {_described(features)}; name them, as entries={{'image': ..., 'label': ...}}"
    )


def _is_image(feature: Any) -> bool:
    kinds = _package().features
    if isinstance(feature, kinds.Image):
        return feature.np_dtype == np.uint8 and len(feature.shape) == 3  # an animation has one more axis
    return type(feature) is kinds.Tensor and feature.np_dtype == np.uint8 and len(feature.shape) in (2, 3)


def _is_numbers(feature: Any) -> bool:
    kinds = _package().features
    return isinstance(feature, kinds.Tensor) and np.dtype(feature.np_dtype).kind in "biuf" and None not in feature.shape


def _object_features(feature: Any) -> dict[str, str] | None:
    """Returns the names of the features of objects: boxes, classes and flags; None if there are no boxes."""
    kinds = _package().features
    inner: Any = getattr(feature, "feature", None)
    if not isinstance(feature, kinds.Sequence) or not isinstance(inner, kinds.FeaturesDict):
        return None
    named: dict[str, list[str]] = {"boxes": [], "classes": []}
    for key, one in inner.items():
        if isinstance(one, kinds.BBoxFeature):
            named["boxes"].append(key)
        if isinstance(one, kinds.ClassLabel):
            named["classes"].append(key)
    if len(named["boxes"]) != 1:
        return None
    classes = "label" if "label" in named["classes"] else (named["classes"] or [""])[0]
    flags = {name: key for name, key in _FLAGS.items() if key in inner}
    return {"boxes": named["boxes"][0], **({"classes": classes} if classes else {}), **flags}


def _check_objects(chosen: Mapping[str, str], key: str, features: Any) -> None:
    if key not in features or not _object_features(features[key]) or "image" not in chosen:
        raise ValueError(
            f"expected a sequence with one box for 'objects', beside an 'image', among {_described(features)}, got "
            f"{key!r}"
        )


def _described(features: Any) -> str:
    return ", ".join(f"{key} ({type(feature).__name__})" for key, feature in sorted(features.items()))


def _entry(name: str, key: str, features: Any) -> Entry:
    """Checks that a feature can be an entry."""
    kinds = _package().features
    if key not in features:
        raise ValueError(f"expected a feature for {name!r} among {_described(features)}, got {key!r}")
    feature = features[key]
    is_file = isinstance(feature, kinds.Image)
    wanted = {
        "image": "an image or tensor of uint8",
        "label": "a class label or an integer",
        "mask": "an image of one channel of uint8",
    }.get(name, "numbers of a fixed shape")
    match name:
        case "image" if _is_image(feature) and (feature.shape[-1] is not None):
            channels = feature.shape[2:] if not is_file else (1 if feature.shape[2] == 1 else 3,)
            return Entry(key, ArraySpec((*feature.shape[:2], *(channels or (1,))), np.dtype(np.uint8)), is_file)
        case "label" if feature.shape == () and np.dtype(feature.np_dtype).kind in "iu" and not is_file:
            return Entry(key, ArraySpec((), np.dtype(np.int32)), False)
        case "mask" if is_file and _is_image(feature) and feature.shape[2] == 1:
            return Entry(key, ArraySpec(feature.shape[:2], np.dtype(np.uint8)), True)
        case _ if name not in ("image", "label", "mask") and _is_numbers(feature):
            return Entry(key, ArraySpec(feature.shape, np.dtype(np.float32)), False)
    tensor = feature.get_tensor_info()
    form = f" of {np.dtype(tensor.np_dtype)} {tensor.shape}" if hasattr(tensor, "np_dtype") else ""
    raise ValueError(f"expected {wanted} for {name!r}, got the feature {key!r}, of kind {type(feature).__name__}{form}")


def _class_names(features: Any, entries: Mapping[str, str], given: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the names of the classes of labels and masks."""
    classified = [name for name in ("label", "mask", "objects") if name in entries]
    if given is not None:
        if isinstance(given, str) or not all(isinstance(name, str) for name in given) or len(set(given)) < len(given):
            raise ValueError(f"expected different names of classes, got {given!r}")
        if not classified:
            raise ValueError(
                f"class names need an entry 'label', 'mask' or 'objects', got only {', '.join(map(repr, entries))}"
            )
        return tuple(given)
    if not classified:
        return ()
    feature = features[entries[classified[0]]]
    if classified[0] == "objects":
        found = _object_features(feature) or {}
        if "classes" not in found:
            # Objects of one kind, as the faces of "wider_face".
            return (entries["objects"],)
        feature = feature.feature[found["classes"]]
    names = getattr(feature, "names", None)
    if not names:
        raise ValueError(
            f"expected class_names for {classified[0]!r}: the feature {entries[classified[0]]!r} has no names"
        )
    return tuple(names)


def _parsed(features: Any, record: bytes, decoders: dict[str, Any], where: str) -> Mapping[str, Any]:
    try:
        return features.deserialize_example_np(record, decoders=decoders)
    # Protocol buffers and the parser raise several kinds of exceptions.
    except Exception as error:
        raise RecordError(
            f"expected {where} to have the features {', '.join(features)}, got: {str(error)[:200]}; prepare it again"
        ) from error


def _objects(
    found: Mapping[str, Any], features: Mapping[str, str], size: Sequence[int], where: str, *, clip: bool
) -> dict[str, np.ndarray]:
    """Returns the objects of an image; boxes are (top, left, bottom, right) in [0, 1] before."""
    height, width = size
    boxes = np.asarray(found[features["boxes"]], np.float32).reshape(-1, 4)[:, [1, 0, 3, 2]]
    boxes = np.clip(boxes, 0, 1) * np.array([width, height, width, height], np.float32)
    classes = found[features["classes"]] if "classes" in features else np.zeros(len(boxes))
    whole = (boxes[:, 2:] > boxes[:, :2]).all(1)
    if not whole.all() and not clip:
        edges = ", ".join(f"{edge:g}" for edge in boxes[np.argmin(whole)])
        raise ValueError(
            f"expected boxes with a width and a height in {where}, got ({edges}), left, top, right, bottom; "
            "clip_boxes=True leaves such boxes out, on the command line --clip-boxes"
        )
    flags = {name: np.asarray(found[features[name]], bool)[whole] for name in _FLAGS if name in features}
    return {"boxes": boxes[whole], "classes": np.asarray(classes, np.int32)[whole], **flags}


def _value(name: str, entry: Entry, value: Any, where: str) -> np.ndarray:
    """Decodes the value of a feature, and checks its shape."""
    if entry.is_file:
        try:
            value = read_mask(value) if name == "mask" else read_picture(value, entry.spec.shape[2] or 3)
        except PictureError as error:
            raise PictureError(f"{where}, feature {entry.feature!r}: {error}") from error
    array = np.asarray(value, entry.spec.dtype)
    if name == "image" and array.ndim == 2:
        array = array[:, :, None]
    shape = entry.spec.shape
    if len(array.shape) != len(shape) or any(
        want not in (None, got) for want, got in zip(shape, array.shape, strict=True)
    ):
        raise ValueError(
            f"expected {entry.feature!r} of shape {shape} in {where}, got {array.shape}; prepare the data set again"
        )
    return array
