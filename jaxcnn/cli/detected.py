"""What a detector finds in a whole set, in COCO's format, with its figures and pictures."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from jaxcnn import data, evaluation, plots
from jaxcnn.cli.terminal import columns, shown
from jaxcnn.data import Source, prefetch
from jaxcnn.data.pictures import FitPicture, Placement
from jaxcnn.evaluation import CocoFigures, DetectionMistakes, VocFigures
from jaxcnn.evaluation.coco_format import mask_from_run_lengths
from jaxcnn.tables import Table
from jaxcnn.training import make_predict_step, predict
from jaxcnn.training.trained_model import TrainedModel
from jaxcnn.types import Example

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PLURALS = {"box": "boxes", "mask": "masks"}
"""What is compared, by the kind of the figures."""

CLASS_FIGURES = ("AP", "AP50", "AP75", "AR")
"""COCO's figures of a class."""

_DRAWN = 6
"""Number of images in the pictures of boxes and of mistakes."""

MIN_SCORE = 0.25
"""Least score of the objects of a detector that are drawn, and that `predict` names."""

_LONGEST = 1000
"""Longer side of a photograph that is drawn, in pixels; larger ones are reduced."""


class Detected(NamedTuple):
    """What a detector finds in a set.

    Attributes:
      source: the set.
      annotations: its objects, in COCO's format.
      results: the detections, in COCO's format.
      has_masks: whether both have masks; they need faster-coco-eval.
    """

    source: Source
    annotations: dict[str, list[dict[str, Any]]]
    results: list[dict[str, Any]]
    has_masks: bool

    @property
    def categories(self) -> list[dict[str, Any]]:
        """The categories in the order of their ids, as figures and confusions have them; not that of the source."""
        return sorted(self.annotations["categories"], key=lambda one: one["id"])

    def figures(self) -> dict[str, CocoFigures]:
        """Computes COCO's figures of "box", and of "mask" if there are masks.

        Raises:
          ImportError: faster-coco-eval is not installed.
        """
        kinds: Any = ("box", "mask") if self.has_masks else ("box",)
        return {kind: evaluation.coco_figures(self.annotations, self.results, kind=kind) for kind in kinds}


def detect(run: TrainedModel, source: Source, batch_size: int) -> Detected:
    """Finds the objects in all images of a set, batch by batch.

    Args:
      run: a trained detector.
      source: the set, of images of the size of the run.
      batch_size: number of images in a batch.

    Returns:
      Its objects and the detections.

    Raises:
      ValueError: a box or a score is not finite.
    """
    step = make_predict_step(run.layer, run.info.task, precision=run.info.precision)
    results: list[dict[str, Any]] = []
    has_masks, start = "masks" in source.spec and has_coco_tools(), 0
    height, width, _ = run.info.image_shape
    for batch in _batches(source, min(batch_size, len(source))):
        found = predict(step, run.params, run.state, [batch], prefetch=0)
        has_masks = has_masks and "box_masks" in found
        box_masks = found.pop("box_masks", ())
        if not has_masks:
            results += evaluation.coco_results(source, found, start=start)
        else:
            # One by one: the masks of all objects of a batch may be gigabytes.
            for place, (masks, boxes) in enumerate(zip(box_masks, found["boxes"], strict=True)):
                one = {name: array[place][None] for name, array in found.items()}
                one["masks"] = evaluation.paste_masks(masks, boxes, (height, width))[None]
                results += evaluation.coco_results(source, one, start=start + place)
        start += len(found["scores"])
    return Detected(source, evaluation.coco_annotations(source, masks=has_masks), results, has_masks)


def _batches(source: Source, size: int) -> Iterator[Example]:
    with contextlib.closing(prefetch.ahead(data.eval_batches(source, size), 2)) as batches:
        yield from batches


