import dataclasses
import functools
import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

import jaxcnn
from jaxcnn.data import (
    Composition,
    Step,
    affine,
    brightness,
    compose,
    contrast,
    cutout,
    elastic,
    flip,
    geometric,
    noise,
    perspective,
    photometric,
    random_crop,
    random_resized_crop,
    rotate,
    shift,
)
from jaxcnn.data.augment.spatial import _affine_coordinates, _smooth
from jaxcnn.data.geometry import Mirror

STRONG = [
    Step(shift, max_shift=3),
    Step(random_crop, padding=3),
    Step(random_crop, padding=3, border="edge"),
    Step(random_crop, padding=3, border="reflect"),
    Step(flip),
    Step(flip, axis="vertical"),
    Step(affine, max_degrees=20, max_scale=0.2, max_shear=10, max_shift=2),
    Step(rotate, max_degrees=30),
    Step(brightness, max_delta=0.5),
    Step(contrast, max_factor=0.5),
    Step(noise, std=0.2),
    Step(cutout, size=3),
    Step(elastic, alpha=8, sigma=2),
    Step(random_resized_crop),
    Step(random_resized_crop, interpolation="bicubic"),
    Step(perspective, probability=1),
]
NONE = [
    Step(shift, max_shift=0),
    Step(random_crop, padding=0),
    Step(flip, probability=0),
    Step(affine),
    Step(rotate, max_degrees=0),
    Step(brightness, max_delta=0),
    Step(contrast, max_factor=0),
    Step(noise, std=0),
    Step(cutout, size=0),
    Step(elastic, alpha=0, sigma=2),
    Step(random_resized_crop, scale=(1, 1), ratio=(9 / 7, 9 / 7)),
    Step(perspective, distortion=0),
    Step(perspective, probability=0),
    compose(),
]


@pytest.fixture(scope="module")
def image():
    """Not square, no two values equal, in [0, 1]."""
    values = np.random.default_rng(0).permutation(7 * 9 * 2).reshape(7, 9, 2)
    return jnp.asarray(values / values.max(), jnp.float32)


def ramps(height, width):
    """Channel 0 holds the row of each pixel, channel 1 its column: a resampled image tells where it was read."""
    return jnp.asarray(np.stack(np.mgrid[:height, :width], axis=-1), jnp.float32)


