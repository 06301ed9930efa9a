import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxcnn import data, trees
from jaxcnn.data import named
from jaxcnn.layers import MeanOverViews
from jaxcnn.layers.flow import structure
from jaxcnn.models import catalog
from jaxcnn.training import Recipe, run
from jaxcnn.training.phases import make_phases
from jaxcnn.training.presets import PRESETS

NAMES = list(PRESETS)


def generated(size):
    """40 noisy images in 2 classes: bright on the left or on the right."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = rng.integers(0, 80, (40, size, size, 3), np.uint8)
    images[labels == 0, :, : size // 2] += 100
    images[labels == 1, :, size // 2 :] += 100
    return data.arrays(image=images, label=labels, num_classes=2)


@pytest.mark.parametrize("name", NAMES)
def test_presets_are_values_whose_recipes_go_through_json(name):
    preset = PRESETS[name]
    assert eval(repr(preset), {"Preset": type(preset), "Recipe": Recipe}) == preset
    assert hash(dataclasses.replace(preset)) == hash(preset)
    assert Recipe.from_json(json.loads(json.dumps(preset.recipe.to_json()))) == preset.recipe


@pytest.mark.parametrize("name", NAMES)
def test_presets_name_models_data_and_layers_that_exist(name):
    preset = PRESETS[name]
    entry = catalog.CATALOG[preset.model]
    layer = catalog.build(preset.model, 10, entry.image_shape)
    # It refuses patterns that do not fit the model.
    phases = make_phases(preset.recipe, layer, structure(layer)[0], 10)
    assert [phase.last_epoch for phase in phases][-1] == preset.recipe.epochs
    assert preset.data is None or named.find(preset.data) is not None
    assert "measured here" in preset.about or "no published figure" in preset.about
    assert preset.whiten is None or f"{preset.whiten}/bias" in trees.named_leaves(structure(layer)[0])
    assert preset.views is None or MeanOverViews(layer, preset.views)


def test_the_rates_of_fine_tuning_are_those_it_says():
    recipe = PRESETS["fine-tune"].recipe
    layer = catalog.build("resnet50", 3, (224, 224, 3))
    params, _ = structure(layer)
    first, second = make_phases(recipe, layer, params, 10)
    trained = {name for name, mask in jax.tree_util.tree_leaves_with_path(first.trainable) if mask}
    assert {path[0].key for path in trained} == {"head"}
    assert second.trainable is None
    assert float(second.schedule(10)) == pytest.approx(float(first.schedule(10)) / 5)
    # Adam's first step is as large as the rate; the parameters are zero, so that their decay is none.
    zeros = jax.tree.map(lambda leaf: np.zeros((), np.float32), params)
    ones = jax.tree.map(np.ones_like, zeros)
    with jax.numpy_dtype_promotion("standard"), jax.disable_jit():
        optimizer = make_phases(dataclasses.replace(recipe, warmup_epochs=0.0), layer, zeros, 10)[1].optimizer
        updates, _ = optimizer.update(ones, optimizer.init(zeros), zeros)
    for name, update in trees.named_leaves(updates).items():
        assert float(update) == pytest.approx(-2e-3 if name.startswith("head/") else -2e-4, rel=1e-3)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("cifar10-cnn", 32),
        pytest.param("cifar10-resnet18", 32, marks=pytest.mark.slow),
        pytest.param("cifar10-speed", 9, marks=pytest.mark.slow),
        pytest.param("imagenet-resnet50", 64, marks=pytest.mark.slow),
        pytest.param("imagenet-resnet50-600", 64, marks=pytest.mark.slow),
        pytest.param("fine-tune", 64, marks=pytest.mark.slow),
    ],
)
def test_presets_train_on_generated_images(name, size):
    preset = PRESETS[name]
    short = {"unfreeze_epoch": 1} if preset.recipe.unfreeze_epoch else {}
    # A batch so small needs a rate in proportion.
    rate = preset.recipe.learning_rate * 8 / preset.recipe.batch_size
    recipe = dataclasses.replace(preset.recipe, epochs=2, batch_size=8, learning_rate=rate, warmup_epochs=0.5, **short)
    layer = catalog.build(preset.model, 2, (size, size, 3))
    with jax.numpy_dtype_promotion("standard"):
        prepare = data.RandomResizedCrop((size, size)) if preset.random_resized_crop else None
        result = run(layer, generated(size), recipe, prepare=prepare)
    assert len(result.history) == 2
    assert all(np.isfinite(row["train_loss"]) for row in result.history)


def test_every_preset_is_trained_here():
    tried = next(mark for mark in test_presets_train_on_generated_images.pytestmark if mark.name == "parametrize")
    assert {getattr(case, "values", case)[0] for case in tried.args[1]} == set(PRESETS)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("cifar10-cnn", (80, 20, 30)),
        ("cifar10-resnet18", (90, 10, 30)),
        ("cifar10-speed", (90, 10, 30)),
        ("imagenet-resnet50", (99, 1, 30)),
        ("imagenet-resnet50-600", (99, 1, 30)),
    ],
)
def test_the_validation_set_is_the_part_of_the_training_set_that_it_says(name, counts):
    recipe = PRESETS[name].recipe
    train, test = (data.arrays(image=np.zeros((n, 1, 1, 1)), label=np.zeros(n, int), num_classes=1) for n in (100, 30))
    parts = data.split({"train": train, "test": test}, fractions=recipe.split_fractions, seed=0)
    assert tuple(map(len, parts.values())) == counts
