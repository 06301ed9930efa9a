"""The options of the commands: one frozen dataclass for each command."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxcnn.cli.help import readable
from jaxcnn.training.presets import PRESETS
from jaxcnn.training.recipe import Recipe


@readable
@dataclass(frozen=True)
class RecipeOptions(Recipe):
    """A recipe, described for the command line."""


@readable
@dataclass(frozen=True)
class Train:
    """Trains a model, keeps the best epoch on the validation set, and tests it once.

    Without options, it trains LeNet-5 on scikit-learn's handwritten digits. Ctrl-C stops after the current step and
    writes a checkpoint; a second Ctrl-C stops at once.
    """

    model: str = "lenet5"
    """Name of the model; `jaxcnn summary` lists them. For a model of your own give MODULE:FUNCTION or
    FILE.py:FUNCTION; see `jaxcnn bench`."""
    data: str = "digits"
    """Data: digits; shapes (digits on photographs, with masks); digit_scenes (the same with boxes); cifar10, mnist and
    others of `jaxcnn data list`, which are downloaded once; coco:PATH, voc:PATH or yolo:PATH, pictures with objects;
    tfds:NAME[/CONFIG][:VERSION][:SPLIT], prepared by TensorFlow Datasets; wds:PATTERN, tar files as WebDataset writes
    them; hf:NAME[:SPLIT], of the package datasets of Hugging Face; a folder with a folder of pictures for each class,
    or these in train, val and test; a .csv, .tsv or .parquet file with columns `path`, `label` and perhaps `split`; a
    folder with the folders `images` and `masks` of PNG files; an .npz file with arrays `images` (n, height, width[,
    channels]) and `labels` (n,); or a folder with images.npy and labels.npy."""
    image_size: tuple[int, ...] = ()
    """Size of the images: one number, or height and width. Pictures are resized by --resize, and `predict` resizes in
    the same way. Default: as the data are, or that of the model if the pictures differ in size."""
    resize: Literal["crop", "fit", "stretch"] = "crop"
    """How pictures of another aspect ratio are resized: crop cuts out the centre, fit adds a border of its median
    colour, stretch changes the aspect ratio."""
    random_resized_crop: bool = False
    """For training, cut a random part out of each picture, and resize it: between 8 and 100 % of its area, as for
    ImageNet. Validation and test set are resized by --resize."""
    training_size: tuple[int, ...] = ()
    """With --random-resized-crop: size of the training images, one number, or height and width. Default: that of the
    validation images."""
    crop_fraction: float = 1.0
    """With --random-resized-crop and --resize crop: the part of the shorter side that validation and test keep, such as
    0.875 for ImageNet."""
    channels: int | None = None
    """Channels of pictures in files: 1 for grey, 3 for red, green and blue. Default: 3."""
    skip_bad: bool = False
    """Leave out files that cannot be read as pictures, instead of refusing the data; they are counted."""
    labels: tuple[str, ...] = ()
    """Columns of the labels in a table. Default: `label`, `class`, `target` or the like."""
    separator: str | None = None
    """What is between the names of several classes in one column of a table, such as |. Default: one class each."""
    instances: bool = False
    """Read the masks of the objects in coco:PATH or yolo:PATH too."""
    clip_boxes: bool = False
    """Clip boxes to their image and drop empty ones. Without it, such boxes are an error."""
    one_based: bool = True
    """Whether the boxes of voc:PATH count pixels from 1, as in Pascal VOC, rather than from 0."""
    max_objects: int | None = None
    """Number of slots for the objects of an image. Default: the largest number in any image of the data."""
    validation_data: str | None = None
    """Validation set, named as --data, with the same classes in any order. Default: that of the data, or drawn from
    the training set."""
    test_data: str | None = None
    """Test set, likewise. Default: that of the data, or drawn from the training set."""
    task: Literal["auto", "classification", "multi-label", "regression", "segmentation"] = "auto"
    """What the model is trained for. auto: chosen by the labels, targets or masks of the data."""
    classes: tuple[str, ...] = ()
    """Names of the classes to keep; the first becomes label 0. Objects of other classes are left out, and their images
    stay. Default: all."""
    examples_per_class: int | None = None
    """Number of training images of each class, drawn by --split-seed. Default: all. Validation and test set are not
    reduced."""
    label_smoothing: float = 0.0
    """Weight of the uniform distribution in the targets, in [0, 1)."""
    views: Literal["mirror", "mirror-shift"] | None = None
    """Test-time augmentation: evaluation and prediction take the mean over the image and its mirror image, or also over
    these two shifted by a pixel. Default: the image alone."""
    whiten: str | None = None
    """Path of a convolution, such as whiten of whitened_cnn, that starts by whitening the patches of training images;
    freeze it by --freeze. Default: none."""
    init_from: str | None = None
    """Source of the initial parameters: the folder of a run (its best epoch), or a source for `load_weights` of
    jaxcnn.interop.weights, whose first convolution is converted to the channels of the images. The model must be the
    same, or for segmentation the classifier that is its backbone, and for a run the number of channels. Default:
    random."""
    head: Literal["auto", "new", "keep"] = "auto"
    """With --init-from: whether to draw a new head. auto: if the number of classes differs, or layers are frozen."""
    recipe: Annotated[RecipeOptions, tyro.conf.arg(name="")] = RecipeOptions()
    """How to train."""
    preset: Annotated[
        str | None,
        tyro.conf.arg(
            name="recipe",
            metavar="NAME",
            help="A named training, with its model, data and options; options given beside it overrule it. Names: "
            f"{', '.join(PRESETS)}. `jaxcnn train --recipe NAME --help` describes one.",
            help_behavior_hint="",
        ),
    ] = None
    seeds: int | None = None
    """Number of runs in one program, with the seeds from --seed on. Each has a run folder of its own in --run-dir:
    seed-0, seed-1 and so on. Default: one run."""
    run_dir: Path | None = None
    """Folder of the run. Default: a new folder under runs/."""
    workers: int | None = None
    """Number of threads that read the examples; the results do not depend on it. Default: one for each core where they
    are read from files."""
    place: Literal["auto", "device", "memory", "stream"] = "auto"
    """Where the training and the validation set are: on the device, in memory, or read whenever they are used
    (stream). auto: the fastest place of which they take at most a tenth. The results are the same."""
    devices: int | None = None
    """Number of devices that share each batch. Default: 1; with several processes or --shard, all."""
    shard: Literal["nothing", "parameters"] = "nothing"
    """What is split over the devices besides the batch. parameters: each device keeps only its part of the parameters,
    of the optimizer's state and of the moving average. The results are the same up to rounding."""
    coordinator: str | None = None
    """To train on several hosts: start this command on each of them with HOST:PORT of process 0, --processes and
    --process; or auto where SLURM, Open MPI, Kubernetes or a TPU runtime starts it. Default: one process."""
    processes: int | None = None
    """Number of processes, with --coordinator HOST:PORT."""
    process: int | None = None
    """Number of this process, from 0, with --coordinator HOST:PORT; process 0 writes the run folder."""
    resume: bool = False
    """Resume the run in --run-dir with its options; the results are those of an uninterrupted run."""
    tensorboard: bool = False
    """Write the figures for TensorBoard too, to the folder tensorboard of the run; needs jaxcnn[tensorboard]."""
    wandb: str | None = None
    """Send the figures to this project of Weights & Biases; needs jaxcnn[wandb]. Default: nothing is sent."""
    find_learning_rate: bool = False
    """Do not train, but suggest a learning rate: the loss is measured in 100 steps with a growing rate, and drawn in
    learning_rate.png in the working directory."""

    @property
    def model_name(self) -> str:
        """The name of the model, without the module of one's own."""
        return self.model.rpartition(":")[2]


