"""Models of segmentation_models_pytorch: U-Net and others, with classifiers of torchvision and timm as encoders."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxcnn.interop.files.smp_config import SmpConfig
from jaxcnn.interop.preprocessing import Preprocessing
from jaxcnn.interop.records import convnext, densenet, efficientnet, mobilenet, regnet, resnet, vgg
from jaxcnn.interop.records.numbered import NumberedRules
from jaxcnn.interop.records.record import Names, Record, Replacement, Rules
from jaxcnn.layers import BatchNorm, Conv, Dense, Function
from jaxcnn.layers.composite import layer_paths
from jaxcnn.layers.flow import structure
from jaxcnn.models.segmentation import encoder_unet
from jaxcnn.models.segmentation.deeplabv3_plus import deeplabv3_plus
from jaxcnn.models.segmentation.encoders import Strided, encoder
from jaxcnn.models.segmentation.fpn import fpn
from jaxcnn.models.segmentation.linknet import linknet
from jaxcnn.models.segmentation.pspnet import GRIDS, pspnet
from jaxcnn.models.segmentation.upernet import upernet
from jaxcnn.text import nearest
from jaxcnn.types import Layer, Shape
from jaxcnn.values import Partial, Value

_SLOW_NORM = Partial(BatchNorm, decay=0.99, epsilon=1e-3)
_EACH_STAGE = ("stage1", "stage2", "stage3", "stage5", "stage7")


def _efficientnet_part(match: re.Match[str], part: str) -> str:
    return f"_blocks.{match[1]}.{part}"


_BLOCK = r"stage\d+/block\d+/(\d+)/\w+/\d/"
_EFFICIENTNET: tuple[tuple[str, Replacement], ...] = (
    (r"stem/conv", "_conv_stem"),
    (r"stem/norm", "_bn0"),
    (rf"{_BLOCK}expand/conv", lambda match: _efficientnet_part(match, "_expand_conv")),
    (rf"{_BLOCK}expand/norm", lambda match: _efficientnet_part(match, "_bn0")),
    (rf"{_BLOCK}depthwise/conv", lambda match: _efficientnet_part(match, "_depthwise_conv")),
    (rf"{_BLOCK}depthwise/norm", lambda match: _efficientnet_part(match, "_bn1")),
    (rf"{_BLOCK}squeeze_excite/(reduce|expand)", lambda match: _efficientnet_part(match, f"_se_{match[2]}")),
    (rf"{_BLOCK}project/conv", lambda match: _efficientnet_part(match, "_project_conv")),
    (rf"{_BLOCK}project/norm", lambda match: _efficientnet_part(match, "_bn2")),
    (r"last/\d+/\d+/conv", "_conv_head"),
    (r"last/\d+/\d+/norm", "_bn1"),
)
"""EfficientNets under the names of efficientnet_pytorch (Melas-Kyriazi 2019), which the library has taken over."""


@dataclass(frozen=True, repr=False)
class _Encoder(Value):
    """A classifier as an encoder of the library.

    Attributes:
      record: its weights as a classifier.
      prefix: of its arrays in the file.
      at: paths of the maps; None for those of `jaxcnn.models.segmentation.encoders.encoder`.
      strided: as there.
      trained_at: height and width of the images, in pixels, for whose maps its strided convolutions are padded.
    """

    record: Record
    prefix: str = "encoder."
    at: tuple[str, ...] | None = None
    strided: Strided | None = None
    trained_at: int | None = None


_SIZES = {"b0": 224, "b1": 240, "b2": 260, "b3": 300, "b4": 380, "b5": 456, "b6": 528, "b7": 600}
"""Height and width of the images that each EfficientNet was made for, in pixels."""


# Unlike in the larger ones, the map of stride 16 is that of the first block of its last stage.
_B0_PATHS = ("stem", "stage2", "stage3", "stage5/block0", "stage7")
_B0_STRIDED = (("stage4", "stage5/block0"), ("stage5/block1", "stage5/block2", "stage6", "stage7"))


def _encoders() -> dict[str, _Encoder]:
    """Lists the encoders by the library's names."""
    found: dict[str, _Encoder] = {}
    families = (resnet, vgg, densenet, mobilenet, efficientnet, convnext, regnet)
    own = r"resnet.*|resnext\d+_32x.*|vgg.*|densenet.*|mobilenet_v2"
    for record in (record for family in families for record in family.RECORDS):
        name = record.architecture
        if record.origin == "torchvision" and re.fullmatch(own, name):
            found[name] = _Encoder(record)
        if record.origin == "timm" and (match := re.fullmatch(r"efficientnet_(b\d)", name)):
            found[f"timm-efficientnet-{match[1]}"] = _Encoder(record)
        if record.origin == "timm" and re.fullmatch(
            r"resnet.*|resnext.*|wide_resnet.*|convnext.*|(tf_)?efficientnet_b\d|mobilenetv2.*|regnet[xy]_\d+", name
        ):
            at = _EACH_STAGE if re.match(r"(tf_)?efficientnet|mobilenetv2", name) else None
            found[f"tu-{name}"] = _Encoder(record, "encoder.model.", at)
    for record in efficientnet.RECORDS:
        if record.origin == "torchvision" and (match := re.fullmatch(r"efficientnet_(b\d)", record.architecture)):
            names = NumberedRules(Rules("smp", _EFFICIENTNET), record.build)
            build = Partial(record.build, norm=_SLOW_NORM, padding="same")
            changed = dataclasses.replace(record, names=names, build=build)
            quirks = {"at": _B0_PATHS, "strided": _B0_STRIDED} if match[1] == "b0" else {}
            found[f"efficientnet-{match[1]}"] = _Encoder(changed, trained_at=_SIZES[match[1]], **quirks)
    return found


