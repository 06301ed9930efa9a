"""Models of one's own on the command line: MODULE:FUNCTION or FILE.py:FUNCTION."""

import contextlib
import functools
import importlib
import inspect
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.cli.terminal import shown
from jaxcnn.layers import batched, output_shape
from jaxcnn.layers.measures import is_shape
from jaxcnn.models.text import parse_value
from jaxcnn.text import nearest
from jaxcnn.training.run_folder import RunFolder
from jaxcnn.types import Layer, Shape


def is_own(name: str) -> bool:
    """Tells whether a name stands for a model of one's own, rather than for one of the catalog."""
    return ":" in name


def find(name: str) -> Any:
    """Imports a module, which runs its code, and looks up a function in it.

    A module is looked for in the working directory too. A file is imported under the name that it has within its
    package, so that its relative imports work.

    Args:
      name: MODULE:FUNCTION or FILE.py:FUNCTION.

    Returns:
      The function, or another object of that name.

    Raises:
      CommandError: there is no such module or function, or the code of the module fails.
    """
    place, _, function = name.rpartition(":")
    is_file = place.endswith(".py")
    if not function.isidentifier() or not (is_file or all(part.isidentifier() for part in place.split("."))):
        raise CommandError(f"expected a model as MODULE:FUNCTION or FILE.py:FUNCTION, got {shown(name)}")
    module = _import_file(Path(place)) if is_file else _import(Path.cwd(), place)
    if not hasattr(module, function):
        raise CommandError(
            f"expected a function of {shown(place)}, got {function!r}, which it does not have"
            + nearest(function, [known for known in vars(module) if not known.startswith("_")])
        )
    return getattr(module, function)


def build(name: str, num_classes: int | None, image_shape: Shape) -> Layer:
    """Builds a model of one's own.

    Args:
      name: MODULE:FUNCTION or FILE.py:FUNCTION. The function gets those of `num_classes`, `in_channels` and
        `image_size`, (height, width), that are among its parameters; or it is a layer itself.
      num_classes: number of logits; None for that of the function.
      image_shape: (height, width, channels) of the images.

    Returns:
      The model.

    Raises:
      CommandError: there is no such function, it fails, it requires other arguments, or returns no layer.
    """
    found = find(name)
    if isinstance(found, type) or not isinstance(found, Layer):
        found = _called(name, found, num_classes, image_shape)
    if isinstance(found, type) or not isinstance(found, Layer):
        raise CommandError(
            f"expected {shown(name)} to return a layer, with init(key) and apply(params, state, x, *, train, "
            f"key=None), got {shown(f'{found!r:.100}')}; wrap a linen module in jaxcnn.interop.flax.from_linen"
        )
    try:
        hash(found)
    except TypeError as error:
        raise CommandError(f"expected {shown(name)} to return a frozen dataclass, got {error}") from error
    return found


def with_absolute_path(name: str) -> str:
    """Makes the path of FILE.py:FUNCTION absolute; other names are unchanged."""
    place, _, function = name.rpartition(":")
    return f"{Path(place).absolute()}:{function}" if place.endswith(".py") else name


def check_forward(name: str, layer: Layer, image_shape: Shape) -> None:
    """Refuses a model that fails on such images, in evaluation or in training. Nothing is computed.

    Args:
      name: as in `build`.
      layer: the model.
      image_shape: (height, width, channels) of the images.

    Raises:
      CommandError: the code of the model fails, or it does not take the images.
    """
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    with reported(ValueError), _reported(name, passed=ValueError):
        key = jax.eval_shape(lambda: jax.random.key(0))
        params, state = jax.eval_shape(layer.init, key)
        for train in (False, True):
            jax.eval_shape(functools.partial(batched(layer), train=train), params, state, images, key=key)


def check_outputs(name: str, layer: Layer, num_classes: int | None, image_shape: Shape) -> None:
    """Refuses a model that fails on such images, or gives another number of logits than asked for.

    Args:
      name: as in `build`.
      layer: the model.
      num_classes: number of logits; None for any.
      image_shape: (height, width, channels) of the images.

    Raises:
      CommandError: as in `check_forward`, or the function of the model ignores the number of classes.
    """
    check_forward(name, layer, image_shape)
    outputs = output_shape(layer, image_shape)
    if num_classes is not None and (not is_shape(outputs) or outputs[-1:] != (num_classes,)):
        raise CommandError(
            f"--num-classes expects a model that gives {num_classes} numbers, got {outputs} of {shown(name)}; "
            "omit it, or use num_classes in the function"
        )


