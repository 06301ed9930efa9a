"""The folder of a run: its description, metrics, best weights, checkpoints and result.

    config.json     recipe, task, model, fingerprint of the data and versions; with the identity of the run
    metrics.jsonl   one line for each finished epoch
    best.npz        parameters and state of the best epoch; neither data nor optimizer is needed to read it
    checkpoints/    all that a resumed run needs; see `jaxcnn.training.checkpoint`
    result.json     the figures of the finished run
    lock            held by the process that trains, which it names

Every file names the run that wrote it and has a checksum, so that an edited or damaged file, or one of another run, is
noticed when it is read. The folder can be moved.
"""

import contextlib
import json
import os
import re
import secrets
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import trees
from jaxcnn.data import FitPicture
from jaxcnn.files import LockedError, check_target, locked, written_whole
from jaxcnn.models.text import difference, parse_value
from jaxcnn.text import printable
from jaxcnn.training import first_schema
from jaxcnn.training.checkpoint import Checkpoints
from jaxcnn.training.recipe import Recipe
from jaxcnn.training.run_files import (
    RESTORE,
    RunFolderError,
    parse_json,
    read_json,
    reading_errors,
    sealed,
    verified,
    write_json,
    writing_errors,
)
from jaxcnn.types import Layer, Params, Shape, State, Task

SCHEMA = 1
"""Version of the layout. For folders without one, see `jaxcnn.training.first_schema`."""

_REQUIRED = ("recipe", "model", "task", "image_shape", "class_names", "data_fingerprint", "versions")


