"""What a training step needs in memory, and the error of a device that has too little."""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn import trees
from jaxcnn.training.step import StepParts
from jaxcnn.training.train_state import TrainState

# The words of XLA, on CPU and on accelerators, and of NumPy.
_WORDS = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")


class OutOfMemoryError(RuntimeError):
    """A step of training or evaluation needs more memory than there is.

    Attributes:
      fields: fields of the recipe in the message, in the order of their places.
    """

    def __init__(self, message: str, *fields: str) -> None:
        super().__init__(message)
        self.fields = fields


def memory_of_step(parts: StepParts, train_state: TrainState, batch: Any, key: Any) -> dict[str, int]:
    """Estimates the memory of a training step on one device, without computing anything.

    Args:
      parts: the parts of the step.
      train_state: the train state, of arrays or shapes.
      batch: the batch, of arrays or shapes.
      key: the key of the run, or its shape.

    Returns:
      Bytes by part: "parameters", with the state of the model; "gradients"; "optimizer"; "averages"; "batch";
      "activations", what the forward pass of a micro-batch keeps for the backward pass. XLA often needs only half of
      these, since it computes some of them anew.
    """

    def prepared(train_state: TrainState, batch: Any, key: Any) -> Any:
        return parts.prepare(train_state, batch, key)

    ready = jax.eval_shape(prepared, train_state, batch, key)

    def kept(trained: Any, frozen: Any, state: Any, batch: Any, key: Any) -> Any:
        def loss(trained: Any) -> Any:
            sums, _ = parts.forward.sums(trees.merge(trained, frozen), state, batch, key)
            return sums["loss"].total

        return jax.vjp(loss, trained)[1]

    part = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((leaf.shape[0] // parts.micro_batches, *leaf.shape[1:]), leaf.dtype),
        ready.batch,
    )
    residuals = jax.eval_shape(kept, ready.trained, ready.frozen, ready.state, part, ready.key)
    # The backward pass also reads the parameters, which are counted already.
    known = Counter((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(train_state.params))
    activations = []
    for leaf in jax.tree.leaves(residuals):
        if known[leaf.shape, leaf.dtype]:
            known[leaf.shape, leaf.dtype] -= 1
        else:
            activations.append(leaf)
    return {
        "parameters": _bytes((train_state.params, train_state.state)),
        "gradients": _bytes(ready.trained),
        "optimizer": _bytes(train_state.opt_state),
        "averages": _bytes(train_state.ema),
        "batch": _bytes(batch) + _bytes(ready.batch),
        "activations": _bytes(activations),
    }


def _bytes(tree: Any) -> int:
    leaves = (leaf for leaf in jax.tree.leaves(tree) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


@contextlib.contextmanager
def memory_reported(what: str, advice: str, *fields: str, needs: Callable[[], Mapping[str, int]]) -> Iterator[None]:
    """Turns the error of a device without enough memory into an `OutOfMemoryError`.

    Args:
      what: what needs memory, such as "a training step of 64 images of 28x28x1".
      advice: what to try.
      *fields: fields of the recipe in the advice.
      needs: estimates the bytes by part; {} for no estimate.

    Raises:
      OutOfMemoryError: the block ran out of memory.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and not any(word in str(error) for word in _WORDS):
            raise
        parts = {name: size for name, size in needs().items() if size}
        listed = ", ".join(f"{name} {_megabytes(size)}" for name, size in parts.items())
        estimate = f". It needs up to about {_megabytes(sum(parts.values()))}: {listed}" if parts else ""
        reason = (str(error) or "out of memory").splitlines()[0].rstrip(".")
        raise OutOfMemoryError(
            f"expected enough memory for {what}, got: {reason:.200}{estimate}. Try {advice}", *fields
        ) from error


def _megabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
