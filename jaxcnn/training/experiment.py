"""What is trained, and how: the checks before a training, and its description in config.json."""

import dataclasses
import functools
import platform
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import environment, trees
from jaxcnn.data import Batches, Prepare, Source, Splits
from jaxcnn.data.sources.source import preprocessing_of
from jaxcnn.layers import batched, unfreeze
from jaxcnn.layers.flow import structure
from jaxcnn.models.detection.detector import Detector
from jaxcnn.models.text import difference
from jaxcnn.tasks import Classification, Detection, MultiLabel, Regression, Segmentation
from jaxcnn.text import printable
from jaxcnn.training.observers import Observer
from jaxcnn.training.phases import Phase, make_phases
from jaxcnn.training.placement import Placement
from jaxcnn.training.recipe import Recipe, RecipeError
from jaxcnn.training.run_folder import RunFolder, RunFolderError
from jaxcnn.types import Layer, Params, Shape, State, Task

_PACKAGES = ("jaxcnn", "jax", "jaxlib", "optax", "numpy", "orbax-checkpoint", "scikit-learn", "pillow")


def choose_task(source: Source, layer: Any = None) -> Task:
    """Chooses the task by the entries of the examples.

    Args:
      source: the examples.
      layer: the model; only a detector makes its own task.

    Returns:
      `Segmentation` for "mask", `Regression` for "target", `MultiLabel` for a "label" of several numbers,
      `Classification` for another "label"; that of the detector for "boxes".

    Raises:
      ValueError: there is no such entry, or the model of examples with "boxes" is not a detector.
    """
    spec = source.spec
    if "boxes" in spec:
        detectors = [part for part in (layer, getattr(layer, "body", None)) if isinstance(part, Detector)]
        if not detectors:
            raise ValueError(
                "expected a model that makes a task for examples with 'boxes', such as jaxcnn.models.small_retinanet, "
                f"got {type(layer).__name__}"
            )
        size: Any = spec["image"].shape[:2]
        if None in size:
            raise ValueError("expected images of one size for a detector, got several; resize them, such as to 256x256")
        return detectors[0].task(size)
    if "mask" in spec:
        return Segmentation(len(source.class_names))
    if "target" in spec:
        return Regression()
    if "label" in spec:
        return MultiLabel() if spec["label"].shape else Classification()
    raise ValueError(f"expected examples with 'label', 'mask', 'target' or 'boxes', got {', '.join(map(repr, spec))}")


def evaluation_task(task: Task) -> Any:
    """Returns the task of evaluation: without label smoothing, so that the losses of several trainings compare.

    Detections are decoded only there, for the average precision.

    Args:
      task: the task of training.
    """
    options: Any = task
    if isinstance(task, Detection):
        return dataclasses.replace(task, measures_precision=True)
    is_smooth = dataclasses.is_dataclass(task) and getattr(task, "label_smoothing", 0.0)
    return dataclasses.replace(options, label_smoothing=0.0) if is_smooth else task


