"""Folding of batch norms into the convolutions before them: the same model for inference, with less to compute.

A container of your own joins in by registering how its parts fold:

    @fold_batch_norm.register
    def _(model: MyContainer, params, state): ...
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial, singledispatch
from itertools import groupby
from typing import Any

import jax.numpy as jnp

from jaxcnn import ops
from jaxcnn.layers.containers import AuxiliaryHeads, Concat, Gate, Part, Residual, Sequential, named
from jaxcnn.layers.conv import Conv, ConvTranspose
from jaxcnn.layers.dense import Dense
from jaxcnn.layers.norm import BatchNorm
from jaxcnn.layers.parameters import affine_names, check_names
from jaxcnn.layers.regularize import Dropout, DropPath
from jaxcnn.types import Layer, Params, State

_CONVOLUTIONS = (Conv, ConvTranspose, Dense)


@singledispatch
def fold_batch_norm(model: Layer, params: Params, state: State) -> tuple[Layer, Params, State]:
    """Folds each batch norm that follows a convolution into its kernel and bias (Jacob et al. 2018, eq. 14).

        model, params, state = fold_batch_norm(model, params, state)

    With `train=False` the new model computes what the old one did, to rounding. The batch norms are gone from model,
    parameters and state, names included; their convolutions keep their names and have a bias. `Conv`, `ConvTranspose`
    and `Dense` count as convolutions, and a `Sequential` within a `Sequential` as its layers in a row; where nothing
    is left of it, it stays as an empty one. A `Dropout` or `DropPath` between the two does not matter, since it does
    nothing then. Other batch norms stay, such as those before a convolution or
    after a pooling, a sum or a concatenation, and so does all that is inside a container that has not registered.

    With `train=True` the new model is a plain one with biases: it has no moments of the batch to normalise by, and does
    not train as the old one did. So train first and fold at the end.

    Args:
      model: a layer or a whole model.
      params: its parameters.
      state: its state, with the running moments to fold.

    Returns:
      The new model, its parameters and its state. Kernels and biases keep their dtype and are computed in at least
      float32; arrays that do not change are those of the given trees, not copies.

    Raises:
      ValueError: parameters or state are not those of the model; a note names the layer.
    """
    return model, params, state


@fold_batch_norm.register(Conv)
@fold_batch_norm.register(ConvTranspose)
@fold_batch_norm.register(Dense)
def _(model: Conv | ConvTranspose | Dense, params: Params, state: State) -> Part:
    check_names(f"{type(model).__name__} parameters", params, affine_names(model))
    return model, params, state


@fold_batch_norm.register
def _(model: Sequential, params: Params, state: State) -> Part:
    parts: dict[str, Part] = {}
    last = None
    for path, part in _in_order(model, params, state).items():
        # The very types: a class derived from them may compute something else.
        if last and type(parts[last][0]) in _CONVOLUTIONS and type(part[0]) is BatchNorm:
            with named(path):
                parts[last] = _folded(parts[last], part)
        else:
            parts[path] = part
            last = last if type(part[0]) in (Dropout, DropPath) else path
    return _rebuilt(model, parts)


@fold_batch_norm.register(Concat)
@fold_batch_norm.register(Gate)
@fold_batch_norm.register(Residual)
def _(model: Concat | Gate | Residual, params: Params, state: State) -> Part:
    return model.map_parts(params, state, lambda name, *part: fold_batch_norm(*part))


@fold_batch_norm.register
def _(model: AuxiliaryHeads, params: Params, state: State) -> Part:
    _check_names(model, params, state)
    parts = {}
    # A batch norm after an auxiliary head stays: the head is given what comes before it.
    for _, run in groupby(model.names, lambda name: name if name in model.heads else ""):
        names = tuple(run)
        row = Sequential(**{name: model[name] for name in names})
        folded: Any
        folded, *trees = fold_batch_norm(row, *({name: tree[name] for name in names} for tree in (params, state)))
        parts |= {name: (folded[name], *(tree[name] for tree in trees)) for name in folded.names}
    return _joined(partial(type(model), *model.heads), parts)


def _in_order(model: Sequential, params: Params, state: State, above: str = "") -> dict[str, Part]:
    """Lists the layers in a row by path, those of inner Sequentials among them, each folded in itself."""
    _check_names(model, params, state)
    parts = {}
    for name, layer in model.layers:
        path = f"{above}{name}"
        with named(name):
            if type(layer) is Sequential:
                parts |= _in_order(layer, params[name], state[name], f"{path}/")
            else:
                parts[path] = fold_batch_norm(layer, params[name], state[name])
    return parts


def _rebuilt(model: Sequential, parts: dict[str, Part], above: str = "") -> Part:
    """Puts what is left of the layers in a row back into the Sequentials they came from."""
    kept = {}
    for name, layer in model.layers:
        path = f"{above}{name}"
        if type(layer) is Sequential:
            kept[name] = _rebuilt(layer, parts, f"{path}/")
        elif path in parts:
            kept[name] = parts[path]
    return _joined(type(model), kept)


def _joined(make: Callable[..., Layer], parts: dict[str, Part]) -> Part:
    return (
        make(**{name: layer for name, (layer, _, _) in parts.items()}),
        {name: params for name, (_, params, _) in parts.items()},
        {name: state for name, (_, _, state) in parts.items()},
    )


def _check_names(model: AuxiliaryHeads | Sequential, params: Params, state: State) -> None:
    check_names(f"{type(model).__name__} parameters", params, model.names)
    check_names(f"{type(model).__name__} state", state, model.names)


def _folded(part: Part, norm_part: Part) -> Part:
    """Folds a batch norm into the convolution before it."""
    layer, params, state = part
    norm, norm_params, norm_state = norm_part
    kernel = jnp.asarray(params["kernel"])
    bias = params.get("bias", jnp.zeros(kernel.shape[-1:], kernel.dtype))
    # The result is linear in kernel and bias, and their last axis are its channels: so normalising them normalises it,
    # where only the bias is shifted.
    bias, _ = norm.apply(norm_params, norm_state, bias, train=False)
    no_mean = jnp.zeros_like(norm_state["mean"])
    kernel = ops.normalize(kernel, no_mean, norm_state["var"], norm_params.get("scale"), epsilon=norm.epsilon)
    return replace(layer, use_bias=True), {"kernel": kernel, "bias": bias}, state
