"""Average precision of Pascal VOC (Everingham et al. 2010, section 4.2; 2015, section 2.2)."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from jaxcnn.evaluation.matching import indexed, overlaps, pictures

Rule: TypeAlias = Literal["2007", "2010"]
"""How precisions are averaged over recalls; see `voc_figures`."""


class VocFigures(NamedTuple):
    """The figures of VOC.

    Attributes:
      mean: of the average precisions of the classes that have objects; NaN without any.
      classes: average precision of each class by name; NaN without objects.
    """

    mean: float
    classes: dict[str, float]


def voc_figures(
    annotations: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    overlap: float = 0.5,
    rule: Rule = "2010",
) -> VocFigures:
    """Computes the average precision of Pascal VOC.

    Detections of a class are taken by falling score. Each is right if the object of its class and image that it
    overlaps most is not yet found, and overlaps it by at least `overlap`; a second detection of an object is wrong. A
    detection of a difficult object or a crowd neither counts nor costs.

    Sides of boxes are right - left, without the +1 of tools whose boxes have whole pixels as corners; `voc` reads boxes
    so that the numbers are those of VOC's own tool.

    Args:
      annotations: in COCO's format, such as those of `coco_annotations`; "difficult" is optional.
      results: in COCO's format, such as those of `coco_results`.
      overlap: least intersection over union, in (0, 1].
      rule: "2007": the mean of the largest precisions at recalls of at least 0, 0.1, ..., 1. "2010": the area under the
        precision made to fall with the recall, as since VOC 2010.

    Returns:
      The figures.

    Raises:
      ValueError: a result has an unknown image or category, or lacks an entry; or an option is out of range.
    """
    if rule not in get_args(Rule):
        raise ValueError(f"voc_figures expects rule to be one of {', '.join(get_args(Rule))}, got {rule!r}")
    if not 0 < overlap <= 1:
        raise ValueError(f"voc_figures expects overlap in (0, 1], got {overlap}")
    table = indexed(annotations, results)
    count = len(table.class_names)
    totals = np.zeros(count, np.int64)
    scores: list[list[float]] = [[] for _ in range(count)]
    right: list[list[bool]] = [[] for _ in range(count)]
    for picture in pictures(table):
        totals += np.bincount(picture.classes[~picture.ignored], minlength=count)
        shares = np.where(picture.classes == picture.found_classes[:, None], overlaps(picture), 0)
        taken = np.zeros(len(picture.boxes), bool)
        for number, score, share in zip(picture.found_classes.tolist(), picture.scores.tolist(), shares, strict=True):
            best = int(share.argmax()) if len(share) else -1
            hit = best >= 0 and share[best] >= overlap
            if hit and picture.ignored[best]:
                continue
            scores[number].append(score)
            right[number].append(hit and not taken[best])
            if hit:
                taken[best] = True
    average = {
        name: _average(np.array(scores[number]), np.array(right[number], bool), int(totals[number]), rule)
        for number, name in enumerate(table.class_names)
    }
    there = [value for value in average.values() if not np.isnan(value)]
    return VocFigures(float(np.mean(there)) if there else float("nan"), average)


def _average(scores: np.ndarray, right: np.ndarray, total: int, rule: Rule) -> float:
    """Averages the precision of the detections of a class."""
    if not total:
        return float("nan")
    right = right[np.argsort(-scores, kind="stable")]
    hits = np.cumsum(right)
    recall, precision = hits / total, hits / np.arange(1, len(right) + 1)
    # The largest precision at this recall or more.
    best = np.maximum.accumulate(precision[::-1])[::-1]
    if rule == "2007":
        # In whole numbers: recalls are multiples of 1 / total.
        points = [best[10 * hits >= tenth * total][:1].sum() for tenth in range(11)]
        return float(np.mean(points))
    return float(np.sum(np.diff(recall, prepend=0) * best))
