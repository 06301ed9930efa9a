"""The folder of a run: options, metrics, and the paths of checkpoints and pictures."""

import dataclasses
import json
import platform
from pathlib import Path
from typing import Any

import jax

from jaxcnn import environment
from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.cli.options import Train
from jaxcnn.cli.terminal import shown
from jaxcnn.files import check_target, write_text

_PACKAGES = ("jaxcnn", "jax", "jaxlib", "optax", "numpy", "orbax-checkpoint", "scikit-learn")
_PLACE = ("run_dir", "resume")
"""Options that locate a run but do not define it."""


class RunFolder:
    """An existing folder of a run.

    Args:
      path: the folder.

    Raises:
      CommandError: the path is not the folder of a run, or its config.json cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        config = path / "config.json"
        if not config.is_file():
            raise CommandError(
                f"expected the folder of a run, with a config.json, got {shown(path)}; create one with `jaxcnn train`"
            )
        try:
            self.config: dict[str, Any] = json.loads(config.read_text())
            options = set(self.config["options"])
        except (ValueError, OSError, TypeError, KeyError) as error:
            raise CommandError(
                f"expected the options of a run in {shown(config)}, got a file that cannot be read: {error!r}"
            ) from error
        known = {field.name for field in dataclasses.fields(Train)} - set(_PLACE)
        if options != known:
            raise CommandError(
                f"expected the options {sorted(known)} in {shown(config)}; was it written by another version?"
            )

    @classmethod
    def create(
        cls,
        path: Path,
        options: Train,
        arguments: list[str],
        fingerprint: str,
        begins_with: dict[str, Any],
    ) -> "RunFolder":
        """Creates the folder of a new run.

        Args:
          path: the folder; it must be new or empty.
          options: the options of the training.
          arguments: the words of the command line, for the record.
          fingerprint: checksum of the data.
          begins_with: facts about the initial weights, as JSON values by name.

        Returns:
          The folder.

        Raises:
          CommandError: the path exists and is not an empty folder, or is not UTF-8.
        """
        try:
            str(path.absolute()).encode()
        except UnicodeEncodeError:
            # Checkpoints need UTF-8, and would fail only after the first epochs.
            raise CommandError(
                f"expected a folder whose whole path is UTF-8, got {shown(path.absolute())}; choose another --run-dir"
            ) from None
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            what = "already contains a run" if (path / "config.json").is_file() else "is not empty"
            raise CommandError(
                f"expected a new folder for the run, but {shown(path)} {what}; "
                "choose another --run-dir, or resume its run with --resume"
            )
        with reported(OSError):
            path.mkdir(parents=True, exist_ok=True)
            config = {
                "options": option_values(options),
                "command": ["jaxcnn", "train", *arguments],
                "data_fingerprint": fingerprint,
                **begins_with,
                "commit": environment.commit(),
                "versions": environment.versions(*_PACKAGES),
                "devices": [device.device_kind for device in jax.devices()],
                "platform": platform.platform(),
                "processor": _processor(),
            }
            write_text(path / "config.json", json.dumps(config, indent=2) + "\n")
        return cls(path)

    @property
    def options(self) -> Train:
        """The options of the run."""
        values = self.config["options"].items()
        # JSON has no tuples.
        options: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values}
        return Train(**options, run_dir=self.path)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def metrics(self) -> list[dict[str, Any]]:
        """Reads metrics.jsonl: one dict for each finished epoch."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        rows = []
        for line in path.read_text().splitlines():
            # A process that was killed while writing leaves an incomplete last line.
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Appends a line to metrics.jsonl."""
        with check_target(self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def keep_metrics(self, epochs: int) -> list[dict[str, Any]]:
        """Drops the lines of epochs that a resumed run will repeat.

        Args:
          epochs: number of finished epochs.

        Returns:
          The remaining lines.
        """
        rows = [row for row in self.metrics() if row["epoch"] <= epochs]
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        return rows

    def result(self) -> dict[str, Any] | None:
        """Reads result.json, which a finished run has."""
        path = self.path / "result.json"
        return json.loads(path.read_text()) if path.exists() else None

    def write_result(self, result: dict[str, Any]) -> None:
        """Writes result.json."""
        write_text(self.path / "result.json", json.dumps(result, indent=2) + "\n")


def option_values(options: Train) -> dict[str, Any]:
    """Returns the options that define a run.

    Args:
      options: the options of a training.

    Returns:
      Their values by name.
    """
    return {name: value for name, value in dataclasses.asdict(options).items() if name not in _PLACE}


def versions_differ(folder: RunFolder) -> list[str]:
    """Lists the packages and processors that changed since a run was started.

    On CPU, the order of some of XLA's sums, such as the gradient of a bias, depends on the number of cores.

    Args:
      folder: the folder of the run.

    Returns:
      A line such as "jax 0.10.2, now 0.12.0" for each.
    """
    before, now = folder.config["versions"], environment.versions(*_PACKAGES)
    if jax.default_backend() == "cpu":
        # Configs of older versions lack this key.
        before, now = before | folder.config.get("processor", {}), now | _processor()
    return [f"{name} {was}, now {now.get(name)}" for name, was in before.items() if now.get(name) != was]


def _processor() -> dict[str, Any]:
    return {"processor": environment.processor(), "cores": environment.usable_cores()}
