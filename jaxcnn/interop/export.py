"""Exports models as StableHLO programs, which run with jax but without jaxcnn, also with later versions of jax.

    program = export_stablehlo(model, params, state, (224, 224, 3))
    program.save("model.stablehlo")  # and model.stablehlo.json next to it

and in another process, which needs only jax:

    import pathlib, jax.export

    program = jax.export.deserialize(pathlib.Path("model.stablehlo").read_bytes())
    logits = program.call(images)  # (batch, height, width, channels) to (batch, num_classes), float32
"""

import json
import os
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import export

from jaxcnn import environment
from jaxcnn.files import check_target, written_whole
from jaxcnn.layers import batched, fold_batch_norm
from jaxcnn.layers.composite import LAYER_NOTE
from jaxcnn.tasks import Detection
from jaxcnn.trees import named_leaves
from jaxcnn.types import Layer, Params, Shape, State, Task

PLATFORMS = ("cpu", "cuda", "tpu")
"""The default platforms of an exported program."""

_KNOWN_PLATFORMS = (*PLATFORMS, "rocm")

_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
"""The candidates for the multiples that a model requires of height and width."""


class ExportedModel(NamedTuple):
    """An exported model as the content of a file.

    Attributes:
      content: the file.
      description: JSON values that describe input and output, the class names, the preprocessing and the versions.
      load: lines of Python that load the file and call the program, with {file} for its name.
    """

    content: bytes
    description: dict[str, Any]
    load: tuple[str, ...]

    def save(self, path: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Writes the file, and its description as JSON next to it, each atomically.

        Args:
          path: the file; an older file is replaced.

        Returns:
          The paths of the file and of its description, whose name is that of the file with ".json" appended.

        Raises:
          OSError: a file cannot be written.
        """
        path, beside = check_paths(path)
        load = [line.format(file=path.name) for line in self.load]
        text = json.dumps({"file": path.name, **self.description, "load": load}, indent=2) + "\n"
        # The description first, so that a program always has one.
        for target, content in ((beside, text.encode()), (path, self.content)):
            with written_whole(target) as file:
                file.write(content)
        return path, beside


def check_paths(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Refuses paths that an exported file and its description cannot be written to. Call it before the export.

    Args:
      path: the file.

    Returns:
      The paths of the file and of its description.

    Raises:
      OSError: one of them cannot be written; see `jaxcnn.files.check_target`.
    """
    check_target(path)
    path = Path(path)
    beside = path.with_name(f"{path.name}.json")
    check_target(beside)
    return path, beside


class Sizes(NamedTuple):
    """The image sizes that an exported program accepts.

    Attributes:
      shape: shape of a batch, for `jax.export.symbolic_shape`.
      constraints: constraints on its symbols.
      text: description in words.
    """

    shape: str
    constraints: tuple[str, ...]
    text: str

    def struct(self) -> jax.ShapeDtypeStruct:
        """Returns the shape and dtype of a batch of images."""
        return jax.ShapeDtypeStruct(export.symbolic_shape(self.shape, constraints=self.constraints), jnp.float32)


def export_stablehlo(
    model: Layer,
    params: Params,
    state: State,
    image_shape: Shape,
    *,
    symbolic_size: bool | None = None,
    platforms: Sequence[str] = PLATFORMS,
    gradients: bool = False,
    weights: Literal["baked", "arguments"] = "baked",
    fold: bool | None = None,
    dtype: Any = jnp.float32,
    task: Task | None = None,
    class_names: Sequence[str] = (),
    preprocessing: str = "",
) -> ExportedModel:
    """Exports a model in evaluation mode by `jax.export`.

    The program takes float32 images (batch, height, width, channels), with any batch size, and returns float32: an
    array, or a tree of arrays if the model does. It uses only XLA's own operations, not the C++ kernels of this
    package. With the task of a detector, it decodes the outputs: it returns a dict of "boxes", two corners in pixels of
    the images, "scores", "classes" and "valid", with slots of a fixed number, the best first.

    Args:
      model: any layer or model.
      params: its parameters.
      state: its state.
      image_shape: (height, width, channels) of the images that the model was built for.
      symbolic_size: True: the program accepts images of any height and width, subject to the least size and the
        multiples in its description. False: only images of `image_shape`. None: images of any size if the model
        supports them.
      platforms: platforms of the program, among "cpu", "cuda", "rocm" and "tpu".
      gradients: whether the program can be differentiated once, by `jax.grad` or `jax.vjp`, with respect to all its
        arguments.
      weights: "baked": the program is a function of the images alone. "arguments": of (params, state, images), so that
        one program works with other weights.
      fold: whether to fold batch norms into convolutions (`jaxcnn.layers.fold_batch_norm`), which changes results only
        by rounding. None: if weights are baked and gradients are not needed. A folded model has other parameters, so it
        cannot be combined with weights as arguments.
      dtype: dtype of the computation; results are decoded in float32.
      task: decodes the outputs of the model, such as that of a detector, whose images have the size of the task; None
        returns them as they are.
      class_names: for the description.
      preprocessing: preprocessing of the images in words, for the description.

    Returns:
      The program.

    Raises:
      ValueError: `symbolic_size` is True and the model does not support images of any size (a note names the layer), or
        the task is that of a detector; `gradients` is True with such a task; or an option is not one of the above.
      ImportError: flatbuffers is not installed.
    """
    _check_flatbuffers()
    unknown = [name for name in platforms if name not in _KNOWN_PLATFORMS]
    if unknown or not platforms:
        raise ValueError(f"export expects platforms among {_KNOWN_PLATFORMS}, got {tuple(platforms)}")
    if weights not in ("baked", "arguments"):
        raise ValueError(f"export expects weights 'baked' or 'arguments', got {weights!r}")
    fold = weights == "baked" and not gradients if fold is None else fold
    if fold and weights == "arguments":
        raise ValueError(
            "export expects fold=False with weights='arguments': a folded model has other parameters; call "
            "fold_batch_norm first and export its result"
        )
    if isinstance(task, Detection):
        _check_detector(symbolic_size, gradients=gradients)
        symbolic_size = False
    if fold:
        model, params, state = fold_batch_norm(model, params, state, image_shape)
    sizes = image_sizes(model, params, state, image_shape, symbolic_size)
    forward = Forward(model, dtype, task)
    with _without_paths():
        if weights == "baked":
            exported = export.export(jax.jit(forward.bound(params, state)), platforms=platforms)(sizes.struct())
        else:
            trees = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, state))
            exported = export.export(jax.jit(forward), platforms=platforms)(*trees, sizes.struct())
        content = bytes(exported.serialize(vjp_order=int(gradients)))
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    arguments = "images" if weights == "baked" else "params, state, images"
    return ExportedModel(
        content,
        {
            "format": "stablehlo",
            **describe(sizes, outputs, dtype, fold, class_names, preprocessing),
            "arguments": arguments,
            "gradients": gradients,
            "platforms": list(exported.platforms),
            "calling_convention_version": exported.calling_convention_version,
        },
        (
            "import pathlib, jax.export",
            'program = jax.export.deserialize(pathlib.Path("{file}").read_bytes())',
            f"{'logits' if task is None else 'predictions'} = program.call({arguments})",
        ),
    )


