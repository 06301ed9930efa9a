"""Augmentations of examples: a `Step` applies a function to an example, and `compose` chains steps."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxcnn.data.geometry import Geometry
from jaxcnn.data.objects import OBJECTS, moved_objects
from jaxcnn.data.sources.source import IGNORED
from jaxcnn.ops.check import is_int, is_number
from jaxcnn.types import Example
from jaxcnn.values import Partial

Draw = Callable[..., Geometry]
"""draw(key, height, width, **options): the geometry of an image of this size; the options are those of the step."""


_OWN = ("image", "mask", "boxes", "valid")
"""Entries that an example has by itself; `Batches` adds others."""

_MOVING: dict[str, Any] = {"mask_fill": IGNORED, "least_visible": 0.1}
"""Options that every step of a geometric function takes, with their defaults."""


class _Mark(NamedTuple):
    """What a `Step` knows about a function; the fields are as in `geometric`."""

    draw: Draw | None
    reads: tuple[str, ...] = ()
    centred: bool = False


_MARKS: dict[Callable[..., jax.Array], _Mark] = {}

_F = TypeVar("_F", bound=Callable[..., jax.Array])


def geometric(draw: Draw, *, reads: tuple[str, ...] = (), centred: bool = False) -> Callable[[_F], _F]:
    """Marks an augmentation that moves pixels, so that its `Step` moves masks and boxes of an example along.

        @geometric(draw_zoom)
        def zoom(key, image, *, factor, fill=0.0):
            return draw_zoom(key, *image.shape[:2], factor=factor).image(image, fill)

    Args:
      draw: draws the geometry that the function applies to its image, from the same key, the height and the width, and
        the options of the function except `fill`.
      reads: names of entries of the example that the function and `draw` take as keyword arguments besides the options.
      centred: whether objects are kept whose centre stays in the image, rather than those of which enough is visible.

    Returns:
      A decorator that returns the function itself.
    """

    def mark(function: _F) -> _F:
        _MARKS[function] = _Mark(draw, reads, centred)
        return function

    return mark


def photometric(function: _F) -> _F:
    """Marks an augmentation that moves no pixel, so that its `Step` leaves mask and boxes of an example as they are.

    Args:
      function: function(key, image, **options).

    Returns:
      The function itself.
    """
    _MARKS[function] = _Mark(None)
    return function


def option_names(function: Callable[..., jax.Array]) -> list[str]:
    """Lists the options that a `Step` of a function takes, in the order of its parameters.

    Args:
      function: function(key, image, **options).

    Returns:
      Their names.
    """
    names = list(_without_entries(function).parameters)[2:]
    mark = _MARKS.get(function)
    return names if mark is None or mark.draw is None else [*names, *_MOVING]


def _without_entries(function: Callable[..., jax.Array]) -> inspect.Signature:
    """Returns the signature without the entries of the example that the function reads."""
    signature = inspect.signature(function)
    reads = _MARKS[function].reads if function in _MARKS else ()
    return signature.replace(parameters=[one for name, one in signature.parameters.items() if name not in reads])


class Step(Partial):
    """One augmentation with its options: a hashable value that is called as `step(key, example)`.

        Step(random_crop, padding=4, border="reflect")

    A geometric function moves "mask", "boxes" and "masks" along with "image", by the same random geometry. Each pixel
    of a mask is the nearest one; where `fill` comes into view, the mask becomes `mask_fill`, and masks of objects
    become False. If pixels of the image pad it, those of the masks pad the masks. A box becomes the box around its
    moved corners, clipped to the image; after `elastic`, the box around the pixels that come from it.

    An object is no longer valid if less than `least_visible` of its moved box is in the image, if a side has become
    shorter than a pixel, or if nothing is left of its mask. All its entries become zeros then.

    Args:
      function: called as function(key, image, **options); defined at the top of a module, since a lambda or a nested
        function differs from its own twin and would be compiled anew each time. For examples with a mask or boxes, mark
        it by `geometric` or `photometric`.
      **options: keyword arguments of the function, hashable. A geometric function takes two more: `mask_fill`, a class
        index, by default `IGNORED`; and `least_visible`, in [0, 1], by default 0.1.

    Raises:
      ValueError: `function` is not defined at the top of a module, or `mask_fill` or `least_visible` is out of range.
      TypeError: the function does not take these options, or one cannot be hashed.
    """

    def __init__(self, function: Callable[..., jax.Array], /, **options: Any):
        if "<" in getattr(function, "__qualname__", "<"):
            raise ValueError(f"Step expects a function defined at the top of a module, got {function!r}")
        known = option_names(function)
        others = {name: value for name, value in options.items() if name not in known or name not in _MOVING}
        fill, least = (options.get(name, default) for name, default in _MOVING.items())
        if not is_int(fill) or fill < 0:
            raise ValueError(f"Step expects mask_fill, a class index of at least 0, got {fill!r}")
        if not is_number(least) or not 0 <= least <= 1:
            raise ValueError(f"Step expects least_visible, the part of a box, in [0, 1], got {least!r}")
        try:
            _without_entries(function).bind("key", "image", **others)
        except TypeError as error:
            raise TypeError(f"{function.__name__} takes the options {known}, got {list(options)}: {error}") from None
        super().__init__(function, **options)

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the entries that the function reads besides image, mask and boxes, such as "index" and "epoch"."""
        return tuple(name for name in self._mark.reads if name not in _OWN)

    @property
    def _mark(self) -> _Mark:
        return _MARKS.get(self.function, _Mark(None))

    def __call__(self, key: jax.Array, example: Example) -> dict[str, Any]:
        """Changes one example.

        Args:
          key: typed random key, consumed.
          example: "image", shape (height, width, channels), floating point; optionally "mask", shape (height, width),
            integers; optionally objects: "boxes", shape (objects, 4), floating point, the edges (left, top, right,
            bottom) in pixels, 0 being the outer edge of the first pixel, with "valid", shape (objects,), bool, and
            optionally "classes", "crowd" and "difficult", shape (objects,), and "masks", shape (objects, height,
            width), bool; other entries stay as they are.

        Returns:
          The example, with the same names and dtypes. The shapes are the same too, except those of image and mask after
          an augmentation with a size of its own.

        Raises:
          ValueError: an entry is missing, has the wrong shape or cannot be moved, or an option is out of range.
          TypeError: `example` is not a mapping, or an entry has the wrong dtype.
        """
        name = self.function.__name__
        _check_example(name, example)
        mark = self._mark
        options = dict(self.options) | _entries(name, example, mark.reads)
        mask_fill, least_visible = (options.pop(option, default) for option, default in _MOVING.items())
        places = sorted(example.keys() & {"mask", "boxes"})
        if places and self.function not in _MARKS:
            raise ValueError(
                f"Step does not know whether {name} moves pixels, got an example with {places}; mark the function with "
                "jaxcnn.data.geometric or jaxcnn.data.photometric"
            )
        changed = dict(example) | {"image": self.function(key, example["image"], **options)}
        if mark.draw is not None and "proposals" in example:
            raise ValueError(
                f"{name} moves pixels, but not 'proposals': augment before the regions are proposed, or change only "
                "colours"
            )
        if places and mark.draw is not None:
            height, width = example["image"].shape[:2]
            drawing = {name: value for name, value in options.items() if name != "fill"}
            geometry = mark.draw(key, height, width, **drawing)
            if "mask" in example:
                changed["mask"] = geometry.mask(example["mask"], mask_fill)
            if "boxes" in example:
                moved = geometry.boxes(example["boxes"], height, width)
                masks = {}
                if "masks" in example:
                    masks["masks"] = jax.vmap(lambda mask: geometry.mask(mask, False))(example["masks"])
                objects = {name: example[name] for name in (*OBJECTS, "valid") if name in example}
                changed |= moved_objects(
                    objects | masks,
                    moved,
                    changed["image"].shape[:2],
                    least_visible=least_visible,
                    centred=mark.centred,
                )
        return changed


