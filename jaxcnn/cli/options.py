"""The options of the commands, each command one frozen dataclass."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Train:
    """Trains a classifier, keeps the epoch that is best on the validation set, and tests that one once.

    With no options: LeNet-5 on scikit-learn's handwritten digits, in about half a minute on two CPU cores. Ctrl-C stops
    after the step with a checkpoint; a second Ctrl-C stops at once.
    """

    model: str = "lenet5"
    """Name of the model; `jaxcnn summary` lists them."""
    data: str = "digits"
    """Name of the data set, or an .npz file with arrays `images` (n, height, width[, channels]) and `labels` (n,)."""
    classes: tuple[str, ...] = ()
    """Names of the classes to keep; the first becomes label 0. All, if not given."""
    examples_per_class: int | None = None
    """Training images of each class, drawn by --split-seed; all, if not given. Validation and test set stay whole."""
    epochs: int = 40
    """Number of times that the training set is gone through."""
    batch_size: int = 64
    """Images in a step; the last images of an epoch that do not fill a batch wait for the next one."""
    optimizer: str = "adamw"
    """Name of the optimizer: adam, adamw, lion, rmsprop or sgd (with Nesterov momentum 0.9)."""
    learning_rate: float = 2e-3
    """Largest learning rate of the schedule."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls from its largest value after the warm-up."""
    warmup_epochs: float = 3.0
    """Epochs in which the learning rate rises from zero."""
    weight_decay: float = 1e-2
    """Weight decay of the kernels; biases and scales have none."""
    clip_norm: float | None = None
    """Largest norm of the whole gradient; longer ones are scaled down."""
    label_smoothing: float = 0.0
    """Weight of the uniform distribution in the targets, in [0, 1)."""
    augment: str = "affine"
    """Augmentation of the training images: affine (turn, scale, shear, shift), crop-flip (for photographs) or none."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the computation; parameters and the loss are always float32."""
    seed: int = 0
    """Draws the initial parameters, the order of the images, the augmentation and the dropout."""
    split_seed: int = 0
    """Draws the split into training, validation and test set (60, 20 and 20 % of each class)."""
    init_from: str | None = None
    """Where to take the first parameters from: the folder of a run (its best epoch), or what `load_weights` of
    jaxcnn.interop.weights reads for this model. They must be of the same model, with as many input channels."""
    head: Literal["auto", "new", "keep"] = "auto"
    """With --init-from: whether to draw the head anew. auto: if the number of classes differs, or layers are frozen."""
    freeze: str | None = None
    """With --init-from: the layers that do not learn, neither their parameters nor their statistics: backbone (all but
    the head), or a regular expression that matches the whole path of a layer, such as 'stem|stage[12]'."""
    unfreeze_epoch: int | None = None
    """Number of epochs after which the frozen layers learn too, with a new optimizer and a warm-up and schedule of its
    own; never, if not given."""
    unfreeze_learning_rate: float | None = None
    """Largest learning rate from then on; a tenth of --learning-rate if not given."""
    learning_rates: tuple[str, ...] = ()
    """Discriminative learning rates, PATTERN=FACTOR ...: the learning rate of a parameter is multiplied by the factor
    of the one regular expression that matches its whole path, such as 'head/.*=1' '(?!head/).*=0.1'."""
    cache_features: bool = False
    """Compute what the frozen layers return once for each image, instead of in every epoch; needs --augment none."""
    checkpoint_epochs: int = 10
    """Epochs between two checkpoints."""
    run_dir: Path | None = None
    """Folder of the run; a new one under runs/ if not given."""
    resume: bool = False
    """Go on with the run in --run-dir, exactly as if it had not been stopped; its options are taken from there."""


@dataclass(frozen=True)
class Evaluate:
    """Evaluates the best epoch of a run on every example of a split."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    split: Literal["test", "validation", "train"] = "test"
    """Which part of the data; the training set without augmentation."""
    batch_size: int = 256
    """Images in a batch."""


@dataclass(frozen=True)
class Predict:
    """Says what a run's model sees in image files of any size: PNG, JPEG, GIF, BMP, TIFF, WebP or PPM."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    images: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IMAGE ...")]
    """Image files."""
    top: int = 3
    """Number of classes to print for each image."""
    invert: bool = False
    """Exchange light and dark: for dark ink on light paper, where the model was trained on light ink."""


@dataclass(frozen=True)
class Export:
    """Writes the best epoch of a run as a file that runs without jaxcnn, for batches of any size.

    A JSON file beside it says what goes in and comes out, and holds the class names and lines of Python that load it.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    format: Literal["stablehlo", "onnx"] = "stablehlo"
    """StableHLO, which jax runs, or ONNX, which is compared with onnxruntime before it is written."""
    output: Path | None = None
    """File to write; model.stablehlo or model.onnx in the folder of the run if not given. An older one is replaced."""
    image_size: Literal["auto", "any", "fixed"] = "auto"
    """Size of the images that the program takes: any, that of the run (fixed), or any where the model can (auto). ONNX
    files take that of the run."""
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu")
    """What a StableHLO program runs on: cpu, cuda, rocm, tpu."""
    gradients: bool = False
    """Whether a StableHLO program can be differentiated, by its images."""


@dataclass(frozen=True)
class Summary:
    """Prints a model layer by layer: path, kind, output shape, parameters, multiply-adds and receptive field."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = ""
    """Name of the model; without one, the models are listed."""
    image_shape: tuple[int, int, int] | None = None
    """Height, width and channels of the image; those that the model was made for if not given."""
    num_classes: int | None = None
    """Number of classes; those that the model was made for if not given."""


@dataclass(frozen=True)
class Bench:
    """Measures training steps and inference of models, alone or in turns with the same models in other libraries.

    Each contestant runs in a process of its own, and only one at a time. The cold start (import, build, trace, lower,
    compile, first step) is told apart from the warm step. Training is one SGD step with momentum 0.9.
    """

    models: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL ...")] = ("standard",)
    """Names of models, or standard for the eight of the standard set; `jaxcnn summary` lists the models."""
    peers: str = ""
    """Libraries to compare with, separated by commas: torch, torch-compile, flax, equinox, keras. With flax also comes
    flax-flags, flax with the best known XLA options; on a GPU with torch also torch-compile."""
    mode: Literal["train", "infer", "both"] = "both"
    """What to measure."""
    batch_size: int | None = None
    """Images in a step, over all devices; that of the standard set, or 128 small or 8 large images, if not given."""
    image_size: int | None = None
    """Height and width of the images in pixels; those that the model was made for if not given."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the computation; parameters and the loss are always float32."""
    repeats: int = 7
    """Number of rounds that count; each lasts about half a second, but at least one step."""
    devices: int = 1
    """Number of devices that share the batch."""
    output: Path | None = None
    """File of JSON lines to add the records to, one for each contestant and mode."""
    plot: Path | None = None
    """PNG file for the picture of the ratios."""


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Summary, tyro.conf.subcommand("summary")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
)
