"""Models as StableHLO programs, that run wherever jax does, without jaxcnn and for years to come.

    program = export_stablehlo(model, params, state, (224, 224, 3))
    program.save("model.stablehlo")  # and model.stablehlo.json beside it

and in another process, which needs jax and nothing else:

    import pathlib, jax.export

    program = jax.export.deserialize(pathlib.Path("model.stablehlo").read_bytes())
    logits = program.call(images)  # (batch, height, width, channels) to (batch, num_classes), float32
"""

import json
import os
import platform
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import export

from jaxcnn.files import check_target, written_whole
from jaxcnn.layers import batched, fold_batch_norm
from jaxcnn.layers.containers import LAYER_NOTE
from jaxcnn.types import Layer, Params, Shape, State

PLATFORMS = ("cpu", "cuda", "tpu")
"""What a program is exported for, unless it says otherwise."""

_KNOWN_PLATFORMS = (*PLATFORMS, "rocm")

_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
"""What a model may want height and width to be multiples of."""


class ExportedModel(NamedTuple):
    """A model as the contents of a file.

    Attributes:
      content: the file.
      description: what goes in and comes out, the class names and the preprocessing, versions; JSON values.
      load: lines of Python that load the file and call the program, with {file} for its name.
    """

    content: bytes
    description: dict[str, Any]
    load: tuple[str, ...]

    def save(self, path: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Writes the file, and its description beside it as JSON, each of them whole or not at all.

        Args:
          path: the file; an older one is replaced.

        Returns:
          The paths of the file and of its description, which is called as the file with ".json" behind it.

        Raises:
          OSError: they cannot be written.
        """
        path, beside = check_paths(path)
        load = [line.format(file=path.name) for line in self.load]
        text = json.dumps({"file": path.name, **self.description, "load": load}, indent=2) + "\n"
        # The description first, so that no program is ever without one.
        for target, content in ((beside, text.encode()), (path, self.content)):
            with written_whole(target) as file:
                file.write(content)
        return path, beside


def check_paths(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Refuses names that an exported file and its description cannot have, before the work for them is done.

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
    """The images that an exported program takes.

    Attributes:
      shape: of a batch, for `jax.export.symbolic_shape`.
      constraints: on the symbols in it.
      text: in words.
    """

    shape: str
    constraints: tuple[str, ...]
    text: str

    def struct(self) -> jax.ShapeDtypeStruct:
        """Describes a batch of images to a jax function."""
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
    class_names: Sequence[str] = (),
    preprocessing: str = "",
) -> ExportedModel:
    """Exports a model, as it is in evaluation, through `jax.export`.

    The program takes images (batch, height, width, channels) in float32, for any batch, and gives results in float32.
    It is made of XLA's own operations alone: the C++ kernels of this package are not called.

    Args:
      model: any layer or model.
      params: its parameters.
      state: its state.
      image_shape: (height, width, channels) of the images it was made for.
      symbolic_size: True: the program takes images of any height and width (of the least size and the multiples that
        the model asks for, see the description); False: of `image_shape` alone; None: of any where the model can.
      platforms: what to export for, among "cpu", "cuda", "rocm" and "tpu".
      gradients: whether the program can be differentiated once, by `jax.grad` or `jax.vjp`, with respect to all its
        arguments.
      weights: "baked": the program is a function of the images alone. "arguments": of (params, state, images), so that
        one program serves other weights.
      fold: whether to fold batch norms into convolutions (`jaxcnn.layers.fold_batch_norm`), which changes results by
        rounding only; None: where weights are baked and no gradients wanted. The parameters of a folded model are other
        ones, so it cannot be had with weights as arguments.
      dtype: dtype of the computation.
      class_names: for the description.
      preprocessing: what to do with an image before, in words, for the description.

    Returns:
      The program.

    Raises:
      ValueError: the model does not take images of any size although `symbolic_size` is True (a note names the layer),
        or an option is not one of those above.
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
            "export expects fold=False with weights='arguments': a folded model has other parameters; fold it by "
            "fold_batch_norm before and export what that returns"
        )
    if fold:
        model, params, state = fold_batch_norm(model, params, state)
    sizes = image_sizes(model, params, state, image_shape, symbolic_size)
    forward = Forward(model, dtype)
    with _without_paths():
        if weights == "baked":
            exported = export.export(jax.jit(forward.bound(params, state)), platforms=platforms)(sizes.struct())
        else:
            trees = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, state))
            exported = export.export(jax.jit(forward), platforms=platforms)(*trees, sizes.struct())
        content = bytes(exported.serialize(vjp_order=int(gradients)))
    arguments = "images" if weights == "baked" else "params, state, images"
    return ExportedModel(
        content,
        {
            "format": "stablehlo",
            **describe(sizes, exported.out_avals, dtype, fold, class_names, preprocessing),
            "arguments": arguments,
            "gradients": gradients,
            "platforms": list(exported.platforms),
            "calling_convention_version": exported.calling_convention_version,
        },
        (
            "import pathlib, jax.export",
            'program = jax.export.deserialize(pathlib.Path("{file}").read_bytes())',
            f"logits = program.call({arguments})",
        ),
    )


