"""The C++ kernels against XLA: every algorithm, when they are used and when not, and where they cannot be built."""

import functools
import os
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jaxcnn import ops
from jaxcnn.ops import lowering
from jaxcnn.ops.lowering import Geometry, native, xla
from jaxcnn.ops.lowering.native import rules

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="the C++ kernels are for CPU")


@pytest.fixture(autouse=True)
def built():
    if not native.ready():
        pytest.skip("there is no C++ compiler here")


# Images, kernel, geometry: what reaches each branch of the C++ code.
CASES = {
    "dense": ((2, 9, 11, 24), (3, 3, 24, 40), Geometry((1, 1), ((1, 1), (1, 1)))),
    "many channels": ((2, 5, 6, 130), (3, 3, 130, 70), Geometry((1, 1), ((1, 1), (1, 1)))),
    "one channel": ((3, 12, 13, 1), (5, 5, 1, 6), Geometry((1, 1), ((2, 2), (2, 2)))),
    "three channels, strided": ((2, 15, 14, 3), (7, 7, 3, 16), Geometry((2, 2), ((3, 3), (3, 3)))),
    "three channels, cropped": ((2, 15, 14, 3), (3, 4, 3, 5), Geometry((2, 1), ((-1, 2), (-2, -1)))),
    "three channels, dilated rows": ((2, 15, 14, 3), (3, 3, 3, 5), Geometry((1, 2), ((0, 1), (1, 0)), (3, 1))),
    "strided": ((2, 9, 10, 17), (3, 3, 17, 33), Geometry((2, 3), ((1, 1), (0, 1)))),
    "stride beyond the kernel": ((2, 11, 11, 16), (2, 2, 16, 16), Geometry((3, 4))),
    "dilated": ((1, 12, 12, 8), (3, 2, 8, 16), Geometry((1, 2), ((2, 2), (0, 3)), (2, 3))),
    "more padding than image": ((2, 3, 2, 9), (3, 3, 9, 10), Geometry((1, 1), ((4, 3), (3, 5)))),
    "many pixels": ((3, 25, 24, 40), (3, 2, 40, 24), Geometry((1, 1), ((1, 1), (1, 0)))),
    "many pixels, few channels": ((3, 25, 24, 16), (2, 3, 8, 16), Geometry((1, 1), ((1, 0), (1, 1)), groups=2)),
    "many pixels, strided": ((3, 33, 35, 16), (3, 3, 16, 40), Geometry((2, 3), ((1, 1), (1, 0)))),
    "many pixels, dilated": ((2, 22, 23, 17), (2, 3, 17, 24), Geometry((1, 1), ((2, 2), (0, 3)), (2, 3))),
    "many outputs": ((3, 13, 12, 20), (1, 1, 20, 150), Geometry()),
    "many outputs, grouped": ((3, 13, 12, 24), (1, 1, 12, 300), Geometry(groups=2)),
    "many outputs and taps": ((2, 12, 13, 9), (2, 2, 9, 170), Geometry((1, 1), ((1, 0), (0, 2)))),
    "a large kernel": ((2, 12, 13, 1800), (1, 1, 1800, 600), Geometry()),
    "a large kernel of more outputs": ((2, 12, 13, 600), (1, 1, 600, 1800), Geometry()),
    "one pixel": ((5, 1, 1, 16), (1, 1, 16, 24), Geometry()),
    "pointwise, strided": ((2, 7, 8, 24), (1, 1, 24, 20), Geometry((2, 2))),
    "grouped": ((2, 8, 7, 48), (3, 3, 16, 60), Geometry((1, 1), ((1, 1), (1, 1)), groups=3)),
    "many small groups": ((2, 8, 7, 48), (3, 3, 4, 24), Geometry((2, 1), ((1, 1), (1, 1)), groups=12)),
    "groups that no bundle fills": ((2, 6, 7, 21), (3, 3, 3, 14), Geometry((1, 1), ((1, 1), (1, 1)), groups=7)),
    "depthwise": ((2, 9, 19, 24), (3, 3, 1, 24), Geometry((1, 1), ((1, 1), (1, 1)), groups=24)),
    "depthwise, no multiple of a vector": ((2, 9, 8, 35), (5, 5, 1, 35), Geometry((1, 1), ((2, 2), (2, 2)), groups=35)),
    "depthwise, strided": ((2, 10, 17, 16), (3, 3, 1, 16), Geometry((2, 2), ((0, 1), (1, 1)), groups=16)),
    "depthwise, dilated": ((2, 11, 12, 16), (3, 3, 1, 16), Geometry((1, 1), ((2, 2), (3, 2)), (2, 3), groups=16)),
    "depthwise, wide": ((1, 12, 23, 16), (2, 9, 1, 16), Geometry((1, 1), ((0, 1), (4, 4)), groups=16)),
    "winograd": ((8, 17, 14, 64), (3, 3, 64, 48), Geometry((1, 1), ((1, 1), (1, 1)))),
    "winograd, valid": ((8, 18, 15, 48), (3, 3, 48, 80), Geometry()),
    "winograd, many tiles": ((24, 18, 17, 64), (3, 3, 64, 48), Geometry((1, 1), ((1, 1), (1, 1)))),
    "winograd, odd padding": ((8, 14, 15, 64), (3, 3, 64, 64), Geometry((1, 1), ((2, 0), (-1, 3)))),
}


