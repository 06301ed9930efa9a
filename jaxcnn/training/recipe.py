"""Recipes: everything that defines a training besides the model, its initial weights, the task and the data."""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from jaxcnn.data import Composition, parse_augment
from jaxcnn.text import nearest
from jaxcnn.training.optimizers import OPTIMIZERS, SCHEDULES
from jaxcnn.values import Value

_LONGEST_DEFAULT_WARMUP = 3.0


class RecipeError(ValueError):
    """A field of a recipe has an invalid value.

    Attributes:
      fields: the names of fields in the message: it begins with the first, and has the others in this order.
    """

    def __init__(self, field: str, message: str, *others: str) -> None:
        super().__init__(f"{field} {message}")
        self.fields = (field, *others)


@dataclass(frozen=True, repr=False)
class Recipe(Value):
    """Everything that defines a training besides the model, its initial weights, the task and the data; hashable.

    Raises:
      RecipeError: a field is out of range, or has no effect without another field.
    """

    epochs: int = 40
    """Number of passes over the training set."""
    batch_size: int = 64
    """Images in a step; an epoch omits its last images if they do not fill a batch."""
    optimizer: str = "adamw"
    """Name of the optimizer: adam, adamw, lion, rmsprop, sgd (with Nesterov momentum 0.9), or muon (for the kernels of
    convolutions; Adam with the same learning rate for the rest)."""
    learning_rate: float = 2e-3
    """Largest learning rate of the schedule."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay of the learning rate after the warm-up."""
    warmup_epochs: float | None = None
    """Epochs of warm-up, in which the learning rate rises from zero. Default: 3, but at most half of the epochs."""
    weight_decay: float = 1e-2
    """Weight decay of the kernels; biases and scales have none."""
    clip_norm: float | None = None
    """Largest norm of the whole gradient; larger gradients are scaled down. Default: no limit."""
    augment: str = "affine"
    """Augmentation of the training images: a name or a list, such as 'random_crop(padding=4), flip(), cutout(8)'.
    Names: affine (rotate, scale, shear, shift); crop-flip and crop-flip-cutout, for small photographs; standard (random
    resized crop and flip), and color-jitter, randaugment, trivial and augmix, which add to it; ssd and
    large-scale-jitter, for images with objects; none."""
    mixup: float = 0.0
    """Mix pairs of images and their labels: parameter alpha of the shares, 0 for none. For classification, and for
    detection, where the objects of both images count. With cutmix, one of the two is drawn for each batch, both equally
    likely."""
    cutmix: float = 0.0
    """Put a rectangle of another image into each image: parameter alpha of its area, 0 for none. For classification."""
    mosaic: float = 0.0
    """Probability of joining an image with three others around a point, with their objects, in [0, 1]; before mixup.
    For detection. YOLOX has 1, and 0.5 for yolox_nano."""
    plain_epochs: int = 0
    """Number of last epochs without mosaic, mixup and cutmix. There, YOLOX also has a loss of the absolute differences
    of the boxes; its authors have 15 such epochs of 300."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the computation; parameters and the loss are always float32."""
    micro_batches: int = 1
    """Number of equal parts of a batch that are computed one after the other, to save memory."""
    ema: float | None = None
    """Decay of an exponential moving average of the parameters, such as 0.999; the average is evaluated, saved and
    exported. Default: none."""
    auxiliary_weight: float = 0.3
    """Weight of the loss of each auxiliary head: 0.3 for googlenet, 0.4 for inception_v3, 0.5 for fcn and deeplabv3;
    other models have none."""
    drop_path_warmup_epochs: float = 0.0
    """Epochs in which the rates of stochastic depth (drop path) rise linearly from zero to those of the model; 0 for
    the full rates from the start. For models with drop path, such as convnext_tiny."""
    seed: int = 0
    """Seed of the initial parameters, the order of the images, the augmentation and the dropout."""
    split_seed: int = 0
    """Seed of the split into training, validation and test set."""
    split_fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    """Fractions of each class in training, validation and test set. Parts that the data already have are kept, and the
    others are drawn from their training set in proportion."""
    freeze: str | None = None
    """Layers whose parameters and running moments are frozen: backbone (all but the head), or a regular expression that
    matches the whole path of a layer, such as 'stem|stage[12]'. Default: none."""
    unfreeze_epoch: int | None = None
    """Number of epochs after which all layers are trained, with a new optimizer, warm-up and schedule. Default:
    never."""
    unfreeze_learning_rate: float | None = None
    """Largest learning rate after the layers are unfrozen. Default: a tenth of the learning rate."""
    learning_rates: tuple[str, ...] = ()
    """Discriminative learning rates, PATTERN=FACTOR ...: the learning rate of a parameter is multiplied by the factor
    of the one regular expression that matches its whole path, such as 'head/.*=1' '(?!head/).*=0.1'. Default: 1 for
    all."""
    cache_features: bool = False
    """Compute the outputs of the frozen layers once for each image, instead of in every epoch; needs no
    augmentation."""
    patience: int | None = None
    """Stop early after this number of epochs without a new best. Default: never."""
    checkpoint_epochs: int = 10
    """Number of epochs between two checkpoints."""

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_numbers(self)
        _check_dependencies(self)
        self.learning_rate_factors()
        if self.freeze is not None and (reason := _not_a_pattern(self.freeze)):
            raise RecipeError("freeze", f"expects a regular expression, got {self.freeze!r}: {reason}")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Builds a recipe from the values of `to_json`, of this version or an earlier one.

        Args:
          values: JSON values by field; fields that a later version added have their defaults.

        Returns:
          The recipe.

        Raises:
          RecipeError: a field is unknown or invalid.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise RecipeError(name, "is no field of a recipe; was it written by a later version?")
        # JSON has no tuples.
        fields: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**fields)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values by name."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }

    @property
    def augmentation(self) -> Composition | None:
        """The augmentation that `augment` stands for; None for "none"."""
        return parse_augment(self.augment)

    def phase_epochs(self) -> tuple[tuple[int, int], ...]:
        """Lists the first and last epoch of each phase: numbers of finished epochs at its start and at its end."""
        if self.unfreeze_epoch is None:
            return ((0, self.epochs),)
        return (0, self.unfreeze_epoch), (self.unfreeze_epoch, self.epochs)

    def warmup(self, epochs: int) -> float:
        """Returns the epochs of warm-up in a phase.

        Args:
          epochs: number of epochs of the phase.
        """
        return min(_LONGEST_DEFAULT_WARMUP, epochs / 2) if self.warmup_epochs is None else self.warmup_epochs

    def learning_rate_factors(self) -> dict[str, float]:
        """Returns the factors of `learning_rates` by pattern."""
        factors: dict[str, float] = {}
        for rule in self.learning_rates:
            pattern, _, factor = rule.rpartition("=")
            try:
                factors[pattern] = float(factor)
            except ValueError:
                factors[pattern] = math.nan
            if not pattern or _not_a_pattern(pattern) or not 0 < factors[pattern] < math.inf:
                raise RecipeError(
                    "learning_rates",
                    f"expects PATTERN=FACTOR with a regular expression and a factor above 0, got {rule!r}",
                )
        return factors


