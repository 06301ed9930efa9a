"""Looks through a data set: counts, sizes, moments, and what is likely to be wrong with it."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.data.pictures import resize_picture
from jaxcnn.data.sources.source import Source, Splits, Subset, checksum, gather

_IMBALANCE = 10
"""How many times larger than the smallest class the largest may be without a warning."""

_NEAR = 3
"""Bits of 64 in which the hashes of two pictures that look alike may differ."""

_FLAT = 8
"""Grey levels between the darkest and the brightest part of a picture, below which its hash says nothing."""

_CHUNK, _AHEAD = 64, 16
"""Images in a piece of work, and pieces that are worked on at once."""

_LISTED = 5
"""Names that a warning lists."""


class Place(NamedTuple):
    """An example: its part, its number there, and its name."""

    part: str
    number: int
    name: str


class ObjectSurvey(NamedTuple):
    """The objects of one part of a data set.

    Attributes:
      images: numbers of images with 0, 1, 2, ... objects.
      sizes: smallest, median and largest (height, width) of their boxes, by area, in pixels; empty without objects.
      crowds: how many of them are crowds.
      difficult: how many of them are difficult.
    """

    images: tuple[int, ...]
    sizes: tuple[tuple[float, float], ...]
    crowds: int
    difficult: int


class PartSurvey(NamedTuple):
    """What one part of a data set holds.

    Attributes:
      examples: number of examples.
      surveyed: number of examples whose pixels were read.
      counts: examples of each class by name, pixels for masks, or objects for boxes; empty without classes.
      sizes: smallest, median and largest (height, width).
      mean: of each channel, of pixels in [0, 1].
      std: of each channel.
      target: smallest value, mean and largest value of each number to predict; empty without "target".
      objects: the objects; None without "boxes".
    """

    examples: int
    surveyed: int
    counts: dict[str, int]
    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    target: tuple[tuple[float, float, float], ...]
    objects: ObjectSurvey | None = None


class Survey(NamedTuple):
    """What a data set holds.

    Attributes:
      parts: by name.
      same: groups of examples with the same pixels.
      alike: pairs of examples of "train" and another part that look alike, without those in `same`.
      faults: one line for each file that cannot be read.
      warnings: what is likely to be wrong, one line each.
    """

    parts: dict[str, PartSurvey]
    same: tuple[tuple[Place, ...], ...]
    alike: tuple[tuple[Place, Place], ...]
    faults: tuple[str, ...]
    warnings: tuple[str, ...]


class _Looks(NamedTuple):
    """What was seen of examples, as arrays with the examples as their first axis."""

    indices: np.ndarray
    sizes: np.ndarray
    totals: np.ndarray
    squares: np.ndarray
    digests: list[str]
    hashes: np.ndarray
    flat: np.ndarray
    pixels: np.ndarray


def survey(
    source: Source | Splits,
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], Any] | None = None,
) -> Survey:
    """Looks through a data set.

    Each image is read once, in threads. Two images are the same if all their pixels are equal, and alike if their
    difference hashes (8 x 8 bits: is a part of the grey picture, scaled to 8 x 9 pixels, brighter than its neighbour?)
    differ in at most 3 bits. Only images of "train" and another part are compared for that.

    Args:
      source: examples with images, or parts of them by name.
      limit: the largest number of images that are read of each part, drawn at random. None: all of them.
      seed: random seed of that choice.
      progress: is told the numbers of images that were read, and that will be.

    Returns:
      What the data hold.

    Raises:
      ValueError: the examples have no images, or `limit` is below 1.
      PictureError: an image cannot be read.
    """
    parts = dict(source) if isinstance(source, Mapping) else {"train": source}
    if limit is not None and limit < 1:
        raise ValueError(f"survey expects limit of at least 1, got {limit}")
    for part in parts.values():
        if "image" not in part.spec:
            raise ValueError(f"survey expects examples with 'image', got {', '.join(map(repr, part.spec))}")
    chosen = {name: np.sort(np.random.default_rng(seed).permutation(len(part))[:limit]) for name, part in parts.items()}
    total, done = sum(map(len, chosen.values())), 0
    looks = {}
    for name, part in parts.items():
        pieces = []
        for piece in _looked(part, chosen[name]):
            pieces.append(piece)
            done += len(piece.indices)
            if progress is not None:
                progress(done, total)
        looks[name] = _joined(pieces)
    found = {name: _part_survey(part, looks[name]) for name, part in parts.items()}
    same = _same(parts, looks)
    alike = _alike(parts, looks, same)
    # The parts of one folder or table may tell the same.
    faults = tuple(dict.fromkeys(fault for part in parts.values() for fault in getattr(part, "faults", ())))
    return Survey(found, same, alike, faults, tuple(_warnings(parts, found, same, alike, faults)))


def _looked(source: Source, indices: np.ndarray) -> Iterator[_Looks]:
    """Looks at examples, in pieces."""
    pieces = [indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)]
    with ThreadPoolExecutor() as pool:
        # A few pieces ahead, so that memory stays flat.
        for start in range(0, len(pieces), _AHEAD):
            yield from pool.map(lambda piece: _look(source, piece), pieces[start : start + _AHEAD])


def _look(source: Source, indices: np.ndarray) -> _Looks:
    num_classes = len(source.class_names) if "mask" in source.spec else 0
    rows = []
    for index in indices:
        example = source[int(index)]
        image = np.asarray(example["image"])
        scale = 255.0 if image.dtype == np.uint8 else 1.0
        levels = image.reshape(-1, image.shape[2]).astype(np.float64) / scale
        small = resize_picture(image if image.dtype == np.uint8 else image.astype(np.float32), (8, 9))
        grey = small.astype(np.float32).mean(axis=2) * (255 / scale)
        bits = np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes()
        mask = np.asarray(example["mask"]).ravel() if num_classes else np.zeros(0, int)
        rows.append(
            (
                image.shape[:2],
                levels.sum(0),
                (levels**2).sum(0),
                checksum(image),
                int.from_bytes(bits, "big"),
                np.ptp(grey) < _FLAT,
                np.bincount(mask[mask < num_classes], minlength=num_classes),
            )
        )
    sizes, totals, squares, digests, hashes, flat, pixels = zip(*rows, strict=True)
    return _Looks(
        indices,
        np.array(sizes),
        np.array(totals),
        np.array(squares),
        list(digests),
        np.array(hashes, np.uint64),
        np.array(flat),
        np.array(pixels),
    )


def _joined(pieces: Sequence[_Looks]) -> _Looks:
    whole: Any = (
        list(itertools.chain(*column)) if isinstance(column[0], list) else np.concatenate(column)
        for column in zip(*pieces, strict=True)
    )
    return _Looks(*whole)


def _part_survey(source: Source, looks: _Looks) -> PartSurvey:
    pixels = looks.sizes.prod(axis=1).sum()
    mean = looks.totals.sum(0) / pixels
    std = np.sqrt(np.maximum(looks.squares.sum(0) / pixels - mean**2, 0))
    low, middle, high = (tuple(map(int, size)) for size in _by_area(looks.sizes))
    return PartSurvey(
        len(source),
        len(looks.indices),
        _counts(source, looks),
        (low, middle, high),  # pyright: ignore[reportArgumentType]
        tuple(map(float, mean)),
        tuple(map(float, std)),
        _targets(source),
        _objects(source) if "boxes" in source.spec else None,
    )


def _by_area(sizes: np.ndarray) -> np.ndarray:
    """Returns the smallest, median and largest of sizes that there are, shape (3, 2)."""
    order = np.lexsort((sizes[:, 1], sizes.prod(axis=1)))
    return sizes[order[[0, len(order) // 2, -1]]]


def _objects(source: Source) -> ObjectSurvey:
    flags = [name for name in ("crowd", "difficult") if name in source.spec]
    found = gather(source, np.arange(len(source)), ["boxes", "valid", *flags])
    boxes = found["boxes"][found["valid"]]
    sizes = _by_area((boxes[:, 2:] - boxes[:, :2])[:, ::-1]).tolist() if len(boxes) else []
    return ObjectSurvey(
        tuple(np.bincount(found["valid"].sum(1)).tolist()),
        tuple((height, width) for height, width in sizes),
        *(int(found[name].sum()) if name in flags else 0 for name in ("crowd", "difficult")),
    )


def _counts(source: Source, looks: _Looks) -> dict[str, int]:
    if "mask" in source.spec:
        counts = looks.pixels.sum(0)
    elif "label" in source.spec:
        labels = gather(source, np.arange(len(source)), ["label"])["label"]
        counts = labels.sum(0) if labels.ndim > 1 else np.bincount(labels, minlength=len(source.class_names))
    elif "classes" in source.spec:
        found = gather(source, np.arange(len(source)), ["classes", "valid"])
        counts = np.bincount(found["classes"][found["valid"]], minlength=len(source.class_names))
    else:
        return {}
    return dict(zip(source.class_names, map(int, counts), strict=True))


def _targets(source: Source) -> tuple[tuple[float, float, float], ...]:
    if "target" not in source.spec:
        return ()
    values = gather(source, np.arange(len(source)), ["target"])["target"].reshape(len(source), -1)
    return tuple((float(column.min()), float(column.mean()), float(column.max())) for column in values.T)


def _same(parts: Splits, looks: Mapping[str, _Looks]) -> tuple[tuple[Place, ...], ...]:
    groups: dict[str, list[tuple[str, int]]] = {}
    for name, look in looks.items():
        for index, digest in zip(look.indices.tolist(), look.digests, strict=True):
            groups.setdefault(digest, []).append((name, index))
    return tuple(
        tuple(_place(parts, part, index) for part, index in group) for group in groups.values() if len(group) > 1
    )


def _alike(
    parts: Splits, looks: Mapping[str, _Looks], same: Sequence[Sequence[Place]]
) -> tuple[tuple[Place, Place], ...]:
    groups = {(place.part, place.number): which for which, group in enumerate(same) for place in group}
    train = looks.get("train")
    pairs = []
    for name, look in looks.items():
        if name == "train" or train is None:
            continue
        for other in np.flatnonzero(~look.flat):
            near = np.bitwise_count(train.hashes ^ look.hashes[other]) <= _NEAR
            for own in np.flatnonzero(near & ~train.flat):
                first, second = ("train", int(train.indices[own])), (name, int(look.indices[other]))
                if groups.get(first, -1) != groups.get(second, -2):
                    pairs.append((_place(parts, *first), _place(parts, *second)))
    return tuple(pairs)


def _place(parts: Splits, part: str, index: int) -> Place:
    return Place(part, index, _name(parts[part], index) or f"{part}[{index}]")


def _name(source: Source, index: int) -> str:
    """Returns the path of the file of an example, or ""."""
    if isinstance(source, Subset):
        return _name(source.source, int(source.indices[index]))
    path = getattr(source, "path", None)
    return str(path(index)) if callable(path) else ""


def _warnings(
    parts: Splits,
    found: Mapping[str, PartSurvey],
    same: Sequence[Sequence[Place]],
    alike: Sequence[tuple[Place, Place]],
    faults: Sequence[str],
) -> Iterator[str]:
    if faults:
        yield f"{_counted(len(faults), 'file')} cannot be read as a picture, such as: {faults[0]}"
    names = next(iter(parts.values())).class_names
    spellings: dict[str, list[str]] = {}
    for name in names:
        # "-1" and "1" are two classes.
        key = name if name.lstrip("+-").replace(".", "", 1).isdigit() else "".join(filter(str.isalnum, name.casefold()))
        spellings.setdefault(key, []).append(name)
    for key, group in spellings.items():
        if len(group) > 1 and key:
            yield f"the classes {' and '.join(map(repr, group))} seem to be one class in several spellings"
    for name, part in found.items():
        missing = [class_name for class_name, count in part.counts.items() if not count]
        if missing:
            yield f"no example of {_listed(list(map(repr, missing)))} in {name}"
        empty = part.objects.images[0] if part.objects else 0
        if part.objects and empty == part.examples:
            yield f"no image of {name} has an object"
    train = found.get("train", next(iter(found.values())))
    counts = {name: count for name, count in train.counts.items() if count}
    if counts and (most := max(counts, key=counts.__getitem__)) != (least := min(counts, key=counts.__getitem__)):
        ratio = counts[most] / counts[least]
        if ratio > _IMBALANCE:
            yield f"the class {most!r} is {ratio:,.0f} times as frequent as {least!r}; look at more than the accuracy"
    yield from _duplicates(parts, same, alike)


def _duplicates(parts: Splits, same: Sequence[Sequence[Place]], alike: Sequence[tuple[Place, Place]]) -> Iterator[str]:
    across = [group for group in same if len({place.part for place in group}) > 1]
    if across:
        yield (
            f"{_counted(len(across), 'picture')} in more than one part, so that the test is too easy, such as "
            f"{_listed([place.name for place in across[0]])}"
        )
    within = [group for group in same if len({place.part for place in group}) == 1]
    if within:
        yield (
            f"{_counted(len(within), 'picture')} several times, such as {_listed([place.name for place in within[0]])}"
        )
    contrary = [group for group in same if len({_label(parts, place) for place in group}) > 1]
    if contrary:
        yield (
            f"{_counted(len(contrary), 'picture')} with different labels, such as "
            f"{_listed([place.name for place in contrary[0]])}"
        )
    if alike:
        yield (
            f"{_counted(len(alike), 'pair')} of pictures in train and another part that look alike, such as "
            f"{alike[0][0].name} and {alike[0][1].name}"
        )


def _label(parts: Splits, place: Place) -> bytes:
    """Returns the label or the target of an example as bytes."""
    source = parts[place.part]
    names = [name for name in ("label", "target") if name in source.spec]
    values = gather(source, np.array([place.number]), names) if names else {}
    return b"".join(np.asarray(value).tobytes() for value in values.values())


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
