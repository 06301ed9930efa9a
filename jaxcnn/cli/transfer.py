"""Loads the initial parameters of a training, and freezes layers."""

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import trees
from jaxcnn.cli import names
from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.cli.options import Train
from jaxcnn.cli.run_folder import RunFolder
from jaxcnn.cli.terminal import say, shown
from jaxcnn.layers import AuxiliaryHeads, Flatten, Frozen, Function, Run, Sequential, freeze, trainable
from jaxcnn.models.catalog import CATALOG, Model
from jaxcnn.training.checkpoint import CheckpointError, Checkpoints
from jaxcnn.types import Params, State

_BACKBONE = r"(?!(head|aux\d*)(/|$)).*"
# A longer list would push the message off the screen.
_LISTED = 10


class Normalization(NamedTuple):
    """Normalization of pixels in [0, 1] that weights expect.

    Attributes:
      mean: mean of each channel.
      std: standard deviation of each channel.
      reverse: whether the order of the channels is reversed first.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    reverse: bool = False


class Source(NamedTuple):
    """Initial weights.

    Attributes:
      name: their source, for messages.
      params: parameters by path in the model.
      state: state by path in the model.
      model: the model that they were trained with; None if it is that of the catalog.
      normalization: the normalization that they expect, or None.
    """

    name: str
    params: Mapping[str, Any]
    state: Mapping[str, Any]
    model: Model | None
    normalization: Normalization | None

    def fingerprint(self) -> str:
        """Computes a checksum of all numbers."""
        checksum = 0
        for tree in (self.params, self.state):
            for name in sorted(tree):
                checksum = zlib.crc32(np.asarray(tree[name]).tobytes(), zlib.crc32(name.encode(), checksum))
        return f"{checksum:08x}"


def read_source(options: Train) -> Source:
    """Reads the weights of --init-from.

    Args:
      options: the options of a training with --init-from.

    Returns:
      The weights, with any head.

    Raises:
      CommandError: there are no weights, or they belong to another model.
    """
    names.choose("model", options.model, CATALOG)
    source = str(options.init_from)
    return (
        _read_run(Path(source), options) if (Path(source) / "checkpoints").is_dir() else _read_weights(source, options)
    )


def _read_weights(source: str, options: Train) -> Source:
    # Imported here: it is large, and not needed if a run starts from another run.
    from jaxcnn.interop.weights import load_weights

    with reported(ImportError, OSError, ValueError):
        weights = load_weights(options.model, source)
    params, state = trees.named_leaves(weights.params), trees.named_leaves(weights.state)
    normalization = None
    if (preprocessing := weights.preprocessing) is not None:
        mean, std = (
            tuple(number / preprocessing.scale for number in numbers)
            for numbers in (preprocessing.mean, preprocessing.std)
        )
        normalization = Normalization(mean, std, preprocessing.channel_order == "BGR")
    return Source(source, params, state, weights.model, normalization)


def _read_run(path: Path, options: Train) -> Source:
    folder = RunFolder(path)
    if folder.options.model != options.model:
        raise CommandError(
            f"expected the weights of {options.model}, got a run of {folder.options.model} in {shown(path)}"
        )
    checkpoints = Checkpoints(folder.checkpoints)
    with reported(FileNotFoundError, CheckpointError, ValueError):
        best = checkpoints.restore_leaves("best/")
    for reason in best.skipped:
        say(f"skipped a damaged checkpoint: {reason}")
    if best.meta["best"]["epoch"] == 0:
        raise CommandError(
            f"expected a run with at least one whole epoch, got {shown(path)}, which stopped earlier; resume it first"
        )
    found: dict[str, dict[str, Any]] = {"params": {}, "state": {}}
    for path_in_best, leaf in best.tree.items():
        kind, _, name = path_in_best.partition("/")
        found[kind][name] = leaf
    return Source(str(path), found["params"], found["state"], None, read_normalization(folder))


def read_normalization(folder: RunFolder) -> Normalization | None:
    """Reads the normalization in the model of a run.

    Args:
      folder: the folder of the run.

    Returns:
      The normalization, or None.
    """
    stored = folder.config["normalization"]
    return None if stored is None else Normalization(tuple(stored["mean"]), tuple(stored["std"]), stored["reverse"])


def normalized(model: Model, normalization: Normalization | None) -> Model:
    """Puts a normalization of the pixels before a model, as a layer named "normalize".

    Args:
      model: the model.
      normalization: the normalization that its weights expect, or None.

    Returns:
      The model, with this layer; unchanged for None.
    """
    if normalization is None:
        return model
    layers = {"normalize": Function(_normalize, **normalization._asdict()), **dict(model.layers)}
    return AuxiliaryHeads(*model.heads, **layers) if isinstance(model, AuxiliaryHeads) else Sequential(**layers)


def _normalize(image: jax.Array, *, mean: tuple[float, ...], std: tuple[float, ...], reverse: bool) -> jax.Array:
    pixels = (image[..., ::-1] if reverse else image).astype(jnp.float32)
    return ((pixels - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)).astype(image.dtype)


def first_parameters(options: Train, model: Model, key: jax.Array, source: Source | None) -> tuple[Params, State]:
    """Draws a model's parameters and state, and replaces them by weights.

    Args:
      options: the options of a training.
      model: the model without frozen layers.
      key: typed random key, consumed.
      source: the weights of --init-from, or None.

    Returns:
      Parameters and state; the head is new or that of the weights, as set by --head.

    Raises:
      CommandError: the weights do not fit the model.
    """
    params, state = model.init(key)
    if source is None:
        return params, state
    classes = _differing(params, source.params, head=True)
    new_head = options.head == "new" or (options.head == "auto" and (options.freeze is not None or bool(classes)))
    if not new_head and classes:
        raise CommandError(
            f"--head keep expects weights with the same number of classes, got other shapes in {shown(source.name)}: "
            f"{classes[0]}; draw a new head by --head new"
        )
    for tree, leaves in ((params, source.params), (state, source.state)):
        if faults := _differing(tree, leaves, head=False):
            raise CommandError(_misfit(options, source, params, faults))
    if source.model is not None and _body(source.model) != _body(model):
        raise CommandError(
            f"the weights in {shown(source.name)} belong to a variant of {options.model} that differs from the "
            "catalog's; train it in Python, with the model that "
            "jaxcnn.interop.weights.load_weights returns"
        )
    return _filled(params, source.params, new_head), _filled(state, source.state, new_head)


def freeze_layers(pattern: str | None, model: Model) -> Model:
    """Freezes the layers of --freeze.

    Args:
      pattern: "backbone", a regular expression for paths of layers, or None.
      model: the model.

    Returns:
      The model with these layers frozen, for the same parameters and state.

    Raises:
      CommandError: the pattern matches no layer, or all parameters are frozen.
    """
    if pattern is None:
        return model
    with reported(ValueError, re.error):
        frozen = freeze(model, _BACKBONE if pattern == "backbone" else pattern)
    params, _ = jax.eval_shape(model.init, jax.random.key(0))
    if not any(jax.tree.leaves(trainable(frozen, params))):
        raise CommandError(f"--freeze {pattern} leaves no parameter to train; freeze fewer layers")
    return frozen


def cut_in_two(model: Model) -> tuple[Model, Model]:
    """Splits a model after its leading frozen layers and functions.

    Both halves take the parameters and the state of the whole model, and skip the layers of the other half. An
    auxiliary head in the frozen half is not used: no layer before it is trained.

    Args:
      model: a model with frozen layers.

    Returns:
      The frozen half, and the trained half.

    Raises:
      CommandError: the first layer that has parameters is not frozen as a whole.
    """
    heads = model.heads if isinstance(model, AuxiliaryHeads) else ()
    frozen = []
    for name, layer in model.layers:
        # Functions have no parameters. Neither has dropout, but it belongs to the trained layers.
        if name not in heads and not isinstance(layer, Frozen | Function | Flatten):
            break
        frozen.append(name)
    if not any(isinstance(model[name], Frozen) for name in frozen):
        raise CommandError(
            f"--cache-features expects a model that begins with frozen layers, but {model.names[len(frozen)]} is "
            "trained; use --freeze backbone"
        )
    others = [name for name in model.names if name not in frozen]
    learning = {**dict(model.layers), **{name: _Skipped(model[name]) for name in frozen}}
    heads = [name for name in heads if name in others]
    return (
        model.replace({name: _Skipped(model[name]) for name in others}),
        AuxiliaryHeads(*heads, **learning) if heads else Sequential(**learning),
    )


@dataclass(frozen=True, repr=False)
class _Skipped(Frozen):
    """The identity, with the parameters and the state of a layer."""

    def forward(self, run: Run, x: Any) -> Any:
        return x


def learning_rate_factors(options: Train, params: Params) -> dict[str, float]:
    """Reads --learning-rates.

    Args:
      options: the options of a training.
      params: parameters of the model without frozen layers, as arrays or shapes.

    Returns:
      Factors of the learning rate by pattern.

    Raises:
      CommandError: a rule is invalid, or a parameter matches no rule or several.
    """
    factors: dict[str, float] = {}
    for rule in options.learning_rates:
        pattern, equals, factor = rule.rpartition("=")
        try:
            factors[pattern] = float(factor)
        except ValueError:
            equals = ""
        if not equals or not 0 < factors[pattern] < float("inf"):
            raise CommandError(f"--learning-rates expects PATTERN=FACTOR with a factor above 0, got {rule!r}")
    if factors:
        with reported(ValueError, re.error):
            trees.label_by_name(params, factors)
    return factors


def those_that_learn(factors: Mapping[str, float], params: Params) -> dict[str, float]:
    """Returns the rules for trained parameters.

    Args:
      factors: factors by pattern; every parameter of the model matches exactly one.
      params: the trained parameters.

    Returns:
      The factors of the patterns that match one of them.
    """
    leaves = trees.named_leaves(params)
    return {
        pattern: factor for pattern, factor in factors.items() if any(re.fullmatch(pattern, name) for name in leaves)
    }


def _body(model: Model) -> dict[str, Any]:
    """Returns the layers of a model except the normalization, the head and the auxiliary heads."""
    return {name: layer for name, layer in model.layers if not re.fullmatch(r"normalize|head|aux\d*", name)}


def _is_head(name: str) -> bool:
    return re.fullmatch(r"(aux\d*/)?head/.*", name) is not None


def _differing(tree: Params | State, leaves: Mapping[str, Any], *, head: bool) -> list[str]:
    """Lists the leaves of the head or of the rest that are missing, unexpected or differ in shape, one per line."""
    expected, found = (
        {name: leaf.shape for name, leaf in named.items() if _is_head(name) == head}
        for named in (trees.named_leaves(tree), leaves)
    )
    return trees.differences(expected, found)


def _misfit(options: Train, source: Source, params: Params, faults: list[str]) -> str:
    for name, leaf in trees.named_leaves(params).items():
        given = source.params[name].shape if name in source.params else ()
        if len(given) == 4 and given[2] != leaf.shape[2] and given[:2] + given[3:] == leaf.shape[:2] + leaf.shape[3:]:
            return (
                f"expected weights for images of {leaf.shape[2]} channels, got those in {shown(source.name)}, which "
                f"take {given[2]}; give --data with images of {given[2]} channels (grey ones repeated), or other "
                "weights"
            )
    listed = "\n  ".join([*faults[:_LISTED], *(["..."] if len(faults) > _LISTED else [])])
    return f"the weights in {shown(source.name)} do not fit {options.model} for these images:\n  {listed}"


def _filled(tree: Params | State, leaves: Mapping[str, Any], new_head: bool) -> Any:
    fresh = trees.named_leaves(tree)
    filled = [
        leaf if new_head and _is_head(name) else jnp.asarray(leaves[name], leaf.dtype) for name, leaf in fresh.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), filled)
