"""The rows or columns of the image that an array's elements depend on: the abstract values of `jaxcnn.tracing`."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import floor, prod
from typing import Any

import numpy as np

_NOTHING = 2**40
"""An element that sees nothing has this as its first pixel, and its negative as its last."""


@dataclass(frozen=True, eq=False)
class Line:
    """The rows (or columns) of the image that the elements of an array depend on.

    The position along the line is a digit of an element's index: `index // inner % count`, where `index` is that along
    `axis` and `count` the number of entries. It is the whole index unless a reshape merged the axis with another.

    Pixels before 0 and from `size` on are beyond the border, as if a larger image had been padded less.

    Attributes:
      size: number of rows of the image.
      axis: axis of the array along which the elements see different rows; None if all see the same.
      inner: number of neighbouring elements along the axis that see the same.
      first: first row that each entry sees, int64, shape (count,).
      last: last row that each entry sees, same shape.
      stride: distance in rows of the image between neighbouring entries, as far as the line is regular.
      regular: range of the entries that move by the stride; the others read a repeated border.
    """

    size: int
    axis: int | None
    inner: int
    first: np.ndarray
    last: np.ndarray
    stride: Fraction
    regular: tuple[int, int]

    @property
    def count(self) -> int:
        """Number of entries."""
        return len(self.first)

    @property
    def ends(self) -> tuple[int, int]:
        """First and last row that any element sees."""
        return int(self.first.min()), int(self.last.max())

    @property
    def is_whole(self) -> bool:
        """Whether every element sees the whole axis of the image."""
        return self.axis is None and self.ends == (0, self.size - 1)

    @cached_property
    def together(self) -> "Line":
        """The line of elements that each see all that the elements of this line see."""
        first, last = self.ends
        if first <= 0 and last >= self.size - 1:
            first, last = 0, self.size - 1
        ends = np.array([first]), np.array([last])
        return Line(self.size, None, 1, *ends, Fraction(self.size), (0, 1))

    def along(self, axis: int | None) -> "Line":
        """Returns the same entries along another axis."""
        return Line(self.size, axis, self.inner, self.first, self.last, self.stride, self.regular)

    def is_like(self, other: "Line") -> bool:
        """Returns whether the positions along both lines are the same digit of the same index."""
        return (self.axis, self.inner, self.count) == (other.axis, other.inner, other.count)

    def unfolded(self, length: int) -> "Line":
        """Returns a line with an entry for each index along its axis, which has this length."""
        if self.axis is None or self.count == length:
            return self
        if self.count * self.inner != length:
            return self.together
        first, last = self.first.repeat(self.inner), self.last.repeat(self.inner)
        regular = self.regular[0] * self.inner, self.regular[1] * self.inner
        return Line(self.size, self.axis, 1, first, last, self.stride / self.inner, regular)

    def read(self, places: np.ndarray, used: np.ndarray | None, step: Fraction) -> "Line":
        """Returns the line of outputs that each read several entries of this one.

        A place outside the line reads an entry of the line as if it continued.

        Args:
          places: the entries that each output reads, integers of shape (outputs, taps).
          used: whether each of them is read, bools of the same shape; None for all.
          step: distance between the places of neighbouring outputs.

        Returns:
          The line, along the same axis.
        """
        first, last = self._beyond(places)
        low, high = self.regular
        inside = (places >= low) | (low == 0)
        inside &= (places < high) | (high == self.count)
        if used is not None:
            first, last = np.where(used, first, _NOTHING), np.where(used, last, -_NOTHING)
            inside |= ~used
        regular = np.flatnonzero(inside.all(1))
        ends = (int(regular[0]), int(regular[-1]) + 1) if regular.size else (0, len(places))
        return Line(self.size, self.axis, 1, first.min(1), last.max(1), self.stride * step, ends)

    def _beyond(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reads the first and last row at places that may lie outside the line."""
        beyond = places - places.clip(0, self.count - 1)
        if not beyond.any():
            return self.first[places], self.last[places]
        pixels, period = self.stride.numerator, self.stride.denominator
        if period > self.count:
            inner = places - beyond
            return self.first[inner] + beyond * pixels // period, self.last[inner] - (-beyond * pixels // period)
        # Entries repeat after a period, moved by a number of pixels.
        periods = (np.sign(beyond) * ((abs(beyond) + period - 1) // period)).astype(int)
        inner = places - periods * period
        return self.first[inner] + periods * pixels, self.last[inner] + periods * pixels

    def span(self) -> tuple[Fraction, Fraction, Fraction]:
        """Returns the extent, the stride and the start that hold all regular entries."""
        index = np.arange(self.count)[slice(*self.regular)]
        first, last = self.first[index], self.last[index]
        index, first, last = (values[first <= last] for values in (index, first, last))
        pixels, period = self.stride.numerator, self.stride.denominator
        if not index.size:
            return Fraction(-1), self.stride, Fraction(0)
        start = int((first * period - index * pixels).min())
        end = int((last * period - index * pixels).max())
        return Fraction(end - start, period), self.stride, Fraction(start, period)


def image_line(size: int, axis: int) -> Line:
    """Returns the line of the image itself: each row sees itself.

    Args:
      size: number of rows.
      axis: axis of the image.

    Returns:
      The line.
    """
    return Line(size, axis, 1, np.arange(size), np.arange(size), Fraction(1), (0, size))


def joined(lines: list[Line], shape: tuple[int, ...]) -> Line:
    """Returns the line of elements that each depend on one element at the same index of several arrays.

    Args:
      lines: lines of the same axis of the image, at least one.
      shape: of the arrays.

    Returns:
      The line that holds them all.
    """
    result = lines[0]
    for line in lines[1:]:
        result = _union(result, line, shape)
    return result


def _union(one: Line, other: Line, shape: tuple[int, ...]) -> Line:
    if one is other or one.is_whole:
        return one
    if other.is_whole:
        return other
    if one.axis is None:
        one, other = other, one
    if other.axis is not None and not one.is_like(other):
        if one.axis != other.axis:
            one, other = one.together, other.together
        else:
            one, other = (line.unfolded(shape[one.axis]) for line in (one, other))  # pyright: ignore[reportArgumentType,reportCallIssue]
            if one.axis is None:
                one, other = other, one
    first, last = np.minimum(one.first, other.first), np.maximum(one.last, other.last)
    regular = one.regular
    if other.axis is not None:
        regular = max(one.regular[0], other.regular[0]), min(one.regular[1], other.regular[1])
        if regular[0] >= regular[1] or one.stride != other.stride:
            regular = 0, len(first)
    result = Line(one.size, one.axis, one.inner, first, last, one.stride, regular)
    return result.together if one.axis is None else result


def reshaped(line: Line, shape: tuple[int, ...], new_shape: tuple[int, ...]) -> Line:
    """Follows a line through a reshape in row-major order.

    Where the axis is split in several, the line keeps the outermost of them: each element sees what all elements at the
    same index of that axis see.

    Args:
      line: of the array.
      shape: of the array.
      new_shape: of the result.

    Returns:
      The line of the result.
    """
    if line.axis is None or shape == new_shape:
        return line
    if line.count == 1:
        return line.together
    unit = line.inner * prod(shape[line.axis + 1 :])
    for axis in reversed(range(len(new_shape))):
        inside = prod(new_shape[axis + 1 :])
        if not inside <= unit < inside * new_shape[axis]:
            continue
        parts = max(unit * line.count // (inside * new_shape[axis]), 1)
        if unit % inside or (parts > 1 and inside * new_shape[axis] * parts != unit * line.count):
            break
        if parts == 1:
            return Line(line.size, axis, unit // inside, line.first, line.last, line.stride, line.regular)
        if line.count % parts:
            break
        return reshaped(_grouped(line, line.count // parts, shape), shape, new_shape)
    return line.together


def _grouped(line: Line, members: int, shape: tuple[int, ...]) -> Line:
    """Joins each few neighbouring entries into one."""
    first, last = line.first.reshape(-1, members).min(1), line.last.reshape(-1, members).max(1)
    regular = -(-line.regular[0] // members), line.regular[1] // members
    if regular[0] >= regular[1]:
        regular = 0, len(first)
    return Line(line.size, line.axis, line.inner * members, first, last, line.stride * members, regular)


def fitted(places: np.ndarray, used: np.ndarray, size: int, weights: np.ndarray) -> tuple[Fraction, np.ndarray]:
    """Finds how a table of places moves over a line.

    Args:
      places: the entries that each output reads, shape (outputs, taps).
      used: whether each of them is read, same shape.
      size: number of entries of the line.
      weights: of the entries, same shape.

    Returns:
      The step between neighbouring outputs, and whether each output follows it; those of a repeated border do not.
    """
    outputs = len(places)
    first = np.where(used, places, _NOTHING).min(1)
    last = np.where(used, places, -_NOTHING).max(1)
    centres = (places * weights).sum(1) / np.where(weights.sum(1) == 0, 1, weights.sum(1))
    quarter = outputs // 4
    steps = [Fraction(size, outputs), Fraction(size - 1, max(outputs - 1, 1))]
    for low, high in ((quarter, outputs - 1 - quarter), (0, outputs - 1)):
        if low < high:
            slope = (centres[high] - centres[low]) / (high - low)
            steps.append(Fraction(slope).limit_denominator(10_000))

    def extent(step: Fraction, kept: Any) -> tuple[Fraction, np.ndarray]:
        """Returns how far the kept outputs reach, and which outputs reach less than a pixel beyond them."""
        index = np.arange(outputs) * step.numerator
        starts, ends = first * step.denominator - index, last * step.denominator - index
        start, end = int(starts[kept].min()), int(ends[kept].max())
        follows = (starts > start - step.denominator) & (ends < end + step.denominator)
        return Fraction(end - start, step.denominator), follows

    def misfit(step: Fraction) -> tuple[int, int, int]:
        inside, follows = extent(step, slice(quarter, outputs - quarter))
        return floor(inside), -int(follows.sum()), floor(extent(step, follows)[0])

    step = min((step for step in steps if step), key=misfit)
    return step, extent(step, slice(quarter, outputs - quarter))[1]
