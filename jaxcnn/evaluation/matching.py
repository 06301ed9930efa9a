"""Detections and objects of the same images, matched by their overlap."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Table(NamedTuple):
    """Annotations and results with ids of their own: images, categories and annotations are numbered from 1.

    Attributes:
      annotations: in COCO's format.
      results: in COCO's format.
      class_names: of the categories, by their number.
    """

    annotations: dict[str, list[dict[str, Any]]]
    results: list[dict[str, Any]]
    class_names: tuple[str, ...]


class Picture(NamedTuple):
    """The objects and detections of an image, boxes as edges (left, top, right, bottom) and classes from 0.

    Attributes:
      boxes: of the objects, shape (objects, 4).
      classes: of the objects, shape (objects,).
      ignored: whether the object neither counts nor costs, as a crowd, or a difficult one of VOC; shape (objects,).
      crowd: whether it is a crowd, shape (objects,).
      found: boxes of the detections, by falling score, shape (detections, 4).
      found_classes: shape (detections,).
      scores: shape (detections,).
    """

    boxes: np.ndarray
    classes: np.ndarray
    ignored: np.ndarray
    crowd: np.ndarray
    found: np.ndarray
    found_classes: np.ndarray
    scores: np.ndarray


def indexed(annotations: Mapping[str, Any], results: Sequence[Mapping[str, Any]], entry: str = "bbox") -> Table:
    """Numbers annotations and results anew, after checking them.

    Args:
      annotations: in COCO's format.
      results: in COCO's format.
      entry: what is compared: "bbox" or "segmentation".

    Returns:
      The table; categories in the order of their ids.

    Raises:
      ValueError: something lacks an entry, or has an unknown image or category.
    """
    missing = [name for name in ("images", "annotations", "categories") if name not in annotations]
    if missing:
        raise ValueError(f"expected annotations with 'images', 'annotations' and 'categories', got no {missing[0]!r}")
    images = {one["id"]: number for number, one in enumerate(annotations["images"], start=1)}
    ordered = sorted(annotations["categories"], key=lambda one: one["id"])
    categories = {one["id"]: number for number, one in enumerate(ordered, start=1)}

    def renumbered(kind: str, i: int, one: Mapping[str, Any], *needed: str) -> dict[str, Any]:
        for name in ("image_id", "category_id", *needed):
            if name not in one:
                raise ValueError(f"expected {name!r} in every {kind}, got none in {kind} {i}: {sorted(one)}")
        for name, known in (("image_id", images), ("category_id", categories)):
            if one[name] not in known:
                first = next(iter(known), None)
                raise ValueError(
                    f"expected the {name} of an image or category of the annotations, such as {first!r}, got "
                    f"{one[name]!r} in {kind} {i}"
                )
        return {**one, "image_id": images[one["image_id"]], "category_id": categories[one["category_id"]]}

    truth = []
    for i, one in enumerate(annotations["annotations"]):
        own = renumbered("annotation", i, one, entry) | {"id": i + 1, "iscrowd": int(bool(one.get("iscrowd", 0)))}
        own.setdefault("area", float(np.prod(one["bbox"][2:])) if "bbox" in one else 0.0)
        truth.append(own)
    found = [renumbered("result", i, one, entry, "score") for i, one in enumerate(results)]
    if entry == "segmentation":
        # With boxes, faster-coco-eval would compute areas from them.
        found = [{name: value for name, value in one.items() if name != "bbox"} for one in found]
    content = {
        "images": [{**one, "id": images[one["id"]]} for one in annotations["images"]],
        "annotations": truth,
        "categories": [{**one, "id": categories[one["id"]]} for one in ordered],
    }
    return Table(content, found, tuple(one["name"] for one in ordered))


def pictures(table: Table) -> Iterator[Picture]:
    """Yields the objects and detections of each image.

    Args:
      table: annotations and results.
    """
    truth: list[list[dict[str, Any]]] = [[] for _ in table.annotations["images"]]
    found: list[list[dict[str, Any]]] = [[] for _ in table.annotations["images"]]
    for one in table.annotations["annotations"]:
        truth[one["image_id"] - 1].append(one)
    for one in table.results:
        found[one["image_id"] - 1].append(one)
    for objects, detections in zip(truth, found, strict=True):
        detections = sorted(detections, key=lambda one: -one["score"])
        crowd = np.array([one["iscrowd"] for one in objects], bool)
        yield Picture(
            _edges(objects),
            np.array([one["category_id"] - 1 for one in objects], np.int64),
            crowd | np.array([one.get("difficult", 0) for one in objects], bool),
            crowd,
            _edges(detections),
            np.array([one["category_id"] - 1 for one in detections], np.int64),
            np.array([one["score"] for one in detections], np.float64),
        )


def overlaps(picture: Picture) -> np.ndarray:
    """Computes intersection over union, or over the area of the detection for crowds.

    Args:
      picture: objects and detections.

    Returns:
      Shape (detections, objects), float64; boxes have no +1 in their sides.
    """
    found, boxes = picture.found[:, None], picture.boxes[None]
    sides = np.minimum(found[..., 2:], boxes[..., 2:]) - np.maximum(found[..., :2], boxes[..., :2])
    shared = np.maximum(sides, 0).prod(-1)
    own, others = ((each[..., 2:] - each[..., :2]).prod(-1) for each in (found, boxes))
    whole = np.where(picture.crowd, own, own + others - shared)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def detection_confusion(
    annotations: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    overlap: float = 0.5,
    score: float = 0.25,
) -> np.ndarray:
    """Counts which classes are taken for which, which objects are missed, and which detections are spurious.

    In each image, pairs of an object and a detection of any class are matched by falling overlap, each once. Crowds and
    difficult objects do not count, nor do detections that are left and overlap one of them.

    Args:
      annotations: in COCO's format, such as those of `coco_annotations`.
      results: in COCO's format, such as those of `coco_results`.
      overlap: least intersection over union of a pair, in (0, 1].
      score: least score of a detection.

    Returns:
      Shape (classes + 1, classes + 1), int64: rows are the classes of the objects and then "none", the spurious
      detections; columns the detected classes and then "none", the missed objects. Classes are in the order of their
      ids.

    Raises:
      ValueError: a result has an unknown image or category, or lacks an entry; or `overlap` is out of range.
    """
    _check_overlap("detection_confusion", overlap)
    table = indexed(annotations, [one for one in results if one.get("score", score) >= score])
    none = len(table.class_names)
    counts = np.zeros((none + 1, none + 1), np.int64)
    for picture in pictures(table):
        found = _paired(picture, overlap)
        detections, things = found.pairs.T
        np.add.at(counts, (picture.classes[things], picture.found_classes[detections]), 1)
        counts[:, none] += np.bincount(picture.classes[found.missed], minlength=none + 1)
        counts[none] += np.bincount(picture.found_classes[found.spurious], minlength=none + 1)
    return counts


class DetectionMistakes(NamedTuple):
    """What is wrong with the detections of an image.

    Attributes:
      image: its number in the annotations, from 0.
      picture: its objects and its detections.
      missed: whether an object is not found, not even as another class; shape (objects,).
      confused: whether a detection finds an object of another class, shape (detections,).
      spurious: whether a detection finds no object, shape (detections,).
      cost: 1 for each missed object, and the score of each other mistake.
    """

    image: int
    picture: Picture
    missed: np.ndarray
    confused: np.ndarray
    spurious: np.ndarray
    cost: float


def detection_mistakes(
    annotations: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    overlap: float = 0.5,
    score: float = 0.25,
) -> list[DetectionMistakes]:
    """Finds the images with mistakes, the worst first: that of the largest cost.

    Objects and detections are matched as in `detection_confusion`.

    Args:
      annotations: in COCO's format, such as those of `coco_annotations`.
      results: in COCO's format, such as those of `coco_results`.
      overlap: least intersection over union of a pair, in (0, 1].
      score: least score of a detection.

    Returns:
      One entry for each image with a mistake.

    Raises:
      ValueError: a result has an unknown image or category, or lacks an entry; or `overlap` is out of range.
    """
    _check_overlap("detection_mistakes", overlap)
    table = indexed(annotations, [one for one in results if one.get("score", score) >= score])
    mistakes = []
    for image, picture in enumerate(pictures(table)):
        found = _paired(picture, overlap)
        detections, things = found.pairs.T
        confused = np.zeros(len(picture.found), bool)
        confused[detections] = picture.found_classes[detections] != picture.classes[things]
        cost = found.missed.sum() + picture.scores[confused | found.spurious].sum()
        if found.missed.any() or confused.any() or found.spurious.any():
            mistakes.append(DetectionMistakes(image, picture, found.missed, confused, found.spurious, float(cost)))
    return sorted(mistakes, key=lambda one: -one.cost)


class _Paired(NamedTuple):
    """Pairs (detection, object) of any class, and what is left."""

    pairs: np.ndarray
    missed: np.ndarray
    spurious: np.ndarray


def _paired(picture: Picture, overlap: float) -> _Paired:
    """Matches detections and objects by falling overlap, each once."""
    shares = overlaps(picture)
    candidates = np.argwhere((shares >= overlap) & ~picture.ignored)
    spurious = np.ones(len(picture.found), bool)
    missed = ~picture.ignored
    pairs = []
    for detection, thing in candidates[np.argsort(-shares[tuple(candidates.T)], kind="stable")]:
        if spurious[detection] and missed[thing]:
            spurious[detection] = missed[thing] = False
            pairs.append((detection, thing))
    spurious &= ~(shares[:, picture.ignored] >= overlap).any(1)
    return _Paired(np.array(pairs, np.int64).reshape(-1, 2), missed, spurious)


def _check_overlap(function: str, overlap: float) -> None:
    if not 0 < overlap <= 1:
        raise ValueError(f"{function} expects overlap in (0, 1], got {overlap}")


def _edges(entries: Sequence[Mapping[str, Any]]) -> np.ndarray:
    boxes = np.array([one["bbox"] for one in entries], np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
