"""Augmentations that move no pixel, against NumPy, Pillow and the colour space of the standard library."""

import colorsys
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image, ImageFilter, ImageOps

from jaxcnn.data import (
    Step,
    autocontrast,
    blur,
    color_jitter,
    equalize,
    grayscale,
    hue,
    invert,
    jpeg,
    posterize,
    random_erasing,
    saturation,
    sharpness,
    solarize,
)
from jaxcnn.data.augment import operations

NAN, INF = float("nan"), float("inf")

STRONG = [
    Step(saturation, max_factor=1),
    Step(hue, max_shift=0.5),
    Step(color_jitter, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    Step(color_jitter, brightness=1.5, saturation=2),
    Step(grayscale, probability=1),
    Step(invert, probability=1),
    Step(solarize, threshold=0.5, probability=1),
    Step(posterize, bits=2, probability=1),
    Step(autocontrast, probability=1),
    Step(equalize, probability=1),
    Step(sharpness, max_factor=1),
    Step(blur, size=5),
    Step(jpeg, quality=(10, 30)),
    Step(random_erasing, probability=1),
    Step(random_erasing, probability=1, fill="noise"),
]
NONE = [
    Step(saturation, max_factor=0),
    Step(hue, max_shift=0),
    Step(color_jitter),
    Step(grayscale, probability=0),
    Step(invert, probability=0),
    Step(solarize, threshold=0.5, probability=0),
    Step(posterize, bits=2, probability=0),
    Step(posterize, bits=8, probability=1),
    Step(autocontrast, probability=0),
    Step(equalize, probability=0),
    Step(sharpness, max_factor=0),
    Step(blur, size=1),
    Step(blur, size=5, probability=0),
    Step(jpeg, quality=(1, 1), probability=0),
    Step(random_erasing, probability=0),
    Step(random_erasing, scale=(0, 0), probability=1),
]
COMPRESSED = jax.jit(operations.compressed)
COLOURED = (saturation, hue, color_jitter, grayscale, jpeg)


@pytest.fixture(scope="module")
def levels():
    """A smooth picture of 8 bits with grey, black, white and saturated pixels; not square."""
    rows, columns = np.mgrid[:18, :25]
    channels = [120 + 90 * np.sin(rows / 5 + phase) * np.cos(columns / 7 - phase) for phase in range(3)]
    image = np.stack(channels, axis=-1)
    image[:4, :5] = [[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 255], [90, 90, 90]]]
    return image.round().astype(np.uint8)


@pytest.fixture(scope="module")
def image(levels):
    return jnp.asarray(levels / 255, jnp.float32)


