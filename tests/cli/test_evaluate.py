import json
import re
import shutil

import numpy as np
import pytest

from jaxcnn import data
from jaxcnn.training.run_folder import RunFolder


@pytest.fixture
def best_logits(finished, saved):
    """The model of the best epoch in NumPy, from the bytes of the checkpoint."""
    leaves = saved(finished).leaves
    arrays = {name: np.frombuffer(content, dtype).reshape(shape) for name, (dtype, shape, content) in leaves.items()}

    def logits(images):
        y = images.reshape(len(images), -1)
        for name in ("dense1", "dense2", "head"):
            y = y @ arrays[f"best/params/{name}/kernel"] + arrays[f"best/params/{name}/bias"]
            y = y if name == "head" else np.maximum(y, 0)
        return y

    return logits


@pytest.mark.parametrize("split", ["test", "validation", "train"])
@pytest.mark.parametrize("batch_size", [7, 256])
def test_counts_every_example_of_the_split_with_the_best_epoch(
    jaxcnn, finished, splits, best_logits, split, batch_size
):
    part = splits[split]
    logits = best_logits(part.images)
    correct = int(np.sum(logits.argmax(1) == part.labels))
    loss = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(logits)), part.labels])
    done = jaxcnn("evaluate", finished, "--split", split, "--batch-size", batch_size)
    best = RunFolder(finished).result()["best_epoch"]
    five = np.mean(np.argsort(-logits, axis=1)[:, :5] == part.labels[:, None], axis=0).sum()
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[0] == (
        f"epoch {best}, {split}: accuracy {correct / len(logits):.2%} ({correct} of {len(logits)}), "
        f"top-5 accuracy {five:.2%}, loss {loss:.4f}"
    )


def test_the_test_split_is_the_default_and_gives_the_result_of_the_run(jaxcnn, finished):
    result = RunFolder(finished).result()
    assert jaxcnn("evaluate", finished).out.splitlines()[0] == (
        f"epoch {result['best_epoch']}, test: accuracy {result['test_accuracy']:.2%} ({result['test_correct']} of "
        f"{result['test_images']}), top-5 accuracy {result['test_top5_accuracy']:.2%}, loss {result['test_loss']:.4f}"
    )


def test_the_validation_split_gives_what_the_run_measured(jaxcnn, finished):
    result = RunFolder(finished).result()
    out = jaxcnn("evaluate", finished, "--split", "validation").out
    assert f"accuracy {result['validation_accuracy']:.2%} " in out
    assert out.splitlines()[0].endswith(f"loss {result['validation_loss']:.4f}")


def test_the_table_of_the_classes_is_that_of_scikit_learn(jaxcnn, finished, splits, best_logits):
    from sklearn.metrics import precision_recall_fscore_support

    test = splits["test"]
    predicted = best_logits(test.images).argmax(1)
    figures = precision_recall_fscore_support(test.labels, predicted, labels=range(10), zero_division=np.nan)
    empty, headings, rule, *rows = jaxcnn("evaluate", finished).out.splitlines()[1:]
    assert (empty, headings.split()) == ("", ["class", "precision", "recall", "F1", "count"])
    assert set(rule) == {"-"}
    assert [row.split() for row in rows] == [
        [str(k), *("-" if np.isnan(column[k]) else f"{column[k]:.2%}" for column in figures[:3]), str(figures[3][k])]
        for k in range(10)
    ]
    record = json.loads(jaxcnn("evaluate", finished, "--json").out)
    assert record["examples"] == 60
    for name, column in zip(("precision", "recall", "f1", "count"), figures, strict=True):
        measured = [np.nan if one[name] is None else one[name] for one in record["classes"]]
        np.testing.assert_allclose(measured, column, rtol=1e-6)
    result = RunFolder(finished).result()
    for name in ("accuracy", "loss", "top5_accuracy"):
        assert record[name] == pytest.approx(result[f"test_{name}"])


@pytest.fixture
def reordered(tmp_path, digits8):
    """The same images in a file that lists the classes backwards, so that a 3 has the label 6."""
    names = np.array([str(9 - k) for k in range(10)])
    np.savez(tmp_path / "reordered.npz", images=digits8[0][:150], labels=9 - digits8[1][:150], class_names=names)
    return tmp_path / "reordered.npz"


