import json

import pytest

from jaxcnn.interop.files.config import TimmConfig, read_timm_config
from jaxcnn.interop.files.paths import FileError

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
        ([], "is not a config of timm: expected a dict with an architecture"),
        (
            {"architectures": ["ResNetForImageClassification"]},
            "is not a config of timm: expected a dict with an architecture",
        ),
        ({**CONFIG, "num_classes": "ten"}, "expects num_classes to be an integer, got 'ten'"),
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


def with_args(**arguments):
    return {**CONFIG, "model_args": arguments}


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    "name", ["act_layer", "norm_layer", "output_stride", "stem_type", "img_size", "pretrained", ""]
)
@pytest.mark.parametrize("value", ["silu", 16, {}, [1], False])
def test_an_argument_of_the_model_that_is_not_known_is_refused_by_name(name, value, tmp_path):
    with pytest.raises(FileError, match=f"expected only the keys .*, got '{name}': .*; it may change the built model"):
        read_timm_config(written(tmp_path, with_args(**{name: value})))
    assert read_timm_config(written(tmp_path, with_args(**{name: None}))) == EXPECTED


def test_arguments_that_change_nothing_in_evaluation_are_read(tmp_path):
    arguments = {"num_classes": 10, "in_chans": 3, "global_pool": "avg", "drop_rate": 0.2, "drop_path_rate": 0}
    assert read_timm_config(written(tmp_path, with_args(**arguments))) == EXPECTED


@pytest.mark.parametrize("config", [{**CONFIG, "scale": 2}, changed(scale=2), {"scale": 2, "architecture": "a"}])
def test_a_part_that_is_not_known_is_refused_by_name(config, tmp_path):
    with pytest.raises(FileError, match=r"config.json': expected only the keys .*, got 'scale': 2; it may change what"):
        read_timm_config(written(tmp_path, config))


@pytest.mark.parametrize(
    ("config", "name"),
    [
        *((with_args(in_chans=value), "in_chans") for value in ("3", -1, 0, True, 3.0, [3], 2**40)),
        *((with_args(num_classes=value), "num_classes") for value in (11, -1, "10", True, 10.0)),
        *((with_args(global_pool=value), "global_pool") for value in ("max", "", 3, ["avg"])),
        *((with_args(drop_rate=value), "drop_rate") for value in ("0.1", -0.1, 2, NAN, True)),
        *(({**CONFIG, "num_classes": value}, "num_classes") for value in (-1, True, 1e3, "10", 2**40)),
        *(({**CONFIG, "global_pool": value}, "global_pool") for value in ("catavgmax", 0)),
        *(({**CONFIG, "model_args": value}, "model_args") for value in ([], "in_chans", 3)),
        *(({**CONFIG, "pretrained_cfg": value}, "pretrained_cfg") for value in ([], "resnet50", 3)),
        *((changed(mean=value), "mean") for value in ([NAN] * 3, [INFINITY] * 3, 0.5, [True] * 3, [], ["0.5"] * 3)),
        *((changed(mean=value), "mean") for value in ([0.5] * 2, [10**400] * 3, {"a": 1}, False)),
        *((changed(std=value), "std") for value in ([NAN] * 3, [0] * 3, [1, 0, 1], [-1] * 3, [1e-320] * 3, [1, 1])),
        *((changed(crop_pct=value), "crop_pct") for value in (0, -1, NAN, True, "0.9", 1e-9, [0.9])),
        *((changed(test_crop_pct=value), "test_crop_pct") for value in (0, 1.01, INFINITY, "1")),
        *((changed(input_size=value), "input_size") for value in ([], [3, 224], [3, 224, 2**20], [3, 224.0, 224])),
        *((changed(input_size=value), "input_size") for value in ([3, True, 224], [3, -1, 224], 224, "3")),
        *((changed(interpolation=value), "interpolation") for value in ("random", "lanczos", "", 3, ["bicubic"])),
        *((changed(crop_mode=value), "crop_mode") for value in ("corner", "", True)),
        *((changed(custom_load=value), "custom_load") for value in (True, "hf", 1)),
        *((changed(label_offset=value), "label_offset") for value in (1, -1, NAN, "1")),
    ],
)
def test_values_that_cannot_be_are_refused_by_name(config, name, tmp_path):
    with pytest.raises(FileError, match=f"config.json' expects {name}.* to be .*, got"):
        read_timm_config(written(tmp_path, config))


def test_grey_images_get_the_mean_of_three_channels_as_at_timm(tmp_path):
    config = read_timm_config(written(tmp_path, with_args(in_chans=1)))
    assert (config.input_size, config.test_input_size) == ((1, 160, 224), (1, 288, 320))
    assert (config.mean, config.std) == ((pytest.approx(0.4),), (pytest.approx(1.3 / 3),))
    config = read_timm_config(written(tmp_path, {"architecture": "resnet50", "model_args": {"in_chans": 1}}))
    assert config.mean == (pytest.approx((0.485 + 0.456 + 0.406) / 3),)


def test_files_that_are_not_there_or_no_json_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no config '.*config.json'"):
        read_timm_config(tmp_path)
    (tmp_path / "config.json").write_text('{"architecture":')
    with pytest.raises(ValueError, match=r"is no JSON: .*; download it again"):
        read_timm_config(tmp_path)
