"""The compiled steps of training, evaluation and prediction."""

import functools
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from jaxcnn import trees
from jaxcnn.data import unit_pixels
from jaxcnn.layers import batched
from jaxcnn.meshes import spec_of, with_automatic_axes
from jaxcnn.ops.check import at_least_float32, check_floating
from jaxcnn.tasks import Classification
from jaxcnn.training.drop_path_schedule import has_drop_path, scheduled, with_share, without_share
from jaxcnn.training.metrics import Metrics
from jaxcnn.training.micro_batches import sum_over
from jaxcnn.training.mixing import Mix
from jaxcnn.training.placement import Placement
from jaxcnn.training.precision import Precision, as_precision
from jaxcnn.training.train_state import Average, TrainState, check_optimizer, trainable_mask, with_fixed_types
from jaxcnn.types import Augment, Example, Layer, Mean, Params, State, Task

# The default task of the steps.
_CLASSIFICATION = Classification()


class TrainStep(Protocol):
    """One step of training; what `make_train_step` returns."""

    def __call__(self, train_state: TrainState, batch: Any, key: jax.Array) -> tuple[TrainState, Metrics]:
        """Returns the new train state and the metrics of the batch; the old train state is donated."""
        ...


class Prepared(NamedTuple):
    """What a step differentiates.

    Attributes:
      augmented: the batch after the augmentation.
      batch: the batch after mixing.
      trained: the parameters that are trained; None in place of the others.
      frozen: the others.
      state: the state of the model that the step computes.
      key: key of the model's random numbers.
    """

    augmented: Example
    batch: Example
    trained: Params
    frozen: Params
    state: State
    key: jax.Array


class StepParts(NamedTuple):
    """The parts of a training step, to look at the numbers between them; all are traceable and donate nothing.

    Attributes:
      prepare: from train state, batch and key to what the step differentiates.
      forward: the forward pass.
      gradients: from what is prepared to the mean loss, the gradients, the sums of the task and the new state.
      compute: the whole step.
      micro_batches: number of micro-batches.
    """

    prepare: Callable[[TrainState, Example, jax.Array], Prepared]
    forward: "Forward"
    gradients: Callable[[Prepared], tuple[jax.Array, Params, dict[str, Mean], State]]
    compute: Callable[[TrainState, Example, jax.Array], tuple[TrainState, Metrics]]
    micro_batches: int


