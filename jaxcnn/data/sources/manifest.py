"""Pictures listed in a table: a CSV or Parquet file with their paths and labels."""

import csv
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from jaxcnn.data.sources.faults import refuse_faults
from jaxcnn.data.sources.parts import PARTS
from jaxcnn.data.sources.picture_files import PictureFiles, left_out
from jaxcnn.data.sources.picture_index import Examined, Listed, examine, listed

EXTENSIONS = (".csv", ".tsv", ".parquet")
"""Extensions of tables, in lower case."""

Kind: TypeAlias = Literal["auto", "classes", "multi-label", "numbers"]
"""What the labels of a table are; see `manifest`."""

_IMAGE_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "picture")
_LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target", "targets", "tags", "value")
_SPLIT_COLUMN = "split"
"""Names of columns in lower case."""

_DELIMITERS = (",", ";", "\t")


class _Table(NamedTuple):
    """A table as texts.

    Attributes:
      path: of its file.
      columns: values by name of the column; lists are tuples of texts, missing values are "".
      lines: for each row, where it is, such as "line 7".
    """

    path: Path
    columns: dict[str, list[Any]]
    lines: list[str]


class _Labels(NamedTuple):
    """The labels of all rows: the entry of examples that they are, its values, and the names of the classes."""

    name: str
    values: np.ndarray
    class_names: tuple[str, ...]


def manifest(
    path: str | os.PathLike[str],
    *,
    image: str | None = None,
    label: str | Sequence[str] | None = None,
    kind: Kind = "auto",
    separator: str | None = None,
    split: str | None = None,
    channels: int = 3,
    skip_bad: bool = False,
    class_names: Sequence[str] | None = None,
) -> PictureFiles | dict[str, PictureFiles]:
    """Reads pictures that a table lists, in CSV (`.csv`, `.tsv`) or Parquet (`.parquet`).

        path,label,split
        photos/one.jpg,cat,train
        photos/two.png,dog,test

    The first row names the columns. Paths are relative to the folder of the table. What the labels are:

    - "classes": one column with the name or the number of a class, which becomes "label". The classes are sorted by
      name, or by number if all are numbers.
    - "multi-label": any number of classes, which become a "label" of zeros and ones, uint8, shape (classes,). One
      column with names between a separator, or with lists (Parquet); or one column of 0 and 1 for each class.
    - "numbers": one or several columns of numbers, which become "target", float32, shape (columns,).
    - "auto": one column is multi-label if it has lists or there is a separator, numbers if one of them has a decimal
      point or an exponent, and classes otherwise. Several columns are multi-label if all values are 0 or 1, and numbers
      otherwise.

    Files are read, checked and left out as by `image_folder`.

    Args:
      path: the table.
      image: the column of paths. None: `path`, `file`, `filename`, `image` or the like.
      label: the column of labels, or several. None: `label`, `class`, `target` or the like, or the only one left.
      kind: what the labels are.
      separator: what is between the names of several classes in one column, such as "|".
      split: the column that names the part of each picture: train, val (or valid, validation) or test. None: `split`,
        if there is such a column.
      channels: 1 reads the pictures as grey, 3 as red, green and blue.
      skip_bad: leave out files that are no pictures, as `image_folder` does.
      class_names: the classes in another order; not every one must occur. None: the sorted classes of the table.

    Returns:
      The examples, or parts of them by name if there is a column of parts.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is no such table, a column is missing, a value cannot be used, a picture is listed twice or
        cannot be read, or there are fewer than two classes. The message names the lines.
      ImportError: Pillow is not installed, or pyarrow, which reads Parquet.
    """
    if channels not in (1, 3):
        raise ValueError(f"manifest expects 1 or 3 channels, got {channels}")
    if kind not in get_args(Kind):
        raise ValueError(f"manifest expects kind to be one of {', '.join(get_args(Kind))}, got {kind!r}")
    table = _read_table(Path(path))
    images = _column(table, image, _IMAGE_COLUMNS, "paths of pictures", "image")
    splits = split or next((name for name in table.columns if name.lower() == _SPLIT_COLUMN), None)
    names = _label_columns(table, label, {images, splits})
    table = _stripped(table, keep=images)
    labels = _labels(table, names, kind, separator, class_names)
    parts = ["train"] * len(table.lines) if splits is None else _parts(table, splits)
    paths = table.columns[images]
    _check_paths(table, paths)
    found = _examined(table, paths, skip_bad)
    kept, faults = left_out(table.path, found, skip_bad=skip_bad)
    sources = {}
    for part in dict.fromkeys(PARTS.values()):
        rows = [row for row in kept if parts[row] == part]
        if not rows and part not in parts:
            continue
        if not rows:
            raise ValueError(
                f"expected pictures of the part {part!r} in {os.fspath(path)!r}, got none that can be read"
            )
        sources[part] = PictureFiles(
            str(table.path.parent),
            tuple(paths[row] for row in rows),
            {labels.name: labels.values[rows]},
            labels.class_names,
            channels,
            found.sizes[rows],
            found.digests[rows],
            faults,
        )
    if "train" not in sources:
        raise ValueError(
            f"expected the part 'train' in the column {splits!r} of {os.fspath(path)!r}, got {', '.join(sources)}"
        )
    if class_names is None:
        _check_training(table, sources["train"])
    return sources["train"] if splits is None else sources