def draw(case, dtype):
    shape, kernel_shape, geometry = CASES[case]
    rng = np.random.default_rng(sum(case.encode()))
    size = reference.conv_output_size(
        shape[1:3], kernel_shape[:2], geometry.strides, geometry.padding, geometry.dilation
    )
    arrays = (shape, kernel_shape, (shape[0], *size, kernel_shape[3]))
    return *(jnp.asarray(rng.standard_normal(s), dtype) for s in arrays), geometry


def three(module, geometry, x, kernel):
    """Returns a convolution and its two transposes as one function of images, kernel and gradient."""

    @jax.jit
    def all_three(x_, kernel_, dy):
        return (
            module.convolve(x_, kernel_, geometry=geometry, output_size=dy.shape[1:3]),
            module.input_gradient(dy, kernel_, geometry=geometry, input_size=x.shape[1:3]),
            module.kernel_gradient(x_, dy, geometry=geometry, kernel_size=kernel.shape[:2]),
        )

    return all_three


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", CASES)
def test_a_convolution_and_its_gradients_are_those_of_xla(case):
    x, kernel, dy, geometry = draw(case, jnp.float64)
    for ours, theirs in zip(
        three(native, geometry, x, kernel)(x, kernel, dy), three(xla, geometry, x, kernel)(x, kernel, dy), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())


SPOILED = ["dense", "grouped", "many small groups", "many pixels, few channels", "groups that no bundle fills"]
SPOILED += ["depthwise", "depthwise, strided", "winograd", "winograd, odd padding", "winograd, many tiles"]


def with_one(array, place, value):
    """Returns a copy with another number in one place."""
    copy = np.array(array)
    copy[place] = value
    return copy


