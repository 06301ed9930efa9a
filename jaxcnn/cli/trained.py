"""The trained model of a run."""

from pathlib import Path
from typing import Any, NamedTuple

from jaxcnn.cli import pairs
from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.cli.run_folder import RunFolder
from jaxcnn.cli.terminal import say, shown
from jaxcnn.cli.train import restore, set_up
from jaxcnn.cli.transfer import read_normalization
from jaxcnn.models.catalog import Model
from jaxcnn.training.checkpoint import CheckpointError, Checkpoints


class Trained(NamedTuple):
    """A model with the parameters of its best epoch.

    Attributes:
      model: gives logits.
      params: its parameters.
      state: its state.
      epoch: the best epoch.
      splits: the data of its training, validation and test.
      dtype: dtype of the computation.
    """

    model: Model
    params: Any
    state: Any
    epoch: int
    splits: pairs.Splits
    dtype: Any


def load(run: Path) -> Trained:
    """Reads the best epoch of a run from its newest valid checkpoint.

    Args:
      run: folder of the run.

    Returns:
      The model, ready to use.

    Raises:
      CommandError: the path is not the folder of a run, its data have changed, or no epoch was saved.
    """
    folder = RunFolder(run)
    experiment = set_up(folder.options, read_normalization(folder))
    if folder.config["data_fingerprint"] != experiment.fingerprint:
        raise CommandError(
            f"expected the data that the run in {shown(run)} was trained on, got other data; were they changed?"
        )
    with reported(FileNotFoundError, CheckpointError, ValueError):
        restored = restore(experiment, Checkpoints(folder.checkpoints))
    for reason in restored.skipped:
        say(f"skipped a damaged checkpoint: {reason}")
    epoch = restored.meta["best"]["epoch"]
    if epoch == 0:
        raise CommandError(
            f"expected a run with at least one whole epoch, got {shown(run)}, which stopped earlier; resume it first"
        )
    best = restored.tree["best"]
    return Trained(experiment.model, best["params"], best["state"], epoch, experiment.splits, experiment.dtype)