@dataclass(frozen=True)
class Forward:
    """A model in evaluation on a batch of float32 images, with results in float32.

    Attributes:
      model: any layer or model.
      dtype: of the computation.
    """

    model: Layer
    dtype: Any

    def __call__(self, params: Params, state: State, images: jax.Array) -> jax.Array:
        """Computes the results of a batch."""
        return batched(self.model)(params, state, images.astype(self.dtype), train=False)[0].astype(jnp.float32)

    def bound(self, params: Params, state: State) -> Callable[[jax.Array], jax.Array]:
        """Makes it a function of the images alone."""
        return lambda images: self(params, state, images)


def describe(
    sizes: Sizes,
    outputs: Sequence[Any],
    dtype: Any,
    fold: bool,
    class_names: Sequence[str],
    preprocessing: str,
    packages: Sequence[str] = (),
) -> dict[str, Any]:
    """Describes what all formats have in common.

    Args:
      sizes: of the images.
      outputs: shape and dtype of the one result.
      dtype: of the computation.
      fold: whether batch norms were folded.
      class_names: of the logits, or none.
      preprocessing: in words.
      packages: whose versions count besides those of jaxcnn and jax.

    Returns:
      JSON values by name.
    """
    (output,) = outputs
    return {
        "input": {
            "shape": [int(n) if n.isdigit() else n for n in sizes.shape.replace(" ", "").split(",")],
            "dtype": "float32",
            "layout": "batch, height, width, channels",
            "sizes": sizes.text,
        },
        "output": {"shape": [n if isinstance(n, int) else str(n) for n in output.shape], "dtype": "float32"},
        "class_names": list(class_names),
        "preprocessing": preprocessing,
        "compute_dtype": jnp.dtype(dtype).name,
        "batch_norms_folded": fold,
        "versions": {"python": platform.python_version(), **_versions("jaxcnn", "jax", "jaxlib", *packages)},
    }


def _versions(*packages: str) -> dict[str, str]:
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def image_sizes(
    model: Layer, params: Params, state: State, image_shape: Shape, symbolic_size: bool | None = None
) -> Sizes:
    """Finds out which images a model can be exported for.

    It is traced with sizes that are not known, so what is found is proven for all of them.

    Args:
      model: any layer or model.
      params: its parameters.
      state: its state.
      image_shape: (height, width, channels) of the images it was made for.
      symbolic_size: as in `export_stablehlo`.

    Returns:
      The sizes: any of at least so many pixels, and of multiples of so many; or those of `image_shape` alone.

    Raises:
      ValueError: `symbolic_size` is True and the model does not take images of any size; a note names the layer.
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
    # Most layers say it better of numbers.
    reason = _fault(model, params, state, (2 * height, 2 * width, channels)) or reason
    because = textwrap.shorten((str(reason).splitlines() or [repr(reason)])[0].rstrip("."), 240, placeholder=" ...")
    place = next((note for note in getattr(reason, "__notes__", []) if note.startswith(LAYER_NOTE)), None)
    why = f"{because} ({place})" if place else because
    if symbolic_size is None:
        return Sizes(f"b, {height}, {width}, {channels}", (), f"{fixed} only: {why}")
    raise ValueError(
        f"export expects a model that takes images of any size where symbolic_size=True, got one that does not: {why}; "
        "pass symbolic_size=False to export it for images of one size"
    ) from reason


def _fault(model: Layer, params: Params, state: State, shape: Shape) -> Exception | None:
    """Traces a model; returns what it has against images of a shape."""
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    try:
        jax.eval_shape(lambda *arguments: model.apply(*arguments, train=False), params, state, image)
    except Exception as error:  # jax and the layers have many kinds for what depends on an unknown size.
        return error
    return None


def _least(most: int, is_enough: Callable[[int], bool]) -> int:
    """Finds the least number that is enough, where `most` is; it is often 1, and seldom far from it."""
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
    """Keeps the folders of this machine out of what a program says about its origin."""
    option = "jax_hlo_source_file_canonicalization_regex"
    before = jax.config.values[option]
    jax.config.update(option, ".*/")
    try:
        yield
    finally:
        jax.config.update(option, before)
