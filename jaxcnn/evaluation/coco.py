"""COCO's average precision and recall (Lin et al. 2014; cocodataset.org, "Detection evaluation")."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from jaxcnn.evaluation.matching import indexed

Kind: TypeAlias = Literal["box", "mask", "boundary"]
"""What is compared: boxes; masks; or bands of masks along their border (Cheng et al. 2021)."""

_KINDS: dict[str, Any] = {"box": "bbox", "mask": "segm", "boundary": "boundary"}
_SIZES = ("small", "medium", "large")


class CocoFigures(NamedTuple):
    """COCO's figures. NaN stands for figures without objects, for which pycocotools has -1.

    Attributes:
      figures: of all classes: "AP", the mean over ten overlaps from 0.5 to 0.95; "AP50" and "AP75", at one overlap;
        "AP_small", "AP_medium" and "AP_large", of objects of an area below 32², up to 96², and above; "AR1", "AR10",
        "AR100" or the like, the recall with so many detections in an image; and "AR_small", "AR_medium", "AR_large".
      classes: "AP", "AP50", "AP75" and "AR" of each class, by its name, and "objects", their number without crowds.
      precisions: at an overlap of 0.5, for each class and the recalls 0, 0.01, ..., 1; shape (classes, 101).
    """

    figures: dict[str, float]
    classes: dict[str, dict[str, float]]
    precisions: np.ndarray


def coco_figures(
    annotations: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    kind: Kind = "box",
    max_detections: Sequence[int] = (1, 10, 100),
) -> CocoFigures:
    """Computes COCO's figures by faster-coco-eval, which gives the numbers of pycocotools.

    A detection inside a crowd neither counts nor costs. Sizes are by the area of the annotation. A class without
    objects is left out. A precision at 101 recalls is averaged: an object found of two gives 0.505. All figures but
    "AR" with a number take the largest of `max_detections`, also if it is not 100.

    Args:
      annotations: in COCO's format, such as those of `coco_annotations`. They are numbered anew.
      results: in COCO's format, such as those of `coco_results`.
      kind: what is compared: "box", "mask" or "boundary".
      max_detections: largest numbers of detections in an image, of all classes one by one, ascending.

    Returns:
      The figures.

    Raises:
      ValueError: a result has an unknown image or category, or lacks an entry; or an option is out of range.
      ImportError: faster-coco-eval is not installed.
    """
    if kind not in _KINDS:
        raise ValueError(f"coco_figures expects kind to be one of {', '.join(get_args(Kind))}, got {kind!r}")
    most = list(max_detections)
    if not most or most != sorted(set(most)) or most[0] < 1:
        raise ValueError(f"coco_figures expects ascending numbers of detections, at least 1, got {max_detections}")
    check_coco_tools()
    from faster_coco_eval import COCO, COCOeval_faster  # pyright: ignore[reportMissingImports]

    entry = "bbox" if kind == "box" else "segmentation"
    table = indexed(annotations, results, entry)
    truth = COCO(table.annotations)
    found = truth.loadRes(table.results)
    evaluation = COCOeval_faster(truth, found, _KINDS[kind], print_function=lambda *_: None)
    evaluation.params.maxDets = most
    evaluation.evaluate()
    evaluation.accumulate()
    # Axes: overlap, recall, class, range of areas, number of detections.
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    figures = {
        "AP": _mean(precision[:, :, :, 0, -1]),
        "AP50": _mean(precision[0, :, :, 0, -1]),
        "AP75": _mean(precision[5, :, :, 0, -1]),
        **{f"AP_{size}": _mean(precision[:, :, :, i + 1, -1]) for i, size in enumerate(_SIZES)},
        **{f"AR{number}": _mean(recall[:, :, 0, i]) for i, number in enumerate(most)},
        **{f"AR_{size}": _mean(recall[:, :, i + 1, -1]) for i, size in enumerate(_SIZES)},
    }
    own = np.array([one["category_id"] for one in table.annotations["annotations"] if not one["iscrowd"]], np.int64)
    classes = {
        name: {
            "AP": _mean(precision[:, :, number, 0, -1]),
            "AP50": _mean(precision[0, :, number, 0, -1]),
            "AP75": _mean(precision[5, :, number, 0, -1]),
            "AR": _mean(recall[:, number, 0, -1]),
            "objects": int((own == number + 1).sum()),
        }
        for number, name in enumerate(table.class_names)
    }
    curves = precision[0, :, :, 0, -1].T
    return CocoFigures(figures, classes, np.where(curves < 0, np.nan, curves))


def check_coco_tools() -> None:
    """Refuses to compute COCO's figures without faster-coco-eval. Call it before a long computation.

    Raises:
      ImportError: faster-coco-eval is not installed.
    """
    try:
        import faster_coco_eval  # noqa: F401 # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("COCO's figures are computed by faster-coco-eval; pip install 'jaxcnn[detection]'") from error


def _mean(values: np.ndarray) -> float:
    """Returns the mean of the values that exist."""
    there = values[values > -1]
    return float(there.mean()) if len(there) else float("nan")