def draw(step, image, count, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    return np.asarray(jax.jit(jax.vmap(lambda key: step(key, {"image": image})["image"]))(keys))


def occurrences(draws, candidates):
    """How often each candidate was drawn; every draw must be one of them."""
    equal = np.stack([(draws == candidate).all(axis=(1, 2, 3)) for candidate in candidates])
    assert (equal.sum(axis=0) == 1).all()
    return equal.sum(axis=1)


@pytest.fixture(scope="module", params=STRONG, ids=repr)
def drawn(request, image):
    """A step and 20 images that it made."""
    return request.param, draw(request.param, image, 20, seed=1)


@pytest.mark.slow
@pytest.mark.heavy
def test_a_loop_over_the_same_keys_gives_the_same_images(drawn, image):
    step, together = drawn
    one = jax.jit(step)
    loop = [one(key, {"image": image})["image"] for key in jax.random.split(jax.random.key(1), 20)]
    np.testing.assert_allclose(together, loop, atol=1e-5)


def test_different_keys_give_different_images(drawn):
    step, together = drawn
    assert len({image.tobytes() for image in together}) >= (2 if step.function is flip else 10)


def test_pixels_stay_between_zero_and_one(drawn):
    _, together = drawn
    assert together.min() >= 0
    assert together.max() <= 1 + 1e-6


@pytest.mark.parametrize("step", STRONG, ids=repr)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_shape_and_dtype_are_kept(step, dtype):
    result = jax.eval_shape(step, jax.random.key(0), {"image": jax.ShapeDtypeStruct((7, 9, 3), dtype)})["image"]
    assert (result.shape, result.dtype) == ((7, 9, 3), dtype)


@pytest.mark.parametrize("step", STRONG, ids=repr)
def test_double_precision_is_kept(step, float64):
    result = jax.eval_shape(step, jax.random.key(0), {"image": jax.ShapeDtypeStruct((7, 9, 3), jnp.float64)})["image"]
    assert result.dtype == jnp.float64


@pytest.mark.parametrize("step", NONE, ids=repr)
def test_no_strength_is_the_identity(step, image):
    np.testing.assert_array_equal(draw(step, image, 3), np.stack([image] * 3))


@pytest.mark.parametrize("step", STRONG, ids=repr)
def test_a_batch_is_refused(step):
    name = step.function.__name__
    with pytest.raises(ValueError, match=rf"{name} expects one image of shape .*, got \(2, 7, 9, 3\); map it over"):
        step(jax.random.key(0), {"image": jnp.zeros((2, 7, 9, 3))})


@pytest.mark.parametrize("step", STRONG, ids=repr)
def test_bytes_are_refused(step):
    with pytest.raises(TypeError, match=f"{step.function.__name__} expects floating point values, got uint8"):
        step(jax.random.key(0), {"image": jnp.zeros((7, 9, 3), jnp.uint8)})


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step(shift, max_shift=-1), r"shift expects max_shift a whole number of pixels from 0 to 6 .*, got -1"),
        (Step(shift, max_shift=7), r"shift expects max_shift .* from 0 to 6 for this image, got 7"),
        (Step(shift, max_shift=1.5), r"shift expects max_shift .*, got 1\.5"),
        (Step(shift, max_shift=True), r"shift expects max_shift .*, got True"),
        (Step(random_crop, padding=-1), r"random_crop expects padding .* from 0 to 6 .*, got -1"),
        (Step(random_crop, padding=7), r"random_crop expects padding .* from 0 to 6 .*, got 7"),
        (Step(random_crop, padding=1, border="wrap"), r"border 'zeros', 'edge' or 'reflect', got 'wrap'"),
        (Step(flip, axis="left"), r"flip expects axis 'horizontal' or 'vertical', got 'left'"),
        (Step(flip, probability=-0.1), r"flip expects probability in \[0, 1\], got -0\.1"),
        (Step(flip, probability=1.1), r"flip expects probability in \[0, 1\], got 1\.1"),
        (Step(flip, probability=NAN), r"flip expects probability in \[0, 1\], got nan"),
        (Step(affine, max_degrees=181), r"affine expects max_degrees in \[0, 180\], got 181"),
        (Step(affine, max_degrees=-1), r"affine expects max_degrees in \[0, 180\], got -1"),
        (Step(affine, max_scale=1), r"affine expects max_scale in \[0, 1\), got 1"),
        (Step(affine, max_scale=-0.1), r"affine expects max_scale in \[0, 1\), got -0\.1"),
        (Step(affine, max_shear=90), r"affine expects max_shear in \[0, 90\), got 90"),
        (Step(affine, max_shear=-1), r"affine expects max_shear in \[0, 90\), got -1"),
        (Step(affine, max_shift=7), r"affine expects max_shift in \[0, 7\), less than the image, got 7"),
        (Step(affine, max_shift=-1), r"affine expects max_shift in \[0, 7\), less than the image, got -1"),
        (Step(rotate, max_degrees=200), r"rotate expects max_degrees in \[0, 180\], got 200"),
        (Step(brightness, max_delta=-0.1), r"brightness expects max_delta in \[0, 1\], got -0\.1"),
        (Step(brightness, max_delta=32), r"brightness expects max_delta in \[0, 1\], got 32"),
        (Step(contrast, max_factor=1.2), r"contrast expects max_factor in \[0, 1\], got 1\.2"),
        (Step(contrast, max_factor=-1), r"contrast expects max_factor in \[0, 1\], got -1"),
        (Step(noise, std=-1), r"noise expects std finite and at least 0, got -1"),
        (Step(noise, std=INF), r"noise expects std finite and at least 0, got inf"),
        (Step(cutout, size=-1), r"cutout expects size a whole number of pixels from 0 to 7 .*, got -1"),
        (Step(cutout, size=8), r"cutout expects size .* from 0 to 7 for this image, got 8"),
        (Step(elastic, alpha=-1, sigma=2), r"elastic expects alpha finite and at least 0, got -1"),
        (Step(elastic, alpha=INF, sigma=2), r"elastic expects alpha finite and at least 0, got inf"),
        (Step(elastic, alpha=1, sigma=0), r"elastic expects sigma above 0 and at most 9, .*, got 0"),
        (Step(perspective, distortion=1.1), r"perspective expects distortion in \[0, 1\], got 1\.1"),
        (Step(perspective, probability=-1), r"perspective expects probability in \[0, 1\], got -1"),
        (Step(random_resized_crop, size=0), r"random_resized_crop: size expects an int or a pair of ints, .* got 0"),
        (
            Step(random_resized_crop, scale=(0, 1)),
            r"expects scale a pair of numbers \(least, greatest\) above 0 to 1, got \(0, 1\)",
        ),
        (Step(random_resized_crop, scale=(0.5, 1.1)), r"expects scale a pair .*, got \(0\.5, 1\.1\)"),
        (Step(random_resized_crop, scale=0.5), r"expects scale a pair .*, got 0\.5"),
        (
            Step(random_resized_crop, ratio=(2, 1)),
            r"expects ratio a pair of numbers \(least, greatest\) above 0, got \(2, 1\)",
        ),
        (Step(random_resized_crop, ratio=(1, INF)), r"expects ratio a pair .*, got \(1, inf\)"),
        (Step(random_resized_crop, interpolation="box"), r"interpolation 'bilinear' or 'bicubic', got 'box'"),
        (Step(elastic, alpha=1, sigma=10), r"elastic expects sigma above 0 and at most 9, .*, got 10"),
    ],
    ids=repr,
)
def test_nonsense_is_refused(step, message):
    with pytest.raises(ValueError, match=message):
        step(jax.random.key(0), {"image": jnp.zeros((7, 9, 3))})