def draw(found: Detected, coco: Mapping[str, CocoFigures], subtitle: str) -> "dict[str, Figure]":
    """Draws the results of a detector.

    Args:
      found: of `detect`.
      coco: the figures by kind; without "box", and without objects, precision over recall is left out.
      subtitle: names model, data and set.

    Returns:
      Figures by the names of their files: "boxes", the first images; "mistakes"; "confusion"; and "precision_recall",
      that of masks as "mask_precision_recall".
    """
    names, count = tuple(one["name"] for one in found.categories), len(found.source)
    few = range(min(_DRAWN, count))
    views = [_view(found.source, place) for place in few]
    truth, results = _by_image(found, "annotations"), _by_image(found, "results")
    figures = {
        "boxes": plots.detections(
            [view.image for view in views],
            [view.objects(found, results[place], scored=True) for place, view in zip(few, views, strict=True)],
            names,
            objects=[view.objects(found, truth[place], scored=False) for place, view in zip(few, views, strict=True)],
            score=MIN_SCORE,
            subtitle=subtitle,
        ),
        "confusion": plots.detection_confusion(
            evaluation.detection_confusion(found.annotations, found.results), names, subtitle=subtitle
        ),
    }
    mistakes = evaluation.detection_mistakes(found.annotations, found.results)
    worst = {one.image: _view(found.source, one.image) for one in mistakes[:_DRAWN]}
    figures["mistakes"] = plots.detection_mistakes(
        lambda place: worst[place].image,
        [worst[one.image].moved(one) if one.image in worst else one for one in mistakes],
        names,
        count=count,
        limit=_DRAWN,
        subtitle=subtitle,
    )
    for kind, one in coco.items():
        averages = np.array([one.classes[name]["AP50"] for name in names])
        if np.isfinite(averages).any():
            name = "precision_recall" if kind == "box" else f"{kind}_precision_recall"
            figures[name] = plots.precision_recall(
                one.precisions, averages, names, subtitle=f"{subtitle}, masks" if kind == "mask" else subtitle
            )
    return figures


def has_coco_tools() -> bool:
    """Tells whether faster-coco-eval is installed."""
    try:
        evaluation.check_coco_tools()
    except ImportError:
        return False
    return True


def reduced(size: tuple[int, int], channels: int) -> FitPicture:
    """Returns how a photograph is reduced before it is drawn.

    Args:
      size: its (height, width).
      channels: of the image to draw.
    """
    scale = min(_LONGEST / max(size), 1.0)
    height, width = (max(round(scale * side), 1) for side in size)
    return FitPicture((height, width, channels), "stretch")


def tables(coco: Mapping[str, CocoFigures], voc: VocFigures | None, rule: str | None) -> str:
    """Formats figures as tables for the width of the terminal: of all classes, by size and number; and of each class.

    Args:
      coco: the figures by kind.
      voc: VOC's figures, or None.
      rule: that of VOC's figures.

    Returns:
      The lines.
    """
    parts = []
    for letters in ("AP", "AR"):
        figures = [name for name in coco["box"].figures if name.startswith(letters)]
        headings = (f"COCO {letters}", *(name.removeprefix(f"{letters}_") for name in figures))
        rows = [(_PLURALS[kind], *(_share(one.figures[name]) for name in figures)) for kind, one in coco.items()]
        parts.append(Table(headings, rows, [], left=(0,), counts=(), spare=()).text(columns()))
    if voc is not None:
        parts.append(f"VOC {rule} AP {_share(voc.mean)}, at an overlap of 0.5")
    headings = ["class", *(f"{'' if kind == 'box' else 'mask '}{name}" for kind in coco for name in CLASS_FIGURES)]
    headings += [] if voc is None else [f"VOC {rule}"]
    rows = [
        (
            shown(name),
            *(_share(one.classes[name][figure]) for one in coco.values() for figure in CLASS_FIGURES),
            *(() if voc is None else (_share(voc.classes[name]),)),
            f"{figures['objects']:,}",
        )
        for name, figures in coco["box"].classes.items()
    ]
    # In a narrow terminal, the recalls and the figures at single overlaps go first.
    spare = [place for name in ("AR", "AP75", "AP50") for place, one in enumerate(headings) if one.endswith(name)]
    parts.append(Table((*headings, "objects"), rows, [], left=(0,), counts=(), spare=tuple(spare)).text(columns()))
    return "\n\n".join(parts)


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2%}"


