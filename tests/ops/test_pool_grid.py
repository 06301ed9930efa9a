"""The poolings on a random grid, against `lax.reduce_window`, NumPy loops and gathered windows.

A full factorial design, as in test_grid.py: every level of the factors meets every other, all else about a problem is
drawn from its number, and `disagreements(Problem(...))`, with 64-bit types, runs one that failed alone.
"""

import functools
import itertools
from collections import Counter
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax import lax

from jaxcnn import ops


@dataclass(frozen=True)
class Problem:
    """A pooling, what the image holds, and what to transform it with."""

    op: str
    transformation: str
    data: str
    images: int
    size: tuple[int, int]
    channels: int
    window: tuple[int, int]
    strides: tuple[int, int] | None
    padding: str | int | tuple[tuple[int, int], tuple[int, int]]
    ceil_mode: bool
    seed: int

    @property
    def steps(self):
        return self.window if self.strides is None else self.strides

    @property
    def sides(self):
        return reference.explicit_padding(self.size, self.window, self.steps, self.padding)

    @property
    def starts(self):
        """Rows and columns where the windows begin, in pixels of the image."""
        return tuple(
            np.array(reference.pool_starts(n, k, s, side, self.ceil_mode))
            for n, k, s, side in zip(self.size, self.window, self.steps, self.sides, strict=True)
        )

    @property
    def options(self):
        return {"strides": self.strides, "padding": self.padding, "ceil_mode": self.ceil_mode}

    def images_drawn(self):
        rng = np.random.default_rng(self.seed)
        shape = (self.images, *self.size, self.channels)
        if self.data == "one value":
            return np.full(shape, -0.75)
        # Negative throughout, so that a border of zeros would win; few values, so that most windows hold a tie.
        return rng.integers(-3, 0, shape) / 4 if self.data == "ties" else rng.standard_normal(shape) - 1


def ours(problem):
    """Returns the pooling under test, of a batch of images."""
    window, options = problem.window, problem.options

    def unpooled(x):
        return ops.max_unpool(*ops.max_pool_with_indices(x, window, **options), problem.size)

    return jax.vmap(
        {
            "max": lambda x: ops.max_pool(x, window, **options),
            "max with indices": lambda x: ops.max_pool_with_indices(x, window, **options)[0],
            "mean": lambda x: ops.avg_pool(x, window, **options),
            "mean inside": lambda x: ops.avg_pool(x, window, **options, count_include_pad=False),
            "unpooled": unpooled,
        }[problem.op]
    )


def theirs(problem):
    """Returns the same by writing out every window, with plain indexing: JAX knows how to transform that."""
    (height, width), (rows, columns) = problem.size, problem.starts
    row = (rows[:, None] + np.arange(problem.window[0]))[:, None, :, None]
    column = (columns[:, None] + np.arange(problem.window[1]))[None, :, None, :]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    place = np.clip(row, 0, height - 1) * width + np.clip(column, 0, width - 1)
    flat = (len(rows), len(columns), -1)
    inside, place = inside.reshape(flat), place.reshape(flat)

    (_, bottom), (_, right) = problem.sides
    padded = (row < height + bottom) & (column < width + right)
    counts = (inside if problem.op == "mean inside" else padded.reshape(flat)).sum(-1)

    def pooled(x):
        values = x.reshape(height * width, -1)[place]
        if problem.op.startswith("mean"):
            return jnp.sum(jnp.where(inside[..., None], values, 0), 2) / counts[..., None].astype(float)
        first = jnp.argmax(jnp.where(inside[..., None], values, -jnp.inf), 2, keepdims=True)
        if problem.op != "unpooled":
            return jnp.take_along_axis(values, first, 2)[:, :, 0]
        places = jnp.take_along_axis(jnp.asarray(place)[..., None], first, 2)
        found = jax.nn.one_hot(places, height * width, axis=0, dtype=bool).any((1, 2, 3))
        return jnp.where(found.reshape(x.shape), x, 0)

    return jax.vmap(pooled)


def loss_of(f, w):
    return lambda x: jnp.sum(jnp.sin(2 * f(x)) * w)


def gradient_of(f, w):
    return jax.grad(loss_of(f, w))


def direction(x):
    return jnp.cos(3 * x) + jnp.linspace(0, 1, x.size).reshape(x.shape)