def windows(padded, shape):
    rows, columns = padded.shape[0] - shape[0] + 1, padded.shape[1] - shape[1] + 1
    return [padded[i : i + shape[0], j : j + shape[1]] for i in range(rows) for j in range(columns)]


@pytest.mark.parametrize(
    ("step", "pad_options"),
    [
        (Step(shift, max_shift=2), {"constant_values": 0}),
        (Step(shift, max_shift=2, fill=0.25), {"constant_values": 0.25}),
        (Step(random_crop, padding=2), {"constant_values": 0}),
        (Step(random_crop, padding=2, border="edge"), {"mode": "edge"}),
        (Step(random_crop, padding=2, border="reflect"), {"mode": "reflect"}),
    ],
    ids=repr,
)
def test_shifts_and_crops_are_the_windows_of_the_padded_image_all_equally_likely(step, pad_options, image):
    padded = np.pad(np.asarray(image), ((2, 2), (2, 2), (0, 0)), **pad_options)
    counts = occurrences(draw(step, image, 500), windows(padded, image.shape))
    assert len(counts) == 25
    assert counts.min() >= 5  # 20 expected
    assert counts.max() <= 45


@pytest.mark.parametrize(("axis", "number"), [("horizontal", 1), ("vertical", 0)])
def test_flips_mirror_the_named_axis_as_often_as_asked(axis, number, image):
    draws = draw(Step(flip, axis=axis, probability=0.3), image, 500)
    counts = occurrences(draws, [np.asarray(image), np.flip(image, number)])
    assert 100 < counts[1] < 200  # 150 expected


def test_a_flip_of_probability_one_is_certain(image):
    draws = draw(Step(flip, probability=1), image, 50)
    np.testing.assert_array_equal(draws, np.stack([np.asarray(image)[:, ::-1]] * 50))


def warp(image, degrees=0.0, scale=1.0, shear=0.0, move=(0.0, 0.0), fill=0.0):
    amounts = {"degrees": degrees, "scale": scale, "shear": shear, "shift": move}
    amounts = {name: jnp.asarray(value, jnp.float32) for name, value in amounts.items()}
    return _affine_coordinates(*image.shape[:2], **amounts).image(image, fill)


@pytest.mark.parametrize("turns", [1, 2, 3, -1])
def test_quarter_turns_equal_rot90(turns, image):
    square = image[:, :7]
    np.testing.assert_allclose(warp(square, degrees=90 * turns), np.rot90(square, turns), atol=2e-6)


def test_a_half_turn_equals_rot90_on_an_oblong_image(image):
    np.testing.assert_allclose(warp(image, degrees=180), np.rot90(image, 2), atol=2e-6)


def test_a_whole_shift_moves_down_and_right(image):
    moved = np.full_like(image, 0.5)
    moved[2:, :-3] = image[:-2, 3:]
    np.testing.assert_allclose(warp(image, move=(2, -3), fill=0.5), moved, atol=1e-6)


@pytest.mark.parametrize(
    "amounts",
    [
        {"degrees": 25},
        {"scale": 1.3},
        {"scale": 0.6},
        {"shear": 20},
        {"move": (1.25, -0.5)},
        {"degrees": -40, "scale": 1.2, "shear": -15, "move": (-1.5, 2.25), "fill": 0.7},
    ],
    ids=str,
)
def test_resampling_equals_scipy_under_the_composed_matrix(amounts, image):
    options = {"degrees": 0, "scale": 1, "shear": 0, "move": (0, 0), "fill": 0.0} | amounts
    angle, lean = np.deg2rad(options["degrees"]), np.tan(np.deg2rad(options["shear"]))
    # In (down, right): counter-clockwise as seen on the screen is from right to up.
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ (options["scale"] * np.eye(2)) @ np.array([[1, 0], [lean, 1]])
    back = np.linalg.inv(matrix)
    centre = (np.array(image.shape[:2]) - 1) / 2
    offset = centre - back @ (centre + options["move"])
    expected = np.stack(
        [
            scipy.ndimage.affine_transform(
                np.asarray(image[..., channel], np.float64),
                back,
                offset,
                order=1,
                mode="grid-constant",
                cval=options["fill"],
            )
            for channel in range(2)
        ],
        axis=-1,
    )
    np.testing.assert_allclose(warp(image, **amounts), expected, atol=5e-6)