_ENCODERS = _encoders()


def _two(match: re.Match[str], prefix: str) -> str:
    """Names a convolution or its normalisation: the library puts them into a row, and counts from 0."""
    return f"{prefix}.{0 if match[match.lastindex or 0] == 'conv' else 1}"


_U_NET: tuple[tuple[str, Replacement], ...] = (
    (r"decoder/center/conv(\d)/(conv|norm)", lambda match: _two(match, f"decoder.center.{int(match[1]) - 1}")),
    (
        r"decoder/(?:block)?(\w+)/conv(\d)/(conv|norm)",
        lambda match: _two(match, f"decoder.blocks.{match[1]}.conv{match[2]}"),
    ),
    (r"decoder/(?:block)?(\w+)/attention(\d)/reduce", r"decoder.blocks.\1.attention\2.attention.cSE.1"),
    (r"decoder/(?:block)?(\w+)/attention(\d)/expand", r"decoder.blocks.\1.attention\2.attention.cSE.3"),
    (r"decoder/(?:block)?(\w+)/attention(\d)/shortcut/conv", r"decoder.blocks.\1.attention\2.attention.sSE.0"),
)


def _grid(match: re.Match[str], name: str, part: str) -> str:
    """Names a part of the context of a grid, which the library numbers."""
    return f"decoder.psp.blocks.{GRIDS.index(int(match[1]))}.{name}1.{part}"


_FPN: tuple[tuple[str, Replacement], ...] = (
    (r"decoder/lateral5", "decoder.p5"),
    (r"decoder/lateral(\d)", r"decoder.p\1.skip_conv"),
    (
        r"decoder/enlarge(\d)/conv(\d)/(conv|norm)",
        lambda match: _two(match, f"decoder.seg_blocks.{5 - int(match[1])}.block.{int(match[2]) - 1}.block"),
    ),
)

