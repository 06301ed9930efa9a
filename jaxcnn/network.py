"""A network: one value that holds a model, its parameters and state, and all that its use needs.

    network = load("timm/resnet50.a1_in1k")
    network.predict("cat.png", "dog.png")  # class names with their probabilities, for each picture

Everything here is a shorthand for functions of other modules, which take a layer, its parameters and its state; none of
them needs a `Network`.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from jaxcnn.data import Source, Splits
from jaxcnn.data.pictures import FitPicture, Placement, picture_size, read_picture
from jaxcnn.interop import conversion, own_file
from jaxcnn.interop.files import paths
from jaxcnn.interop.files.opened import parse_json, shown
from jaxcnn.interop.files.paths import FileError
from jaxcnn.interop.preprocessing import Preprocessing
from jaxcnn.interop.weights import load_published, load_safetensors
from jaxcnn.layers import (
    Composite,
    Ensemble,
    batched,
    batched_features,
    fold_batch_norm,
    freeze,
    output_shape,
    unfreeze,
)
from jaxcnn.layers.flow import structure
from jaxcnn.layers.fold import usual_shapes
from jaxcnn.models import catalog
from jaxcnn.models.normalized import normalized
from jaxcnn.models.text import difference, parse_value
from jaxcnn.tasks import Classification, Detection, MultiLabel, Segmentation
from jaxcnn.text import printable
from jaxcnn.training import Precision, Recipe, Result, run
from jaxcnn.training.run_folder import is_run_folder, listed_runs
from jaxcnn.training.trained_model import load_model
from jaxcnn.types import Layer, Params, Shape, State, Task, check_task
from jaxcnn.values import Value

_MAX_TEXT = 2**18
"""Longest text of a layer that is read, in characters; that of the longest model of the catalog is half as long."""


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Network:
    """A model with its parameters and state, preprocessing, class names and task.

        network = Network(layer, *layer.init(key))
        outputs = network(images)  # a batch, in evaluation
        layer, params, state = network.unpack()

    It is a pytree of parameters and state, and an argument of `jax.jit`, `jax.grad` and `jax.tree.map`; the other
    fields are static there. It is immutable: methods return a new network that shares the arrays that do not change,
    and `dataclasses.replace(network, class_names=...)` changes a field.

    Attributes:
      layer: the model.
      params: its parameters, of any floating-point dtype.
      state: its state.
      preprocessing: prepares a picture for `predict`; None if unknown.
      class_names: names of the classes; empty if unknown.
      task: the meaning of the outputs, for `predict`; None if unknown.

    Raises:
      TypeError: `layer` is not a layer, `task` is not a task, `preprocessing` is none, or a class name is not a string.
      ValueError: parameters or state do not match the layer.
    """

    layer: Layer
    params: Params
    state: State
    preprocessing: Preprocessing | FitPicture | None = None
    class_names: tuple[str, ...] = ()
    task: Task | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.layer, Layer):
            raise TypeError(f"Network expects a layer, with init and apply, got {self.layer!r:.200}")
        if isinstance(self.class_names, str):
            raise TypeError(f"Network expects a sequence of class names, got the string {self.class_names!r:.200}")
        object.__setattr__(self, "class_names", tuple(self.class_names))
        if not all(isinstance(name, str) for name in self.class_names):
            raise TypeError(f"Network expects class names that are strings, got {self.class_names!r:.200}")
        if not isinstance(self.preprocessing, Preprocessing | FitPicture | None):
            raise TypeError(
                "Network expects a preprocessing, such as jaxcnn.interop.Preprocessing(...), or None, got "
                f"{self.preprocessing!r:.200}"
            )
        if self.task is not None:
            check_task("Network", self.task)
        conversion.check(self.layer, self.params, self.state)

    def __repr__(self) -> str:
        count = sum(np.size(leaf) for leaf in jax.tree.leaves(self.params))
        classes = f", {len(self.class_names)} classes" if self.class_names else ""
        return f"<Network: {type(self.layer).__name__}, {count:,} parameters{classes}>"

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """Returns parameters and state with their names, and the static fields."""
        keys = (jax.tree_util.GetAttrKey("params"), jax.tree_util.GetAttrKey("state"))
        static = (self.layer, self.preprocessing, self.class_names, self.task)
        return tuple(zip(keys, (self.params, self.state), strict=True)), static

    @classmethod
    def tree_unflatten(cls, static: Any, trees: Any) -> Self:
        """Builds a network from the parts that `tree_flatten_with_keys` returns; the leaves may be of any kind."""
        network = object.__new__(cls)
        values = (static[0], *trees, *static[1:])
        for field, value in zip(dataclasses.fields(cls), values, strict=True):
            object.__setattr__(network, field.name, value)
        return network

    def unpack(self) -> tuple[Layer, Params, State]:
        """Returns the model, its parameters and its state."""
        return self.layer, self.params, self.state

    def __call__(self, images: Any) -> Any:
        """Computes the outputs for a batch in evaluation, compiled once for each shape.

        Args:
          images: prepared images, floating point, shape (batch, height, width, channels); or another input of the
            model, with the batch as the first axis.

        Returns:
          The outputs, with the batch as the first axis.

        Raises:
          ValueError: `images` is not such a batch.
        """
        return _outputs(self.layer, self.params, self.state, images)

    def features(self, images: Any, at: Sequence[str]) -> dict[str, Any]:
        """Computes what layers within the model return for a batch in evaluation, compiled once for each shape.

        Args:
          images: as in `__call__`.
          at: paths of layers, such as "stage4/block0/conv1"; see `jaxcnn.layers.features`.

        Returns:
          The results by path, with the batch as the first axis, in the order of `at`.

        Raises:
          ValueError: there is no layer of that name, none is asked for, or `images` is not a batch.
          TypeError: `at` is a single string.
        """
        found = _features(self.layer, self.params, self.state, images, at if isinstance(at, str) else tuple(at))
        return {path: found[path] for path in at}

    def predict(self, *pictures: Any, top: int = 5, batch_size: int = 64) -> list[Any]:
        """Predicts for picture files or arrays.

            for probabilities in network.predict("cat.png", photograph, top=2):
                print(probabilities)  # {"cat": 0.93, "fox": 0.04}

        Args:
          *pictures: paths of picture files (see `jaxcnn.data.pictures`), or single pictures as arrays that the
            preprocessing takes, such as uint8 (height, width, 3). Without a preprocessing: prepared images.
          top: number of classes in the result of a classifier.
          batch_size: number of pictures that are computed at once.

        Returns:
          For each picture, of a classifier: the probabilities of the likeliest classes by name, the likeliest first;
          the name is the index where `class_names` is empty, and ends in the index, as "crane (134)", where two classes
          have one name. Of a detector: "boxes", shape (slots, 4), edges (left, top, right, bottom) in pixels of the
          picture that was given, clipped to it; "scores" and "classes", shape (slots,); and "valid", which tells the
          slots that hold an object. Of another task: the decoded output as NumPy arrays, such as a mask.

        Raises:
          TypeError: a picture is None, a list or a tuple.
          ValueError: the network has no task, a batch is given instead of single pictures, a file is given and it has
            no preprocessing, pictures have different shapes after preparation, the number of class names is not that of
            the outputs, or `top` or `batch_size` is below 1.
          PictureError: a file is not a picture.
          ImportError: Pillow is not installed.
        """
        if self.task is None:
            raise ValueError(
                "predict expects a network with a task, which gives the outputs a meaning, got none; use "
                "dataclasses.replace(network, task=jaxcnn.tasks.Classification())"
            )
        for name, value in (("top", top), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"predict expects {name} of at least 1, got {value}")
        size = min(batch_size, len(pictures))
        results = []
        for start in range(0, len(pictures), max(size, 1)):
            prepared = [self._prepared(picture) for picture in pictures[start : start + size]]
            found = self._predicted([one.image for one in prepared], size, self.task, top)
            if isinstance(self.task, Detection):
                places = [one.placement for one in prepared]
                found = [
                    row if place is None else place.original_detections(row)
                    for row, place in zip(found, places, strict=True)
                ]
            results += found
        return results

    def replace(
        self,
        layers: Mapping[str, Layer],
        *,
        key: jax.Array | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Self:
        """Returns a network with some layers replaced. Their parameters are drawn; all other arrays are kept.

            network = network.replace({"head": Dense(2048, 2)}, key=key, class_names=["cat", "dog"])

        Args:
          layers: the new layers by path, at any depth.
          key: typed random key, consumed; split into one for each new layer in their order. Not needed if none of them
            has parameters.
          class_names: names of the classes of the new network. None keeps those of this one, unless their number is no
            longer that of the outputs: then the new network has none. If the model takes no image of a usual size, the
            outputs cannot be counted, and the names stay; `predict` refuses them if they do not fit.

        Returns:
          The network, with the preprocessing and the task of this one.

        Raises:
          ValueError: a path is unknown, `key` is missing, or the number of `class_names` is not that of the outputs.
          TypeError: the model is a single layer, a value is not a layer, or a class name is not a string.
        """
        if not isinstance(self.layer, Composite):
            raise TypeError(f"replace expects a model made of layers, got {self.layer!r:.200}")
        model = self.layer.replace(layers)
        params, state = self.params, self.state
        keys = [None] * len(layers) if key is None else list(jax.random.split(key, len(layers)))
        for (path, layer), layer_key in zip(layers.items(), keys, strict=True):
            new_params, new_state = _drawn(path, layer, layer_key)
            params, state = (_with_part(*pair, path) for pair in ((params, new_params), (state, new_state)))
        network = self._with(model, params, state)
        names = self.class_names if class_names is None else class_names
        outputs = _count_outputs(model, self.preprocessing) if names else None
        if outputs in (None, len(names)):
            return dataclasses.replace(network, class_names=names)
        if class_names is not None:
            raise ValueError(f"replace expects a class name for each of {outputs} outputs, got {len(names)} names")
        return dataclasses.replace(network, class_names=())

    def freeze(self, pattern: str) -> Self:
        """Freezes the layers whose path matches a regular expression; see `jaxcnn.layers.freeze`.

        Args:
          pattern: regular expression; it must match the whole path of a layer.

        Returns:
          The network, with the same arrays.

        Raises:
          ValueError: no layer matches.
        """
        return self._with(freeze(self.layer, pattern), self.params, self.state)

    def unfreeze(self) -> Self:
        """Returns the network without frozen layers, with the same arrays."""
        return self._with(unfreeze(self.layer), self.params, self.state)

    def fold(self, input_shape: Shape | None = None) -> Self:
        """Folds batch norms into the convolutions before them, for evaluation; see `jaxcnn.layers.fold_batch_norm`.

        Args:
          input_shape: shape of an image that the model takes; None tries usual sizes.

        Returns:
          The network, with the same outputs to rounding.

        Raises:
          ValueError: the model takes no image of a usual size, and `input_shape` is None.
        """
        return self._with(*fold_batch_norm(*self.unpack(), input_shape))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the network atomically to one file of safetensors, which `jaxcnn.load` reads.

        Layer, preprocessing and task are stored as text. If they use a class of your own, import its module before
        loading. Or pass the layer, also if it has functions of your own: `jaxcnn.load(path, layer=layer)`.

        Args:
          path: file to write, usually with the extension `.safetensors`.

        Raises:
          ValueError: the model has no arrays, or a parameter and an array of the state have the same path.
        """
        about = {"model": repr(self.layer), "class_names": json.dumps(self.class_names)}
        about |= {
            name: repr(value)
            for name, value in (("preprocessing", self.preprocessing), ("task", self.task))
            if value is not None
        }
        own_file.write(path, self.params, self.state, about)

    def _with(self, layer: Layer, params: Params, state: State) -> Self:
        return dataclasses.replace(self, layer=layer, params=params, state=state)

    def _prepared(self, picture: Any) -> "_Prepared":
        prepare = self.preprocessing
        if picture is None or isinstance(picture, list | tuple):
            raise TypeError(
                f"predict expects paths or arrays, got a {type(picture).__name__}; write predict(*pictures) for several"
            )
        if not isinstance(picture, str | os.PathLike):
            if (shape := np.shape(picture))[3:]:
                raise ValueError(
                    f"predict expects single pictures, got a batch of shape {shape}; write predict(*pictures)"
                )
            if prepare is None:
                return _Prepared(np.asarray(picture), None)
            return _Prepared(prepare(picture), prepare.placement(*shape[:2]))
        if prepare is None:
            raise ValueError(
                f"predict expects a network with a preprocessing for picture files, got none for {printable(picture)}; "
                "give prepared images, or dataclasses.replace(network, preprocessing=...)"
            )
        if isinstance(prepare, FitPicture):
            return _Prepared(prepare(prepare.read(picture)), prepare.placement(*picture_size(picture)))
        pixels = read_picture(picture, prepare.channels)
        return _Prepared(prepare(pixels), prepare.placement(*pixels.shape[:2]))

    def _predicted(self, images: list[np.ndarray], size: int, task: Task, top: int) -> list[Any]:
        if len(shapes := {image.shape for image in images}) > 1:
            raise ValueError(f"predict expects prepared images of one shape, got {sorted(shapes)}; resize them first")
        # The last batch is filled up, so that it needs no compilation of its own.
        outputs = self(np.stack(images + images[:1] * (size - len(images))))
        decoded = jax.tree.map(np.asarray, task.decode(Precision().cast_outputs(outputs)))
        rows = [jax.tree.map(lambda leaf, i=i: leaf[i], decoded) for i in range(len(images))]
        if not isinstance(task, Classification | MultiLabel):
            return rows
        names = self.class_names or tuple(map(str, range(decoded.shape[-1])))
        if decoded.shape[1:] != (len(names),):
            raise ValueError(
                f"predict expects one output for each of {len(names)} class names, got outputs of shape "
                f"{decoded.shape[1:]}; dataclasses.replace(network, class_names=...) changes the names"
            )
        names = [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names)]
        likeliest = [np.argsort(-row, kind="stable")[:top] for row in rows]
        return [{names[i]: float(row[i]) for i in order} for row, order in zip(rows, likeliest, strict=True)]


