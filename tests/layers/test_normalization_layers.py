import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jaxcnn import batched
from jaxcnn.layers import BatchNorm, GroupNorm, Initializer, LayerNorm

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(3, 4, 5, 2)) * [1, 10] + [3, -20]
PARAMS = {"scale": RNG.normal(size=2), "bias": RNG.normal(size=2)}
STATE = {"mean": RNG.normal(size=2), "var": RNG.uniform(1, 2, 2)}


def moments(images):
    """Returns mean and biased variance of each channel, and how many values they are of."""
    pixels = images.reshape(-1, images.shape[-1])
    return pixels.sum(0) / len(pixels), ((pixels - pixels.mean(0)) ** 2).sum(0) / len(pixels), len(pixels)


def chosen(use_scale, use_bias):
    return {name: PARAMS[name] for name, use in (("scale", use_scale), ("bias", use_bias)) if use}


# Batch normalisation


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("use_scale", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("shape", [(3, 4, 5, 2), (30, 2)])
def test_in_training_the_moments_of_the_batch_normalise(shape, use_scale, use_bias):
    layer = BatchNorm(2, epsilon=0.1, use_scale=use_scale, use_bias=use_bias)
    images, params = IMAGES.reshape(-1)[: np.prod(shape)].reshape(shape), chosen(use_scale, use_bias)
    y, _ = batched(layer)(params, STATE, jnp.asarray(images), train=True)
    mean, var, _ = moments(images)
    expected = reference.normalize(images, mean, var, **params, epsilon=0.1)
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_in_evaluation_the_running_moments_normalise():
    y, state = batched(BatchNorm(2, epsilon=0.1))(PARAMS, STATE, jnp.asarray(IMAGES), train=False)
    expected = reference.normalize(IMAGES, STATE["mean"], STATE["var"], **PARAMS, epsilon=0.1)
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    assert all(state[name] is STATE[name] for name in STATE)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("unbiased", [False, True])
def test_running_moments_move_towards_those_of_the_batches(decay, unbiased):
    layer, state, expected = BatchNorm(2, decay=decay, unbiased=unbiased), STATE, dict(STATE)
    for i in range(3):
        images = IMAGES * (i + 1) + i
        _, state = batched(layer)(PARAMS, state, jnp.asarray(images), train=True)
        mean, var, count = moments(images)
        var = var * count / (count - 1) if unbiased else var
        expected = {
            "mean": decay * expected["mean"] + (1 - decay) * mean,
            "var": decay * expected["var"] + (1 - decay) * var,
        }
        for name in expected:
            np.testing.assert_allclose(state[name], expected[name], rtol=1e-10)


def test_a_golden_step():
    # One channel, four values 1, 3, 5, 7: mean 4, variance 5, as a sample 20/3.
    layer = BatchNorm(1, decay=0.75, epsilon=0.0)
    params, state = layer.init(jax.random.key(0))
    y, state = batched(layer)(params, state, jnp.array([[[[1.0], [3.0]]], [[[5.0], [7.0]]]]), train=True)
    np.testing.assert_allclose(y.ravel(), np.array([-3, -1, 1, 3]) / np.sqrt(5), rtol=1e-6)
    np.testing.assert_allclose(state["mean"], [0.75 * 0 + 0.25 * 4], rtol=1e-6)
    np.testing.assert_allclose(state["var"], [0.75 * 1 + 0.25 * 20 / 3], rtol=1e-6)


def test_the_initial_running_moments_change_nothing(key):
    params, state = BatchNorm(2, epsilon=0.0).init(key)
    assert {name: leaf.tolist() for name, leaf in params.items()} == {"scale": [1, 1], "bias": [0, 0]}
    assert {name: leaf.tolist() for name, leaf in state.items()} == {"mean": [0, 0], "var": [1, 1]}
    x = jnp.asarray(IMAGES[0], jnp.float32)
    np.testing.assert_array_equal(BatchNorm(2, epsilon=0.0).apply(params, state, x, train=False)[0], x)


@pytest.mark.usefixtures("float64")
def test_the_gradient_goes_through_the_moments():
    layer, weights = BatchNorm(2, epsilon=0.1), np.random.default_rng(1).normal(size=IMAGES.shape)

    def loss(images):
        return jnp.sum(weights * batched(layer)(PARAMS, STATE, images, train=True)[0])

    def loops(images):
        mean, var, _ = moments(images)
        return np.sum(weights * reference.normalize(images, mean, var, **PARAMS, epsilon=0.1))

    direction = np.random.default_rng(2).normal(size=IMAGES.shape)
    expected = reference.directional_derivative(loops, IMAGES, direction, step=1e-5)
    np.testing.assert_allclose(np.sum(jax.grad(loss)(jnp.asarray(IMAGES)) * direction), expected, rtol=1e-6)


def test_no_gradient_flows_into_the_running_moments():
    def running(images):
        _, state = batched(BatchNorm(2))(PARAMS, jax.tree.map(jnp.asarray, STATE), images, train=True)
        return jnp.sum(state["mean"]) + jnp.sum(state["var"])

    with jax.enable_x64(True):
        np.testing.assert_array_equal(jax.grad(running)(jnp.asarray(IMAGES)), 0)


def test_moments_are_float32_for_images_of_low_precision():
    # 256 + 1/4 is 256 in bfloat16: moments in that precision would find no variance.
    images = jnp.asarray(np.arange(64).reshape(4, 4, 4, 1) % 2 + 256, jnp.bfloat16)
    layer = BatchNorm(1, decay=0.0, unbiased=False)
    params, state = layer.init(jax.random.key(0))
    y, new_state = batched(layer)(params, state, images, train=True)
    pixels = np.asarray(images, np.float64)
    assert y.dtype == jnp.bfloat16
    assert new_state["mean"].dtype == new_state["var"].dtype == jnp.float32
    np.testing.assert_allclose(new_state["mean"], pixels.mean(), rtol=1e-6)
    np.testing.assert_allclose(new_state["var"], pixels.var(), atol=1e-3)


def test_another_name_for_the_batch_axis():
    layer = BatchNorm(2, axis_name="examples")
    params, state = layer.init(jax.random.key(0))
    images = jnp.asarray(IMAGES, jnp.float32)
    y, _ = batched(layer, axis_name="examples")(params, state, images, train=True)
    expected, _ = batched(BatchNorm(2))(params, state, images, train=True)
    np.testing.assert_array_equal(y, expected)
    with pytest.raises(ValueError, match=r"a jax\.vmap with axis_name='examples', got one image"):
        batched(layer)(params, state, images, train=True)


def test_training_on_one_image_without_a_batch_is_refused(key):
    layer = BatchNorm(2)
    with pytest.raises(ValueError, match=r"axis_name='batch', got one image; use jaxcnn.batched, or train=False"):
        layer.apply(*layer.init(key), jnp.ones((4, 5, 2)), train=True)


def test_a_batch_without_variance_is_refused(key):
    layer = BatchNorm(2)
    with pytest.raises(ValueError, match="at least two values of each channel in training, got a batch of one value"):
        batched(layer)(*layer.init(key), jnp.ones((1, 1, 1, 2)), train=True)


def test_one_image_of_several_pixels_is_a_batch(key):
    layer = BatchNorm(2, decay=0.0)
    _, state = batched(layer)(*layer.init(key), jnp.asarray(IMAGES[:1], jnp.float32), train=True)
    np.testing.assert_allclose(state["mean"], IMAGES[0].mean((0, 1)), rtol=1e-5)


SYNCHRONISED = """
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcnn import batched
from jaxcnn.layers import BatchNorm

jax.config.update("jax_enable_x64", True)
assert jax.device_count() == 4
rng = np.random.default_rng(0)
# Each device's share has moments of its own.
images = rng.normal(size=(8, 3, 5, 2)) + np.repeat(np.arange(4.0) ** 2, 2)[:, None, None, None]
weights = rng.normal(size=images.shape)
params = {"scale": rng.normal(size=2), "bias": rng.normal(size=2)}
state = {"mean": rng.normal(size=2), "var": rng.uniform(1, 2, 2)}


@jax.jit
def step(params, state, images):
    def loss(params, images):
        outputs, new_state = batched(BatchNorm(2))(params, state, images, train=True)
        return jnp.sum(weights * outputs), (outputs, new_state)

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, images)


mesh = Mesh(np.array(jax.devices()), "device")
sharded = jax.device_put(images, NamedSharding(mesh, PartitionSpec("device")))
shared = jax.device_put((params, state), NamedSharding(mesh, PartitionSpec()))
results = step(*shared, sharded)
assert len(results[1][0].sharding.device_set) == 4
assert not results[1][0].sharding.is_fully_replicated
expected = step(params, state, images)
assert len(expected[1][0].sharding.device_set) == 1
for got, want in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)

pixels = images.reshape(-1, 2)
np.testing.assert_allclose(results[1][1]["mean"], 0.9 * state["mean"] + 0.1 * pixels.mean(0), rtol=1e-9)
np.testing.assert_allclose(results[1][1]["var"], 0.9 * state["var"] + 0.1 * pixels.var(0, ddof=1), rtol=1e-9)
"""


def test_a_batch_sharded_over_devices_is_normalised_as_one():
    # The number of devices is fixed once jax has started, hence the process of its own.
    environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    subprocess.run([sys.executable, "-c", SYNCHRONISED], check=True, env={**os.environ, **environment})


# Group and layer normalisation


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("num_groups", [1, 2, 3, 6])
@pytest.mark.parametrize(("use_scale", "use_bias"), [(True, True), (False, True), (True, False), (False, False)])
def test_group_norm_normalises_groups_of_channels(num_groups, use_scale, use_bias):
    rng = np.random.default_rng(0)
    layer = GroupNorm(6, num_groups, epsilon=0.1, use_scale=use_scale, use_bias=use_bias)
    params = {name: rng.normal(size=6) for name, use in (("scale", use_scale), ("bias", use_bias)) if use}
    x = rng.normal(size=(4, 5, 6)) * 3 + 1
    y, _ = layer.apply(params, {}, jnp.asarray(x), train=True)
    np.testing.assert_allclose(y, reference.group_norm(x, num_groups, **params, epsilon=0.1), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(6,), (4, 5, 6)])