_PSPNET: tuple[tuple[str, Replacement], ...] = (
    (r"decoder/pool/grid(\d)/conv", lambda match: _grid(match, "pool.", "0")),
    (r"decoder/pool/grid(\d)/norm", lambda match: _grid(match, "pool.", "1")),
    (r"decoder/project/(conv|norm)", lambda match: _two(match, "decoder.conv")),
)

_DEEPLAB: tuple[tuple[str, Replacement], ...] = (
    (r"decoder/pyramid/branches/conv1/(conv|norm)", lambda match: _two(match, "decoder.aspp.0.convs.0")),
    (r"decoder/pyramid/branches/conv(\d)/conv", lambda match: f"decoder.aspp.0.convs.{int(match[1]) - 1}.0"),
    (r"decoder/pyramid/branches/conv(\d)/depthwise", lambda match: f"decoder.aspp.0.convs.{int(match[1]) - 1}.0.0"),
    (r"decoder/pyramid/branches/conv(\d)/pointwise", lambda match: f"decoder.aspp.0.convs.{int(match[1]) - 1}.0.1"),
    (r"decoder/pyramid/branches/conv(\d)/norm", lambda match: f"decoder.aspp.0.convs.{int(match[1]) - 1}.1"),
    (r"decoder/pyramid/branches/pool/conv", "decoder.aspp.0.convs.4.1"),
    (r"decoder/pyramid/branches/pool/norm", "decoder.aspp.0.convs.4.2"),
    (r"decoder/pyramid/project/(conv|norm)", lambda match: _two(match, "decoder.aspp.0.project")),
    (r"decoder/pyramid/refine/depthwise", "decoder.aspp.1.0"),
    (r"decoder/pyramid/refine/pointwise", "decoder.aspp.1.1"),
    (r"decoder/pyramid/refine/norm", "decoder.aspp.2"),
    (r"decoder/fine/(conv|norm)", lambda match: _two(match, "decoder.block1")),
    (r"decoder/fuse/depthwise", "decoder.block2.0.0"),
    (r"decoder/fuse/pointwise", "decoder.block2.0.1"),
    (r"decoder/fuse/norm", "decoder.block2.1"),
)

_UPERNET: tuple[tuple[str, Replacement], ...] = (
    (r"decoder/norm(\d)", r"decoder.feature_norms.\1"),
    (r"decoder/context/pool/grid(\d)/conv", lambda match: _grid(match, "", "0")),
    (r"decoder/context/pool/grid(\d)/norm", lambda match: _grid(match, "", "1")),
    (r"decoder/context/project/(conv|norm)", lambda match: _two(match, "decoder.psp.out_conv")),
    (
        r"decoder/lateral(\d)/(conv|norm)",
        lambda match: _two(match, f"decoder.fpn_lateral_blocks.{match[1]}.conv_norm_relu"),
    ),
    (r"decoder/output(\d)/(conv|norm)", lambda match: _two(match, f"decoder.fpn_conv_blocks.{match[1]}")),
    (r"decoder/fuse/(conv|norm)", lambda match: _two(match, "decoder.fusion_block")),
)

_LINKNET: tuple[tuple[str, Replacement], ...] = (
    (r"decoder/block(\d)/conv1/(conv|norm)", lambda match: _two(match, f"decoder.blocks.{match[1]}.block.0")),
    (r"decoder/block(\d)/up/(conv|norm)", lambda match: _two(match, f"decoder.blocks.{match[1]}.block.1")),
    (r"decoder/block(\d)/conv2/(conv|norm)", lambda match: _two(match, f"decoder.blocks.{match[1]}.block.2")),
)

_UNUSED_CENTER = (r"decoder\.center\..*", "convolutions that the library builds with VGG and does not use")


@dataclass(frozen=True, repr=False)
class _Architecture(Value):
    """A class of the library.

    Attributes:
      prefix: of the names in the catalog, such as "unet".
      build: builds the model here.
      rules: names of the layers of the decoder.
    """

    prefix: str
    build: Any
    rules: tuple[tuple[str, Replacement], ...]


