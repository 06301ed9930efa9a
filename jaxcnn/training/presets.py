"""Whole trainings by name: model, data, recipe and initial weights, after a published training each.

    preset = PRESETS["cifar10-resnet18"]
    cifar10 = data.load(preset.data)
    model = models.resnet18(10, stem="cifar")
    jaxcnn.train(model, cifar10, preset.recipe, folder="runs/cifar10")

`jaxcnn train --recipe cifar10-resnet18` does the same. None of them was run here on its own data: each names the figure
it aims at, and how it differs from its source. experiments/recipes.py runs all of them on small data.
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
      training_size: (height, width) of these parts, or one number; () for the size of the validation images.
      crop_fraction: the part of the shorter side of a picture that validation and test keep, in (0, 1].
      label_smoothing: weight of the uniform distribution in the targets; see `jaxcnn.tasks.Classification`.
      views: views of each image over which evaluation averages; see `jaxcnn.layers.MeanOverViews`. None for the image.
      whiten: path of a convolution that whitens patches; see `jaxcnn.training.whitened`.
      init_from: source of the initial weights, as `jaxcnn.interop.weights.load_weights` takes it; None for random ones.
    """

    about: str
    model: str
    recipe: Recipe
    data: str | None = None
    test_data: str | None = None
    random_resized_crop: bool = False
    training_size: tuple[int, ...] = ()
    crop_fraction: float = 1.0
    label_smoothing: float = 0.0
    views: str | None = None
    whiten: str | None = None
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
    "cifar10-speed": Preset(
        "A network of eight layers on CIFAR-10 in 8 epochs of 25 steps: a frozen first convolution that whitens "
        "patches of training images, alternating flips and shifts by 2 pixels, label smoothing of 0.2, Muon, and the "
        "mean over mirrored and shifted views in evaluation. It aims at the 94.01 % (mean of 200 trainings) of "
        "airbench94_muon.py in https://github.com/KellerJordan/cifar10-airbench, by the author of '94% on CIFAR-10 in "
        "3.29 Seconds on a Single GPU' (Jordan 2024). It differs from it: Optax's Muon, which does not normalize the "
        "kernels and has another momentum; Adam instead of SGD for biases and head; the bias of the first convolution "
        "is frozen from the start; a tenth of the training set is kept for validation, while its author tuned on the "
        "test set. Neither the figure nor the time was measured here.",
        "whitened_cnn",
        Recipe(
            epochs=8,
            batch_size=1800,
            optimizer="muon",
            learning_rate=0.24,
            schedule="linear",
            warmup_epochs=0.0,
            weight_decay=1e-2,
            augment="random_crop(padding=2, border='reflect'), alternating_flip()",
            freeze="whiten",
            learning_rates=("group./conv./kernel|whiten/.*=1", "group./norm./bias|head/kernel=0.1"),
            split_fractions=(0.72, 0.08, 0.2),
        ),
        "cifar10",
        label_smoothing=0.2,
        views="mirror-shift",
        whiten="whiten",
    ),
    "imagenet-resnet50": Preset(
        "ResNet-50 on ImageNet: SGD with Nesterov momentum, batches of 256, 90 epochs with a warm-up of 5, random "
        "resized crops and flips, evaluated on the centre of the pictures at 0.875. It aims at the 76.130 % of "
        "torchvision's ResNet50_Weights.IMAGENET1K_V1, trained by its references/classification/train.py. It differs "
        "from it: Nesterov's momentum, the warm-up, a learning rate that falls by a cosine instead of three steps, no "
        "weight decay of biases and scales, pixels that are not normalized, and a hundredth of the training set for "
        "validation; the validation set of ImageNet is the test set. The figure was not measured here. Other copies of "
        "ImageNet by --data and --test-data.",
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
    "imagenet-resnet50-600": Preset(
        "ResNet-50 on ImageNet with strong augmentation and a long schedule: SGD with Nesterov momentum, batches of "
        "1024, 600 epochs with a warm-up of 5, random resized crops to 176 pixels, flips, TrivialAugment, random "
        "erasing, mixup or CutMix in each batch, label smoothing and an average of the weights; evaluated on 224 "
        "pixels, the centre of pictures whose shorter side is 232. It aims at the 80.858 % of torchvision's "
        "ResNet50_Weights.IMAGENET1K_V2, whose recipe is in 'How to Train State-Of-The-Art Models Using TorchVision's "
        "Latest Primitives' on pytorch.org/blog. It differs from it: Nesterov's momentum, no repeated augmentation, "
        "biases have no weight decay either, the average moves in every step instead of every 32nd, the pixels are not "
        "normalized, and a hundredth of the training set is kept for validation; the validation set of ImageNet is the "
        "test set. The figure was not measured here. Other copies of ImageNet by --data and --test-data.",
        "resnet50",
        Recipe(
            epochs=600,
            batch_size=1024,
            optimizer="sgd",
            learning_rate=0.5,
            schedule="cosine",
            warmup_epochs=5.0,
            weight_decay=2e-5,
            augment="flip(), trivial_augment(interpolation='bilinear'), random_erasing(probability=0.1, fill=0.45)",
            mixup=0.2,
            cutmix=1.0,
            # Theirs moves by 2e-5 * 1024 * 32 / 600 every 32 steps.
            ema=0.99997,
            # Of the training set 0.99 and 0.01.
            split_fractions=(0.792, 0.008, 0.2),
        ),
        "tfds:imagenet2012:train",
        test_data="tfds:imagenet2012:validation",
        random_resized_crop=True,
        training_size=(176,),
        crop_fraction=224 / 232,
        label_smoothing=0.1,
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
