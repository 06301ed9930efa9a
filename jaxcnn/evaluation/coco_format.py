"""Annotations and predictions in COCO's format (cocodataset.org, "Data format" and "Results format")."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.data import ObjectFiles, Resized, Source, Subset
from jaxcnn.data.objects import pad_objects
from jaxcnn.data.pictures import FitPicture, Placement
from jaxcnn.data.sources.object_files import encoded, mask_tools
from jaxcnn.data.splits import Renumbered


class _Origin(NamedTuple):
    """Where an example comes from: a source of pictures of their own size, its number there, and how it was fitted."""

    source: Source
    number: int
    fit: FitPicture | None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture."""
        if isinstance(self.source, ObjectFiles):
            return self.source.size(self.number)
        spec: Any = self.source.spec["image"].shape
        return spec[:2] if None not in spec[:2] else self.source[self.number]["image"].shape[:2]

    @property
    def placement(self) -> Placement | None:
        return None if self.fit is None else self.fit.placement(*self.size)


def coco_annotations(source: Source, *, masks: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Writes the objects of a source as annotations of COCO.

    They are those of the pictures as they were before `resized`: the ranges of sizes in COCO's AP are of their pixels.
    Annotations are numbered from 1, since pycocotools never matches the id 0. Images and categories have the ids of the
    file, if there is one, and otherwise 1, 2, ... . Areas are those of the file; otherwise of the mask, or of the box.

    Args:
      source: examples with objects; also a `Subset` of some, or `Resized`.
      masks: write "segmentation" too, as compressed run lengths.

    Returns:
      The lists "images", "annotations" and "categories". An annotation of a difficult object also has "difficult".

    Raises:
      ValueError: the examples have no objects, or no masks.
      ImportError: masks are written, and faster-coco-eval is not installed.
    """
    _check_source(source, masks)
    keys = _class_keys(source)
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": key, "name": name} for key, name in zip(keys, source.class_names, strict=True)],
    }
    for place, origin in enumerate(_origins(source)):
        height, width = origin.size
        key = _image_key(origin, place)
        content["images"].append({"id": key, "height": height, "width": width, "file_name": _file_name(origin, place)})
        for entry in _objects(origin, masks):
            name = entry.pop("class")
            if name not in source.class_names:
                continue
            number = source.class_names.index(name)
            own = {"id": len(content["annotations"]) + 1, "image_id": key, "category_id": keys[number]}
            content["annotations"].append(own | entry)
    return content


def coco_results(source: Source, predictions: Mapping[str, Any], *, start: int | None = None) -> list[dict[str, Any]]:
    """Writes predictions as results of COCO.

    Args:
      source: the examples that were predicted, in their order.
      predictions: "boxes", shape (examples, slots, 4), edges (left, top, right, bottom) in pixels of the examples;
        "scores" and "classes", shape (examples, slots); optionally "valid", bool, of this shape, and "masks", bool,
        shape (examples, slots, height, width). Boxes and masks go back to the pictures as they were before `resized`.
      start: the number of the first example, if the predictions are those of a batch; None for all examples.

    Returns:
      One entry for each valid slot: "image_id", "category_id", "bbox", "score" and, with masks, "segmentation".

    Raises:
      ValueError: an array has another shape, a class is out of range, or a number is not finite.
      ImportError: there are masks, and faster-coco-eval is not installed.
    """
    count = len(source) if start is None else min(len(source) - start, len(np.asarray(predictions.get("scores", ()))))
    arrays = _checked_predictions(source, predictions, count)
    keys, results = _class_keys(source), []
    for row in range(count):
        place = (start or 0) + row
        origin, there = _origin(source, place), arrays["valid"][row]
        boxes, placement = arrays["boxes"][row][there], origin.placement
        boxes = boxes if placement is None else placement.original_boxes(boxes)
        entries = [
            {
                "image_id": _image_key(origin, place),
                "category_id": keys[number],
                "bbox": corner_form(box),
                "score": float(score),
            }
            for box, score, number in zip(
                boxes, arrays["scores"][row][there], arrays["classes"][row][there].tolist(), strict=True
            )
        ]
        if "masks" in arrays:
            masks = arrays["masks"][row][there]
            masks = masks if placement is None else placement.original_masks(masks)
            for entry, mask in zip(entries, masks, strict=True):
                entry["segmentation"] = run_lengths(mask)
        results += entries
    return results


def original_image(source: Source, index: int) -> np.ndarray:
    """Reads the picture of an example as it was before `resized`: the boxes of `coco_annotations` are of its pixels.

    Args:
      source: examples with objects, as for `coco_annotations`.
      index: of the example.

    Returns:
      The image, uint8 or floating point in [0, 1], shape (height, width, channels).
    """
    origin = _origin(source, index)
    return origin.source[origin.number]["image"]


def coco_predictions(source: Source, results: Sequence[Mapping[str, Any]], slots: int = 100) -> dict[str, np.ndarray]:
    """Reads boxes from results of COCO, the inverse of `coco_results`.

    Args:
      source: the examples.
      results: as of `coco_results`, for the same source; in any order.
      slots: number of slots for the predictions of an example.

    Returns:
      "boxes", "scores", "classes" and "valid", as `coco_results` takes them; those of an image by falling score.

    Raises:
      ValueError: a result has an unknown image or category, or an image has more results than slots.
    """
    keys = {key: number for number, key in enumerate(_class_keys(source))}
    origins = list(_origins(source))
    places = {_image_key(origin, place): place for place, origin in enumerate(origins)}
    own: list[list[Mapping[str, Any]]] = [[] for _ in origins]
    for i, result in enumerate(results):
        if result["image_id"] not in places or result["category_id"] not in keys:
            raise ValueError(
                "expected results for the images and categories of the source, got image_id "
                f"{result['image_id']!r} and category_id {result['category_id']!r} in result {i}"
            )
        own[places[result["image_id"]]].append(result)
    examples = []
    for origin, found in zip(origins, own, strict=True):
        found = sorted(found, key=lambda one: -one["score"])
        boxes = np.array([one["bbox"] for one in found], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        placement = origin.placement
        entries = {
            "boxes": boxes if placement is None else placement.boxes(boxes),
            "scores": np.array([one["score"] for one in found], np.float32),
            "classes": np.array([keys[one["category_id"]] for one in found], np.int32),
        }
        examples.append(pad_objects(entries, slots, f"image {found[0]['image_id']!r}" if found else "an image"))
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def _check_source(source: Source, masks: bool) -> None:
    names = ["boxes", "classes", "valid", *(["masks"] if masks else [])]
    if missing := [name for name in names if name not in source.spec]:
        raise ValueError(
            f"expected examples with {', '.join(map(repr, names))}, got {', '.join(map(repr, source.spec))}, without "
            f"{', '.join(map(repr, missing))}"
        )


def _origins(source: Source) -> Iterator[_Origin]:
    return (_origin(source, index) for index in range(len(source)))


def _origin(source: Source, index: int) -> _Origin:
    match source:
        case Subset():
            return _origin(source.source, int(source.indices[index]))
        case Renumbered():
            return _origin(source.source, index)
        case Resized():
            return _origin(source.source, index)._replace(fit=source.preprocessing)
    return _Origin(source, index, None)


def _class_keys(source: Source) -> list[Any]:
    """Returns the ids of the categories, in the order of the classes of the source."""
    origin = _origin(source, 0).source
    if not isinstance(origin, ObjectFiles) or origin.class_keys == tuple(range(len(origin.class_names))):
        return list(range(1, len(source.class_names) + 1))
    return [origin.class_keys[origin.class_names.index(name)] for name in source.class_names]


def _image_key(origin: _Origin, place: int) -> Any:
    return origin.source.keys[origin.number] if isinstance(origin.source, ObjectFiles) else place + 1


def _file_name(origin: _Origin, place: int) -> str:
    return origin.source.pictures.names[origin.number] if isinstance(origin.source, ObjectFiles) else f"{place + 1}"


def _objects(origin: _Origin, masks: bool) -> Iterator[dict[str, Any]]:
    """Yields the objects of a picture, with the names of their classes."""
    source = origin.source
    if isinstance(source, ObjectFiles):
        table, there = source.objects, source.objects.of(origin.number)
        names = [name for name in ("crowd", "difficult") if name in table.flags]
        found = {"boxes": table.boxes, "classes": table.classes, "areas": table.areas, **table.flags}
        found = {name: array[there] for name, array in found.items()}
        outlines = [encoded(outline, origin.size) for outline in table.outlines[there]] if masks else []
    else:
        example = source[origin.number]
        names = [name for name in ("crowd", "difficult") if name in example]
        entries = ["boxes", "classes", *names, *(["masks"] if "masks" in example else [])]
        found = {name: np.asarray(example[name])[example["valid"]] for name in entries}
        sides = found["boxes"][:, 2:] - found["boxes"][:, :2]
        found["areas"] = found["masks"].sum((1, 2)) if "masks" in found else sides.prod(1)
        outlines = [run_lengths(mask) for mask in found["masks"]] if masks else []
    for row, number in enumerate(found["classes"].tolist()):
        entry = {
            "class": source.class_names[number],
            "bbox": corner_form(found["boxes"][row]),
            "area": float(found["areas"][row]),
            "iscrowd": int(found["crowd"][row]) if "crowd" in names else 0,
        }
        if "difficult" in names:
            entry["difficult"] = int(found["difficult"][row])
        if masks:
            entry["segmentation"] = _text(outlines[row])
        yield entry


def corner_form(box: np.ndarray) -> list[float]:
    """Returns a box as COCO has it, (x, y, width, height).

    Args:
      box: edges (left, top, right, bottom).
    """
    left, top, right, bottom = (float(edge) for edge in box)
    return [left, top, right - left, bottom - top]


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Returns a mask as COCO's compressed run lengths, with text that JSON can hold.

    Args:
      mask: bool, shape (height, width).

    Raises:
      ImportError: faster-coco-eval is not installed.
    """
    return _text(mask_tools().encode(np.asfortranarray(mask, np.uint8)))


def mask_from_run_lengths(run_lengths: Mapping[str, Any]) -> np.ndarray:
    """Returns the mask of compressed run lengths, the inverse of `run_lengths`: bool, shape (height, width).

    Args:
      run_lengths: "size" and "counts", such as the "segmentation" of a result.

    Raises:
      ImportError: faster-coco-eval is not installed.
    """
    return mask_tools().decode(dict(run_lengths)).astype(bool)


def _text(run_lengths: Mapping[str, Any]) -> dict[str, Any]:
    """Returns run lengths as JSON can hold them."""
    counts = run_lengths["counts"]
    return {"size": list(run_lengths["size"]), "counts": counts.decode() if isinstance(counts, bytes) else counts}


def _checked_predictions(source: Source, predictions: Mapping[str, Any], count: int) -> dict[str, np.ndarray]:
    missing = [name for name in ("boxes", "scores", "classes") if name not in predictions]
    if missing:
        raise ValueError(f"expected predictions with 'boxes', 'scores' and 'classes', got {list(predictions)}")
    arrays = {name: np.asarray(value) for name, value in predictions.items()}
    slots = arrays["scores"].shape[1:2]
    arrays.setdefault("valid", np.ones((count, *slots), bool))
    expected = {
        "boxes": (count, *slots, 4),
        "masks": (count, *slots, *arrays.get("masks", arrays["boxes"]).shape[2:]),
    }
    for name in ("boxes", "scores", "classes", "valid", "masks"):
        shape = expected.get(name, (count, *slots))
        if name in arrays and arrays[name].shape != shape:
            raise ValueError(f"expected {name!r} of shape {shape}, for the {count} examples, got {arrays[name].shape}")
    there = arrays["valid"]
    classes = arrays["classes"][there]
    if len(classes) and not (classes.min() >= 0 and classes.max() < len(source.class_names)):
        raise ValueError(f"expected classes in [0, {len(source.class_names)}), got {classes.min()} to {classes.max()}")
    for name in ("boxes", "scores"):
        if not np.isfinite(arrays[name][there]).all():
            raise ValueError(f"expected finite {name}, got nan or infinity")
    return arrays