# Each takes the pooling, images and weights of the shape of the output. None moves the images by what it computed:
# rounding would break their ties.
TRANSFORMATIONS = {
    "jvp": lambda f, x, w: jax.jvp(f, (x,), (direction(x),)),
    "linearize": lambda f, x, w: jax.linearize(f, x)[1](direction(x)),
    "vmap": lambda f, x, w: jax.vmap(f, 3, 2)(jnp.stack([x, 2 * x, -x], 3)),
    "per-example gradients": lambda f, x, w: jax.vmap(lambda x, w: gradient_of(f, w)(x[None]))(x, w),
    "gradient of gradient": lambda f, x, w: jax.grad(lambda x: jnp.sum(jnp.sin(gradient_of(f, w)(x))))(x),
    "Hessian product, forward over reverse": lambda f, x, w: jax.jvp(gradient_of(f, w), (x,), (direction(x),))[1],
    "Hessian product, reverse over reverse": lambda f, x, w: jax.grad(lambda x, v: jnp.vdot(gradient_of(f, w)(x), v))(
        x, direction(x)
    ),
    "checkpoint": lambda f, x, w: jax.grad(jax.checkpoint(loss_of(lambda x: jnp.exp(f(x)), w)))(x),
    "scan": lambda f, x, w: lax.scan(
        lambda total, scale: (total + gradient_of(f, w)(scale * x), f(scale * x)), 0 * x, jnp.array([1.0, -2.0])
    ),
}
OPS = ("max", "max with indices", "mean", "mean inside", "unpooled")
STEPS = ("window", "overlapping", "other")
PADDINGS = ("VALID", "SAME", "sides")