@functools.cache
def spoilable(case):
    """Returns the arrays of a case, both of its programs, and what ours gives."""
    x, kernel, dy, geometry = draw(case, jnp.float32)
    program, plain = three(native, geometry, x, kernel), three(xla, geometry, x, kernel)
    return (x, kernel, dy), program, plain, program(x, kernel, dy)


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e37, 1e6])
@pytest.mark.parametrize("case", SPOILED)
def test_a_number_out_of_the_ordinary_reaches_the_results_that_are_made_of_it_and_no_other(case, value):
    (x, kernel, dy), program, plain, usual = spoilable(case)
    for operand, array in ((0, x), (2, dy)):
        place = tuple(n // 2 for n in array.shape)
        arrays = [x, kernel, dy]
        arrays[operand] = with_one(array, place, value)
        # A convolution is linear: what a number reaches is what it alone gives, where nothing cancels.
        alone = [np.ones_like(a) for a in arrays]
        alone[operand] = with_one(np.zeros_like(array), place, 1)
        reaches = {0: (0, 2), 2: (1, 2)}[operand]
        for i in reaches:
            result, reached = np.asarray(program(*arrays)[i]), np.asarray(plain(*alone)[i]) != 0
            scale = np.abs(usual[i]).max()
            np.testing.assert_allclose(result[~reached], usual[i][~reached], rtol=0, atol=1e-5 * scale)
            assert np.isfinite(value) == np.isfinite(result[reached]).all()
            assert np.isfinite(value) or not np.isfinite(result[reached]).any()


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("value", [1e3, 1e6, 1e10])
def test_winograds_rounding_is_that_of_the_pixels_that_a_result_sees(value, gradient):
    x, kernel, dy, geometry = draw("winograd", jnp.float32)
    images = (dy if gradient else x).at[1, 6, 5, 7].set(value)

    @functools.partial(jax.jit, static_argnums=0)
    def run(module, images, kernel):
        if gradient:
            return module.input_gradient(images, kernel, geometry=geometry, input_size=x.shape[1:3])
        return module.convolve(images, kernel, geometry=geometry, output_size=dy.shape[1:3])

    ours = run(native, images, kernel)
    with jax.enable_x64(True):
        exact = run(xla, *(jnp.asarray(np.asarray(a), jnp.float64) for a in (images, kernel)))
    seen = np.zeros(ours.shape, bool)
    seen[1, 5:8, 4:7] = True
    np.testing.assert_allclose(ours[~seen], exact[~seen], rtol=0, atol=1e-5 * np.abs(exact[~seen]).max())
    np.testing.assert_allclose(ours[seen], exact[seen], rtol=0, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize("case", ["winograd", "winograd, valid", "dense", "depthwise, no multiple of a vector"])
def test_float32_is_within_its_rounding(case):
    x, kernel, dy, geometry = draw(case, jnp.float32)
    ours = three(native, geometry, x, kernel)(x, kernel, dy)
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(a), jnp.float64) for a in (x, kernel, dy)]
        exact = three(xla, geometry, x, kernel)(*wide)
    for one, other in zip(ours, exact, strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


def algorithms(case, **options):
    """Returns the algorithms that the three programs of a case are lowered to."""
    x, kernel, dy, geometry = draw(case, jnp.float32)

    def program(x, kernel, dy):
        return (
            lowering.convolve(x, kernel, geometry, dy.shape[1:3]),
            lowering.input_gradient(dy, kernel, geometry, x.shape[1:3]),
            lowering.kernel_gradient(x, dy, geometry, kernel.shape[:2]),
        )

    text = jax.jit(program, **options).lower(x, kernel, dy).as_text()
    return [int(part.split(" ")[0]) for part in text.split("algorithm = ")[1:]]


@pytest.mark.parametrize(
    ("case", "algorithm"),
    [
        ("dense", rules.Algorithm.DIRECT),
        ("depthwise", rules.Algorithm.DEPTHWISE),
        ("winograd", rules.Algorithm.WINOGRAD),
        ("strided", rules.Algorithm.DIRECT),
        ("many small groups", rules.Algorithm.DIRECT),
    ],
)
def test_the_algorithm_is_chosen_by_shape(case, algorithm):
    assert algorithms(case) == [algorithm] * 3


def test_a_convolution_called_in_the_highest_precision_forgoes_winograd_and_so_do_its_gradients():
    x, kernel, dy, _ = draw("winograd", jnp.float32)

    def convolved(x, kernel, highest):
        with jax.default_matmul_precision("highest" if highest else None):
            return jax.vmap(lambda image: ops.conv(image, kernel, padding=1))(x)

    def program(x, kernel, dy, highest):
        y, transpose = jax.vjp(lambda x, kernel: convolved(x, kernel, highest), x, kernel)
        return y, *transpose(dy)

    for highest, algorithm in ((True, rules.Algorithm.DIRECT), (False, rules.Algorithm.WINOGRAD)):
        text = jax.jit(program, static_argnums=3).lower(x, kernel, dy, highest).as_text()
        assert [int(part.split(" ")[0]) for part in text.split("algorithm = ")[1:]] == [algorithm] * 3


@pytest.mark.usefixtures("float64")
def test_winograd_is_not_chosen_where_the_kernel_costs_more_than_it_saves():
    few = rules._algorithm(Geometry(), (3, 3, 512, 512), 1, (7, 7), jnp.float32)
    many = rules._algorithm(Geometry(), (3, 3, 512, 512), 64, (7, 7), jnp.float32)
    assert (few, many) == (rules.Algorithm.DIRECT, rules.Algorithm.WINOGRAD)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("case", ["dense", "winograd", "many small groups", "depthwise"])
def test_half_precision_is_summed_up_in_float32_and_rounded_once(case, dtype):
    x, kernel, dy, geometry = draw(case, dtype)
    ours = three(native, geometry, x, kernel)(x, kernel, dy)
    exact = three(native, geometry, x, kernel)(*(a.astype(jnp.float32) for a in (x, kernel, dy)))
    for one, other in zip(ours, exact, strict=True):
        np.testing.assert_array_equal(one, other.astype(dtype))


def random_case(seed):
    """Draws the shapes of a convolution and its geometry."""
    rng = np.random.default_rng(seed)

    def pair(most):
        return tuple(int(n) for n in rng.integers(1, most, 2, endpoint=True))

    kind = ("dense", "grouped", "depthwise", "pointwise")[seed % 4]
    taps, dilation = (1, 1) if kind == "pointwise" else pair(4), pair(2)
    padding = tuple(tuple(int(n) for n in rng.integers(0, 3, 2)) for _ in range(2))
    groups = {"grouped": int(rng.integers(2, 9)), "depthwise": int(rng.integers(16, 70))}.get(kind, 1)
    channels, outputs = (1, 1) if kind == "depthwise" else pair(50)
    size = [reach + int(rng.integers(1, 25)) for reach in (d * (t - 1) for d, t in zip(dilation, taps, strict=True))]
    geometry = Geometry(pair(3), padding, dilation, groups)
    return (int(rng.integers(1, 4)), *size, channels * groups), (*taps, channels, outputs * groups), geometry


@pytest.mark.parametrize(
    "seed", [*range(6), *(pytest.param(n, marks=[pytest.mark.slow, pytest.mark.heavy]) for n in range(6, 400))]
)
def test_half_precision_of_random_convolutions_is_that_of_float64_rounded_once(seed):
    shape, kernel_shape, geometry = random_case(seed)
    dtype = (jnp.bfloat16, jnp.float16)[seed // 4 % 2]
    size = reference.conv_output_size(
        shape[1:3], kernel_shape[:2], geometry.strides, geometry.padding, geometry.dilation
    )
    rng = np.random.default_rng(seed)
    shapes = (shape, kernel_shape, (shape[0], *size, kernel_shape[3]))
    arrays = [jnp.asarray(rng.standard_normal(s), dtype) for s in shapes]
    ours = three(native, geometry, *arrays[:2])(*arrays)
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(a, np.float64)) for a in arrays]
        exact = [np.asarray(y) for y in three(xla, geometry, *wide[:2])(*wide)]
    for one, other in zip(ours, exact, strict=True):
        assert one.dtype == dtype
        # Half of a last place for the rounding, and what sums in float32 lose.
        most = float(jnp.finfo(dtype).eps) / 2 * np.abs(other) + 1e-5 * np.abs(other).max()
        assert (np.abs(np.asarray(one, np.float64) - other) <= most).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_read_and_rounded_as_by_numpy(dtype):
    numbers = np.arange(2**16, dtype=np.uint16).view(jnp.dtype(dtype))
    added = np.random.default_rng(0).permutation(numbers)
    x = jnp.asarray(np.stack([numbers, added], axis=-1)).reshape(1, 256, 256, 2)
    y = jax.jit(
        lambda x: native.convolve(x, jnp.ones((1, 1, 2, 1), dtype), geometry=Geometry(), output_size=(256, 256))
    )
    with np.errstate(invalid="ignore", over="ignore"):
        expected = (numbers.astype(np.float32) + added.astype(np.float32)).astype(dtype)
    assert np.isnan(expected).sum() > 100
    assert np.isinf(expected).sum() >= 2
    # XLA's threads may take numbers below 2^-126 for zero.
    np.testing.assert_allclose(np.ravel(y(x)).astype(np.float64), expected.astype(np.float64), rtol=0, atol=2.0**-125)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("case", SPOILED)