def recovered(**options):
    """Draws transforms and reads each one's matrix and shift back from what it does to the coordinates."""
    size, middle = 33, 16
    image = ramps(size, size)
    draws = draw(Step(affine, **options), image, 300).astype(np.float64) - middle
    centre = draws[:, middle, middle]
    down, right = draws[:, middle + 1, middle] - centre, draws[:, middle, middle + 1] - centre
    matrices = np.linalg.inv(np.stack([down, right], axis=-1))
    return matrices, np.einsum("nij,nj->ni", matrices, -centre)


def assert_uniform(values, greatest):
    assert np.abs(values).max() <= greatest * (1 + 1e-3)
    quarters, _ = np.histogram(values, bins=4, range=(-greatest, greatest * (1 + 1e-3)))
    assert quarters.min() > len(values) / 8
    assert quarters.max() < len(values) / 2


def test_affine_draws_angles_from_the_whole_interval():
    matrices, moves = recovered(max_degrees=30)
    np.testing.assert_allclose(np.linalg.det(matrices), 1, atol=1e-4)
    np.testing.assert_allclose(matrices[:, 0, 0], matrices[:, 1, 1], atol=1e-4)
    np.testing.assert_allclose(moves, 0, atol=1e-4)
    assert_uniform(np.rad2deg(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])), 30)


def test_affine_draws_scales_from_the_whole_interval():
    matrices, _ = recovered(max_scale=0.4)
    np.testing.assert_allclose(matrices[:, [0, 1], [1, 0]], 0, atol=1e-4)
    np.testing.assert_allclose(matrices[:, 0, 0], matrices[:, 1, 1], atol=1e-4)
    assert_uniform(matrices[:, 0, 0] - 1, 0.4)


def test_affine_draws_shears_from_the_whole_interval():
    matrices, _ = recovered(max_shear=20)
    np.testing.assert_allclose(matrices[:, [0, 0, 1], [0, 1, 1]], [[1, 0, 1]] * 300, atol=1e-4)
    assert_uniform(np.rad2deg(np.arctan(matrices[:, 1, 0])), 20)


def test_affine_draws_shifts_from_the_whole_square():
    matrices, moves = recovered(max_shift=5)
    np.testing.assert_allclose(matrices, [np.eye(2)] * 300, atol=1e-4)
    assert_uniform(moves[:, 0], 5)
    assert_uniform(moves[:, 1], 5)
    assert abs(np.corrcoef(moves.T)[0, 1]) < 0.2


def test_affine_draws_its_amounts_independently():
    matrices, moves = recovered(max_degrees=30, max_scale=0.3, max_shift=3)
    angles = np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])
    correlations = np.corrcoef([angles, np.linalg.det(matrices), *moves.T]) - np.eye(4)
    assert np.abs(correlations).max() < 0.2


def test_rotate_is_affine_with_nothing_else(image):
    turned = draw(Step(rotate, max_degrees=40, fill=0.3), image, 10)
    np.testing.assert_array_equal(turned, draw(Step(affine, max_degrees=40, fill=0.3), image, 10))


def test_brightness_adds_one_number_to_all_pixels():
    image = jnp.linspace(0.4, 0.6, 24).reshape(3, 4, 2)
    added = draw(Step(brightness, max_delta=0.3), image, 300) - np.asarray(image)
    np.testing.assert_allclose(added, added[:, :1, :1, :1] + np.zeros_like(added), atol=1e-6)
    assert_uniform(added[:, 0, 0, 0], 0.3)


def test_brightness_clips(image):
    draws = draw(Step(brightness, max_delta=1.0), image, 50)
    assert (draws.min(), draws.max()) == (0, 1)


def test_contrast_stretches_about_the_mean():
    image = np.random.default_rng(0).uniform(0.4, 0.6, (5, 6, 2)).astype(np.float32)
    draws = draw(Step(contrast, max_factor=0.5), jnp.asarray(image), 300)
    np.testing.assert_allclose(draws.mean(axis=(1, 2, 3)), image.mean(), atol=1e-5)
    factors = draws.std(axis=(1, 2, 3)) / image.std()
    expected = image.mean() + factors[:, None, None, None] * (image - image.mean())
    np.testing.assert_allclose(draws, expected, atol=1e-5)
    assert_uniform(factors - 1, 0.5)


def test_contrast_clips(image):
    draws = draw(Step(contrast, max_factor=1.0), image, 50)
    assert (draws.min(), draws.max()) == (0, 1)


