import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.training import Metrics, batch_metrics


def test_sums_up_a_batch():
    random = np.random.default_rng(0)
    losses, logits = random.uniform(size=9).astype(np.float32), random.normal(size=(9, 4)).astype(np.float32)
    labels = random.integers(0, 4, 9).astype(np.int32)
    metrics = batch_metrics(jnp.asarray(losses), jnp.asarray(logits), jnp.asarray(labels))
    assert float(metrics.loss) == pytest.approx(sum(map(float, losses)), rel=1e-6)
    assert int(metrics.correct) == sum(max(range(4), key=row.__getitem__) == k for row, k in zip(logits, labels))  # noqa: B905
    assert int(metrics.examples) == 9
    assert (metrics.loss.dtype, metrics.correct.dtype, metrics.examples.dtype) == (jnp.float32, jnp.int32, jnp.int32)


def test_examples_outside_the_mask_do_not_count_even_with_a_loss_that_is_not_finite():
    losses = jnp.array([1.0, jnp.nan, 2.0, jnp.inf])
    logits = jnp.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    metrics = batch_metrics(losses, logits, jnp.array([0, 0, 1, 1]), jnp.array([True, False, True, False]))
    assert metrics == Metrics(3.0, 1, 2)


def test_of_several_largest_logits_the_first_is_the_prediction():
    metrics = batch_metrics(jnp.zeros(2), jnp.array([[1.0, 2.0, 2.0], [1.0, 2.0, 2.0]]), jnp.array([1, 2]))
    assert int(metrics.correct) == 1


def test_of_several_heads_the_first_one_counts():
    logits = jnp.array([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]])
    metrics = batch_metrics(jnp.array([1.0, 2.0]), logits, jnp.array([0, 0]))
    assert metrics == Metrics(3.0, 1, 2)


@pytest.mark.parametrize("sizes", [(20,), (1,) * 20, (7, 7, 6), (1, 19), (16, 4)])
def test_batches_of_any_size_add_up_exactly(sizes):
    # Eighths are exact in float32, so that nothing but a wrong weight can move the sums.
    random = np.random.default_rng(1)
    losses = random.integers(0, 100, 20) / np.float32(8)
    logits, labels = random.normal(size=(20, 3)).astype(np.float32), random.integers(0, 3, 20)
    total, first = Metrics(), 0
    for size in sizes:
        part = slice(first, first + size)
        total, first = (
            total.plus(batch_metrics(*map(jnp.asarray, (losses[part], logits[part], labels[part])))),
            part.stop,
        )
    assert total == Metrics(float(losses.sum()), int(np.sum(logits.argmax(1) == labels)), 20)
    assert total.mean_loss() == float(losses.sum()) / 20
    assert total.accuracy() == np.mean(logits.argmax(1) == labels)


def test_a_sum_is_kept_in_python_numbers_so_that_long_epochs_lose_nothing():
    total = Metrics(2.0**30, 2**40, 2**41).plus(Metrics(jnp.float32(0.25), jnp.int32(1), jnp.int32(2)))
    assert total == Metrics(2.0**30 + 0.25, 2**40 + 1, 2**41 + 2)
    assert [type(value) for value in total] == [float, int, int, float, int]


@pytest.mark.parametrize("norms", [(1.0, 3.0, 2.0), (3.0, 1.0, 2.0), (math.nan, 1.0, 2.0), (1.0, 2.0, math.nan)])
def test_of_several_steps_the_largest_gradient_norm_is_kept_and_what_is_not_finite_counted(norms):
    total = Metrics()
    for norm in norms:
        total = total.plus(Metrics(1.0, 1, 1, jnp.float32(norm), jnp.int32(norm == 1.0)))
    np.testing.assert_equal(total.gradient_norm, math.nan if any(map(math.isnan, norms)) else 3.0)
    assert total.non_finite == 1


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "uint32"])
def test_labels_may_be_integers_of_any_kind(dtype):
    logits = jnp.zeros((2, 130)).at[0, 129].set(1.0).at[1, 3].set(1.0)
    labels = jnp.array([129 if dtype != "int8" else 127, 3], dtype)
    assert int(batch_metrics(jnp.zeros(2), logits, labels).correct) == (2 if dtype != "int8" else 1)


def test_without_examples_there_is_no_mean():
    assert math.isnan(Metrics().mean_loss())
    assert math.isnan(Metrics().accuracy())
