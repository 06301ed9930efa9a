import json

import pytest

from jaxcnn.interop.files.paths import FileError
from jaxcnn.interop.files.smp_config import SmpConfig, read_smp_config
from jaxcnn.interop.records.smp import padded_for, smp_record
from jaxcnn.layers import BatchNorm
from jaxcnn.models import efficientnet_b1
from jaxcnn.values import Partial

U_NET = (("norm", BatchNorm), ("decoder_channels", (256, 128, 64, 32, 16)), ("attention", False), ("method", "nearest"))


def config_of(tmp_path, **keys):
    (tmp_path / "config.json").write_text(json.dumps({"_model_class": "Unet", **keys}))
    return read_smp_config(tmp_path / "config.json")


def test_missing_keys_have_the_defaults_of_the_library(tmp_path):
    assert config_of(tmp_path) == SmpConfig("Unet", "resnet34", options=U_NET)
    assert config_of(tmp_path, _unknown=1, decoder_use_norm=True, decoder_use_batchnorm=None) == config_of(tmp_path)


def test_the_options_are_read(tmp_path):
    config = config_of(
        tmp_path,
        encoder_name="vgg11",
        encoder_depth=3,
        encoder_weights="imagenet",
        classes=7,
        in_channels=4,
        activation="sigmoid",
        decoder_channels=[8, 6, 4],
        decoder_attention_type="scse",
        decoder_interpolation="bicubic",
        decoder_use_norm={"type": "batchnorm", "eps": 0.01, "momentum": 0.25},
    )
    norm = Partial(BatchNorm, epsilon=0.01, decay=0.75)
    options = (("norm", norm), ("decoder_channels", (8, 6, 4)), ("attention", True), ("method", "bicubic"))
    assert config == SmpConfig("Unet", "vgg11", "imagenet", 7, 4, 3, "sigmoid", options)
    assert config.architecture == "Unet-vgg11"
    assert smp_record(config).preprocessing.mean == (0.485, 0.456, 0.406)
    for name in ("decoder_use_norm", "decoder_use_batchnorm"):
        assert dict(config_of(tmp_path, **{name: False}).options)["norm"] is None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"_model_class": "Segformer"}, "expects _model_class to be one of Unet, .*, got 'Segformer'"),
        (
            {"aux_params": {"classes": 3}},
            "expects aux_params to be null, since the models here have no head that class",
        ),
        ({"activation": "argmax"}, "expects activation to be one of identity, sigmoid, softmax2d, tanh, got 'argmax'"),
        ({"encoder_depth": 2}, "expects encoder_depth to be 3, 4 or 5, got 2"),
        ({"decoder_channels": [8, 4]}, "expects decoder_channels to be a list of 5 positive integers"),
        ({"decoder_channels": [8, 4, 2, 1, 0]}, "expects decoder_channels to be a list of 5 positive integers"),
        ({"decoder_use_norm": "layernorm"}, "expects decoder_use_norm to be supported here: .* got 'layernorm'"),
        ({"decoder_use_norm": {"type": "batchnorm", "affine": False}}, "expects decoder_use_norm to be supported here"),
        ({"decoder_attention_type": "cbam"}, "expects decoder_attention_type to be one of none, scse, got 'cbam'"),
        ({"decoder_pab_channels": 64}, "expected only the keys .* got 'decoder_pab_channels': 64; it may change"),
        ({"encoder_name": 3}, "expects encoder_name to be a string, got 3"),
        ({"_model_class": "FPN", "encoder_depth": 3}, "expects encoder_depth to be 4 or 5 with FPN, got 3"),
        (
            {"_model_class": "FPN", "upsampling": 2},
            "expects upsampling to be 4, so that the logits are as large as the im",
        ),
        (
            {"_model_class": "FPN", "decoder_dropout": 1},
            "expects decoder_dropout to be a number from 0 to 0.999, got 1",
        ),
        ({"_model_class": "PSPNet", "upsampling": 4}, "expects upsampling to be 8, so that"),
        ({"_model_class": "UPerNet", "upsampling": 8}, "expects upsampling to be 4, so that"),
        (
            {"_model_class": "DeepLabV3Plus", "decoder_atrous_rates": [1, 2]},
            "expects decoder_atrous_rates to be a list of 3",
        ),
        (
            {"_model_class": "DeepLabV3Plus", "decoder_aspp_separable": 1},
            "decoder_aspp_separable to be true or false, got 1",
        ),
        (
            {"_model_class": "DeepLabV3Plus", "encoder_output_stride": 32},
            "expects encoder_output_stride to be 8 or 16, got",
        ),
        ({"classes": "3"}, "expects classes to be an integer of at least 1, got '3'"),
    ],
)
def test_what_is_not_supported_is_named(keys, message, tmp_path):
    with pytest.raises(FileError, match=message):
        config_of(tmp_path, **keys)


def test_an_encoder_that_is_unknown_here_is_named():
    with pytest.raises(
        ValueError,
        match=r"expected an encoder that is known here, got 'resnet35'; did you mean resnet50.*known: densenet121, ",
    ):
        smp_record(SmpConfig("Unet", "resnet35"))


def test_an_encoder_of_timm_has_no_other_output_stride():
    config = SmpConfig("DeepLabV3Plus", "tu-resnet18", options=(("output_stride", 16),))
    with pytest.raises(ValueError, match="expected an encoder without tu- for DeepLabV3Plus, got 'tu-resnet18'"):
        smp_record(config)


def test_the_sides_of_a_strided_convolution_are_those_of_the_size_it_was_made_for():
    # 240, 120, 60, 30 and 15 pixels: only the last is odd.
    model = padded_for(efficientnet_b1(), 240)
    strided = [("stem/conv", 3), ("stage2", 3), ("stage3", 5), ("stage4", 3), ("stage6", 5)]
    sides = []
    for path, size in strided:
        layer = model[path if "/" in path else f"{path}/block0/depthwise/conv"]
        assert layer.kernel_size == (size, size)
        sides.append(layer.padding)
    assert sides == [((0, 1),) * 2, ((0, 1),) * 2, ((1, 2),) * 2, ((0, 1),) * 2, ((2, 2),) * 2]