class _Prepared(NamedTuple):
    """A prepared image, and where the picture lies in it; None if the picture was given prepared."""

    image: np.ndarray
    placement: Placement | None


def train(network: Network | Layer, source: Source | Splits, recipe: Recipe | None = None, **options: Any) -> Result:
    """Trains a network, or a model from random weights: `jaxcnn.training.run`, which this calls.

        result = train(network, data.digits(), Recipe(epochs=5), folder="runs/digits")
        network = load("runs/digits")  # the best epoch

    The pixels of the data are in [0, 1]. So for published weights, the normalization that they expect becomes a layer
    of the model, named "normalize".

    Args:
      network: a network, whose weights training starts from, or a layer.
      source: the examples; see `jaxcnn.training.run`.
      recipe: how to train.
      **options: as in `jaxcnn.training.run`: `task`, `folder`, `resume`, `observers` and others. The default task is
        that of the network, if it has one.

    Returns:
      The weights of the best epoch, and all figures.

    Raises:
      ValueError: as in `jaxcnn.training.run`.
      TypeError: the model of a network with published weights is a single layer.
    """
    if not isinstance(network, Network):
        return run(network, source, recipe, **options)
    layer, params, state = network.unpack()
    if isinstance(network.preprocessing, Preprocessing):
        layer = normalized(layer, network.preprocessing.normalization())
        params, state = {"normalize": {}, **params}, {"normalize": {}, **state}
    return run(layer, source, recipe, weights=(params, state), **{"task": network.task, **options})


