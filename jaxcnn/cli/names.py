"""What the names on the command line stand for."""

import difflib
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import optax

from jaxcnn import data, training, trees
from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.models import catalog
from jaxcnn.types import Shape

T = TypeVar("T")

DATA: dict[str, Callable[[], data.Arrays]] = {"digits": data.digits}

AUGMENTATIONS: dict[str, data.Composition | None] = {
    "affine": data.compose(data.Step(data.affine, max_degrees=12, max_scale=0.12, max_shear=8, max_shift=4)),
    "crop-flip": data.compose(data.Step(data.random_crop, padding=4), data.Step(data.flip)),
    "none": None,
}


def _decaying(optimizer: Callable[..., optax.GradientTransformation]) -> Callable[..., optax.GradientTransformation]:
    """Adds weight decay to the gradient of an optimizer that has none of its own."""

    def build(learning_rate: optax.Schedule, weight_decay: float, mask: Any) -> optax.GradientTransformation:
        return optax.chain(optax.add_decayed_weights(weight_decay, mask), optimizer(learning_rate))

    return build


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": _decaying(optax.adam),
    "adamw": optax.adamw,
    "lion": optax.lion,
    "rmsprop": _decaying(optax.rmsprop),
    "sgd": _decaying(lambda learning_rate: optax.sgd(learning_rate, momentum=0.9, nesterov=True)),
}


def choose(kind: str, name: str, known: Mapping[str, T]) -> T:
    """Looks up a name.

    Args:
      kind: what it names, for the message.
      name: the name.
      known: what there is, by name.

    Returns:
      What the name stands for.

    Raises:
      CommandError: there is none of that name; the message lists those there are and the nearest.
    """
    if name not in known:
        raise CommandError(unknown(kind, name, known))
    return known[name]


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Writes the message for a name that there is not.

    Args:
      kind: what it names.
      name: the name.
      known: the names there are.

    Returns:
      The message, with the nearest name first.
    """
    known = list(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return f"unknown {kind} {name!r}{hint}\n{_listed(known)}"


def _listed(known: Iterable[str]) -> str:
    """Lists names in lines of at most 80 characters."""
    text = f"known: {', '.join(known)}"
    return textwrap.fill(text, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def load_data(name: str) -> data.Arrays:
    """Reads a data set.

    Args:
      name: a name of `DATA`, or the path of an .npz file.

    Returns:
      The data set.

    Raises:
      CommandError: there is none of that name, or the file cannot be read.
    """
    if name not in DATA and (name.endswith(".npz") or Path(name).exists()):
        with reported(ValueError, OSError, TypeError):
            return data.load_npz(name)
    if name not in DATA:
        raise CommandError(unknown("data set", name, [*DATA, "FILE.npz"]))
    with reported(ImportError):
        return DATA[name]()


def build_model(name: str, num_classes: int, image_shape: Shape) -> catalog.Model:
    """Builds a model of the catalog.

    Args:
      name: its name.
      num_classes: number of logits.
      image_shape: (height, width, channels) of the images.

    Returns:
      The model.

    Raises:
      CommandError: there is no model of that name, or it cannot take such images.
    """
    choose("model", name, catalog.CATALOG)
    with reported(ValueError):
        return catalog.build(name, num_classes, image_shape)


def build_optimizer(
    name: str,
    schedule: optax.Schedule,
    *,
    weight_decay: float,
    clip_norm: float | None,
    factors: Mapping[str, float] | None = None,
) -> optax.GradientTransformation:
    """Builds an optimizer that decays kernels only.

    Args:
      name: a name of `OPTIMIZERS`.
      schedule: learning rate by step.
      weight_decay: weight decay of the kernels.
      clip_norm: largest norm of the whole gradient, or None.
      factors: of the learning rate, by pattern of the names of parameters; see `jaxcnn.training.scale_by_name`.

    Returns:
      The optimizer.

    Raises:
      CommandError: there is no optimizer of that name.
    """
    build = choose("optimizer", name, OPTIMIZERS)
    optimizer = build(schedule, weight_decay=weight_decay, mask=_kernels)
    if factors:
        optimizer = optax.chain(optimizer, training.scale_by_name(factors))
    return optimizer if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)


def build_schedule(kind: str, peak: float, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """Builds a learning rate by step: a linear rise, then a fall to zero or none.

    Args:
      kind: "cosine", "linear" or "constant".
      peak: largest learning rate.
      warmup_steps: steps of the rise.
      total_steps: steps of the whole training.

    Returns:
      The schedule.
    """
    rest = max(total_steps - warmup_steps, 1)
    after = {
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "constant": optax.constant_schedule(peak),
    }[kind]
    if warmup_steps == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), after], [warmup_steps])


def _kernels(params: Any) -> Any:
    # There may be none: a run can freeze every kernel.
    kernels = [name.rpartition("/")[2] == "kernel" for name in trees.named_leaves(params)]
    return jax.tree.unflatten(jax.tree.structure(params), kernels)