def record(coco: Mapping[str, CocoFigures], voc: VocFigures | None = None) -> dict[str, Any]:
    """Describes figures as JSON values; an undefined figure is None.

    Args:
      coco: the figures by kind.
      voc: VOC's figures, or None.

    Returns:
      "coco", the figures by kind; "voc", the mean of VOC's, if they are given; and "classes", a list of their figures.
    """
    classes = [
        {
            "class": name,
            "objects": box["objects"],
            **{figure: finite(box[figure]) for figure in CLASS_FIGURES},
            **{
                f"{kind}_{figure}": finite(one.classes[name][figure])
                for kind, one in coco.items()
                if kind != "box"
                for figure in CLASS_FIGURES
            },
            **({} if voc is None else {"voc_AP": finite(voc.classes[name])}),
        }
        for name, box in coco["box"].classes.items()
    ]
    figures = {kind: {name: finite(value) for name, value in one.figures.items()} for kind, one in coco.items()}
    return {"coco": figures, **({} if voc is None else {"voc": finite(voc.mean)}), "classes": classes}


def finite(value: float) -> float | None:
    """Returns a number as JSON has it: None for NaN and infinity."""
    return float(value) if math.isfinite(value) else None


class _View(NamedTuple):
    """A photograph that is reduced, and where its pixels have gone."""

    image: np.ndarray
    placement: Placement

    def objects(self, found: Detected, entries: Sequence[Mapping[str, Any]], *, scored: bool) -> dict[str, Any]:
        """Returns annotations, or results, which have scores, of the image as objects to draw."""
        keys = [one["id"] for one in found.categories]
        # Only results that are drawn, because each mask takes as much memory as a picture.
        entries = [one for one in entries if not scored or one["score"] >= MIN_SCORE]
        boxes = np.array([one["bbox"] for one in entries], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        objects: dict[str, Any] = {
            "boxes": self.placement.boxes(boxes),
            "classes": np.array([keys.index(one["category_id"]) for one in entries], int),
        }
        if scored:
            objects["scores"] = np.array([one["score"] for one in entries], float)
        if found.has_masks:
            masks = (mask_from_run_lengths(one["segmentation"]) for one in entries)
            objects["masks"] = self.placement.reduced_masks(masks)
        return objects

    def moved(self, mistakes: DetectionMistakes) -> DetectionMistakes:
        """Returns mistakes with boxes in pixels of the image to draw."""
        picture = mistakes.picture
        boxes = {name: self.placement.boxes(getattr(picture, name)) for name in ("boxes", "found")}
        return mistakes._replace(picture=picture._replace(**boxes))


def _view(source: Source, place: int) -> _View:
    image = evaluation.original_image(source, place)
    height, width, channels = image.shape
    fit = reduced((height, width), channels)
    pixels = np.clip(fit(image), 0, 1)
    # An image that is neither grey nor RGB is drawn as the mean of its channels.
    return _View(pixels if channels in (1, 3) else pixels.mean(2, keepdims=True), fit.placement(height, width))


def _by_image(found: Detected, name: Literal["annotations", "results"]) -> list[list[Mapping[str, Any]]]:
    """Groups annotations or results by the image, in the order of the images."""
    places = {one["id"]: place for place, one in enumerate(found.annotations["images"])}
    groups: list[list[Mapping[str, Any]]] = [[] for _ in places]
    for one in found.annotations["annotations"] if name == "annotations" else found.results:
        groups[places[one["image_id"]]].append(one)
    return groups
