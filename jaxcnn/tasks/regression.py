"""Regression: numbers for each image."""

from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import optax

from jaxcnn.ops.check import check_array
from jaxcnn.tasks.examples import take, weighted
from jaxcnn.tasks.means import figures
from jaxcnn.types import Example, Mean, Objective
from jaxcnn.values import Value

Error = Literal["squared", "absolute", "huber"]


@dataclass(frozen=True, repr=False)
class Regression(Value):
    """Numbers for each image: `batch["target"]`, of the shape of the outputs, (batch, ...).

    The loss of an example is the mean over its numbers.

    Attributes:
      error: "squared"; "absolute"; or "huber": half the square up to `huber_delta`, linear beyond (Huber 1964).
      huber_delta: where "huber" becomes linear, above 0.
    """

    error: Error = "squared"
    huber_delta: float = 1.0

    def __post_init__(self) -> None:
        if self.error not in get_args(Error):
            raise ValueError(f"Regression expects an error among {get_args(Error)}, got {self.error!r}")
        if not 0 < self.huber_delta < float("inf"):
            raise ValueError(f"Regression expects a finite huber_delta above 0, got {self.huber_delta!r}")

    @property
    def objective(self) -> Objective:
        """The smallest mean absolute error for the loss "absolute", the smallest root mean square for the others."""
        return Objective("mae" if self.error == "absolute" else "rmse", larger_is_better=False)

    def loss(self, outputs: jax.Array, batch: Example) -> Mean:
        """Computes the error of the outputs; see `jaxcnn.types.Task.loss`."""
        targets = self._targets(outputs, batch)
        if self.error == "absolute":
            errors = jnp.abs(outputs - targets)
        elif self.error == "squared":
            errors = optax.squared_error(outputs, targets)
        else:
            errors = optax.huber_loss(outputs, targets, delta=self.huber_delta)
        return weighted(_mean_of_each(errors), 1, batch)

    def metrics(self, outputs: jax.Array, batch: Example) -> dict[str, Mean]:
        """Computes the mean absolute error "mae" and the mean squared error "mse"; see `jaxcnn.types.Task.metrics`."""
        errors = jax.lax.stop_gradient(outputs) - self._targets(outputs, batch)
        return {
            "mae": weighted(_mean_of_each(jnp.abs(errors)), 1, batch),
            "mse": weighted(_mean_of_each(jnp.square(errors)), 1, batch),
        }

    def decode(self, outputs: jax.Array) -> jax.Array:
        """Returns the outputs, which are the predicted numbers."""
        return outputs

    def report(self, sums: dict[str, Mean]) -> dict[str, float]:
        """Returns a number for each metric, and "rmse", the root of "mse"."""
        numbers = figures(sums)
        return numbers | {"rmse": numbers["mse"] ** 0.5}

    def _targets(self, outputs: jax.Array, batch: Example) -> jax.Array:
        check_array("Regression", outputs)
        targets = take("Regression", batch, "target")
        if targets.shape != outputs.shape:
            raise ValueError(
                f'Regression expects outputs and "target" of one shape, got {outputs.shape} and {targets.shape}'
            )
        return targets.astype(outputs.dtype)


def _mean_of_each(errors: jax.Array) -> jax.Array:
    return jnp.mean(errors.reshape(errors.shape[0], -1), axis=1)
