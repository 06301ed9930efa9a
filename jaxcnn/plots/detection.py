"""The figures of a detector's results: images with the boxes of objects, mistakes, precision over recall."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from jaxcnn.evaluation import DetectionMistakes
from jaxcnn.plots.figures import (
    FAINT_LINE,
    INK,
    LABEL,
    MARGIN_INCHES,
    TICK,
    checked_images,
    class_colour,
    counted,
    drawable,
    fit_below_heading,
    new_figure,
    percent,
    shorten,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FONT = 8.5
_LABEL_INCHES = 1.6 * _FONT / 72
_PAD = 1.0
"""Points around the text of a label."""
_ALONE, _BESIDE = 6.6, 4.0
"""Longer side of an image in inches, alone and beside its annotation."""
_GAP = 0.12
_MOST_CURVES = 10
"""Number of classes whose curves have a colour and a name."""
MASK_OPACITY = 0.4
"""Opacity of a mask over its image."""


def detections(
    images: Sequence[ArrayLike],
    predictions: Sequence[Mapping[str, Any]],
    class_names: Sequence[str] = (),
    *,
    objects: Sequence[Mapping[str, Any]] | None = None,
    score: float = 0.25,
    limit: int = 6,
    subtitle: str = "",
) -> "Figure":
    """Draws images with the detected objects, and the annotated ones beside them; one row for each image.

    A box has the colour of its class, and a label with class and score. A mask lies over the image in the same colour;
    where masks overlap, that of the first object is drawn.

    Args:
      images: of any sizes; each grey or RGB, floating point in [0, 1], shape (height, width, 1 or 3).
      predictions: for each image "boxes", shape (slots, 4), edges (left, top, right, bottom) in pixels; "classes" and
        "scores", shape (slots,); optionally "valid", bool, shape (slots,), which tells the slots that hold an object,
        and "masks", bool, shape (slots, height, width), in pixels of the image, as of `jaxcnn.evaluation.paste_masks`.
      class_names: one name for each class; names longer than 18 characters are shortened. Without names, the numbers of
        the classes are drawn.
      objects: the annotated objects of each image, as `predictions`, without scores; None if there are none.
      score: least score of the detections that are drawn, in [0, 1].
      limit: largest number of images to draw, at least 1.
      subtitle: names model, data and set, such as 'small_retinanet on digit_scenes, test set'.

    Returns:
      A figure with up to `limit` rows of one picture, or of two: truth and prediction.

    Raises:
      ImportError: matplotlib is not installed.
      TypeError: images are not floating point.
      ValueError: there are no images, the numbers of images and of predictions or objects differ, images or masks have
        another shape, images values out of range, a class has no name, or `limit` is below 1.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    for name, others in (("predictions", predictions), ("objects", predictions if objects is None else objects)):
        if not len(images) or len(others) != len(images):
            raise ValueError(
                f"detections expects images, at least 1, and as many {name}, got {len(images)} and {len(others)}"
            )
    rows = min(limit, len(images))
    found = [
        {**entries, "valid": np.asarray(entries.get("valid", True)) & (np.asarray(entries["scores"]) >= score)}
        for entries in predictions[:rows]
    ]
    columns = {"prediction": found}
    title = f"{counted(_count(found), 'object')} detected"
    if objects is not None:
        truth = list(objects[:rows])
        columns = {"truth": truth, **columns}
        title += f", {_count(truth):,} annotated"
    shown = f"scores of at least {score:g}"
    if len(images) > 1:
        shown = f"{rows} of {counted(len(images), 'image')}, {shown}"
    return _draw_rows(images[:rows], columns, class_names, title, subtitle, shown)


