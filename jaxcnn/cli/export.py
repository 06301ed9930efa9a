"""`jaxcnn export`."""

from typing import Any

from jaxcnn.cli import trained
from jaxcnn.cli.activity import Activity
from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.cli.options import Export
from jaxcnn.cli.terminal import say, shown
from jaxcnn.data import FitPicture
from jaxcnn.interop.export import ExportedModel, check_paths, export_stablehlo
from jaxcnn.interop.onnx import export_onnx
from jaxcnn.tasks import Detection
from jaxcnn.training.run_folder import RunFolder, RunFolderError
from jaxcnn.training.trained_model import TrainedModel
from jaxcnn.types import Shape

_SYMBOLIC = {"auto": None, "any": True, "fixed": False}


def export(options: Export) -> int:
    """Writes the best epoch of a run as a file that runs without jaxcnn, with a description next to it.

    Args:
      options: the run, and the format of the file.

    Returns:
      The exit status, 0.

    Raises:
      CommandError: the run cannot be read, its model cannot be exported with these options, or the file cannot be
        written.
    """
    if options.format == "onnx" and (options.image_size == "any" or options.gradients):
        raise CommandError("--format onnx takes images of the run's size and has no gradients; use --format stablehlo")
    with reported(RunFolderError):
        folder = RunFolder(options.run)
    output = options.output or folder.path / f"model.{options.format}"
    with reported(OSError):
        check_paths(output)
    with Activity("reading the run"):
        run = trained.load(options.run, options.layer)
    if isinstance(run.info.task, Detection):
        _check_detector(options)
    with Activity("exporting the model"), reported(ValueError, ImportError):
        exported = _export(options, run)
    # The config of a run that was started in Python does not name its model.
    name = folder.config.get("options", {}).get("model", type(run.layer).__name__)
    origin = {"model": name, "epoch": run.info.epoch}
    exported = exported._replace(description={"run": origin, **exported.description})
    with reported(OSError):
        path, beside = exported.save(output)
    say(
        f"epoch {run.info.epoch} in {shown(path)} ({len(exported.content):,} bytes), described in {shown(beside)}\n"
        f"it takes {exported.description['input']['sizes']}"
    )
    return 0


def _check_detector(options: Export) -> None:
    """Refuses what a program that decodes the outputs of a detector cannot be or do."""
    if options.format == "onnx":
        raise CommandError(
            "--format onnx expects another run than that of a detector, whose suppression of overlapping boxes "
            "jax2onnx cannot convert; use --format stablehlo, or in Python export_onnx, which writes the outputs "
            "before decoding"
        )
    if options.image_size == "any" or options.gradients:
        given = "--gradients" if options.gradients else "--image-size any"
        raise CommandError(
            f"{given} expects another run than that of a detector, whose boxes are decoded for one image size and have "
            "no gradients; omit it"
        )


def _export(options: Export, run: TrainedModel) -> ExportedModel:
    shape = run.info.image_shape
    arguments: Any = (run.layer, run.params, run.state, shape)
    words: Any = {"class_names": run.info.class_names, "preprocessing": _preprocessing(shape, run.info.preprocessing)}
    if options.format == "onnx":
        return export_onnx(*arguments, **words)
    return export_stablehlo(
        *arguments,
        symbolic_size=_SYMBOLIC[options.image_size],
        platforms=options.platforms,
        gradients=options.gradients,
        dtype=run.info.precision,
        task=run.info.task if isinstance(run.info.task, Detection) else None,
        **words,
    )


_FITS = {
    "crop": "so that the image is covered; the centre is cut out",
    "fit": "on a background of the median colour of their border",
    "stretch": "without keeping their aspect ratio",
}
"""How pictures are resized, by the mode of `FitPicture`."""


def _preprocessing(shape: Shape, fit: FitPicture | None) -> str:
    """Describes the preprocessing of a run's images, which `jaxcnn predict` applies."""
    height, width, channels = shape
    part = f", {fit.crop_fraction:g} of the shorter side" if fit and fit.crop_fraction < 1 else ""
    kind = {1: " of grey", 3: " in the order red, green, blue"}.get(channels, "")
    return (
        f"pixels in [0, 1], 8-bit values divided by 255; {channels} channel{'s' if channels > 1 else ''}{kind}; "
        f"the model was trained on {height}x{width} pixels, to which other images are resized (bilinear, with "
        f"antialias) {_FITS[fit.mode if fit else 'fit']}{part}"
    )