def drawn(step, image, count=40, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    return np.asarray(jax.jit(jax.vmap(lambda key: step(key, {"image": image})["image"]))(keys))


@pytest.mark.parametrize("step", STRONG, ids=repr)
def test_images_change_within_their_range(step, image):
    image = image * 0.8 + 0.1
    images = drawn(step, image, 20)
    assert images.shape == (20, *image.shape)
    assert images.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert (images != np.asarray(image)).any()


@pytest.mark.parametrize("step", NONE, ids=repr)
def test_no_strength_is_the_identity(step, image):
    np.testing.assert_array_equal(drawn(step, image, 3), np.stack([image] * 3))


@pytest.mark.parametrize("step", STRONG, ids=repr)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_and_dtype_are_kept(step, dtype, channels):
    example = {"image": jax.ShapeDtypeStruct((7, 9, channels), dtype)}
    result = jax.eval_shape(step, jax.random.key(0), example)["image"]
    assert (result.shape, result.dtype) == ((7, 9, channels), dtype)


@pytest.mark.parametrize("step", STRONG, ids=repr)
def test_double_precision_is_kept(step, float64):
    result = jax.eval_shape(step, jax.random.key(0), {"image": jax.ShapeDtypeStruct((7, 9, 3), jnp.float64)})["image"]
    assert result.dtype == jnp.float64


@pytest.mark.parametrize("step", STRONG, ids=repr)
def test_what_is_no_image_is_refused(step, key):
    name = step.function.__name__
    with pytest.raises(ValueError, match=rf"{name} expects one image of shape .*, got \(2, 7, 9, 3\); map it over"):
        step(key, {"image": jnp.zeros((2, 7, 9, 3))})
    with pytest.raises(TypeError, match=f"{name} expects floating point values, got uint8"):
        step(key, {"image": jnp.zeros((7, 9, 3), jnp.uint8)})
    if step.function in COLOURED:
        with pytest.raises(ValueError, match=rf"{name} expects a grey or RGB image, .* got shape \(7, 9, 2\)"):
            step(key, {"image": jnp.zeros((7, 9, 2))})


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step(saturation, max_factor=1.2), r"saturation expects max_factor in \[0, 1\], got 1\.2"),
        (Step(hue, max_shift=0.6), r"hue expects max_shift in \[0, 0\.5\], got 0\.6"),
        (Step(color_jitter, brightness=-1), "color_jitter expects brightness finite and at least 0, got -1"),
        (Step(color_jitter, contrast=INF), "color_jitter expects contrast finite and at least 0, got inf"),
        (Step(color_jitter, saturation=NAN), "color_jitter expects saturation finite and at least 0, got nan"),
        (Step(color_jitter, hue=0.6), r"color_jitter expects hue in \[0, 0\.5\], got 0\.6"),
        (Step(grayscale, probability=2), r"grayscale expects probability in \[0, 1\], got 2"),
        (Step(invert, probability=NAN), r"invert expects probability in \[0, 1\], got nan"),
        (Step(solarize, threshold=128), r"solarize expects threshold in \[0, 1\], got 128"),
        (Step(solarize, threshold=0.5, probability=-1), r"solarize expects probability in \[0, 1\], got -1"),
        (Step(posterize, bits=9), "posterize expects bits a whole number from 0 to 8, got 9"),
        (Step(posterize, bits=2.5), "posterize expects bits a whole number from 0 to 8, got 2"),
        (Step(posterize, bits=2, probability="no"), "posterize expects probability in .*, got 'no'"),
        (Step(autocontrast, probability=-1), "autocontrast expects probability in .*, got -1"),
        (Step(equalize, probability=-1), "equalize expects probability in .*, got -1"),
        (Step(sharpness, max_factor=-1), r"sharpness expects max_factor in \[0, 1\], got -1"),
        (Step(blur, size=4), "blur expects size an odd number of pixels from 1 to 13 for this image, got 4"),
        (Step(blur, size=15), "blur expects size an odd number of pixels from 1 to 13 for this image, got 15"),
        (Step(blur, size=3, sigma=(0, 1)), r"blur expects sigma a pair of numbers \(least, .* above 0, got \(0, 1\)"),
        (Step(blur, size=3, sigma=1.0), r"blur expects sigma a pair of numbers \(least, greatest\) above 0, got 1\.0"),
        (Step(jpeg, quality=(0, 50)), r"jpeg expects quality a pair of whole numbers .* from 1 to 100, got \(0, 50\)"),
        (Step(jpeg, quality=(1.5, 50)), r"jpeg expects quality a pair of whole numbers .*, got \(1\.5, 50\)"),
        (Step(jpeg, quality=(60, 50)), r"jpeg expects quality a pair of whole numbers .*, got \(60, 50\)"),
        (Step(random_erasing, probability=2), r"random_erasing expects probability in \[0, 1\], got 2"),
        (Step(random_erasing, scale=(0.5, 2)), r"random_erasing expects scale a pair .* from 0 to 1, got \(0\.5, 2\)"),
        (Step(random_erasing, ratio=(0, 2)), r"random_erasing expects ratio a pair .* above 0, got \(0, 2\)"),
        (Step(random_erasing, fill="random"), "random_erasing expects fill a number or 'noise', got 'random'"),
    ],
    ids=repr,
)
def test_nonsense_is_refused(step, message, key):
    with pytest.raises(ValueError, match=message):
        step(key, {"image": jnp.zeros((7, 9, 3))})


