"""The trained model of a run, and its data."""

from pathlib import Path

from jaxcnn import data
from jaxcnn.cli import names, own_models
from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.cli.terminal import complain, shown
from jaxcnn.cli.train import stored_options
from jaxcnn.data import Source
from jaxcnn.data.sources.source import preprocessing_of
from jaxcnn.training import first_schema
from jaxcnn.training.checkpoint import CheckpointError
from jaxcnn.training.experiment import fingerprints
from jaxcnn.training.run_folder import RunFolder, RunFolderError
from jaxcnn.training.trained_model import TrainedModel, load_model


def load(run: Path, layer: str | None) -> TrainedModel:
    """Reads the model of the best epoch of a run, and prints a note about damaged checkpoints.

    The folder may come from anywhere: code that it names is imported only if the user names it too.

    Args:
      run: folder of the run.
      layer: a function of the module that defines the layers of the model; None for a model of the library.

    Returns:
      The model, ready to use.

    Raises:
      CommandError: the path is not the folder of a run, is damaged, or no epoch was saved; or its model needs `layer`.
    """
    if layer is not None:
        own_models.find(layer)
    with reported(RunFolderError, CheckpointError):
        folder = RunFolder(run)
        if layer is None:
            own_models.check_named(folder, "--layer")
        # Refuses damaged files, although the model does not need them: a folder may come without them.
        if (folder.path / "metrics.jsonl").exists():
            folder.metrics()
        folder.result()
        trained = load_model(run)
        for reason in trained.info.skipped or folder.checkpoints.faults():
            complain(f"note: a damaged checkpoint in {shown(run)} was not used: {reason}")
    return trained


def load_splits(run: Path) -> dict[str, Source]:
    """Reads the data of a run.

    Args:
      run: folder of the run.

    Returns:
      The parts "train", "validation" and "test".

    Raises:
      CommandError: the data differ from the training data of the run, or cannot be read.
    """
    with reported(RunFolderError):
        folder = RunFolder(run)
    options = stored_options(folder)
    if folder.id is None:
        with reported(ValueError, OSError, ImportError):
            first_schema.read_source(folder.config)
    splits = names.load_splits(options)
    if folder.id is not None and folder.config["data_fingerprint"] != fingerprints(splits):
        raise CommandError(
            f"expected the data that the run in {shown(run)} was trained on, got other data; were they changed?"
        )
    if options.random_resized_crop and (fit := preprocessing_of(splits["validation"])) is not None:
        # Training pictures are whole until they are cropped at random; evaluation fits them as all others.
        with reported(ValueError):
            splits["train"] = data.resized(splits["train"], fit)
    return splits