@readable
@dataclass(frozen=True)
class Evaluate:
    """Evaluates the best epoch of a run on every example of a part of its data, or of other data.

    Prints the figures and a table of the classes: precision, recall, F1 and number of images of a classification,
    intersection over union and dice of a segmentation, COCO's average precision (AP) and recall (AR) of a detector.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    layer: str | None = None
    """MODULE:FUNCTION or FILE.py:FUNCTION of a run with a model of your own, as --model of `jaxcnn train`. The module
    is imported, which runs its code. Default: only layers of the library."""
    split: Literal["auto", "test", "validation", "train"] = "auto"
    """Part of the data; the training set is not augmented. auto: test, or all of --data if they have no parts."""
    data: str | None = None
    """Other data, named as in `jaxcnn train`, with the same classes in any order. Pictures are resized as those of the
    run. Default: those of the run."""
    skip_bad: bool = False
    """Leave out files of --data that cannot be read as pictures."""
    instances: bool = False
    """Read the masks of the objects in coco:PATH or yolo:PATH of --data too. Default: as the run did."""
    clip_boxes: bool = False
    """Clip boxes of --data to their image and drop empty ones. Default: as the run did."""
    one_based: bool = True
    """Whether the boxes of voc:PATH count pixels from 1 rather than from 0. Default: as the run read them."""
    max_objects: int | None = None
    """Number of slots for the objects of an image of --data. Default: the largest number in any image."""
    batch_size: int = 256
    """Images in a batch."""
    boundary_iou: bool = False
    """Also measure how well the outlines of a segmentation agree: the intersection over union of bands of 2 % of the
    image's diagonal along them."""
    voc: Literal["2007", "2010"] | None = None
    """Also measure the average precision of a detector as Pascal VOC did: the mean of 11 precisions of 2007, or the
    area under the curve, since 2010; at an overlap of 0.5, without difficult objects."""
    pictures: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """Folder for pictures: confusion matrix and worst mistakes of a classification or a detector, and of a detector
    precision over recall and the boxes of some images; masks of a segmentation. Default: none are drawn."""
    json: bool = False
    """Print one JSON object instead of text; a figure that is undefined is null."""


