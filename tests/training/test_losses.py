import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.training import auxiliary_loss, cross_entropy
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
    ("logits_shape", "labels_shape"), [((5,), ()), ((2, 3, 4), (2, 3)), ((2, 3), (3,)), ((2, 3), (2, 1))]
)
def test_refuses_shapes_that_do_not_fit(logits_shape, labels_shape):
    with pytest.raises(ValueError, match=r"expects logits \(batch, num_classes\) and labels \(batch,\), got \("):
        cross_entropy(jnp.zeros(logits_shape), jnp.zeros(labels_shape, jnp.int32))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_refuses_a_smoothing_that_is_no_share(smoothing):
    with pytest.raises(ValueError, match=rf"expects a label_smoothing in \[0, 1\), got {smoothing}"):
        cross_entropy(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32), label_smoothing=smoothing)


ROADS = {
    "labels": cross_entropy,
    "smoothed labels": Partial(cross_entropy, label_smoothing=0.1),
    "auxiliary heads": Partial(auxiliary_loss, weight=0.3),
}


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("label", [-1, 5, -(2**31), 2**31 - 1])
def test_a_label_out_of_range_makes_its_own_loss_and_gradient_nan_and_no_other(road, label):
    labels = jnp.asarray(LABELS).at[2].set(label)
    logits = jnp.asarray(some_logits())
    if road == "auxiliary heads":
        logits = jnp.stack([logits, logits[::-1]], axis=1)
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


def test_auxiliary_heads_count_by_their_weight():
    logits = np.stack([some_logits(), some_logits()[::-1], 2 * some_logits()], axis=1)
    smoothed = Partial(cross_entropy, label_smoothing=0.1)
    losses = auxiliary_loss(jnp.asarray(logits), jnp.asarray(LABELS), weight=0.3, loss=smoothed)
    main, first, second = (reference(logits[:, i], LABELS, 0.1) for i in range(3))
    assert losses.dtype == jnp.float32
    np.testing.assert_allclose(losses, main + 0.3 * first + 0.3 * second, rtol=1e-5)


def test_the_main_head_alone_has_its_own_loss():
    losses = auxiliary_loss(jnp.asarray(some_logits()), jnp.asarray(LABELS), weight=0.3)
    np.testing.assert_allclose(losses, reference(some_logits(), LABELS, 0.0), rtol=1e-5)
    losses = auxiliary_loss(jnp.asarray(some_logits())[:, None], jnp.asarray(LABELS), weight=0.3)
    np.testing.assert_allclose(losses, reference(some_logits(), LABELS, 0.0), rtol=1e-5)


def test_cross_entropy_of_several_heads_says_what_to_use():
    with pytest.raises(
        ValueError, match=r"got \(7, 2, 5\) and \(7,\); for a model with auxiliary heads use auxiliary_loss"
    ):
        cross_entropy(jnp.zeros((7, 2, 5)), jnp.asarray(LABELS))


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_refuses_a_weight_that_is_none(weight):
    with pytest.raises(ValueError, match=f"auxiliary_loss expects a finite weight of at least 0, got {weight}"):
        auxiliary_loss(jnp.zeros((2, 2, 3)), jnp.zeros(2, jnp.int32), weight=weight)


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2, 3)])
def test_refuses_logits_of_other_axes(shape):
    with pytest.raises(ValueError, match=r"auxiliary_loss expects logits \(batch, heads, num_classes\), or .*, got \("):
        auxiliary_loss(jnp.zeros(shape), jnp.zeros(2, jnp.int32), weight=0.3)