def test_numbers_that_are_not_finite_reach_the_same_results_in_half_precision(case, value):
    x, kernel, dy, geometry = draw(case, jnp.bfloat16)
    program = three(native, geometry, x, kernel)
    for operand, array in ((0, x), (2, dy)):
        arrays = [x, kernel, dy]
        arrays[operand] = array.at[tuple(n // 2 for n in array.shape)].set(value)
        wide = [a.astype(jnp.float32) for a in arrays]
        for one, other in zip(program(*arrays), program(*wide), strict=True):
            np.testing.assert_array_equal(np.isfinite(one), np.isfinite(other))


def test_the_kernels_are_given_half_precision_as_it_is():
    x, kernel, dy, geometry = draw("dense", jnp.bfloat16)
    text = jax.jit(three(native, geometry, x, kernel)).lower(x, kernel, dy).as_text()
    calls = [line for line in text.splitlines() if "@jaxcnn_" in line]
    assert len(calls) == 3
    assert all(line.rpartition(": (")[2].count("xbf16>") >= 2 for line in calls)
    # Only the kernel's gradient is rounded by XLA.
    assert text.count("stablehlo.convert") == 1


def test_an_exported_program_does_not_need_this_package():
    x, kernel, dy, geometry = draw("dense", jnp.float32)
    program = jax.jit(lambda x, kernel: lowering.convolve(x, kernel, geometry, dy.shape[1:3]))
    exported = jax.export.export(program)(x, kernel)
    assert "custom_call" not in exported.mlir_module()
    np.testing.assert_allclose(exported.call(x, kernel), program(x, kernel), rtol=1e-5, atol=1e-4)


def test_each_of_several_devices_calls_the_kernels_for_its_part_of_the_batch():
    code = """
import jax, jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxcnn.ops.lowering import Geometry, convolve
mesh = Mesh(jax.devices(), ("batch",))
x = jax.ShapeDtypeStruct((16, 9, 9, 16), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("batch")))
kernel = jax.ShapeDtypeStruct((3, 3, 16, 16), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
def run(x, kernel): return convolve(x, kernel, Geometry(), (7, 7))
compiled = jax.jit(run).lower(x, kernel).compile().as_text()
assert "f32[2,7,7,16]" in compiled and "jaxcnn_convolve" in compiled and "all-gather" not in compiled
by_hand = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=(PartitionSpec("batch"), PartitionSpec()),
                                out_specs=PartitionSpec("batch")))
text = by_hand.lower(x, kernel).compile().as_text()
assert "jaxcnn_convolve" in text and "all-gather" not in text
images, numbers = jnp.ones(x.shape), jnp.ones(kernel.shape)
assert jnp.allclose(by_hand(images, numbers), jax.jit(run)(images, numbers))
# Too few images for each device to have some: left to the compiler.
few = jax.ShapeDtypeStruct((6, 9, 9, 16), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
compiled = jax.jit(run).lower(few, kernel).compile().as_text()
assert "jaxcnn_convolve" not in compiled
"""
    run_python(code, XLA_FLAGS="--xla_force_host_platform_device_count=8")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("case", ["winograd", "many pixels", "depthwise"])
def test_the_same_call_gives_the_same_bits(case, dtype):
    x, kernel, dy, geometry = draw(case, dtype)
    program = three(native, geometry, x, kernel)
    first = program(x, kernel, dy)
    for _ in range(3):
        for one, other in zip(program(x, kernel, dy), first, strict=True):
            assert np.array_equal(one, other)


def test_a_convolution_without_kernels_to_build_is_computed_by_xla_and_says_so(tmp_path):
    code = """
import jax.numpy as jnp
from jaxcnn.ops.lowering import Geometry, convolve, native
print(float(convolve(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 1)), Geometry(), (2, 2))[0, 0, 0, 0]), native.ready())
"""
    output, errors = run_python(code, CXX="no-such-compiler", JAXCNN_CACHE_DIR=str(tmp_path))
    assert output.split() == ["18.0", "False"]
    assert errors.count("no C++ compiler found (looked for no-such-compiler)") == 1
    output, errors = run_python(code, CXX="false", JAXCNN_CACHE_DIR=str(tmp_path))
    assert output.split() == ["18.0", "False"]
    assert "run without the C++ kernels of jaxcnn" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    output, errors = run_python(code, JAXCNN_NATIVE="0", JAXCNN_CACHE_DIR=str(tmp_path / "unused"))
    assert (output.split(), errors) == (["18.0", "False"], "")
    assert not (tmp_path / "unused").exists()


@pytest.mark.skipif(
    not os.path.exists("/sys/kernel/mm/transparent_hugepage/enabled"), reason="does not apply: there are no large pages"
)
@pytest.mark.parametrize(
    ("setting", "seconds", "is_asked"),
    [
        ({}, 0, False),
        pytest.param({}, 10, True, marks=[pytest.mark.slow, pytest.mark.heavy]),
        ({"JAXCNN_LARGE_PAGES": "1"}, 0, True),
        pytest.param({"JAXCNN_LARGE_PAGES": "0"}, 10, False, marks=[pytest.mark.slow, pytest.mark.heavy]),
    ],
)
def test_all_memory_that_a_large_result_lies_in_is_asked_to_have_large_pages(setting, seconds, is_asked, monkeypatch):
    monkeypatch.delenv("JAXCNN_LARGE_PAGES", raising=False)
    code = f"""
import time, jax, jax.numpy as jnp
from jaxcnn.ops.lowering import Geometry, convolve
program = jax.jit(lambda x, kernel: convolve(x, kernel, Geometry(), x.shape[1:3]))
kernel = jnp.ones((1, 1, 64, 64))
jax.block_until_ready(program(jnp.ones((1, 2, 2, 64)), kernel))
time.sleep({seconds})
y = program(jnp.ones((40, 64, 64, 64)), kernel)
address, inside = y.unsafe_buffer_pointer(), False
for line in open("/proc/self/smaps"):
    word, *flags = line.split()
    if "-" in word:
        start, stop = (int(end, 16) for end in word.split("-"))
        inside = start <= address < stop
    elif inside and word == "VmFlags:":
        print("hg" in flags, start < address and address + y.nbytes <= stop)
"""
    asked, inside = run_python(code, **setting)[0].split()
    assert asked == str(is_asked)
    # Without the hint, the system may merge the memory with another mapping, or the result may begin a mapping.
    assert inside == "True" or not is_asked


def run_python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("groups", [1, 2, 16])
@pytest.mark.parametrize("strides", [1, 2])
def test_a_tap_that_is_not_finite_reaches_the_pixels_that_it_is_stamped_on(groups, strides):
    kernel = jnp.ones((3, 3, 16 // groups, 16)).at[0, 0, 0, 0].set(jnp.nan)
    y = ops.conv_transpose(jnp.ones((5, 5, 16)), kernel, strides=strides, groups=groups)
    assert jnp.isnan(y).sum() == 25
    dx = jax.grad(lambda x: jnp.sum(ops.conv(x, kernel, strides=strides, padding=0, groups=groups)))(
        jnp.ones((9, 9, 16))
    )
    assert jnp.isnan(dx).sum() == (49 if strides == 1 else 16)


@pytest.mark.parametrize("factor", [1e3, 1e6])
def test_results_that_see_no_large_tap_keep_their_rounding(factor):
    rng = np.random.default_rng(0)
    x = np.zeros((8, 12, 12, 64), np.float32)
    x[:, ::4, ::4] = rng.uniform(1, 2, (8, 3, 3, 64))
    kernel = rng.standard_normal((3, 3, 64, 64)).astype(np.float32)
    kernel[1, 1] *= factor
    geometry = Geometry((1, 1), ((1, 1), (1, 1)))
    y = native.convolve(jnp.asarray(x), jnp.asarray(kernel), geometry=geometry, output_size=(12, 12))
    with jax.default_matmul_precision("highest"):
        expected = jax.vmap(lambda image: ops.conv(image, kernel))(x)
    unseen = np.ones((12, 12), bool)
    unseen[::4, ::4] = False
    np.testing.assert_allclose(y[:, unseen], expected[:, unseen], rtol=0, atol=1e-4)