@readable
@dataclass(frozen=True)
class Plot:
    """Draws the losses and the accuracy of several runs in one picture.

    Runs that differ only in their seed, or that have the same label, are one line: their mean, with a band.
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN ...", help_behavior_hint="")]
    """Folders of runs. That of `jaxcnn train --seeds` stands for all of its runs."""
    band: Literal["range", "confidence"] = "range"
    """Band of several runs: range, from the smallest to the largest value; confidence, the 95 % confidence interval of
    their mean."""
    labels: tuple[str, ...] = ()
    """A label for each run. Default: the options in which the runs differ, without the seed."""
    output: Path = Path("runs.png")
    """PNG file to write; an older file is replaced."""


@readable
@dataclass(frozen=True)
class Predict:
    """Predicts for image files of any size with the model of a run: PNG, JPEG, GIF, BMP, TIFF, WebP or PPM.

    For each image, a segmentation model writes a mask of class indices and an overlay, in the image size of the model.
    A detector gives objects with boxes in pixels of the file. Images that cannot be read are listed at the end; the
    exit status is then 1, or 2 if no image could be read.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    images: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IMAGE ...", help_behavior_hint="")]
    """Image files, and folders: all files in them, at any depth, whose extension is that of an image."""
    layer: str | None = None
    """MODULE:FUNCTION or FILE.py:FUNCTION of a run with a model of your own, as --model of `jaxcnn train`. The module
    is imported, which runs its code. Default: only layers of the library."""
    top: int | None = None
    """Number of classes or objects for each image. Default: 3; all with --json and --csv."""
    min_score: float | None = None
    """Of a detector: least score of an object, in [0, 1]. Default: 0.25."""
    agnostic: bool = False
    """Of a detector: of objects that overlap, keep the best one of all classes, not of each class."""
    json: bool = False
    """Write a JSON array with one object for each image: "file" and "classes", the likeliest first, each with "class"
    and "probability"; "file" and "error" if it cannot be read. A segmentation has "share" instead of "probability",
    and "mask" and "overlay"; a regression has "values" instead of "classes". A detector has "count", the number of
    objects, and "objects", each with "class", "score", "x1", "y1", "x2" and "y2"; and "overlay" with --overlays."""
    csv: bool = False
    """Write a CSV table with one row for each image and class: file, rank, class, probability, error. A segmentation
    has share, mask and overlay instead of probability; a regression has file, number, value, error. A detector has
    score, x1, y1, x2 and y2 instead of probability, and overlay with --overlays; an image without objects has a row."""
    coco: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Of a detector: also write all detections to this file as results of COCO, whatever their score, unless
    --min-score is given. Default: not written."""
    coco_ids: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """With --coco: annotations of COCO whose image and category ids the results have, by the names of files and
    classes. Default: images have the number that is the name of the file, or count from 1; categories count from 1."""
    output: Path | None = None
    """File for the predictions; an older file is replaced. Default: standard output."""
    overlays: Annotated[Path | None, tyro.conf.arg(aliases=["--masks"], metavar="PATH", help_behavior_hint="")] = None
    """Folder for masks and overlays of a segmentation, or for pictures with the boxes, and the masks, of a detector.
    Default: masks in the folder of the run; pictures of a detector are not drawn."""
    invert: bool = False
    """Invert light and dark: for dark ink on light paper, if the model was trained on light ink."""
    batch_size: int = 64
    """Images in a batch; memory grows with it, not with the number of images."""


@readable
@dataclass(frozen=True)
class Export:
    """Writes the best epoch of a run as a file that runs without jaxcnn, for batches of any size.

    A JSON file next to it describes input and output, and has the class names and Python code that loads the file.
    The program of a detector gives boxes, scores, classes and valid, with a fixed number of slots, the best first.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    layer: str | None = None
    """MODULE:FUNCTION or FILE.py:FUNCTION of a run with a model of your own, as --model of `jaxcnn train`. The module
    is imported, which runs its code. Default: only layers of the library."""
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