def _read_table(path: Path) -> _Table:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {os.fspath(path)!r}; expected a table of pictures")
    suffix = path.suffix.lower()
    if suffix not in EXTENSIONS:
        raise ValueError(f"expected a table with the extension {', '.join(EXTENSIONS)}, got {os.fspath(path)!r}")
    table = _read_parquet(path) if suffix == ".parquet" else _read_csv(path)
    if not table.lines:
        raise ValueError(f"expected a row for each picture in {os.fspath(path)!r}, got none")
    return table


def _read_csv(path: Path) -> _Table:
    name = os.fspath(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            # The one that occurs most often in the names of the columns.
            delimiter = max(_DELIMITERS, key=first.count)
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
            header = next(reader, [])
            rows, lines = [], []
            try:
                for row in reader:
                    if row:
                        rows.append(row)
                        lines.append(f"line {reader.line_num}")
            except csv.Error as error:
                raise ValueError(f"expected CSV in {name!r}, line {reader.line_num}, got: {error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"expected CSV in UTF-8 in {name!r}, got: {error}") from error
    if doubled := sorted({column for column in header if header.count(column) > 1}):
        raise ValueError(f"expected columns of different names in {name!r}, got {doubled[0]!r} twice")
    faults = [f"{line} has {len(row)}" for row, line in zip(rows, lines, strict=True) if len(row) != len(header)]
    refuse_faults(path, faults, f"{len(header)} values in every row, one for each column")
    return _Table(path, {column: [row[i] for row in rows] for i, column in enumerate(header)}, lines)


def _read_parquet(path: Path) -> _Table:
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("Parquet files are read by pyarrow; pip install pyarrow, or write a .csv file") from error
    try:
        columns = pyarrow.parquet.read_table(path).to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"expected Parquet in {os.fspath(path)!r}, got: {error}") from error
    lines = [f"row {row}" for row in range(1, 1 + len(next(iter(columns.values()), ())))]
    texts = {}
    for name, values in columns.items():
        if all(isinstance(value, str | int | float | list | None) for value in values):
            texts[name] = [tuple(map(str, value)) if isinstance(value, list) else _text(value) for value in values]
    return _Table(path, texts, lines)


def _text(value: str | float | None) -> str:
    if value is None:
        return ""
    return str(int(value) if isinstance(value, bool) else value)


def _stripped(table: _Table, keep: str) -> _Table:
    """Removes blanks around values, which would make other classes; not around paths, where they may be meant."""

    def strip(value: Any) -> Any:
        return tuple(map(str.strip, value)) if isinstance(value, tuple) else value.strip()

    columns = {name: values if name == keep else [*map(strip, values)] for name, values in table.columns.items()}
    return table._replace(columns=columns)


def _column(table: _Table, given: str | None, known: Sequence[str], what: str, argument: str) -> str:
    """Finds a column by the name that was given, or by the usual names."""
    if given is not None:
        if given not in table.columns:
            raise ValueError(
                f"expected the column {given!r} in {os.fspath(table.path)!r}, got {', '.join(map(repr, table.columns))}"
            )
        return given
    usual = {name.lower(): name for name in table.columns}
    for name in known:
        if name in usual:
            return usual[name]
    option = ", on the command line --labels" if argument == "label" else ""
    raise ValueError(
        f"expected a column of {what}, such as {known[0]!r}, in {os.fspath(table.path)!r}, got "
        f"{', '.join(map(repr, table.columns)) or 'none'}; name it: {argument}={option}"
    )


def _label_columns(table: _Table, given: str | Sequence[str] | None, others: set[str | None]) -> list[str]:
    if given is None:
        left = [name for name in table.columns if name not in others]
        return [left[0] if len(left) == 1 else _column(table, None, _LABEL_COLUMNS, "labels", "label")]
    names = [given] if isinstance(given, str) else list(given)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"manifest expects different columns of labels, got {names}")
    return [_column(table, name, (), "labels", "label") for name in names]


