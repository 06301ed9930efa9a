import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.tasks import cross_entropy, soft_targets
from jaxcnn.values import Partial


def reference(logits, labels, smoothing):
    """The definition, one example and one class at a time, in float64."""
    losses = []
    for row, label in zip(np.asarray(logits, np.float64), labels, strict=True):
        log_probabilities = row - row.max() - np.log(np.sum(np.exp(row - row.max())))
        target = [smoothing / len(row) + (1 - smoothing) * (k == label) for k in range(len(row))]
        losses.append(-sum(t * p for t, p in zip(target, log_probabilities, strict=True)))
    return np.array(losses)


def some_logits(examples=7, classes=5, scale=3.0):
    return np.random.default_rng(0).normal(size=(examples, classes)).astype(np.float32) * np.float32(scale)


LABELS = np.array([0, 1, 2, 3, 4, 0, 2], np.int32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("scale", [0.0, 3.0, 300.0])
def test_is_the_cross_entropy_against_the_smoothed_labels(smoothing, scale):
    logits = some_logits(scale=scale)
    losses = cross_entropy(jnp.asarray(logits), jnp.asarray(LABELS), label_smoothing=smoothing)
    assert losses.shape == (7,)
    np.testing.assert_allclose(losses, reference(logits, LABELS, smoothing), rtol=1e-5, atol=1e-6)


def test_a_uniform_guess_costs_the_logarithm_of_the_classes():
    losses = cross_entropy(jnp.zeros((2, 10)), jnp.array([3, 9]))
    np.testing.assert_allclose(losses, np.log(10), rtol=1e-6)


def test_the_gradient_is_the_softmax_minus_the_target():
    logits, smoothing = some_logits(), 0.1
    gradient = jax.grad(lambda x: jnp.sum(cross_entropy(x, jnp.asarray(LABELS), label_smoothing=smoothing)))(
        jnp.asarray(logits)
    )
    exponentials = np.exp(np.asarray(logits, np.float64))
    target = smoothing / 5 + (1 - smoothing) * np.eye(5)[LABELS]
    np.testing.assert_allclose(gradient, exponentials / exponentials.sum(1, keepdims=True) - target, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_half_precision_logits_are_summed_in_float32(smoothing):
    logits = jnp.asarray(some_logits(), jnp.bfloat16)
    losses = cross_entropy(logits, jnp.asarray(LABELS), label_smoothing=smoothing)
    assert losses.dtype == jnp.float32
    np.testing.assert_allclose(losses, reference(logits.astype(jnp.float32), LABELS, smoothing), rtol=1e-5)


@pytest.mark.parametrize(
    ("logits_shape", "labels_shape"), [((2, 3, 4), (2,)), ((2, 3), (3,)), ((2, 3), (2, 1)), ((2, 3), (2, 3, 3))]
)
def test_refuses_shapes_that_do_not_fit(logits_shape, labels_shape):
    with pytest.raises(ValueError, match=r"expects logits \(..., num_classes\), and labels \(...\) or .*, got \("):
        cross_entropy(jnp.zeros(logits_shape), jnp.zeros(labels_shape, jnp.int32))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_refuses_a_smoothing_that_is_no_share(smoothing):
    with pytest.raises(ValueError, match=rf"expects a label_smoothing in \[0, 1\), got {smoothing}"):
        cross_entropy(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32), label_smoothing=smoothing)


ROADS = {
    "labels": cross_entropy,
    "smoothed labels": Partial(cross_entropy, label_smoothing=0.1),
    "weights of classes": Partial(cross_entropy, class_weights=(1.0, 2.0, 0.5, 1.0, 3.0)),
}


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("label", [-1, 5, -(2**31), 2**31 - 1])
def test_a_label_out_of_range_makes_its_own_loss_and_gradient_nan_and_no_other(road, label):
    labels = jnp.asarray(LABELS).at[2].set(label)
    logits = jnp.asarray(some_logits())
    losses = jax.jit(ROADS[road])(logits, labels)
    np.testing.assert_array_equal(np.isnan(losses), np.arange(7) == 2)
    gradient = jax.jit(jax.grad(lambda logits: jnp.sum(ROADS[road](logits, labels))))(logits)
    np.testing.assert_array_equal(np.isnan(gradient).reshape(7, -1).all(1), np.arange(7) == 2)
    np.testing.assert_array_equal(np.isnan(gradient).reshape(7, -1).any(1), np.arange(7) == 2)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint32"])
def test_integers_of_any_kind_are_labels(dtype, smoothing):
    losses = cross_entropy(jnp.asarray(some_logits()), jnp.asarray(LABELS, dtype), label_smoothing=smoothing)
    np.testing.assert_allclose(losses, reference(some_logits(), LABELS, smoothing), rtol=1e-5, atol=1e-6)
    with pytest.raises(TypeError, match=r"expects integer labels, got float32; cast them, as labels.astype\(int\)"):
        cross_entropy(jnp.asarray(some_logits()), jnp.asarray(LABELS, "float32"), label_smoothing=smoothing)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_float64_logits_keep_their_digits(smoothing):
    logits = np.random.default_rng(0).normal(size=(7, 5))
    losses = cross_entropy(jnp.asarray(logits), jnp.asarray(LABELS), label_smoothing=smoothing)
    assert losses.dtype == jnp.float64
    np.testing.assert_allclose(losses, reference(logits, LABELS, smoothing), rtol=1e-14)


def test_pixels_are_labels_too():
    logits = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 5, (2, 3, 4))
    losses = cross_entropy(jnp.asarray(logits), jnp.asarray(labels, jnp.uint8), label_smoothing=0.2)
    expected = reference(logits.reshape(-1, 5), labels.reshape(-1), 0.2)
    np.testing.assert_allclose(losses, expected.reshape(2, 3, 4), rtol=1e-5)


def test_shares_of_one_class_are_its_label():
    shares = soft_targets(jnp.asarray(LABELS), 5)
    np.testing.assert_array_equal(shares, np.eye(5)[LABELS])
    for options in ({}, {"label_smoothing": 0.1}, {"class_weights": (1.0, 2.0, 0.5, 1.0, 3.0)}):
        np.testing.assert_allclose(
            cross_entropy(jnp.asarray(some_logits()), shares, **options),
            cross_entropy(jnp.asarray(some_logits()), jnp.asarray(LABELS), **options),
            rtol=1e-5,
        )


def test_shares_of_a_label_out_of_range_are_nan():
    shares = soft_targets(jnp.array([0, 3, -1, 2]), 3)
    np.testing.assert_array_equal(np.isnan(shares).all(1), [False, True, True, False])


def test_labels_of_small_integers_may_have_more_classes_than_they_can_count():
    labels = jnp.array([3, 255], jnp.uint8)
    np.testing.assert_allclose(cross_entropy(jnp.zeros((2, 1000)), labels), np.log(1000), rtol=1e-6)


def test_refuses_weights_of_other_classes():
    with pytest.raises(ValueError, match="expects one weight for each of 5 classes, got 2 weights"):
        cross_entropy(jnp.asarray(some_logits()), jnp.asarray(LABELS), class_weights=(1.0, 2.0))
