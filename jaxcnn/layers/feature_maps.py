"""Features: what layers within a model return, by their names."""

from collections.abc import Sequence
from typing import Any

import jax

from jaxcnn.layers.batching import batch_size
from jaxcnn.layers.composite import Stopped, Taps, apply_around, layer_at
from jaxcnn.types import Layer, Params, State


def features(model: Layer, params: Params, state: State, x: Any, *, at: Sequence[str]) -> dict[str, Any]:
    """Computes what layers within a model return for one image, as in evaluation.

        maps = features(model, params, state, image, at=["stage2", "stage4/block0/conv1"])
        maps["stage2"]  # (28, 28, 128)

    Layers after the last one that is named are not computed, not even traced: the image may have a size that they do
    not take. It is a pure function, to be compiled, differentiated and mapped like any other; a transform such as
    `jax.jit` returns the dict sorted by name, as it does all dicts.

    Args:
      model: a whole model, or another layer made of layers.
      params: its parameters.
      state: its state.
      x: one image, shape (height, width, channels); a batch goes to `batched_features`.
      at: paths of layers, such as "stage2" or "stage4/block0/shortcut", at least one. A path gives the layer's own
        result: the shortcut's before it is added, a branch's before it is joined to the others. The second result of a
        layer "head" that is applied several times is "head#2". An auxiliary head is computed if it or a layer in it is
        named.

    Returns:
      The results by path, in the order of `at`.

    Raises:
      ValueError: there is no layer of that name, the model does not apply it in evaluation, none is asked for, or `x`
        is a batch.
      TypeError: `at` is a single string.
    """
    if isinstance(at, str):
        raise TypeError(f"features expects a sequence of paths, got the string {at!r}; write at=[{at!r}]")
    if not at:
        raise ValueError("features expects at least one path, got none")
    try:
        taps = Taps({path: layer_at(model, path) for path in at})
    except ValueError as error:
        raise ValueError(f"features: {error}") from None
    if getattr(x, "ndim", 3) == 4:
        raise ValueError(
            f"features expects one image of shape (height, width, channels), got {x.shape}; "
            "use jaxcnn.layers.batched_features for a batch"
        )
    try:
        apply_around(model, params, state, x, taps, train=False, asked=frozenset(at))
    except Stopped as stopped:
        if stopped.by is not taps:
            raise
        return {path: taps.found[path] for path in at}
    missing = next(path for path in at if path not in taps.found)
    raise ValueError(f"features expects paths of layers that the model applies in evaluation, got {missing!r}")


def batched_features(model: Layer, params: Params, state: State, images: Any, *, at: Sequence[str]) -> dict[str, Any]:
    """Computes what layers within a model return for each image of a batch: `features` under `jax.vmap`.

    Args:
      model: a whole model, or another layer made of layers.
      params: its parameters.
      state: its state.
      images: shape (batch, height, width, channels).
      at: paths of layers, at least one; see `features`.

    Returns:
      The results by path, with the batch as their first axis, in the order of `at`.

    Raises:
      ValueError: there is no layer of that name, none is asked for, the batch is empty, or `images` is not a batch.
      TypeError: `at` is a single string.
    """
    batch_size("batched_features", images)
    found = jax.vmap(lambda x: features(model, params, state, x, at=at), axis_name="batch")(images)
    # A transform of JAX returns a dict sorted by name.
    return {path: found[path] for path in at}