def _labels(
    table: _Table, names: list[str], kind: Kind, separator: str | None, class_names: Sequence[str] | None
) -> _Labels:
    columns = [table.columns[name] for name in names]
    lists = any(isinstance(value, tuple) for column in columns for value in column)
    if kind == "auto":
        kind = _guessed(columns, lists or separator is not None)
    if kind == "numbers":
        return _Labels("target", _numbers(table, names), ())
    if kind == "classes":
        if len(names) > 1:
            raise ValueError(
                f"expected one column of classes, got {', '.join(map(repr, names))}; kind= tells the others"
            )
        return _classes(table, columns[0], class_names)
    if len(names) > 1:
        values = _numbers(table, names)
        faults = [line for line, row in zip(table.lines, values, strict=True) if not np.isin(row, (0, 1)).all()]
        refuse_faults(table.path, faults, f"0 or 1 in the columns {', '.join(map(repr, names))}")
        order = list(names if class_names is None else class_names)
        if sorted(order) != sorted(names):
            raise ValueError(f"expected a column for each of the classes {order}, got {names}")
        return _Labels("label", values[:, [names.index(name) for name in order]].astype(np.uint8), tuple(order))
    if not lists and separator is None:
        raise ValueError(
            f"expected a separator for several classes in the column {names[0]!r}, as separator='|', or a column for "
            "each class, got neither"
        )
    sets = [
        value if isinstance(value, tuple) else tuple(part.strip() for part in value.split(separator) if part.strip())
        for value in columns[0]
    ]
    if lists:
        missing = [line for line, value in zip(table.lines, columns[0], strict=True) if not isinstance(value, tuple)]
        refuse_faults(table.path, missing, f"a list of classes in every row of the column {names[0]!r}")
    known = _known(table, [name for one in sets for name in one], class_names)
    numbers = {name: number for number, name in enumerate(known)}
    faults = [
        f"{line} has the class {name!r}"
        for line, one in zip(table.lines, sets, strict=True)
        for name in one
        if name not in numbers
    ]
    refuse_faults(table.path, faults, f"the classes {', '.join(map(repr, known))}")
    values = np.zeros((len(sets), len(known)), np.uint8)
    for row, one in enumerate(sets):
        values[row, [numbers[name] for name in one]] = 1
    return _Labels("label", values, known)


def _guessed(columns: list[list[Any]], several: bool) -> Kind:
    if several and len(columns) == 1:
        return "multi-label"
    values = [value for column in columns for value in column]
    if len(columns) > 1:
        return "multi-label" if set(values) <= {"0", "1", "0.0", "1.0"} else "numbers"
    # Missing, infinite and undefined numbers are refused later: beside fractions they are no names of classes.
    fractions = [value for value in values if _is_number(value) and not value.lstrip("+-").isdecimal()]
    return "numbers" if fractions and all(not value or _number(value) is not None for value in values) else "classes"


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _is_number(text: Any) -> bool:
    number = _number(text)
    return number is not None and math.isfinite(number)


