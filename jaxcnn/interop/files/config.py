"""timm's `config.json`: which architecture a folder of weights is of, and how its images are prepared."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from jaxcnn.values import Value

# What timm takes where a config says nothing.
_INPUT_SIZE = (3, 224, 224)
_CROP_PCT = 0.875
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True, repr=False)
class TimmConfig(Value):
    """What jaxcnn uses of a config of timm.

    Args:
      architecture: timm's name of the model, such as "resnet50".
      num_classes: number of outputs.
      input_size: (channels, height, width) of the images in training.
      interpolation: how they are resized, such as "bicubic".
      crop_pct: the crop's part of the resized image, in (0, 1].
      crop_mode: "center", "squash" or "border".
      mean: what is subtracted of pixels in [0, 1], one number for each channel.
      std: what they are divided by.
      test_input_size: (channels, height, width) of larger images for evaluation, where the model has such.
      test_crop_pct: `crop_pct` for those.
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


def read_timm_config(folder: str | os.PathLike[str]) -> TimmConfig:
    """Reads the `config.json` of a model that timm saved.

    As in timm, what stands beside `pretrained_cfg` counts before what stands in it, and the number of input channels in
    `model_args` before that of the sizes; older files, which are one flat dict, are read too.

    Args:
      folder: a folder as `hub.download` returns it, or the path of the file itself.

    Returns:
      The config, with timm's defaults for what the file leaves out.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no config of timm, or a part has a wrong type.
    """
    path = Path(folder)
    if path.is_dir():
        path /= "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"there is no config {str(path)!r}; expected a folder with timm's config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no JSON: {error}; download it again") from error
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise ValueError(f"{str(path)!r} is no config of timm: expected a dict with an architecture")
    data = config.get("pretrained_cfg", config)
    parts = _Parts(path, data if isinstance(data, dict) else {})
    model_args = config.get("model_args")
    channels = model_args.get("in_chans") if isinstance(model_args, dict) else None
    input_size = parts.size("input_size", channels) or (channels or 3, *_INPUT_SIZE[1:])
    num_classes = config.get("num_classes", parts.data.get("num_classes", 1000))
    if not isinstance(num_classes, int) or num_classes < 0:
        parts.refuse("num_classes", "a whole number", num_classes)
    mean, std = parts.numbers("mean", input_size[0]), parts.numbers("std", input_size[0])
    return TimmConfig(
        architecture=config["architecture"],
        num_classes=num_classes,
        input_size=input_size,
        interpolation=parts.text("interpolation", "bicubic"),
        crop_pct=parts.fraction("crop_pct") or _CROP_PCT,
        crop_mode=parts.text("crop_mode", "center"),
        mean=mean or _MEAN,
        std=std or _STD,
        test_input_size=parts.size("test_input_size", channels),
        test_crop_pct=parts.fraction("test_crop_pct"),
    )


@dataclasses.dataclass(frozen=True)
class _Parts:
    """The parts of a config with their types checked; None or a default where one is missing."""

    path: Path
    data: Mapping[str, Any]

    def refuse(self, name: str, expected: str, got: Any) -> NoReturn:
        raise ValueError(f"{str(self.path)!r} expects {name} to be {expected}, got {got!r}")

    def text(self, name: str, default: str) -> str:
        value = self.data.get(name) or default
        return value if isinstance(value, str) else self.refuse(name, "a text", value)

    def fraction(self, name: str) -> float | None:
        value = self.data.get(name)
        if not value:
            return None
        if not isinstance(value, int | float) or not 0 < value <= 1:
            self.refuse(name, "a number in (0, 1]", value)
        return float(value)

    def size(self, name: str, channels: int | None) -> tuple[int, int, int] | None:
        value = self.data.get(name)
        if not value:
            return None
        if not isinstance(value, list) or len(value) != 3 or any(type(n) is not int or n < 1 for n in value):
            self.refuse(name, "[channels, height, width]", value)
        return (channels or value[0], value[1], value[2])

    def numbers(self, name: str, channels: int) -> tuple[float, ...] | None:
        value = self.data.get(name)
        if not value:
            return None
        if not isinstance(value, list) or any(type(n) not in (int, float) for n in value):
            self.refuse(name, "a list of numbers", value)
        if len(value) != channels:
            self.refuse(name, f"one number for each of {channels} channels", value)
        return tuple(map(float, value))
