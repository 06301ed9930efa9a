import functools
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.training import Metrics
from jaxcnn.types import Mean


def test_sums_are_kept_in_float64_so_that_long_epochs_lose_nothing():
    long = Metrics({"loss": Mean(2.0**30, 2**40), "iou": Mean(np.array([2.0**40, 1]), np.array([2.0**41, 2]))})
    step = Metrics({"loss": Mean(jnp.float32(0.25), jnp.float32(1)), "iou": Mean(jnp.ones(2), jnp.full(2, 3.0))})
    total = long.plus(step)
    assert total.sums["loss"] == Mean(2.0**30 + 0.25, 2**40 + 1)
    np.testing.assert_array_equal(total.sums["iou"], [[2.0**40 + 1, 2], [2.0**41 + 3, 5]])
    assert total.mean_loss == (2.0**30 + 0.25) / (2**40 + 1)


def test_nothing_plus_a_step_is_the_step():
    step = Metrics({"loss": Mean(jnp.float32(3), jnp.float32(2))}, jnp.float32(5), jnp.int32(1))
    assert Metrics().plus(step) == Metrics({"loss": Mean(3.0, 2.0)}, 5.0, 1)
    assert Metrics().plus(step).figures() == {"loss": 1.5}


def test_metrics_of_other_names_are_refused():
    with pytest.raises(ValueError, match=r"metrics of the same names, got \['loss'\] and \['iou', 'loss'\]"):
        Metrics({"loss": Mean(1, 1)}).plus(Metrics({"loss": Mean(1, 1), "iou": Mean(1, 1)}))


@pytest.mark.parametrize("norms", [(1.0, 3.0, 2.0), (3.0, 1.0, 2.0), (math.nan, 1.0, 2.0), (1.0, 2.0, math.nan)])
def test_of_several_steps_the_largest_gradient_norm_is_kept_and_what_is_not_finite_counted(norms):
    total = Metrics()
    for norm in norms:
        total = total.plus(Metrics({}, jnp.float32(norm), jnp.int32(norm == 1.0)))
    np.testing.assert_equal(total.gradient_norm, math.nan if any(map(math.isnan, norms)) else 3.0)
    assert total.non_finite == 1


def test_metrics_go_through_json_to_the_bit():
    metrics = Metrics({"loss": Mean(1 / 3, 7.0), "iou": Mean(np.array([0.1, 0.2]), np.array([1.0, 2.0]))}, 0.7, 2)
    read = Metrics.from_json(json.loads(json.dumps(metrics.as_json())))
    assert (read.sums["loss"], read.gradient_norm, read.non_finite) == (Mean(1 / 3, 7.0), 0.7, 2)
    np.testing.assert_array_equal(read.sums["iou"], metrics.sums["iou"])
    assert Metrics.from_json(json.loads(json.dumps(Metrics().as_json()))) == Metrics()


def test_without_examples_there_is_no_mean():
    assert math.isnan(Metrics().mean_loss)
    assert Metrics().figures() == {}


def test_the_sums_do_not_depend_on_how_many_steps_are_added_at_once():
    numbers = np.float32(np.random.default_rng(0).normal(size=(40, 2)) * 10.0 ** np.arange(-10, 30)[:, None])
    steps = [Metrics({"loss": Mean(*pair)}, abs(pair[0]), np.int32(1)) for pair in numbers]
    one_by_one = functools.reduce(Metrics.plus, steps, Metrics())
    assert Metrics().plus(*steps) == Metrics().plus(*steps[:16]).plus(*steps[16:]) == one_by_one