def _not_a_pattern(value: Any) -> str | None:
    """Returns why a value is not the text of a regular expression; None if it is."""
    if not isinstance(value, str):
        return "it is no string"
    try:
        re.compile(value)
    except re.error as error:
        return str(error)
    return None


def _check_choices(recipe: Recipe) -> None:
    for name, known in (
        ("optimizer", OPTIMIZERS),
        ("schedule", SCHEDULES),
        ("precision", ("float32", "bfloat16")),
    ):
        given = getattr(recipe, name)
        if given not in known:
            raise RecipeError(name, f"expects one of {', '.join(known)}, got {given!r}{nearest(given, known)}")
    try:
        parse_augment(recipe.augment)
    except ValueError as error:
        raise RecipeError("augment", str(error)) from error


def _check_numbers(recipe: Recipe) -> None:
    for name, valid, expected in (
        ("epochs", _is_whole(recipe.epochs, 1), "at least 1"),
        ("batch_size", _is_whole(recipe.batch_size, 1), "at least 1"),
        ("learning_rate", _is_between(recipe.learning_rate, 0, strictly=True), "above 0, and finite"),
        ("warmup_epochs", _is_between(recipe.warmup_epochs, 0), "at least 0, and finite"),
        ("weight_decay", _is_between(recipe.weight_decay, 0), "at least 0, and finite"),
        ("clip_norm", _is_between(recipe.clip_norm, 0, strictly=True), "above 0, and finite"),
        ("mixup", _is_between(recipe.mixup, 0), "at least 0, and finite"),
        ("cutmix", _is_between(recipe.cutmix, 0), "at least 0, and finite"),
        ("mosaic", _is_between(recipe.mosaic, 0) and (recipe.mosaic or 0) <= 1, "in [0, 1]"),
        ("plain_epochs", _is_whole(recipe.plain_epochs, 0), "at least 0"),
        ("micro_batches", _is_whole(recipe.micro_batches, 1), "at least 1"),
        ("ema", _is_between(recipe.ema, 0) and (recipe.ema or 0) < 1, "in [0, 1)"),
        ("auxiliary_weight", _is_between(recipe.auxiliary_weight, 0), "at least 0, and finite"),
        ("drop_path_warmup_epochs", _is_between(recipe.drop_path_warmup_epochs, 0), "at least 0, and finite"),
        ("split_seed", _is_whole(recipe.split_seed, 0), "at least 0"),
        ("seed", _is_whole(recipe.seed, 0) and recipe.seed < 2**63, "at least 0 and below 2**63"),
        ("unfreeze_epoch", recipe.unfreeze_epoch is None or _is_whole(recipe.unfreeze_epoch, 1), "at least 1"),
        ("unfreeze_learning_rate", _is_between(recipe.unfreeze_learning_rate, 0, strictly=True), "above 0, and finite"),
        ("patience", recipe.patience is None or _is_whole(recipe.patience, 1), "at least 1"),
        ("checkpoint_epochs", _is_whole(recipe.checkpoint_epochs, 1), "at least 1"),
    ):
        if not valid or (getattr(recipe, name) is None and getattr(Recipe, name) is not None):
            raise RecipeError(name, f"expects a number {expected}, got {getattr(recipe, name)!r}")
    fractions = recipe.split_fractions
    valid = isinstance(fractions, tuple) and all(
        share is not None and _is_between(share, 0, strictly=True) for share in fractions
    )
    if not valid or len(fractions) != 3 or not math.isclose(sum(fractions), 1.0, abs_tol=1e-6):
        raise RecipeError(
            "split_fractions",
            f"expects three numbers above 0 that sum to 1, for training, validation and test, got {fractions!r}",
        )
    if recipe.unfreeze_epoch is not None and recipe.unfreeze_epoch >= recipe.epochs:
        raise RecipeError("unfreeze_epoch", f"expects a number below epochs, got {recipe.unfreeze_epoch!r}", "epochs")
    if recipe.plain_epochs > recipe.epochs:
        raise RecipeError(
            "plain_epochs", f"expects at most the epochs {recipe.epochs}, got {recipe.plain_epochs}", "epochs"
        )
    shortest = min(last - first for first, last in recipe.phase_epochs())
    if recipe.warmup_epochs is not None and recipe.warmup_epochs > shortest:
        raise RecipeError(
            "warmup_epochs",
            f"expects at most the {shortest} epoch{'s' if shortest > 1 else ''} of a phase, got "
            f"{recipe.warmup_epochs:g}: the learning rate would never reach its largest value",
        )
    if recipe.drop_path_warmup_epochs > recipe.epochs:
        raise RecipeError(
            "drop_path_warmup_epochs",
            f"expects at most the epochs {recipe.epochs}, got {recipe.drop_path_warmup_epochs:g}: the rates would "
            "never reach those of the model",
            "epochs",
        )