def load(
    source: str | os.PathLike[str],
    *,
    model: str | None = None,
    layer: Layer | None = None,
    architecture: str | None = None,
    entry: str | None = None,
) -> Network:
    """Loads a network from any source that jaxcnn reads.

        load("runs/flowers")                           # the best epoch of a run; the data are not needed
        load("runs/lenet")                             # of `jaxcnn train --seeds`: the ensemble of its runs
        load("flowers.safetensors")                    # a file that Network.save or save_safetensors wrote
        load("timm/resnet50.a1_in1k")                  # the Hugging Face hub, or a folder of timm
        load("resnet50-11ad3fa6.pth")                  # torchvision, by the name of the file
        load("weights.pth", model="resnet50")          # other files of torch, safetensors or Keras

    Files may come from untrusted sources: nothing in them is executed, and `jaxcnn.interop.files` lists the limits of
    the memory to read them.

    Args:
      source: path of a file or folder, or an id of the hub.
      model: name of a model of the catalog, for published weights whose source does not name it.
      layer: the model of an own file or of a run, if it has classes that are not imported or functions of your own.
      architecture: as in `jaxcnn.interop.weights.load_weights`, for published weights.
      entry: as in `load_weights`, for a checkpoint of torch.

    Returns:
      The network. For a run, it has the class names and the task, and fits pictures as `jaxcnn predict` does. For
      published weights, it has the task of the model, or none if its results are no logits of several classes. A
      detector makes its task for a size of images; where its preprocessing gives several sizes, it has none yet:
      `dataclasses.replace(network, task=network.layer.task((800, 1088)))`.

    Raises:
      FileNotFoundError: the file, folder or repository does not exist.
      FileError: the file is damaged, has another format, does not match the model, or does not name it. It is a
        ValueError.
      RunFolderError: a run folder is damaged, its model is unknown, or no epoch is finished. It is a ValueError.
      CheckpointError: a run folder has no best weights, and all its checkpoints are damaged.
      KeyError: `model` is unknown.
      ValueError: `source` is invalid, or an option does not apply to it.
      ImportError: a package that the source needs is not installed.
    """
    options = {"model": model, "architecture": architecture, "entry": entry}
    is_run, runs = is_run_folder(source), listed_runs(source)
    if runs:
        _refuse(options, source, "for published weights")
        return _load_runs(runs, layer)
    if is_run or _is_own_file(Path(source)):
        _refuse(options, source, "for published weights")
        return _load_run(Path(source), layer) if is_run else _load_own(Path(source), layer)
    _refuse({"layer": layer}, source, "for jaxcnn's own files and runs; build published weights with model=")
    if str(source) in catalog.CATALOG and not os.path.lexists(source):
        raise ValueError(
            f"load expects a source of weights, got the name of a model, {str(source)!r}; for random weights use "
            f"Network(layer, *layer.init(key)) with layer = jaxcnn.models.{source}()"
        )
    weights, names, task = load_published(Path(source), model_name=model, architecture=architecture, entry=entry)
    return Network(weights.model, weights.params, weights.state, weights.preprocessing, names, task)