def detection_mistakes(
    images: Callable[[int], ArrayLike],
    mistakes: Sequence[DetectionMistakes],
    class_names: Sequence[str],
    *,
    count: int,
    limit: int = 6,
    subtitle: str = "",
) -> "Figure":
    """Draws the images with the worst mistakes of a detector: truth and prediction, one row for each image.

    Missed objects have a label in the truth, and spurious detections and those of another class in the prediction.
    What is right has a thin frame alone.

    Args:
      images: reads an image by its number: grey or RGB, floating point in [0, 1], shape (height, width, 1 or 3).
      mistakes: those of all images, the worst first, as of `jaxcnn.evaluation.detection_mistakes`.
      class_names: one name for each class, as in `detections`.
      count: number of all images.
      limit: largest number of images to draw, at least 1.
      subtitle: names model, data and set.

    Returns:
      A figure with up to `limit` rows of two pictures; without mistakes, a heading alone.

    Raises:
      ImportError: matplotlib is not installed.
      TypeError: images are not floating point.
      ValueError: images have another shape or values out of range, a class has no name, or `limit` is below 1.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if not mistakes:
        return new_figure(8.0, 0.2, "No mistakes", subtitle, f"{counted(count, 'image')}, all objects found")
    missed, confused, spurious = (
        sum(int(getattr(one, name).sum()) for one in mistakes) for name in ("missed", "confused", "spurious")
    )
    shown = mistakes[:limit]
    columns = {
        "truth": [
            {
                "boxes": one.picture.boxes,
                "classes": one.picture.classes,
                "notes": [" missed" if missed else None for missed in one.missed],
            }
            for one in shown
        ],
        "prediction": [
            {
                "boxes": one.picture.found,
                "classes": one.picture.found_classes,
                "scores": one.picture.scores,
                "notes": [
                    " spurious" if spurious else " wrong class" if confused else None
                    for spurious, confused in zip(one.spurious, one.confused, strict=True)
                ],
            }
            for one in shown
        ],
    }
    title = f"{len(shown):,} of {counted(len(mistakes), 'image')} with mistakes" + (
        ", the worst first" if len(shown) > 1 else ""
    )
    text = f"{missed:,} missed, {spurious:,} spurious, {confused:,} of a wrong class in {counted(count, 'image')}"
    return _draw_rows([images(one.image) for one in shown], columns, class_names, title, subtitle, text)


def _draw_rows(
    images: Sequence[ArrayLike],
    columns: Mapping[str, Sequence[Mapping[str, Any]]],
    class_names: Sequence[str],
    title: str,
    *subtitles: str,
) -> "Figure":
    """Draws each image once in each column, with the objects of the column; several columns have headings."""
    pictures = [checked_images(np.asarray(image)[None])[0] for image in images]
    longest, label_inches = (_ALONE, 0.0) if len(columns) == 1 else (_BESIDE, 0.35)
    sizes = [longest * np.array(picture.shape[:2]) / max(picture.shape[:2]) for picture in pictures]
    wide = max(size[1] for size in sizes)
    height = label_inches + sum(size[0] + _GAP for size in sizes) + MARGIN_INCHES
    # As wide as a heading of one line needs.
    whole = max(len(columns) * (wide + _GAP) + 2 * MARGIN_INCHES, 6.0)
    figure = new_figure(whole, height, title, *subtitles)
    width, total = figure.get_size_inches()
    names, bottom = drawable(class_names), height - label_inches
    for row, (picture, (tall, broad)) in enumerate(zip(pictures, sizes, strict=True)):
        bottom -= tall
        for column, (name, entries) in enumerate(columns.items()):
            left = MARGIN_INCHES + column * (wide + _GAP)
            axes = figure.add_axes((left / width, bottom / total, broad / width, tall / total))
            # Three channels, since one would be drawn with a colour map.
            colours = np.broadcast_to(picture, (*picture.shape[:2], 3))
            axes.imshow(with_masks(colours, entries[row]), interpolation="antialiased", aspect="auto")
            axes.set_axis_off()
            draw_boxes(axes, entries[row])
            _draw_labels(axes, entries[row], names, _LABEL_INCHES * picture.shape[0] / tall)
            if row == 0 and len(columns) > 1:
                axes.set_title(name, loc="left", fontsize=LABEL, fontweight="bold", color=INK, pad=6)
        bottom -= _GAP
    return figure


def precision_recall(
    precisions: ArrayLike, averages: ArrayLike, class_names: Sequence[str], *, subtitle: str = ""
) -> "Figure":
    """Draws the precision of each class at each recall, at an overlap of 0.5, and their mean.

    Up to ten classes have a colour and their average precision in the legend, the best first; more are grey.

    Args:
      precisions: of each class at the recalls 0, 0.01, ..., 1, shape (classes, 101); NaN for a class without objects,
        which is left out. As of `jaxcnn.evaluation.CocoFigures`.
      averages: the average precision of each class, shape (classes,), such as "AP50".
      class_names: one name for each class; names longer than 18 characters are shortened.
      subtitle: names model, data and set.

    Returns:
      A figure 9 inches wide.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: the shapes do not fit, or no class has objects.
    """
    precisions, averages = np.asarray(precisions, float), np.asarray(averages, float)
    if precisions.shape != (len(class_names), 101) or averages.shape != (len(class_names),):
        raise ValueError(
            f"precision_recall expects precisions ({len(class_names)}, 101) and averages ({len(class_names)},), got "
            f"{precisions.shape} and {averages.shape}"
        )
    there = np.flatnonzero(np.isfinite(averages))
    if not len(there):
        raise ValueError("precision_recall expects a class with objects, got none")
    mean = averages[there].mean()
    height, names = 5.6, drawable(class_names)
    figure = new_figure(
        9.0,
        height,
        f"AP50 {percent(mean, 1)}",
        subtitle,
        f"overlap of at least 0.5, {len(there)} class{'es' if len(there) > 1 else ''}",
    )
    fit_below_heading(figure, height)
    axes = figure.subplots()
    recalls = np.linspace(0, 100, 101)
    best = there[np.argsort(-averages[there], kind="stable")]
    few = len(best) <= _MOST_CURVES
    for place in best:
        label = f"{shorten(names[place], 18)}  {100 * averages[place]:.1f}"
        style: dict[str, Any] = {"color": class_colour(place), "label": label} if few else {"color": FAINT_LINE}
        axes.plot(recalls, 100 * precisions[place], linewidth=1.8, **style)
    if len(best) > 1:
        label = f"mean  {100 * mean:.1f}"
        axes.plot(recalls, 100 * precisions[there].mean(0), color=INK, linewidth=3.0, label=label)
    style_axes(axes, "Precision (%)")
    axes.set_xlim(0, 101)
    axes.set_ylim(0, 102)
    axes.set_xlabel("recall (%)", fontsize=LABEL, color=INK, labelpad=6)
    legend = axes.legend(
        loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=TICK, title="AP50 (%)", labelcolor=INK
    )
    legend.get_title().set_fontsize(TICK)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def valid_objects(objects: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Lists the slots that hold an object, all of them without "valid", and the classes, 0 without "classes".

    Args:
      objects: "boxes", and optionally "valid" and "classes", as in an example.

    Returns:
      Slot and class of each object.
    """
    slots = range(len(objects["boxes"]))
    valid, classes = objects.get("valid"), objects.get("classes")
    return [
        (slot, 0 if classes is None else int(classes[slot])) for slot in slots if valid is None or bool(valid[slot])
    ]


