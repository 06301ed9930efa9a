"""Sets of one's own for validation and test, experiment trackers and the search for a learning rate, in `train`."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from jaxcnn.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("no_pictures")

SHORT = ("--epochs", 1, "--augment", "none")


@pytest.fixture
def own(tmp_path, digits8):
    """Three files of disjoint digits: 200, 60 and 40; the last one lists the classes backwards."""
    images, labels = digits8
    order = np.random.default_rng(0).permutation(len(labels))
    parts = {"train": order[:200], "validation": order[200:260], "test": order[260:]}
    for name, part in parts.items():
        names = np.array([str(k) for k in range(10)])
        numbers = labels[part]
        if name == "test":
            names, numbers = names[::-1], 9 - numbers
        np.savez(tmp_path / f"{name}.npz", images=images[part], labels=numbers, class_names=names)
    return {name: tmp_path / f"{name}.npz" for name in parts}


def test_own_validation_and_test_sets_are_used_whole(jaxcnn, words, own, tmp_path):
    run = tmp_path / "run"
    sets = ("--data", own["train"], "--validation-data", own["validation"], "--test-data", own["test"])
    done = jaxcnn(*words(run, *SHORT, *sets))
    assert done.status == 0
    assert "200 training, 60 validation and 40 test images" in done.out
    result = RunFolder(run).result()
    for split, name in (("validation", "validation"), ("test", "test")):
        from_run = json.loads(jaxcnn("evaluate", run, "--split", split, "--json").out)
        from_file = json.loads(jaxcnn("evaluate", run, "--data", own[name], "--json").out)
        assert from_run["accuracy"] == from_file["accuracy"] == pytest.approx(result[f"{name}_accuracy"])
        assert from_run["examples"] == from_file["examples"] == len(np.load(own[name])["labels"])


def test_only_what_is_missing_is_drawn(jaxcnn, words, own, tmp_path):
    done = jaxcnn(*words(tmp_path / "run", *SHORT, "--data", own["train"], "--test-data", own["test"]))
    assert done.status == 0
    assert "150 training, 50 validation and 40 test images" in done.out


def test_own_sets_have_the_classes_that_were_chosen(jaxcnn, words, own, tmp_path):
    sets = ("--data", own["train"], "--validation-data", own["validation"], "--test-data", own["test"])
    done = jaxcnn(*words(tmp_path / "run", *SHORT, *sets, "--classes", "3", "8"))
    assert done.status == 0
    counts = [np.isin(np.load(own[name])["labels"], (3, 8)).sum() for name in ("train", "validation")]
    counts.append(np.isin(9 - np.load(own["test"])["labels"], (3, 8)).sum())
    assert "{} training, {} validation and {} test images".format(*counts) in done.out


def test_an_own_set_with_other_classes_is_refused(jaxcnn, words, own, tmp_path, digits8):
    np.savez(tmp_path / "few.npz", images=digits8[0][:9], labels=np.arange(9))
    done = jaxcnn(*words(tmp_path / "run", *SHORT, "--data", own["train"], "--test-data", tmp_path / "few.npz"))
    assert done.status == 2
    assert "got missing '9';" in done.err
    assert not (tmp_path / "run").exists()


def test_a_changed_test_set_is_noticed(jaxcnn, words, own, tmp_path):
    jaxcnn(*words(tmp_path / "run", *SHORT, "--data", own["train"], "--test-data", own["test"]))
    own["validation"].replace(own["test"])
    done = jaxcnn("evaluate", tmp_path / "run")
    assert done.status == 2
    assert "got other data" in done.err


def test_tensorboard_is_an_option(jaxcnn, words, tmp_path):
    pytest.importorskip("tensorboardX")
    assert jaxcnn(*words(tmp_path / "run", *SHORT, "--tensorboard")).status == 0
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    assert "tensorboard" not in RunFolder(tmp_path / "run").config["options"]


@pytest.mark.parametrize(
    ("option", "package"), [(("--tensorboard",), "tensorboardX"), (("--wandb", "project"), "wandb")]
)
def test_a_missing_tracker_is_named_before_the_run_begins(jaxcnn, words, tmp_path, monkeypatch, option, package):
    monkeypatch.setitem(sys.modules, package, None)
    done = jaxcnn(*words(tmp_path / "run", *SHORT, *option))
    assert done.status == 2
    assert f"expects {package}; pip install 'jaxcnn[" in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.heavy
def test_the_search_for_a_learning_rate_draws_and_prints_it(jaxcnn, npz, tmp_path, monkeypatch):
    monkeypatch.undo()  # draws the picture
    monkeypatch.chdir(tmp_path)
    done = jaxcnn("train", "--model", "mlp", "--data", npz, "--batch-size", 32, "--find-learning-rate")
    assert done.status == 0
    *_, suggestion, picture = done.out.splitlines()
    assert 1e-5 < float(suggestion.removeprefix("suggested learning rate: ")) < 1
    assert picture == "loss against learning rate: learning_rate.png"
    assert [path.name for path in tmp_path.iterdir()] == ["learning_rate.png"]
    with Image.open("learning_rate.png") as file:
        assert file.format == "PNG"


@pytest.mark.parametrize("more", [("--run-dir", "run"), ("--tensorboard",), ("--wandb", "project")])
def test_a_search_that_would_ignore_an_option_is_refused(jaxcnn, npz, more):
    done = jaxcnn("train", "--data", npz, "--find-learning-rate", *more)
    assert done.status == 2
    assert "--find-learning-rate does not train" in done.err
