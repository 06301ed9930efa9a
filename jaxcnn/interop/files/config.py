"""Reads timm's `config.json`: the architecture of a folder of weights, and the preprocessing of its images."""

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from jaxcnn.interop.files.opened import read_json, reading, shown
from jaxcnn.interop.files.paths import FileError
from jaxcnn.values import Value

# timm's defaults.
_INPUT_SIZE = (3, 224, 224)
_CROP_PCT = 0.875
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Limits for untrusted files. Values beyond them would exhaust memory or divide by zero; no model has them.
_MAX_SIDE = 2**14
_LEAST_CROP, _LEAST_STD = 0.01, 1e-6

# Keys that are not read here and do not change what the model computes: the origin of the weights, descriptions of the
# classes, and what timm needs to replace the first and the last layer.
_IN_CONFIG = {"architecture", "num_classes", "num_features", "global_pool", "model_args", "pretrained_cfg"}
_LABELS = {"label_names", "label_descriptions"}
_READ_IN_CFG = {"num_classes", "input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std"}
_READ_IN_CFG |= {"test_input_size", "test_crop_pct", "custom_load", "label_offset"}
_HARMLESS_IN_CFG = {
    *("url", "file", "hf_hub_id", "hf_hub_filename", "source", "architecture", "tag"),
    *("license", "description", "origin_url", "paper_name", "paper_ids", "notes"),
    *("min_input_size", "fixed_input_size", "pool_size", "test_pool_size", "first_conv", "classifier"),
}
# Rates of dropout and of stochastic depth, which evaluation ignores.
_RATES = {"drop_rate", "drop_path_rate", "drop_block_rate", "proj_drop_rate"}


@dataclasses.dataclass(frozen=True, repr=False)
class TimmConfig(Value):
    """The parts of timm's config that jaxcnn uses.

    Args:
      architecture: timm's name of the model, such as "resnet50".
      num_classes: number of outputs.
      input_size: (channels, height, width) of the images in training.
      interpolation: method of resizing, such as "bicubic".
      crop_pct: size of the crop as a fraction of the resized image, in (0, 1].
      crop_mode: "center", "squash" or "border".
      mean: mean of each channel, for pixels in [0, 1].
      std: standard deviation of each channel.
      test_input_size: (channels, height, width) of larger images for evaluation, or None.
      test_crop_pct: `crop_pct` for `test_input_size`.
      label_names: names of the classes; empty if there are none, or not one for each class.
    """

    architecture: str
    num_classes: int
    input_size: tuple[int, int, int] = _INPUT_SIZE
    interpolation: str = "bicubic"
    crop_pct: float = _CROP_PCT
    crop_mode: str = "center"
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD
    test_input_size: tuple[int, int, int] | None = None
    test_crop_pct: float | None = None
    label_names: tuple[str, ...] = ()

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return self.input_size[0]


def read_timm_config(folder: str | os.PathLike[str]) -> TimmConfig:
    """Reads the `config.json` of a model that timm saved.

    As in timm, keys beside `pretrained_cfg` take precedence over keys in it. The number of input channels in
    `model_args` takes precedence over that in the sizes; then the three numbers of mean and standard deviation are
    averaged. Older files, which are one flat dict, are supported. A model that was built with options that change what
    it computes, such as `act_layer`, is refused: in `model_args`, only `num_classes`, `in_chans`, `global_pool="avg"`,
    rates of dropout and None values are accepted.

    Args:
      folder: a folder as `hub.download` returns it, or the path of the file itself.

    Returns:
      The config, with timm's defaults for missing keys.

    Raises:
      FileNotFoundError: the file does not exist.
      FileError: the file is not a config of timm, a key is unknown, or a value has an unexpected type or value.
    """
    path = Path(folder)
    path = path / "config.json" if path.is_dir() else path
    if not os.path.lexists(path):
        raise FileNotFoundError(f"there is no config {str(path)!r}")
    with reading(path):
        return _read(path)


