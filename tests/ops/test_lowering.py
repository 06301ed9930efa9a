"""The convolution primitives against XLA's own convolution: values, every derivative, every transformation."""

import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax import lax

from jaxcnn import ops
from jaxcnn.ops import lowering
from jaxcnn.ops.lowering import Geometry, cpu_jax, native, xla

HEAVY = [pytest.mark.slow, pytest.mark.heavy]


def draw_problem(seed):
    """Draws images, a kernel, a geometry and weights of the output: dense, grouped, depthwise, with a multiplier."""
    rng = np.random.default_rng(seed)
    groups, inputs, outputs = (int(n) for n in (rng.choice([1, 1, 2, 4]), *rng.integers(1, 4, 2)))
    if seed % 3 == 0:
        groups, inputs = int(rng.integers(2, 5)), 1
    window = (1, 1) if seed % 5 == 0 else tuple(int(n) for n in rng.integers(1, 4, 2))
    strides, dilation = (tuple(int(n) for n in rng.integers(1, high, 2)) for high in (4, 3))
    padding = tuple(tuple(int(n) for n in rng.integers(-1, 3, 2)) for _ in range(2))
    geometry = Geometry(strides, ((0, 0), (0, 0)) if seed % 5 == 0 else padding, dilation, groups)
    images, height, width = (int(n) for n in (rng.integers(1, 4), *rng.integers(7, 11, 2)))
    x = rng.standard_normal((images, height, width, groups * inputs))
    kernel = rng.standard_normal((*window, inputs, groups * outputs))
    size = reference.conv_output_size((height, width), window, strides, geometry.padding, dilation)
    weights = rng.standard_normal((images, *size, groups * outputs))
    return jnp.asarray(x), jnp.asarray(kernel), geometry, jnp.asarray(weights)


def both(geometry, output_size):
    """Returns ours, and XLA's, which JAX differentiates and transforms by its own rules."""
    return (
        lambda x, kernel: lowering.convolve(x, kernel, geometry, output_size),
        lambda x, kernel: xla.convolve(x, kernel, geometry=geometry, output_size=output_size),
    )


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10 * max(1, np.abs(other).max(initial=0)))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("seed", "in_native"),
    [
        pytest.param(seed, in_native, marks=[] if seed % 3 == 0 else HEAVY)
        for in_native, count in ((True, 60), (False, 20))
        for seed in range(count)
    ],
)
def test_values_and_gradients_are_those_of_xla(seed, in_native, monkeypatch):
    if not in_native:
        monkeypatch.setattr(native, "ready", lambda: False)
    x, kernel, geometry, weights = draw_problem(seed)

    def results(convolve):
        def loss(x, kernel):
            return jnp.sum(jnp.square(convolve(x, kernel)) * weights)

        return jax.jit(lambda x, kernel: (convolve(x, kernel), jax.grad(loss, (0, 1))(x, kernel)))(x, kernel)

    ours, theirs = both(geometry, weights.shape[1:3])
    assert_same(results(ours), results(theirs))


def loss_of(convolve, weights):
    return lambda x, kernel: jnp.sum(jnp.sin(convolve(x, kernel)) * weights)


def scanned(convolve, x, kernel, weights):
    step = jax.grad(loss_of(convolve, weights), 1)
    return lax.scan(lambda k, _: (k - 0.1 * step(x, k), None), kernel, None, length=3)[0]


def hessian_product(convolve, x, kernel, weights, *, forward_first):
    gradient = jax.grad(loss_of(convolve, weights), (0, 1))
    direction = (0.3 * x, jnp.flip(kernel, 0))
    if forward_first:
        return jax.jvp(gradient, (x, kernel), direction)[1]
    return jax.grad(lambda both: sum(jnp.vdot(a, b) for a, b in zip(gradient(*both), direction, strict=True)))(
        (x, kernel)
    )