class RunFolder:
    """An existing folder of a run.

    Args:
      path: the folder.

    Attributes:
      path: the folder.
      config: the description of the run, as JSON values by name.

    Raises:
      RunFolderError: the path is not a run folder, or config.json is damaged, was edited or is of a later version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock: int | None = None
        file = self.path / "config.json"
        if not file.is_file():
            if runs := listed_runs(path):
                raise RunFolderError(
                    f"expected the folder of one run, got that of {len(runs)} runs; give one of them, such as "
                    f"{printable(runs[0])}"
                )
            raise RunFolderError(
                f"expected the folder of a run, with a config.json, got {printable(path)}; create one with "
                "`jaxcnn train`"
            )
        config = read_json(file)
        if "schema" not in config:
            self.config = _upgraded(config, file)
            return
        if config["schema"] != SCHEMA:
            raise RunFolderError(
                f"expected a run folder of schema {SCHEMA} in {printable(file)}, got {config['schema']!r}; it was "
                "written by a later version of jaxcnn, which can read it"
            )
        self.config = verified(config, file)
        if missing := [name for name in ("run", *_REQUIRED) if name not in self.config]:
            raise RunFolderError(
                f"expected {', '.join(missing)} in {printable(file)}; was it written by another program?"
            )

    @classmethod
    @contextlib.contextmanager
    def create(
        cls, path: str | os.PathLike[str], config: Mapping[str, Any], *, numbered: bool = False
    ) -> Iterator[Self]:
        """Creates the folder of a new run, locked for this process while the block runs.

        Args:
          path: the folder; it must be new or empty.
          config: the description of the run, as JSON values by name.
          numbered: whether to append a number to the name if there is such a folder already. No two processes get the
            same folder.

        Yields:
          The folder.

        Raises:
          RunFolderError: the folder exists and is not empty, its path is not UTF-8, or it cannot be written.
        """
        folder = Path(path)
        _check_path(folder)
        # Before the folder is made: a value that JSON does not know leaves none.
        content = sealed({"schema": SCHEMA, "run": secrets.token_hex(8), **config})
        folder = _made(folder, numbered=numbered)
        with _locked(folder):
            _check_empty(folder)
            with writing_errors(folder):
                _remove_unfinished(folder)
                write_json(folder / "config.json", content)
            run = cls(folder)
            with run._guarded():
                yield run

    @contextlib.contextmanager
    def writing(self) -> Iterator[Self]:
        """Locks the folder for this process while the block runs.

        Yields:
          The folder.

        Raises:
          RunFolderError: another process trains in it, or it cannot be written.
        """
        with _locked(self.path), self._guarded():
            with writing_errors(self.path):
                _remove_unfinished(self.path)
            yield self

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        with writing_errors(self.path):
            self._lock = os.stat(self.path / "lock").st_ino
        try:
            yield
        finally:
            self._lock = None

    @property
    def id(self) -> str | None:
        """The identity of the run; None for a folder of version 0.1."""
        return self.config.get("run")

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run.

        Raises:
          RunFolderError: this version refuses a field.
        """
        with self._reading("recipe"):
            return Recipe.from_json(self.config["recipe"])

    @property
    def task(self) -> Task:
        """The task of the run.

        Raises:
          RunFolderError: this version does not know it.
        """
        with self._reading("task"):
            return parse_value(self.config["task"])

    @property
    def preprocessing(self) -> FitPicture | None:
        """What fitted the images of the data; None if nothing did.

        Raises:
          RunFolderError: this version does not know it.
        """
        with self._reading("preprocessing"):
            # Configs of older versions lack it.
            text = self.config.get("preprocessing")
            value = None if text is None else parse_value(text)
            if not isinstance(value, FitPicture | None):
                raise ValueError(f"{text!r:.200}")
            return value

    def described(self, layer: Layer | None = None) -> tuple[Layer, Shape, tuple[str, ...]]:
        """Returns all that the use of the model needs besides its weights.

        Args:
          layer: the model, if it has classes that are not imported or functions of your own; None reads it from the
            folder.

        Returns:
          The model, the shape of its images and the names of its classes.

        Raises:
          RunFolderError: the model is unknown or differs from `layer`, or the data of a run of version 0.1 are
            missing.
        """
        with self._reading("model"):
            text = self.config["model"]
            if text is None:
                return first_schema.describe(self.config)
            if layer is not None and (lines := difference(text, layer)):
                raise ValueError(f"{lines[0]!r:.200}, which differs from {lines[1]!r:.200} in layer=")
            found = self._parsed(text) if layer is None else layer
            return found, tuple(self.config["image_shape"]), tuple(self.config["class_names"])

    @staticmethod
    def _parsed(text: str) -> Layer:
        try:
            return parse_value(text)
        except ValueError as error:
            raise ValueError(
                f"{error}; a model with classes or functions of your own is loaded in Python: "
                "jaxcnn.load(folder, layer=model)"
            ) from error

    @contextlib.contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError, ImportError, KeyError, TypeError) as error:
            where = printable(self.path / "config.json")
            raise RunFolderError(f"expected the {what} of a run in {where}, got: {error}") from error

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of the run."""
        return Checkpoints(self.path / "checkpoints", owner=self.id)

    def check_writable(self) -> None:
        """Checks that this process still holds the folder.

        Raises:
          RunFolderError: the folder was deleted, moved or replaced while the run wrote to it.
        """
        try:
            held = os.stat(self.path / "lock").st_ino == self._lock and (self.path / "config.json").is_file()
        except OSError:
            held = False
        if not held:
            raise RunFolderError(
                f"expected the folder {printable(self.path)} to stay while its run is in progress, but it was deleted "
                "or replaced; what it held is lost, start a new run"
            )

    def metrics(self) -> list[dict[str, Any]]:
        """Reads metrics.jsonl.

        Returns:
          A dict for each finished epoch. A last line without its end, which a killed process leaves, does not count.

        Raises:
          RunFolderError: a line is damaged, was edited, is missing, or belongs to another run; or a finished run
            has fewer lines than epochs.
        """
        file, lines = self.path / "metrics.jsonl", []
        if file.exists():
            with reading_errors(file):
                *lines, _unfinished = file.read_bytes().split(b"\n")
        rows = [self._row(line, number, file) for number, line in enumerate(lines, start=1)]
        result = self.result()
        if result is not None and len(rows) < (least := result["best_epoch"]):
            raise RunFolderError(
                f"expected the metrics of at least {least} epochs in {printable(file)}, as result.json says, got "
                f"{len(rows)}; {RESTORE}"
            )
        return rows

    def _row(self, line: bytes, number: int, file: Path) -> dict[str, Any]:
        where = f"{printable(file)}, line {number}"
        row = self._unsigned(parse_json(line, where), where)
        if row.get("epoch") != number:
            raise RunFolderError(f"expected epoch {number} in {where}, got {row.get('epoch')!r}; {RESTORE}")
        return row

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Appends the metrics of an epoch to metrics.jsonl.

        Args:
          row: the metrics, as JSON values by name; "epoch" is the number of the line.

        Raises:
          RunFolderError: the folder was deleted, or the line cannot be written.
        """
        self.check_writable()
        with writing_errors(self.path), check_target(self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(self._signed(row)) + "\n")

    def keep_metrics(self, epochs: int) -> list[dict[str, Any]]:
        """Drops the lines of epochs that a resumed run will repeat.

        Args:
          epochs: number of finished epochs.

        Returns:
          The remaining lines.

        Raises:
          RunFolderError: a line is damaged, or lines are missing.
        """
        rows = self.metrics()[:epochs]
        if len(rows) < epochs:
            raise RunFolderError(
                f"expected the metrics of {epochs} epochs in {printable(self.path / 'metrics.jsonl')}, "
                f"got {len(rows)}; {RESTORE}"
            )
        self.check_writable()
        with writing_errors(self.path), written_whole(self.path / "metrics.jsonl") as file:
            file.write("".join(json.dumps(self._signed(row)) + "\n" for row in rows).encode())
        return rows

    def _signed(self, content: Mapping[str, Any]) -> Mapping[str, Any]:
        return content if self.id is None else sealed({**content, "run": self.id})

    def _unsigned(self, content: dict[str, Any], where: Path | str) -> dict[str, Any]:
        """Checks and removes what `_signed` added."""
        if self.id is None:
            return content
        rest = verified(content, where)
        if rest.pop("run", None) != self.id:
            raise RunFolderError(
                f"expected the content of run {self.id} in {printable(where)}, got that of another run"
            )
        return rest

    def result(self) -> dict[str, Any] | None:
        """Reads result.json, which a finished run has.

        Raises:
          RunFolderError: the file is damaged, was edited, or belongs to another run.
        """
        file = self.path / "result.json"
        return self._unsigned(read_json(file), file) if file.exists() else None

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Writes result.json.

        Raises:
          RunFolderError: the folder was deleted, or the file cannot be written.
        """
        self.check_writable()
        with writing_errors(self.path):
            write_json(self.path / "result.json", self._signed(result))

    def save_best(self, params: Params, state: State, epoch: int) -> None:
        """Writes best.npz.

        Args:
          params: parameters of the best epoch.
          state: its state.
          epoch: its number.

        Raises:
          RunFolderError: the folder was deleted, or the file cannot be written.
        """
        self.check_writable()
        leaves = trees.named_leaves({"params": params, "state": state})
        arrays = {name: np.asarray(leaf) for name, leaf in leaves.items()}
        about = sealed(
            {
                "run": self.id,
                "epoch": epoch,
                "leaves": {
                    name: {"dtype": str(array.dtype), "shape": list(array.shape), "crc32": zlib.crc32(array.tobytes())}
                    for name, array in arrays.items()
                },
            }
        )
        # NumPy's format does not support bfloat16: all arrays are written as bytes.
        content: Any = {name: np.frombuffer(array.tobytes(), np.uint8) for name, array in arrays.items()}
        with writing_errors(self.path), written_whole(self.path / "best.npz") as file:
            np.savez(file, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **content)

    def read_best(self) -> tuple[dict[str, dict[str, jax.Array]], int, tuple[str, ...]]:
        """Reads the weights of the best epoch: best.npz, or the newest checkpoint in a folder without that file.

        Returns:
          The leaves by path, under "params" and "state"; the number of the epoch; and one line for each damaged
          checkpoint that was skipped.

        Raises:
          RunFolderError: best.npz is damaged or of another run, or no epoch is finished.
          CheckpointError: there is no best.npz, and all checkpoints are damaged or of another run.
        """
        file = self.path / "best.npz"
        skipped: tuple[str, ...] = ()
        if file.exists():
            leaves, epoch = self._read_best_file(file)
        else:
            leaves, epoch, skipped = self._best_of_checkpoints()
        found: dict[str, dict[str, jax.Array]] = {"params": {}, "state": {}}
        for path, leaf in leaves.items():
            kind, _, name = path.partition("/")
            found[kind][name] = leaf
        return found, epoch, skipped

    def _read_best_file(self, file: Path) -> tuple[dict[str, jax.Array], int]:
        advice = "; restore the file from a copy, or delete it to use the best epoch of the newest checkpoint"
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as content:
                arrays = {name: content[name] for name in content.files}
            about = verified(parse_json(arrays.pop("about").tobytes(), file), file)
            if about["run"] != self.id:
                raise RunFolderError(
                    f"expected the weights of run {self.id} in {printable(file)}, got those of another"
                )
            leaves = {}
            for name, leaf in about["leaves"].items():
                array = np.frombuffer(arrays[name].tobytes(), jnp.dtype(leaf["dtype"])).reshape(leaf["shape"])
                if zlib.crc32(array.tobytes()) != leaf["crc32"]:
                    raise RunFolderError(f"leaf {name!r} does not match its checksum")
                leaves[name] = jnp.array(array)
            return leaves, about["epoch"]
        # On damaged files NumPy and zip raise many kinds of exceptions.
        except Exception as error:
            raise RunFolderError(f"expected the best weights in {printable(file)}, got: {error}{advice}") from error

    def _best_of_checkpoints(self) -> tuple[dict[str, jax.Array], int, tuple[str, ...]]:
        try:
            best = self.checkpoints.restore_leaves("best/")
        except FileNotFoundError:
            raise RunFolderError(_no_epoch(self.path)) from None
        if best.meta["best"]["epoch"] == 0:
            raise RunFolderError(_no_epoch(self.path))
        return best.tree, best.meta["best"]["epoch"], best.skipped


def is_run_folder(path: str | os.PathLike[str]) -> bool:
    """Tells whether a path is the folder of a run, rather than of published weights, which may have a config.json too.

    Args:
      path: any path.
    """
    folder = Path(path)
    return (folder / "config.json").is_file() and ((folder / "best.npz").exists() or (folder / "checkpoints").is_dir())


_LIST = "runs.json"
"""The file that lists the run folders in the folder of several runs."""


def make_list(path: str | os.PathLike[str], names: Sequence[str], *, numbered: bool = False) -> Path:
    """Creates a folder of several runs, with the list of their run folders, which do not exist yet.

    Args:
      path: the folder; it must be new or empty.
      names: the names of the run folders in it.
      numbered: as for `RunFolder.create`.

    Returns:
      The path of the folder.

    Raises:
      RunFolderError: the folder exists and is not empty, its path is not UTF-8, or it cannot be written.
    """
    folder = Path(path)
    _check_path(folder)
    folder = _made(folder, numbered=numbered)
    with writing_errors(folder):
        write_json(folder / _LIST, sealed({"runs": list(names)}))
    return folder


def listed_runs(folder: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Lists the run folders in a folder of several runs, as `jaxcnn.training.train_many` writes it.

    Args:
      folder: any path.

    Returns:
      Their paths, in the order of the runs; empty if it is no such folder.

    Raises:
      RunFolderError: the file that lists them is damaged.
    """
    file = Path(folder) / _LIST
    return tuple(Path(folder) / name for name in verified(read_json(file), file)["runs"]) if file.is_file() else ()


