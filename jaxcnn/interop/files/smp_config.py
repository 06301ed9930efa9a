"""Reads the `config.json` of a model that segmentation_models_pytorch saved: its architecture, encoder and options."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcnn.interop.files.config import Parts
from jaxcnn.interop.files.opened import read_json, reading
from jaxcnn.layers import BatchNorm
from jaxcnn.models.blocks import Norm
from jaxcnn.values import Partial, Value

_COMMON = {"encoder_name", "encoder_depth", "encoder_weights", "in_channels", "classes", "activation", "aux_params"}
_NORM = {"decoder_use_norm", "decoder_use_batchnorm"}
_U_NET = {"decoder_channels", "decoder_attention_type", "decoder_interpolation", *_NORM}
_KEYS: dict[str, set[str]] = {
    "Unet": _U_NET,
    "UnetPlusPlus": _U_NET,
    "FPN": {
        *("decoder_pyramid_channels", "decoder_segmentation_channels", "decoder_merge_policy", "decoder_dropout"),
        *("decoder_interpolation", "upsampling"),
    },
    "PSPNet": {"psp_out_channels", "psp_dropout", "psp_use_batchnorm", "upsampling", *_NORM},
    "DeepLabV3Plus": {
        *("encoder_output_stride", "decoder_channels", "decoder_atrous_rates", "decoder_aspp_separable"),
        *("decoder_aspp_dropout", "upsampling"),
    },
    "UPerNet": {"decoder_channels", "upsampling", *_NORM},
    "Linknet": _NORM,
}
"""The keys of each class of segmentation_models_pytorch, besides the common ones."""

_METHODS = ("nearest", "bilinear", "bicubic", "area", "nearest-exact")
_ACTIVATIONS = ("identity", "sigmoid", "softmax2d", "tanh")


@dataclass(frozen=True, repr=False)
class SmpConfig(Value):
    """A model of segmentation_models_pytorch.

    Attributes:
      model_class: its class, such as "Unet".
      encoder_name: its name of the encoder, such as "resnet34" or "tu-convnext_tiny".
      encoder_weights: the weights that its training started from, such as "imagenet"; None if unknown.
      num_classes: number of outputs of each pixel.
      in_channels: channels of the image.
      depth: how often the encoder halves the image.
      activation: "identity", "sigmoid", "softmax2d" or "tanh", of the outputs.
      options: names and values of the other options of the model here.
    """

    model_class: str
    encoder_name: str
    encoder_weights: str | None = None
    num_classes: int = 1
    in_channels: int = 3
    depth: int = 5
    activation: str = "identity"
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def architecture(self) -> str:
        """Class and encoder, such as "Unet-resnet34"."""
        return f"{self.model_class}-{self.encoder_name}"

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the classes: none, since the file has none."""
        return ()


def is_smp_config(config: Any) -> bool:
    """Tells whether the content of a `config.json` is that of segmentation_models_pytorch."""
    return isinstance(config, dict) and "_model_class" in config


def read_smp_config(path: str | os.PathLike[str]) -> SmpConfig:
    """Reads the `config.json` of a model that `save_pretrained` of segmentation_models_pytorch wrote.

    Args:
      path: the file.

    Returns:
      The config, with the library's defaults for missing keys.

    Raises:
      FileError: the file is not such a config, an option is unknown or is not supported here, or a value has an
        unexpected type or value.
    """
    path = Path(path)
    with reading(path):
        return _read(path, read_json(path))


def _read(path: Path, config: Any) -> SmpConfig:
    top = Parts(path, {name: value for name, value in config.items() if not name.startswith("_")})
    model_class = Parts(path, config).choice("_model_class", "", tuple(_KEYS))
    top.know(_COMMON | _KEYS[model_class])
    if top.get("aux_params") is not None:
        top.refuse("aux_params", "null, since the models here have no head that classifies", config["aux_params"])
    encoder_name, encoder_weights = (top.text(name) for name in ("encoder_name", "encoder_weights"))
    depth = top.whole("encoder_depth", 1) or (3 if model_class == "PSPNet" else 5)
    if depth not in (3, 4, 5):
        top.refuse("encoder_depth", "3, 4 or 5", depth)
    return SmpConfig(
        model_class=model_class,
        encoder_name=encoder_name or "resnet34",
        encoder_weights=encoder_weights,
        num_classes=top.whole("classes", 1) or 1,
        in_channels=top.whole("in_channels", 1) or 3,
        depth=depth,
        activation=top.choice("activation", "identity", _ACTIVATIONS),
        options=tuple(_options(top, model_class, depth).items()),
    )


