import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from box_samples import boxes

from jaxcnn import ops
from jaxcnn.ops.lowering import regions


def bilinear(image, y, x):
    """The sample of torchvision's C++ operator: 0 more than a pixel off the map."""
    height, width, channels = image.shape
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(channels)
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    upper = (1 - across) * image[top, left] + across * image[top, right]
    lower = (1 - across) * image[bottom, left] + across * image[bottom, right]
    return (1 - down) * upper + down * lower


def roi_align(image, some, bins, scale, ratio, aligned):
    result = np.zeros((len(some), *bins, image.shape[2]))
    for r, box in enumerate(some):
        x1, y1, x2, y2 = box * scale - (0.5 if aligned else 0)
        width, height = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1), max(y2 - y1, 1))
        step = height / bins[0], width / bins[1]
        number = [ratio or int(np.ceil(s)) for s in step]
        for i, j in np.ndindex(*bins):
            rows = [y1 + (i + (a + 0.5) / number[0]) * step[0] for a in range(number[0])]
            columns = [x1 + (j + (b + 0.5) / number[1]) * step[1] for b in range(number[1])]
            if rows and columns:
                result[r, i, j] = np.mean([bilinear(image, y, x) for y in rows for x in columns], axis=0)
    return result


def everywhere():
    """Boxes inside of an image of 80 x 96 pixels, across its border, far off it, empty, and larger than it."""
    special = [[-30, -30, 10, 10], [70, 60, 120, 130], [200, 200, 240, 230], [-90, 5, -40, 20], [9, 9, 9, 9]]
    special += [[5, 5, 90, 5], [-50, -60, 200, 220], [0, 0, 96, 80]]
    return np.concatenate([boxes(0, 6, size=80, largest=60), np.array(special, float)])


IMAGE = np.random.default_rng(0).normal(size=(20, 24, 3))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [1, 2, None])
def test_roi_align_equals_the_loop_on_and_off_the_map(ratio, aligned):
    options = {"spatial_scale": 0.25, "sampling_ratio": ratio, "aligned": aligned}
    some = everywhere()
    weights = np.random.default_rng(1).normal(size=(len(some), 3, 2, 3))

    def loss(image):
        y = ops.roi_align(image, some, (3, 2), **options)
        return jnp.sum(weights * y), y

    gradient, y = jax.jit(jax.grad(loss, has_aux=True))(IMAGE)
    expected = roi_align(IMAGE, some, (3, 2), 0.25, ratio, aligned)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    assert np.all(y[8] == 0), "a box far off the map"
    assert np.any(y[6] != 0)
    # The op is linear: the slope along an image is the loss of that image.
    direction = np.random.default_rng(2).normal(size=IMAGE.shape)
    slope = np.sum(weights * roi_align(direction, some, (3, 2), 0.25, ratio, aligned))
    np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-10)


def test_half_a_pixel_by_hand():
    ramp = jnp.arange(8.0)[None, :, None].repeat(8, 0)
    box = jnp.array([[2.0, 2.0, 4.0, 4.0]])
    # The middle of the box is 3 from the edge of the image: between the pixels 2 and 3, whose centres are 2.5 and 3.5.
    sample = jax.jit(functools.partial(ops.roi_align, output_shape=1, sampling_ratio=1), static_argnames="aligned")
    assert sample(ramp, box, aligned=True)[0, 0, 0, 0] == 2.5
    assert sample(ramp, box, aligned=False)[0, 0, 0, 0] == 3


def pyramid(seed=3):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(40 >> level, 48 >> level, 2)) for level in range(4))


SCALES = (0.5, 0.25, 0.125, 0.0625)
on_pyramid = functools.partial(
    ops.pyramid_roi_align,
    output_shape=(2, 3),
    spatial_scales=SCALES,
    canonical_size=20.0,
    canonical_level=3,
)


@pytest.mark.usefixtures("float64")
def test_a_pyramid_takes_the_level_of_the_size_by_the_rules_of_all_platforms():
    some = np.concatenate([everywhere(), [[3, 3, 23, 23], [10, 10, 50, 50]]])
    maps = pyramid()
    size = np.sqrt(np.maximum(some[:, 2] - some[:, 0], 0) * np.maximum(some[:, 3] - some[:, 1], 0))
    with np.errstate(divide="ignore"):
        level = np.clip(np.floor(3 + np.log2(size / 20) + 1e-6), 1, 4).astype(int) - 1
    assert set(level) == {0, 1, 2, 3}
    weights = np.random.default_rng(1).normal(size=(len(some), 2, 3, 2))
    results = {}
    for rule in ("cpu", "default"):
        # Only the rule for CPU would run here: the other one is compared with it by name.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(regions.lax, "platform_dependent", lambda *x, rule=rule, **rules: rules[rule](*x))
            results[rule] = jax.jit(jax.value_and_grad(lambda maps: loss(maps, some, weights), has_aux=True))(maps)
    for (_, y), gradients in results.values():
        for r, one in enumerate(level):
            expected = roi_align(maps[one], some[r : r + 1], (2, 3), SCALES[one], 2, False)
            np.testing.assert_allclose(y[r], expected[0], rtol=1e-12, atol=1e-12)
        slope, _ = loss(directions := pyramid(4), some, weights)
        steps = sum(np.sum(np.asarray(g) * d) for g, d in zip(gradients, directions, strict=True))
        np.testing.assert_allclose(steps, slope, rtol=1e-10)
        assert all(np.any(np.asarray(gradient) != 0) for gradient in gradients)