CELLS = tuple(itertools.product(STEPS, PADDINGS, OPS, TRANSFORMATIONS))
PAIRS, LEVELS = len(OPS) * len(TRANSFORMATIONS), len(STEPS) * len(PADDINGS)
# Of every second pair of an op and a transformation one cell, so that the factor goes round the other levels.
SAMPLE = tuple(PAIRS * (7 * (pair // 2) % LEVELS) + pair for pair in range(0, PAIRS, 2))
REST = tuple(sorted(set(range(len(CELLS))) - set(SAMPLE)))
BLOCK = 45


@functools.cache
def draw(index):
    """Draws the problem of a cell of the grid: drawn again until its window fits."""
    steps, padding, op, transformation = CELLS[index]
    rng = np.random.default_rng(index)
    while True:
        height, width = rng.integers(1, 13, 2).tolist()
        # Windows of more than 5 pixels a side take another road.
        window = tuple(rng.integers(1, 6 if rng.random() < 0.6 else 10, 2).tolist())
        strides = {
            "window": None,
            "overlapping": tuple(int(rng.integers(1, max(k, 2))) for k in window),
            "other": tuple(max(1, k + int(rng.integers(-1, 3))) for k in window),
        }[steps]
        (top, bottom), (left, right) = (rng.integers(0, k, 2).tolist() for k in window)
        spelled = ((top, bottom), (left, right)) if rng.random() < 0.7 else min(top, left)
        problem = Problem(
            op=op,
            transformation=transformation,
            data=str(rng.choice(["ties", "reals", "one value"], p=[0.6, 0.3, 0.1])),
            images=int(rng.integers(1, 4)),
            size=(height, width),
            channels=int(rng.choice([1, 2, 3, 5, 16])),
            window=window,
            strides=strides,
            padding=spelled if padding == "sides" else padding,
            ceil_mode=bool(rng.integers(2)),
            seed=index,
        )
        padded = (n + sum(side) for n, side in zip((height, width), problem.sides, strict=True))
        if all(n >= k for n, k in zip(padded, window, strict=True)):
            return problem


@functools.cache
def cheap_to_compile():
    """Returns XLA options under which compiling takes a fraction: the grid's programs are many, and run once."""
    options = {}
    for option in ({"xla_backend_optimization_level": 0}, {"xla_cpu_use_fusion_emitters": False}):
        try:
            jax.jit(jnp.sin).lower(0.0).compile(option)
        except jax.errors.JaxRuntimeError:
            continue  # Options come and go with the version of XLA.
        options |= option
    return options


def run(program, *arrays):
    return jax.tree.map(np.asarray, jax.jit(program).lower(*arrays).compile(cheap_to_compile())(*arrays))


def results(f, transformation, x, w):
    """Runs, as one program: the value, the gradient, and the transformation of a function of images."""
    return run(
        lambda x, w: {
            "value": f(x),
            "gradient": gradient_of(f, w)(x),
            transformation: TRANSFORMATIONS[transformation](f, x, w),
        },
        x,
        w,
    )


def reduced(problem, x):
    """Pools by `lax.reduce_window`; the last windows of ceil mode hang over what it is padded with."""
    ends = (
        (before, int(max(after, starts[-1] + k - n)))
        for n, k, (before, after), starts in zip(
            problem.size, problem.window, problem.sides, problem.starts, strict=True
        )
    )
    # Floor mode leaves pixels out that reduce_window leaves out too.
    window = (1, *problem.window, 1), (1, *problem.steps, 1), ((0, 0), *ends, (0, 0))
    y = lax.reduce_window(x, -jnp.inf, lax.max, *window)
    return y[:, : len(problem.starts[0]), : len(problem.starts[1])]


def disagreements(problem):
    """Returns what about a problem is not as it should be."""
    x, f = problem.images_drawn(), theirs(problem)
    w = np.random.default_rng(problem.seed).standard_normal(jax.eval_shape(f, x).shape)
    expected = results(f, problem.transformation, x, w)
    extra = {}
    if problem.op == "max":
        expected["XLA's reduce_window"], expected["XLA's select and scatter"] = run(
            lambda x, w: (reduced(problem, x), gradient_of(lambda x: reduced(problem, x), w)(x)), x, w
        )
        extra = {"XLA's reduce_window": "value", "XLA's select and scatter": "gradient"}
    if problem.op == "max with indices":
        loops = [reference.max_pool_with_indices(image, problem.window, **problem.options) for image in x]
        expected["maxima"], expected["indices"] = (np.stack(part) for part in zip(*loops, strict=True))
    try:
        actual = results(ours(problem), problem.transformation, x, w)
        if problem.op == "max with indices":
            pool = jax.vmap(lambda x: ops.max_pool_with_indices(x, problem.window, **problem.options))
            actual["maxima"], actual["indices"] = run(pool, x)
    except Exception as error:
        return [f"raises {error!r}"]
    actual |= {name: actual[same] for name, same in extra.items()}
    wrong = []
    for (path, value), (_, other) in zip(
        *(jax.tree_util.tree_leaves_with_path(tree) for tree in (actual, expected)), strict=True
    ):
        name = jax.tree_util.keystr(path)
        if value.shape != other.shape:
            wrong.append(f"{name} has shape {value.shape}, not {other.shape}")
            continue
        error, scale = np.max(np.abs(value - other)), np.max(np.abs(other))
        # Stated so that NaN is an error too.
        if not error <= 1e-10 * scale:
            wrong.append(f"{name} is off by {error:.3g} of {scale:.3g}")
    return wrong


def assert_all_agree(indices):
    wrong = [(problem, found) for problem in map(draw, indices) if (found := disagreements(problem))]
    lines = [f"{problem}: {'; '.join(found)}" for problem, found in wrong]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(indices)} poolings are wrong:", *lines])


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.usefixtures("float64")
def test_a_sample_of_poolings_is_right_in_values_gradients_and_a_transformation():
    assert_all_agree(SAMPLE)


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("start", range(0, len(REST), BLOCK))
def test_the_rest_of_the_grid_is_right_in_values_gradients_and_a_transformation(start):
    assert_all_agree(REST[start : start + BLOCK])


# What makes a pooling special, as a condition on the drawn problem.
FEATURES = {
    "ties": lambda p: p.data != "reals",
    "windows apart": lambda p: p.strides is None and p.window != (1, 1),
    "windows that overlap": lambda p: any(s < k for s, k in zip(p.steps, p.window, strict=True)),
    "stride larger than the window": lambda p: any(s > k for s, k in zip(p.steps, p.window, strict=True)),
    "padding": lambda p: any(map(any, p.sides)),
    "padding on one side": lambda p: any(a != b for a, b in p.sides),
    "window of more than 5 pixels a side": lambda p: max(p.window) > 5,
    "window larger than the image": lambda p: any(k > n for k, n in zip(p.window, p.size, strict=True)),
    "window not square": lambda p: p.window[0] != p.window[1],
    "pixels left over": lambda p: any(
        starts[-1] + k < n for starts, k, n in zip(p.starts, p.window, p.size, strict=True)
    ),
    "windows that hang over the padding": lambda p: any(
        starts[-1] + k > n + side[1] for starts, k, n, side in zip(p.starts, p.window, p.size, p.sides, strict=True)
    ),
}


def test_the_sample_covers_what_the_grid_is_about():
    problems = [draw(index) for index in SAMPLE]
    assert {p.op for p in problems} == set(OPS)
    assert {p.transformation for p in problems} == set(TRANSFORMATIONS)
    drawn = {name: sum(map(holds, problems)) for name, holds in FEATURES.items()}
    assert {name: count for name, count in drawn.items() if count < 3} == {}


def test_the_grid_covers_every_combination():
    problems = [draw(index) for index in (*SAMPLE, *REST)]
    assert len(set(problems)) == len(CELLS) >= 300
    drawn = Counter((p.op, p.transformation, p.strides is None, isinstance(p.padding, str)) for p in problems)
    assert set(drawn) == set(itertools.product(OPS, TRANSFORMATIONS, (False, True), (False, True)))


@pytest.mark.parametrize("name", FEATURES)
def test_the_grid_has_every_feature_with_every_op_and_transformation(name):
    problems = [p for p in map(draw, range(len(CELLS))) if FEATURES[name](p)]
    assert {p.op for p in problems} == set(OPS)
    assert {p.transformation for p in problems} == set(TRANSFORMATIONS)
    assert len(problems) >= 30