@pytest.mark.parametrize(("use_scale", "use_bias"), [(True, True), (False, True), (True, False), (False, False)])
def test_layer_norm_normalises_the_channels_of_each_pixel(shape, use_scale, use_bias):
    rng = np.random.default_rng(0)
    layer = LayerNorm(6, epsilon=0.1, use_scale=use_scale, use_bias=use_bias)
    params = {name: rng.normal(size=6) for name, use in (("scale", use_scale), ("bias", use_bias)) if use}
    x = rng.normal(size=shape) * 3 + 1
    y, _ = layer.apply(params, {}, jnp.asarray(x), train=True)
    np.testing.assert_allclose(y, reference.layer_norm(x, **params, epsilon=0.1), rtol=1e-9, atol=1e-9)


def test_defaults_are_those_of_the_field():
    assert (BatchNorm(2).decay, BatchNorm(2).epsilon, BatchNorm(2).unbiased) == (0.9, 1e-5, True)
    assert (GroupNorm(32).num_groups, GroupNorm(32).epsilon) == (32, 1e-5)
    assert LayerNorm(2).epsilon == 1e-6


# All three


LAYERS = pytest.mark.parametrize("layer", [BatchNorm, GroupNorm, LayerNorm])


def build(layer, channels, **options):
    return layer(channels, **({"num_groups": 1} if layer is GroupNorm else {}), **options)


