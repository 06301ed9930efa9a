"""The options of the commands: one frozen dataclass for each command."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Train:
    """Trains a classifier, keeps the best epoch on the validation set, and tests it once.

    Without options, LeNet-5 on scikit-learn's handwritten digits. Ctrl-C stops after the current step and writes a
    checkpoint; a second Ctrl-C stops at once.
    """

    model: str = "lenet5"
    """Name of the model; `jaxcnn summary` lists them."""
    data: str = "digits"
    """Name of the data set, or an .npz file with arrays `images` (n, height, width[, channels]) and `labels` (n,)."""
    classes: tuple[str, ...] = ()
    """Names of the classes to keep; the first becomes label 0. Default: all."""
    examples_per_class: int | None = None
    """Number of training images of each class, drawn by --split-seed. Default: all. Validation and test set are not
    reduced."""
    epochs: int = 40
    """Number of passes over the training set."""
    batch_size: int = 64
    """Images in a step; an epoch omits its last images if they do not fill a batch."""
    optimizer: str = "adamw"
    """Name of the optimizer: adam, adamw, lion, rmsprop or sgd (with Nesterov momentum 0.9)."""
    learning_rate: float = 2e-3
    """Largest learning rate of the schedule."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay of the learning rate after the warm-up."""
    warmup_epochs: float = 3.0
    """Epochs of warm-up, in which the learning rate rises from zero."""
    weight_decay: float = 1e-2
    """Weight decay of the kernels; biases and scales have none."""
    clip_norm: float | None = None
    """Largest norm of the whole gradient; larger gradients are scaled down."""
    label_smoothing: float = 0.0
    """Weight of the uniform distribution in the targets, in [0, 1)."""
    augment: str = "affine"
    """Augmentation of the training images: affine (rotate, scale, shear, shift), crop-flip (for photographs) or
    none."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the computation; parameters and the loss are always float32."""
    seed: int = 0
    """Seed of the initial parameters, the order of the images, the augmentation and the dropout."""
    split_seed: int = 0
    """Seed of the split into training, validation and test set (60, 20 and 20 % of each class)."""
    init_from: str | None = None
    """Source of the initial parameters: the folder of a run (its best epoch), or a source for `load_weights` of
    jaxcnn.interop.weights. Model and number of input channels must match."""
    head: Literal["auto", "new", "keep"] = "auto"
    """With --init-from: whether to draw a new head. auto: if the number of classes differs, or layers are frozen."""
    freeze: str | None = None
    """With --init-from: the layers whose parameters and running moments are frozen: backbone (all but the head), or a
    regular expression that matches the whole path of a layer, such as 'stem|stage[12]'."""
    unfreeze_epoch: int | None = None
    """Number of epochs after which all layers are trained, with a new optimizer, warm-up and schedule. Default:
    never."""
    unfreeze_learning_rate: float | None = None
    """Largest learning rate after --unfreeze-epoch. Default: a tenth of --learning-rate."""
    learning_rates: tuple[str, ...] = ()
    """Discriminative learning rates, PATTERN=FACTOR ...: the learning rate of a parameter is multiplied by the factor
    of the one regular expression that matches its whole path, such as 'head/.*=1' '(?!head/).*=0.1'."""
    cache_features: bool = False
    """Compute the outputs of the frozen layers once for each image, instead of in every epoch; needs --augment none."""
    checkpoint_epochs: int = 10
    """Number of epochs between two checkpoints."""
    run_dir: Path | None = None
    """Folder of the run. Default: a new folder under runs/."""
    resume: bool = False
    """Resume the run in --run-dir, with its options and with the results of a run without a stop."""


@dataclass(frozen=True)
class Evaluate:
    """Evaluates the best epoch of a run on every example of a split."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    split: Literal["test", "validation", "train"] = "test"
    """Part of the data; the training set is not augmented."""
    batch_size: int = 256
    """Images in a batch."""


@dataclass(frozen=True)
class Plot:
    """Draws the losses and the accuracy of several runs in one picture.

    Runs that differ in their seed alone, or that have the same label, are one line: their mean, with a band from the
    smallest to the largest value.
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN ...")]
    """Folders of runs."""
    labels: tuple[str, ...] = ()
    """A label for each run. Default: the options in which the runs differ, without the seed."""
    output: Path = Path("runs.png")
    """PNG file to write; an older file is replaced."""


@dataclass(frozen=True)
class Predict:
    """Classifies image files of any size with the model of a run: PNG, JPEG, GIF, BMP, TIFF, WebP or PPM."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    images: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IMAGE ...")]
    """Image files."""
    top: int = 3
    """Number of classes to print for each image."""
    invert: bool = False
    """Invert light and dark: for dark ink on light paper, if the model was trained on light ink."""


@dataclass(frozen=True)
class Export:
    """Writes the best epoch of a run as a file that runs without jaxcnn, for batches of any size.

    A JSON file beside it describes input and output, and has the class names and Python code that loads the file.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    format: Literal["stablehlo", "onnx"] = "stablehlo"
    """StableHLO, which runs with jax, or ONNX, whose results in onnxruntime are checked before it is written."""
    output: Path | None = None
    """File to write; an older file is replaced. Default: model.stablehlo or model.onnx in the folder of the run."""
    image_size: Literal["auto", "any", "fixed"] = "auto"
    """Image sizes that the program accepts: any, that of the run (fixed), or any if the model supports it (auto). ONNX
    files accept only that of the run."""
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu")
    """Platforms of a StableHLO program: cpu, cuda, rocm, tpu."""
    gradients: bool = False
    """Whether a StableHLO program can be differentiated with respect to its images."""


@dataclass(frozen=True)
class Summary:
    """Prints a model layer by layer: path, kind, output shape, parameters, multiply-adds and receptive field."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = ""
    """Name of the model. Default: list the models."""
    image_shape: tuple[int, int, int] | None = None
    """Height, width and channels of the image. Default: those of the catalog."""
    num_classes: int | None = None
    """Number of classes. Default: that of the catalog."""


@dataclass(frozen=True)
class Bench:
    """Measures training steps and inference of models, alone or in turns with the same models in other libraries.

    Each contestant runs in a separate process, one at a time. The cold start (import, build, trace, lower, compile,
    first step) and the warm step are measured separately. Training is one SGD step with momentum 0.9.
    """

    models: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL ...")] = ("standard",)
    """Names of models, or standard for the eight of the standard set; `jaxcnn summary` lists the models."""
    peers: str = ""
    """Libraries to compare with, separated by commas: torch, torch-compile, flax, equinox, keras. flax adds flax-flags,
    flax with the best known XLA options; on a GPU, torch adds torch-compile."""
    mode: Literal["train", "infer", "both"] = "both"
    """Modes to measure."""
    batch_size: int | None = None
    """Images in a step, over all devices. Default: that of the standard set, or 128 small or 8 large images."""
    image_size: int | None = None
    """Height and width of the images in pixels. Default: those of the catalog."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the computation; parameters and the loss are always float32."""
    repeats: int = 7
    """Number of measured rounds; each lasts about half a second, but at least one step."""
    devices: int = 1
    """Number of devices that share the batch."""
    output: Path | None = None
    """File of JSON lines to append the records to, one for each contestant and mode."""
    plot: Path | None = None
    """PNG file for the picture of the ratios."""


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Plot, tyro.conf.subcommand("plot")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Summary, tyro.conf.subcommand("summary")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
)