@functools.partial(jax.jit, static_argnums=0)
def _outputs(layer: Layer, params: Params, state: State, images: Any) -> Any:
    outputs, _ = batched(layer)(params, state, images, train=False)
    return outputs


@functools.partial(jax.jit, static_argnums=(0, 4))
def _features(layer: Layer, params: Params, state: State, images: Any, at: Sequence[str]) -> dict[str, Any]:
    return batched_features(layer, params, state, images, at=at)


def _drawn(path: str, layer: Layer, key: jax.Array | None) -> tuple[Params, State]:
    """Draws the arrays of a layer. A layer without arrays needs no key."""
    if key is None and jax.tree.leaves(structure(layer)):
        raise ValueError(f"replace expects key= to draw the parameters of {path!r}, got none")
    return layer.init(jax.random.key(0) if key is None else key)


def _count_outputs(layer: Layer, preprocessing: Preprocessing | FitPicture | None) -> int | None:
    """Returns the size of the last axis of the outputs; None if they are no array, or the size of images is unknown."""
    shapes = [preprocessing.image_shape] if isinstance(preprocessing, FitPicture) else usual_shapes(layer)
    for shape in shapes:
        try:
            outputs = output_shape(layer, shape)
        # The model does not take images of this size.
        except (TypeError, ValueError):
            continue
        return outputs[-1] if isinstance(outputs, tuple) and outputs and isinstance(outputs[-1], int) else None
    return None