def test_noise_is_gaussian_and_independent_from_pixel_to_pixel():
    image = jnp.full((16, 16, 3), 0.5)
    added = draw(Step(noise, std=0.05), image, 60) - 0.5
    assert abs(added.mean()) < 0.002
    assert abs(added.std() / 0.05 - 1) < 0.03
    assert abs((np.abs(added) < 0.05).mean() - 0.683) < 0.02
    for axis in range(4):
        ahead = np.roll(added, 1, axis)
        assert abs(np.corrcoef(ahead.ravel(), added.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize(("size", "before", "after"), [(1, 0, 0), (4, 2, 1), (7, 3, 3)])
def test_cutout_blanks_a_square_about_a_pixel_all_equally_likely(size, before, after, image):
    candidates = []
    for row, column in np.ndindex(7, 9):
        blanked = np.array(image)
        blanked[max(row - before, 0) : row + after + 1, max(column - before, 0) : column + after + 1] = 0.5
        candidates.append(blanked)
    draws = draw(Step(cutout, size=size, fill=0.5), image, 1000)
    distinct = {candidate.tobytes(): candidate for candidate in candidates}
    counts = occurrences(draws, list(distinct.values()))
    likelihoods = [sum(other.tobytes() == one for other in candidates) for one in distinct]
    assert (counts / likelihoods).min() > 3  # 16 expected for each centre
    assert (counts / likelihoods).max() < 40


def test_the_area_of_a_cutout_is_whole_inside_and_a_quarter_in_the_corner():
    blank = draw(Step(cutout, size=4), jnp.ones((12, 12, 1)), 1000).sum(axis=(1, 2, 3))
    assert (144 - blank).max() == 16
    assert (144 - blank).min() == 4


def test_smoothing_equals_scipy():
    field = np.random.default_rng(0).uniform(-1, 1, (2, 11, 14))
    for sigma in (0.3, 1.0, 3.5, 14.0):
        expected = [scipy.ndimage.gaussian_filter(part, sigma, mode="constant") for part in field]
        np.testing.assert_allclose(_smooth(jnp.asarray(field, jnp.float32), sigma), expected, atol=1e-6)


def test_elastic_moves_pixels_smoothly_by_as_much_as_stated():
    alpha, sigma, size = 40.0, 3.0, 48
    image = ramps(size, size)
    inner = slice(14, -14)
    displacement = (draw(Step(elastic, alpha=alpha, sigma=sigma), image, 40) - np.asarray(image))[:, inner, inner]
    expected = 0.163 * alpha / sigma
    assert abs(displacement.mean()) < 0.3
    np.testing.assert_allclose(displacement.std(axis=(0, 1, 2)), expected, rtol=0.15)
    # Neighbours of a field smoothed with sigma correlate by exp(-1 / (4 sigma^2)).
    steps = np.diff(displacement, axis=1).std(), np.diff(displacement, axis=2).std()
    np.testing.assert_allclose(steps, expected * np.sqrt(2 * (1 - np.exp(-1 / (4 * sigma**2)))), rtol=0.2)
    assert abs(np.corrcoef(displacement[..., 0].ravel(), displacement[..., 1].ravel())[0, 1]) < 0.2


def test_elastic_reads_fill_beyond_the_border():
    draws = draw(Step(elastic, alpha=100, sigma=2, fill=0.25), jnp.ones((12, 12, 1)), 10)
    np.testing.assert_allclose(draws.min(), 0.25, atol=1e-6)
    assert draws.max() <= 1 + 1e-6


def test_resampling_in_half_precision_keeps_the_places_of_a_wide_image():
    image = jnp.zeros((1, 1001, 1), jnp.bfloat16).at[0, 777, 0].set(1)
    moved = warp(image, move=(0, 3))
    assert moved.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.flatnonzero(moved), [780])


def test_a_step_is_a_value():
    step = Step(random_crop, padding=4, border="edge")
    twin = Step(random_crop, border="edge", padding=4)
    assert step == twin
    assert hash(step) == hash(twin)
    assert step != Step(random_crop, padding=3, border="edge")
    assert step != Step(shift, max_shift=4)
    assert repr(step) == "Step(jaxcnn.data.random_crop, border='edge', padding=4)"
    assert eval(repr(step), {"Step": Step, "jaxcnn": jaxcnn}) == step
    assert pickle.loads(pickle.dumps(step)) == step
    with pytest.raises(dataclasses.FrozenInstanceError):
        step.options = ()


def test_a_composition_is_a_value():
    chain = compose(Step(shift, max_shift=2), compose(Step(flip)))
    assert isinstance(chain, Composition)
    assert chain == compose(Step(shift, max_shift=2), compose(Step(flip)))
    assert hash(chain) == hash(compose(Step(shift, max_shift=2), compose(Step(flip))))
    assert chain != compose(Step(flip), Step(shift, max_shift=2))
    assert repr(chain) == "compose(Step(jaxcnn.data.shift, max_shift=2), compose(Step(jaxcnn.data.flip)))"
    assert eval(repr(chain), {"compose": compose, "Step": Step, "jaxcnn": jaxcnn}) == chain
    assert pickle.loads(pickle.dumps(chain)) == chain


def test_equal_compositions_are_compiled_once(image):
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def run(chain, key):
        traces.append(chain)
        return chain(key, {"image": image})

    for seed in range(3):
        run(compose(Step(shift, max_shift=2), Step(flip)), jax.random.key(seed))
    assert len(traces) == 1


def test_steps_are_applied_in_order_each_with_its_own_key(image, key):
    first, second = Step(noise, std=0.1), Step(shift, max_shift=2)
    expected = shift(jax.random.fold_in(key, 1), noise(jax.random.fold_in(key, 0), image, 0.1), 2)
    np.testing.assert_array_equal(compose(first, second)(key, {"image": image})["image"], expected)


def test_equal_steps_draw_differently(image):
    once = draw(compose(Step(brightness, max_delta=0.2)), jnp.full((2, 2, 1), 0.5), 50)[:, 0, 0, 0] - 0.5
    twice = draw(compose(*[Step(brightness, max_delta=0.2)] * 2), jnp.full((2, 2, 1), 0.5), 50)[:, 0, 0, 0] - 0.5
    assert np.abs(twice - 2 * once).min() > 1e-4


def test_a_batch_is_augmented_image_by_image(image):
    chain = jax.jit(compose(Step(shift, max_shift=2), Step(cutout, size=3)))
    batch = jnp.stack([image, image[::-1], image])
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.vmap(chain)(keys, {"image": batch})["image"]
    for one, single, result in zip(keys, batch, together, strict=True):
        np.testing.assert_array_equal(chain(one, {"image": single})["image"], result)
    assert not np.array_equal(together[0], together[2])


def test_a_failure_names_its_step(key):
    chain = compose(Step(flip), Step(cutout, size=50))
    with pytest.raises(ValueError, match="cutout expects size") as caught:
        chain(key, {"image": jnp.zeros((7, 9, 3))})
    assert caught.value.__notes__ == ["in augmentation step 1: Step(jaxcnn.data.cutout, size=50)"]


def test_an_option_that_the_function_lacks_is_refused():
    with pytest.raises(
        TypeError,
        match=r"shift takes the options \['max_shift', 'fill', 'mask_fill', 'least_visible'\], got .*: missing",
    ):
        Step(shift, max_shfit=2)


def test_an_option_that_is_missing_is_refused():
    with pytest.raises(TypeError, match=r"got \[\]: missing a required.*'max_shift'"):
        Step(shift)


def test_an_option_that_cannot_be_hashed_is_refused():
    with pytest.raises(TypeError, match=r"Step expects hashable options, got max_shift=\[2\]"):
        Step(shift, max_shift=[2])


@pytest.mark.parametrize("make", [lambda: lambda key, image: image, lambda: functools.partial(shift, max_shift=2)])
def test_a_function_that_is_no_value_is_refused(make):
    with pytest.raises(ValueError, match="Step expects a function defined at the top of a module, got"):
        Step(make())


def test_a_nested_function_is_refused():
    def local(key, image):
        return image

    with pytest.raises(ValueError, match=r"defined at the top of a module, got .*local"):
        Step(local)


def test_only_steps_are_composed():
    with pytest.raises(TypeError, match=r"compose expects steps, as Step\(shift, max_shift=2\), got <function flip"):
        compose(flip)


GEOMETRIC = [
    Step(random_resized_crop, scale=(0.3, 1)),
    Step(perspective, probability=1, distortion=0.4),
    Step(shift, max_shift=3),
    Step(random_crop, padding=3),
    Step(random_crop, padding=3, border="edge"),
    Step(random_crop, padding=3, border="reflect"),
    Step(flip),
    Step(flip, axis="vertical"),
    Step(affine, max_degrees=40, max_scale=0.3, max_shear=20, max_shift=3),
    Step(rotate, max_degrees=90),
    Step(elastic, alpha=20, sigma=2),
    compose(Step(flip), Step(rotate, max_degrees=20), Step(shift, max_shift=2)),
]
FIXED = [
    Step(brightness, max_delta=0.5),
    Step(contrast, max_factor=0.5),
    Step(noise, std=0.2),
    Step(cutout, size=5),
]


def draw_examples(step, example, count=40):
    keys = jax.random.split(jax.random.key(5), count)
    drawn = jax.jit(jax.vmap(lambda key: step(key, example)))(keys)
    return {name: np.asarray(array) for name, array in drawn.items()}


def filled(step, fill, mask_fill):
    """The step with these values where new pixels come into view."""
    if isinstance(step, Composition):
        return compose(*[filled(one, fill, mask_fill) for one in step.steps])
    takes_fill = step.function in (shift, affine, rotate, elastic, perspective)
    given = {"fill": fill} if takes_fill else {}
    return (
        Step(step.function, **dict(step.options), **given, mask_fill=mask_fill) if step.function is not noise else step
    )


def is_flip(step):
    return isinstance(step, Step) and step.function is flip


@pytest.mark.parametrize("step", GEOMETRIC, ids=repr)
def test_a_mask_moves_as_its_image(step):
    """Blocks of two classes: where no interpolation mixes them, the image of a mask is the mask of the image."""
    blocks = np.kron(np.random.default_rng(1).integers(0, 2, (3, 4)), np.ones((6, 6))).astype(np.uint8)
    crop = isinstance(step, Step) and step.function is random_crop
    outside = 0 if crop else 7
    example = {"image": jnp.asarray(blocks[..., None], jnp.float32), "mask": jnp.asarray(blocks)}
    drawn = draw_examples(filled(step, float(outside), outside), example)
    image, mask = drawn["image"][..., 0], drawn["mask"]
    assert mask.dtype == np.uint8
    pure = np.zeros(image.shape, bool)
    for value in (0, 1, outside):
        close = np.abs(image - value) < 1e-4
        pure |= close
        # 7 can be mixed to 1 or 0 only if no other class is near.
        np.testing.assert_array_equal(mask[close], value)
    assert pure.mean() > 0.5
    assert len({one.tobytes() for one in mask}) > (1 if is_flip(step) else 10)


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("step", GEOMETRIC[1:-1], ids=repr)
def test_every_pixel_of_a_mask_is_the_one_nearest_to_where_its_image_was_read(step):
    height, width = 17, 23
    mask = np.random.default_rng(2).permutation(height * width).reshape(height, width).astype(np.int32)
    image = jnp.concatenate([ramps(height, width), jnp.ones((height, width, 1))], axis=2)
    drawn = draw_examples(filled(step, -50.0, 1000), {"image": image, "mask": jnp.asarray(mask)})
    rows, columns, inside = np.moveaxis(drawn["image"], 3, 0)
    inside = np.abs(inside - 1) < 1e-6
    # Rounding decides about what lies in the middle between two pixels.
    sure = inside & (np.abs(rows % 1 - 0.5) > 1e-3) & (np.abs(columns % 1 - 0.5) > 1e-3)
    if step.function is random_crop and "border" not in dict(step.options):
        sure &= drawn["mask"] != 1000  # a crop pads the image with zeros
    nearest = mask[np.rint(rows).astype(int).clip(0, height - 1), np.rint(columns).astype(int).clip(0, width - 1)]
    np.testing.assert_array_equal(drawn["mask"][sure], nearest[sure])
    assert sure.mean() > 0.4


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("step", GEOMETRIC, ids=repr)
def test_what_comes_into_view_belongs_to_no_class_unless_told_otherwise(step):
    example = {"image": jnp.ones((12, 14, 1)), "mask": jnp.ones((12, 14), jnp.int32)}
    for mask_fill, expected in ((None, 255), (3, 3)):
        chosen = step if mask_fill is None else filled(step, 0.0, mask_fill)
        drawn = draw_examples(chosen, example)
        outside = drawn["mask"] != 1
        np.testing.assert_array_equal(drawn["mask"][outside], expected)
        keeps_all = is_flip(step) or (
            isinstance(step, Step) and (step.function is random_resized_crop or "border" in dict(step.options))
        )
        assert outside.any() != keeps_all


@pytest.mark.parametrize("step", FIXED, ids=repr)
def test_changes_of_colour_leave_the_mask(step, image):
    mask = jnp.asarray(np.random.default_rng(0).integers(0, 5, (7, 9)), jnp.uint8)
    drawn = draw_examples(step, {"image": image, "mask": mask}, 10)
    np.testing.assert_array_equal(drawn["mask"], np.stack([mask] * 10))
    assert (drawn["image"] != np.asarray(image)).any()


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("step", [*GEOMETRIC, *FIXED], ids=repr)
def test_the_image_does_not_depend_on_other_entries_which_stay(step, image):
    others = {"label": jnp.int32(3), "target": jnp.linspace(0, 1, 5), "weight": jnp.float32(0.5)}
    alone = draw_examples(step, {"image": image}, 10)
    assert set(alone) == {"image"}
    whole = draw_examples(step, {"image": image, "mask": jnp.zeros((7, 9), jnp.uint8), **others}, 10)
    np.testing.assert_array_equal(whole["image"], alone["image"])
    assert set(whole) == {"image", "mask", *others}
    for name, value in others.items():
        np.testing.assert_array_equal(whole[name], np.stack([value] * 10))
        assert whole[name].dtype == value.dtype


def unmarked(key, image):
    return image[::-1]


def draw_upside_down(key, height, width, *, probability):
    return Mirror(jax.random.bernoulli(key, probability), 0)


@geometric(draw_upside_down)
def upside_down(key, image, *, probability):
    return draw_upside_down(key, *image.shape[:2], probability=probability).image(image, 0)


@photometric
def negative(key, image):
    return 1 - image


def test_own_functions_are_marked_before_they_change_an_example_with_a_mask(image, key):
    mask = jnp.arange(63).reshape(7, 9)
    np.testing.assert_array_equal(Step(unmarked)(key, {"image": image})["image"], image[::-1])
    with pytest.raises(
        ValueError, match=r"does not know whether unmarked moves pixels, got an example with \['mask'\]"
    ):
        Step(unmarked)(key, {"image": image, "mask": mask})
    turned = Step(upside_down, probability=1.0)(key, {"image": image, "mask": mask})
    np.testing.assert_array_equal(turned["image"], image[::-1])
    np.testing.assert_array_equal(turned["mask"], mask[::-1])
    with pytest.raises(ValueError, match="upside_down moves pixels, but not 'proposals'"):
        Step(upside_down, probability=1.0)(key, {"image": image, "proposals": jnp.zeros((2, 4))})
    inverted = Step(negative)(key, {"image": image, "mask": mask})
    np.testing.assert_array_equal(inverted["image"], 1 - image)
    np.testing.assert_array_equal(inverted["mask"], mask)


OBJECT = {"boxes": jnp.zeros((1, 4)), "valid": jnp.zeros(1, bool)}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mask": jnp.zeros((9, 7), int)}, ValueError, r"mask as large as the image, got \(9, 7\) and \(7, 9, 2\)"),
        ({"mask": jnp.zeros((7, 9, 1), int)}, ValueError, r"mask as large as the image, got \(7, 9, 1\) and"),
        ({"mask": jnp.zeros((7, 9))}, TypeError, "flip expects a mask of integers, the class of each pixel, got float"),
        ({"masks": jnp.zeros((3, 7, 9), bool)}, ValueError, "flip expects 'boxes' beside 'masks', got none"),
        (
            {**OBJECT, "masks": jnp.zeros((1, 7, 9))},
            TypeError,
            "flip expects masks of bool, one for each box, got float",
        ),
        (
            {**OBJECT, "masks": jnp.zeros((1, 9, 7), bool)},
            ValueError,
            r"flip expects 'masks' of shape \(1, 7, 9\), got \(1, 9, 7\)",
        ),
        (
            {**OBJECT, "classes": jnp.zeros((2,), int)},
            ValueError,
            r"flip expects 'classes' of shape \(1,\), got \(2,\)",
        ),
        ({"boxes": jnp.zeros((3, 4))}, ValueError, "expects 'valid' beside 'boxes', since a box may leave the image"),
        ({"boxes": jnp.zeros((3, 4), int)}, TypeError, "flip expects boxes of floating point, in pixels, got int"),
        ({"boxes": jnp.zeros((4,))}, ValueError, r"flip expects boxes of shape \(boxes, 4\), got \(4,\)"),
        (
            {"boxes": jnp.zeros((3, 4)), "valid": jnp.zeros(3)},
            ValueError,
            r"flip expects 'valid' of bool, shape \(3,\), got float32 \(3,\)",
        ),
    ],
)
def test_examples_that_cannot_be_changed_are_refused(change, error, message, image, key):
    with pytest.raises(error, match=message):
        Step(flip)(key, {"image": image, **change})


