"""`jaxcnn plot`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxcnn import plots
from jaxcnn.cli.activity import Activity
from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.cli.options import Plot
from jaxcnn.cli.terminal import say, shown
from jaxcnn.files import check_target
from jaxcnn.training.run_folder import RunFolder, RunFolderError, listed_runs


def plot(options: Plot) -> int:
    """Draws the curves of runs together; runs that differ only in their seed are one line with a band.

    Args:
      options: the folders of the runs and the picture.

    Returns:
      The exit status, 0.

    Raises:
      CommandError: a run cannot be read or has no finished epoch, or the picture cannot be written.
    """
    if not options.runs:
        raise CommandError("plot expects the folder of at least one run: jaxcnn plot RUN [RUN ...]")
    with reported(RunFolderError):
        # A folder of several runs stands for all of them.
        paths = [run for path in options.runs for run in listed_runs(path) or (path,)]
    if options.labels and len(options.labels) != len(paths):
        raise CommandError(f"--labels expects one label for each of the {len(paths)} runs, got {len(options.labels)}")
    if options.output.suffix.lower() != ".png":
        raise CommandError(f"--output expects a file with the extension .png, got {shown(options.output)}")
    with reported(OSError):
        check_target(options.output)
    with reported(RunFolderError):
        folders = [RunFolder(path) for path in paths]
        histories = [folder.metrics() for folder in folders]
        metric = _metric(folders)
    for folder, history in zip(folders, histories, strict=True):
        if not history:
            raise CommandError(f"expected a run with a finished epoch, got {shown(folder.path)}, which has none")
    common, differing = compare_options([_settings(folder) for folder in folders])
    with Activity("drawing the picture"), reported(ValueError, OSError):
        figure = plots.comparison(
            histories, options.labels or differing, metric=metric, subtitle=common, band=options.band
        )
        plots.save(figure, options.output)
    say(f"{len(folders)} run{'s' if len(folders) > 1 else ''} in {shown(options.output)}")
    return 0


def _settings(folder: RunFolder) -> dict[str, Any]:
    # The config of a run that was started in Python does not name model and data.
    unnamed = {"model": str(folder.config["model"]).partition("(")[0], "data": "own data"}
    return unnamed | folder.config.get("options", {}) | folder.config["recipe"]


def compare_options(runs: Sequence[dict[str, Any]]) -> tuple[str, list[str]]:
    """Describes what runs have in common, and how each differs from the others.

    Args:
      runs: the options of each run, by name.

    Returns:
      Model and data, such as "lenet5 on digits", or "several models" and "several data sets"; and for each run the
      options that differ, without the seed, such as "learning_rate=0.1", or the model if no option differs.
    """
    names = dict.fromkeys(name for run in runs for name in run)
    differ = [name for name in names if name != "seed" and any(run.get(name) != runs[0].get(name) for run in runs)]
    model = "several models" if "model" in differ else runs[0]["model"]
    source = "several data sets" if "data" in differ else Path(runs[0]["data"]).name
    labels = [", ".join(f"{name}={run.get(name)}" for name in differ) or run["model"] for run in runs]
    return f"{model} on {source}", labels


def _metric(folders: Sequence[RunFolder]) -> str | None:
    """Returns the figure that chooses the best epoch of all runs, if it is a share of 1; None if they differ in it."""
    objectives = {folder.task.objective for folder in folders}
    [objective, *others] = objectives
    return objective.figure if objective.larger_is_better and not others else None
