"""Every optimizer of optax and optax.contrib that can be made trains, and resumes from a checkpoint to the bit."""

import functools
import inspect
from types import FunctionType

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn.layers import BatchNorm, Conv, Dense, Flatten, Function, Sequential
from jaxcnn.training import init_train_state, make_train_state, make_train_step
from jaxcnn.training.checkpoint import Checkpoints

contrib = optax.contrib
RATE = 0.01
LINEAR = Sequential(flatten=Flatten(), head=Dense(4 * 4 * 2, 3))
MODEL = Sequential(
    conv=Conv(2, 3), norm=BatchNorm(3), relu=Function(jax.nn.relu), flatten=Flatten(), head=Dense(4 * 4 * 3, 3)
)

UNUSABLE = {
    "optax.contrib.dpsgd": "takes the gradient of every single example",
    "optax.lookahead": "wants parameters in a tree of its own, optax.LookaheadParams",
    "optax.optimistic_adam": "deprecated: raises a warning where it is made",
}

# Optimizers with more arguments than a learning rate, or without one.
OPTIMIZERS = {
    "optax.apply_if_finite": lambda: optax.apply_if_finite(optax.adam(RATE), 3),
    "optax.inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(RATE),
    "optax.lbfgs": lambda: optax.lbfgs(),
    "optax.lbfgs, a chain": lambda: optax.chain(optax.clip(1.0), optax.lbfgs(), contrib.reduce_on_plateau()),
    "optax.lbfgs, backtracking": lambda: optax.lbfgs(linesearch=optax.scale_by_backtracking_linesearch(5)),
    "optax.lbfgs, no line search": lambda: optax.lbfgs(RATE, linesearch=None),
    "optax.MultiSteps": lambda: optax.MultiSteps(optax.adam(RATE), 2).gradient_transformation(),
    "optax.noisy_sgd": lambda: optax.noisy_sgd(RATE, key=jax.random.key(3)),
    "optax.optimistic_adam_v2": lambda: optax.optimistic_adam_v2(RATE),
    "optax.polyak_sgd": lambda: optax.polyak_sgd(RATE),
    "optax.contrib.mechanize": lambda: contrib.mechanize(optax.sgd(RATE)),
    "optax.contrib.reduce_on_plateau": lambda: optax.chain(optax.sgd(RATE), contrib.reduce_on_plateau()),
    "optax.contrib.sam": lambda: contrib.sam(optax.sgd(RATE), optax.chain(contrib.normalize(), optax.sgd(RATE))),
    "optax.contrib.sam, opaque": lambda: contrib.sam(
        optax.sgd(RATE), optax.chain(contrib.normalize(), optax.sgd(RATE)), opaque_mode=True
    ),
    "optax.contrib.schedule_free": lambda: contrib.schedule_free(optax.sgd(RATE), RATE),
    "optax.contrib.sophia": lambda: contrib.sophia(RATE),
}

# The default suite runs optimizers that need more than gradients, and one that does not.
BY_DEFAULT = {
    "optax.adamw",
    "optax.lbfgs, backtracking",
    "optax.contrib.cocob",
    "optax.contrib.momo",
    "optax.contrib.prodigy",
    "optax.contrib.reduce_on_plateau",
    "optax.contrib.sam",
    "optax.contrib.sam, opaque",
    "optax.contrib.schedule_free_sgd",
    "optax.contrib.sophia",
    "optax.polyak_sgd",
}


def with_a_learning_rate(module):
    """Names the functions of a module that make an optimizer of a learning rate."""
    for name in sorted(vars(module)):
        function = getattr(module, name)
        # nadam is a functools.partial of adam.
        if name.startswith(("_", "scale_by_")) or not isinstance(function, FunctionType | functools.partial):
            continue
        if "learning_rate" in inspect.signature(function).parameters:
            yield f"{module.__name__}.{name}", function


FOUND = dict([*with_a_learning_rate(optax), *with_a_learning_rate(contrib)])
GRID = OPTIMIZERS | {
    name: (lambda function=function: function(learning_rate=RATE))
    for name, function in FOUND.items()
    if name not in UNUSABLE and name not in OPTIMIZERS
}