def init_key(recipe: Recipe) -> jax.Array:
    """Returns the key of the initial parameters of a training.

    Args:
      recipe: the recipe.
    """
    return jax.random.split(jax.random.key(recipe.seed))[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """What is trained, and how.

    Attributes:
      layer: the model, without frozen layers.
      splits: "train", "validation" and "test".
      recipe: how to train.
      task: loss and metrics.
      observers: receive the events of the training.
      prepare: prepares the examples of training on the host, or None.
      workers: number of threads that read examples, or None.
      placement: the devices that share each batch; None for one.
    """

    layer: Layer
    splits: Splits
    recipe: Recipe
    task: Task
    observers: tuple[Observer, ...]
    prepare: Prepare | None = None
    workers: int | None = None
    placement: Placement | None = None

    @functools.cached_property
    def batches(self) -> Batches:
        """The training set by step."""
        count = len(self.splits["train"])
        if self.recipe.batch_size > count:
            raise RecipeError(
                "batch_size", f"expects at most the number of training examples, {count}, got {self.recipe.batch_size}"
            )
        if self.placement is not None:
            try:
                self.placement.check_batch_size(self.recipe.batch_size)
            except ValueError as error:
                message = str(error).removeprefix("expected a batch size that ")
                raise RecipeError("batch_size", f"expects a number that {message}") from error
        augment = self.recipe.augmentation
        return Batches(
            self.splits["train"],
            self.recipe.batch_size,
            seed=self.recipe.seed,
            prepare=self.prepare,
            shard=self.shard,
            workers=self.workers,
            add=() if augment is None else augment.reads,
        )

    @property
    def shard(self) -> tuple[int, int]:
        """The part of each batch that this process reads."""
        return (0, 1) if self.placement is None else self.placement.shard

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels) of the images of evaluation; those of training may have another size."""
        return tuple(size or 0 for size in self.splits["validation"].spec["image"].shape)

    def first_weights(self, weights: tuple[Params, State] | None) -> tuple[Params, State]:
        """Returns the first weights: the given ones, or weights drawn from the seed."""
        return self.layer.init(init_key(self.recipe)) if weights is None else weights

    @functools.cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of the training, in order."""
        return make_phases(self.recipe, self.layer, structure(self.layer)[0], self.batches.steps_per_epoch)

    def check(self) -> None:
        """Refuses data, models and tasks that do not fit together, before anything is written.

        Raises:
          ValueError: a part does not fit another one.
        """
        if unfreeze(self.layer) != self.layer:
            raise ValueError("run expects a model without frozen layers; freeze them by Recipe(freeze=...) instead")
        if "image" not in self.splits["train"].spec:
            raise ValueError(f"expected examples with 'image', got {', '.join(map(repr, self.splits['train'].spec))}")
        if self.prepare is not None and self.recipe.cache_features:
            raise ValueError("cache_features expects no prepare=, which changes the images, and so their features")
        for name, part in self.splits.items():
            Batches(part, 1, seed=0, prepare=self.prepare if name == "train" else None)
        spec = self.batches.spec
        example = {
            name: jax.ShapeDtypeStruct((1, *entry.shape), jax.dtypes.canonicalize_dtype(entry.dtype))
            for name, entry in spec.items()
        }
        example["image"] = jax.ShapeDtypeStruct(example["image"].shape, jnp.float32)
        weights = structure(self.layer)

        def apply(images: jax.Array, params: Params, state: State) -> tuple[Any, State]:
            return batched(self.layer)(params, state, images, train=False)

        jax.eval_shape(apply, jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32), *weights)
        self._check_size(apply, weights, example["image"].shape[1:], "prepare= (--training-size)")
        outputs, _ = jax.eval_shape(apply, example["image"], *weights)
        if isinstance(outputs, jax.ShapeDtypeStruct):
            self._check_classes(outputs.shape[1:])
        elif isinstance(self.task, Classification | MultiLabel | Regression | Segmentation):
            shapes = jax.tree.map(lambda output: output.shape[1:], outputs)
            raise ValueError(
                f"expected a model that gives one array, for {type(self.task).__name__}, got a model that gives "
                f"{shapes}; return one of its arrays, or pass a task of your own"
            )
        jax.eval_shape(self.task.loss, outputs, example)
        if isinstance(self.task, Detection):
            self._check_detector(self.task, outputs)
        self._check_mixing(example)
        augment = self.recipe.augmentation
        if augment is not None:
            one = {name: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for name, leaf in example.items()}
            image = jax.eval_shape(augment, jax.random.key(0), one)["image"]
            self._check_size(apply, weights, image.shape, "augment")
        # Building both refuses parts that do not fit.
        _ = self.batches, self.phases

    def _check_size(self, apply: Any, weights: tuple[Any, Any], shape: Shape, field: str) -> None:
        """Refuses a model that does not take the images of training, of which this part of it changes the size."""
        try:
            jax.eval_shape(apply, jax.ShapeDtypeStruct((1, *shape), jnp.float32), *weights)
        except ValueError as error:
            made, whole = ("x".join(map(str, one)) for one in (shape, self.image_shape))
            reason = (
                f"makes images of {made}, and the model, for {whole}, does not take them: {error}; keep that size, or "
                "choose a model that takes any"
            )
            if field == "augment":
                raise RecipeError(field, reason) from error
            raise ValueError(f"{field} {reason}") from error

    def _check_detector(self, task: Detection, outputs: Any) -> None:
        given, count = task.num_classes(outputs), len(self.splits["train"].class_names)
        if count not in (0, given):
            raise ValueError(
                f"expected a detector of {count} classes, got one of {given}; build it with num_classes={count}"
            )

    def _check_mixing(self, example: Mapping[str, Any]) -> None:
        label, kind = example.get("label"), type(self.task).__name__
        is_mixable = label is not None and jnp.issubdtype(label.dtype, jnp.integer if label.ndim == 1 else jnp.floating)
        is_mixable = is_mixable and not isinstance(self.task, Regression | Segmentation)
        for name in ("mosaic", "mixup", "cutmix"):
            if not getattr(self.recipe, name):
                continue
            if name == "mosaic" and not isinstance(self.task, Detection):
                raise RecipeError(name, f"expects a detector and examples with 'boxes', got a model for {kind}")
            mixes_objects = name != "cutmix" and isinstance(self.task, Detection)
            if not is_mixable and not mixes_objects:
                raise RecipeError(
                    name,
                    "expects one label for each image, or the share of each class as floating-point numbers, got "
                    f"{'no label' if label is None else f'labels of {label.dtype} {label.shape[1:]}'} for {kind}",
                )
            if "weight" in example:
                raise RecipeError(name, "expects examples without 'weight', which has no meaning for mixed examples")

    def _check_classes(self, outputs: Shape) -> None:
        count = len(self.splits["train"].class_names)
        if count == 1 and isinstance(self.task, Classification):
            raise ValueError(
                f"expected at least two classes, got only {self.splits['train'].class_names[0]!r}; a classifier needs "
                "something to tell apart"
            )
        whole_image = isinstance(self.task, Classification | MultiLabel)
        if count and (outputs if whole_image else outputs[-1:]) != (count,):
            each = "" if whole_image else " and pixel"
            raise ValueError(
                f"expected a model that gives one number for each of {count} classes{each}, got a model that gives "
                f"{outputs}; choose another model, another head or other classes"
            )