def loss(maps, some, weights):
    y = on_pyramid(maps, some)
    return jnp.sum(weights * y), y


@pytest.mark.parametrize("ratio", [2, None])
def test_vmap_equals_a_loop_in_values_and_gradients(ratio):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 9, 2)), jnp.float32)
    some = jnp.stack([boxes(seed, 5, size=30, dtype=np.float32) for seed in range(3)])

    @jax.jit
    def value_and_gradient(image, some):
        y, pull_back = jax.vjp(lambda x: ops.roi_align(x, some, 2, spatial_scale=0.25, sampling_ratio=ratio), image)
        return y, pull_back(y)[0]

    joint = jax.jit(jax.vmap(value_and_gradient))(images, some)
    for i in range(3):
        for all_of, one in zip(joint, value_and_gradient(images[i], some[i]), strict=True):
            np.testing.assert_allclose(all_of[i], one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ratio", [2, None])
def test_features_of_bfloat16_are_sampled_at_places_of_float32(ratio):
    image = jnp.asarray(np.random.default_rng(0).normal(size=(1, 600, 1)), jnp.bfloat16)
    # Places that bfloat16 cannot tell apart.
    some = jnp.array([[501.25, 0, 502.25, 1], [501.75, 0, 502.75, 1]], jnp.float32)
    sample = jax.jit(functools.partial(ops.roi_align, boxes=some, output_shape=1, sampling_ratio=ratio))
    y = sample(image)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, sample(image.astype(jnp.float32)).astype(jnp.bfloat16))
    assert y[0] != y[1]
    assert jax.grad(lambda x: jnp.sum(sample(x).astype(jnp.float32)))(image).dtype == jnp.bfloat16


@pytest.mark.parametrize("ratio", [2, None])
def test_padding_is_inert_and_no_boxes_give_no_regions(ratio):
    sample = functools.partial(ops.roi_align, output_shape=2, spatial_scale=0.25, sampling_ratio=ratio)
    image, some = jnp.asarray(IMAGE, jnp.float32), jnp.asarray(everywhere(), jnp.float32)
    padded = jnp.concatenate([some, jnp.zeros((5, 4)), jnp.full((1, 4), 1e9)])

    @jax.jit
    @jax.value_and_grad
    def loss(image, these):
        return jnp.sum(sample(image, these)[: len(some)] ** 2)

    results = (loss(image, these) for these in (some, padded))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert sample(image, some[:0]).shape == (0, 2, 2, 3)


MAP, BOX = jnp.zeros((4, 4, 2)), jnp.zeros((3, 4))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.roi_align(MAP[None], BOX, 2), ValueError, "roi_align expects one image of shape"),
        (lambda: ops.roi_align(MAP, BOX[None], 2), ValueError, r"expects boxes \(boxes, 4\) of one image, got"),
        (lambda: ops.roi_align(MAP, BOX, 0), ValueError, "output_shape expects an int or a pair of ints"),
        (lambda: ops.roi_align(MAP, BOX, 2, spatial_scale=0), ValueError, "finite spatial_scale above 0, got 0"),
        (lambda: ops.roi_align(MAP, BOX, 2, sampling_ratio=-1), ValueError, "of at least 1 or None, got -1"),
        (
            lambda: ops.pyramid_roi_align([MAP], BOX, 2, spatial_scales=(0.5,), sampling_ratio=0),
            ValueError,
            "expects a sampling_ratio of at least 1, got 0",
        ),
        (
            lambda: ops.pyramid_roi_align([MAP, MAP[..., :1]], BOX, 2, spatial_scales=(0.5, 0.25)),
            ValueError,
            r"maps of the same channels and dtype, at least one, got float32 \(4, 4, 2\), float32 \(4, 4, 1\)",
        ),
        (
            lambda: ops.pyramid_roi_align([MAP, MAP], BOX, 2, spatial_scales=(0.5, 0.2)),
            ValueError,
            r"for each of 2 maps, powers of 2 and each half of the one before, got \(0.5, 0.2\)",
        ),
    ],
)
def test_refuses_what_does_not_fit(call, error, message):
    with pytest.raises(error, match=message):
        call()