def _numbers(table: _Table, names: list[str]) -> np.ndarray:
    """Returns float32, shape (rows, columns)."""
    faults = [
        f"{line} has {value!r}" + (f" in {name!r}" if len(names) > 1 else "")
        for name in names
        for line, value in zip(table.lines, table.columns[name], strict=True)
        if not _is_number(value)
    ]
    refuse_faults(table.path, faults, f"finite numbers in the column{'s' if len(names) > 1 else ''} {', '.join(names)}")
    return np.array([[float(value) for value in table.columns[name]] for name in names], np.float32).T


def _classes(table: _Table, values: list[Any], class_names: Sequence[str] | None) -> _Labels:
    faults = [f"{line} has none" for line, value in zip(table.lines, values, strict=True) if not value]
    refuse_faults(table.path, faults, "a class for every picture")
    known = _known(table, values, class_names)
    numbers = {name: number for number, name in enumerate(known)}
    faults = [f"{line} has {value!r}" for line, value in zip(table.lines, values, strict=True) if value not in numbers]
    refuse_faults(table.path, faults, f"the classes {', '.join(map(repr, known))}")
    return _Labels("label", np.array([numbers[value] for value in values], np.int32), known)


def _known(table: _Table, values: Sequence[str], class_names: Sequence[str] | None) -> tuple[str, ...]:
    if class_names is not None:
        return tuple(class_names)
    found = set(values)
    if len(found) < 2:
        raise ValueError(
            f"expected at least two classes in {os.fspath(table.path)!r}, got {', '.join(map(repr, found)) or 'none'}"
        )
    numbers = all(value.isdecimal() for value in found)
    return tuple(sorted(found, key=lambda name: (int(name), name)) if numbers else sorted(found))


def _parts(table: _Table, column: str) -> list[str]:
    if column not in table.columns:
        raise ValueError(
            f"expected the column {column!r} in {os.fspath(table.path)!r}, got {', '.join(map(repr, table.columns))}"
        )
    values = table.columns[column]
    parts = [PARTS.get(str(value).lower(), "") for value in values]
    faults = [f"{line} has {value!r}" for line, value, part in zip(table.lines, values, parts, strict=True) if not part]
    refuse_faults(table.path, faults, f"train, val or test in the column {column!r}")
    return parts


def _check_paths(table: _Table, paths: list[Any]) -> None:
    """Refuses rows without a path, and pictures that are listed twice, which could be in two parts."""
    faults, seen = [], {}
    for line, path in zip(table.lines, paths, strict=True):
        if not isinstance(path, str) or not path or "\0" in path:
            faults.append(f"{line} has the path {path!r}")
            continue
        first = seen.setdefault(os.path.abspath(os.path.join(table.path.parent, path)), line)
        if first != line:
            faults.append(f"{line} lists {path!r} again, after {first}")
    refuse_faults(table.path, faults, "a picture in every row, and each picture once")


def _examined(table: _Table, paths: list[str], skip_bad: bool) -> Examined:
    """Examines the files, and names their lines in the faults."""
    root = table.path.parent

    def found(name: str) -> Listed:
        try:
            return listed(name, os.stat(os.path.join(root, name)))
        except OSError as error:
            return Listed(name, 0, 0, 0, f"which cannot be read: {error.strerror}")

    whole = examine(table.path, root, [found(path) for path in paths], pixels=skip_bad)
    faults = [fault and f"{line}: {fault}" for line, fault in zip(table.lines, whole.faults, strict=True)]
    return whole._replace(faults=faults)


def _check_training(table: _Table, train: PictureFiles) -> None:
    """Refuses classes without a picture to train with."""
    if not train.class_names:
        return
    labels = train.entries["label"]
    counts = labels.sum(0) if labels.ndim > 1 else np.bincount(labels, minlength=len(train.class_names))
    missing = [name for name, count in zip(train.class_names, counts, strict=True) if not count]
    if missing:
        raise ValueError(
            f"expected training pictures of every class in {os.fspath(table.path)!r}, got none of "
            f"{', '.join(map(repr, missing))}; add some, or remove the class everywhere"
        )