def test_other_data_are_evaluated_whole_and_by_the_names_of_their_classes(
    jaxcnn, finished, reordered, digits8, best_logits
):
    images, labels = digits8[0][:150] / np.float32(255), digits8[1][:150]
    correct = np.sum(best_logits(images).argmax(1) == labels)
    done = jaxcnn("evaluate", finished, "--data", reordered)
    assert done.status == 0
    assert f", {reordered}: accuracy {correct / 150:.2%} ({correct} of 150), " in done.out
    record = json.loads(jaxcnn("evaluate", finished, "--data", reordered, "--json").out)
    assert (record["data"], record["accuracy"]) == (str(reordered), pytest.approx(correct / 150))
    assert [one["class"] for one in record["classes"]] == [str(k) for k in range(10)]
    assert [one["count"] for one in record["classes"]] == np.bincount(labels).tolist()


def test_other_data_with_other_classes_or_images_are_refused(jaxcnn, finished, digits8, tmp_path):
    path = tmp_path / "other.npz"

    def message(images, names, *more):
        labels = np.arange(len(images)) % len(names)
        np.savez(path, images=images, labels=labels, class_names=np.array(names))
        done = jaxcnn("evaluate", finished, "--data", path, *more)
        assert done.status == 2
        return done.err

    digits = [str(k) for k in range(10)]
    error = message(digits8[0], [*digits[:8], "eight", "x\x1b"])
    assert "got unknown 'eight', 'x\\x1b' and missing '8', '9';" in error
    assert "got missing '9';" in message(digits8[0], digits[:9])
    assert "expected images of 8x8x1" in message(np.zeros((20, 9, 8, 1), np.uint8), digits)
    assert "which has none; omit it" in message(digits8[0], digits, "--split", "test")


def test_a_segmenter_is_measured_by_class(jaxcnn, segmenter, masked):
    done = jaxcnn("evaluate", segmenter, "--data", masked)
    assert done.status == 0
    weights = {name: np.asarray(leaf) for name, leaf in RunFolder(segmenter).read_best()[0]["params"].items()}
    source = data.mask_folder(masked)["train"]
    predicted, there = [], []
    for k in range(len(source)):
        image = source[k]["image"] / np.float32(255)
        predicted.append((image @ weights["head/kernel"][0, 0] + weights["head/bias"]).argmax(2))
        there.append(source[k]["mask"])
    predicted, there = np.stack(predicted), np.stack(there)
    record = json.loads(jaxcnn("evaluate", segmenter, "--data", masked, "--json").out)
    ious = []
    for k, name in enumerate(("dark", "bright")):
        shared, either = np.sum((predicted == k) & (there == k)), np.sum((predicted == k) | (there == k))
        ious.append(shared / either)
        dice = 2 * shared / (shared + either)
        assert record["classes"][k] == {"class": name, "iou": pytest.approx(ious[k]), "dice": pytest.approx(dice)}
        assert re.search(rf"^{name} +{ious[k]:.2%} +{dice:.2%}$", done.out, re.MULTILINE)
    assert record["mean_iou"] == pytest.approx(np.mean(ious))
    assert f"pixel accuracy {np.mean(predicted == there):.2%}" in done.out


@pytest.mark.parametrize("command", [["evaluate", "RUN"], ["train", "--run-dir", "RUN", "--resume"]])
def test_a_run_that_was_started_in_python_has_no_data_of_its_own(jaxcnn, segmenter, command):
    refused = jaxcnn(*(segmenter if word == "RUN" else word for word in command))
    assert refused.status == 2
    expected = "its data are not recorded; resume it with jaxcnn.training.run, or evaluate it with --data"
    assert expected in refused.err


