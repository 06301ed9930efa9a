"""The convolutions on a random grid, against `lax.conv_general_dilated` and the derivatives that JAX knows of it.

The grid is a full factorial design, every level of the factors with every other once; all else about a problem is drawn
from its number. A problem that fails is named by its constructor: `disagreements(Problem(...))`, with 64-bit types,
runs it alone. In a sample each transformation meets several kinds of kernels. Its first block runs by default; the
other blocks and the rest of the grid are slow.
"""

import functools
import itertools
import math
from collections import Counter
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcnn import ops
from jaxcnn.ops import lowering


@dataclass(frozen=True)
class Problem:
    """A convolution and what to transform it with; `inputs` and `outputs` are channels of one group."""

    op: str
    transformation: str
    images: int
    size: tuple[int, int]
    window: tuple[int, int]
    groups: int
    inputs: int
    outputs: int
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    output_padding: tuple[int, int]
    seed: int

    @property
    def kind(self):
        # Which rule a transposed convolution runs by is a matter of the convolution that it transposes.
        inputs, outputs = (self.outputs, self.inputs) if self.op == "conv_transpose" else (self.inputs, self.outputs)
        if self.groups == 1 and self.window == (3, 3) and self.strides == self.dilation == (1, 1):
            return "wide 3x3" if min(inputs, outputs) >= 16 else "dense"
        if self.groups == 1:
            return "pointwise" if self.window == (1, 1) else "dense"
        if inputs > 1:
            return "grouped"
        return "depthwise" if outputs == 1 else "multiplier"

    @property
    def reach(self):
        """Pixels that the dilated kernel spans."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.window, strict=True))

    @property
    def room(self):
        """Pixels that the kernel can move by, or that a transposed convolution's output has after the first."""
        if self.op == "conv_transpose":
            return tuple(
                (n - 1) * s + reach - sum(side) + extra - 1
                for n, s, reach, side, extra in zip(
                    self.size, self.strides, self.reach, self.padding, self.output_padding, strict=True
                )
            )
        return tuple(n + sum(side) - r for n, side, r in zip(self.size, self.padding, self.reach, strict=True))

    @property
    def output_size(self):
        steps = (1, 1) if self.op == "conv_transpose" else self.strides
        return tuple(room // step + 1 for room, step in zip(self.room, steps, strict=True))

    @property
    def work(self):
        """Products that XLA sums up for one convolution: of all channels, those of other groups too."""
        places = self.size if self.op == "conv_transpose" else self.output_size
        return self.images * math.prod((*places, *self.window, self.inputs, self.outputs)) * self.groups**2


def ours(problem):
    """Returns the convolution under test, of a batch of images and a kernel."""
    if problem.op == "convolve":
        geometry = lowering.Geometry(problem.strides, problem.padding, problem.dilation, problem.groups)
        return lambda x, kernel: lowering.convolve(x, kernel, geometry, problem.output_size)
    options = {name: getattr(problem, name) for name in ("strides", "padding", "dilation", "groups")}
    if problem.op == "conv_transpose":
        options["output_padding"] = problem.output_padding
    op = getattr(ops, problem.op)
    return lambda x, kernel: jax.vmap(lambda image: op(image, kernel, **options))(x)


def theirs(problem):
    """Returns the same convolution as XLA has it."""
    options = {
        "rhs_dilation": problem.dilation,
        "feature_group_count": problem.groups,
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    }
    if problem.op != "conv_transpose":
        return lambda x, kernel: lax.conv_general_dilated(x, kernel, problem.strides, problem.padding, **options)
    padding = [
        (reach - 1 - before, reach - 1 - after + extra)
        for reach, (before, after), extra in zip(problem.reach, problem.padding, problem.output_padding, strict=True)
    ]
    return lambda x, kernel: lax.conv_general_dilated(
        x, jnp.flip(kernel, (0, 1)), (1, 1), padding, lhs_dilation=problem.strides, **options
    )


def loss_of(f, w):
    return lambda x, k: jnp.sum(jnp.sin(f(x, k)) * w)


def gradients_of(f, w):
    return jax.grad(loss_of(f, w), (0, 1))


def of_each_image(f, x, k, w):
    return jax.vmap(lambda x, w: gradients_of(f, w)(x[None], k))(x, w)


def pullbacks(f, x, k, w):
    """Each transpose with only one of its operands batched."""
    by_image = jax.vmap(lambda k: jax.vjp(lambda x: f(x, k), x)[1](w), 3)(jnp.stack([k, k - 1], 3))
    by_kernel = jax.vmap(lambda w: jax.vjp(lambda k: f(x, k), k)[1](w), 2)(jnp.stack([w, 2 * w], 2))
    by_shared = jax.vmap(lambda x: jax.vjp(lambda k: f(x, k), k)[1](w), 1)(jnp.stack([x, x - 1], 1))
    return by_image, by_kernel, by_shared


def direction(x, k):
    return 0.3 * x + 0.1, jnp.flip(k, 0)


# Each takes the convolution, images, a kernel and weights of the shape of the output.
TRANSFORMATIONS = {
    "jvp": lambda f, x, k, w: jax.jvp(f, (x, k), direction(x, k)),
    "linearize": lambda f, x, k, w: jax.linearize(gradients_of(f, w), x, k)[1](*direction(x, k)),
    "vmap over images": lambda f, x, k, w: jax.vmap(lambda x: f(x, k), 2, 1)(jnp.stack([x, x - 1], 2)),
    "vmap over kernels": lambda f, x, k, w: jax.vmap(lambda k: f(x, k), 4, 3)(jnp.stack([k, 2 * k, k - 1], 4)),
    "vmap over both": lambda f, x, k, w: jax.vmap(f, (4, 1), 2)(jnp.stack([x, x - 1], 4), jnp.stack([k, 2 * k], 1)),
    "per-example gradients": of_each_image,
    "ensemble": lambda f, x, k, w: jax.vmap(lambda k: gradients_of(f, w)(x, k))(jnp.stack([k, 2 * k])),
    "ensemble on its own images": lambda f, x, k, w: jax.vmap(gradients_of(f, w))(
        jnp.stack([x, x - 1]), jnp.stack([k, 2 * k])
    ),
    "per-example gradients of an ensemble": lambda f, x, k, w: jax.vmap(lambda k: of_each_image(f, x, k, w), 2, 1)(
        jnp.stack([k, 2 * k], 2)
    ),
    "pullbacks": pullbacks,
    "gradient of gradient": lambda f, x, k, w: jax.grad(
        lambda x, k: sum(jnp.sum(jnp.sin(g)) for g in gradients_of(f, w)(x, k)), (0, 1)
    )(x, k),
    "Hessian product, forward over reverse": lambda f, x, k, w: jax.jvp(gradients_of(f, w), (x, k), direction(x, k))[1],
    "Hessian product, reverse over reverse": lambda f, x, k, w: jax.grad(
        lambda both, v: sum(map(jnp.vdot, gradients_of(f, w)(*both), v))
    )((x, k), direction(x, k)),
    "checkpoint": lambda f, x, k, w: jax.grad(jax.checkpoint(loss_of(lambda x, k: jnp.cos(f(x, k)), w)), (0, 1))(x, k),
    "scan": lambda f, x, k, w: lax.scan(
        lambda k, scale: (k - 0.01 * gradients_of(f, w)(scale * x, k)[1], f(x, k)), k, jnp.array([1.0, 2.0])
    ),
}
KINDS = ("dense", "pointwise", "grouped", "depthwise", "multiplier")
# The batched function takes any padding, negative ones too: "cropped" has some.
FORMS = {"conv": "conv", "convolve": "convolve", "cropped": "convolve", "conv_transpose": "conv_transpose"}

CELLS = (
    *itertools.product(FORMS, (False, True), (False, True), KINDS, TRANSFORMATIONS),
    # What most networks are made of, and what an engine has most algorithms for.
    *itertools.product(FORMS, (False,), (False,), ("wide 3x3",), TRANSFORMATIONS),
)
PAIRS, LEVELS = len(KINDS) * len(TRANSFORMATIONS), 4 * len(FORMS)
# Of every second pair of a kind and a transformation one cell, so that the odd factor goes round the other levels.
SAMPLE = (
    *(PAIRS * (7 * (pair // 2) % LEVELS) + pair for pair in range(0, PAIRS, 2)),
    *range(PAIRS * LEVELS, len(CELLS), len(TRANSFORMATIONS) - 1),
)
REST = tuple(sorted(set(range(len(CELLS))) - set(SAMPLE)))
BLOCK = 25

FEW, MANY = (1, 2, 3, 4, 5, 7, 8, 11, 13), (16, 17, 24, 31, 32, 37, 40, 48, 64)


def draw_channels(rng, kind, wide):
    """Draws (groups, inputs, outputs)."""

    def one_of(*numbers):
        return int(rng.choice(numbers))

    if kind in ("dense", "pointwise"):
        # Wide ones include what a first and a last layer have: 3 to 64, 64 to 1.
        channels = (MANY * 3 + FEW) if wide else FEW
        return 1, one_of(*channels), one_of(*channels)
    if kind == "wide 3x3":
        return 1, one_of(16, 32, 40, 48, 64, 64), one_of(24, 32, 32, 48, 64, 64)
    if kind == "grouped":
        if wide:
            return one_of(2, 3, 4, 8, 16, 32, 37), one_of(2, 4, 8, 16, 32), one_of(1, 2, 4, 5, 8, 16)
        return one_of(2, 3, 4, 5), one_of(2, 3, 4, 8), one_of(1, 2, 3, 4, 7)
    groups = one_of(*MANY) if wide else one_of(*FEW[1:])
    return groups, 1, 1 if kind == "depthwise" else one_of(2, 3, 4)


@functools.cache
def draw(index):
    """Draws the problem of a cell of the grid: drawn again until its kernel fits and it is small enough to run."""
    form, strided, dilated, kind, transformation = CELLS[index]
    rng = np.random.default_rng(index)
    scale = rng.choice(["tiny", "wide", "large"], p=[0.8, 0.18, 0.02] if kind in KINDS else [0, 0, 1])
    most_pixels, most_work = {"tiny": (12, 1e5), "wide": (32, 3e6), "large": (32, 5e7)}[scale]

    def two(numbers, **options):
        return tuple(rng.choice(numbers, 2, **options).tolist())

    while True:
        groups, inputs, outputs = draw_channels(rng, kind, scale != "tiny")
        if form == "conv_transpose":
            inputs, outputs = outputs, inputs
        # Kernels of 5 and more are rare: of a depthwise one every tap is a line of the program.
        window = two(np.arange(1, 8), p=[0.1, 0.2, 0.4, 0.1, 0.1, 0.03, 0.07])
        strides = two([1, 2, 3, 4, 5], p=[0.3, 0.35, 0.2, 0.1, 0.05]) if strided else (1, 1)
        dilation = two([1, 2, 3], p=[0.3, 0.45, 0.25]) if dilated else (1, 1)
        amounts = [-2, -1, 0, 1, 3] if form == "cropped" else [0, 0, 1, 1, 2, 3]
        padding = (two(amounts), two(amounts)) if rng.random() < 0.7 else ((amounts[int(rng.integers(5))],) * 2,) * 2
        if kind == "wide 3x3":
            window = (3, 3)
        if kind == "pointwise":
            window = (1, 1)
            # Half of them as in every residual network, without padding.
            padding = ((0, 0), (0, 0)) if form != "cropped" and rng.random() < 0.5 else padding
        extra = (0, 0)
        if form == "conv_transpose":
            extra = tuple(int(rng.integers(max(step))) for step in zip(strides, dilation, strict=True))
        problem = Problem(
            op=FORMS[form],
            transformation=transformation,
            images=int(rng.choice([1, 2, 3, 4, 8], p=[0.35, 0.3, 0.15, 0.1, 0.1])),
            size=two(np.arange(12 if scale == "large" else 1, most_pixels + 1)),
            window=window,
            groups=groups,
            inputs=inputs,
            outputs=outputs,
            strides=strides,
            padding=padding,
            dilation=dilation,
            output_padding=extra,
            seed=index,
        )
        if (
            min(problem.room) >= 0
            and problem.work <= most_work
            and (scale != "large" or problem.work > most_work / 10)
            and problem.kind == kind
            and strided == (max(strides) > 1)
            and dilated == (max(dilation) > 1)
            and (form == "cropped") == (min(min(side) for side in padding) < 0)
        ):
            return problem


@functools.cache
def cheap_to_compile():
    """Returns XLA options under which compiling takes a fraction: the grid's programs are many, and run once.

    They leave out optimisations of XLA; the rules of the convolutions have been applied by then.
    """
    options = {}
    for option in ({"xla_backend_optimization_level": 0}, {"xla_cpu_use_fusion_emitters": False}):
        try:
            jax.jit(jnp.sin).lower(0.0).compile(option)
        except jax.errors.JaxRuntimeError:
            continue  # Options come and go with the version of XLA.
        options |= option
    return options


def results(f, arrays, options, transformation=None):
    """Runs, as one program, a function of images and a kernel: its value, its gradients, and a transformation of it."""

    def program(x, k, w):
        dx, dk = gradients_of(f, w)(x, k)
        found = {"value": f(x, k), "image gradient": dx, "kernel gradient": dk}
        if transformation is not None:
            found[transformation] = TRANSFORMATIONS[transformation](f, x, k, w)
        return found

    return jax.tree.map(np.asarray, jax.jit(program).lower(*arrays).compile(options)(*arrays))


def differences(actual, expected, tolerance):
    """Returns what in one tree is not as in the other, relative to the largest number of each array."""
    found = []
    leaves = (jax.tree_util.tree_leaves_with_path(tree) for tree in (actual, expected))
    for (path, value), (_, other) in zip(*leaves, strict=True):
        name = jax.tree_util.keystr(path)
        if value.shape != other.shape:
            found.append(f"{name} has shape {value.shape}, not {other.shape}")
            continue
        error, scale = np.max(np.abs(value - other)), np.max(np.abs(other))
        # Stated so that NaN is an error too.
        if not error <= tolerance * scale:
            found.append(f"{name} in {value.dtype} is off by {error:.3g} of {scale:.3g}")
    return found


def disagreements(problem):
    """Returns what about a problem is not as XLA has it."""
    rng = np.random.default_rng(problem.seed)
    x = rng.standard_normal((problem.images, *problem.size, problem.groups * problem.inputs))
    shape = (*problem.window, problem.inputs, problem.groups * problem.outputs)
    k = rng.standard_normal(shape) / math.sqrt(math.prod(shape[:3]))
    w = rng.standard_normal((problem.images, *problem.output_size, problem.groups * problem.outputs))
    arrays = (x, k, w)
    # Without optimisation a large convolution takes longer to run than to compile.
    options, more = (cheap_to_compile() if problem.work <= most else {} for most in (1e6, 4e6))
    expected = results(theirs(problem), arrays, options, problem.transformation)
    try:
        actual = results(ours(problem), arrays, more, problem.transformation)
        # A rule may differ by dtype, as vectors hold twice as many numbers of half the size. XLA of jax 0.10 on CPU
        # reads beyond its memory in float32 where the padding is negative before and positive after an image.
        unsafe = any(before < 0 < after for before, after in problem.padding)
        single = {} if unsafe else results(ours(problem), [array.astype(np.float32) for array in arrays], more)
    except Exception as error:
        return [f"raises {error!r}"]
    assert {array.dtype for array in jax.tree.leaves(actual)} == {np.dtype(np.float64)}
    assert {array.dtype for array in jax.tree.leaves(single)} <= {np.dtype(np.float32)}
    return differences(actual, expected, 1e-10) + differences(single, {name: expected[name] for name in single}, 1e-4)


def assert_all_agree(indices):
    wrong = [(problem, found) for problem in map(draw, indices) if (found := disagreements(problem))]
    lines = [f"{problem}: {'; '.join(found)}" for problem, found in wrong]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(indices)} convolutions are not XLA's:", *lines])


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("start", range(0, len(SAMPLE), BLOCK))
def test_a_sample_of_convolutions_is_xlas_in_values_gradients_and_a_transformation(start):
    assert_all_agree(SAMPLE[start : start + BLOCK])


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("start", range(0, len(REST), BLOCK))
def test_the_rest_of_the_grid_is_xlas_in_values_gradients_and_a_transformation(start):
    assert_all_agree(REST[start : start + BLOCK])


# What makes a convolution special, as a condition on the drawn problem.
FEATURES = {
    "one image": lambda p: p.images == 1,
    "even window": lambda p: any(k % 2 == 0 for k in p.window),
    "window of 5 to 7": lambda p: max(p.window) >= 5,
    "window not square": lambda p: p.window[0] != p.window[1],
    "wide 3x3": lambda p: p.kind == "wide 3x3",
    "odd size": lambda p: any(n % 2 for n in p.size),
    "strides that differ": lambda p: p.strides[0] != p.strides[1],
    "stride larger than the window": lambda p: any(s > k for s, k in zip(p.strides, p.window, strict=True)),
    "stride with pixels left over": lambda p: (
        p.op != "conv_transpose" and any(room % s for room, s in zip(p.room, p.strides, strict=True))
    ),
    "dilation of taps": lambda p: any(d > 1 and k > 1 for d, k in zip(p.dilation, p.window, strict=True)),
    "image smaller than the dilated window": lambda p: any(n < r for n, r in zip(p.size, p.reach, strict=True)),
    "padding on one side": lambda p: any(a != b for a, b in p.padding),
    "padding that crops": lambda p: min(min(side) for side in p.padding) < 0,
    "padding wider than the dilated window": lambda p: any(
        max(s) >= r for s, r in zip(p.padding, p.reach, strict=True)
    ),
    "no padding": lambda p: p.padding == ((0, 0), (0, 0)),
    "output padding": lambda p: max(p.output_padding) > 0,
    "one row or column of outputs": lambda p: min(p.output_size) == 1,
    "16 channels or more": lambda p: min(p.groups * p.inputs, p.groups * p.outputs) >= 16,
    "64 channels or more": lambda p: max(p.groups * p.inputs, p.groups * p.outputs) >= 64,
    "prime channels": lambda p: p.groups * p.inputs in (3, 5, 7, 11, 13, 17, 31, 37),
    "images beyond 24 pixels": lambda p: max(p.size) > 24,
    "a million products or more": lambda p: p.work >= 1e6,
}


def test_the_sample_covers_what_the_grid_is_about():
    problems = [draw(index) for index in SAMPLE]
    drawn = Counter((p.kind, p.op) for p in problems)
    assert set(drawn) == set(itertools.product((*KINDS, "wide 3x3"), FORMS.values()))
    drawn = Counter(p.transformation for p in problems)
    assert set(drawn) == set(TRANSFORMATIONS)
    assert min(drawn.values()) >= 2
    drawn = {name: sum(map(holds, problems)) for name, holds in FEATURES.items()}
    assert {name: count for name, count in drawn.items() if count < 3} == {}


def test_the_grid_covers_every_combination():
    problems = [draw(index) for index in (*SAMPLE, *REST)]
    assert len(set(problems)) == len(CELLS) >= 1000
    drawn = Counter((p.kind, max(p.strides) > 1, max(p.dilation) > 1, p.transformation) for p in problems)
    cells = set(itertools.product(KINDS, (False, True), (False, True), TRANSFORMATIONS))
    assert set(drawn) == cells | set(itertools.product(("wide 3x3",), (False,), (False,), TRANSFORMATIONS))
    assert min(drawn.values()) >= 4
    drawn = Counter((p.kind, p.op, p.transformation) for p in problems)
    assert set(drawn) == set(itertools.product((*KINDS, "wide 3x3"), FORMS.values(), TRANSFORMATIONS))


@pytest.mark.parametrize("name", FEATURES)
def test_the_grid_has_every_feature_with_every_transformation(name):
    problems = [p for p in map(draw, range(len(CELLS))) if FEATURES[name](p)]
    assert {p.transformation for p in problems} == set(TRANSFORMATIONS)
    assert len(problems) >= 30
