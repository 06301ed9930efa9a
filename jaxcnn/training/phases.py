"""The phases of a training: parts with the same frozen layers, optimizer and schedule."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcnn import trees
from jaxcnn.layers import AuxiliaryHeads, Flatten, Frozen, Function, Run, Sequential, freeze, trainable
from jaxcnn.tasks import Detection
from jaxcnn.training.drop_path_schedule import has_drop_path
from jaxcnn.training.mixing import CutMix, Mix, MixInTurn, Mixup, RandomMix
from jaxcnn.training.mosaic import Mosaic, ObjectMixup
from jaxcnn.training.optimizers import make_optimizer, make_schedule
from jaxcnn.training.placement import Placement
from jaxcnn.training.recipe import Recipe, RecipeError
from jaxcnn.training.step import TrainStep, make_train_step
from jaxcnn.types import Layer, Params, Task

_BACKBONE = r"(?!(head|aux\d*)(/|$)).*"


class Phase(NamedTuple):
    """A part of a training with the same frozen layers.

    Attributes:
      layer: the model, with these layers frozen.
      trainable: which parameters are trained, a tree of bools; None for all.
      first_epoch: number of finished epochs at its start.
      last_epoch: number of finished epochs at its end.
      schedule: learning rate by step, counted from the start of the phase.
      optimizer: optimizer with the schedule; its state is new in each phase.
      drop_path_schedule: factor of the rates of drop path by step, counted from the start of the training; None for 1.
    """

    layer: Layer
    trainable: Any
    first_epoch: int
    last_epoch: int
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    drop_path_schedule: optax.Schedule | None


def make_phases(
    recipe: Recipe,
    layer: Layer,
    params: Params,
    steps_per_epoch: int,
    *,
    schedule: optax.Schedule | None = None,
    learning_rate: jax.Array | None = None,
) -> tuple[Phase, ...]:
    """Makes the phases of a training, in order.

    Args:
      recipe: the recipe.
      layer: the model, without frozen layers.
      params: its parameters, as arrays or shapes.
      steps_per_epoch: number of steps of an epoch.
      schedule: learning rate by step of each phase; that of the recipe if None.
      learning_rate: scalar, in place of that of the recipe; it may be traced.

    Returns:
      The phases: one, or two if layers are unfrozen.

    Raises:
      ValueError: `freeze` matches no layer or leaves no parameter to train, `learning_rates` do not match each
        parameter once, or `cache_features` or `drop_path_warmup_epochs` does not fit the model.
    """
    factors = recipe.learning_rate_factors()
    if factors:
        trees.label_by_name(params, factors)
    rate: Any = recipe.learning_rate if learning_rate is None else learning_rate
    rates = (rate, recipe.unfreeze_learning_rate or rate / 10)
    phases = []
    for (first_epoch, last_epoch), rate in zip(recipe.phase_epochs(), rates, strict=False):
        epochs = last_epoch - first_epoch
        model, mask = (layer, None) if phases else _frozen(recipe.freeze, layer, params)
        rate_by_step = schedule or make_schedule(
            recipe.schedule,
            rate,
            warmup_steps=round(recipe.warmup(epochs) * steps_per_epoch),
            total_steps=epochs * steps_per_epoch,
        )
        optimizer = make_optimizer(
            recipe.optimizer,
            rate_by_step,
            weight_decay=recipe.weight_decay,
            clip_norm=recipe.clip_norm,
            factors=_of_trained(factors, params, mask),
        )
        rise = _rise(recipe, steps_per_epoch) if has_drop_path(model) else None
        phases.append(Phase(model, mask, first_epoch, last_epoch, rate_by_step, optimizer, rise))
    if recipe.drop_path_warmup_epochs and not any(phase.drop_path_schedule for phase in phases):
        raise RecipeError(
            "drop_path_warmup_epochs",
            "expects a model with drop path that is trained, got one without; omit it, or choose a model with drop "
            "path, such as convnext_tiny",
        )
    if recipe.cache_features:
        cut_in_two(phases[0].layer)
    return tuple(phases)


def make_phase_step(
    phase: Phase,
    model: Layer,
    recipe: Recipe,
    task: Task,
    num_classes: int,
    *,
    plain: bool = False,
    placement: Placement | None = None,
) -> TrainStep:
    """Makes the compiled training step of a phase.

    Args:
      phase: the phase.
      model: its layer, or the trained half of it (`cut_in_two`).
      recipe: the recipe.
      task: loss and metrics.
      num_classes: number of classes, which mixup and cutmix need.
      plain: whether it is that of the last epochs, without mosaic, mixup and cutmix; see `Recipe.plain_epochs`. A task
        with a method `plain` gives that of these epochs, as `YOLOXDetection` does.
      placement: the devices; None for one.

    Returns:
      The step, as `make_train_step` returns it.
    """
    if plain:
        # Optional: a task may have another loss in these epochs.
        task = getattr(task, "plain", lambda: task)()
    return make_train_step(
        model,
        phase.optimizer,
        task,
        augment=recipe.augmentation,
        mix=None if plain else mixing(recipe, task, num_classes),
        precision=recipe.precision,
        micro_batches=recipe.micro_batches,
        ema=recipe.ema,
        auxiliary_weight=recipe.auxiliary_weight,
        drop_path_schedule=phase.drop_path_schedule,
        trainable=phase.trainable,
        placement=placement,
    )


def cut_in_two(model: Layer) -> tuple[Layer, Layer]:
    """Splits a model after its leading frozen layers and functions.

    Both halves take the parameters and the state of the whole model, and skip the layers of the other half. An
    auxiliary head in the frozen half is not used: no layer before it is trained.

    Args:
      model: layers in a row, the first of them frozen.

    Returns:
      The frozen half, and the trained half.

    Raises:
      RecipeError: the layers are not in a row, or the first layer that has parameters is not frozen as a whole.
    """
    if not isinstance(model, Sequential | AuxiliaryHeads):
        raise RecipeError("cache_features", f"expects a model of layers in a row, got a {type(model).__name__}")
    children = model.children()
    heads = model.heads if isinstance(model, AuxiliaryHeads) else ()
    frozen = []
    for name, layer in children.items():
        # Functions have no parameters. Neither has dropout, but it belongs to the trained layers.
        if name not in heads and not isinstance(layer, Frozen | Function | Flatten):
            break
        frozen.append(name)
    if not any(isinstance(children[name], Frozen) for name in frozen):
        first_trained = list(children)[len(frozen)]
        raise RecipeError(
            "cache_features",
            f"expects a model that begins with frozen layers, but {first_trained} is trained; use freeze backbone",
            "freeze",
        )
    first = {name: layer if name in frozen else _Skipped(layer) for name, layer in children.items()}
    second = {name: _Skipped(layer) if name in frozen else layer for name, layer in children.items()}
    heads = [name for name in heads if name not in frozen]
    return model.with_children(first), AuxiliaryHeads(*heads, **second) if heads else Sequential(**second)


@dataclass(frozen=True, repr=False)
class _Skipped(Frozen):
    """The identity, with the parameters and the state of a layer."""

    def forward(self, run: Run, x: Any) -> Any:
        return x


def _frozen(pattern: str | None, layer: Layer, params: Params) -> tuple[Layer, Any]:
    if pattern is None:
        return layer, None
    frozen = freeze(layer, _BACKBONE if pattern == "backbone" else pattern)
    mask = trainable(frozen, params)
    if not any(jax.tree.leaves(mask)):
        raise RecipeError("freeze", f"{pattern} leaves no parameter to train; freeze fewer layers")
    return frozen, mask


def _rise(recipe: Recipe, steps_per_epoch: int) -> optax.Schedule | None:
    if not recipe.drop_path_warmup_epochs:
        return None
    steps = recipe.drop_path_warmup_epochs * steps_per_epoch
    return lambda step: jnp.minimum(jnp.asarray(step, jnp.float32) / steps, 1.0)


def _of_trained(factors: Mapping[str, float], params: Params, mask: Any) -> dict[str, float]:
    """Returns the factors of the patterns that match a trained parameter."""
    trained = trees.named_leaves(jax.tree.map(lambda _: True, params) if mask is None else mask)
    names = [name for name, chosen in trained.items() if chosen]
    return {
        pattern: factor for pattern, factor in factors.items() if any(re.fullmatch(pattern, name) for name in names)
    }


def mixing(recipe: Recipe, task: Task, num_classes: int) -> Mix | None:
    """Returns what mixes the images of a batch.

    Args:
      recipe: the recipe.
      task: of a detector, images are mixed with their objects.
      num_classes: number of classes.

    Returns:
      The mix; None for none.
    """
    if isinstance(task, Detection):
        in_turn: list[Mix] = [Mosaic(probability=recipe.mosaic)] if recipe.mosaic else []
        in_turn += [ObjectMixup(recipe.mixup)] if recipe.mixup else []
        return MixInTurn(tuple(in_turn)) if in_turn else None
    mixes: list[Mix] = [
        kind(num_classes, alpha) for kind, alpha in ((Mixup, recipe.mixup), (CutMix, recipe.cutmix)) if alpha
    ]
    return RandomMix(tuple(mixes)) if len(mixes) > 1 else mixes[0] if mixes else None
