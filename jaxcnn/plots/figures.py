"""The shared parts of all figures: size, heading, colours, texts, and `save`.

Nothing here uses pyplot, so no display is needed and no figure stays in memory.
"""

import colorsys
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from jaxcnn.files import written_whole
from jaxcnn.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
MARGIN_INCHES = 0.3

# M. Okabe and K. Ito, "Color Universal Design" (2008): distinguishable with every colour vision.
BLUE, VERMILLION, GREEN, PINK, ORANGE, SKY_BLUE = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
GREY = "#8C8C8C"
INK, FAINT_INK, FAINT_LINE = "#222222", "#5A5A5A", "#DDDDDD"

# Font sizes in points.
TITLE, SUBTITLE, LABEL, TICK = 19.0, 13.5, 14.0, 12.5

_LINE_INCHES = 0.27


def save(figure: "Figure", path: str | os.PathLike[str]) -> None:
    """Writes a figure to a PNG file atomically, in its own size and resolution.

    Args:
      figure: a matplotlib figure.
      path: a file with the extension .png in an existing folder; an older file is replaced.

    Raises:
      ValueError: the extension of `path` is not .png.
      OSError: `path` cannot be written; see `jaxcnn.files.check_target`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"expected a path with the extension .png, got {str(path)!r}")
    with written_whole(path) as file:
        # Not `savefig`: the user's settings may change its size and background.
        FigureCanvasAgg(figure).print_png(file)


def new_figure(width: float, height: float, title: str, *subtitles: str) -> "Figure":
    """Makes an empty figure with a heading.

    Args:
      width: in inches.
      height: of the part below the heading, in inches.
      title: one line in bold.
      *subtitles: grey lines below the title; empty ones are omitted, and long ones are wrapped.

    Returns:
      The figure, higher than `height` by the heading.

    Raises:
      ImportError: matplotlib is not installed.
    """
    _check_matplotlib()
    from matplotlib.figure import Figure

    characters = int((width - 2 * MARGIN_INCHES) / em(SUBTITLE))
    lines = [line for text in subtitles for line in textwrap.wrap(drawable([text])[0], characters)]
    total = height + 0.78 + _LINE_INCHES * len(lines)
    figure = Figure(figsize=(width, total), dpi=DPI, facecolor="white")
    left = MARGIN_INCHES / width
    figure.text(left, 1 - 0.25 / total, title, va="top", fontsize=TITLE, fontweight="bold", color=INK, parse_math=False)
    for place, line in enumerate(lines):
        top = 1 - (0.65 + _LINE_INCHES * place) / total
        figure.text(left, top, line, va="top", fontsize=SUBTITLE, color=FAINT_INK, parse_math=False)
    return figure


def fit_below_heading(figure: "Figure", height: float) -> None:
    """Fits the axes into the lower part of a figure: the layout engine ignores the heading.

    Args:
      figure: from `new_figure`.
      height: of the part below the heading, in inches.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    below = height / figure.get_figheight()
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, 0, 1, below), w_pad=0.2, h_pad=0.12, wspace=0.04))


def style_axes(axes: "Axes", title: str, pad: float = 10.0) -> None:
    """Gives axes a title at the left, a faint horizontal grid and a line at the bottom alone.

    Args:
      axes: of any plot of lines.
      title: the quantity on the vertical axis.
      pad: space below the title, in points.
    """
    axes.set_title(title, loc="left", fontsize=LABEL, fontweight="bold", color=INK, pad=pad, parse_math=False)
    axes.tick_params(labelsize=TICK, labelcolor=INK, color=FAINT_LINE)
    axes.tick_params(which="minor", length=0)
    axes.grid(axis="y", color=FAINT_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)


def drawable(texts: Sequence[object]) -> list[str]:
    r"""Escapes characters that cannot be printed, or that the font lacks, as in "\u732b".

    The font is matplotlib's `rcParams["font.family"]`, which lacks most characters of Asia by default.

    Args:
      texts: names of classes, models or files.

    Returns:
      The texts to draw, one for each.
    """
    _check_matplotlib()
    from matplotlib.font_manager import FontProperties, findfont, get_font

    characters = get_font(findfont(FontProperties())).get_charmap()
    return [
        "".join(
            character if ord(character) in characters else character.encode("unicode_escape").decode()
            for character in printable(text)
        )
        for text in texts
    ]


def shorten(text: str, length: int) -> str:
    """Shortens a long text in the middle, because names often differ at the end.

    Args:
      text: any text.
      length: the largest number of characters, at least 3.

    Returns:
      The text, of at most `length` characters.
    """
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return f"{text[: length - 1 - tail]}…{text[-tail:]}"


def em(font: float) -> float:
    """Estimates the mean width of a character of DejaVu Sans.

    Args:
      font: size in points.

    Returns:
      The width in inches.
    """
    return 0.57 * font / 72


def percent(fraction: float, decimals: int) -> str:
    """Formats a fraction as a percentage, such as '98.3 %'; '>99.9 %' if rounding would give 100 %.

    Args:
      fraction: in [0, 1].
      decimals: number of digits after the point.

    Returns:
      The text.
    """
    text = f"{100 * fraction:.{decimals}f}"
    if fraction < 1 and float(text) == 100:
        text = f">{100 - 10**-decimals:.{decimals}f}"
    return f"{text} %"


def counted(number: int, noun: str) -> str:
    """Formats a number and a noun, such as '1 epoch' or '1,200 epochs'.

    Args:
      number: at least 0.
      noun: its singular; the plural ends with s.

    Returns:
      The text.
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def checked_images(images: ArrayLike) -> np.ndarray:
    """Checks images that are to be drawn.

    Args:
      images: grey or RGB, floating point in [0, 1], shape (examples, height, width, 1 or 3).

    Returns:
      The images in float32.

    Raises:
      TypeError: they are not floating point.
      ValueError: there are none, or they have another shape or values out of range.
    """
    pixels = np.asarray(images)
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3) or 0 in pixels.shape:
        raise ValueError(f"images must have shape (examples, height, width, 1 or 3), got {pixels.shape}")
    if pixels.dtype.kind in "biu":
        raise TypeError(f"images must be floating point in [0, 1], got {pixels.dtype}; divide 8-bit pixels by 255")
    pixels = pixels.astype(np.float32, copy=False)
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"images must be in [0, 1], got values from {low:g} to {high:g}; draw them before normalization"
        )
    return pixels


def class_colour(place: int) -> tuple[float, float, float]:
    """Returns the colour of a class: the hues turn by the golden ratio, so that neighbours differ.

    Args:
      place: of the class, from 0.

    Returns:
      Red, green and blue in [0, 1].
    """
    hue = (0.6 + place * 0.618034) % 1
    return colorsys.hsv_to_rgb(hue, (0.85, 0.6, 0.95)[place % 3], (0.85, 0.95, 0.6)[place % 3])


def _check_matplotlib() -> None:
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError("figures expect matplotlib to be installed; pip install 'jaxcnn[cli]'") from error