# Each takes the convolution, images, a kernel and weights.
TRANSFORMATIONS = {
    "jvp": lambda f, x, k, w: jax.jvp(f, (x, k), (0.3 * x, jnp.flip(k, 0))),
    "linearize": lambda f, x, k, w: jax.linearize(lambda x: f(x, k), x)[1](jnp.cos(x)),
    "vmap over images": lambda f, x, k, w: jax.vmap(lambda x: f(x, k), 1, 2)(jnp.stack([x, 2 * x], 1)),
    "vmap over kernels": lambda f, x, k, w: jax.vmap(lambda k: f(x, k), 2)(jnp.stack([k, 2 * k, k - 1], 2)),
    "vmap over both": lambda f, x, k, w: jax.vmap(f)(jnp.stack([x, x - 1]), jnp.stack([k, 2 * k])),
    "per-example gradients": lambda f, x, k, w: jax.vmap(lambda x, w: jax.grad(loss_of(f, w), (0, 1))(x[None], k))(
        x, w
    ),
    "gradients of an ensemble": lambda f, x, k, w: jax.vmap(lambda k: jax.grad(loss_of(f, w), (0, 1))(x, k))(
        jnp.stack([k, 2 * k, k - 1])
    ),
    "gradients of an ensemble on its own images": lambda f, x, k, w: jax.vmap(jax.grad(loss_of(f, w), (0, 1)))(
        jnp.stack([x, x - 1]), jnp.stack([k, 2 * k])
    ),
    "gradient with respect to shared images": lambda f, x, k, w: jax.vmap(
        lambda v: jax.vjp(lambda k: f(x, k), k)[1](v)[0], 3
    )(jnp.stack([w, 2 * w], 3)),
    "Hessian-vector product, forward over reverse": lambda f, x, k, w: hessian_product(f, x, k, w, forward_first=True),
    "Hessian-vector product, reverse over reverse": lambda f, x, k, w: hessian_product(f, x, k, w, forward_first=False),
    "checkpoint": lambda f, x, k, w: jax.grad(jax.checkpoint(loss_of(f, w)), (0, 1))(x, k),
    "scan": scanned,
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "seed"),
    [
        # By default each with one kind of convolution, and each kind with three transformations or four.
        pytest.param(name, seed, marks=[] if seed == i % 4 else HEAVY)
        for i, name in enumerate(TRANSFORMATIONS)
        for seed in range(4)
    ],
)
def test_transformations_are_those_of_xla(name, seed):
    x, kernel, geometry, weights = draw_problem(seed)
    functions = both(geometry, weights.shape[1:3])
    ours, theirs = (
        jax.jit(lambda x, k, w, f=f: TRANSFORMATIONS[name](f, x, k, w))(x, kernel, weights) for f in functions
    )
    assert_same(ours, theirs)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("groups", "inputs", "outputs"), [(32, 4, 4), (6, 8, 3), (5, 7, 7), (16, 2, 4)], ids=["bundles", "2", "5", "16"]
)
def test_grouped_convolutions_in_bundles_are_those_of_xla(groups, inputs, outputs):
    rng = np.random.default_rng(groups)
    geometry = Geometry((2, 1), ((1, 1), (0, 1)), (1, 1), groups)
    x = jnp.asarray(rng.standard_normal((2, 5, 4, groups * inputs)))
    kernel = jnp.asarray(rng.standard_normal((3, 2, inputs, groups * outputs)))
    for name in ("convolve", "input_gradient", "kernel_gradient"):
        y = xla.convolve(x, kernel, geometry=geometry, output_size=(3, 4))
        operands, options = {
            "convolve": ((x, kernel), {"output_size": (3, 4)}),
            "input_gradient": ((y, kernel), {"input_size": (5, 4)}),
            "kernel_gradient": ((x, y), {"kernel_size": (3, 2)}),
        }[name]
        ours, theirs = (getattr(rules, name)(*operands, geometry=geometry, **options) for rules in (cpu_jax, xla))
        assert_same(ours, theirs)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 3e-2), (jnp.float16, 4e-3)], ids=str
)
@pytest.mark.parametrize("seed", [0, 1, 3])
def test_every_dtype_stays_what_it_is(dtype, tolerance, seed):
    x, kernel, geometry, weights = draw_problem(seed)
    x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)

    def results(convolve, *operands):
        y, transpose = jax.vjp(convolve, *operands)
        return y, *transpose(y)

    ours, _ = both(geometry, weights.shape[1:3])
    exact = results(ours, x, kernel)
    for value, expected in zip(results(ours, x.astype(dtype), kernel.astype(dtype)), exact, strict=True):
        assert value.dtype == dtype
        scale = np.abs(expected).max()
        np.testing.assert_allclose(value.astype(jnp.float32), expected, rtol=0, atol=tolerance * scale)