_ARCHITECTURES = {
    "Unet": _Architecture("unet", encoder_unet.encoder_unet, _U_NET),
    "UnetPlusPlus": _Architecture("unet_plus_plus", encoder_unet.unet_plus_plus, _U_NET),
    "FPN": _Architecture("fpn", fpn, _FPN),
    "PSPNet": _Architecture("pspnet", pspnet, _PSPNET),
    "DeepLabV3Plus": _Architecture("deeplabv3_plus", deeplabv3_plus, _DEEPLAB),
    "UPerNet": _Architecture("upernet", upernet, _UPERNET),
    "Linknet": _Architecture("linknet", linknet, _LINKNET),
}


def smp_record(config: SmpConfig) -> Record:
    """Describes the weights of a model of segmentation_models_pytorch.

    Args:
      config: the model.

    Returns:
      The record.

    Raises:
      ValueError: its encoder is unknown here.
    """
    architecture, found = _ARCHITECTURES[config.model_class], _found(config)
    if config.encoder_name.startswith("tu-") and dict(config.options).get("output_stride", 32) != 32:
        raise ValueError(f"expected an encoder without tu- for {config.model_class}, got {config.encoder_name!r}")
    inner = found.record.as_convolution
    as_convolution = [*([f"encoder/(?:{inner})"] if inner else []), r"decoder/.*/(reduce|expand)"]
    return Record(
        model=f"{architecture.prefix}_{found.record.model}",
        origin="smp",
        architecture=config.architecture,
        build=Partial(build_smp, config=config),
        names=_SmpNames(found, Rules("smp", (*architecture.rules, (r"head", "segmentation_head.0")))),
        preprocessing=_preprocessing(config),
        as_convolution="|".join(as_convolution),
        ignored=(
            (rf"decoder\.blocks\.(x_0_)?{config.depth - 1}\.attention1\..*", "weights of joined maps, where none are"),
            *([_UNUSED_CENTER] if config.model_class == "UnetPlusPlus" else []),
        ),
        unused=Partial(unused_arrays, config=config),
    )


def build_smp(num_classes: int, *, in_channels: int = 3, config: SmpConfig) -> Any:
    """Builds the model of a config with other numbers of classes and channels.

    Args:
      num_classes: number of outputs of each pixel.
      in_channels: channels of the image.
      config: the model.

    Returns:
      The model; a layer "activation" after the head is that of the config.
    """
    options = dict(config.options)
    built = _encoder(_found(config), config.depth, in_channels, options.get("output_stride", 32))
    if config.model_class == "Unet":
        options["center"] = config.encoder_name.startswith("vgg")
    model = _ARCHITECTURES[config.model_class].build(num_classes, built, in_channels=in_channels, **options)
    if config.activation == "identity":
        return model
    function = {"sigmoid": jax.nn.sigmoid, "softmax2d": jax.nn.softmax, "tanh": jax.nn.tanh}[config.activation]
    return type(model)(**dict(model.layers), activation=Function(function))


def _encoder(found: _Encoder, depth: int, in_channels: int, output_stride: int) -> Any:
    record = found.record

    def build(*, in_channels: int) -> Any:
        model = record.build(1000, in_channels=in_channels)
        return model if found.trained_at is None else padded_for(model, found.trained_at)

    return encoder(
        record.model,
        depth=depth,
        in_channels=in_channels,
        output_stride=output_stride,
        build=build,
        at=found.at,
        strided=found.strided,
    )