def make_train_step(
    model: Layer,
    optimizer: optax.GradientTransformation,
    task: Task = _CLASSIFICATION,
    *,
    augment: Augment | None = None,
    mix: Mix | None = None,
    precision: Any = "float32",
    micro_batches: int = 1,
    ema: float | None = None,
    auxiliary_weight: float = 0.3,
    drop_path_schedule: optax.Schedule | None = None,
    trainable: Any = None,
    placement: Placement | None = None,
    compiler_options: dict[str, Any] | None = None,
) -> TrainStep:
    """Makes the compiled training step: augment, forward, backward, update.

    `train_state, metrics = train_step(train_state, {"image": images, "label": labels}, key)`. The old train state is
    donated: its buffers are used again, so it must not be read afterwards. Randomness is drawn from the key folded with
    the step, so that the same key serves the whole run and a resumed run draws the same numbers.

    The step minimises the quotient of the task's loss and weight over the whole batch, however the batch is split over
    devices and micro-batches. A batch whose weight is 0 has the gradient 0.

    Optimizers that ask for more than gradients (`optax.GradientTransformationExtraArgs`) are given, by keyword, the
    mean loss of the batch (`value`), its gradient (`grad`), the mean loss as a function of parameters (`value_fn`, also
    called `obj_fn`), and the gradient as a function of parameters and a number that it ignores (`grad_fn`). All are of
    the same augmented images and random numbers.

    On many devices, give a placement, and `placement.put` the first train state; each batch is then split over the
    devices. Without a placement, arrays that are already on a mesh stay there, if they are laid out so: the batch split
    along its first axis, the train state on every device. The axes of the mesh may be automatic or explicit.

    Args:
      model: a layer whose outputs the task understands.
      optimizer: any Optax optimizer; it sees only the trained parameters.
      task: loss and metrics; `Classification()` unless given.
      augment: changes one example at random, or None.
      mix: changes the augmented batch at random, such as `Mixup`, or None.
      precision: a `Precision`, or the name of the dtype of the computation, such as "bfloat16"; parameters and moments
        keep theirs. The loss is float32, or float64 if the computation is.
      micro_batches: number of equal parts of the batch that are computed one after the other, so that only one of them
        needs memory; their gradients are added. The result is that of the whole batch to rounding, except for layers
        that draw random numbers, which draw others, and for batch norm: it normalises by the moments of a micro-batch
        and updates its running moments with each of them.
      ema: decay of moving averages of parameters and state, in [0, 1), or None; it needs a train state made with
        `ema=True`. The first steps decay by (1 + step) / (10 + step), if that is less, so that the averages forget the
        start.
      auxiliary_weight: weight of each auxiliary head's loss, at least 0, for models with such heads: 0.3 for GoogLeNet
        (Szegedy et al. 2015, section 5), 0.4 for Inception v3 (torchvision's and the authors' code), 0.5 for FCN and
        DeepLabV3 (torchvision's code).
      drop_path_schedule: from the step to a factor in [0, 1] of the rates of all `DropPath` layers, such as
        `optax.linear_schedule(0.0, 1.0, steps)` (ScheduledDropPath, Zoph et al. 2018); None for the rates as
        they are.
      trainable: a tree like the parameters of bools, True for parameters to train; None to train those outside of
        frozen layers. The others have no gradient and no optimizer state, and stay. Give `make_train_state` the same.
      placement: how batch and train state are laid out on many devices; None for the device that they are on. Of many
        processes, each gives its part of the batch; see `Placement.split`.
      compiler_options: XLA's options, as for `jax.jit`, which refuses them within another transformed function.

    Returns:
      A function of train state, batch and a typed key. The batch holds "image" (batch, height, width, channels), of
      floating point or uint8 (which becomes float32 in [0, 1]), and what the task needs. It gives the new train state
      and the metrics of the batch, before the update and on the augmented images: the means of loss and task, the
      latter of the main head alone; the norm of the gradient; and how many arrays of parameters and moments hold NaN or
      infinity after the update. It raises a TypeError for images of another dtype, such as int32, and a ValueError for
      a train state that an earlier step has taken over.

    Raises:
      TypeError: `optimizer` is not an optimizer.
      ValueError: an option is out of range, or `drop_path_schedule` is given for a model without such layers.
    """
    check_optimizer(optimizer)
    _check_options(micro_batches, ema, auxiliary_weight)
    if drop_path_schedule is not None and not has_drop_path(model):
        raise ValueError(
            "make_train_step expects a model with DropPath layers of a rate above 0, not frozen, for "
            "drop_path_schedule, got one without; omit it, or build the model with drop_path="
        )
    trained_model = model if drop_path_schedule is None else scheduled(model)
    forward = Forward(trained_model, task, as_precision(precision), float(auxiliary_weight))
    extra_args = _extra_args(optimizer)

    def prepare(train_state: TrainState, batch: Example, key: jax.Array) -> Prepared:
        augment_key, model_key, mix_key = jax.random.split(jax.random.fold_in(key, train_state.step), 3)
        batch = {**batch, "image": unit_pixels(batch["image"])}
        if augment is not None:
            batch = jax.vmap(augment)(jax.random.split(augment_key, batch["image"].shape[0]), batch)
        mixed = batch if mix is None else mix(mix_key, batch)
        trained, frozen = trees.partition(train_state.params, trainable_mask(model, train_state.params, trainable))
        _check_opt_state(optimizer, train_state, trained)
        state = train_state.state
        if drop_path_schedule is not None:
            share = jnp.asarray(drop_path_schedule(train_state.step), jnp.float32)
            state = with_share(trained_model, state, share)
        return Prepared(batch, mixed, trained, frozen, state, model_key)

    def sums_of(frozen: Params, params: Params, *part: Any) -> tuple[dict[str, Mean], State]:
        return forward.sums(trees.merge(params, frozen), *part)

    def over_parts(prepared: Prepared, part: Any) -> tuple[Any, State]:
        return sum_over(part, micro_batches, prepared.state, prepared.batch, prepared.key)

    def gradients_of(prepared: Prepared) -> tuple[jax.Array, Params, dict[str, Mean], State]:
        params = prepared.trained if placement is None else placement.gathered(prepared.trained)
        part = functools.partial(_differentiated, functools.partial(sums_of, prepared.frozen), params)
        (sums, gradients), state = over_parts(prepared, part)
        loss = sums["loss"]
        gradients = jax.tree.map(lambda g, p: _quotient(g, loss.weight).astype(p.dtype), gradients, params)
        if drop_path_schedule is not None:
            state = without_share(trained_model, state)
        return _quotient(*loss), gradients, sums, state

    def compute(train_state: TrainState, batch: Example, key: jax.Array) -> tuple[TrainState, Metrics]:
        prepared = prepare(train_state, batch, key)

        # Optax's line searches require that `value_fn` takes all arguments that they do not use themselves.
        def value_fn(params: Params, obj_fn: Any = None, grad_fn: Any = None) -> jax.Array:
            part = functools.partial(sums_of, prepared.frozen, params)
            # Recomputed in a backward pass: otherwise the activations of all micro-batches would be in memory at once.
            sums, _ = over_parts(prepared, part if micro_batches == 1 else jax.checkpoint(part))
            return _quotient(*sums["loss"])

        def grad_fn(params: Params, number: Any = None) -> Params:
            return gradients_of(prepared._replace(trained=params))[1]

        value, gradients, sums, state = gradients_of(prepared)
        known = {"value": value, "grad": gradients, "value_fn": value_fn, "obj_fn": value_fn, "grad_fn": grad_fn}
        updates, opt_state = optimizer.update(
            gradients,
            train_state.opt_state,
            prepared.trained,
            **{name: argument for name, argument in known.items() if extra_args is None or name in extra_args},
        )
        params = trees.merge(optax.apply_updates(prepared.trained, updates), prepared.frozen)
        average = None if ema is None else _averaged(train_state, Average(params, state), ema)
        metrics = Metrics(sums, _norm(gradients), _count_non_finite((params, state)))
        return TrainState(train_state.step + 1, params, state, with_fixed_types(opt_state), average), metrics

    def train_step(train_state: TrainState, batch: Example, key: jax.Array) -> tuple[TrainState, Metrics]:
        check_batch("train_step", batch)
        if (ema is None) != (train_state.ema is None):
            raise ValueError(
                f"train_step with ema={ema} expects a train state "
                + ("without moving averages, got one with them" if ema is None else "with moving averages, got none")
                + f"; make it with ema={ema is not None}"
            )
        results = with_automatic_axes(
            compute,
            train_state,
            dict(batch),
            key,
            out_specs=lambda: (jax.tree.map(spec_of, train_state), PartitionSpec()),
        )
        return results if placement is None else (placement.keep(results[0]), placement.whole(results[1]))

    parts = StepParts(prepare, forward, gradients_of, compute, micro_batches)
    return _DonatingJit(train_step, placement, parts, compiler_options=compiler_options, donate_argnums=0)