def test_the_grid_holds_the_optimizers_that_optax_has():
    assert len(FOUND) >= 45
    assert set(GRID) >= BY_DEFAULT
    assert set(FOUND) <= set(GRID) | set(UNUSABLE)
    assert not set(GRID) & set(UNUSABLE)


def batch(step):
    random = np.random.default_rng(step)
    images = random.normal(size=(6, 4, 4, 2)).astype(np.float32)
    return {"image": images, "label": (np.arange(6) % 3).astype(np.int32)}


def raw(tree):
    """The bytes of the leaves, and their types, weak ones included."""
    leaves = jax.tree.leaves(tree)
    plain = [jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf for leaf in leaves]
    return [(jax.typeof(leaf), np.asarray(x).tobytes()) for leaf, x in zip(leaves, plain, strict=True)]


@pytest.mark.parametrize(
    "name",
    [
        name if name in BY_DEFAULT else pytest.param(name, marks=[pytest.mark.slow, pytest.mark.heavy])
        for name in sorted(GRID)
    ],
)
def test_an_optimizer_trains_and_resumes_to_the_bit(name, tmp_path):
    with jax.numpy_dtype_promotion("standard"):
        model = LINEAR if name in BY_DEFAULT else MODEL
        optimizer = GRID[name]()
        traces = []

        def augment(key, example):
            traces.append(key)
            return example

        train_step = make_train_step(model, optimizer, augment=augment)

        def go_on(train_state, steps):
            for step in steps:
                train_state, metrics = train_step(train_state, batch(step), jax.random.key(1))
                assert int(metrics.non_finite) == 0
                assert np.isfinite(metrics.mean_loss)
            return train_state

        train_state = init_train_state(model, optimizer, jax.random.key(0))
        first = raw(train_state.params)
        train_state = go_on(train_state, [0, 1])
        Checkpoints(tmp_path).save(2, train_state, {})
        uninterrupted = go_on(train_state, [2, 3])
        like = jax.eval_shape(lambda key: init_train_state(model, optimizer, key), jax.random.key(0))
        resumed = go_on(Checkpoints(tmp_path).restore(like).tree, [2, 3])
    assert raw(resumed) == raw(uninterrupted)
    assert raw(uninterrupted.params) != first
    assert len(traces) == 1  # one program from the first step on


@pytest.mark.parametrize("made_by", ["init_train_state", "make_train_state"])
def test_an_optimizer_that_keeps_the_parameters_has_a_copy(made_by):
    optimizer = OPTIMIZERS["optax.contrib.sam"]()
    if made_by == "init_train_state":
        train_state = init_train_state(LINEAR, optimizer, jax.random.key(0))
    else:
        train_state = make_train_state(*LINEAR.init(jax.random.key(0)), optimizer)
    addresses = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(train_state)]
    assert len(set(addresses)) == len(addresses)
    np.testing.assert_array_equal(train_state.opt_state.cache["head"]["kernel"], train_state.params["head"]["kernel"])


def test_an_update_is_given_what_it_asks_for():
    """An optimizer of extra arguments whose update is what it was given, against the same computed from outside."""
    images, labels = batch(0).values()

    def loss(params):
        logits = images.reshape(6, -1) @ params["head"]["kernel"] + params["head"]["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def update(updates, state, params, *, value, grad, value_fn, grad_fn, obj_fn):
        other = jax.tree.map(lambda leaf: leaf + 1, params)
        seen = {"value": value, "grad": grad, "value_fn": value_fn(other), "obj_fn": obj_fn(other)}
        return jax.tree.map(jnp.zeros_like, updates), seen | {"grad_fn": grad_fn(other, 0), "updates": updates}

    params, _ = LINEAR.init(jax.random.key(0))
    other = jax.tree.map(lambda leaf: leaf + 1, params)
    gradients = jax.grad(loss)(params)
    expected = {"value": loss(params), "grad": gradients, "value_fn": loss(other), "obj_fn": loss(other)}
    expected |= {"grad_fn": jax.grad(loss)(other), "updates": gradients}

    optimizer = optax.GradientTransformationExtraArgs(lambda params: jax.tree.map(jnp.zeros_like, expected), update)
    train_state = make_train_state(params, LINEAR.init(jax.random.key(0))[1], optimizer)
    train_state, _ = make_train_step(LINEAR, optimizer)(train_state, batch(0), jax.random.key(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), train_state.opt_state, expected)