def _with_part(tree: Any, part: Any, path: str) -> Any:
    """Returns a copy of nested dicts with another tree at a path."""
    first, _, rest = path.partition("/")
    return {**tree, first: _with_part(tree[first], part, rest) if rest else part}


def _refuse(options: Mapping[str, Any], source: Any, what: str) -> None:
    if given := [name for name, value in options.items() if value is not None]:
        raise ValueError(
            f"load expects {given[0]}= only {what}, got {given[0]}={options[given[0]]!r:.100} for {printable(source)}"
        )


def _is_own_file(path: Path) -> bool:
    if path.is_dir() or not os.path.lexists(path):
        return False
    is_safetensors = paths.describe_file(paths.existing_file(path)) == paths.SAFETENSORS
    return is_safetensors and own_file.read_about(path) is not None


def _load_runs(paths: Sequence[Path], layer: Layer | None) -> Network:
    """Makes an ensemble of the best epochs of several runs."""
    members = [_load_run(path, layer) for path in paths]
    first = members[0]
    if isinstance(first.task, Detection):
        raise ValueError(
            f"load expects runs whose outputs have a mean, got {len(paths)} runs of a detector; load one of them, such "
            f"as {printable(paths[0])}"
        )
    combine = "probabilities" if isinstance(first.task, Classification | Segmentation) else "outputs"
    found, params, state = Ensemble.of(first.layer, [(one.params, one.state) for one in members], combine)
    return Network(found, params, state, first.preprocessing, first.class_names, first.task)