def with_masks(picture: np.ndarray, objects: Mapping[str, Any]) -> np.ndarray:
    """Lays the masks of objects over a picture, in the colours of their classes, the first on top.

    Args:
      picture: RGB in [0, 1], shape (height, width, 3).
      objects: optionally "masks", bool, shape (slots, height, width); with it "boxes", and optionally "valid" and
        "classes", as in an example.

    Returns:
      The picture, of the same shape.

    Raises:
      ValueError: the masks have another shape.
    """
    if "masks" not in objects:
        return picture
    masks, colours = np.asarray(objects["masks"], bool), picture.copy()
    if masks.shape != (len(objects["boxes"]), *picture.shape[:2]):
        raise ValueError(
            f"expected masks (slots, height, width) of {(len(objects['boxes']), *picture.shape[:2])}, as boxes and "
            f"images are, got {masks.shape}; paste masks of boxes with paste_masks"
        )
    for slot, place in valid_objects(objects)[::-1]:
        colours[masks[slot]] = class_colour(place)
    return (1 - MASK_OPACITY) * picture + MASK_OPACITY * colours


def draw_boxes(axes: "Axes", objects: Mapping[str, Any]) -> None:
    """Draws a frame around each object, in the colour of its class.

    Args:
      axes: of an image.
      objects: "boxes", and optionally "valid" and "classes", as in an example; and "notes", a text for each slot, or
        None, which makes its frame thin.
    """
    from matplotlib.patches import Rectangle

    boxes, notes = np.asarray(objects["boxes"]), objects.get("notes")
    for slot, place in valid_objects(objects):
        left, top, right, bottom = boxes[slot]
        wide = 0.7 if notes is not None and notes[slot] is None else 1.5
        # Pixel 0 of a picture is centred at 0, and begins at -1/2.
        frame = Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, linewidth=wide)
        frame.set_edgecolor(class_colour(place))
        axes.add_patch(frame)


def _count(objects: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(valid_objects(entries)) for entries in objects)


def _draw_labels(axes: "Axes", objects: Mapping[str, Any], names: Sequence[str], tall: float) -> None:
    """Writes class and score on each box; `tall` is the height of a label in pixels of the image."""
    (first, last), (_, highest) = axes.get_xlim(), axes.get_ylim()
    notes = objects.get("notes")
    # The best on top of the others.
    for slot, place in valid_objects(objects)[::-1]:
        if names and not 0 <= place < len(names):
            raise ValueError(f"detections expects classes in [0, {len(names)}), got {place}; name all classes")
        if notes is not None and notes[slot] is None:
            continue
        text = shorten(names[place], 18) if names else str(place)
        if "scores" in objects:
            text += f" {objects['scores'][slot]:.2f}"
        text += "" if notes is None else notes[slot]
        left, top, right, _ = np.asarray(objects["boxes"][slot]) - 0.5
        # Into the image, from the nearer side.
        at_left, above = left + right < first + last, top - tall > highest
        colour = class_colour(place)
        drawn = axes.annotate(
            text,
            (max(left, first) if at_left else min(right, last), max(top, highest)),
            (_PAD if at_left else -_PAD, _PAD if above else -_PAD),
            textcoords="offset points",
            annotation_clip=False,
            ha="left" if at_left else "right",
            va="bottom" if above else "top",
            fontsize=_FONT,
            color="white" if np.dot(colour, (0.299, 0.587, 0.114)) < 0.6 else INK,
            bbox={"facecolor": colour, "edgecolor": "none", "pad": _PAD},
            parse_math=False,
            clip_on=True,
        )
        # Without this, the patch behind the text leaves the image.
        drawn.set_clip_path(axes.patch)