def check_readable(name: str, layer: Layer) -> None:
    """Refuses a model that could not be read again from the config.json of its run.

    Args:
      name: as in `build`.
      layer: the model.

    Raises:
      CommandError: its text does not stand for it.
    """
    try:
        same = parse_value(repr(layer)) == layer
        reason = "its text is that of another layer"
    except ValueError as error:
        same, reason = False, str(error)
    if not same:
        raise CommandError(
            f"expected {shown(name)} to be made of layers whose text tells what they are, got {shown(reason)}; derive "
            "your layers from jaxcnn.layers.Composite or jaxcnn.values.Value, and put functions of your own into them"
        )


def check_named(folder: RunFolder, option: str) -> None:
    """Refuses to import code that only a run folder names, which may come from anywhere.

    Args:
      folder: the folder of a run.
      option: the option by which the user names it.

    Raises:
      CommandError: the model of the run is one's own.
    """
    name = (folder.config.get("options") or {}).get("model", "")
    if is_own(name):
        raise CommandError(
            f"expected {option} {shown(name)}, or where that code is now: the run in {shown(folder.path)} has a model "
            "of one's own, and code is imported only if you name it; do so only if you trust it"
        )


def _called(name: str, function: Any, num_classes: int | None, image_shape: Shape) -> Any:
    if not callable(function):
        raise CommandError(f"expected {shown(name)} to be a function or a layer, got {shown(f'{function!r:.100}')}")
    *image_size, channels = image_shape
    known = {"num_classes": num_classes, "in_channels": channels, "image_size": tuple(image_size)}
    parameters = inspect.signature(function).parameters.values()
    given = {one.name: known[one.name] for one in parameters if known.get(one.name) is not None}
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [one.name for one in parameters if one.default is one.empty and one.kind not in optional]
    if missing := [one for one in required if one not in given]:
        advice = "give --num-classes" if missing == ["num_classes"] else "give its other parameters defaults"
        raise CommandError(
            f"expected {shown(name)} to require none but num_classes, in_channels and image_size, got no value for "
            f"{', '.join(missing)}; {advice}"
        )
    with _reported(name):
        return function(**given)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise CommandError(f"expected a file of Python code, got {shown(path)}, which does not exist")
    path = path.resolve()
    root, parts = path.parent, [path.stem]
    while (root / "__init__.py").exists():
        root, parts = root.parent, [root.name, *parts]
    module = _import(root, ".".join(parts))
    if Path(str(module.__file__)).resolve() != path:
        raise CommandError(
            f"expected {shown(path)} to be the module {module.__name__}, got {shown(module.__file__)}; rename the file"
        )
    return module


def _import(root: Path, module: str) -> ModuleType:
    # As Python does for its own programs; the processes of a benchmark inherit it.
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        with _reported(module):
            return importlib.import_module(module)
    except CommandError as error:
        missing = getattr(error.__cause__, "name", None)
        if isinstance(error.__cause__, ModuleNotFoundError) and f"{module}.".startswith(f"{missing}."):
            raise CommandError(
                f"expected a module that can be imported, got {module!r}; call the command in the folder that has it, "
                "install it, or give a file: path/to/file.py:FUNCTION"
            ) from error
        raise


@contextmanager
def _reported(name: str, passed: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Turns any error of the user's code into a message with its place, but for those of a kind."""
    try:
        yield
    except passed:
        raise
    except (Exception, SystemExit) as error:
        libraries = (str(Path(str(library.__file__)).parent) for library in (jax, importlib, contextlib))
        ours = (str(Path(__file__).parents[1]), *libraries, "<")
        theirs = [one for one in traceback.extract_tb(error.__traceback__) if not one.filename.startswith(ours)]
        place = f" ({shown(theirs[-1].filename)}, line {theirs[-1].lineno})" if theirs else ""
        notes = [note for note in getattr(error, "__notes__", []) if note.startswith("in ")]
        lines = [f"the code of {shown(name)} fails: {type(error).__name__}: {error}{place}", *notes]
        raise CommandError("\n".join(lines)) from error
