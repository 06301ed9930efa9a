"""Examples in memory, as arrays by name."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from jaxcnn.data.objects import OBJECTS
from jaxcnn.data.pictures import FitPicture
from jaxcnn.data.sources.source import IGNORED, ArraySpec, check_classes, checksum


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Arrays:
    """A source in host memory; build one with `arrays`, which checks the entries.

    Args:
      entries: arrays by name, with the examples as their first axis; `Source` explains the names. They are kept as
        read-only views.
      class_names: one name for each class; label k means `class_names[k]`. Empty without classes.
      preprocessing: what fitted the images, for pictures to come; None if nothing did.
    """

    entries: Mapping[str, np.ndarray]
    class_names: tuple[str, ...] = ()
    preprocessing: FitPicture | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", {name: _read_only(array) for name, array in self.entries.items()})

    @property
    def spec(self) -> Mapping[str, ArraySpec]:
        """Shape and dtype of each entry, by name."""
        return {name: ArraySpec(array.shape[1:], array.dtype) for name, array in self.entries.items()}

    @property
    def fingerprint(self) -> str:
        """A checksum of every value, computed once: about a second for a gigabyte."""
        return self._checksum

    @functools.cached_property
    def _checksum(self) -> str:
        parts = (part for name in sorted(self.entries) for part in (name, self.entries[name]))
        return checksum(*parts, *self.class_names)

    @property
    def is_mapped(self) -> bool:
        """Whether entries are mapped from files, so that they may be larger than the memory."""
        return any(map(_is_mapped, self.entries.values()))

    def __len__(self) -> int:
        return len(next(iter(self.entries.values())))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {name: np.asarray(array[index]) for name, array in self.entries.items()}

    def __repr__(self) -> str:
        entries = (f"{name} {array.dtype} {array.shape[1:]}" for name, array in self.entries.items())
        return f"<{len(self)} examples in memory: {', '.join(entries)}>"

    def gather(self, indices: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Copies entries of several examples."""
        return {name: self.entries[name][indices] for name in names}


def _is_mapped(array: object) -> bool:
    return isinstance(array, np.ndarray) and (isinstance(array, np.memmap) or _is_mapped(array.base))


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def arrays(
    *,
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    **entries: ArrayLike,
) -> Arrays:
    """Makes a source from arrays, after checking them.

    `arrays(image=images, label=labels)` is a data set of classified images. Labels become int32, masks uint8 (int32 for
    more than 255 classes), floating-point values float32. Arrays of the right dtype are not copied.

    Args:
      class_names: distinct names of the classes.
      num_classes: the number of classes; they are named '0', '1', ... . Give either this or `class_names`, or neither:
        then labels and masks must use every number from 0 to the largest, so that a missing class is an error.
      **entries: at least one array, each with the examples as its first axis. "image": uint8, or floating point in
        [0, 1]; shape (examples, height, width, channels), or (examples, height, width) for one channel. "label":
        integers in [0, number of classes), shape (examples,). "mask": integers in [0, number of classes) or `IGNORED`,
        shape (examples, height, width), as large as the images. Objects, padded to the same number of slots: "boxes",
        shape (examples, slots, 4), edges (left, top, right, bottom) in pixels; "valid", bool, shape (examples, slots);
        "classes", integers; optionally "crowd" and "difficult", bool, of this shape, and "masks", bool, shape
        (examples, slots, height, width). Slots that are not valid become zeros. Others, such as "target": any finite
        numbers.

    Returns:
      The source.

    Raises:
      ValueError: an array is empty, has the wrong shape or holds a value out of range, or the numbers of examples
        differ.
      TypeError: an array has the wrong dtype, or the class names are not strings.
    """
    if not entries:
        raise ValueError("arrays expects at least one array by name, such as arrays(image=images, label=labels)")
    found = {name: np.asarray(array) for name, array in entries.items()}
    for name, array in found.items():
        found[name] = _CHECKS.get(name, functools.partial(_checked_numbers, name))(array)
    _check_sizes(found)
    found |= _checked_objects(found)
    classes = {name: found[name] for name in ("label", "mask", "classes") if name in found}
    if not classes:
        if class_names is not None or num_classes is not None:
            raise ValueError(
                f"class names need an entry 'label', 'mask' or 'classes', got only {', '.join(map(repr, found))}"
            )
        return Arrays(found)
    names = _checked_class_names(classes, class_names, num_classes)
    for name, values in classes.items():
        check_classes(name, values, names)
        found[name] = values.astype(np.uint8 if name == "mask" and len(names) <= IGNORED else np.int32, copy=False)
    return Arrays(found, names)


def check_counts(images: np.ndarray, labels: np.ndarray) -> None:
    """Refuses labels and images of different numbers.

    Args:
      images: with the examples as the first axis.
      labels: with the examples as the first axis.

    Raises:
      ValueError: the numbers differ.
    """
    if len(images) != len(labels):
        raise ValueError(f"expected as many labels as images, got {len(images)} images and {len(labels)} labels")