@dataclass(frozen=True)
class Forward:
    """A model in evaluation mode on a batch of float32 images, with float32 results.

    Attributes:
      model: any layer or model.
      dtype: dtype of the computation.
      task: decodes the results, or None.
    """

    model: Layer
    dtype: Any
    task: Task | None = None

    def __call__(self, params: Params, state: State, images: jax.Array) -> Any:
        """Computes the results of a batch: an array, or a tree of arrays."""
        results, _ = batched(self.model)(params, state, images.astype(self.dtype), train=False)
        results = jax.tree.map(lambda y: y.astype(jnp.float32) if jnp.issubdtype(y.dtype, jnp.floating) else y, results)
        return results if self.task is None else self.task.decode(results)

    def bound(self, params: Params, state: State) -> Callable[[jax.Array], Any]:
        """Returns a function of the images alone."""
        return lambda images: self(params, state, images)


def _check_detector(symbolic_size: bool | None, *, gradients: bool) -> None:
    """Refuses what a program that decodes the outputs of a detector cannot do.

    Args:
      symbolic_size: as in `export_stablehlo`.
      gradients: likewise.

    Raises:
      ValueError: images of any size, or gradients, are wanted.
    """
    if symbolic_size:
        raise ValueError(
            "symbolic_size=True expects a model that supports images of any size, got a detector, whose task decodes "
            "boxes of images of one size; pass symbolic_size=False, or no task"
        )
    if gradients:
        raise ValueError(
            "gradients=True expects outputs that have gradients, got the task of a detector: its suppression of "
            "overlapping boxes has none; pass no task"
        )