def test_hue_turns_as_the_standard_library_says(image):
    for shift in (-0.5, -0.2, 0.1, 0.5):
        turned = np.asarray(operations.hue_shifted(image, jnp.float32(shift)))
        for row, column in np.ndindex(image.shape[:2]):
            h, s, v = colorsys.rgb_to_hsv(*np.asarray(image, float)[row, column])
            np.testing.assert_allclose(turned[row, column], colorsys.hsv_to_rgb((h + shift) % 1, s, v), atol=2e-6)


def test_hue_and_saturation_leave_grey_images(key):
    grey = jnp.linspace(0, 1, 12).reshape(3, 4, 1)
    for image in (grey, jnp.tile(grey, 3)):
        np.testing.assert_array_equal(hue(key, image, 0.5), image)
        np.testing.assert_allclose(saturation(key, image, 1.0), image, atol=1e-4)  # torchvision's weights sum to 0.9999


def test_saturation_draws_factors_about_grey(image):
    grey = np.asarray(image) @ [0.2989, 0.587, 0.114]
    images = drawn(Step(saturation, max_factor=0.5), image)
    factors = set()
    for one in images:
        chosen = (one[8, 8, 0] - grey[8, 8]) / (image[8, 8, 0] - grey[8, 8])
        expected = np.clip(grey[..., None] + chosen * (np.asarray(image) - grey[..., None]), 0, 1)
        np.testing.assert_allclose(one, expected, atol=1e-5)
        factors.add(round(float(chosen), 3))
    assert min(factors) < 0.7
    assert max(factors) > 1.3


def test_grey_is_pillows_to_a_level(levels, image):
    expected = np.asarray(Image.fromarray(levels).convert("L"))
    for channel in range(3):
        np.testing.assert_allclose(
            255 * grayscale(jax.random.key(0), image, probability=1)[..., channel], expected, atol=1
        )


@pytest.mark.parametrize("bits", range(9))
def test_posterize_equals_pillow(bits, levels, image):
    changed = posterize(jax.random.key(0), image, bits, probability=1)
    expected = np.asarray(ImageOps.posterize(Image.fromarray(levels), bits)) if bits else np.zeros_like(levels)
    np.testing.assert_array_equal(np.round(255 * np.asarray(changed)), expected)


