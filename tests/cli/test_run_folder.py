import importlib.metadata
import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxcnn import environment
from jaxcnn.cli import run_folder
from jaxcnn.cli.errors import CommandError
from jaxcnn.cli.options import Train
from jaxcnn.cli.run_folder import RunFolder


def strict_json(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_finished_run_holds_these_files_and_no_others(finished):
    assert sorted(path.name for path in finished.iterdir()) == [
        "checkpoints",
        "config.json",
        "confusion.png",
        "curves.png",
        "metrics.jsonl",
        "mistakes.png",
        "result.json",
    ]
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["15", "20"]


def test_the_config_holds_all_that_is_needed_to_repeat_the_run(finished, npz):
    config = strict_json((finished / "config.json").read_text())
    assert config["options"] == {
        "model": "mlp",
        "data": str(npz),
        "classes": [],
        "examples_per_class": None,
        "epochs": 4,
        "batch_size": 32,
        "optimizer": "adamw",
        "learning_rate": 5e-3,
        "schedule": "cosine",
        "warmup_epochs": 1.0,
        "weight_decay": 1e-2,
        "clip_norm": None,
        "label_smoothing": 0.0,
        "augment": "none",
        "precision": "float32",
        "seed": 0,
        "split_seed": 0,
        "init_from": None,
        "head": "auto",
        "freeze": None,
        "unfreeze_epoch": None,
        "unfreeze_learning_rate": None,
        "learning_rates": [],
        "cache_features": False,
        "checkpoint_epochs": 1,
    }
    assert config["command"][:4] == ["jaxcnn", "train", "--model", "mlp"]
    assert re.fullmatch(r"[0-9a-f]{8}", config["data_fingerprint"])
    assert config["weights_fingerprint"] is None
    assert config["normalization"] is None
    for package in ("jax", "jaxlib", "optax", "numpy", "orbax-checkpoint"):
        assert config["versions"][package] == importlib.metadata.version(package)
    assert set(config["versions"]) >= {"python", "jaxcnn", "scikit-learn"}
    assert config["devices"]
    assert config["platform"]
    assert config["processor"] == {"processor": environment.processor(), "cores": environment.usable_cores()}


def test_the_options_come_back_as_they_were(finished, npz):
    assert RunFolder(finished).options == Train(
        model="mlp",
        data=str(npz),
        epochs=4,
        batch_size=32,
        learning_rate=5e-3,
        warmup_epochs=1.0,
        augment="none",
        checkpoint_epochs=1,
        run_dir=finished,
    )


def test_the_metrics_are_one_line_of_json_for_each_epoch(finished):
    rows = [strict_json(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 5), (2, 10), (3, 15), (4, 20)]
    for row in rows:
        assert 0 <= row["train_accuracy"] <= 1
        assert row["train_accuracy"] * 160 == pytest.approx(round(row["train_accuracy"] * 160))  # 5 batches of 32
        assert row["validation_accuracy"] * 60 == pytest.approx(round(row["validation_accuracy"] * 60))
        assert row["train_loss"] > 0
        assert row["validation_loss"] > 0
        assert row["images_per_second"] > 0
    # One epoch of warm-up to 5e-3, then a cosine to zero: the rate of the last step of each epoch.
    expected = [5e-3 * 4 / 5, *(5e-3 * (1 + np.cos(np.pi * k / 15)) / 2 for k in (4, 9, 14))]
    np.testing.assert_allclose([row["learning_rate"] for row in rows], expected, rtol=1e-5)


def test_the_result_is_that_of_the_best_epoch(finished):
    rows = [strict_json(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    result = strict_json((finished / "result.json").read_text())
    best = max(rows, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))
    assert result["best_epoch"] == best["epoch"]
    assert result["validation_accuracy"] == best["validation_accuracy"]
    assert result["validation_loss"] == best["validation_loss"]
    assert result["test_images"] == 60
    assert result["test_accuracy"] == result["test_correct"] / 60
    assert set(result) == {
        "best_epoch",
        "validation_accuracy",
        "validation_loss",
        "test_accuracy",
        "test_loss",
        "test_correct",
        "test_images",
    }


@pytest.mark.parametrize("name", ["curves.png", "confusion.png", "mistakes.png"])
def test_the_pictures_are_pictures(finished, name):
    with Image.open(finished / name) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("L"), float)
    assert min(pixels.shape) > 300
    assert pixels.std() > 5  # not a blank page


@pytest.mark.usefixtures("no_pictures")
def test_the_command_in_the_config_repeats_the_run(jaxcnn, finished, tmp_path, saved, rows):
    config = RunFolder(finished).config
    words = config["command"][1:]
    words[words.index("--run-dir") + 1] = str(tmp_path / "again")
    assert jaxcnn(*words).status == 0
    assert saved(tmp_path / "again") == saved(finished)
    assert rows(tmp_path / "again") == rows(finished)


def test_only_the_lines_of_epochs_that_are_done_are_kept(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    before = folder.metrics()
    assert folder.keep_metrics(2) == before[:2]
    assert folder.metrics() == before[:2]
    folder.append_metrics({"epoch": 3})
    assert folder.metrics() == [*before[:2], {"epoch": 3}]
    assert folder.keep_metrics(0) == []
    assert folder.metrics() == []


def test_a_run_without_a_whole_epoch_has_no_metrics_and_no_result(finished, tmp_path):
    shutil.copy(finished / "config.json", tmp_path)
    assert RunFolder(tmp_path).metrics() == []
    assert RunFolder(tmp_path).result() is None


def test_a_folder_whose_name_is_not_utf_8_is_refused_before_the_training(jaxcnn, words, tmp_path):
    done = jaxcnn(*words(tmp_path / os.fsdecode(b"caf\xe9"), "--epochs", 1))
    assert done.status == 2
    assert done.err == (
        f"error: expected a folder whose whole path is UTF-8, got {tmp_path}/caf\\xe9; choose another --run-dir\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["nothing", "an empty folder", "a file"])
def test_what_is_no_run_is_refused(tmp_path, what):
    path = tmp_path / "run"
    if what == "an empty folder":
        path.mkdir()
    elif what == "a file":
        path.touch()
    with pytest.raises(
        CommandError, match=rf"expected the folder of a run, with a config.json, got {path}; create one with `jaxcnn tr"
    ):
        RunFolder(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"options": null}', "\udcff"])
def test_a_config_that_is_damaged_is_named(jaxcnn, tmp_path, text):
    (tmp_path / "config.json").write_text(text, errors="surrogateescape")
    for words in (
        ["evaluate", tmp_path],
        ["predict", tmp_path, "image.png"],
        ["train", "--run-dir", tmp_path, "--resume"],
    ):
        done = jaxcnn(*words)
        assert done.status == 2
        assert done.err.startswith("error: ")
        assert str(tmp_path / "config.json") in done.err


@pytest.mark.parametrize("change", ["less", "more"])
def test_a_config_of_another_version_is_refused(jaxcnn, finished, tmp_path, change):
    config = json.loads((finished / "config.json").read_text())
    if change == "less":
        del config["options"]["epochs"]
    else:
        config["options"]["epoch"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = jaxcnn("evaluate", tmp_path)
    assert done.status == 2
    assert re.match(r"error: expected the options \['augment', .*'weight_decay'\] in .*config.json; was it ", done.err)


def test_versions_that_differ_are_listed(finished, tmp_path):
    config = json.loads((finished / "config.json").read_text())
    assert run_folder.versions_differ(RunFolder(finished)) == []
    config["versions"]["jax"] = "0.0.1"
    (tmp_path / "config.json").write_text(json.dumps(config))
    now = importlib.metadata.version("jax")
    assert run_folder.versions_differ(RunFolder(tmp_path)) == [f"jax 0.0.1, now {now}"]