class Forward(NamedTuple):
    """A model's forward pass in training, and the sums of its task."""

    model: Layer
    task: Task
    precision: Precision
    auxiliary_weight: float

    def sums(self, params: Params, state: State, batch: Example, key: jax.Array) -> tuple[dict[str, Mean], State]:
        """Computes the loss, with that of auxiliary heads, and the metrics of a batch, and the new state."""
        outputs, state = self.outputs(params, state, batch, key)
        return self.measured(outputs, batch), state

    def outputs(self, params: Params, state: State, batch: Example, key: jax.Array) -> tuple[Any, State]:
        """Computes the outputs of the model for a batch, and the new state."""
        images = self.precision.cast_images(batch["image"])
        # A two-stage detector samples regions by the objects, within its forward pass.
        make_input = getattr(self.task, "training_input", None)
        x = images if make_input is None else make_input(images, batch)
        outputs, state = batched(self.model)(params, state, x, train=True, key=key)
        return self.precision.cast_outputs(outputs), state

    def measured(self, outputs: Any, batch: Example) -> dict[str, Mean]:
        """Computes the loss, with that of auxiliary heads, and the metrics."""
        main, others = outputs, []
        if isinstance(outputs, Mapping) and "main" in outputs:
            main, others = outputs["main"], [other for name, other in outputs.items() if name != "main"]
        loss = self.task.loss(main, batch)
        added = (self.auxiliary_weight * self.task.loss(other, batch).total for other in others)
        loss = Mean(functools.reduce(operator.add, added, loss.total), loss.weight)
        return {"loss": loss, **self.task.metrics(main, batch)}