def _check_sizes(entries: Mapping[str, np.ndarray]) -> None:
    if "image" in entries and "label" in entries:
        check_counts(entries["image"], entries["label"])
    counts = {name: len(array) for name, array in entries.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
        raise ValueError(f"expected as many examples of every entry, got {listed}")
    if "image" in entries and "mask" in entries and entries["image"].shape[:3] != entries["mask"].shape:
        raise ValueError(
            f"masks must be as large as their images, got masks of shape {entries['mask'].shape} for images of shape "
            f"{entries['image'].shape}"
        )


def _checked_pixels(images: np.ndarray) -> np.ndarray:
    """Checks images, and returns them as (examples, height, width, channels): uint8, or float32 in [0, 1]."""
    if images.ndim not in (3, 4):
        raise ValueError(
            "images must have shape (examples, height, width, channels) or (examples, height, width), "
            f"got {images.shape}"
        )
    if images.size == 0:
        raise ValueError(f"images must hold at least one example and one pixel, got shape {images.shape}")
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise TypeError(f"images must be uint8, or floating point in [0, 1], got {images.dtype}")
    low, high = images.min(), images.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(np.argmin(np.isfinite(images).all(axis=(1, 2, 3))))
        raise ValueError(f"images must be finite, but image {bad} holds nan or infinity; repair or remove it")
    if low < 0 or high > 1:
        raise ValueError(
            f"floating point images must be in [0, 1], got values from {low:g} to {high:g}; rescale them, or give uint8"
        )
    return images.astype(np.float32, copy=False)


def _checked_labels(labels: np.ndarray) -> np.ndarray:
    if labels.ndim != 1:
        raise ValueError(
            f"labels must have shape (examples,), got {labels.shape}; give several numbers for an example as target="
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}; cast them, as labels.astype('int32')")
    return labels


def _checked_masks(masks: np.ndarray) -> np.ndarray:
    if masks.ndim != 3:
        raise ValueError(f"masks must have shape (examples, height, width), got {masks.shape}")
    if masks.size == 0:
        raise ValueError(f"masks must hold at least one example and one pixel, got shape {masks.shape}")
    if not np.issubdtype(masks.dtype, np.integer):
        raise TypeError(f"masks must be integers, the class of each pixel, got {masks.dtype}; cast them to uint8")
    return masks


def _checked_objects(entries: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Checks the entries of objects, and returns them with zeros in the slots that are not valid."""
    names = [name for name in (*OBJECTS, "valid") if name in entries]
    if not names:
        return {}
    if missing := {"boxes", "valid"} - set(names):
        raise ValueError(
            f"objects need the entries 'boxes' and 'valid', got {', '.join(map(repr, names))} without "
            f"{', '.join(map(repr, sorted(missing)))}"
        )
    slots = entries["boxes"].shape[:2]
    size = entries["image"].shape[1:3] if "image" in entries else ()
    shapes = {"boxes": (*slots, 4), "masks": (*slots, *size)}
    for name in names:
        kind, expected = {"boxes": ("f", "floating point"), "classes": ("iu", "integers")}.get(name, ("b", "bool"))
        if entries[name].shape != shapes.get(name, slots):
            raise ValueError(f"expected {name!r} of shape {shapes.get(name, slots)}, got {entries[name].shape}")
        if entries[name].dtype.kind not in kind:
            raise TypeError(f"expected {name!r} of {expected}, got {entries[name].dtype}")
    valid = entries["valid"]
    return {
        name: np.where(
            valid.reshape(*slots, *[1] * (entries[name].ndim - 2)), entries[name], entries[name].dtype.type(0)
        )
        for name in names
    }


def _checked_numbers(name: str, numbers: np.ndarray) -> np.ndarray:
    if numbers.ndim == 0 or numbers.size == 0:
        raise ValueError(f"{name!r} must hold a value for each example, got shape {numbers.shape}")
    if numbers.dtype.kind not in "biuf":
        raise TypeError(f"{name!r} must hold numbers, got {numbers.dtype}")
    if numbers.dtype.kind != "f":
        return numbers
    bad = np.argwhere(~np.isfinite(numbers))
    if len(bad):
        raise ValueError(f"{name!r} must be finite, but example {bad[0][0]} holds nan or infinity; repair or remove it")
    return numbers.astype(np.float32, copy=False)


_CHECKS = {"image": _checked_pixels, "label": _checked_labels, "mask": _checked_masks}


def _checked_class_names(
    classes: Mapping[str, np.ndarray], class_names: Sequence[str] | None, num_classes: int | None
) -> tuple[str, ...]:
    """Returns the names of the classes: from `class_names`, `num_classes`, or the labels and masks."""
    if class_names is not None:
        if num_classes is not None:
            raise ValueError("give class_names or num_classes, not both")
        if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names):
            raise TypeError(f"class_names must be a sequence of strings, got {class_names!r}")
        if len(set(class_names)) != len(class_names):
            raise ValueError(f"class_names must all be different, got {tuple(class_names)}")
        return tuple(class_names)
    if num_classes is None:
        present = np.unique(np.concatenate([np.unique(values).astype(np.int64) for values in classes.values()]))
        if "mask" in classes:
            present = present[present != IGNORED]
        num_classes = len(present)
        if num_classes == 0:
            raise ValueError(f"cannot count the classes: every pixel of the masks is {IGNORED}, which is no class")
        if present[0] != 0 or present[-1] != num_classes - 1:
            raise ValueError(
                f"cannot count the classes: {num_classes} different labels lie between {present[0]} and "
                f"{present[-1]}; number them 0 to {num_classes - 1}, or give class_names or num_classes"
            )
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    return tuple(str(label) for label in range(num_classes))
