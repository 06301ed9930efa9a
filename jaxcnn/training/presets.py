"""Whole trainings by name: model, data, recipe and initial weights, after a published training each.

    preset = PRESETS["cifar10-resnet18"]
    cifar10 = data.load(preset.data)
    model = models.resnet18(10, stem="cifar")
    jaxcnn.train(model, cifar10, preset.recipe, folder="runs/cifar10")

`jaxcnn train --recipe cifar10-resnet18` does the same. None of them was run here on its own data: each names the figure
it aims at, and how it differs from its source.
"""

from dataclasses import dataclass

from jaxcnn.training.recipe import Recipe
from jaxcnn.values import Value


@dataclass(frozen=True, repr=False)
class Preset(Value):
    """A whole training.

    Attributes:
      about: what it trains, its source, the published figure that it aims at, and how it differs from its source.
      model: name of the model in the catalog.
      recipe: how to train it.
      data: name of the data, as `jaxcnn.data.load` takes it; None for data of one's own.
      test_data: name of the test set; None for that of the data, or one drawn from them.
      random_resized_crop: whether the host cuts a random part out of each training picture; see
        `jaxcnn.data.RandomResizedCrop`.
      crop_fraction: the part of the shorter side of a picture that validation and test keep, in (0, 1].
      init_from: source of the initial weights, as `jaxcnn.interop.weights.load_weights` takes it; None for random ones.
    """

    about: str
    model: str
    recipe: Recipe
    data: str | None = None
    test_data: str | None = None
    random_resized_crop: bool = False
    crop_fraction: float = 1.0
    init_from: str | None = None


PRESETS: dict[str, Preset] = {
    "cifar10-cnn": Preset(
        "Three convolutions and two dense layers on CIFAR-10: Adam with its usual rate, batches of 128, 10 epochs, a "
        "fifth of the training set for validation, no augmentation. It aims at the 70 % of TensorFlow's tutorial "
        "'Convolutional Neural Network (CNN)', a network with a dense layer of 64 instead of 128 units, trained on all "
        "50,000 images in batches of 32. The figure was not measured here.",
        "small_cnn",
        Recipe(
            epochs=10,
            batch_size=128,
            optimizer="adam",
            learning_rate=1e-3,
            schedule="constant",
            warmup_epochs=0.0,
            weight_decay=0.0,
            augment="none",
            # Of the training set 0.8 and 0.2, since CIFAR-10 has its own test set.
            split_fractions=(0.64, 0.16, 0.2),
        ),
        "cifar10",
    ),
    "cifar10-resnet18": Preset(
        "ResNet-18 for 32x32 images on CIFAR-10: SGD with Nesterov momentum, batches of 128, 200 epochs, padded crops "
        "and flips. It aims at the 95.28 % (error 4.72 %) of DeVries & Taylor 2017, 'Improved Regularization of "
        "Convolutional Neural Networks with Cutout', table 1, without cutout. It differs from theirs: the learning "
        "rate falls by a cosine instead of three steps, biases and scales have no weight decay, the pixels are not "
        "normalized, and a tenth of the training set is kept for validation. The figure was not measured here.",
        "resnet18_cifar",
        Recipe(
            epochs=200,
            batch_size=128,
            optimizer="sgd",
            learning_rate=0.1,
            schedule="cosine",
            warmup_epochs=0.0,
            weight_decay=5e-4,
            augment="crop-flip",
            # Of the training set 0.9 and 0.1.
            split_fractions=(0.72, 0.08, 0.2),
        ),
        "cifar10",
    ),
    "imagenet-resnet50": Preset(
        "ResNet-50 on ImageNet: SGD with Nesterov momentum, batches of 256, 90 epochs with a warm-up of 5, random "
        "resized crops and flips, evaluated on the centre of the pictures at 0.875. It aims at the 76.40 % (error "
        "23.60 %) of Goyal et al. 2017, 'Accurate, Large Minibatch SGD', table 1. It differs from theirs: the learning "
        "rate falls by a cosine instead of three steps, biases and scales have no weight decay, no scale starts at "
        "zero, the pixels are not normalized, and a hundredth of the training set is kept for validation; the "
        "validation set of ImageNet is the test set. The figure was not measured here. Other copies of ImageNet by "
        "--data and --test-data.",
        "resnet50",
        Recipe(
            epochs=90,
            batch_size=256,
            optimizer="sgd",
            learning_rate=0.1,
            schedule="cosine",
            warmup_epochs=5.0,
            weight_decay=1e-4,
            augment="flip()",
            # Of the training set 0.99 and 0.01.
            split_fractions=(0.792, 0.008, 0.2),
        ),
        "tfds:imagenet2012:train",
        test_data="tfds:imagenet2012:validation",
        random_resized_crop=True,
        crop_fraction=0.875,
    ),
    "fine-tune": Preset(
        "A ResNet-50, pretrained on ImageNet, on photographs of your own: the new head alone for 5 epochs, then all "
        "layers for 15 epochs with a fifth of the rate, the backbone with a tenth of that of the head; random "
        "crops and flips, and an average of the weights. Gradual unfreezing and discriminative rates are those of "
        "Howard & Ruder 2018, 'Universal Language Model Fine-tuning', section 3. It aims at no published figure: that "
        "depends on the photographs. Give them by --data. The weights are downloaded from the Hugging Face hub; other "
        "weights by --init-from.",
        "resnet50",
        Recipe(
            epochs=20,
            batch_size=32,
            optimizer="adamw",
            learning_rate=1e-2,
            warmup_epochs=1.0,
            weight_decay=1e-2,
            clip_norm=1.0,
            augment="random_resized_crop(scale=(0.35, 1)), flip()",
            ema=0.99,
            freeze="backbone",
            unfreeze_epoch=5,
            unfreeze_learning_rate=2e-3,
            learning_rates=("head/.*=1", "(?!head/).*=0.1"),
        ),
        init_from="timm/resnet50.a1_in1k",
    ),
}
"""The trainings by name."""