def describe(experiment: Experiment, weights: tuple[Params, State]) -> dict[str, Any]:
    """Describes a training for config.json.

    Args:
      experiment: what is trained.
      weights: the initial parameters and state.

    Returns:
      JSON values by name.
    """
    train = experiment.splits["train"]
    # That of evaluation: training may add to it.
    fit = preprocessing_of(experiment.splits["validation"])
    return {
        "recipe": experiment.recipe.to_json(),
        "model": repr(experiment.layer),
        "task": repr(experiment.task),
        "image_shape": list(experiment.image_shape),
        "prepare": _repr(experiment.prepare),
        "preprocessing": None if fit is None else repr(fit),
        "class_names": list(train.class_names),
        "data_fingerprint": fingerprints(experiment.splits),
        "weights_fingerprint": weights_fingerprint(*weights),
        "commit": environment.commit(),
        "versions": environment.versions(*_PACKAGES),
        "devices": [device.device_kind for device in jax.devices()],
        "platform": platform.platform(),
        "processor": _processor(),
    }


def facts(experiment: Experiment, weights: tuple[Params, State] | None) -> dict[str, Any]:
    """Lists what must be the same in all processes of a training.

    Args:
      experiment: what is trained.
      weights: the initial parameters and state; None for a training that is resumed.

    Returns:
      JSON values by name.
    """
    return {
        **experiment.recipe.to_json(),
        "model": repr(experiment.layer),
        "task": repr(experiment.task),
        "prepare": _repr(experiment.prepare),
        "placement": repr(experiment.placement),
        "weights": None if weights is None else weights_fingerprint(*weights),
        **{f"number of {name} examples": len(part) for name, part in experiment.splits.items()},
        "classes": list(experiment.splits["train"].class_names),
        **{f"{name} data": print_ for name, print_ in fingerprints(experiment.splits).items()},
        **{f"version of {name}": version for name, version in environment.versions(*_PACKAGES).items()},
    }


def fingerprints(splits: Splits) -> dict[str, str]:
    """Returns the fingerprint of each part of the data, by name.

    Args:
      splits: the data, split.
    """
    return {name: part.fingerprint for name, part in splits.items()}


def weights_fingerprint(params: Params, state: State) -> str:
    """Computes a checksum of the numbers and the names of all leaves.

    Args:
      params: the parameters.
      state: the state.

    Returns:
      8 hexadecimal digits.
    """
    checksum = 0
    for name, leaf in trees.named_leaves((params, state)).items():
        checksum = zlib.crc32(np.asarray(leaf).tobytes(), zlib.crc32(name.encode(), checksum))
    return f"{checksum:08x}"


def check_same(folder: RunFolder, experiment: Experiment) -> None:
    """Refuses a training that differs from that of the folder.

    Args:
      folder: the run folder.
      experiment: the training.

    Raises:
      RunFolderError: the recipe, the model, the task or the data differ.
    """
    config, where = folder.config, f"the run in {printable(folder.path)}"
    before, now = folder.recipe.to_json(), experiment.recipe.to_json()
    if changed := [f"{name} {before[name]!r} to {now[name]!r}" for name in before if before[name] != now[name]]:
        raise RunFolderError(f"expected the recipe of {where}, got changes: {', '.join(changed)}; start a new run")
    for name, got in (("model", experiment.layer), ("task", experiment.task)):
        if config[name] is not None and (lines := difference(config[name], got)):
            raise RunFolderError(f"expected the {name} of {where}, with {lines[0]!r:.200}, got {lines[1]!r:.200}")
    # Before there was such an option, nothing was prepared.
    if (prepared := config.get("prepare")) != (got := _repr(experiment.prepare)):
        raise RunFolderError(f"expected the same prepare= as {where}, {prepared}, got {got}")
    # The data of a folder of version 0.1 are checked where they are read; see `first_schema.read_source`.
    if folder.id is not None and config["data_fingerprint"] != fingerprints(experiment.splits):
        raise RunFolderError(
            f"expected the data that {where} was started with, got other data; restore them, or start a new run"
        )


def _repr(prepare: Prepare | None) -> str | None:
    return None if prepare is None else repr(prepare)


def _processor() -> dict[str, Any]:
    return {"processor": environment.processor(), "cores": environment.usable_cores()}


def changed_versions(folder: RunFolder) -> list[str]:
    """Lists the packages and processors that changed since a run was started.

    On CPU, the order of some of XLA's sums, such as the gradient of a bias, depends on the number of cores.

    Args:
      folder: the folder of the run.

    Returns:
      A line such as "jax 0.10.2, now 0.12.0" for each.
    """
    before, now = folder.config["versions"], environment.versions(*_PACKAGES)
    if jax.default_backend() == "cpu":
        # Configs of older versions lack this key.
        before, now = before | folder.config.get("processor", {}), now | _processor()
    return [f"{name} {was}, now {now.get(name)}" for name, was in before.items() if now.get(name) != was]