def _no_epoch(path: Path) -> str:
    return (
        f"expected a run with at least one whole epoch, got {printable(path)}, which stopped earlier; resume it first"
    )


def _upgraded(config: dict[str, Any], file: Path) -> dict[str, Any]:
    if not isinstance(config.get("options"), dict) or not isinstance(config.get("versions"), dict):
        raise RunFolderError(f"expected the options of a run in {printable(file)}, got another file; {RESTORE}")
    return first_schema.upgraded(config)


def _made(folder: Path, *, numbered: bool) -> Path:
    """Makes an empty folder, under a new name if wanted."""
    if not numbered:
        _check_empty(folder)
    with writing_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        if numbered:
            return _numbered(folder)
        folder.mkdir(exist_ok=True)
    return folder


def _numbered(path: Path) -> Path:
    """Creates a new folder, with a number after its name if the name is taken."""
    number, folder = 1, path
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
            folder = path.with_name(f"{path.name}-{number}")


def _check_path(path: Path) -> None:
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        # Checkpoints need UTF-8, and would fail only after the first epochs.
        raise RunFolderError(
            f"expected a folder whose whole path is UTF-8, got {printable(path.absolute())}; choose another"
        ) from None
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise RunFolderError(
                f"expected a new folder for the run, got the file {printable(place)}; choose another name"
            )


def _check_empty(folder: Path) -> None:
    ours = {folder / "lock", *_unfinished(folder)}
    others = sorted(path.name for path in folder.iterdir() if path not in ours) if folder.exists() else []
    if others:
        what = "already contains a run" if "config.json" in others else f"is not empty ({printable(others[0])})"
        raise RunFolderError(
            f"expected a new folder for the run, but {printable(folder)} {what}; choose another folder, or resume its "
            "run"
        )


def _unfinished(folder: Path) -> list[Path]:
    """Lists what a process left that was killed while it wrote a file of the run, or a picture: see `written_whole`."""
    return [path for path in folder.glob(".*.tmp") if re.fullmatch(r"\..+\.[0-9a-f]{16}\.tmp", path.name)]


def _remove_unfinished(folder: Path) -> None:
    for path in _unfinished(folder):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder."""
    with contextlib.ExitStack() as held:
        try:
            with writing_errors(folder):
                held.enter_context(locked(folder / "lock"))
        except LockedError as error:
            raise RunFolderError(
                f"expected a run folder that no other process writes to, got {printable(folder)}, in which process "
                f"{printable(error.holder)} trains; wait for it, or stop it"
            ) from None
        yield