def _options(top: Parts, model_class: str, depth: int) -> dict[str, Any]:
    """Returns the options of the function that builds the model here."""
    if model_class in ("Unet", "UnetPlusPlus"):
        channels = top.get("decoder_channels", [256, 128, 64, 32, 16])
        if not isinstance(channels, list) or len(channels) != depth or not all(map(_is_count, channels)):
            top.refuse("decoder_channels", f"a list of {depth} positive integers, as many as encoder_depth", channels)
        return {
            "norm": _norm(top),
            "decoder_channels": tuple(channels),
            "attention": top.choice("decoder_attention_type", "none", ("none", "scse")) == "scse",
            "method": top.choice("decoder_interpolation", "nearest", _METHODS),
        }
    if model_class == "FPN":
        if depth == 3:
            top.refuse("encoder_depth", "4 or 5 with FPN", depth)
        options = {
            "pyramid_channels": top.whole("decoder_pyramid_channels", 1) or 256,
            "segmentation_channels": top.whole("decoder_segmentation_channels", 1) or 128,
            "merge": top.choice("decoder_merge_policy", "add", ("add", "cat")),
            "dropout_rate": _rate(top, "decoder_dropout", 0.2),
            "method": top.choice("decoder_interpolation", "nearest", _METHODS),
        }
        _check_upsampling(top, 4, 2 ** (depth - 3))
    elif model_class == "PSPNet":
        channels = top.whole("psp_out_channels", 1) or 512
        options = {"norm": _norm(top), "channels": channels, "dropout_rate": _rate(top, "psp_dropout", 0.2)}
        _check_upsampling(top, 8, 2**depth)
    elif model_class == "DeepLabV3Plus":
        rates, separable = top.get("decoder_atrous_rates", [12, 24, 36]), top.get("decoder_aspp_separable", True)
        if not isinstance(rates, list) or len(rates) != 3 or not all(map(_is_count, rates)):
            top.refuse("decoder_atrous_rates", "a list of 3 positive integers", rates)
        if not isinstance(separable, bool):
            top.refuse("decoder_aspp_separable", "true or false", separable)
        output_stride = top.whole("encoder_output_stride", 1) or 16
        if output_stride not in (8, 16):
            top.refuse("encoder_output_stride", "8 or 16", output_stride)
        options = {
            "output_stride": output_stride,
            "channels": top.whole("decoder_channels", 1) or 256,
            "rates": tuple(rates),
            "separable": separable,
            "dropout_rate": _rate(top, "decoder_aspp_dropout", 0.5),
        }
        _check_upsampling(top, 4, 4)
    elif model_class == "UPerNet":
        options = {"norm": _norm(top), "channels": top.whole("decoder_channels", 1) or 256}
        _check_upsampling(top, 4, 4)
    else:
        options = {"norm": _norm(top)}
    return {"depth": depth, **options}


def _rate(top: Parts, name: str, default: float) -> float:
    rate = top.number(name, 0.0, 0.999)
    return default if rate is None else rate


def _check_upsampling(top: Parts, default: int, needed: int) -> None:
    given = top.whole("upsampling", 1) or default
    if given != needed:
        top.refuse("upsampling", f"{needed}, so that the logits are as large as the image", given)


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value < 2**20


def _norm(top: Parts) -> Norm | None:
    """Returns what makes the normalisations of the decoder; None for none."""
    given = top.get("decoder_use_batchnorm", top.get("psp_use_batchnorm", top.get("decoder_use_norm", True)))
    options = dict(given) if isinstance(given, dict) else {}
    kind = options.pop("type", None) if isinstance(given, dict) else given
    if kind in (False, "identity") and not options:
        return None
    if kind not in (True, "batchnorm") or not set(options) <= {"eps", "momentum"}:
        top.refuse(
            "decoder_use_norm",
            'supported here: "batchnorm", "identity", or {"type": "batchnorm", "eps": ..., "momentum": ...}',
            given,
        )
    numbers = Parts(top.path, options)
    eps, momentum = numbers.number("eps", 0.0, 1.0), numbers.number("momentum", 0.0, 1.0)
    changes = {} if eps is None else {"epsilon": eps}
    changes |= {} if momentum is None else {"decay": 1 - momentum}
    return Partial(BatchNorm, **changes) if changes else BatchNorm