def _differentiated(sums_of: Any, params: Params, *part: Any) -> tuple[tuple[dict[str, Mean], Params], State]:
    """Computes the sums of a micro-batch and the gradient of its summed losses, in float32 at least."""

    def total(params: Params) -> tuple[jax.Array, tuple[dict[str, Mean], State]]:
        sums, state = sums_of(params, *part)
        return sums["loss"].total, (sums, state)

    (_, (sums, state)), gradients = jax.value_and_grad(total, has_aux=True)(params)
    return (sums, jax.tree.map(lambda g: g.astype(at_least_float32(g.dtype)), gradients)), state


def _quotient(total: jax.Array, weight: jax.Array) -> jax.Array:
    """Divides by a weight; 0 / 0 is 0, and its gradient too."""
    return total / jnp.where(weight == 0, jnp.ones_like(weight), weight).astype(total.dtype)


def _averaged(train_state: TrainState, new: Average, decay: float) -> Average:
    def average(old: jax.Array, new: jax.Array) -> jax.Array:
        if not jnp.issubdtype(old.dtype, jnp.floating):
            return new
        step = train_state.step.astype(at_least_float32(old.dtype))
        # 1 minus the decay, as in `make_train_step`. Float32 would round a decay of 0.99999, and so lose 0.1 % of it.
        rest = jnp.maximum(1 - decay, 9 / (10 + step))
        # In this form, the average of an array that does not change is the array itself, to the bit.
        return old + rest.astype(old.dtype) * (new - old)

    return jax.tree.map(average, train_state.ema, new)


def check_batch(step: str, batch: Any) -> None:
    """Refuses batches without images of floating point or uint8.

    Args:
      step: name of the calling step, for the message.
      batch: expected a mapping with "image".

    Raises:
      TypeError: the batch is not a mapping, or the images are of another dtype.
      ValueError: there is no "image", or the arrays are not of one length.
    """
    if not isinstance(batch, Mapping):
        raise TypeError(
            f'{step} expects a batch as a dict, such as {{"image": images, "label": labels}}, '
            f"got {type(batch).__name__}"
        )
    if "image" not in batch:
        raise ValueError(f"{step} expects a batch with 'image', got {sorted(batch)}")
    _check_pixels(step, batch["image"])
    lengths = {name: jnp.shape(array)[:1] for name, array in batch.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{step} expects arrays of one length in a batch, got {lengths}")


def _check_pixels(step: str, images: jax.Array) -> None:
    if images.dtype != jnp.uint8:
        check_floating(step, images)


def _check_opt_state(optimizer: optax.GradientTransformation, train_state: TrainState, trained: Params) -> None:
    expected = jax.tree.structure(jax.eval_shape(optimizer.init, trained))
    if jax.tree.structure(train_state.opt_state) != expected:
        raise ValueError(
            "train_step expects the optimizer's state of the trained parameters, got another; make it with the same "
            "optimizer: make_train_state(params, state, optimizer, trainable=jaxcnn.layers.trainable(model, params))"
        )


def _check_options(micro_batches: int, ema: float | None, auxiliary_weight: float) -> None:
    for name, given, valid, expected in (
        ("micro_batches", micro_batches, micro_batches >= 1, "of at least 1"),
        ("ema", ema, ema is None or 0 <= ema < 1, "in [0, 1), or None"),
        ("auxiliary_weight", auxiliary_weight, 0 <= auxiliary_weight < float("inf"), "of at least 0, and finite"),
    ):
        if not valid:
            raise ValueError(f"make_train_step expects {name} {expected}, got {given!r}")


class _DonatingJit:
    """A compiled training step with an error that explains the reuse of a donated train state."""

    def __init__(
        self, function: Callable[..., Any], placement: Placement | None, parts: StepParts, **options: Any
    ) -> None:
        functools.update_wrapper(self, function)
        jitted = jax.jit(function, **options)
        self._jitted, self._placement, self.trace, self.lower = jitted, placement, jitted.trace, jitted.lower
        self.parts = parts

    def __call__(self, train_state: TrainState, batch: Any, key: jax.Array) -> Any:
        args = train_state, batch, key
        if self._placement is not None:
            args = train_state, _split("train_step", batch, self._placement), self._placement.put_whole(key)
        try:
            return self._jitted(*args)
        except (RuntimeError, ValueError) as error:
            # Checked after an error only, to cost nothing otherwise.
            gone = any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in jax.tree.leaves(args))
            if gone and ("deleted" in str(error) or "donated" in str(error)):
                raise ValueError(
                    "train_step expects the newest train state, got one that an earlier step has taken over (donated); "
                    "go on with the train state which that step returned, or keep a copy: "
                    "jax.tree.map(jnp.copy, train_state)"
                ) from error
            raise


