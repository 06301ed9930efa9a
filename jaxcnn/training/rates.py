"""Learning rates and weight decay that differ between the parameters of a model."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import optax

from jaxcnn.trees import label_by_name


def scale_by_name(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Scales the updates of parameters by their names: discriminative learning rates.

        optimizer = optax.chain(optax.adamw(1e-3), scale_by_name({"head/.*": 1.0, "(?!head/).*": 0.1}))

    After an optimizer it multiplies the learning rate of every parameter by the factor of the one rule that its path
    matches, weight decay included (Howard & Ruder 2018, section 3.2, "discriminative fine-tuning").

    Args:
      factors: a factor above 0 for each regular expression; an expression must match the whole path.

    Returns:
      The transformation. It holds no arrays; its `init` and `update` raise a ValueError that lists the parameters that
      match no rule or several, and the rules that match none.

    Raises:
      ValueError: a factor is not above 0, or not finite.
    """
    for pattern, factor in factors.items():
        if not 0 < factor < math.inf:
            raise ValueError(
                f"scale_by_name expects factors above 0, and finite, got {factor!r} for {pattern!r}; "
                "freeze parameters that must stay (jaxcnn.layers.freeze)"
            )
    factors = dict(factors)
    scales: dict[Any, optax.GradientTransformation] = {factor: optax.scale(factor) for factor in factors.values()}
    return optax.partition(scales, lambda updates: label_by_name(updates, factors))


def decay_by_name(rates: Mapping[str, float]) -> optax.GradientTransformation:
    """Adds weight decay to the updates of parameters by their names.

        optimizer = optax.chain(decay_by_name({".*/kernel": 1e-4, ".*/(bias|scale)": 0.0}), optax.sgd(0.1))

    Before an optimizer it decays the gradient; `make_optimizer` puts it where "adamw" and "lion" decay.

    Args:
      rates: a rate of at least 0 for each regular expression; an expression must match the whole path.

    Returns:
      The transformation. It holds no arrays; its `init` and `update` raise a ValueError that lists the parameters that
      match no rule or several, and the rules that match none.

    Raises:
      ValueError: a rate is negative or not finite.
    """
    for pattern, rate in rates.items():
        if not 0 <= rate < math.inf:
            raise ValueError(f"decay_by_name expects finite rates of at least 0, got {rate!r} for {pattern!r}")
    rates = dict(rates)

    def init(params: Any) -> Any:
        label_by_name(params, rates)
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        decay = label_by_name(params, rates)
        return jax.tree.map(lambda g, p, rate: g + rate * p, updates, params, decay), state

    return optax.GradientTransformation(init, update)
