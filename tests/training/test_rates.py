import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn.training import scale_by_name

PARAMS = {"stem": {"kernel": jnp.array([1.0, 2.0])}, "head": {"kernel": jnp.array([3.0]), "bias": jnp.array([0.5])}}
GRADIENTS = jax.tree.map(jnp.ones_like, PARAMS)
RULES = {"stem/.*": 0.1, "head/kernel": 1.0, ".*/bias": 3.0}
FACTORS = {"stem": {"kernel": 0.1}, "head": {"kernel": 1.0, "bias": 3.0}}


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax's Adam mixes the step count with floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


OPTIMIZERS = {
    "sgd": lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True),
    "adamw": lambda rate: optax.adamw(rate, weight_decay=0.3),
    "lion": lambda rate: optax.lion(rate, weight_decay=0.3),
}


def trained(optimizer, params, gradients, steps=3):
    opt_state = optimizer.init(params)
    for _ in range(steps):
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_parameter_is_trained_at_its_own_rate(name):
    build = OPTIMIZERS[name]
    together = trained(optax.chain(build(0.1), scale_by_name(RULES)), PARAMS, GRADIENTS)
    alone = jax.tree.map(lambda p, g, factor: trained(build(0.1 * factor), p, g), PARAMS, GRADIENTS, FACTORS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), together, alone)


def test_it_holds_no_arrays():
    assert jax.tree.leaves(scale_by_name(RULES).init(PARAMS)) == []


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"stem/.*": 1.0}, r"'head/bias' matches no rule\n  'head/kernel' matches no rule"),
        ({".*": 1.0, "head/.*": 2.0}, r"'head/bias' matches \['\.\*', 'head/\.\*'\]"),
        ({".*": 1.0, "tail/.*": 2.0}, "rule 'tail/.*' matches no leaf"),
    ],
)
def test_every_parameter_matches_exactly_one_rule_and_every_rule_one(rules, message):
    with pytest.raises(ValueError, match=message):
        scale_by_name(rules).init(PARAMS)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), float("nan")])
def test_a_factor_that_does_not_scale_is_refused(factor):
    with pytest.raises(ValueError, match=rf"above 0, and finite, got {factor} for '\.\*'; freeze parameters"):
        scale_by_name({".*": factor})
