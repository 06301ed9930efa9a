"""Finds where in a training step the first NaN or infinity appears."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import get_opaque_trace_state

from jaxcnn import trees
from jaxcnn.layers.composite import apply_around, is_open
from jaxcnn.ops.check import at_least_float32
from jaxcnn.training.micro_batches import split_in_turn
from jaxcnn.training.step import Prepared, StepParts
from jaxcnn.training.train_state import TrainState
from jaxcnn.types import Example, Layer, Params, State

_LISTED = 3
"""Names and examples in a message."""

_SLOWER = "lower the learning rate, warm it up or clip the gradients"


class Cause(NamedTuple):
    """Why the numbers of a step are not finite.

    Attributes:
      where: what is not finite first.
      advice: what to do.
    """

    where: str
    advice: str


class _Range(NamedTuple):
    """The numbers of a tree of arrays.

    Attributes:
      finite: whether all of them are.
      low: the smallest finite one; inf without any.
      high: the largest finite one; -inf without any.
    """

    finite: Any
    low: Any
    high: Any


class _Moment(NamedTuple):
    """A moment of a forward pass: a layer begins or ends.

    Attributes:
      path: the path of the layer; "" for the whole model.
      layer: the layer.
      ends: whether it ends.
    """

    path: str
    layer: Layer
    ends: bool


class _Seen(NamedTuple):
    """The numbers of a step; those of examples have the shape (examples,).

    Attributes:
      augmented: by name, whether an entry of the batch is finite after the augmentation; of each example.
      mixed: the same, after mixing.
      moments: at each moment of the forward pass, the range of the input of the layer or that of its result, of each
        example; and the range of the parameters of the layer.
      losses: of each example, whether its loss is finite.
      loss: the mean loss.
      gradients: by name, the range of a gradient.
      params: by name, the range of a parameter after the update.
      state: by name, the range of a leaf of the state after the step.
    """

    augmented: dict[str, Any]
    mixed: dict[str, Any]
    moments: list[tuple[_Range, _Range]]
    losses: Any
    loss: Any
    gradients: dict[str, _Range]
    params: dict[str, _Range]
    state: dict[str, _Range]


def find_cause(
    parts: StepParts,
    train_state: TrainState,
    batch: Example,
    key: jax.Array,
    name_of: Callable[[int], str] = str,
) -> Cause:
    """Computes a training step once more, on one device, and looks at the numbers of every layer.

    Args:
      parts: the parts of the step, made without a placement.
      train_state: the train state before the step; it is not donated.
      batch: the whole batch of the step.
      key: the key of the run, as for the step.
      name_of: names an example of the batch by its place in it, as in "examples NAME, NAME".

    Returns:
      What is not finite first, in the order in which the step computes: the batch, the parameters before the step, the
      augmented images, a layer, the loss, a gradient, the update, a running moment.
    """
    if bad := _bad_entries(jax.tree.map(np.asarray, _finite_of_examples(dict(batch)))):
        name, places = bad
        return Cause(
            f"{name!r} of {_examples(places, name_of)} holds NaN or infinity before the step",
            "remove these examples from the data, or repair them",
        )
    for kind, tree in (("parameter", train_state.params), ("running moment", train_state.state)):
        if bad := _bad_leaves(_ranges(tree)):
            return Cause(
                f"the {kind} {_names(bad)} holds NaN or infinity before the step",
                "start from weights that are finite",
            )
    moments: list[_Moment] = []
    seen: _Seen = jax.device_get(jax.jit(functools.partial(_look, parts, moments))(train_state, dict(batch), key))
    for entries, what in ((seen.augmented, "the augmentation"), (seen.mixed, "the mixing of images")):
        if bad := _bad_entries(entries):
            name, places = bad
            return Cause(f"{what} makes {name!r} of {_examples(places, name_of)} NaN or infinite", f"check {what}")
    return (
        _in_layers(moments, seen.moments, name_of)
        or _in_loss(seen, name_of)
        or _in_gradients(moments, seen)
        or _in_update(seen)
        or Cause(
            "the same step, computed once more from the same numbers, is finite: the device or its memory may be "
            "faulty",
            "resume the run, and test the machine if this happens again",
        )
    )


def _look(parts: StepParts, moments: list[_Moment], train_state: TrainState, batch: Example, key: jax.Array) -> _Seen:
    prepared = parts.prepare(train_state, batch, key)
    loss, gradients, _, _ = parts.gradients(prepared)
    after, _ = parts.compute(train_state, batch, key)
    ranges, losses = _forward(parts, moments, prepared)
    return _Seen(
        _finite_of_examples(prepared.augmented),
        _finite_of_examples(prepared.batch),
        ranges,
        losses,
        loss,
        _ranges(gradients),
        _ranges(after.params),
        _ranges(after.state),
    )


def _forward(parts: StepParts, moments: list[_Moment], prepared: Prepared) -> tuple[list[tuple[_Range, _Range]], Any]:
    """Computes the forward pass of each micro-batch, with the ranges of all layers and the losses of its examples."""
    params = trees.merge(prepared.trained, prepared.frozen)
    forward, count = parts.forward, parts.micro_batches
    watched = forward._replace(model=_Watched(forward.model, moments))

    def part(state: State, batch: Example, key: jax.Array) -> tuple[State, tuple[Any, Any]]:
        (outputs, ranges), state = watched.outputs(params, state, batch, key)

        def is_finite(outputs: Any, example: Example) -> Any:
            one = jax.tree.map(lambda leaf: leaf[None], (outputs, example))
            total = forward.measured(*one)["loss"].total
            return jnp.isfinite(total)

        return state, (ranges, jax.vmap(is_finite)(outputs, batch))

    if count == 1:
        return part(prepared.state, prepared.batch, prepared.key)[1]
    each = split_in_turn(prepared.batch, count), jax.random.split(prepared.key, count)
    _, results = jax.lax.scan(lambda state, one: part(state, *one), prepared.state, each)
    # Example j of micro-batch i is example i + count j of the batch.
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1).reshape(-1), results)


class _Watched:
    """A layer that returns the ranges of the numbers of all layers within it beside its result.

    Args:
      layer: the layer.
      moments: what the ranges belong to, written when it is traced.
    """

    def __init__(self, layer: Layer, moments: list[_Moment]) -> None:
        self.layer, self.moments = layer, moments

    def init(self, key: jax.Array) -> tuple[Params, State]:
        return self.layer.init(key)

    def apply(
        self, params: Params, state: State, x: Any, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Any, State]:
        self.moments.clear()
        ranges: list[tuple[_Range, _Range]] = []
        trace = get_opaque_trace_state()

        def around(path: str, layer: Layer, apply: Any, params: Params, state: State, x: Any) -> tuple[Any, State]:
            # What is computed in a loop or another function that JAX transforms cannot leave it.
            if get_opaque_trace_state() != trace:
                return apply(params, state, x)
            own = _range(params)
            self.moments.append(_Moment(path, layer, ends=False))
            ranges.append((_range(x), own))
            y, state = apply(params, state, x)
            self.moments.append(_Moment(path, layer, ends=True))
            ranges.append((_range(y), own))
            return y, state

        whole = functools.partial(apply_around, self.layer, around=around, train=train, key=key)
        y, state = around("", self.layer, whole, params, state, x)
        return (y, ranges), state


def _in_layers(
    moments: Sequence[_Moment], ranges: Sequence[tuple[_Range, _Range]], name_of: Callable[[int], str]
) -> Cause | None:
    open_: list[int] = []
    for place, (moment, (numbers, own)) in enumerate(zip(moments, ranges, strict=True)):
        begin = open_.pop() if moment.ends else place
        if np.all(numbers.finite):
            if not moment.ends:
                open_.append(place)
            continue
        examples = _examples(np.flatnonzero(~numbers.finite), name_of)
        if not moment.ends:
            around = moments[open_[-1]] if open_ else moment
            what = f"the forward of {_words(around)}, before its layer {moment.path!r}, makes"
            given = ranges[open_[-1]][0] if open_ else numbers
        elif is_open(moment.layer):
            what, given = f"the forward of {_words(moment)}, after its last layer, makes", ranges[begin][0]
        else:
            what, given = f"{_words(moment)} makes", ranges[begin][0]
        weights = "" if np.all(own.low > own.high) else f" and parameters {_between(own)}"
        return Cause(f"{what} NaN or infinity of inputs {_between(given)}{weights}, for {examples}", _SLOWER)
    return None


def _in_loss(seen: _Seen, name_of: Callable[[int], str]) -> Cause | None:
    outputs = _between(seen.moments[-1][0])
    if not seen.losses.all():
        return Cause(
            f"the loss of {_examples(np.flatnonzero(~seen.losses), name_of)} is not finite, though the model gives "
            f"finite numbers, {outputs}",
            "make sure that the labels are in [0, num_classes), or lower the learning rate",
        )
    if not np.isfinite(seen.loss):
        return Cause(
            f"the loss of all examples is not finite, though the model gives finite numbers, {outputs}", _SLOWER
        )
    return None


def _in_gradients(moments: Sequence[_Moment], seen: _Seen) -> Cause | None:
    if not (bad := _bad_leaves(seen.gradients)):
        return None
    # The backward pass visits the layers in reverse.
    order = [moment.path.partition("#")[0] for moment in moments if moment.ends and not is_open(moment.layer)]
    last = {path: place for place, path in enumerate(order)}
    first = max(bad, key=lambda name: last.get(name.rpartition("/")[0], -1))
    rest = [name for name in bad if name != first]
    others = f", and then those of {_names(rest)}" if rest else ""
    return Cause(
        f"only gradients are not finite: in the order of the backward pass first that of {first!r}{others} "
        f"({len(bad)} of {len(seen.gradients)} arrays)",
        _SLOWER,
    )


def _in_update(seen: _Seen) -> Cause | None:
    if bad := _bad_leaves(seen.params):
        largest = max(max(abs(one.low), abs(one.high)) for one in seen.gradients.values())
        return Cause(
            f"the optimizer's update makes {_names(bad)} not finite, though all gradients are, up to {largest:.3g}",
            _SLOWER,
        )
    if bad := _bad_leaves(seen.state):
        return Cause(f"the step makes the running moment {_names(bad)} not finite", _SLOWER)
    return None


def _words(moment: _Moment) -> str:
    kind = type(moment.layer).__name__
    return f"layer {moment.path!r} ({kind})" if moment.path else f"the model ({kind})"


def _between(numbers: _Range) -> str:
    return f"from {np.min(numbers.low):.3g} to {np.max(numbers.high):.3g}"


def _examples(places: Any, name_of: Callable[[int], str]) -> str:
    several = "s" if len(places) > 1 else ""
    return f"example{several} " + _some([name_of(int(place)) for place in places[:_LISTED]], len(places))


def _names(names: Sequence[str]) -> str:
    return _some([repr(name) for name in names[:_LISTED]], len(names))


def _some(shown: Sequence[str], count: int) -> str:
    return ", ".join(shown) + (f" and {count - len(shown)} more" if count > len(shown) else "")


def _bad_entries(entries: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Returns the first entry of a batch that is not finite, and the places of its examples."""
    return next(((name, np.flatnonzero(~finite)) for name, finite in entries.items() if not finite.all()), None)


def _bad_leaves(ranges: Mapping[str, _Range]) -> list[str]:
    return [name for name, numbers in ranges.items() if not numbers.finite]


def _finite_of_examples(batch: Example) -> dict[str, Any]:
    return {
        name: jnp.isfinite(array).reshape(len(array), -1).all(1)
        for name, array in batch.items()
        if jnp.issubdtype(jnp.result_type(array), jnp.floating)
    }


def _ranges(tree: Any) -> dict[str, _Range]:
    return {name: _range(leaf) for name, leaf in trees.named_leaves(tree).items()}


def _range(tree: Any) -> _Range:
    dtype = jnp.float32
    finite, low, high = jnp.array(True), jnp.array(jnp.inf, dtype), jnp.array(-jnp.inf, dtype)
    for leaf in jax.tree.leaves(tree):
        if leaf.size and jnp.issubdtype(leaf.dtype, jnp.floating):
            one = leaf.astype(at_least_float32(leaf.dtype))
            known = jnp.isfinite(one)
            finite &= known.all()
            low = jnp.minimum(low, jnp.where(known, one, jnp.inf).min().astype(dtype))
            high = jnp.maximum(high, jnp.where(known, one, -jnp.inf).max().astype(dtype))
    return _Range(finite, low, high)