def lowered_for(platform, groups, channels):
    """Lists the operations of a convolution's program and gradients for a platform."""
    x = jax.ShapeDtypeStruct((8, 8, channels), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, channels // groups, channels), jnp.float32)

    def loss(x, kernel):
        return jnp.sum(ops.conv(x, kernel, groups=groups) ** 2)

    exported = jax.export.export(jax.jit(jax.grad(loss, (0, 1))), platforms=[platform])(x, kernel)
    return exported.mlir_module()


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize(("groups", "channels"), [(1, 4), (4, 4), (2, 8)])
def test_accelerators_get_xlas_own_convolutions(platform, groups, channels):
    assert lowered_for(platform, groups, channels).count("stablehlo.convolution") == 3


@pytest.mark.parametrize(("groups", "channels"), [(4, 4), (64, 64)])
def test_no_depthwise_convolution_reaches_xla_on_cpu(groups, channels):
    assert "stablehlo.convolution" not in lowered_for("cpu", groups, channels)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_an_exported_convolution_of_any_batch_comes_back(groups):
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.standard_normal((3, 3, 6 // groups, 6)), jnp.float32)

    def features(images):
        return jax.vmap(lambda image: ops.conv(image, kernel, strides=2, groups=groups))(images)

    pytest.importorskip("flatbuffers")
    (batch,) = jax.export.symbolic_shape("batch")
    exported = jax.export.export(jax.jit(features))(jax.ShapeDtypeStruct((batch, 9, 8, 6), jnp.float32))
    again = jax.export.deserialize(exported.serialize())
    for size in (1, 3):
        images = jnp.asarray(rng.standard_normal((size, 9, 8, 6)), jnp.float32)
        np.testing.assert_allclose(again.call(images), features(images), rtol=1e-5, atol=1e-5)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxcnn import ops

mesh = jax.make_mesh((8,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
rng = np.random.default_rng(0)
for groups, window in ((1, 3), (1, 1), (16, 3), (4, 3)):
    images = jnp.asarray(rng.standard_normal((16, 7, 7, 16)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((window, window, 16 // groups, 16)), jnp.float32)

    def loss(kernel, images):
        y = jax.vmap(lambda image: ops.conv(image, kernel, groups=groups, padding=window // 2))(images)
        return jnp.mean(y ** 2)

    step = jax.jit(jax.value_and_grad(loss))
    sharded = jax.device_put(images, NamedSharding(mesh, PartitionSpec("devices")))
    replicated = jax.device_put(kernel, NamedSharding(mesh, PartitionSpec()))
    for one, other in zip(step(replicated, sharded), step(kernel, images), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    program = step.lower(replicated, sharded).compile().as_text()
    print(groups, window, "all-gather" in program)
"""


@pytest.mark.slow
@pytest.mark.heavy
def test_a_batch_over_several_devices_is_not_gathered():
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", SHARDED],
        env={"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[:-1] == ["1 3 False", "1 1 False", "16 3 False", "4 3 False"]
