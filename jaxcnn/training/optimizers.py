"""Optimizers and schedules by name, for recipes and the command line; in Python, any Optax optimizer works too."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcnn import trees
from jaxcnn.training.rates import decay_by_name, scale_by_name

_Decay = optax.GradientTransformation
_Build = Callable[[optax.ScalarOrSchedule, _Decay], optax.GradientTransformation]


def _decoupled(direction: Callable[[], optax.GradientTransformation]) -> _Build:
    """Decays the parameters separately from the gradient, scaled by the learning rate (Loshchilov & Hutter 2019)."""
    return lambda rate, decay: optax.chain(direction(), decay, optax.scale_by_learning_rate(rate))


def _coupled(optimizer: Callable[[optax.ScalarOrSchedule], optax.GradientTransformation]) -> _Build:
    """Adds weight decay to the gradient of an optimizer that has none of its own."""
    return lambda rate, decay: optax.chain(decay, optimizer(rate))


def _muon() -> optax.GradientTransformation:
    """Makes the direction of Muon for the kernels of convolutions, as matrices of filters, and of Adam for the rest."""
    # A learning rate of -1 leaves the direction: Optax subtracts the step.
    return optax.contrib.muon(-1.0, muon_weight_dimension_numbers=_filters)


def _filters(params: Any) -> Any:
    """Tells Muon that a filter is a row of the matrix that it makes orthogonal; None for what is no such kernel."""
    filters = optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
    return jax.tree.map(lambda leaf: filters if leaf.ndim == 4 else None, params)


OPTIMIZERS: Mapping[str, _Build] = {
    "adam": _coupled(optax.adam),
    "adamw": _decoupled(optax.scale_by_adam),
    "lion": _decoupled(optax.scale_by_lion),
    "muon": _decoupled(_muon),
    "rmsprop": _coupled(optax.rmsprop),
    "sgd": _coupled(lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True)),
}
"""Functions by name that make an optimizer from a learning rate and a transformation that adds weight decay."""

SCHEDULES = ("cosine", "linear", "constant")
"""Names of the courses of the learning rate after its rise."""


def make_optimizer(
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float | Mapping[str, float] = 0.0,
    clip_norm: float | None = None,
    factors: Mapping[str, float] | None = None,
) -> optax.GradientTransformation:
    """Makes an optimizer: gradient clipping, direction, weight decay, learning rate, factors by name.

        make_optimizer("sgd", 0.1, weight_decay={".*/kernel": 1e-4, "(?!.*/kernel).*": 0.0}, clip_norm=1.0,
                       factors={"head/.*": 1.0, "(?!head/).*": 0.1})

    Args:
      name: "adam", "adamw", "lion", "rmsprop", "sgd" with Nesterov's momentum of 0.9, or "muon" (Jordan et al. 2024,
        "Muon: an optimizer for hidden layers in neural networks") for the kernels of convolutions, whose filters are
        the rows of a matrix; all other parameters have the direction of Adam with Nesterov's momentum.
      learning_rate: a number, or a function of the step.
      weight_decay: rate of the decay of kernels; or rates by regular expression, of which every parameter must match
        exactly one. "adamw", "lion" and "muon" decay the parameters, the others add the decay to the gradient.
      clip_norm: largest norm of the whole gradient, above 0, or None.
      factors: factors of the learning rate by regular expression; see `scale_by_name`.

    Returns:
      The optimizer.

    Raises:
      ValueError: there is no optimizer of that name, or a number is out of range.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"make_optimizer expects a name among {tuple(OPTIMIZERS)}, got {name!r}")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"make_optimizer expects a clip_norm above 0, got {clip_norm!r}")
    if isinstance(weight_decay, Mapping):
        decay = decay_by_name(weight_decay)
    elif weight_decay >= 0:
        decay = optax.add_decayed_weights(weight_decay, _kernels)
    else:
        raise ValueError(f"make_optimizer expects a weight_decay of at least 0, got {weight_decay!r}")
    optimizer = OPTIMIZERS[name](learning_rate, decay)
    if factors:
        optimizer = optax.chain(optimizer, scale_by_name(factors))
    return optimizer if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)


def make_schedule(kind: str, peak: float, *, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """Makes a learning rate by step: a linear rise, then a fall to zero or none.

    Args:
      kind: "cosine", "linear" or "constant".
      peak: largest learning rate.
      warmup_steps: steps of the rise, at least 0.
      total_steps: steps of the whole training.

    Returns:
      The schedule.

    Raises:
      ValueError: there is no schedule of that kind.
    """
    if kind not in SCHEDULES:
        raise ValueError(f"make_schedule expects a kind among {SCHEDULES}, got {kind!r}")
    rest = max(total_steps - warmup_steps, 1)
    after = {
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "constant": optax.constant_schedule(peak),
    }[kind]
    if warmup_steps:
        after = optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), after], [warmup_steps])
    # Optax mixes the dtypes of counts and rates, which strict promotion refuses.
    return lambda count: after(jnp.asarray(count, jnp.float32))


def _kernels(params: Any) -> Any:
    # Not `trees.mask_by_name`, which expects a match: a run can freeze every kernel.
    kernels = [name.rpartition("/")[2] == "kernel" for name in trees.named_leaves(params)]
    return jax.tree.unflatten(jax.tree.structure(params), kernels)
