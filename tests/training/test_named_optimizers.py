"""Optimizers and schedules by name."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn.training import decay_by_name, make_optimizer, make_schedule
from jaxcnn.training.optimizers import OPTIMIZERS

PARAMS = {"conv": {"kernel": jnp.full(3, 2.0), "bias": jnp.full(3, 2.0)}, "norm": {"scale": jnp.full(3, 2.0)}}


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax's Adam mixes the step count with floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_decays_kernels_only(name):
    schedule = optax.constant_schedule(0.1)
    grown = {}
    for decay in (0.0, 0.5):
        optimizer = make_optimizer(name, schedule, weight_decay=decay)
        gradients = {"conv": {"kernel": jnp.ones(3), "bias": jnp.ones(3)}, "norm": {"scale": jnp.ones(3)}}
        state, params = optimizer.init(PARAMS), PARAMS
        for _ in range(2):
            updates, state = optimizer.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
        grown[decay] = params
    for name in ("conv/bias", "norm/scale"):
        layer, leaf = name.split("/")
        np.testing.assert_array_equal(grown[0.0][layer][leaf], grown[0.5][layer][leaf])
    assert not np.allclose(grown[0.0]["conv"]["kernel"], grown[0.5]["conv"]["kernel"], rtol=1e-7)


def test_sgd_has_nesterov_momentum():
    optimizer = make_optimizer("sgd", optax.constant_schedule(0.1), weight_decay=0.5)
    state, params = optimizer.init(PARAMS), PARAMS
    expected, trace = 2.0, 0.0
    for _ in range(3):
        gradients = {"conv": {"kernel": jnp.ones(3), "bias": jnp.ones(3)}, "norm": {"scale": jnp.ones(3)}}
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        gradient = 1.0 + 0.5 * expected
        trace = gradient + 0.9 * trace
        expected -= 0.1 * (gradient + 0.9 * trace)
    np.testing.assert_allclose(params["conv"]["kernel"], expected, rtol=1e-6)


def test_the_norm_that_is_clipped_is_that_of_the_whole_gradient():
    optimizer = make_optimizer("sgd", optax.constant_schedule(1.0), weight_decay=0.0, clip_norm=1.5)
    gradients = {"conv": {"kernel": jnp.ones(3), "bias": jnp.ones(3)}, "norm": {"scale": jnp.full(3, -1.0)}}
    updates, _ = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["conv"]["kernel"], -1.9 * 1.5 / 3, rtol=1e-6)  # the norm is 3
    np.testing.assert_allclose(updates["norm"]["scale"], 1.9 * 1.5 / 3, rtol=1e-6)


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0, 5])
def test_the_learning_rate_rises_then_falls(kind, warmup):
    schedule = make_schedule(kind, 0.4, warmup_steps=warmup, total_steps=20)
    for step in range(21):
        progress = (step - warmup) / (20 - warmup)
        after = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress, "constant": 1.0}[kind]
        expected = 0.4 * (step / warmup if step < warmup else after)
        assert float(schedule(step)) == pytest.approx(expected, abs=1e-6)


def test_a_training_that_is_all_warm_up_only_rises():
    schedule = make_schedule("cosine", 0.4, warmup_steps=40, total_steps=20)
    assert [float(schedule(step)) for step in (0, 10, 20)] == pytest.approx([0.0, 0.1, 0.2])


def test_adamw_and_lion_are_those_of_optax():
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    mask = {"conv": {"kernel": True, "bias": False}, "norm": {"scale": False}}
    for name, build in {"adamw": optax.adamw, "lion": optax.lion}.items():
        ours, theirs = make_optimizer(name, 0.1, weight_decay=0.3), build(0.1, weight_decay=0.3, mask=mask)
        results = []
        for optimizer in (ours, theirs):
            params, state = PARAMS, optimizer.init(PARAMS)
            for _ in range(3):
                updates, state = optimizer.update(gradients, state, params)
                params = optax.apply_updates(params, updates)
            results.append((params, [leaf.tolist() for leaf in jax.tree.leaves(state)]))
        assert results[0][1] == results[1][1]
        jax.tree.map(np.testing.assert_array_equal, results[0][0], results[1][0])


def test_muon_turns_the_filters_of_convolutions_into_orthogonal_ones_and_leaves_the_rest_to_adam():
    rng = np.random.default_rng(0)
    gradients = {
        "conv": {"kernel": jnp.asarray(rng.normal(size=(3, 3, 4, 8)) * np.arange(1, 9), jnp.float32)},
        "head": {"kernel": jnp.asarray(rng.normal(size=(8, 5)), jnp.float32)},
    }
    params = jax.tree.map(jnp.zeros_like, gradients)
    optimizer = make_optimizer("muon", 0.5)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    # The polynomial of Jordan et al. on the singular values of the matrix of filters, normalised by its norm.
    left, values, right = np.linalg.svd(np.float64(gradients["conv"]["kernel"]).reshape(-1, 8), full_matrices=False)
    values = values / np.linalg.norm(values)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    np.testing.assert_allclose(updates["conv"]["kernel"].reshape(-1, 8), -0.5 * (left * values) @ right, atol=1e-4)
    assert 0.6 < values.min() < values.max() < 1.3
    # Adam's first step has the size of the learning rate; Nesterov's momentum of 0.9 adds 0.9 * 0.1 / (1 - 0.9**2).
    step = 0.5 * (1 + 0.09 / 0.19)
    np.testing.assert_allclose(updates["head"]["kernel"], -step * np.sign(gradients["head"]["kernel"]), rtol=1e-3)


RATES = {".*/kernel": 0.5, "norm/.*": 0.25, ".*/bias": 0.0}


def test_weight_decay_by_name():
    optimizer = decay_by_name(RATES)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, PARAMS), optimizer.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(updates["conv"]["kernel"], 1.0)
    np.testing.assert_array_equal(updates["conv"]["bias"], 0.0)
    np.testing.assert_array_equal(updates["norm"]["scale"], 0.5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rates_by_name_are_those_of_kernels_alone(name):
    gradients, results = jax.tree.map(jnp.ones_like, PARAMS), []
    for decay in (0.5, {".*/kernel": 0.5, "(?!.*/kernel).*": 0.0}):
        optimizer = make_optimizer(name, 0.1, weight_decay=decay)
        results.append(optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)[0])
    jax.tree.map(np.testing.assert_array_equal, *results)


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({".*/kernel": 0.5}, r"'conv/bias' matches no rule\n  'norm/scale' matches no rule"),
        (RATES | {"conv/.*": 1.0}, r"'conv/kernel' matches \['\.\*/kernel', 'conv/\.\*'\]"),
        (RATES | {"head/.*": 1.0}, "rule 'head/.*' matches no leaf"),
    ],
)
def test_every_parameter_matches_exactly_one_rate_and_every_rate_one(rates, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer("sgd", 0.1, weight_decay=rates).init(PARAMS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_optimizer("adamwd", 0.1), r"a name among \('adam', .*'sgd'\), got 'adamwd'"),
        (lambda: make_optimizer("sgd", 0.1, clip_norm=0.0), "clip_norm above 0, got 0.0"),
        (lambda: make_optimizer("sgd", 0.1, weight_decay=-1.0), "weight_decay of at least 0, got -1.0"),
        (lambda: make_optimizer("sgd", 0.1, weight_decay={".*": float("nan")}), "rates of at least 0, got nan for"),
        (lambda: make_schedule("step", 0.1, warmup_steps=0, total_steps=9), r"a kind among \('cosine', .* got 'step'"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
