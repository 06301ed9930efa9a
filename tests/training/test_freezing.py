"""Training with frozen layers: what the compiled step computes, and what it leaves alone."""

import re

import jax
import numpy as np
import optax
import pytest

from jaxcnn import trees
from jaxcnn.inspection import count_multiply_adds
from jaxcnn.layers import (
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Function,
    GlobalAvgPool,
    Residual,
    Sequential,
    freeze,
    multiply_adds,
    trainable,
    unfreeze,
)
from jaxcnn.training import make_train_state, make_train_step

RELU = Function(jax.nn.relu)
MODEL = Sequential(
    stem=Sequential(conv=Conv(3, 4, use_bias=False), norm=BatchNorm(4), relu=RELU),
    stage=Residual(Sequential(conv=Conv(4, 4, use_bias=False), norm=BatchNorm(4)), activation=RELU),
    pool=GlobalAvgPool(),
    drop=Dropout(0.5),
    head=Dense(4, 3),
)
BACKBONE = "(?!head).*"
SIZE, SHAPE = 6, (6, 6, 3)
IMAGES = np.random.default_rng(0).normal(size=(SIZE, *SHAPE)).astype(np.float32)
BATCH = {"image": IMAGES, "label": np.arange(SIZE) % 3}
OPTIMIZER = optax.sgd(0.1, momentum=0.9)
KEY = jax.random.key(1)


def start(pattern=BACKBONE, optimizer=OPTIMIZER):
    model = freeze(MODEL, pattern)
    params, state = MODEL.init(jax.random.key(0))
    return model, make_train_state(params, state, optimizer, trainable=trainable(model, params))


def work(layer_name, shape):
    return SIZE * multiply_adds(MODEL[layer_name], shape)


FORWARD = SIZE * multiply_adds(MODEL, SHAPE)
HEAD = work("head", (4,))
WHOLE = 3 * FORWARD - work("stem", SHAPE)


def step_work(model, train_state):
    return count_multiply_adds(make_train_step(model, OPTIMIZER), train_state, BATCH, KEY)


def test_a_step_with_a_frozen_backbone_has_no_backward_pass_through_it():
    # Forward through all, and of the head the gradient of its kernel; that of its input is nobody's.
    assert step_work(*start()) == FORWARD + HEAD
    # For comparison: each layer forward and backward to kernel and input, but for the first, whose input is the image.
    params, state = MODEL.init(jax.random.key(0))
    assert step_work(MODEL, make_train_state(params, state, OPTIMIZER)) == WHOLE


def test_freezing_the_first_layers_saves_their_backward_pass_alone():
    assert step_work(*start("stem")) == FORWARD + work("stage", (6, 6, 4)) + 2 * HEAD


@pytest.mark.slow
def test_the_compiled_step_does_less_than_half_of_the_work(monkeypatch):
    # XLA's own convolutions, which it can count; the C++ kernels are closed to it.
    monkeypatch.setenv("JAXCNN_NATIVE", "0")

    def compiled(model, train_state):
        return make_train_step(model, OPTIMIZER).lower(train_state, BATCH, KEY).compile()

    params, state = MODEL.init(jax.random.key(0))
    frozen, whole = compiled(*start()), compiled(MODEL, make_train_state(params, state, OPTIMIZER))
    assert frozen.cost_analysis()["flops"] < 0.5 * whole.cost_analysis()["flops"]


def test_frozen_parameters_and_statistics_stay_to_the_bit_and_the_head_learns():
    model, train_state = start()
    before = trees.named_leaves(jax.tree.map(np.array, (train_state.params, train_state.state)))
    step, losses = make_train_step(model, OPTIMIZER), []
    for _ in range(5):
        train_state, metrics = step(train_state, BATCH, KEY)
        losses.append(metrics.mean_loss)
    assert losses == sorted(losses, reverse=True)
    for name, leaf in trees.named_leaves((train_state.params, train_state.state)).items():
        assert np.array_equal(leaf, before[name]) != name.startswith("0/head"), name


def test_the_optimizer_holds_no_moments_for_frozen_parameters():
    _, train_state = start(optimizer=optax.adam(1e-3))
    assert {re.sub(r".*/(mu|nu)/", "", name) for name in trees.named_leaves(train_state.opt_state)} == {
        "0/count",
        "head/bias",
        "head/kernel",
    }


def test_unfrozen_it_goes_on_with_all_its_parameters():
    model, train_state = start()
    model, params = unfreeze(model), train_state.params
    assert model == MODEL
    train_state = make_train_state(params, train_state.state, OPTIMIZER, step=5)
    assert int(train_state.step) == 5
    assert step_work(model, train_state) == WHOLE
    assert len(jax.tree.leaves(train_state.opt_state)) == len(jax.tree.leaves(params))


def test_a_train_state_of_given_parameters_leaves_them_to_their_owner():
    model = Sequential(pool=GlobalAvgPool(), norm=BatchNorm(3), head=Dense(3, 3))
    step = make_train_step(model, OPTIMIZER)
    given = model.init(jax.random.key(0))
    host = jax.tree.map(np.array, given)
    for params, state in (given, host):
        new, _ = step(make_train_state(params, state, OPTIMIZER, step=7), BATCH, KEY)
        assert int(new.step) == 8
        # Neither donated nor written to.
        jax.tree.map(np.testing.assert_array_equal, (params, state), host)


def test_a_train_state_cannot_stand_before_the_first_step():
    with pytest.raises(ValueError, match="a step of at least 0, got -1"):
        make_train_state({}, {}, OPTIMIZER, step=-1)