def _entries(name: str, example: Example, reads: tuple[str, ...]) -> dict[str, Any]:
    missing = [entry for entry in reads if entry not in example]
    if missing:
        raise ValueError(
            f"{name} expects an example with {', '.join(map(repr, reads))}, got {', '.join(map(repr, example))}"
        )
    return {entry: example[entry] for entry in reads}


def _check_example(name: str, example: Any) -> None:
    if not isinstance(example, Mapping):
        raise TypeError(
            f'a Step of {name} expects an example such as {{"image": image}}, got {type(example).__name__}; for an '
            f"image alone call {name} itself"
        )
    if "image" not in example:
        raise ValueError(f"a Step of {name} expects an example with 'image', got {', '.join(map(repr, example))}")
    if "mask" in example:
        image, mask = example["image"], example["mask"]
        if mask.shape != image.shape[:2]:
            raise ValueError(f"{name} expects a mask as large as the image, got {mask.shape} and {image.shape}")
        if not jnp.issubdtype(mask.dtype, jnp.integer):
            raise TypeError(f"{name} expects a mask of integers, the class of each pixel, got {mask.dtype}")
    if "boxes" in example:
        _check_boxes(name, example["boxes"], example.get("valid"))
        _check_objects(name, example)
    elif others := sorted(example.keys() & {*OBJECTS, "valid"}):
        raise ValueError(f"{name} expects 'boxes' beside {', '.join(map(repr, others))}, got none")


