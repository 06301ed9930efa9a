"""First parameters: the numbers of jax.random, whichever way they are drawn, and few programs to draw them."""

import functools
import logging
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import initializers

from jaxcnn.layers import Conv, Initializer
from jaxcnn.layers.drawing import draw, split_key
from jaxcnn.models import mobilenet_v2, resnet50

INITIALIZERS = {
    "normal": (initializers.normal, {}),
    "normal, wide": (initializers.normal, {"stddev": 0.3}),
    "lecun_normal": (initializers.lecun_normal, {}),
    "he_normal": (initializers.he_normal, {}),
    "glorot_normal": (initializers.glorot_normal, {}),
    "lecun_uniform": (initializers.lecun_uniform, {}),
    "he_uniform": (initializers.he_uniform, {}),
    "glorot_uniform": (initializers.glorot_uniform, {}),
    "scaling": (initializers.variance_scaling, {"scale": 2.0, "mode": "fan_out", "distribution": "normal"}),
    "scaling, uniform": (initializers.variance_scaling, {"scale": 0.3, "mode": "fan_in", "distribution": "uniform"}),
    "geometric mean": (initializers.variance_scaling, {"scale": 1.0, "mode": "fan_geo_avg", "distribution": "normal"}),
    # Left to jax.nn.initializers.
    "orthogonal": (initializers.orthogonal, {}),
    "uniform": (initializers.uniform, {"scale": 0.1}),
    "scaling of other axes": (initializers.he_normal, {"in_axis": 0, "out_axis": 1}),
}


SHAPES = [(3, 3, 16, 40), (1, 1, 300, 200), (7, 5)]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        # By default each with one shape, and each shape with four initializers or five.
        pytest.param(name, shape, marks=[] if n == i % len(SHAPES) else [pytest.mark.slow, pytest.mark.heavy])
        for i, name in enumerate(INITIALIZERS)
        for n, shape in enumerate(SHAPES)
    ],
    ids=str,
)
def test_the_numbers_are_those_of_jax_eager_compiled_and_mapped(name, shape):
    function, options = INITIALIZERS[name]
    initializer = Initializer(function, **options)
    keys = jax.random.split(jax.random.key(7), 2)

    def expected(key):
        return function(**options)(key, shape, jnp.float32)

    drawn = [draw(initializer, key, shape) for key in keys]
    compiled = jax.jit(functools.partial(draw, initializer, shape=shape))
    mapped = jax.vmap(functools.partial(draw, initializer, shape=shape))(keys)
    for one, joint, key in zip(drawn, mapped, keys, strict=True):
        assert one.dtype == jnp.float32
        # Versions of jax differ in where they round the factor.
        np.testing.assert_allclose(one, expected(key), rtol=3e-7)
        np.testing.assert_array_equal(one, compiled(key))
        if name == "orthogonal":
            np.testing.assert_allclose(one, joint, atol=1e-6)
        else:
            np.testing.assert_array_equal(one, joint)


@pytest.mark.parametrize("n", [1, 2, 7, 64, 65, 200])
def test_split_keys_are_those_of_jax(n, key):
    ours, theirs = split_key(key, n), jax.random.split(key, n)
    assert len(ours) == n
    assert all(one == other for one, other in zip(ours, theirs, strict=True))


def test_a_layer_of_no_parts_needs_no_keys(key):
    assert split_key(key, 0) == []


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_keys_of_another_kind_draw_what_jax_draws(impl):
    key = jax.random.key(0, impl=impl)
    expected = initializers.he_normal()(key, (3, 3, 8, 8), jnp.float32)
    np.testing.assert_array_equal(draw(Initializer(initializers.he_normal), key, (3, 3, 8, 8)), expected)
    assert all(one == other for one, other in zip(split_key(key, 3), jax.random.split(key, 3), strict=True))


def test_numbers_that_depend_on_the_size_of_their_array_are_left_to_jax(key):
    with jax.threefry_partitionable(False):
        expected = initializers.he_normal()(key, (3, 3, 8, 8), jnp.float32)
        np.testing.assert_array_equal(draw(Initializer(initializers.he_normal), key, (3, 3, 8, 8)), expected)


@pytest.mark.parametrize("model", [pytest.param(resnet50, marks=pytest.mark.slow), mobilenet_v2])
def test_the_parameters_of_a_model_are_drawn_by_a_few_programs(model, key, caplog):
    layer = model(num_classes=7)
    jax.clear_caches()
    with jax.log_compiles(True), caplog.at_level(logging.WARNING):
        layer.init(key)
    compiled = [record.getMessage() for record in caplog.records if "Finished XLA compilation" in record.getMessage()]
    assert 1 <= len(compiled) <= 4, compiled


def test_float64_does_not_change_the_parameters(key):
    layer = Conv(3, 8)
    single, _ = layer.init(key)
    with jax.enable_x64(True):
        double, _ = layer.init(key)
    assert jax.tree.map(lambda x: x.dtype, double) == jax.tree.map(lambda x: x.dtype, single)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), single, double))


CLOSED_OVER = {
    "jit": lambda draw: jax.jit(draw)(),
    "scan": lambda draw: jax.tree.map(
        lambda x: x[0], jax.lax.scan(lambda carry, _: (carry, draw()), None, None, length=1)[1]
    ),
    "checkpoint": lambda draw: jax.jit(jax.checkpoint(draw))(),
    "vmap": lambda draw: jax.tree.map(lambda x: x[0], jax.vmap(lambda _: draw())(jnp.zeros(2))),
}


@pytest.mark.parametrize("name", CLOSED_OVER)
def test_a_key_from_outside_of_a_traced_function_draws_the_same(name, key):
    layer = Conv(3, 8)
    drawn, expected = CLOSED_OVER[name](lambda: layer.init(key)), layer.init(key)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), drawn, expected))
    assert jax.tree.structure(jax.eval_shape(lambda: layer.init(key))) == jax.tree.structure(expected)


def test_parameters_are_drawn_without_implicit_transfers(key):
    with jax.transfer_guard("disallow"):
        Conv(3, 8).init(key)


DEVICES = """
import jax
from jaxcnn.layers import BatchNorm, Conv, LayerScale, Sequential
layer = Sequential(conv=Conv(3, 4), norm=BatchNorm(4), scale=LayerScale(4))
first, second = jax.devices()
for key in (jax.random.key(0), jax.device_put(jax.random.key(0), second)):
    for leaf in jax.tree.leaves(layer.init(key)):
        assert leaf.devices() == key.devices() and leaf.committed == key.committed, (leaf, key.devices())
with jax.default_device(second):
    assert {d for leaf in jax.tree.leaves(layer.init(jax.random.key(0))) for d in leaf.devices()} == {second}
"""


@pytest.mark.slow
@pytest.mark.heavy
def test_parameters_are_on_the_device_of_their_key():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run([sys.executable, "-c", DEVICES], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