def describe(
    sizes: Sizes,
    outputs: Any,
    dtype: Any,
    fold: bool,
    class_names: Sequence[str],
    preprocessing: str,
    packages: Sequence[str] = (),
) -> dict[str, Any]:
    """Returns the part of a description that all formats share.

    Args:
      sizes: sizes of the images.
      outputs: shape and dtype of the result, or a tree of them.
      dtype: dtype of the computation.
      fold: whether batch norms were folded.
      class_names: names of the logits, may be empty.
      preprocessing: preprocessing in words.
      packages: packages whose versions to record besides those of jaxcnn and jax.

    Returns:
      JSON values by name.
    """
    described = {
        path: {"shape": [n if isinstance(n, int) else str(n) for n in one.shape], "dtype": one.dtype.name}
        for path, one in named_leaves(outputs).items()
    }
    return {
        "input": {
            "shape": [int(n) if n.isdigit() else n for n in sizes.shape.replace(" ", "").split(",")],
            "dtype": "float32",
            "layout": "batch, height, width, channels",
            "sizes": sizes.text,
        },
        # A result that is one array has the path "".
        "output": described.get("", described),
        "class_names": list(class_names),
        "preprocessing": preprocessing,
        "compute_dtype": jnp.dtype(dtype).name,
        "batch_norms_folded": fold,
        "versions": environment.versions("jaxcnn", "jax", "jaxlib", *packages),
    }


def image_sizes(
    model: Layer, params: Params, state: State, image_shape: Shape, symbolic_size: bool | None = None
) -> Sizes:
    """Determines the image sizes that a model can be exported for.

    The model is traced with symbolic sizes, so the result is proven for all of them.

    Args:
      model: any layer or model.
      params: its parameters.
      state: its state.
      image_shape: (height, width, channels) of the images that the model was built for.
      symbolic_size: as in `export_stablehlo`.

    Returns:
      The sizes: all sizes from a least size that are multiples of a number, or only that of `image_shape`.

    Raises:
      ValueError: `symbolic_size` is True and the model does not support images of any size; a note names the layer.
    """
    height, width, channels = image_shape
    fixed = f"images of {height}x{width} pixels"
    if symbolic_size is False:
        return Sizes(f"b, {height}, {width}, {channels}", (), fixed)

    def fault(multiple: int, count: int) -> Exception | None:
        return _fault(model, params, state, _symbolic(multiple, count, channels).struct().shape[1:])

    def fits(multiple: int, count: int) -> bool:
        return fault(multiple, count) is None

    reason = None
    for multiple in _MULTIPLES:
        if height % multiple or width % multiple:
            break
        most = min(height, width) // multiple
        error = fault(multiple, most)
        if error is None:
            return _symbolic(multiple, _least(most, partial(fits, multiple)), channels)
        reason = reason or error
    # Most layers have a clearer error for known sizes.
    reason = _fault(model, params, state, (2 * height, 2 * width, channels)) or reason
    because = textwrap.shorten((str(reason).splitlines() or [repr(reason)])[0].rstrip("."), 240, placeholder=" ...")
    place = next((note for note in getattr(reason, "__notes__", []) if note.startswith(LAYER_NOTE)), None)
    why = f"{because} ({place})" if place else because
    if symbolic_size is None:
        return Sizes(f"b, {height}, {width}, {channels}", (), f"{fixed} only: {why}")
    raise ValueError(
        f"symbolic_size=True expects a model that supports images of any size, got one that does not: {why}; "
        "pass symbolic_size=False to export it for one size"
    ) from reason


def _fault(model: Layer, params: Params, state: State, shape: Shape) -> Exception | None:
    """Traces a model with images of a shape; returns the error, or None."""
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    try:
        jax.eval_shape(lambda *arguments: model.apply(*arguments, train=False), params, state, image)
    except Exception as error:  # jax and the layers raise many types for operations that depend on an unknown size.
        return error
    return None


def _least(most: int, is_enough: Callable[[int], bool]) -> int:
    """Returns the least number that is enough, given that `most` is; it is often 1 or a little more."""
    too_few, enough, number = 0, most, 1
    while too_few + 1 < enough:
        if is_enough(number):
            enough = number
        else:
            too_few = number
        number = min(2 * number, (too_few + enough) // 2)
    return enough


def _symbolic(multiple: int, count: int, channels: int) -> Sizes:
    """Describes images of at least `count` times `multiple` pixels in height and width."""
    factor = "" if multiple == 1 else f"{multiple}*"
    text = f"images of any size of at least {count * multiple}x{count * multiple} pixels"
    if multiple > 1:
        text += f", height and width multiples of {multiple}"
    return Sizes(f"b, {factor}h, {factor}w, {channels}", (f"h >= {count}", f"w >= {count}"), text)


def _check_flatbuffers() -> None:
    try:
        import flatbuffers as flatbuffers
    except ImportError as error:
        raise ImportError("export expects flatbuffers to be installed; pip install 'jaxcnn[export]'") from error


@contextmanager
def _without_paths() -> Iterator[None]:
    """Keeps the paths of this machine out of the source locations of a program."""
    option = "jax_hlo_source_file_canonicalization_regex"
    before = jax.config.values[option]
    jax.config.update(option, ".*/")
    try:
        yield
    finally:
        jax.config.update(option, before)
