import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn.tasks import hard_negatives, iou_loss, smooth_l1_loss


def test_iou_loss_by_hand():
    box, target = jnp.array([0.0, 0, 2, 2]), jnp.array([1.0, 1, 3, 3])
    # Intersection 1, union 7; the box around both is 3 x 3.
    np.testing.assert_allclose(iou_loss(box, target, kind="iou", epsilon=0), 6 / 7, rtol=1e-6)
    np.testing.assert_allclose(iou_loss(box, target, epsilon=0), 6 / 7 + 2 / 9, rtol=1e-6)


def test_smooth_l1_by_hand():
    errors = jnp.array([[0.5, -2.0, 0.0, 1.0]])
    np.testing.assert_allclose(smooth_l1_loss(errors, jnp.zeros((1, 4))), [0.125 + 1.5 + 0.5])
    np.testing.assert_allclose(smooth_l1_loss(errors, jnp.zeros((1, 4)), beta=0.5), [0.25 + 1.75 + 0.75])
    np.testing.assert_allclose(smooth_l1_loss(errors, jnp.zeros((1, 4)), beta=0), [3.5])


def test_losses_of_bfloat16_are_summed_in_float32():
    codes = jnp.full((2, 4), 3.14159, jnp.bfloat16)
    for loss in (iou_loss, smooth_l1_loss):
        assert loss(codes, jnp.zeros((2, 4), jnp.bfloat16)).dtype == jnp.float32


def mine(losses, positive, ratio, valid):
    """By the definition."""
    candidates = [i for i in range(len(losses)) if valid[i] and not positive[i]]
    number = int(ratio * sum(p and v for p, v in zip(positive, valid, strict=True)))
    chosen = sorted(candidates, key=lambda i: -losses[i])[:number]
    return np.isin(np.arange(len(losses)), chosen)


@pytest.mark.parametrize("ratio", [0, 1.5, 3.0, 100.0])
def test_hard_negatives_equal_the_loop(ratio):
    choose = jax.jit(functools.partial(hard_negatives, ratio=ratio))
    for seed, positives in enumerate((0, 1, 3, 20, 40)):
        rng = np.random.default_rng(seed)
        losses = np.round(rng.exponential(size=40), 1).astype(np.float32)
        positive, valid = rng.permutation(40) < positives, rng.uniform(size=40) < 0.8
        np.testing.assert_array_equal(
            choose(losses, positive, valid=valid), mine(losses, positive, ratio, valid), err_msg=f"{positives}"
        )
        everything = np.ones(40, bool)
        np.testing.assert_array_equal(choose(losses, positive), mine(losses, positive, ratio, everything))


def test_the_gradient_of_the_focal_loss_is_finite_at_any_logit():
    logits = jnp.array([-1e4, -100.0, 0.0, 100.0, 1e4])
    for label in (0, 1):
        loss = functools.partial(optax.sigmoid_focal_loss, labels=jnp.full(5, label), alpha=0.25, gamma=2.0)
        assert np.all(np.isfinite(jax.grad(lambda x, loss=loss: jnp.sum(loss(x)))(logits)))


CODES, LOSSES, SOME = jnp.zeros((3, 4)), jnp.zeros(3), jnp.ones(3, bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: smooth_l1_loss(CODES, CODES, beta=-1), "expects a finite beta of at least 0, got -1"),
        (lambda: smooth_l1_loss(CODES, CODES[:2]), r"got \(3,\) of predictions and \(2,\) of targets"),
        (lambda: hard_negatives(CODES, SOME), r"\(anchors,\), of one image, got \(3, 4\), \(3,\) and"),
        (lambda: hard_negatives(LOSSES, SOME, ratio=-1), "expects a finite ratio of at least 0, got -1"),
    ],
)
def test_refuses_what_does_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()
