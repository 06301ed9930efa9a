"""Tables of text for terminals of any width."""

from collections.abc import Sequence
from typing import NamedTuple

_ACROSS = "  "
_LEAST_NAME = 16
"""Narrowest column of names, in characters; longer names continue on the next line."""


class Table(NamedTuple):
    """A table of text that adapts to narrow terminals.

    Attributes:
      headings: one for each column.
      rows: cells; the first is a name whose parts are separated by "/".
      totals: rows below a rule.
      left: left-aligned columns; the others are right-aligned.
      counts: columns of numbers that may be rounded.
      spare: columns that may be hidden, the least important first.
    """

    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    totals: Sequence[tuple[str, ...]]
    left: tuple[int, ...]
    counts: tuple[int, ...]
    spare: tuple[int, ...]

    def text(self, width: int | None) -> str:
        """Formats the table.

        A table that is too wide first gets shorter headings, then rounded numbers, then loses columns of `spare`; names
        are always kept.

        Args:
          width: width of the terminal in characters; None for no limit.

        Returns:
          The lines.
        """
        columns = list(range(len(self.headings)))
        layouts = [(columns, False, False), (columns, True, False), (columns, True, True)]
        for column in self.spare:
            columns = [other for other in columns if other != column]
            layouts.append((columns, True, True))
        lines: list[str] = []
        rounded = False
        for columns, broken, rounded in layouts:
            lines = self._lines(columns, width, broken=broken, rounded=rounded)
            if width is None or max(map(len, lines)) <= width:
                break
        if rounded:
            for row in self.totals:
                exact = ", ".join(f"{row[column]} {self.headings[column]}" for column in self.counts)
                lines.append(f"{row[0]}: {exact}")
        if left_out := [heading for column, heading in enumerate(self.headings) if column not in columns]:
            lines.append(f"columns hidden (narrow terminal): {', '.join(left_out)}")
        return "\n".join(lines)

    def _lines(self, columns: list[int], width: int | None, *, broken: bool, rounded: bool) -> list[str]:
        parts: list[list[list[str]]] = []  # lines by row and column
        for row in (self.headings, *self.rows, *self.totals):
            cells = [_rounded(row[column]) if rounded and column in self.counts else row[column] for column in columns]
            parts.append([[cell] for cell in cells])
        if broken:
            parts[0] = [_broken(cell) for [cell] in parts[0]]
        widths = [max(len(line) for row in parts for line in row[column]) for column in range(len(columns))]
        if rounded and width is not None:
            others = sum(widths[1:]) + len(_ACROSS) * (len(columns) - 1)
            widths[0] = min(widths[0], max(width - others, _LEAST_NAME))
            for row in parts[1:]:
                row[0] = _folded(row[0][0], widths[0])
        groups = [self._joined(row, columns, widths) for row in parts]
        rule = ["-" * max(len(line) for group in groups for line in group)]
        body = len(groups) - len(self.totals)
        below = [rule, *groups[body:]] if self.totals else []
        return [line for group in (groups[0], rule, *groups[1:body], *below) for line in group]

    def _joined(self, row: list[list[str]], columns: list[int], widths: list[int]) -> list[str]:
        lines = []
        for number in range(max(map(len, row))):
            cells = [cell[number] if number < len(cell) else "" for cell in row]
            padded = [
                cell.ljust(width) if column in self.left else cell.rjust(width)
                for cell, column, width in zip(cells, columns, widths, strict=True)
            ]
            lines.append(_ACROSS.join(padded).rstrip())
        return lines


def _broken(heading: str) -> list[str]:
    """Splits a heading such as "multiply-adds" or "ms (quartiles)" into two lines."""
    return heading.replace(" (", "\n(").split("\n") if "(" in heading else heading.replace("-", "- ").split(" ")


def _folded(name: str, width: int) -> list[str]:
    """Splits a name at "/" or spaces into lines that fit a width if possible."""
    lines = [""]
    for part in name.replace("/", "/\0").replace(" ", " \0").split("\0"):
        if len(lines[-1]) + len(part.rstrip()) > width and lines[-1].strip():
            lines.append(" " * 2)
        lines[-1] += part
    return [line.rstrip() for line in lines]


def _rounded(cell: str) -> str:
    """Rounds a number to three digits: "118,013,952" becomes "118M"."""
    digits = cell.replace(",", "")
    if not digits.isdigit():
        return cell
    number = float(f"{int(digits):.3g}")
    unit = 0
    while number >= 1000:
        number, unit = number / 1000, unit + 1
    return f"{number:.3g}{['', 'k', 'M', 'G', 'T'][unit]}"