@LAYERS
@pytest.mark.parametrize(("use_scale", "use_bias"), [(True, True), (False, True), (True, False), (False, False)])
def test_only_what_is_used_is_drawn(key, layer, use_scale, use_bias):
    params, _ = build(layer, 2, use_scale=use_scale, use_bias=use_bias).init(key)
    expected = {"scale": [1, 1], "bias": [0, 0]}
    assert {name: leaf.tolist() for name, leaf in params.items()} == {
        name: expected[name] for name in chosen(use_scale, use_bias)
    }


@LAYERS
def test_other_initializers_are_used(key, layer):
    normal = Initializer(jax.nn.initializers.normal)
    params, _ = build(layer, 2, scale_init=jax.nn.initializers.zeros, bias_init=jax.nn.initializers.ones).init(key)
    assert {name: leaf.tolist() for name, leaf in params.items()} == {"scale": [0, 0], "bias": [1, 1]}
    params, _ = build(layer, 2, scale_init=normal, bias_init=normal).init(key)
    assert (params["scale"] != params["bias"]).all()


@LAYERS
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "expects channels to be an int of at least 1, got 0"),
        ({"epsilon": -1e-5}, "expects a finite epsilon of at least 0, got -1e-05"),
        ({"epsilon": float("nan")}, "expects a finite epsilon of at least 0, got nan"),
        ({"epsilon": float("inf")}, "expects a finite epsilon of at least 0, got inf"),
    ],
)
def test_nonsense_is_refused(layer, options, message):
    with pytest.raises(ValueError, match=f"{layer.__name__} {message}"):
        build(layer, **{"channels": 2, **options})


@pytest.mark.parametrize("decay", [1.5, -0.1, float("nan"), 2])
def test_batch_norm_refuses_a_decay_that_is_none(decay):
    with pytest.raises(ValueError, match=rf"BatchNorm expects a decay in \[0, 1\], got {decay}"):
        BatchNorm(2, decay=decay)


@pytest.mark.parametrize(
    ("groups", "message"),
    [(4, "num_groups to divide the 6 channels, got 4"), (0, "num_groups to be an int of at least 1, got 0")],
)
def test_group_norm_refuses_groups_that_do_not_divide(groups, message):
    with pytest.raises(ValueError, match=message):
        GroupNorm(6, groups)


@LAYERS
@pytest.mark.parametrize("train", [False, True])
def test_images_of_other_channels_are_refused(key, layer, train):
    norm = build(layer, 2)
    message = r"of shape \(3,\), one for each channel, got \(2,\)|expects 2 channels .* got shape \(4, 5, 3\)"
    with pytest.raises(ValueError, match=message):
        batched(norm)(*norm.init(key), jnp.ones((2, 4, 5, 3)), train=train)


@LAYERS
def test_other_parameters_are_refused(key, layer):
    _, state = build(layer, 2).init(key)
    with pytest.raises(
        ValueError, match=rf"{layer.__name__} parameters: expected .* \('scale', 'bias'\), got \('bias',"
    ):
        build(layer, 2).apply({"bias": jnp.ones(2)}, state, jnp.ones((4, 5, 2)), train=False)


def test_batch_norm_refuses_another_state(key):
    params, _ = BatchNorm(2).init(key)
    with pytest.raises(ValueError, match=r"BatchNorm state: expected a dict of the names \('mean', 'var'\), got \(\)"):
        BatchNorm(2).apply(params, {}, jnp.ones((4, 5, 2)), train=False)