def _load_run(path: Path, layer: Layer | None) -> Network:
    found, params, state, info = load_model(path, layer=layer)
    return Network(found, params, state, info.preprocessing, info.class_names, info.task)


def _load_own(path: Path, layer: Layer | None) -> Network:
    about = own_file.read_about(path) or {}
    text = about.get("model", "")
    found: Layer = _from_text(path, "model", text, Layer) if layer is None else layer
    if layer is not None and (lines := difference(text, layer)):
        raise FileError(
            f"expected the layer of {printable(path)}, got layer= with {shown(lines[1])} instead of {shown(lines[0])}; "
            "jaxcnn.interop.weights.load_safetensors reads the arrays into any layer that has them"
        )
    params, state = load_safetensors(path, found, keep_precision=True)
    preprocessing, task = (
        _from_text(path, name, about[name], kind) if name in about else None
        for name, kind in (("preprocessing", Preprocessing | FitPicture), ("task", Value))
    )
    return Network(found, params, state, preprocessing, _class_names(path, about), task)


def _from_text(path: Path, what: str, text: str, kind: Any) -> Any:
    advice = "; pass layer=, or import the module of a class of your own first" if what == "model" else ""
    if len(text) > _MAX_TEXT:
        raise FileError(f"expected a {what} of at most {_MAX_TEXT} characters in {printable(path)}, got {len(text)}")
    try:
        value = parse_value(text)
    # Constructors that get arguments of a damaged text may fail in any way.
    except Exception as error:
        raise FileError(
            f"expected the text of a {what} in {printable(path)}, got {shown(text)}{advice}: {printable(error):.200}"
        ) from error
    if not isinstance(value, kind):
        raise FileError(f"expected the text of a {what} in {printable(path)}, got {shown(text)}{advice}")
    return value


def _class_names(path: Path, about: Mapping[str, str]) -> tuple[str, ...]:
    try:
        names = parse_json(about.get("class_names", "[]").encode())
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FileError(f"expected class names in {printable(path)}, got {shown(about['class_names'])}")
    return tuple(names)