def padded_for(model: Any, size: int) -> Any:
    """Pads the strided convolutions of an EfficientNet for images of one size, whatever the size of the image.

    As TensorFlow pads: an even map at the bottom and on the right first, an odd one on all sides.

    Args:
      model: the classifier.
      size: height and width of the images, in pixels.

    Returns:
      The model with other paddings.
    """
    changes = {}
    for path in _conv_paths(model):
        layer = model[path]
        if layer.strides == (2, 2):
            total = max((-(-size // 2) - 1) * 2 + layer.kernel_size[0] - size, 0)
            sides = (total // 2, total - total // 2)
            changes[path] = dataclasses.replace(layer, padding=(sides, sides))
            size = -(-size // 2)
    return model.replace(changes)


def _conv_paths(model: Any) -> list[str]:
    return [path for path in layer_paths(model) if isinstance(model[path], Conv)]


@dataclass(frozen=True, repr=False)
class _SmpNames(Value):
    """Names of the arrays of a model: those of the classifier after a prefix, and those of the decoder."""

    encoder: _Encoder
    rules: Names

    def __call__(self, path: str, layer: Layer, leaf: str) -> str:
        """Names a leaf; see `Rules`."""
        if not path.startswith("encoder/"):
            return self.rules(path, layer, leaf)
        name = self.encoder.record.names(path.removeprefix("encoder/"), layer, leaf)
        if self.encoder.record.model.startswith("convnext"):
            # timm puts the parts of a row beside each other where it returns maps.
            name = re.sub(r"^(stem|stages)\.", r"\1_", name)
        return self.encoder.prefix + name


@functools.lru_cache(maxsize=64)
def unused_arrays(config: SmpConfig) -> Mapping[str, Shape]:
    """Returns the shapes, by name, of the arrays of a model's classifier that lie after the last map it takes."""
    found = _found(config)
    names = _SmpNames(found, Rules("smp", ()))
    whole = _arrays(found.record, names, found.record.build(1000, in_channels=config.in_channels))
    kept = _arrays(found.record, names, _encoder(found, config.depth, config.in_channels, 32))
    return {name: shape for name, shape in whole.items() if name not in kept}


def _arrays(record: Record, names: Names, model: Any) -> dict[str, Shape]:
    """Returns the shapes of the arrays of a classifier by name, without the dense layers that the library deletes."""
    arrays = {}
    for tree in structure(model):
        for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
            *parents, last = (key.key for key in keys)
            path = "/".join(parents)
            layer = model[path]
            if not isinstance(layer, Dense) or len(parents) > 1:
                stored = record.to_source(path, layer, last, np.broadcast_to(np.float32(0), leaf.shape))
                arrays[names(f"encoder/{path}", layer, last)] = stored.shape
    return arrays


def _found(config: SmpConfig) -> _Encoder:
    # timm's names may end with a tag of the weights.
    name = config.encoder_name.partition(".")[0] if config.encoder_name.startswith("tu-") else config.encoder_name
    if name not in _ENCODERS:
        raise ValueError(
            f"expected an encoder that is known here, got {config.encoder_name!r}{nearest(name, _ENCODERS)}; "
            f"known: {', '.join(sorted(_ENCODERS))}"
        )
    return _ENCODERS[name]


def _preprocessing(config: SmpConfig) -> Preprocessing | None:
    """Returns the normalization that the encoder's weights expect, of pictures of any size; None if it is unknown."""
    return Preprocessing(None, None) if config.encoder_weights == "imagenet" else None


RECORDS = (
    *(
        smp_record(SmpConfig("Unet", encoder))
        for encoder in (
            *("resnet18", "resnet34", "resnet50", "mobilenet_v2", "efficientnet-b0", "timm-efficientnet-b0"),
            *("vgg16_bn", "densenet121"),
        )
    ),
    *(smp_record(SmpConfig(name, "resnet34")) for name in ("UnetPlusPlus", "FPN", "Linknet")),
    smp_record(SmpConfig("PSPNet", "resnet34", depth=3, options=(("depth", 3),))),
    smp_record(SmpConfig("DeepLabV3Plus", "resnet50", options=(("output_stride", 16),))),
    smp_record(SmpConfig("UPerNet", "tu-convnext_tiny")),
)
"""The models of the catalog."""