def test_nothing_in_the_run_is_changed(jaxcnn, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    jaxcnn("evaluate", finished)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


@pytest.mark.usefixtures("no_pictures")
def test_a_run_in_bfloat16_is_evaluated_in_bfloat16(jaxcnn, words, tmp_path):
    run = tmp_path / "run"
    jaxcnn(*words(run, "--epochs", 1, "--augment", "none", "--precision", "bfloat16"))
    result = RunFolder(run).result()
    done = jaxcnn("evaluate", run)
    assert f"({result['test_correct']} of 60), " in done.out
    assert f"loss {result['test_loss']:.4f}\n" in done.out


@pytest.mark.usefixtures("no_pictures")
def test_a_stopped_run_is_evaluated_as_its_best_epoch_left_it(jaxcnn, words, at_step, ctrl_c, tmp_path):
    at_step({7: ctrl_c})
    jaxcnn(*words(tmp_path / "run", "--epochs", 4, "--augment", "none"))
    [row] = RunFolder(tmp_path / "run").metrics()
    out = jaxcnn("evaluate", tmp_path / "run", "--split", "validation").out
    assert out.startswith(f"epoch 1, validation: accuracy {row['validation_accuracy']:.2%} ")


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_run_stopped_in_its_first_epoch_has_no_best_one(jaxcnn, words, at_step, ctrl_c, tmp_path, command):
    run = tmp_path / "run"
    at_step({2: ctrl_c})
    jaxcnn(*words(run, "--epochs", 4, "--augment", "none"))
    done = jaxcnn(command, run, *(["image.png"] if command == "predict" else []))
    assert done.status == 2
    assert (
        done.err == f"error: expected a run with at least one whole epoch, got {run}, which stopped earlier; "
        "resume it first\n"
    )


def cut_in_half(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_a_damaged_checkpoint_is_named_and_the_previous_one_used(jaxcnn, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    cut_in_half(max((run / "checkpoints" / "20").rglob("d/*"), key=lambda file: file.stat().st_size))
    assert jaxcnn("evaluate", run) == jaxcnn("evaluate", finished)  # best.npz is there
    (run / "best.npz").unlink()
    done = jaxcnn("evaluate", run)
    assert done.status == 0
    assert re.match(rf"note: a damaged checkpoint in {run} was not used: checkpoint 20: .+\n", done.err)
    assert re.match(r"epoch [1-3], test: accuracy ", done.out)


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_truncated_checkpoints_are_an_error_that_names_each(jaxcnn, finished, tmp_path, command):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "best.npz").unlink()
    for step in (15, 20):
        cut_in_half(max((run / "checkpoints" / str(step)).rglob("d/*"), key=lambda file: file.stat().st_size))
    done = jaxcnn(command, run, *(["image.png"] if command == "predict" else []))
    assert done.status == 2
    assert re.match(
        r"error: expected a usable checkpoint in .*, got only damaged ones; .*\n  checkpoint 20: .*\n  checkpoint 15: ",
        done.err,
    )


def test_a_run_without_weights_is_an_error(jaxcnn, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints")
    assert jaxcnn("evaluate", run).status == 0
    (run / "best.npz").unlink()
    done = jaxcnn("evaluate", run)
    assert done.status == 2
    assert re.match(r"error: expected a run with at least one whole epoch, got .*; resume it first", done.err)


@pytest.mark.usefixtures("no_pictures")
def test_other_data_than_the_run_was_trained_on_are_refused(jaxcnn, words, digits8, tmp_path):
    path, run = tmp_path / "data.npz", tmp_path / "run"
    np.savez(path, images=digits8[0], labels=digits8[1])
    jaxcnn(*words(run, "--epochs", 1, "--augment", "none", "--data", path))
    np.savez(path, images=digits8[0][::-1], labels=digits8[1])
    done = jaxcnn("evaluate", run)
    assert done.status == 2
    assert (
        done.err == f"error: expected the data that the run in {run} was trained on, got other data; "
        "were they changed?\n"
    )


@pytest.mark.usefixtures("no_pictures")
def test_a_run_on_a_file_named_from_one_folder_is_found_from_another(jaxcnn, words, npz, tmp_path, monkeypatch):
    shutil.copy(npz, tmp_path / "data.npz")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    jaxcnn(*words("run", "--epochs", 1, "--augment", "none", "--data", "data.npz"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert jaxcnn("evaluate", tmp_path / "run").status == 0


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_size_below_1_is_refused(jaxcnn, finished, size):
    assert jaxcnn("evaluate", finished, "--batch-size", size) == (
        2,
        "",
        f"error: --batch-size expects a number at least 1, got {size}\n",
    )


def test_an_unknown_split_is_refused_with_those_there_are(jaxcnn, finished):
    done = jaxcnn("evaluate", finished, "--split", "tests")
    assert done.status == 2
    assert "('auto', 'test', 'validation', 'train')" in re.sub(r"[│\s]+", " ", done.out + done.err)