def test_an_image_alone_is_no_example(image, key):
    with pytest.raises(TypeError, match=r'Step of flip expects an example such as \{"image": image\}, got ArrayImpl'):
        Step(flip)(key, image)
    with pytest.raises(ValueError, match="Step of flip expects an example with 'image', got 'mask'"):
        Step(flip)(key, {"mask": jnp.zeros((7, 9), int)})


@pytest.mark.parametrize("bad", [-1, 0.5, True, None])
def test_a_fill_that_is_no_class_is_refused(bad):
    with pytest.raises(ValueError, match=f"mask_fill, a class index of at least 0, got {bad}"):
        Step(shift, max_shift=2, mask_fill=bad)
    with pytest.raises(TypeError, match=r"noise takes the options \['std'\], got \['std', 'mask_fill'\]"):
        Step(noise, std=0.1, mask_fill=0)


@pytest.mark.parametrize("bad", [-0.1, 1.5, True, None])
def test_a_part_of_a_box_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match=f"least_visible, the part of a box, in .0, 1., got {bad}"):
        Step(shift, max_shift=2, least_visible=bad)


CHECKSUMS = """
import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
import jax
import test_augment
print(test_augment.checksums())
"""


def checksums():
    """A checksum of what each augmentation makes of a batch."""
    images = np.random.default_rng(0).uniform(size=(32, 61, 47, 3)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), len(images))

    def changed(step):
        return jax.jit(jax.vmap(step))(keys, {"image": images})["image"]

    return [hashlib.md5(np.asarray(changed(step)).tobytes()).hexdigest() for step in STRONG]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not bind processes to cores")
def test_augmented_images_are_the_same_bytes_on_one_core_as_on_all():
    def printed(cores):
        # Compiled as users' programs are: see tests/conftest.py.
        environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": ""}
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(jaxcnn.__file__).parents[1]), str(Path(__file__).parent)])
        command = [sys.executable, "-c", CHECKSUMS, str(cores)]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout

    assert printed(1) == printed(len(os.sched_getaffinity(0)))
