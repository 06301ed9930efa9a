"""The program of every contestant that JAX compiles: the same loss, optimizer and compilation for all of them."""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn.benchmark.program import LEARNING_RATE, MOMENTUM, Stopwatch, Unavailable, draw_batch
from jaxcnn.benchmark.spec import Spec
from jaxcnn.types import Task

Apply = Callable[[Any, Any, jax.Array, bool, jax.Array | None], tuple[Any, Any]]


class JaxModel(NamedTuple):
    """A model as pure functions of a batch.

    Attributes:
      params: trained arrays, a pytree.
      state: arrays that training updates without a gradient, a pytree.
      apply: from parameters, state, images (batch, height, width, channels), `train` and a typed random key (None
        unless `train`) to the tree of logits, with the batch as their first axis, and the new state.
      parameters: number of trained numbers of the model as it is trained.
      lay_out: from images (batch, height, width, channels) to the layout that `apply` takes, before any step.
    """

    params: Any
    state: Any
    apply: Apply
    parameters: int
    lay_out: Callable[[np.ndarray], np.ndarray] = np.asarray


def make_train_step(apply: Apply, task: Task | None = None) -> Callable[[Any, jax.Array, Any], tuple[Any, jax.Array]]:
    """Makes the training step of a model, not compiled.

    Args:
      apply: as in `JaxModel`.
      task: of a detector; None for the mean cross-entropy of logits.

    Returns:
      From a carry as `first_carry` makes it, images and labels to the new carry and the mean loss.
    """
    optimizer = _optimizer()

    def train_step(carry: Any, images: jax.Array, labels: Any) -> Any:
        params, state, opt_state, key = carry
        key, step_key = jax.random.split(key)
        # A two-stage detector samples regions by the objects, within its forward pass.
        make_input = getattr(task, "training_input", None)
        x = images if make_input is None else make_input(images, labels)

        def mean_loss(params: Any) -> tuple[jax.Array, Any]:
            results, new_state = apply(params, state, x, True, step_key)
            results = as_float32(results)
            if task is not None:
                total, weight = task.loss(results, labels)
                return total / weight, new_state
            # Auxiliary heads give several results for one label, which all have the same weight.
            losses = [
                optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
                for logits in jax.tree.leaves(results)
            ]
            return jnp.mean(jnp.stack(losses)), new_state

        (loss, new_state), gradients = jax.value_and_grad(mean_loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), new_state, opt_state, key), loss

    return train_step


def first_carry(model: JaxModel) -> Any:
    """Returns what a training step changes: parameters, state, the optimizer's state and a typed random key."""
    return model.params, model.state, _optimizer().init(model.params), jax.random.key(1)


class JaxProgram:
    """The compiled program of a model.

    Args:
      spec: what to measure.
      make_model: builds the model; its time belongs to "build".
      compiler_options: XLA options of this program alone.
      facts: other entries of the record.
    """

    def __init__(
        self,
        spec: Spec,
        make_model: Callable[[], JaxModel],
        *,
        compiler_options: Mapping[str, Any] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        watch = Stopwatch()
        with watch.part("build"):
            model = make_model()
            self.parameters = model.parameters
            shared, split = _shardings(spec.devices)
            images, labels = draw_batch(spec)
            batch = jax.device_put((model.lay_out(images).astype(spec.precision), labels), split)
            arguments = _arguments(spec, model, batch, shared)
            jax.block_until_ready(arguments)
        # Donation lets the new parameters use the memory of the old ones, as in a training loop.
        if spec.mode == "train":
            jitted = jax.jit(make_train_step(model.apply, spec.task), donate_argnums=0, out_shardings=shared)
        else:
            jitted = jax.jit(_infer_step(model.apply, spec.task), out_shardings=split)
        with watch.part("trace"):
            traced = jitted.trace(*arguments)
        with watch.part("lower"):
            lowered = traced.lower()
        with watch.part("compile"):
            self._compiled = lowered.compile(compiler_options=dict(compiler_options or {}))
        self._train = spec.mode == "train"
        self._arguments = arguments
        self._result: Any = None
        self.cold_start = watch.seconds
        device = jax.devices()[0]
        self._device = device
        self.facts = {
            "device": {"platform": device.platform, "kind": device.device_kind, "count": spec.devices},
            "compiler_options": dict(compiler_options or {}),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "temporary_bytes": _temporary_bytes(self._compiled),
            **(facts or {}),
        }

    def step(self) -> None:
        """Starts a step."""
        self._result = self._compiled(*self._arguments)
        if self._train:
            self._arguments = (self._result[0], *self._arguments[1:])

    def wait(self) -> None:
        """Waits for the newest parameters, or for the result of inference."""
        jax.block_until_ready(self._result)

    def peak_device_bytes(self) -> int | None:
        """Returns the most memory that JAX has taken on the first device so far; None on CPU."""
        statistics = self._device.memory_stats() or {}
        return statistics.get("peak_bytes_in_use")


def _infer_step(apply: Callable[..., Any], task: Task | None) -> Callable[..., Any]:
    """Makes the step of inference: the logits, or the detections."""

    def infer_step(params: Any, state: Any, images: jax.Array) -> Any:
        results = apply(params, state, images, False, None)[0]
        return results if task is None else task.decode(as_float32(results))

    return infer_step


def as_float32(tree: Any) -> Any:
    """Converts the floating-point arrays of a tree."""
    return jax.tree.map(lambda x: x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def _optimizer() -> optax.GradientTransformation:
    return optax.sgd(LEARNING_RATE, momentum=MOMENTUM)


def _arguments(spec: Spec, model: JaxModel, batch: Any, shared: Any) -> tuple[Any, ...]:
    images, labels = batch
    if spec.mode == "infer":
        return (*jax.device_put((model.params, model.state), shared), images)
    return jax.device_put(first_carry(model), shared), images, labels


def _shardings(devices: int) -> tuple[Any, Any]:
    """Returns the shardings of parameters and batch: the parameters on every device, the batch split over all."""
    if devices == 1:
        return None, None
    if devices > len(jax.devices()):
        raise Unavailable(f"expected {devices} devices, found {len(jax.devices())}: {jax.devices()[0].device_kind}")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("batch",))
    whole, part = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("batch")
    return jax.sharding.NamedSharding(mesh, whole), jax.sharding.NamedSharding(mesh, part)


def _temporary_bytes(compiled: Any) -> int | None:
    analysis = compiled.memory_analysis()
    return None if analysis is None else int(analysis.temp_size_in_bytes)
