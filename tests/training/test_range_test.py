import dataclasses

import jax
import numpy as np
import pytest

from jaxcnn import data
from jaxcnn.layers import Dense, Flatten, Sequential
from jaxcnn.tasks import Regression
from jaxcnn.training import Recipe, find_learning_rate, range_test

MODEL = Sequential(flatten=Flatten(), head=Dense(4, 1))
RECIPE = Recipe(batch_size=8, optimizer="sgd", weight_decay=0.0, augment="none")


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax's optimizers need it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def source():
    """40 images of 2x2 with a target that is linear in the pixels: the loss is a quadratic function."""
    images = np.random.default_rng(0).random((40, 2, 2, 1), np.float32)
    targets = images.reshape(40, 4) @ np.array([[3.0], [-2.0], [1.0], [5.0]], np.float32)
    return data.Arrays({"image": images, "target": targets}, ())


def by_hand(source, lowest, highest, steps):
    """The range test in NumPy: gradient descent with Nesterov's momentum on the mean squared error."""
    recipe = dataclasses.replace(RECIPE)
    train = data.split(source, seed=recipe.split_seed)["train"]
    batches = data.Batches(train, 8, seed=recipe.seed)
    params, _ = MODEL.init(jax.random.split(jax.random.key(recipe.seed))[0])
    kernel, bias = (np.asarray(params["head"][name], np.float64) for name in ("kernel", "bias"))
    momentum, losses = [0.0, 0.0], []
    rates = lowest * (highest / lowest) ** (np.arange(steps) / (steps - 1))
    for step, rate in enumerate(rates):
        x, target = batches[step]["image"].reshape(8, 4).astype(np.float64), batches[step]["target"]
        error = x @ kernel + bias - target
        losses.append(np.mean(error**2))
        gradients = [2 * x.T @ error / 8, 2 * error.mean(0)]
        momentum = [0.9 * m + g for m, g in zip(momentum, gradients, strict=True)]
        updates = [0.9 * m + g for m, g in zip(momentum, gradients, strict=True)]
        kernel, bias = kernel - rate * updates[0], bias - rate * updates[1]
    return rates, np.array(losses)


def test_the_losses_are_those_of_gradient_descent_with_a_growing_rate(source):
    rates, losses = by_hand(source, 1e-5, 0.05, 40)
    found = find_learning_rate(MODEL, source, RECIPE, task=Regression(), lowest=1e-5, highest=0.05, steps=40)
    assert not found.diverged
    np.testing.assert_allclose(found.rates, rates, rtol=1e-4)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-4)


def test_it_ends_when_the_loss_grows_and_suggests_a_rate_that_trains(source):
    found = find_learning_rate(MODEL, source, RECIPE, lowest=1e-6, highest=100.0, steps=120)
    assert found.diverged
    assert len(found.rates) < 120
    assert found.rates[0] < found.suggestion < found.rates[np.argmin(found.smoothed)]
    # A tenth and ten times the rate at which the loss is least are too small and too large.
    assert 1e-4 < found.suggestion < 0.2


def test_the_suggestion_is_the_steepest_descent():
    rates = np.logspace(-6, 0, 61)
    place = np.log10(rates)
    # It falls fastest at 1e-3, rises from 0.1 on, and falls back faster near 1, which does not count.
    losses = (
        1 / (1 + np.exp(3 * (place + 3))) + np.where(place > -1, 4 * (place + 1), 0) - np.where(place > -0.25, 2, 0)
    )
    assert np.gradient(losses).argmin() > 55
    assert range_test._steepest(rates, losses) == pytest.approx(1e-3, rel=1e-6)
    assert range_test._steepest(rates, np.linspace(1, 2, 61)) is None


def test_smoothing_neither_shifts_nor_bends_a_line():
    line = np.linspace(3, 1, 50)
    smoothed = range_test._smoothed(line, 2.0)
    np.testing.assert_allclose(smoothed[10:-10], line[10:-10], rtol=1e-6)
    noise = np.random.default_rng(0).normal(size=50)
    assert np.std(range_test._smoothed(line + noise, 2.0) - line) < 0.6


def test_the_weights_are_those_given_and_stay_as_they_are(source):
    params, state = MODEL.init(jax.random.key(5))
    before = jax.tree.map(np.array, params)
    found = find_learning_rate(MODEL, source, RECIPE, weights=(params, state), steps=10, lowest=1e-9, highest=1e-8)
    jax.tree.map(np.testing.assert_array_equal, params, before)
    train = data.split(source, seed=0)["train"]
    batch = data.Batches(train, 8, seed=0)[0]
    outputs = batch["image"].reshape(8, 4) @ before["head"]["kernel"] + before["head"]["bias"]
    assert found.losses[0] == pytest.approx(np.mean((outputs - batch["target"]) ** 2), rel=1e-5)


def test_frozen_layers_stay_frozen(source, monkeypatch):
    model = Sequential(flatten=Flatten(), hidden=Dense(4, 4), head=Dense(4, 1))
    recipe = dataclasses.replace(RECIPE, freeze="backbone")
    seen = []
    make = range_test.make_train_state
    monkeypatch.setattr(range_test, "make_train_state", lambda *a, **words: seen.append(words) or make(*a, **words))
    find_learning_rate(model, source, recipe, steps=10, highest=0.01)
    assert seen[0]["trainable"]["hidden"] == {"kernel": False, "bias": False}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"lowest": 0.0}, "expects 0 < lowest < highest, got 0.0"),
        ({"lowest": 1.0, "highest": 1.0}, "expects 0 < lowest < highest"),
        ({"highest": float("inf")}, "expects 0 < lowest < highest"),
        ({"steps": 9}, "at least 10 steps, got 9"),
        ({"divergence": 1.0}, "a divergence above 1, got 1.0"),
        ({"lowest": 1e3, "highest": 1e6}, "at least 10 steps before the loss diverges, got [1-9]; start with"),
    ],
)
def test_nonsense_is_refused(source, words, message):
    with pytest.raises(ValueError, match=message):
        find_learning_rate(MODEL, source, RECIPE, **words)