def test_equalize_equals_pillow(levels, image):
    equalized = jax.jit(lambda image: equalize(jax.random.key(0), image, probability=1))
    pictures = [levels, np.tile(levels // 3 + 40, (3, 2, 1)), np.full_like(levels, 7), levels * 0 + levels[:, :1] // 9]
    for picture in pictures:
        changed = equalized(jnp.asarray(picture / 255, jnp.float32))
        expected = np.asarray(ImageOps.equalize(Image.fromarray(picture)))
        np.testing.assert_array_equal(np.round(255 * np.asarray(changed)), expected)


def test_solarize_and_invert_equal_pillow(levels, image):
    picture = Image.fromarray(levels)
    changed = solarize(jax.random.key(0), image, 100 / 255, probability=1)
    np.testing.assert_allclose(255 * changed, np.asarray(ImageOps.solarize(picture, 100)), atol=1e-3)
    changed = invert(jax.random.key(0), image, probability=1)
    np.testing.assert_allclose(255 * changed, np.asarray(ImageOps.invert(picture)), atol=1e-3)


def test_autocontrast_is_pillows_to_a_level(levels):
    picture = (40 + levels // 2).astype(np.uint8)
    picture[..., 2] = 99  # a channel of one value
    changed = autocontrast(jax.random.key(0), jnp.asarray(picture / 255, jnp.float32), probability=1)
    expected = np.asarray(ImageOps.autocontrast(Image.fromarray(picture)))
    np.testing.assert_allclose(255 * changed, expected, atol=1)
    np.testing.assert_allclose(255 * changed[..., 2], 99, atol=1e-4)


def test_smoothing_is_pillows_filter(levels, image):
    expected = np.asarray(Image.fromarray(levels).filter(ImageFilter.SMOOTH))
    np.testing.assert_allclose(255 * operations.smoothed(image), expected, atol=0.51)
    thin = image[:2]
    np.testing.assert_array_equal(operations.smoothed(thin), thin)


def test_sharpness_is_between_smooth_and_sharp(image):
    images = drawn(Step(sharpness, max_factor=1), image)
    smooth, image = np.asarray(operations.smoothed(image)), np.asarray(image)
    difference = image - smooth
    place = np.unravel_index(np.abs(difference * (image > 0.2) * (image < 0.8)).argmax(), image.shape)
    factors = (images[(slice(None), *place)] - smooth[place]) / difference[place]
    expected = np.clip(smooth + factors[:, None, None, None] * difference, 0, 1)
    np.testing.assert_allclose(images, expected, atol=1e-4)
    assert factors.min() < 0.4
    assert factors.max() > 1.6


@pytest.mark.parametrize(("size", "sigma"), [(1, 1.0), (5, 0.7), (9, 3.0)])
def test_blur_equals_scipy_over_the_mirrored_image(size, sigma, image):
    changed = blur(jax.random.key(0), image, size, sigma=(sigma, sigma))
    expected = scipy.ndimage.gaussian_filter(
        np.asarray(image, float), (sigma, sigma, 0), mode="mirror", radius=(size // 2, size // 2, 0)
    )
    np.testing.assert_allclose(changed, expected, atol=1e-6)


def test_blur_draws_its_width(image):
    roughness = np.abs(np.diff(drawn(Step(blur, size=7, sigma=(0.5, 3)), image), axis=1)).mean((1, 2, 3))
    assert roughness.max() > 1.2 * roughness.min()


# At the right and the lower border, where a block is not full, libjpeg interpolates colours in another way.
@pytest.mark.parametrize(("size", "tolerance"), [((48, 80), 0.05), ((45, 70), 0.15)])
@pytest.mark.parametrize("quality", [5, 30, 75, 95])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows_but_for_rounding(quality, channels, size, tolerance):
    rows, columns = np.mgrid[: size[0], : size[1]]
    waves = [128 + 100 * np.sin(rows / (3 + k)) * np.cos(columns / (5 - k) + k) for k in range(channels)]
    levels = np.stack(waves, axis=-1).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels.squeeze()).save(file, "jpeg", quality=quality)
    expected = np.asarray(Image.open(file), float).reshape(levels.shape)
    compressed = COMPRESSED(jnp.asarray(levels / 255, jnp.float32), quality)
    lost = np.abs(expected - levels).mean()
    assert np.abs(255 * np.asarray(compressed) - expected).mean() < max(tolerance * lost, 1.1)
    assert lost > 0.3


def test_jpeg_draws_every_quality(image):
    fixed = {np.round(255 * np.asarray(COMPRESSED(image, quality))).tobytes() for quality in range(40, 44)}
    assert {np.round(255 * one).tobytes() for one in drawn(Step(jpeg, quality=(40, 43)), image, 60)} == fixed


def test_color_jitter_draws_its_factors_and_their_order():
    """One colour: a change of brightness is seen in every channel, a change of saturation in their differences."""
    colour = np.array([0.3, 0.4, 0.5], np.float32)
    image = jnp.asarray(np.tile(colour, (2, 2, 1)))
    images = drawn(Step(color_jitter, brightness=0.4), image, 300)[:, 0, 0]
    factors = images / colour
    np.testing.assert_allclose(factors, factors[:, :1] + np.zeros(3), atol=1e-5)
    assert factors.min() < 0.65
    assert factors.max() > 1.35
    grey = colour @ [0.2989, 0.587, 0.114]
    for option in ("contrast", "saturation"):  # the mean of an image of one colour is its grey
        images = drawn(Step(color_jitter, **{option: 0.4}), image, 300)[:, 0, 0]
        factors = (images - grey) / (colour - grey)
        np.testing.assert_allclose(factors, factors[:, :1] + np.zeros(3), atol=1e-4)
        assert factors.min() < 0.65
        assert factors.max() > 1.35


@pytest.mark.slow
@pytest.mark.heavy
def test_color_jitter_applies_the_changes_in_every_order():
    image = np.array([[[0.9, 0.2, 0.1], [0.1, 0.8, 0.7]]], np.float32)
    options = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.5}

    def draws(key):
        factor_key, order_key, hue_key = jax.random.split(key, 3)
        turn = jax.random.uniform(hue_key, (), minval=-0.5, maxval=0.5)
        return 2 * jax.random.uniform(factor_key, (3,)), jax.random.permutation(order_key, np.arange(4)), turn

    def luma(x):
        return x @ np.array([0.2989, 0.587, 0.114])

    def apply(kind, x, factor, turn):
        if kind == 3:
            rows = [colorsys.hsv_to_rgb((h + turn) % 1, s, v) for h, s, v in (colorsys.rgb_to_hsv(*p) for p in x[0])]
            return np.array([rows])
        towards = (0, luma(x).mean(), luma(x)[..., None])[kind]
        return np.clip(towards + factor[kind] * (x - towards), 0, 1)

    keys = jax.random.split(jax.random.key(1), 100)
    results = jax.jit(jax.vmap(lambda key: color_jitter(key, jnp.asarray(image), **options)))(keys)
    seen = set()
    for result, *drawn_for_it in zip(results, *jax.jit(jax.vmap(draws))(keys), strict=True):
        factors, order, turn = map(np.asarray, drawn_for_it)
        expected = image.astype(float)
        for kind in order:
            expected = apply(kind, expected, factors.astype(float), float(turn))
        np.testing.assert_allclose(result, expected, atol=1e-4)
        seen.add(tuple(order.tolist()))
    assert len(seen) > 20


@pytest.mark.parametrize("fill", [0.25, "noise"])
def test_random_erasing_blanks_a_rectangle(fill):
    image = jnp.full((30, 44, 3), 0.75)
    images = drawn(Step(random_erasing, probability=0.8, fill=fill), image, 200)
    changed = (images != 0.75).any(-1)
    some = changed.any((1, 2))
    assert 130 < some.sum() < 190
    areas, ratios = [], []
    for one, there in zip(images[some], changed[some], strict=True):
        rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
        height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        inside = one[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert there.sum() == height * width
        assert (inside == 0.25).all() if fill == 0.25 else len(np.unique(inside)) > inside.size / 2
        areas.append(height * width / there.size)
        ratios.append(height / width)
    assert min(areas) > 0.015
    assert max(areas) < 0.35
    assert np.quantile(areas, 0.9) - np.quantile(areas, 0.1) > 0.15
    assert min(ratios) < 0.6
    assert max(ratios) > 1.5
    assert min(ratios) > 0.25
    assert max(ratios) < 3.8


def test_the_ratio_of_an_erased_rectangle_is_height_to_width():
    images = drawn(Step(random_erasing, probability=1, ratio=(2, 3), scale=(0.05, 0.2)), jnp.ones((40, 40, 1)), 50)
    for there in images[..., 0] == 0:
        assert 1.5 < there.any(1).sum() / there.any(0).sum() < 3.6


def test_a_rectangle_that_cannot_fit_erases_nothing(image):
    images = drawn(Step(random_erasing, probability=1, scale=(1, 1)), image, 5)
    np.testing.assert_array_equal(images, np.stack([image] * 5))


@pytest.mark.parametrize(
    "make",
    [
        lambda p: Step(grayscale, probability=p),
        lambda p: Step(invert, probability=p),
        lambda p: Step(solarize, threshold=0.5, probability=p),
        lambda p: Step(posterize, bits=2, probability=p),
        lambda p: Step(autocontrast, probability=p),
        lambda p: Step(equalize, probability=p),
        lambda p: Step(blur, size=3, probability=p),
        lambda p: Step(jpeg, quality=(5, 5), probability=p),
    ],
)
def test_probabilities_are_met(make, image):
    small = jnp.tile(image[4:12, 4:12] * 0.5 + 0.2, (3, 3, 1))  # enough pixels for 256 levels
    changed = (drawn(make(0.3), small, 300) != np.asarray(small)).any((1, 2, 3)).sum()
    assert 60 < changed < 125  # 90 expected
