"""Photographs are prepared to the pixel as torchvision and timm do it."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision_peer import timm, torch, torchvision

from jaxcnn.interop.files.config import TimmConfig, read_timm_config
from jaxcnn.interop.preprocessing import Preprocessing, timm_preprocessing, torchvision_preprocessing
from jaxcnn.interop.records import RECORDS

F = torchvision.transforms.functional
InterpolationMode = torchvision.transforms.InterpolationMode
ImageClassification = torchvision.transforms._presets.ImageClassification

CHINA, FLOWER = (np.array(image) for image in load_sample_images().images)
# Odd sizes, wide and tall, smaller than the result, and such that half pixels occur in every place.
PHOTOGRAPHS = {
    "china": CHINA,
    "flower": FLOWER,
    "odd": CHINA[:301, :403],
    "wide": FLOWER[100:193],
    "tall": CHINA[:, 200:333],
    "small": FLOWER[150:187, 300:341],
    "square": CHINA[50:307, 20:277],
}


def assert_same(actual, expected, std):
    """Compares in grey levels: at most one anywhere, and a fifth on average."""
    expected = np.moveaxis(expected.numpy(), 0, -1)
    assert actual.shape == expected.shape
    assert actual.dtype == np.float32
    difference = 255 * np.abs(actual - expected) * np.asarray(std)
    assert difference.max() <= 1
    assert difference.mean() <= 0.2
    # In fact nothing differs but the last bit.
    assert difference.max() <= 1e-3


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize(
    ("resize", "crop", "interpolation"),
    [
        (256, 224, "bilinear"),
        (232, 224, "bilinear"),
        (342, 299, "bilinear"),
        (384, 380, "bicubic"),
        (97, 96, "bicubic"),
    ],
)
def test_torchvisions_presets(resize, crop, interpolation, name):
    preset = ImageClassification(crop_size=crop, resize_size=resize, interpolation=InterpolationMode(interpolation))
    expected = preset(Image.fromarray(PHOTOGRAPHS[name]))
    prepare = torchvision_preprocessing(resize, crop, interpolation)
    assert_same(prepare(PHOTOGRAPHS[name]), expected, prepare.std)


def test_the_preset_of_published_weights():
    preset = torchvision.models.EfficientNet_V2_L_Weights.IMAGENET1K_V1.transforms()
    prepare = torchvision_preprocessing(480, 480, "bicubic", preset.mean, preset.std)
    assert_same(prepare(FLOWER), preset(Image.fromarray(FLOWER)), prepare.std)


@pytest.mark.parametrize(("height", "width"), [(31, 50), (50, 31), (33, 33), (60, 20), (64, 65)])
@pytest.mark.parametrize("crop", [32, 33])
def test_crops_and_padding_of_every_parity(crop, height, width):
    image = FLOWER[100 : 100 + height, 100 : 100 + width]
    expected = F.pil_to_tensor(F.center_crop(Image.fromarray(image), [crop]))
    actual = Preprocessing(None, crop, scale=255, mean=(0, 0, 0), std=(1, 1, 1))(image)
    np.testing.assert_array_equal(actual, np.moveaxis(expected.numpy(), 0, -1))


@pytest.mark.parametrize("name", ["china", "odd", "small"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_without_antialias_tensors_are_resized_as_torchvision_does(interpolation, name):
    image = PHOTOGRAPHS[name]
    preset = ImageClassification(
        crop_size=224, resize_size=256, interpolation=InterpolationMode(interpolation), antialias=False
    )
    prepare = Preprocessing(256, 224, interpolation, antialias=False)
    expected = np.moveaxis(preset(torch.from_numpy(image).permute(2, 0, 1)).numpy(), 0, -1)
    difference = 255 * np.abs(prepare(image) - expected) * np.asarray(prepare.std)
    # A sum near a half may be rounded either way.
    assert difference.max() <= 1.001
    assert np.mean(difference > 0.5) < 1e-3


CONFIGS = {
    "center": TimmConfig("a", 1000, (3, 224, 224), "bicubic", 0.95),
    "center, whole": TimmConfig("a", 1000, (3, 224, 224), "bilinear", 1.0, "center", (0.5,) * 3, (0.5,) * 3),
    "center, no square": TimmConfig("a", 1000, (3, 160, 225), "bicubic", 0.9),
    "squash": TimmConfig("a", 1000, (3, 225, 225), "bicubic", 0.9, "squash"),
    "squash, no square": TimmConfig("a", 1000, (3, 128, 255), "bilinear", 1.0, "squash"),
    "border": TimmConfig("a", 1000, (3, 224, 224), "bicubic", 0.9, "border"),
    "border, no square": TimmConfig("a", 1000, (3, 97, 224), "bilinear", 1.0, "border"),
    "larger": TimmConfig("a", 1000, (3, 128, 128), "bicubic", 0.9, test_input_size=(3, 160, 160), test_crop_pct=0.99),
}


def as_dict(config):
    return {
        name: getattr(config, name) for name in TimmConfig.__dataclass_fields__ if getattr(config, name) is not None
    }


def timm_transform(pretrained_cfg, use_test_size=False):
    data = timm.data.resolve_data_config(pretrained_cfg=pretrained_cfg, use_test_size=use_test_size)
    return timm.data.create_transform(**data, is_training=False)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("config", CONFIGS)
def test_timms_transforms(config, name):
    config = CONFIGS[config]
    for use_test_size in {False, config.test_input_size is not None}:
        expected = timm_transform(as_dict(config), use_test_size)(Image.fromarray(PHOTOGRAPHS[name]))
        prepare = timm_preprocessing(config, use_test_size=use_test_size)
        assert_same(prepare(PHOTOGRAPHS[name]), expected, prepare.std)


def published_configs():
    """Yields (name, config as timm saves it for the hub) of all weights of architectures that have a record."""
    known = {record.architecture for record in RECORDS if record.origin == "timm"}
    for name in timm.list_pretrained():
        architecture = name.partition(".")[0]
        if architecture in known:
            cfg = timm.get_pretrained_cfg(name).to_dict(remove_source=True)
            yield (
                name,
                {
                    "architecture": cfg.pop("architecture"),
                    "num_classes": cfg["num_classes"],
                    "num_features": 1000,
                    "global_pool": "avg",
                    "model_args": {"in_chans": 3, "num_classes": cfg["num_classes"], "global_pool": "avg"},
                    "pretrained_cfg": cfg,
                },
            )


def test_all_224_published_configs_of_timm_that_load_here_are_prepared_as_timm_does_it(tmp_path):
    names, headless, seen = [], [], set()
    for name, saved in published_configs():
        names.append(name)
        headless += [name] * (saved["num_classes"] == 0)
        (tmp_path / "config.json").write_text(json.dumps(saved))
        cfg, architecture, _ = timm.models._hub.load_model_config_from_path(tmp_path)
        config = read_timm_config(tmp_path)
        assert (config.architecture, config.num_classes) == (architecture, saved["num_classes"])
        (tmp_path / "config.json").write_text(json.dumps({"architecture": architecture, **saved["pretrained_cfg"]}))
        assert read_timm_config(tmp_path) == config, name
        for use_test_size in (False, True):
            data = timm.data.resolve_data_config(pretrained_cfg=cfg, use_test_size=use_test_size)
            prepare = timm_preprocessing(config, use_test_size=use_test_size)
            if (key := (prepare, str(data))) not in seen:
                seen.add(key)
                expected = timm.data.create_transform(**data, is_training=False)(Image.fromarray(CHINA))
                assert_same(prepare(CHINA), expected, prepare.std)
    assert (len(names), len(headless)) == (224, 9)


def test_a_config_that_timm_saved_is_read(tmp_path):
    model = timm.create_model("resnet10t", num_classes=7)
    timm.models._hub.save_config_for_hf(model, tmp_path / "config.json")
    config = read_timm_config(tmp_path)
    cfg, architecture, _args = timm.models._hub.load_model_config_from_path(tmp_path)
    assert (config.architecture, config.num_classes) == (architecture, 7)
    assert config.test_input_size == tuple(cfg["test_input_size"])
    expected = timm_transform(cfg)(Image.fromarray(CHINA))
    assert_same(timm_preprocessing(config)(CHINA), expected, config.std)


@pytest.mark.parametrize(
    "fault",
    [
        {"resize_size": 255},
        {"interpolation": "bicubic"},
        {"antialias": False},
        {"channel_order": "BGR"},
        {"mean": (0.5, 0.5, 0.5)},
        {"crop_size": 223},
    ],
)
def test_a_planted_fault_is_seen(fault):
    expected = ImageClassification(crop_size=224, resize_size=256)(Image.fromarray(CHINA))
    prepare = Preprocessing(**{"resize_size": 256, "crop_size": 224} | fault)
    with pytest.raises(AssertionError):
        assert_same(prepare(CHINA), expected, prepare.std)
