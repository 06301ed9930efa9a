"""The curvature of the loss: Hessian-vector products, the largest eigenvalues, and slices of the loss landscape.

These take any function of one tree of arrays, such as the mean loss of a batch as a function of the parameters:

    def loss(params):
        logits, _ = batched(model)(params, state, images, train=False)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    largest = lanczos(loss, params, jax.random.key(0))
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

Loss = Callable[[Any], jax.Array]
"""From a tree of floating-point arrays to a scalar."""


def hessian_vector_product(loss: Loss, params: Any, vector: Any) -> Any:
    """Multiplies the Hessian of a function by a vector, without the Hessian: the derivative of the gradient along it.

    It takes some four times the time of a gradient (Pearlmutter 1994).

    Args:
      loss: the function.
      params: where it is differentiated.
      vector: a tree like `params`.

    Returns:
      A tree like `params`.
    """
    return jax.jvp(jax.grad(loss), (params,), (vector,))[1]


class Eigenpairs(NamedTuple):
    """Eigenvalues and eigenvectors of a Hessian.

    Attributes:
      values: eigenvalues, the largest first, shape (found,), at most as many as were asked for.
      vectors: a tree like the parameters, with the eigenvectors, of norm 1, along a further first axis.
      residuals: the norm of H v - value v of each: the value differs from an eigenvalue by at most as much.
    """

    values: np.ndarray
    vectors: Any
    residuals: np.ndarray


def lanczos(loss: Loss, params: Any, key: jax.Array, *, count: int = 1, steps: int = 40) -> Eigenpairs:
    """Computes the largest eigenvalues of the Hessian of a function, by the iteration of Lanczos (1950).

    It starts from a random vector, and makes each new vector orthogonal to all before, twice: otherwise rounding finds
    an eigenvalue again and again (Golub & Van Loan, Matrix Computations, section 10.3). Memory is that of `steps`
    times the parameters.

    Args:
      loss: the function; it is compiled once.
      params: where it is differentiated.
      key: typed random key, consumed.
      count: number of eigenvalues, from 1 to `steps`.
      steps: number of Hessian-vector products, at most the number of parameters; `residuals` tells whether they are
        enough.

    Returns:
      The largest eigenvalues, which may be negative if all are. They are fewer than `count` if products with the
      Hessian lead to no more vectors: of a multiple of the identity, one is found.

    Raises:
      ValueError: `count` or `steps` is out of range, or a product is NaN or infinite.
    """
    flat, unravel = ravel_pytree(params)
    if not 1 <= count <= steps <= flat.size:
        raise ValueError(
            f"lanczos expects 1 <= count <= steps <= {flat.size}, the number of parameters, got count={count} and "
            f"steps={steps}"
        )

    @jax.jit
    def product(vector: jax.Array) -> jax.Array:
        return ravel_pytree(hessian_vector_product(loss, params, unravel(vector)))[0]

    start = np.asarray(jax.random.normal(key, flat.shape, flat.dtype), np.float64)
    basis = [start / np.linalg.norm(start)]
    # The products with the basis, from which the matrix of the Hessian in this basis is computed.
    images: list[np.ndarray] = []
    for _ in range(steps):
        image = np.asarray(product(jnp.asarray(basis[-1], flat.dtype)), np.float64)
        if not np.isfinite(image).all():
            raise ValueError("lanczos expects a finite Hessian, got NaN or infinity; is the loss finite there?")
        images.append(image)
        rest = image
        for _ in range(2):
            rest = rest - np.stack(basis, axis=1) @ (np.stack(basis) @ rest)
        norm = np.linalg.norm(rest)
        # The basis spans all that the start reaches: its eigenvalues are exact.
        if len(images) == steps or norm <= np.finfo(flat.dtype).eps * np.linalg.norm(image):
            break
        basis.append(rest / norm)
    span, mapped = np.stack(basis[: len(images)]), np.stack(images)
    small = span @ mapped.T
    values, weights = np.linalg.eigh((small + small.T) / 2)
    chosen = np.arange(len(values))[::-1][:count]
    vectors = weights[:, chosen].T @ span
    residuals = np.linalg.norm(weights[:, chosen].T @ mapped - values[chosen, None] * vectors, axis=1)
    trees = [unravel(jnp.asarray(vector, flat.dtype)) for vector in vectors]
    return Eigenpairs(values[chosen], jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees), residuals)


def filter_normalized(direction: Any, params: Any) -> Any:
    """Scales each filter of a direction to the norm of that of the parameters (Li et al. 2018, section 4).

    So a step of 1 changes every filter by its own norm, and slices of networks compare whose filters have other scales.
    A filter is the part of a kernel that makes one output; arrays of one axis, such as biases, are not moved.

    Args:
      direction: a tree like the parameters, such as normal random numbers.
      params: the parameters.

    Returns:
      The direction.
    """

    def scaled(move: jax.Array, leaf: jax.Array) -> jax.Array:
        if leaf.ndim < 2:
            return jnp.zeros_like(leaf)
        axes = tuple(range(leaf.ndim - 1))
        length = jnp.sqrt(jnp.sum(jnp.square(move), axis=axes, keepdims=True))
        wanted = jnp.sqrt(jnp.sum(jnp.square(leaf), axis=axes, keepdims=True))
        return move * wanted / jnp.where(length == 0, jnp.ones_like(length), length)

    return jax.tree.map(scaled, direction, params)


def random_direction(key: jax.Array, params: Any) -> Any:
    """Draws a direction of normal random numbers, scaled filter by filter; see `filter_normalized`.

    Args:
      key: typed random key, consumed.
      params: the parameters.

    Returns:
      A tree like the parameters.
    """
    return filter_normalized(optax.tree.random_like(key, params, jax.random.normal), params)


def loss_slice(loss: Loss, params: Any, one: Any, other: Any, steps: Any) -> np.ndarray:
    """Computes a function on the plane of two directions through the parameters.

    Args:
      loss: the function; it is compiled once.
      params: the middle.
      one: the first direction, a tree like `params`, such as `random_direction` makes, or an eigenvector.
      other: the second direction.
      steps: multiples of the directions, shape (n,), such as `np.linspace(-1, 1, 21)`.

    Returns:
      Shape (n, n): [i, j] is at params + steps[i] one + steps[j] other.
    """

    def at(first: jax.Array, second: jax.Array) -> jax.Array:
        def moved(leaf: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
            return leaf + first.astype(leaf.dtype) * a + second.astype(leaf.dtype) * b

        return loss(jax.tree.map(moved, params, one, other))

    @jax.jit
    def row(first: jax.Array, steps: jax.Array) -> jax.Array:
        return jax.lax.map(lambda second: at(first, second), steps)

    places = jnp.asarray(steps)
    return np.stack([np.asarray(row(first, places)) for first in places])