def _check_dependencies(recipe: Recipe) -> None:
    for name, given, needs, there in (
        ("unfreeze_epoch", recipe.unfreeze_epoch is not None, "freeze", recipe.freeze is not None),
        (
            "unfreeze_learning_rate",
            recipe.unfreeze_learning_rate is not None,
            "unfreeze_epoch",
            recipe.unfreeze_epoch is not None,
        ),
        ("cache_features", recipe.cache_features, "freeze", recipe.freeze is not None),
    ):
        if given and not there:
            raise RecipeError(name, f"has an effect only with {needs}; give both, or omit it", needs)
    if recipe.plain_epochs and not (recipe.mosaic or recipe.mixup or recipe.cutmix):
        raise RecipeError(
            "plain_epochs", "has an effect only with mosaic, mixup or cutmix; give one of them, or omit it", "mosaic"
        )
    if recipe.batch_size % recipe.micro_batches:
        raise RecipeError(
            "micro_batches",
            f"expects a divisor of batch_size {recipe.batch_size}, got {recipe.micro_batches}",
            "batch_size",
        )
    if recipe.cache_features and recipe.augmentation is not None:
        raise RecipeError(
            "cache_features",
            f"expects augment none, got {recipe.augment}: augmentation changes the images, and so their features, in "
            "every epoch",
            "augment",
        )


def _is_whole(number: Any, least: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= least


def _is_between(number: Any, least: float, *, strictly: bool = False) -> bool:
    """Checks a finite number; None is fine."""
    if number is None:
        return True
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        return False
    return number > least if strictly else number >= least
