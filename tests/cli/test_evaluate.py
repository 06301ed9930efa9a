import re
import shutil

import numpy as np
import pytest

from jaxcnn import data
from jaxcnn.cli import pairs
from jaxcnn.cli.run_folder import RunFolder


@pytest.fixture(scope="session")
def splits(npz):
    return pairs.splits(data.split(data.load_npz(npz), seed=0))


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
    part = getattr(splits, split)
    logits = best_logits(part.images)
    correct = int(np.sum(logits.argmax(1) == part.labels))
    loss = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(logits)), part.labels])
    done = jaxcnn("evaluate", finished, "--split", split, "--batch-size", batch_size)
    best = RunFolder(finished).result()["best_epoch"]
    assert done == (
        0,
        f"epoch {best}, {split}: accuracy {correct / len(logits):.2%} ({correct} of {len(logits)}), loss {loss:.4f}\n",
        "",
    )


def test_the_test_split_is_the_default_and_gives_the_result_of_the_run(jaxcnn, finished):
    result = RunFolder(finished).result()
    assert jaxcnn("evaluate", finished).out == (
        f"epoch {result['best_epoch']}, test: accuracy {result['test_accuracy']:.2%} ({result['test_correct']} of "
        f"{result['test_images']}), loss {result['test_loss']:.4f}\n"
    )


def test_the_validation_split_gives_what_the_run_measured(jaxcnn, finished):
    result = RunFolder(finished).result()
    out = jaxcnn("evaluate", finished, "--split", "validation").out
    assert f"accuracy {result['validation_accuracy']:.2%} " in out
    assert out.endswith(f"loss {result['validation_loss']:.4f}\n")


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
    assert f"({result['test_correct']} of 60), loss {result['test_loss']:.4f}\n" in done.out


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
    done = jaxcnn("evaluate", run)
    assert done.status == 0
    assert re.match(r"skipped a damaged checkpoint: checkpoint 20: .+\nepoch [1-3], test: accuracy ", done.out)


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_truncated_checkpoints_are_an_error_that_names_each(jaxcnn, finished, tmp_path, command):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for step in (15, 20):
        cut_in_half(max((run / "checkpoints" / str(step)).rglob("d/*"), key=lambda file: file.stat().st_size))
    done = jaxcnn(command, run, *(["image.png"] if command == "predict" else []))
    assert done.status == 2
    assert re.match(
        r"error: expected a usable checkpoint in .*, got only damaged ones; .*\n  checkpoint 20: .*\n  checkpoint 15: ",
        done.err,
    )


def test_a_run_without_checkpoints_is_an_error(jaxcnn, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints")
    done = jaxcnn("evaluate", run)
    assert done.status == 2
    assert re.match(r"error: expected checkpoints in .*, got none; ", done.err)


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
    assert "('test', 'validation', 'train')" in re.sub(r"[│\s]+", " ", done.out + done.err)