def _check_boxes(name: str, boxes: Any, valid: Any) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name} expects boxes of shape (boxes, 4), got {boxes.shape}")
    if not jnp.issubdtype(boxes.dtype, jnp.floating):
        raise TypeError(f"{name} expects boxes of floating point, in pixels, got {boxes.dtype}")
    if valid is None:
        raise ValueError(f"{name} expects 'valid' beside 'boxes', since a box may leave the image, got none")
    if valid.shape != boxes.shape[:1] or valid.dtype != jnp.bool_:
        raise ValueError(f"{name} expects 'valid' of bool, shape {boxes.shape[:1]}, got {valid.dtype} {valid.shape}")


def _check_objects(name: str, example: Example) -> None:
    count, size = example["boxes"].shape[0], example["image"].shape[:2]
    for entry in OBJECTS[1:]:
        expected = (count, *size) if entry == "masks" else (count,)
        if entry in example and example[entry].shape != expected:
            raise ValueError(f"{name} expects {entry!r} of shape {expected}, got {example[entry].shape}")
    if "masks" in example and example["masks"].dtype != jnp.bool_:
        raise TypeError(f"{name} expects masks of bool, one for each box, got {example['masks'].dtype}")


@dataclasses.dataclass(frozen=True, repr=False)
class Composition:
    """Augmentations one after the other, as `compose` builds them: a hashable value, called as a `Step` is."""

    steps: tuple["Step | Composition", ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the entries that any of the steps reads; see `Step.reads`."""
        return tuple(dict.fromkeys(name for step in self.steps for name in step.reads))

    def __call__(self, key: jax.Array, example: Example) -> dict[str, Any]:
        """Applies the steps to one example, each with its own key."""
        changed = dict(example)
        for index, step in enumerate(self.steps):
            try:
                changed = step(jax.random.fold_in(key, index), changed)
            except Exception as error:
                error.add_note(f"in augmentation step {index}: {step!r}")
                raise
        return changed

    def __repr__(self) -> str:
        return f"compose({', '.join(map(repr, self.steps))})"


def compose(*steps: Step | Composition) -> Composition:
    """Chains augmentations into one, to be called as `augment(key, example)`.

    The step at place i draws from `fold_in(key, i)`: steps added at the end leave the draws of the
    earlier ones as they are. No steps at all is the identity.

    Args:
      steps: applied from left to right; a composition may stand among them.

    Returns:
      A hashable value; equal steps make equal compositions.

    Raises:
      TypeError: a step is neither a `Step` nor a `Composition`.
    """
    for step in steps:
        if not isinstance(step, Step | Composition):
            raise TypeError(f"compose expects steps, as Step(shift, max_shift=2), got {step!r}")
    return Composition(steps)