def _split(step: str, batch: Any, placement: Placement) -> Any:
    check_batch(step, batch)
    return placement.split(dict(batch))


def _extra_args(optimizer: optax.GradientTransformation) -> set[str] | None:
    """Names the extra arguments that the optimizer's update takes; None if it takes any."""
    if not isinstance(optimizer, optax.GradientTransformationExtraArgs):
        return set()
    parameters = inspect.signature(optimizer.update).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return None if takes_any else set(parameters)


def _norm(tree: Any) -> jax.Array:
    squares = [jnp.sum(jnp.square(leaf)) for leaf in _floating_leaves(tree)]
    dtype = jnp.float64 if any(square.dtype == jnp.float64 for square in squares) else jnp.float32
    return jnp.sqrt(sum((square.astype(dtype) for square in squares), start=jnp.zeros((), dtype)))


def _count_non_finite(tree: Any) -> jax.Array:
    """Counts the arrays that hold NaN or infinity, int32."""
    # x - x is zero for finite x alone. Its sum is several times faster on CPU than jnp.isfinite of each value.
    bad = (jnp.sum(leaf - leaf) != 0 for leaf in _floating_leaves(tree))
    return sum((one.astype(jnp.int32) for one in bad), start=jnp.zeros((), jnp.int32))


def _floating_leaves(tree: Any) -> list[jax.Array]:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return [leaf.astype(at_least_float32(leaf.dtype)) for leaf in leaves]


def make_eval_step(
    model: Layer,
    task: Task = _CLASSIFICATION,
    *,
    precision: Any = "float32",
    placement: Placement | None = None,
    compiler_options: dict[str, Any] | None = None,
) -> Callable[[Params, State, Any], dict[str, Mean]]:
    """Makes the compiled evaluation step.

    Args:
      model: a layer whose outputs the task understands.
      task: loss and metrics; `Classification()` unless given.
      precision: a `Precision`, or the name of the dtype of the computation.
      placement: as for `make_train_step`.
      compiler_options: XLA's options, as for `jax.jit`, which refuses them within another transformed function.

    Returns:
      A function of params, state and batch that returns the loss under "loss" and the metrics of the task, as sums over
      the examples. Examples whose "weight" is 0 do not count. Images are as for `make_train_step`.
    """
    precision, forward = as_precision(precision), batched(model)

    def compute(params: Params, state: State, batch: Example) -> dict[str, Mean]:
        images = precision.cast_images(unit_pixels(batch["image"]))
        # R-CNN does not propose regions itself.
        make_input = getattr(task, "evaluation_input", None)
        x = images if make_input is None else make_input(images, batch)
        outputs, _ = forward(params, state, x, train=False)
        outputs = precision.cast_outputs(outputs)
        return {"loss": task.loss(outputs, batch), **task.metrics(outputs, batch)}

    def eval_step(params: Params, state: State, batch: Example) -> dict[str, Mean]:
        check_batch("eval_step", batch)
        sums = with_automatic_axes(compute, params, state, dict(batch), out_specs=PartitionSpec)
        return sums if placement is None else placement.whole(sums)

    jitted = jax.jit(eval_step, compiler_options=compiler_options)
    if placement is None:
        return jitted
    return lambda params, state, batch: jitted(params, state, _split("eval_step", batch, placement))


def make_predict_step(
    model: Layer,
    task: Task | None = None,
    *,
    precision: Any = "float32",
    compiler_options: dict[str, Any] | None = None,
) -> Callable[[Params, State, Any], Any]:
    """Makes the compiled forward pass.

    Args:
      model: any layer.
      task: decodes the outputs, for example to probabilities; None returns them as they are.
      precision: a `Precision`, or the name of the dtype of the computation.
      compiler_options: XLA's options, as for `jax.jit`, which refuses them within another transformed function.

    Returns:
      A function of params, state and images (batch, height, width, channels), which are as for `make_train_step`. It
      returns the outputs or predictions, with the batch as their first axis; outputs in float32, or in float64 if the
      computation is.
    """
    precision, forward = as_precision(precision), batched(model)

    def predict_step(params: Params, state: State, images: jax.Array) -> Any:
        _check_pixels("predict_step", images)
        outputs, _ = forward(params, state, precision.cast_images(unit_pixels(images)), train=False)
        outputs = precision.cast_outputs(outputs)
        return outputs if task is None else task.decode(outputs)

    return jax.jit(predict_step, compiler_options=compiler_options)
