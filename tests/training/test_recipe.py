import dataclasses
import json
import math

import numpy as np
import pytest

from jaxcnn.data import Step, compose, cutout, flip, random_crop
from jaxcnn.training import Recipe
from jaxcnn.training.recipe import RecipeError

ALL = Recipe(
    epochs=9,
    batch_size=12,
    optimizer="sgd",
    learning_rate=0.1,
    schedule="linear",
    warmup_epochs=1.5,
    weight_decay=0.0,
    clip_norm=1.0,
    augment="none",
    mixup=0.2,
    mosaic=0.5,
    plain_epochs=2,
    precision="bfloat16",
    micro_batches=3,
    ema=0.99,
    auxiliary_weight=0.4,
    drop_path_warmup_epochs=2.5,
    seed=7,
    split_seed=8,
    split_fractions=(0.5, 0.25, 0.25),
    freeze="backbone",
    unfreeze_epoch=4,
    unfreeze_learning_rate=0.01,
    learning_rates=("head/.*=1", "(?!head/).*=0.5"),
    cache_features=True,
    patience=3,
    checkpoint_epochs=2,
)


def test_numpy_numbers_are_plain_numbers():
    recipe = Recipe(epochs=np.int64(3), learning_rate=np.float32(0.5), cutmix=1)  # pyright: ignore[reportArgumentType]
    assert recipe == Recipe(epochs=3, learning_rate=0.5, cutmix=1.0)
    assert repr(recipe) == "Recipe(epochs=3, learning_rate=0.5, cutmix=1.0)"
    assert json.loads(json.dumps(recipe.to_json()))["epochs"] == 3


@pytest.mark.parametrize("recipe", [Recipe(), ALL])
def test_a_recipe_is_a_value_that_goes_through_json(recipe):
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    assert hash(again) == hash(recipe)


def test_every_field_was_tried():
    assert all(
        getattr(ALL, field.name) != field.default for field in dataclasses.fields(Recipe) if field.name != "cutmix"
    )


def test_fields_that_came_later_have_defaults_and_unknown_ones_are_refused():
    assert Recipe.from_json({"epochs": 3}) == Recipe(epochs=3)
    with pytest.raises(RecipeError, match=r"^temperature is no field of a recipe; was it written by a"):
        Recipe.from_json({"epochs": 3, "temperature": 1})


