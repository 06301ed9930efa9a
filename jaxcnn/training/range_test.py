"""The learning-rate range test, which suggests a learning rate."""

import math
from contextlib import closing
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn import data
from jaxcnn.data import Prepare, Source, Splits
from jaxcnn.data.prefetch import ahead
from jaxcnn.training.experiment import Experiment, choose_task
from jaxcnn.training.phases import make_phase_step, make_phases
from jaxcnn.training.recipe import Recipe
from jaxcnn.training.train_state import make_train_state
from jaxcnn.types import Layer, Params, State, Task

_FEWEST = 10
"""Least number of losses for a suggestion."""

_MEMORY = 0.9
"""Decay of the moving average of the loss that tells whether the training diverges."""

_SMOOTHING = 30
"""The standard deviation of the smoothing is the number of steps divided by this."""


class RangeTest(NamedTuple):
    """The result of a learning-rate range test; `jaxcnn.plots.learning_rates` draws it.

    Attributes:
      rates: learning rates of the steps, increasing, shape (steps,).
      losses: mean loss of the batch of each step, before its update, shape (steps,).
      smoothed: the losses, averaged over neighbouring steps, shape (steps,).
      suggestion: the learning rate at which the smoothed loss falls fastest; None if it never falls.
      diverged: whether the test ended early because the loss grew.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float | None
    diverged: bool


def find_learning_rate(
    layer: Layer,
    source: Source | Splits,
    recipe: Recipe | None = None,
    *,
    weights: tuple[Params, State] | None = None,
    task: Task | None = None,
    prepare: Prepare | None = None,
    lowest: float = 1e-7,
    highest: float = 10.0,
    steps: int = 100,
    divergence: float = 4.0,
) -> RangeTest:
    """Trains a few steps with a growing learning rate, and suggests one (Smith 2017, section 3.3).

        found = find_learning_rate(lenet5(), data.digits(), Recipe(batch_size=64))
        recipe = dataclasses.replace(recipe, learning_rate=found.suggestion)

    The learning rate grows by the same factor at each step. The suggestion is the rate at which the smoothed loss falls
    fastest per factor, left of its minimum. The loss of a step follows the updates with the smaller rates, so that the
    suggestion errs on the small side by one step.

    The first phase of the recipe is trained: with its frozen layers, optimizer, weight decay, augmentation, batch size
    and precision. Its learning rate, schedule and number of epochs have no effect. The order of the batches, and the
    initial weights, are those of `jaxcnn.training.run`.

    Args:
      layer: the model, without frozen layers.
      source: the examples; the training set is drawn from them as in `run`.
      recipe: how to train; `Recipe()` if None.
      weights: initial parameters and state; drawn by `recipe.seed` if None. They are not changed.
      task: loss; chosen by the entries of the examples if None.
      prepare: prepares the examples on the host, as in `run`.
      lowest: learning rate of the first step, above 0.
      highest: learning rate of the last step, above `lowest`.
      steps: number of steps, at least 10. They may pass over the training set several times.
      divergence: the test ends early when the moving average of the loss exceeds its least value by this factor, which
        is above 1, or the loss is not finite.

    Returns:
      The learning rates, the losses and the suggestion.

    Raises:
      ValueError: an argument is out of range, data and model do not fit, or the loss diverges within 10 steps.
    """
    _check(lowest, highest, steps, divergence)
    recipe = Recipe() if recipe is None else recipe
    splits = data.split(source, fractions=recipe.split_fractions, seed=recipe.split_seed)
    task = choose_task(splits["train"], layer) if task is None else task
    experiment = Experiment(layer, splits, recipe, task, observers=(), prepare=prepare)
    experiment.check()
    params, state = experiment.first_weights(weights)
    _, key = jax.random.split(jax.random.key(recipe.seed))
    schedule = _exponential(lowest, highest, steps)
    phase = make_phases(recipe, layer, params, experiment.batches.steps_per_epoch, schedule=schedule)[0]
    train_step = make_phase_step(phase, phase.layer, recipe, task, len(splits["train"].class_names))
    train_state = make_train_state(
        params, state, phase.optimizer, ema=recipe.ema is not None, trainable=phase.trainable
    )
    losses: list[float] = []
    diverged, average = False, _MovingAverage()
    with closing(ahead(experiment.batches.at(range(steps)), 2)) as prepared:
        for batch in prepared:
            train_state, metrics = train_step(train_state, batch, key)
            loss = jax.device_get(metrics).mean_loss
            if not math.isfinite(loss):
                diverged = True
                break
            losses.append(loss)
            diverged = average.plus(loss) > divergence * average.least
            if diverged:
                break
    if len(losses) < _FEWEST:
        raise ValueError(
            f"find_learning_rate expects at least {_FEWEST} steps before the loss diverges, got {len(losses)}; start "
            f"with a learning rate below {lowest:g}, and make sure that the images are finite"
        )
    rates = np.asarray(schedule(jnp.arange(len(losses))), np.float64)
    smoothed = _smoothed(np.array(losses), steps / _SMOOTHING)
    return RangeTest(rates, np.array(losses), smoothed, _steepest(rates, smoothed), diverged)


class _MovingAverage:
    """The exponential moving average of a loss, corrected for its start at zero (Kingma & Ba 2015, section 3)."""

    def __init__(self) -> None:
        self._sum, self._weight, self.least = 0.0, 0.0, math.inf

    def plus(self, loss: float) -> float:
        """Adds a loss, and returns the average."""
        self._sum = _MEMORY * self._sum + (1 - _MEMORY) * loss
        self._weight = _MEMORY * self._weight + (1 - _MEMORY)
        average = self._sum / self._weight
        self.least = min(self.least, average)
        return average


def _exponential(lowest: float, highest: float, steps: int) -> optax.Schedule:
    growth = math.log(highest / lowest) / (steps - 1)
    return lambda step: lowest * jnp.exp(growth * step)


def _smoothed(losses: np.ndarray, deviation: float) -> np.ndarray:
    """Averages each loss with its neighbours by Gaussian weights, which do not shift the curve."""
    steps = np.arange(len(losses))
    weights = np.exp(-(((steps[:, None] - steps) / deviation) ** 2) / 2)
    return weights @ losses / weights.sum(1)


def _steepest(rates: np.ndarray, smoothed: np.ndarray) -> float | None:
    """Returns the rate at which the loss falls fastest, left of its minimum."""
    slopes = np.gradient(smoothed, np.log(rates))[: int(np.argmin(smoothed)) + 1]
    steepest = int(np.argmin(slopes))
    return float(rates[steepest]) if slopes[steepest] < 0 else None


def _check(lowest: float, highest: float, steps: int, divergence: float) -> None:
    if not 0 < lowest < highest < math.inf:
        raise ValueError(f"find_learning_rate expects 0 < lowest < highest, got {lowest!r} and {highest!r}")
    if steps < _FEWEST:
        raise ValueError(f"find_learning_rate expects at least {_FEWEST} steps, got {steps!r}")
    if not divergence > 1:
        raise ValueError(f"find_learning_rate expects a divergence above 1, got {divergence!r}")