@readable
@dataclass(frozen=True)
class Summary:
    """Prints a model layer by layer: path, kind, output shape, parameters, multiply-adds and receptive field."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = ""
    """Name of the model, or MODULE:FUNCTION or FILE.py:FUNCTION for one of your own. Default: list the models."""
    image_shape: tuple[int, int, int] | None = None
    """Height, width and channels of the image. Default: those of the catalog."""
    num_classes: int | None = None
    """Number of classes. Default: that of the catalog, or of the function."""


@readable
@dataclass(frozen=True)
class Bench:
    """Measures training steps and inference of models, alone or in turns with the same models in other libraries.

    Each contestant runs in a separate process, one at a time. The cold start (import, build, trace, lower, compile,
    first step) and the warm step are measured separately. Training is one SGD step with momentum 0.9.
    """

    models: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL ...")] = ("standard",)
    """Names of models, or standard for the eight of the standard set; `jaxcnn summary` lists the models. For a
    model of your own give MODULE:FUNCTION or FILE.py:FUNCTION, and --image-size. The function returns a layer; it gets
    those of num_classes, in_channels and image_size that it has as parameters."""
    peers: str = ""
    """Libraries to compare with, separated by commas: torch, torch-compile, torchvision, flax, equinox, keras; of
    detectors torchvision alone. flax adds flax-flags, flax with the best known XLA options; on a GPU, torch adds
    torch-compile."""
    mode: Literal["train", "infer", "both"] = "both"
    """Modes to measure."""
    batch_size: int | None = None
    """Images in a step, over all devices. Default: that of the standard set; otherwise 128 of up to 64x64 pixels, 8 of
    up to 512x512, or 2."""
    image_size: int | None = None
    """Height and width of the images in pixels. Default: those of the catalog."""
    in_channels: int | None = None
    """Channels of the images. Default: those of the catalog, or 3."""
    num_classes: int | None = None
    """Number of classes. Default: that of the catalog, or of the function."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the computation; parameters and the loss are always float32."""
    repeats: int = 7
    """Number of measured rounds; each lasts about half a second, but at least one step."""
    devices: int = 1
    """Number of devices that share the batch. With several, jaxcnn on one device with its part of the batch is measured
    too, for the scaling efficiency."""
    output: Path | None = None
    """File of JSON lines to append the records to, one for each contestant and mode."""
    plot: Path | None = None
    """PNG file for the picture of the ratios."""
    data: bool = False
    """Measure the loading of data instead: images of 32x32 in memory, and JPEG files of 500x375 that are cropped to
    224x224. Peers: numpy, torch (with torchvision), grain."""


