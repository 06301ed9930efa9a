import dataclasses
import shlex

import pytest

from jaxcnn.cli.commands import _parsed
from jaxcnn.cli.options import Train
from jaxcnn.training.presets import PRESETS
from jaxcnn.training.run_folder import RunFolder

SMALL = ["--epochs", 1, "--batch-size", 32]


def options_of(*words):
    return _parsed(["train", *map(str, words)])


@pytest.mark.parametrize("name", PRESETS)
def test_a_recipe_gives_model_data_and_options(name):
    preset, options = PRESETS[name], options_of("--recipe", name)
    assert options == options_of(f"--recipe={name}")
    assert (options.model, options.data or None, options.init_from) == (preset.model, preset.data, preset.init_from)
    assert options.recipe.to_json() == preset.recipe.to_json()


@pytest.mark.parametrize("words", [["--recipe", "cifar10-resnet18"], []])
def test_options_beside_a_recipe_overrule_it_also_with_their_usual_values(words):
    usual = Train()
    given = ["--weight-decay", usual.recipe.weight_decay, "--model", usual.model]
    options = options_of("--augment", usual.recipe.augment, *words, *given)
    assert (options.recipe.augment, options.recipe.weight_decay, options.model) == ("affine", 1e-2, "lenet5")
    assert options.recipe.optimizer == ("sgd" if words else "adamw")


def test_options_need_only_fit_those_of_the_recipe():
    # Without the recipe there would be nothing to unfreeze, and fewer epochs than those of the warm-up.
    assert options_of("--unfreeze-epoch", 7, "--recipe", "fine-tune").recipe.unfreeze_epoch == 7
    assert options_of("--recipe", "cifar10-resnet18", "--warmup-epochs", 100).recipe.warmup_epochs == 100


@pytest.mark.parametrize("name", PRESETS)
def test_the_help_of_a_recipe_says_what_it_aims_at_and_lists_its_options(jaxcnn, name):
    done = jaxcnn("train", "--recipe", name, "--help")
    assert done.status == 0
    assert PRESETS[name].about[:60] in done.out
    [listed] = [line for line in done.out.splitlines() if line.startswith("--model ")]
    own = options_of(*shlex.split(listed), *([] if PRESETS[name].data else ["--data", ""]))
    assert dataclasses.replace(own, preset=name) == options_of("--recipe", name)


@pytest.mark.usefixtures("no_pictures")
def test_a_run_by_recipe_keeps_its_options_and_goes_on_with_them(jaxcnn, npz, tmp_path, at_step, ctrl_c, rows):
    words = ["--recipe", "cifar10-cnn", "--data", npz, *SMALL]
    assert jaxcnn("train", *words, "--run-dir", tmp_path / "whole").status == 0
    folder = RunFolder(tmp_path / "whole")
    expected = PRESETS["cifar10-cnn"].recipe.to_json() | {"epochs": 1, "batch_size": 32}
    assert folder.config["recipe"] == expected
    assert folder.config["options"]["model"] == "small_cnn"
    assert folder.config["command"][:4] == ["jaxcnn", "train", "--recipe", "cifar10-cnn"]
    assert folder.result()["test_images"] == 60
    at_step({3: ctrl_c})
    assert "stopped after step 3" in jaxcnn("train", *words, "--run-dir", tmp_path / "stopped").out
    at_step({})
    assert jaxcnn("train", "--run-dir", tmp_path / "stopped", "--resume").status == 0
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")
    done = jaxcnn("train", "--run-dir", tmp_path / "stopped", "--resume", "--recipe", "cifar10-cnn")
    assert done.status == 2
    assert (
        done.err == "error: --resume keeps the options of a run, got --recipe too, which gives others; omit --recipe\n"
    )


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.usefixtures("no_pictures")
def test_a_model_is_fine_tuned_by_recipe(jaxcnn, npz, finished, tmp_path):
    words = ["--data", npz, "--model", "mlp", "--init-from", finished, "--epochs", 2, "--unfreeze-epoch", 1]
    done = jaxcnn("train", "--recipe", "fine-tune", *words, "--run-dir", tmp_path / "run")
    assert done.status == 0
    assert "epoch 2: all layers are trained from now on" in done.out
    assert len(RunFolder(tmp_path / "run").metrics()) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--recipe", "fine-tun"],
            "error: unknown recipe 'fine-tun'; did you mean fine-tune?\nknown: cifar10-cnn, cifar10-resnet18, ",
        ),
        (
            ["--recipe", "fine-tune"],
            "error: --recipe fine-tune expects data of your own, got none; give --data, such as",
        ),
        (
            ["--recipe", "fine-tune", "--unfreeze-epoch", 20],
            "error: --unfreeze-epoch expects a number below --epochs, got 20",
        ),
    ],
)
def test_what_does_not_fit_a_recipe_is_refused(jaxcnn, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = jaxcnn("train", *words)
    assert done.status == 2
    assert done.err.startswith(message)
    assert not list(tmp_path.iterdir())


def test_a_recipe_without_a_name_is_refused(jaxcnn):
    done = jaxcnn("train", "--epochs", 1, "--recipe")
    assert done.status == 2
    assert "Missing value for argument '--recipe'" in done.err
