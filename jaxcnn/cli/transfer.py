"""Loads the initial parameters of a training."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcnn import trees
from jaxcnn.cli import names, own_models
from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.cli.options import Train
from jaxcnn.cli.terminal import shown
from jaxcnn.layers import Composite
from jaxcnn.models.catalog import CATALOG, Model
from jaxcnn.models.normalized import Normalization
from jaxcnn.training.checkpoint import CheckpointError
from jaxcnn.training.run_folder import RunFolder, RunFolderError, is_run_folder
from jaxcnn.training.trained_model import load_model
from jaxcnn.types import Layer, Params, State

# A longer list would push the message off the screen.
_LISTED = 10


class Source(NamedTuple):
    """Initial weights.

    Attributes:
      name: their source, for messages.
      params: parameters by path in the model.
      state: state by path in the model.
      model: the model that they were trained with; None if it is that of the catalog.
      normalization: the normalization that they expect, or None.
      backbone: names of the layers that are taken, if the weights are those of the classifier within a segmentation
        model; empty for all layers.
    """

    name: str
    params: Mapping[str, Any]
    state: Mapping[str, Any]
    model: Model | None
    normalization: Normalization | None
    backbone: tuple[str, ...] = ()


def read_source(options: Train, channels: int, note: Callable[[str], None]) -> Source:
    """Reads the weights of --init-from.

    Args:
      options: the options of a training with --init-from.
      channels: number of channels of the images; published weights are converted to them.
      note: called with a line that says what was converted.

    Returns:
      The weights, with any head.

    Raises:
      CommandError: there are no weights, or they belong to another model.
    """
    source = str(options.init_from)
    if own_models.is_own(options.model):
        if not is_run_folder(source):
            raise CommandError(
                f"--init-from expects the folder of a run with {shown(options.model)}, which is not in the catalog, "
                f"got {shown(source)}"
            )
        own_models.find(options.model)
    else:
        names.choose("model", options.model, CATALOG)
    return (
        _read_run(Path(source), options, note)
        if is_run_folder(source)
        else _read_weights(source, options, channels, note)
    )


def _read_weights(source: str, options: Train, channels: int, note: Callable[[str], None]) -> Source:
    # Imported here: it is large, and a run that starts from another run does not need it.
    from jaxcnn.interop.weights import input_channels, load_weights, with_channels

    name, classifier = options.model, CATALOG[options.model].backbone
    with reported(ImportError, OSError, ValueError):
        try:
            weights = load_weights(name, source)
        except ValueError as error:
            if classifier is None:
                raise
            try:
                weights = load_weights(classifier, source)
            except ValueError as other:
                raise ValueError(f"{error}\nnor of its backbone: {other}") from other
            name = classifier
    given = input_channels(weights.model)
    if given not in (None, channels):
        had_preprocessing = weights.preprocessing is not None
        weights = with_channels(weights, name, channels)
        lost = had_preprocessing and weights.preprocessing is None
        note(
            f"first convolution converted from {given} to {channels} channel{'s' if channels > 1 else ''}"
            + (f"; the pixels are not normalized, as the weights are for {given} channels" if lost else "")
        )
    params, state = trees.named_leaves(weights.params), trees.named_leaves(weights.state)
    normalization = None if weights.preprocessing is None else weights.preprocessing.normalization()
    if name == options.model:
        return Source(source, params, state, weights.model, normalization)
    _note_backbone(name, note)
    if _body(weights.model) != _body(CATALOG[name].build(in_channels=channels)):
        raise CommandError(_other_variant(source, name))
    return Source(source, params, state, None, normalization, _backbone_of(weights.model))


def _backbone_of(classifier: Any) -> tuple[str, ...]:
    return tuple(name for name in classifier.names if name not in ("normalize", "head"))


def _note_backbone(name: str, note: Callable[[str], None]) -> None:
    note(f"weights of {name} for the backbone; the other layers are new")


def _read_run(path: Path, options: Train, note: Callable[[str], None]) -> Source:
    with reported(RunFolderError, CheckpointError):
        trained = load_model(path)
        # The folder of a run that was started in Python has no options.
        name = RunFolder(path).config.get("options", {}).get("model", options.model)
    is_own = own_models.is_own(options.model) and own_models.is_own(name)
    is_backbone = options.model in CATALOG and name == CATALOG[options.model].backbone
    if name != options.model and not is_own and not is_backbone:
        raise CommandError(f"expected the weights of {options.model}, got a run of {name} in {shown(path)}")
    layers = trained.layer.children() if isinstance(trained.layer, Composite) else {}
    function: Any = layers.get("normalize")
    normalization = None if function is None else Normalization(**dict(function.options))
    backbone: tuple[str, ...] = ()
    if is_backbone:
        _note_backbone(name, note)
        backbone = _backbone_of(trained.layer)
    params, state = trees.named_leaves(trained.params), trees.named_leaves(trained.state)
    return Source(str(path), params, state, None, normalization, backbone)


def first_parameters(options: Train, model: Layer, key: jax.Array, source: Source | None) -> tuple[Params, State]:
    """Draws a model's parameters and state, and replaces them by weights.

    Args:
      options: the options of a training.
      model: the model without frozen layers.
      key: typed random key, consumed.
      source: the weights of --init-from, or None.

    Returns:
      Parameters and state; the head is new or that of the weights, as set by --head. Auxiliary heads that the weights
      do not have are new.

    Raises:
      CommandError: the weights do not fit the model.
    """
    params, state = model.init(key)
    if source is None:
        return params, state
    if source.backbone:
        return _with_backbone(options, source, params, state)
    classes = _differing(params, source.params, head=True)
    new_head = options.head == "new" or (
        options.head == "auto" and (options.recipe.freeze is not None or bool(classes))
    )
    if not new_head and classes:
        raise CommandError(
            f"--head keep expects weights with the same number of classes, got other shapes in {shown(source.name)}: "
            f"{classes[0]}; draw a new head by --head new"
        )
    for tree, leaves in ((params, source.params), (state, source.state)):
        if faults := _differing(tree, leaves, head=False):
            raise CommandError(_misfit(options, source, params, faults))
    if source.model is not None and _body(source.model) != _body(model):
        raise CommandError(_other_variant(source.name, options.model))
    return _filled(params, source.params, new_head), _filled(state, source.state, new_head)


def _with_backbone(options: Train, source: Source, params: Params, state: State) -> tuple[Params, State]:
    """Replaces the parameters and the state of the classifier within a segmentation model."""
    # An encoder has a name of its own; other backbones have the names of the classifier.
    place = "encoder/" if "encoder" in params else ""
    if options.head == "keep":
        raise CommandError(
            f"--head keep expects weights of {options.model}, got those of its backbone in {shown(source.name)}; "
            "omit it"
        )
    filled = []
    for tree, given in ((params, source.params), (state, source.state)):
        leaves = dict(trees.named_leaves(tree))
        inner = {name.removeprefix(place): leaf for name, leaf in leaves.items() if name.startswith(place)}
        wanted = {name: leaf for name, leaf in inner.items() if name.partition("/")[0] in source.backbone}
        if faults := _differing(wanted, {name: given[name] for name in wanted if name in given}):
            raise CommandError(_misfit(options, source, params, faults))
        leaves |= {place + name: jnp.asarray(given[name], leaf.dtype) for name, leaf in wanted.items()}
        filled.append(jax.tree.unflatten(jax.tree.structure(tree), list(leaves.values())))
    return filled[0], filled[1]


def _other_variant(source: str, name: str) -> str:
    return (
        f"the weights in {shown(source)} belong to a variant of {name} that differs from the catalog's; train it in "
        "Python, with the model that jaxcnn.interop.weights.load_weights returns"
    )


def _body(model: Any) -> dict[str, Any]:
    """Returns the layers of a model except the normalization, the head and the auxiliary heads."""
    return {name: model[name] for name in model.names if not re.fullmatch(r"normalize|head|aux\d*", name)}


def _is_head(name: str) -> bool:
    return re.fullmatch(r"(aux\d*/)?head/.*", name) is not None


def _is_new_head(name: str, leaves: Mapping[str, Any]) -> bool:
    """Tells whether a leaf is that of an auxiliary head that the weights do not have: it is drawn."""
    first = name.partition("/")[0]
    return re.fullmatch(r"aux\d*", first) is not None and not any(other.startswith(f"{first}/") for other in leaves)


def _differing(tree: Params | State, leaves: Mapping[str, Any], *, head: bool = False) -> list[str]:
    """Lists the leaves of the head or of the rest that are missing, unexpected or differ in shape, one per line."""
    wanted = {name: leaf for name, leaf in trees.named_leaves(tree).items() if not _is_new_head(name, leaves)}
    lines = [f"missing {name!r}" for name in wanted if name not in leaves]
    lines += [f"unexpected {name!r}" for name in leaves if name not in wanted]
    lines += [
        f"{name!r} is {leaves[name].shape}, expected {leaf.shape}"
        for name, leaf in wanted.items()
        if name in leaves and leaves[name].shape != leaf.shape
    ]
    return [line for line in lines if _is_head(line.split("'")[1]) == head]


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
        leaf if (new_head and _is_head(name)) or _is_new_head(name, leaves) else jnp.asarray(leaves[name], leaf.dtype)
        for name, leaf in fresh.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), filled)
