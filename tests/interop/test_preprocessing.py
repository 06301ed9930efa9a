import builtins

import numpy as np
import pytest

from jaxcnn.interop.files.config import TimmConfig
from jaxcnn.interop.preprocessing import (
    Preprocessing,
    keras_preprocessing,
    timm_preprocessing,
    torchvision_preprocessing,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PHOTOGRAPH = np.random.default_rng(0).integers(0, 256, (7, 10, 3), np.uint8)

# What it is to leave the pixels as they are.
AS_IT_IS = {"scale": 255.0, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def ramp(height, width):
    """Makes an image whose first channel is its column and whose second its row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, 0 * rows], 2).astype(np.uint8)


def test_channels_are_normalised():
    actual = Preprocessing(None, None)(PHOTOGRAPH)
    assert (actual.dtype, actual.shape) == (np.float32, (7, 10, 3))
    for channel in range(3):
        expected = (PHOTOGRAPH[:, :, channel] / 255 - MEAN[channel]) / STD[channel]
        np.testing.assert_allclose(actual[:, :, channel], expected, atol=1e-6)


def test_blue_comes_first_where_asked_and_the_mean_is_that_of_the_result():
    actual = Preprocessing(None, None, channel_order="BGR", mean=(0.1, 0.2, 0.3), std=(1, 2, 4))(PHOTOGRAPH)
    for channel, (mean, std) in enumerate(((0.1, 1), (0.2, 2), (0.3, 4))):
        np.testing.assert_allclose(actual[:, :, channel], (PHOTOGRAPH[:, :, 2 - channel] / 255 - mean) / std, atol=1e-6)


@pytest.mark.parametrize(
    ("mode", "formula"),
    [
        ("tf", lambda x: x / 127.5 - 1),
        ("torch", lambda x: (x / 255 - MEAN) / STD),
        ("caffe", lambda x: x[:, :, ::-1] - (103.939, 116.779, 123.68)),
        ("none", lambda x: x),
    ],
)
def test_the_modes_of_keras_are_their_formulas(mode, formula):
    actual = keras_preprocessing(mode, (7, 10))(PHOTOGRAPH)
    np.testing.assert_allclose(actual, formula(PHOTOGRAPH.astype(float)), atol=2e-5)


def test_keras_takes_the_nearest_pixels_whatever_the_proportions():
    actual = keras_preprocessing("none", (3, 2))(ramp(9, 10))
    np.testing.assert_array_equal(actual[:, :, 0], [[2, 7]] * 3)
    np.testing.assert_array_equal(actual[:, :, 1], np.transpose([[1, 4, 7]] * 2))


@pytest.mark.parametrize(
    ("shape", "crop", "top", "left"),
    [
        ((7, 10), (4, 4), 2, 3),
        ((6, 9), (3, 4), 2, 2),
        ((8, 8), (3, 3), 2, 2),
        ((9, 9), (2, 2), 4, 4),
        ((5, 5), (5, 5), 0, 0),
    ],
)
def test_half_pixels_of_the_crop_are_rounded_to_even(shape, crop, top, left):
    actual = Preprocessing(None, crop, **AS_IT_IS)(ramp(*shape))
    assert actual.shape == (*crop, 3)
    np.testing.assert_array_equal(actual[0, 0], [left, top, 0])
    np.testing.assert_array_equal(actual[-1, -1], [left + crop[1] - 1, top + crop[0] - 1, 0])


def test_a_smaller_image_is_padded_more_below_and_right():
    actual = Preprocessing(None, (6, 4), fill=(9, 8, 7), **AS_IT_IS)(ramp(3, 9))
    inside = np.zeros((6, 4), bool)
    inside[1:4] = True
    np.testing.assert_array_equal(actual[~inside], np.broadcast_to([9, 8, 7], (12, 3)))
    np.testing.assert_array_equal(actual[1:4, :, 0], [[2, 3, 4, 5]] * 3)
    np.testing.assert_array_equal(actual[1:4, :, 1], np.transpose([[0, 1, 2]] * 4))


@pytest.mark.parametrize(
    ("arguments", "shape", "expected"),
    [
        ((8, None), (16, 27), (8, 13)),
        ((8, None), (27, 16), (13, 8)),
        ((8, None), (3, 3), (8, 8)),
        (((8, 5), None), (16, 25), (8, 5)),
        (((8, 8), None, "bilinear", True, "inside"), (16, 25), (5, 8)),
        (((8, 8), None, "bilinear", True, "cover"), (16, 27), (8, 14)),
        (((8, 14), None, "bilinear", True, "cover"), (16, 25), (9, 14)),
        (((8, 8), None, "bilinear", True, "inside"), (1, 200), (1, 8)),
        ((None, None), (16, 25), (16, 25)),
    ],
)
def test_sizes_after_resizing(arguments, shape, expected):
    assert Preprocessing(*arguments)(ramp(*shape)).shape == (*expected, 3)


@pytest.mark.parametrize("antialias", [True, False])
def test_with_antialias_every_pixel_counts(antialias):
    image = np.zeros((8, 8, 3), np.uint8)
    image[0, 0] = 255
    actual = Preprocessing((2, 2), None, antialias=antialias, **AS_IT_IS)(image)
    # A triangle of 4 pixels on either side of its centre at 2, cut at the border; or two pixels next to the centre.
    weights = 1 - np.abs(np.arange(6) + 0.5 - 2) / 4
    expected = 255 * (weights[0] / weights.sum()) ** 2 if antialias else 0
    assert abs(actual[0, 0, 0] - expected) <= 1
    assert actual[1, 1, 0] == 0


def test_an_overshoot_of_bicubic_is_cut_off():
    image = np.zeros((4, 16, 3), np.uint8)
    image[:, 8:] = 255
    for antialias in (True, False):
        actual = Preprocessing((4, 32), None, "bicubic", antialias, **AS_IT_IS)(image)
        assert (actual.min(), actual.max()) == (0, 255)
        assert np.all(np.diff(actual[0, :, 0]) >= 0)


def test_values_are_compared_and_printed_as_values():
    prepare = torchvision_preprocessing(232, 224)
    assert prepare == Preprocessing(232, (224, 224))
    assert hash(prepare) == hash(torchvision_preprocessing(232, 224))
    assert repr(prepare) == "Preprocessing(232, (224, 224))"
    assert torchvision_preprocessing(232, 224, "bicubic", mean=[0.5] * 3) == Preprocessing(
        232, 224, "bicubic", mean=(0.5, 0.5, 0.5)
    )


def test_the_config_of_timm_becomes_a_preprocessing():
    config = TimmConfig("resnet50", 1000, crop_pct=0.95, test_input_size=(3, 288, 288), test_crop_pct=1.0)
    assert timm_preprocessing(config) == Preprocessing(235, 224, "bicubic", fit="cover")
    assert timm_preprocessing(config, use_test_size=True) == Preprocessing(288, 288, "bicubic", fit="cover")
    config = TimmConfig("vgg16", 1000, (3, 160, 224), "bilinear", 0.9, "border", (0.5, 0.5, 0.498), (0.5, 0.5, 0.5))
    assert timm_preprocessing(config, use_test_size=True) == Preprocessing(
        (177, 248), (160, 224), fit="inside", fill=(128, 128, 127), mean=(0.5, 0.5, 0.498), std=(0.5, 0.5, 0.5)
    )
    assert timm_preprocessing(TimmConfig("a", 1, crop_mode="squash")) == Preprocessing((256, 256), 224, "bicubic")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Preprocessing(0, 224), "resize_size expects an int or a pair of ints, each at least 1, got 0"),
        (lambda: Preprocessing((256,), 224), "resize_size expects an int or a pair"),
        (lambda: Preprocessing(256, 224.0), "crop_size expects an int or a pair"),
        (
            lambda: Preprocessing(256, 224, "lanczos"),
            "expected interpolation to be one of 'bilinear', .* got 'lanczos'",
        ),
        (
            lambda: Preprocessing(256, 224, fit="crop"),
            "expected fit to be one of 'exact', 'cover', 'inside', 'letterbox', got 'crop'",
        ),
        (lambda: Preprocessing(256, 224, channel_order="GBR"), "expected channel_order to be one of 'RGB', 'BGR'"),
        (lambda: Preprocessing(256, 224, scale=2), "expected scale to be one of 1, 255, got 2"),
        (lambda: Preprocessing(256, 224, mean=(0.5,)), "expects mean to have one number for each of 3 channels"),
        (lambda: Preprocessing(256, 224, std=(1, 0, 1)), r"expects std to be positive, got \(1, 0, 1\)"),
        (lambda: Preprocessing(256, 224, fill=(0, 0.5, 0)), "expects fill to be integers from 0 to 255"),
        (lambda: keras_preprocessing("pytorch", 224), "expected mode to be one of 'tf', 'torch', 'caffe', 'none'"),
        (
            lambda: timm_preprocessing(TimmConfig("a", 1, (1, 28, 28))),
            "with 3 channels or 1, got 1 and the mean",
        ),
        (lambda: Preprocessing((8, 8), None, max_size=9), "expects max_size only with one number as resize_size, got"),
        (lambda: Preprocessing(8, None, max_size=0), "expects max_size of at least 1, got 0"),
        (lambda: Preprocessing(8, None, multiple=1.5), r"expects multiple of at least 1, got 1\.5"),
        (lambda: Preprocessing(8, None, rounded=False), "expects antialias=False with rounded=False, got antialias=T"),
        (lambda: Preprocessing(256, 224, mean=(float("nan"),) * 3), "expects mean to be finite"),
        (lambda: Preprocessing(256, 224, std=(1, float("nan"), 1)), "expects std to be positive"),
        (lambda: Preprocessing(256, 224, mean=(0.5,), std=(0.5,)), "expects fill to have one number for each of 1 ch"),
        (lambda: timm_preprocessing(TimmConfig("a", 1, interpolation="random")), "expected interpolation to be one of"),
        (lambda: timm_preprocessing(TimmConfig("a", 1, crop_mode="corner")), "expected crop_mode to be one of"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((7, 7, 3), np.float32),
        np.zeros((7, 7), np.uint8),
        np.zeros((7, 7, 4), np.uint8),
        np.zeros((2, 7, 7, 3), np.uint8),
        np.zeros((0, 7, 3), np.uint8),
    ],
)
def test_what_is_no_photograph_is_refused(image):
    with pytest.raises(ValueError, match=r"expects one uint8 image of shape \(height, width, 3\), got"):
        torchvision_preprocessing(256, 224)(image)


def test_a_missing_package_is_said(monkeypatch):
    real = builtins.__import__

    def fail(name, *args, **kwargs):
        if name == "PIL":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(ImportError, match=r"expects Pillow to be installed; pip install 'jaxcnn\[weights\]'"):
        torchvision_preprocessing(256, 224)(PHOTOGRAPH)


def test_grey_images_have_the_average_moments_and_colours_those_of_grey():
    usual = Preprocessing(8, 6, channel_order="BGR", fill=(3, 5, 6), mean=(0.1, 0.2, 0.6), std=(1.0, 2.0, 6.0))
    grey = Preprocessing(8, 6, fill=(5,), mean=(0.3,), std=(3.0,))
    assert usual.with_channels(3) is usual
    actual = usual.with_channels(1)
    assert (actual.mean, actual.std) == (pytest.approx((0.3,)), (3.0,))
    assert actual == Preprocessing(8, 6, fill=(5,), mean=actual.mean, std=(3.0,))
    assert grey.with_channels(3) == Preprocessing(8, 6, fill=(5, 5, 5), mean=(0.3,) * 3, std=(3.0,) * 3)
    pixels = PHOTOGRAPH[:, :, :1]
    expected = (pixels / 255 - 0.3) / 3
    np.testing.assert_allclose(
        Preprocessing(None, None, mean=(0.1, 0.2, 0.6), std=(1, 2, 6)).with_channels(1)(pixels), expected, atol=1e-6
    )


@pytest.mark.parametrize(
    ("prepare", "shape"),
    [
        (Preprocessing(60, None, max_size=70, antialias=False, rounded=False, multiple=32), (100, 150)),
        (Preprocessing(48, 40), (120, 90)),
        (Preprocessing((40, 60), None), (100, 90)),
        (Preprocessing((64, 64), (64, 64), fit="inside"), (120, 61)),
        (Preprocessing(None, (71, 40)), (60, 90)),
        (Preprocessing(None, None), (60, 90)),
    ],
)
def test_the_placement_tells_where_the_picture_lies(prepare, shape):
    picture = np.zeros((*shape, 3), np.uint8)
    box = np.array([0.4 * shape[1], 0.3 * shape[0], 0.7 * shape[1], 0.6 * shape[0]]).round()
    left, top, right, bottom = box.astype(int)
    picture[top:bottom, left:right] = 255
    image = prepare(picture)
    place = prepare.placement(*shape)
    assert place.size == image.shape[:2]
    bright = image[..., 0] * prepare.std[0] + prepare.mean[0] > 0.6
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(place.boxes(box), found, atol=0.75)
    np.testing.assert_allclose(place.original_boxes(place.boxes(box)), box, atol=1e-9)


def test_a_letterbox_stands_at_the_top_left_and_is_filled():
    fit = Preprocessing((6, 8), None, fit="letterbox", fill=(9, 8, 7), **AS_IT_IS)
    photograph = np.full((4, 9, 3), 50, np.uint8)
    actual = fit(photograph)
    assert (actual.shape, fit.image_size) == ((6, 8, 3), (6, 8))
    # 4 * 8 / 9 = 3.6 rows, rounded down.
    np.testing.assert_array_equal(actual[:3], np.full((3, 8, 3), 50))
    np.testing.assert_array_equal(actual[3:], np.broadcast_to([9, 8, 7], (3, 8, 3)))
    place = fit.placement(4, 9)
    assert (place.resized, place.top_left, place.size) == ((3, 8), (0, 0), (6, 8))


@pytest.mark.parametrize("options", [{"resize_size": 8}, {"resize_size": (8, 8), "crop_size": 4}])
def test_a_letterbox_of_no_size_or_with_a_crop_is_refused(options):
    with pytest.raises(ValueError, match="expects a pair as resize_size, and no crop_size, with fit='letterbox', got"):
        Preprocessing(**{"crop_size": None, **options}, fit="letterbox")


def test_the_size_of_prepared_images_is_known_where_it_does_not_depend_on_the_picture():
    for fit in (
        Preprocessing(256, 224),
        Preprocessing((300, 200), None),
        Preprocessing((300, 200), None, multiple=32),
        Preprocessing((30, 40), None, fit="letterbox"),
    ):
        assert fit(np.zeros((50, 60, 3), np.uint8)).shape[:2] == fit.image_size
    for fit in (Preprocessing(256, None), Preprocessing((8, 8), None, fit="cover"), Preprocessing(None, None)):
        assert fit.image_size is None
