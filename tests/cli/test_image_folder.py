"""Folders and tables of pictures in `train`, `evaluate`, `predict` and `export`."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from jaxcnn.cli import evaluate
from jaxcnn.data import FitPicture, Subset, image_folder, named
from jaxcnn.data.sources import picture_index
from jaxcnn.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("no_pictures")

SHORT = ("--epochs", 2, "--augment", "none", "--batch-size", 8, "--learning-rate", 0.01, "--warmup-epochs", 0)
COLOURS = {"blue sky": (60, 90, 200), "green": (50, 180, 60), "rot & grün": (190, 60, 50)}


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picture_index, "cache_folder", lambda: folder)
        yield


def draw(path, colour, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    height, width = rng.integers(12, 40, 2)
    pixels = np.clip(np.array(colour) + rng.normal(0, 25, (height, width, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=90)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """15 pictures of each of three classes, of many sizes."""
    root = tmp_path_factory.mktemp("photographs")
    for number, (name, colour) in enumerate(COLOURS.items()):
        for i in range(15):
            draw(root / name / f"{i}.{('jpg', 'png')[i % 2]}", colour, 100 * number + i)
    return root


@pytest.fixture(scope="module")
def trained(finish, photographs):
    """The folder of a run on them."""
    words = ["train", "--model", "mlp", "--data", photographs, "--image-size", 10, "--resize", "fit", *SHORT]
    return finish(lambda run: [*words, "--run-dir", run])


@pytest.mark.slow
@pytest.mark.heavy
def test_training_pictures_are_cropped_at_random_and_others_in_the_centre(
    jaxcnn, photographs, tmp_path, at_step, ctrl_c, rows
):
    words = ["--model", "mlp", "--data", photographs, "--image-size", 10, "--random-resized-crop", *SHORT]
    words += ["--crop-fraction", 0.875]
    assert jaxcnn("train", *words, "--run-dir", tmp_path / "whole").status == 0
    config = RunFolder(tmp_path / "whole").config
    assert config["prepare"] == "RandomResizedCrop((10, 10))"
    assert config["preprocessing"] == "FitPicture((10, 10, 3), mode='crop', crop_fraction=0.875)"
    assert config["image_shape"] == [10, 10, 3]
    at_step({4: ctrl_c})
    assert "stopped after step 4" in jaxcnn("train", *words, "--run-dir", tmp_path / "stopped").out
    at_step({})
    assert jaxcnn("train", "--run-dir", tmp_path / "stopped", "--resume").status == 0
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")
    for part, count in (("test", 9), ("train", 27)):
        done = jaxcnn("evaluate", tmp_path / "whole", "--split", part)
        assert done.status == 0, done.err
        assert f"of {count})" in done.out


def test_a_learning_rate_is_found_for_pictures_that_are_cropped_at_random(jaxcnn, photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--model", "mlp", "--data", photographs, "--image-size", 10, "--random-resized-crop", "--augment", "none"]
    assert jaxcnn("train", *words, "--batch-size", 8, "--find-learning-rate").status == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--crop-fraction", 0.5], "--crop-fraction has an effect only with --random-resized-crop; give both, or omit"),
        (
            ["--random-resized-crop", "--place", "device"],
            "--random-resized-crop works on the host, got --place device",
        ),
        (["--random-resized-crop", "--crop-fraction", 2], "FitPicture expects crop_fraction in (0, 1], got 2"),
        (["--random-resized-crop", "--image-size", 1, 2, 3], "image_size expects one number, or height and width, got"),
    ],
)
def test_random_crops_that_do_not_fit_are_refused(jaxcnn, photographs, tmp_path, words, message):
    done = jaxcnn("train", "--model", "mlp", "--data", photographs, "--run-dir", tmp_path / "run", *words)
    assert done.status == 2
    assert done.err.startswith(f"error: {message}")
    assert not (tmp_path / "run").exists()


def test_a_folder_is_trained_evaluated_predicted_and_exported(jaxcnn, photographs, trained, tmp_path):
    config = RunFolder(trained).config
    assert config["class_names"] == list(COLOURS)
    assert config["preprocessing"] == "FitPicture((10, 10, 3))"
    assert (
        "27 training, 9 validation and 9 test images of 10x10x3, 3 classes" in trained.with_name("output").read_text()
    )
    figures = json.loads(jaxcnn("evaluate", trained, "--json").out)
    assert figures["examples"] == 9
    assert [row["class"] for row in figures["classes"]] == list(COLOURS)
    whole = json.loads(jaxcnn("evaluate", trained, "--data", photographs, "--json").out)
    predicted = json.loads(jaxcnn("predict", trained, photographs, "--json").out)
    right = [one["classes"][0]["class"] == one["file"].split("/")[-2] for one in predicted]
    assert len(right) == whole["examples"] == 45
    assert whole["accuracy"] == pytest.approx(np.mean(right))
    assert jaxcnn("export", trained, "--output", tmp_path / "model.stablehlo").status == 0
    described = json.loads((tmp_path / "model.stablehlo.json").read_text())
    assert "on a background of the median colour of their border" in json.dumps(described)


def test_the_size_of_the_model_is_the_default(jaxcnn, photographs, tmp_path):
    run = tmp_path / "run"
    done = jaxcnn("train", "--model", "mlp", "--data", photographs, "--run-dir", run, *SHORT)
    assert done.status == 0, done.err
    assert RunFolder(run).config["preprocessing"] == "FitPicture((32, 32, 3), mode='crop')"
    assert jaxcnn("train", "--run-dir", run, "--resume").status == 0


def test_a_changed_photograph_is_noticed(jaxcnn, photographs, tmp_path):
    root = tmp_path / "copy"
    for name, colour in COLOURS.items():
        for i in range(6):
            draw(root / name / f"{i}.png", colour, i)
    run = tmp_path / "run"
    assert jaxcnn("train", "--model", "mlp", "--data", root, "--image-size", 6, "--run-dir", run, *SHORT).status == 0
    root.rename(tmp_path / "moved")
    assert jaxcnn("evaluate", run).status == 2
    (tmp_path / "moved").rename(root)
    assert jaxcnn("evaluate", run).status == 0
    draw(root / "green" / "0.png", COLOURS["green"], 99)
    done = jaxcnn("evaluate", run)
    assert done.status == 2
    assert "got other data" in done.err


def test_other_folders_are_validation_and_test_sets_with_the_classes_of_training(jaxcnn, photographs, tmp_path):
    draw(tmp_path / "test" / "green" / "0.png", COLOURS["green"], 0)
    run = tmp_path / "run"
    words = ("--model", "mlp", "--data", photographs, "--test-data", tmp_path / "test", "--image-size", 8)
    done = jaxcnn("train", *words, "--run-dir", run, *SHORT)
    assert done.status == 0, done.err
    assert "training, 11 validation and 1 test images" in done.out
    figures = json.loads(jaxcnn("evaluate", run, "--json").out)
    assert [row["count"] for row in figures["classes"]] == [0, 1, 0]
    done = jaxcnn("evaluate", run, "--data", tmp_path / "test", "--json")
    assert json.loads(done.out)["examples"] == 1


@pytest.mark.usefixtures("no_pictures")
def test_a_test_set_with_pictures_of_the_training_set_is_noted(jaxcnn, photographs, tmp_path):
    words = ["--data", photographs, "--test-data", photographs, "--image-size", 4, *SHORT]
    done = jaxcnn("train", "--model", "mlp", *words, "--run-dir", tmp_path / "run")
    assert done.status == 0, done.err
    note = "note: 34 of the 45 pictures in test are in train too; its figures tell less about new pictures\n"
    assert done.out.count(note) == 1


def test_files_that_are_no_pictures_are_named_and_may_be_skipped(jaxcnn, tmp_path):
    for name, colour in COLOURS.items():
        for i in range(5):
            draw(tmp_path / "set" / name / f"{i}.png", colour, i)
    (tmp_path / "set" / "green" / "notes.txt").write_text("text")
    words = ("train", "--model", "mlp", "--data", tmp_path / "set", "--image-size", 8, "--run-dir", tmp_path / "run")
    done = jaxcnn(*words, *SHORT)
    assert done.status == 2
    assert "notes.txt" in done.err
    assert "--skip-bad" in done.err
    assert not (tmp_path / "run").exists()
    done = jaxcnn(*words, *SHORT, "--skip-bad")
    assert done.status == 0, done.err
    assert "left out what is no picture: expected a picture in" in done.out
    assert jaxcnn("evaluate", tmp_path / "run").status == 0


def write_table(path, photographs, header, labels):
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", *header))
        for number, name in enumerate(COLOURS):
            for i in range(15):
                rows.writerow((f"{photographs / name / str(i)}.{('jpg', 'png')[i % 2]}", *labels(number, name, i)))
    return path


@pytest.mark.parametrize(
    ("header", "labels", "words", "figure"),
    [
        (("label",), lambda number, name, i: (name,), (), "accuracy"),
        (("tags",), lambda number, name, i: (f"{name}|{'small' if i % 2 else 'large'}",), ("--separator", "|"), "f1"),
        (("x", "y"), lambda number, name, i: (number / 2, i / 15), ("--labels", "x", "y"), "mae"),
        (("label",), lambda number, name, i: (number,), ("--task", "regression"), "mae"),
    ],
    ids=["classes", "multi-label", "numbers", "regression"],
)
def test_tables_train_every_task(jaxcnn, photographs, tmp_path, header, labels, words, figure):
    table = write_table(tmp_path / "table.csv", photographs, header, labels)
    run = tmp_path / "run"
    data = ("--model", "mlp", "--data", table, "--image-size", 6, "--run-dir", run, "--epochs", 1)
    done = jaxcnn("train", *data, *SHORT[2:], *words)
    assert done.status == 0, done.err
    figures = json.loads(jaxcnn("evaluate", run, "--data", table, "--json").out)
    assert figures["examples"] == 45
    assert figure in "".join(figures)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "digits", "--skip-bad"), "voc:PATH and yolo:PATH, got it for 'digits'"),
        (("--data", "digits", "--labels", "x"), "labels only for tables, got it for 'digits'"),
        (("--data", "digits", "--resize", "fit"), "--resize fit has an effect only with --image-size"),
        (("--data", "digits", "--image-size", "1", "2", "3"), "image_size expects one number, or height and width"),
        (("--data", "digits", "--image-size", "0"), "size"),
        (("--data", "masks:here", "--image-size", "8"), "masks that are stretched, resize='stretch', got 'crop'"),
        (("--data", "folder:here", "--channels", "2"), "image_folder expects 1 or 3 channels, got 2"),
        (("--data", "folder:nowhere"), "there is no folder 'nowhere'"),
        (("--data", ""), "unknown data set ''"),
    ],
)
def test_options_that_do_not_fit_the_data_are_refused(jaxcnn, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    done = jaxcnn("train", *words, "--run-dir", "run")
    assert done.status == 2
    assert message in " ".join(done.err.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.heavy
def test_digits_may_have_another_size(jaxcnn, tmp_path):
    done = jaxcnn("train", "--model", "mlp", "--image-size", 8, "--run-dir", tmp_path / "run", *SHORT)
    assert done.status == 0, done.err
    assert RunFolder(tmp_path / "run").preprocessing == FitPicture((8, 8, 1), "crop")
    assert jaxcnn("evaluate", tmp_path / "run", "--data", "digits").status == 0


def test_images_of_different_sizes_of_any_source_are_fitted_to_be_evaluated(jaxcnn, photographs, trained, monkeypatch):
    expected = jaxcnn("evaluate", trained, "--data", photographs, "--json").out
    source = image_folder(photographs)
    monkeypatch.setitem(named.NAMES, "others", lambda: Subset(source, np.arange(len(source))))
    for fitted in (True, False):
        if not fitted:
            load = evaluate.trained.load

            def unrecorded(run, layer, load=load):
                found = load(run, layer)
                return found._replace(info=found.info._replace(fitted=None))

            monkeypatch.setattr(evaluate.trained, "load", unrecorded)
        done = jaxcnn("evaluate", trained, "--data", "others", "--json")
        assert json.loads(done.out) | {"data": ""} == json.loads(expected) | {"data": ""}


def test_a_model_of_ones_own_needs_a_size_for_random_crops(jaxcnn, photographs, tmp_path):
    (tmp_path / "own.py").write_text("def build(num_classes):\n    raise NotImplementedError\n")
    words = ["--data", photographs, "--random-resized-crop", "--run-dir", tmp_path / "run"]
    done = jaxcnn("train", "--model", f"{tmp_path / 'own.py'}:build", *words)
    assert done.status == 2
    assert done.err == "error: --random-resized-crop expects --image-size for a model of your own, got none\n"


def test_random_crops_need_pictures_of_one_number_of_channels(jaxcnn, photographs, tmp_path, monkeypatch):
    source = image_folder(photographs)
    mixed = Subset(source, np.arange(len(source)))
    spec = {**source.spec, "image": source.spec["image"]._replace(shape=(None, None, None))}
    monkeypatch.setattr(Subset, "spec", spec)
    monkeypatch.setitem(named.NAMES, "mixed", lambda: mixed)
    done = jaxcnn("train", "--data", "mixed", "--random-resized-crop", "--run-dir", tmp_path / "run")
    assert done.status == 2
    assert "expects pictures of one number of channels; give --channels" in done.err