@pytest.mark.parametrize(
    ("field", "values", "expected"),
    [
        ("epochs", [0, -1, 1.5, True, None], "at least 1"),
        ("batch_size", [0, 2.0], "at least 1"),
        ("learning_rate", [0.0, -1.0, math.inf, math.nan, True, "0.1", None], "above 0, and finite"),
        ("warmup_epochs", [-1.0, math.inf, math.nan], "at least 0, and finite"),
        ("weight_decay", [-0.1, math.inf], "at least 0, and finite"),
        ("clip_norm", [0.0, math.inf], "above 0, and finite"),
        ("mixup", [-0.1, math.nan], "at least 0, and finite"),
        ("cutmix", [-0.1, math.inf, None], "at least 0, and finite"),
        ("mosaic", [-0.1, 1.5, math.nan, None], r"in \[0, 1\]"),
        ("plain_epochs", [-1, 1.5, None], "at least 0"),
        ("micro_batches", [0, 1.5], "at least 1"),
        ("ema", [-0.1, 1.0, math.nan], r"in \[0, 1\)"),
        ("auxiliary_weight", [-1.0, math.inf], "at least 0, and finite"),
        ("drop_path_warmup_epochs", [-1.0, math.inf, None], "at least 0, and finite"),
        ("seed", [-1, 2**63, 0.5], r"at least 0 and below 2\*\*63"),
        ("split_seed", [-1], "at least 0"),
        ("patience", [0], "at least 1"),
        ("checkpoint_epochs", [0], "at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(field, values, expected):
    for value in values:
        with pytest.raises(RecipeError, match=rf"^{field} expects a number {expected}, got ") as error:
            Recipe(**{field: value})
        assert error.value.fields == (field,)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"optimizer": "adamwd"},
            "optimizer expects one of adam, adamw, lion, muon, rmsprop, sgd, got 'adamwd'; did you mean",
        ),
        ({"schedule": "cos"}, "schedule expects one of cosine, linear, constant, got 'cos'; did you mean cosine?"),
        ({"augment": "zzz"}, "augment expects one of affine, crop-flip, crop-flip-cutout, standard, "),
        ({"augment": "flip(), cutout()"}, "augment expects other options in 'cutout()': cutout takes the options "),
        ({"augment": None}, "augment expects one of affine, "),
        ({"precision": "float16"}, "precision expects one of float32, bfloat16, got 'float16'; did you mean bfloat16?"),
        ({"unfreeze_epoch": 3}, "unfreeze_epoch has an effect only with freeze; give both, or omit it"),
        (
            {"freeze": "a", "unfreeze_learning_rate": 0.1},
            "unfreeze_learning_rate has an effect only with unfreeze_epoch; give both, or omit it",
        ),
        ({"freeze": "a", "unfreeze_epoch": 40}, "unfreeze_epoch expects a number below epochs, got 40"),
        (
            {"cache_features": True, "augment": "none"},
            "cache_features has an effect only with freeze; give both",
        ),
        ({"freeze": "a", "cache_features": True}, "cache_features expects augment none, got affine: "),
        (
            {"freeze": "a", "cache_features": True, "augment": "flip()"},
            "cache_features expects augment none, got flip",
        ),
        (
            {"drop_path_warmup_epochs": 41.0},
            "drop_path_warmup_epochs expects at most the epochs 40, got 41: the rates would never reach",
        ),
        ({"plain_epochs": 2}, "plain_epochs has an effect only with mosaic, mixup or cutmix; give one of them"),
        ({"plain_epochs": 41, "mosaic": 1.0}, "plain_epochs expects at most the epochs 40, got 41"),
        ({"micro_batches": 3}, "micro_batches expects a divisor of batch_size 64, got 3"),
        (
            {"learning_rates": ("head",)},
            "learning_rates expects PATTERN=FACTOR with a regular expression and a factor",
        ),
        ({"learning_rates": ("(=1",)}, "learning_rates expects PATTERN=FACTOR"),
        ({"freeze": "("}, "freeze expects a regular expression, got '('"),
        ({"freeze": 3}, "freeze expects a regular expression, got 3"),
        ({"learning_rates": ("a=inf",)}, "learning_rates expects PATTERN=FACTOR"),
        *(
            (
                {"split_fractions": fractions},
                "split_fractions expects three numbers above 0 that sum to 1, for training",
            )
            for fractions in ((0.8, 0.2), (0.8, 0.1, 0.2), (0.8, 0.2, 0.0), (math.nan, 0.5, 0.5), (0.5, None, 0.5), 1)
        ),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(RecipeError) as error:
        Recipe(**fields)
    assert str(error.value).startswith(message)


def test_the_warm_up_fits_into_every_phase():
    assert [Recipe(epochs=epochs).warmup(epochs) for epochs in (1, 2, 5, 6, 40)] == [0.5, 1.0, 2.5, 3.0, 3.0]
    assert Recipe(epochs=3, warmup_epochs=3).warmup(3) == 3
    with pytest.raises(RecipeError, match=r"warmup_epochs expects at most the 3 epochs of a phase, got 3\.5"):
        Recipe(epochs=3, warmup_epochs=3.5)
    with pytest.raises(RecipeError, match="warmup_epochs expects at most the 1 epoch of a phase, got 2"):
        Recipe(epochs=10, warmup_epochs=2, freeze="a", unfreeze_epoch=9)


def test_the_phases_end_where_layers_are_unfrozen():
    assert Recipe(epochs=9).phase_epochs() == ((0, 9),)
    assert ALL.phase_epochs() == ((0, 4), (4, 9))
    assert ALL.learning_rate_factors() == {"head/.*": 1.0, "(?!head/).*": 0.5}


def test_an_augmentation_may_be_a_list_which_the_recipe_keeps_as_text():
    text = "random_crop(padding=2), flip(), cutout(4)"
    recipe = Recipe(augment=text)
    assert recipe.augmentation == compose(Step(random_crop, padding=2), Step(flip), Step(cutout, size=4))
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    assert recipe.to_json()["augment"] == text
    assert Recipe(augment="none").augmentation is None
