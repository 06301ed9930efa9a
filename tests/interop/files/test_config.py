import json

import pytest

from jaxcnn.interop.files.config import TimmConfig, read_timm_config

# As timm 1.0 writes it for resnet50.a1_in1k.
CONFIG = {
    "architecture": "resnet50",
    "num_classes": 10,
    "num_features": 2048,
    "pretrained_cfg": {
        "tag": "a1_in1k",
        "custom_load": False,
        "input_size": [3, 160, 224],
        "test_input_size": [3, 288, 320],
        "fixed_input_size": False,
        "interpolation": "bilinear",
        "crop_pct": 0.95,
        "test_crop_pct": 1.0,
        "crop_mode": "squash",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.1, 1],
        "num_classes": 1000,
        "pool_size": [7, 7],
        "first_conv": "conv1",
        "classifier": "fc",
    },
}
EXPECTED = TimmConfig(
    "resnet50", 10, (3, 160, 224), "bilinear", 0.95, "squash", (0.5, 0.4, 0.3), (0.2, 0.1, 1.0), (3, 288, 320), 1.0
)


def written(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def changed(**parts):
    return {**CONFIG, "pretrained_cfg": {**CONFIG["pretrained_cfg"], **parts}}


def test_every_part_is_read(tmp_path):
    config = read_timm_config(written(tmp_path, CONFIG))
    assert config == EXPECTED
    assert hash(config) == hash(EXPECTED)
    assert read_timm_config(tmp_path / "config.json") == EXPECTED


def test_what_is_missing_is_timms_default(tmp_path):
    config = read_timm_config(written(tmp_path, {"architecture": "vgg16", "pretrained_cfg": {"mean": None}}))
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert config == TimmConfig("vgg16", 1000, (3, 224, 224), "bicubic", 0.875, "center", *imagenet, None, None)
    assert repr(config) == "TimmConfig('vgg16', 1000)"


def test_a_flat_config_is_read(tmp_path):
    flat = {"architecture": "resnet50", "labels": ["a"], **CONFIG["pretrained_cfg"], "num_classes": 10}
    assert read_timm_config(written(tmp_path, flat)) == EXPECTED


def test_the_channels_of_the_model_count_before_those_of_the_sizes(tmp_path):
    config = changed(mean=[0.5], std=[0.2])
    config["model_args"] = {"in_chans": 1}
    config = read_timm_config(written(tmp_path, config))
    assert (config.input_size, config.test_input_size) == ((1, 160, 224), (1, 288, 320))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], "is no config of timm: expected a dict with an architecture"),
        (
            {"architectures": ["ResNetForImageClassification"]},
            "is no config of timm: expected a dict with an architecture",
        ),
        ({**CONFIG, "num_classes": "ten"}, "expects num_classes to be a whole number, got 'ten'"),
        (changed(input_size=[224, 224]), r"expects input_size to be \[channels, height, width\], got \[224, 224\]"),
        (changed(test_input_size=[3, 0, 224]), "expects test_input_size to be"),
        (changed(crop_pct=1.5), "expects crop_pct to be a number from 0.01 to 1, got 1.5"),
        (changed(crop_mode=3), "expects crop_mode to be one of center, squash, border, got 3"),
        (changed(mean=[0.5]), r"expects mean to be one number for each of 3 channels, got \[0.5\]"),
        (changed(std="small"), "expects std to be a list of numbers, got 'small'"),
    ],
)
def test_what_is_no_config_is_refused(config, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_timm_config(written(tmp_path, config))


def test_files_that_are_not_there_or_no_json_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no config '.*config.json'"):
        read_timm_config(tmp_path)
    (tmp_path / "config.json").write_text('{"architecture":')
    with pytest.raises(ValueError, match=r"is no JSON: .*; download it again"):
        read_timm_config(tmp_path)