def _read(path: Path) -> TimmConfig:
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise FileError(f"{str(path)!r} is not a config of timm: expected a dict with an architecture")
    top = Parts(path, config)
    if "pretrained_cfg" in config:
        top.know(_IN_CONFIG | _LABELS)
        parts = top.inner("pretrained_cfg")
        parts.know(_READ_IN_CFG | _HARMLESS_IN_CFG | _LABELS)
    else:
        parts = top
        parts.know(_READ_IN_CFG | _HARMLESS_IN_CFG | _IN_CONFIG | _LABELS | {"labels"})
    if parts.get("custom_load", False) is not False:
        parts.refuse("custom_load", "false, as in files of timm's own names", parts.data["custom_load"])
    if parts.get("label_offset", 0) != 0:
        parts.refuse("label_offset", "0, since a class without a name is not removed here", parts.data["label_offset"])
    top.choice("global_pool", "avg", ("avg",))
    arguments = top.inner("model_args")
    arguments.know({"num_classes", "in_chans", "global_pool", *_RATES}, "it may change the built model")
    arguments.choice("global_pool", "avg", ("avg",))
    for name in _RATES:
        arguments.number(name, 0.0, 1.0)
    channels = arguments.whole("in_chans", 1)
    input_size = parts.size("input_size") or _INPUT_SIZE
    test_input_size = parts.size("test_input_size")
    mean, std = (parts.numbers(name, input_size[0], channels) for name in ("mean", "std"))
    if std and min(std) < _LEAST_STD:
        parts.refuse("std", "numbers above 0", list(std))
    stated, given = (part.whole("num_classes", 0) for part in (top, arguments))
    if given is not None and stated not in (None, given):
        arguments.refuse("num_classes in model_args", f"{stated}, as beside model_args", given)
    numbers_of_classes = (stated, given, parts.whole("num_classes", 0), 1000)
    num_classes = next(number for number in numbers_of_classes if number is not None)
    channels = channels or input_size[0]
    return TimmConfig(
        # The name may end with a tag of the weights.
        architecture=config["architecture"].partition(".")[0],
        num_classes=num_classes,
        input_size=(channels, input_size[1], input_size[2]),
        interpolation=parts.choice("interpolation", "bicubic", ("bilinear", "bicubic", "nearest")),
        crop_pct=parts.number("crop_pct", _LEAST_CROP, 1.0) or _CROP_PCT,
        crop_mode=parts.choice("crop_mode", "center", ("center", "squash", "border")),
        mean=mean or _averaged(_MEAN, channels),
        std=std or _averaged(_STD, channels),
        test_input_size=(channels, test_input_size[1], test_input_size[2]) if test_input_size else None,
        test_crop_pct=parts.number("test_crop_pct", _LEAST_CROP, 1.0),
        label_names=_names(top.get("label_names") or parts.get("label_names"), num_classes),
    )


def _names(names: Any, count: int) -> tuple[str, ...]:
    is_sound = isinstance(names, list) and len(names) == count and all(isinstance(name, str) for name in names)
    return tuple(names) if is_sound else ()


def _averaged(numbers: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Replaces the numbers by their mean if the number of channels differs, as timm does."""
    return numbers if len(numbers) == channels else (math.fsum(numbers) / len(numbers),) * channels


@dataclasses.dataclass(frozen=True)
class Parts:
    """A dict of a config, whose values are checked when they are read; None or a default for a missing key."""

    path: Path
    data: Mapping[str, Any]

    def refuse(self, name: str, expected: str, got: Any) -> NoReturn:
        """Raises `FileError` with what was expected of a value."""
        raise FileError(f"{str(self.path)!r} expects {name} to be {expected}, got {shown(got)}")

    def know(self, names: set[str], why: str = "it may change what the model computes") -> None:
        """Refuses keys of other names whose value is not null."""
        unknown = [name for name, value in self.data.items() if name not in names and value is not None]
        if unknown:
            raise FileError(
                f"{str(self.path)!r}: expected only the keys {', '.join(sorted(names))}, got "
                f"{shown(unknown[0])}: {shown(self.data[unknown[0]])}; {why}: remove it or build the model in Python"
            )

    def get(self, name: str, default: Any = None) -> Any:
        """Returns a value of any type."""
        value = self.data.get(name)
        return default if value is None else value

    def inner(self, name: str) -> "Parts":
        """Returns a dict within the config."""
        value = self.get(name, {})
        return Parts(self.path, value) if isinstance(value, dict) else self.refuse(name, "a dict", value)

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        """Returns one of several strings."""
        value = self.get(name, default)
        if not isinstance(value, str) or value not in choices:
            self.refuse(name, f"one of {', '.join(choices)}", value)
        return value

    def text(self, name: str) -> str | None:
        """Returns a string."""
        value = self.get(name)
        return value if value is None or isinstance(value, str) else self.refuse(name, "a string", value)

    def whole(self, name: str, least: int) -> int | None:
        """Returns an integer of at least `least`."""
        value = self.get(name)
        if value is not None and (type(value) is not int or not least <= value < 2**20):
            self.refuse(name, f"an integer{f' of at least {least}' if least else ''}", value)
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        """Returns a number from `low` to `high`."""
        value = self.get(name)
        if value is not None and (type(value) not in (int, float) or not low <= value <= high):
            self.refuse(name, f"a number from {low:g} to {high:g}", value)
        return None if value is None else float(value)

    def size(self, name: str) -> tuple[int, int, int] | None:
        """Returns a list of three positive integers: channels, height and width."""
        value = self.get(name)
        if value is None:
            return None
        if (
            not isinstance(value, list)
            or len(value) != 3
            or any(type(n) is not int or not 1 <= n <= _MAX_SIDE for n in value)
        ):
            self.refuse(name, "[channels, height, width]", value)
        return value[0], value[1], value[2]

    def numbers(self, name: str, stated: int, channels: int | None) -> tuple[float, ...] | None:
        """Reads one number for each channel, of `channels` or of the stated sizes."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or any(type(n) not in (int, float) or not abs(n) < 1e6 for n in value):
            self.refuse(name, "a list of numbers", value)
        wanted = stated if channels is None else channels
        if len(value) not in {wanted, stated}:
            self.refuse(name, f"one number for each of {wanted} channels", value)
        return _averaged(tuple(map(float, value)), wanted)