@readable
@dataclass(frozen=True)
class ListData:
    """Lists the data sets that are downloaded and prepared when they are first used."""


@readable
@dataclass(frozen=True)
class Prepare:
    """Prepares a data set: downloads its archives, or reads local ones, and checks their published checksums.

    An interrupted download goes on where it stopped. The data set is kept in the folder of caches (JAXCNN_CACHE_DIR).
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """Name of the data set; `jaxcnn data list` lists them."""
    archive: Annotated[Path | None, tyro.conf.arg(name="from", metavar="PATH", help_behavior_hint="")] = None
    """Local file, or folder of several files, instead of a download. The files have their published names."""


@readable
@dataclass(frozen=True)
class DataInfo:
    """Looks through a data set: counts, sizes, channels, mean and std, and a contact sheet.

    Warns of unreadable files, of classes that are rare, missing or in two spellings, of pictures that occur several
    times, and of pictures of the test set that look like training pictures.
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """Data, named as in `jaxcnn train`."""
    labels: tuple[str, ...] = ()
    """Columns of the labels in a table, as in `jaxcnn train`."""
    separator: str | None = None
    """What is between the names of several classes in one column of a table, as in `jaxcnn train`."""
    instances: bool = False
    """Read the masks of the objects in coco:PATH or yolo:PATH too, which shows whether they can be read."""
    clip_boxes: bool = False
    """Clip boxes to their image and drop empty ones. Without it, such boxes are an error."""
    one_based: bool = True
    """Whether the boxes of voc:PATH count pixels from 1, as in Pascal VOC, rather than from 0."""
    max_objects: int | None = None
    """Number of slots for the objects of an image. Default: the largest number in any image of the data."""
    limit: int | None = None
    """Largest number of images that are read of each part, drawn at random. Default: all."""
    output: Path = Path("contact_sheet.png")
    """PNG file for the contact sheet; an older file is replaced."""
    json: bool = False
    """Print one JSON object instead of text."""


@readable
@dataclass(frozen=True)
class Preview:
    """Draws examples of a data set beside augmented forms of them, with masks and boxes."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """Data, named as in `jaxcnn train`; of several parts, the training set."""
    instances: bool = False
    """Draw the masks of the objects in coco:PATH or yolo:PATH too."""
    clip_boxes: bool = False
    """Clip boxes to their image and drop empty ones. Without it, such boxes are an error."""
    one_based: bool = True
    """Whether the boxes of voc:PATH count pixels from 1, as in Pascal VOC, rather than from 0."""
    max_objects: int | None = None
    """Number of slots for the objects of an image. Default: the largest number in any image of the data."""
    augment: str = "affine"
    """Augmentation, as in `jaxcnn train`: a name or a list."""
    examples: int = 5
    """Number of examples."""
    copies: int = 6
    """Number of augmented forms of each."""
    seed: int = 0
    """Seed of the choice of examples and of the augmentation."""
    output: Path = Path("preview.png")
    """PNG file to write; an older file is replaced."""


COMMANDS = ("train", "evaluate", "plot", "predict", "export", "summary", "bench", "data")
"""The names of the commands."""

Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Plot, tyro.conf.subcommand("plot")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Summary, tyro.conf.subcommand("summary")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
    | Annotated[
        Annotated[ListData, tyro.conf.subcommand("list")]
        | Annotated[Prepare, tyro.conf.subcommand("prepare")]
        | Annotated[DataInfo, tyro.conf.subcommand("info")]
        | Annotated[Preview, tyro.conf.subcommand("preview")],
        tyro.conf.subcommand("data", description="Lists, prepares, looks through and previews data sets."),
    ]
)
