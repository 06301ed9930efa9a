import dataclasses
import itertools
import json
import re

import jax
import numpy as np
import pytest

from jaxcnn import data
from jaxcnn.cli import names
from jaxcnn.cli.options import Train
from jaxcnn.layers import AuxiliaryHeads, Conv, Dense, Function, GlobalAvgPool, Sequential
from jaxcnn.models import mlp
from jaxcnn.models.catalog import CATALOG, Entry
from jaxcnn.training import runs
from jaxcnn.training.run_folder import RunFolder
from jaxcnn.types import Mean


def test_the_defaults_are_lenet5_on_digits_with_augmentation():
    options = Train()
    assert (options.model, options.data, options.recipe.augment) == ("lenet5", "digits", "affine")


@pytest.mark.usefixtures("no_pictures")
def test_lenet5_trains_on_the_digits(jaxcnn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = jaxcnn("train", "--epochs", 1)
    assert done.status == 0
    assert done.out.startswith(
        "lenet5, 61,706 parameters, on digits: 1,078 training, 360 validation and 359 test images of 32x32x1, "
        "10 classes\n"
    )
    [run] = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}-lenet5-0", run.name)
    assert f"\nrun folder {run.relative_to(tmp_path)}; Ctrl-C stops with a checkpoint\n" in done.out
    assert RunFolder(run).result()["test_images"] == 359


@pytest.mark.slow
def test_the_default_run_reaches_its_accuracy(jaxcnn, tmp_path):
    done = jaxcnn("train", "--seed", 0, "--run-dir", tmp_path / "run")
    assert done.status == 0
    assert RunFolder(tmp_path / "run").result()["test_accuracy"] >= 0.975


@pytest.mark.slow
def test_a_stopped_default_run_goes_on_exactly(jaxcnn, at_step, ctrl_c, tmp_path, saved, rows):
    options = ["--epochs", 5]  # of LeNet-5 on the digits, 16 steps each
    at_step({37: ctrl_c})
    assert "stopped after step 37," in jaxcnn("train", *options, "--run-dir", tmp_path / "stopped").out
    at_step({})
    assert jaxcnn("train", "--run-dir", tmp_path / "stopped", "--resume").status == 0
    assert jaxcnn("train", *options, "--run-dir", tmp_path / "whole").status == 0
    assert saved(tmp_path / "stopped") == saved(tmp_path / "whole")
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")


def test_output_that_is_no_terminal_is_plain_lines(finished):
    output = finished.with_name("output").read_text()
    result = RunFolder(finished).result()
    lines = output.splitlines()
    assert lines[0] == (
        "mlp, 50,826 parameters, on "
        + RunFolder(finished).config["options"]["data"]
        + ": 180 training, 60 validation and 60 test images of 8x8x1, 10 classes"
    )
    assert lines[1] == f"run folder {finished}; Ctrl-C stops with a checkpoint"
    assert lines[2].startswith("the examples are on the device: they take 16.3 kB of its ")
    for epoch, (line, row) in enumerate(zip(lines[3:7], RunFolder(finished).metrics(), strict=True), start=1):
        start = f"epoch   {epoch}/4  loss {row['train_loss']:.4f}  train {row['train_accuracy']:7.2%}  "
        start += f"validation {row['validation_accuracy']:7.2%}  {row['images_per_second']:,.0f} images/s  "
        assert line.startswith(start)
        assert re.fullmatch(r"\d+ s left(  best so far)?", line.removeprefix(start))
    assert lines[7:] == [
        f"best epoch {result['best_epoch']}: validation accuracy {result['validation_accuracy']:.2%}",
        f"test accuracy {result['test_accuracy']:.2%}, {60 - result['test_correct']} of 60 wrong",
        f"pictures and checkpoints: {finished}",
    ]
    assert "\x1b" not in output


def test_it_learns(finished):
    rows, result = RunFolder(finished).metrics(), RunFolder(finished).result()
    assert rows[-1]["train_loss"] < 0.6 * rows[0]["train_loss"]
    assert result["test_accuracy"] > 0.6


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("measured", "best"),
    [
        ([(30, 9.0), (50, 2.0), (40, 1.0)], 2),  # the most correct, not the smallest loss
        ([(50, 2.0), (50, 1.0), (50, 1.5)], 2),  # among equals the smaller loss
        ([(50, 1.0), (50, 1.0), (40, 0.5)], 1),  # among equals in both the first
        ([(0, 5.0), (0, 6.0), (0, 7.0)], 1),
    ],
)
def test_the_best_epoch_is_chosen_on_the_validation_set(jaxcnn, words, saved, monkeypatch, tmp_path, measured, best):
    # The last one is for the test set.
    planned = iter(
        {"loss": Mean(60 * loss, 60), "accuracy": Mean(correct, 60)} for correct, loss in [*measured, (0, 9.0)]
    )
    monkeypatch.setattr(runs, "evaluate", lambda *arguments, **options: next(planned))
    # A constant learning rate, so that a shorter run is the beginning of a longer one.
    options = ["--augment", "none", "--schedule", "constant", "--warmup-epochs", 0]
    assert jaxcnn(*words(tmp_path / "run", "--epochs", 3, *options)).status == 0
    result = RunFolder(tmp_path / "run").result()
    correct, loss = measured[best - 1]
    assert (result["best_epoch"], result["validation_accuracy"], result["validation_loss"]) == (
        best,
        correct / 60,
        loss,
    )
    # What is kept, and tested, is that epoch and no other.
    planned = itertools.repeat({"loss": Mean(60.0, 60), "accuracy": Mean(30, 60)})
    monkeypatch.setattr(runs, "evaluate", lambda *arguments, **options: next(planned))
    assert jaxcnn(*words(tmp_path / "short", "--epochs", best, *options)).status == 0
    kept, last = saved(tmp_path / "run").leaves, saved(tmp_path / "short").leaves
    params = [name.removeprefix("best/") for name in kept if name.startswith("best/")]
    assert len(params) == 6
    for name in params:
        assert kept[f"best/{name}"] == last[f"train_state/{name}"], name


@pytest.fixture
def other_test_split(monkeypatch):
    """Exchanges the test split for noise that a function may be told to watch."""

    def exchange(watch):
        original = names.load_splits

        @dataclasses.dataclass(frozen=True, eq=False)
        class Watched(data.Arrays):
            fingerprint = "noise"

            def gather(self, indices, names):
                watch()
                return super().gather(indices, names)

        def splits(options):
            read = original(options)
            test = read["test"].entries
            noise = np.random.default_rng(0).uniform(size=test["image"].shape).astype(np.float32)
            changed = {"image": noise, "label": test["label"][::-1]}
            return read | {"test": Watched(changed, read["test"].class_names)}

        monkeypatch.setattr(names, "load_splits", splits)

    return exchange


def test_the_test_split_is_read_after_the_last_epoch_and_changes_nothing_but_the_result(
    jaxcnn, words, finished, other_test_split, saved, rows, tmp_path
):
    run, epochs_done = tmp_path / "run", []
    other_test_split(lambda: epochs_done.append(len(RunFolder(run).metrics())))
    options = RunFolder(finished).config["command"][2:]
    assert jaxcnn("train", *options, "--run-dir", run).status == 0
    assert epochs_done
    assert set(epochs_done) == {4}
    assert rows(run) == rows(finished)
    assert saved(run) == saved(finished)
    result, real = RunFolder(run).result(), RunFolder(finished).result()
    assert result["test_accuracy"] < 0.5 < real["test_accuracy"]
    for name in ("best_epoch", "validation_accuracy", "validation_loss"):
        assert result[name] == real[name]


@pytest.mark.usefixtures("no_pictures")
def test_a_stopped_run_never_reads_the_test_split(jaxcnn, words, other_test_split, at_step, ctrl_c, tmp_path):
    reads = []
    other_test_split(lambda: reads.append("read"))
    at_step({7: ctrl_c})
    assert "stopped after step 7," in jaxcnn(*words(tmp_path / "run", "--epochs", 2, "--augment", "none")).out
    assert reads == []


@pytest.mark.usefixtures("no_pictures")
def test_label_smoothing_belongs_to_the_training_loss_only(jaxcnn, words, splits, tmp_path):
    # One step whose learning rate is still zero: both losses are those of the first parameters.
    options = ["--epochs", 1, "--batch-size", 180, "--warmup-epochs", 1, "--augment", "none", "--label-smoothing", 0.3]
    assert jaxcnn(*words(tmp_path / "run", *options)).status == 0
    params, _ = mlp(10, image_size=8).init(jax.random.split(jax.random.key(0))[0])

    def log_probabilities(images):
        y = images.reshape(len(images), -1)
        for name in ("dense1", "dense2", "head"):
            y = y @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"])
            y = y if name == "head" else np.maximum(y, 0)
        return y - np.log(np.exp(y).sum(1, keepdims=True))

    [row] = RunFolder(tmp_path / "run").metrics()
    target = 0.03 + 0.7 * np.eye(10)[splits["train"].labels]
    smoothed = -np.mean(np.sum(target * log_probabilities(splits["train"].images), 1))
    plain = -np.mean(log_probabilities(splits["validation"].images)[np.arange(60), splits["validation"].labels])
    assert row["train_loss"] == pytest.approx(smoothed, rel=1e-5)
    assert row["validation_loss"] == pytest.approx(plain, rel=1e-5)
    assert row["learning_rate"] == 0.0


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.usefixtures("no_pictures")
def test_every_option_of_the_training_changes_what_is_trained(jaxcnn, words, saved, tmp_path):
    base = ["--epochs", 1, "--augment", "none", "--warmup-epochs", 0.5]
    changes = [
        [],
        ["--optimizer", "lion"],
        ["--schedule", "linear"],
        ["--weight-decay", 0.5],
        ["--clip-norm", 0.1],
        ["--augment", "crop-flip"],
        ["--precision", "bfloat16"],
        ["--seed", 1],
        ["--split-seed", 1],
    ]
    kernels = []
    for number, change in enumerate(changes):
        assert jaxcnn(*words(tmp_path / str(number), *base, *change)).status == 0, change
        kernels.append(saved(tmp_path / str(number)).leaves["train_state/params/dense1/kernel"])
    assert len(set(kernels)) == len(changes)
    assert {dtype for dtype, _, _ in kernels} == {np.dtype("float32")}


@pytest.mark.usefixtures("no_pictures")
def test_a_run_with_the_same_options_gives_the_same_numbers(jaxcnn, words, finished, saved, rows, tmp_path):
    options = RunFolder(finished).config["command"][2:]
    assert jaxcnn("train", *options, "--run-dir", tmp_path / "again").status == 0
    assert saved(tmp_path / "again") == saved(finished)
    assert rows(tmp_path / "again") == rows(finished)
    assert RunFolder(tmp_path / "again").result() == RunFolder(finished).result()


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--epochs", 0, "at least 1"),
        ("--batch-size", 0, "at least 1"),
        ("--learning-rate", 0.0, "above 0"),
        ("--learning-rate", "nan", "above 0"),
        ("--warmup-epochs", -1.0, "at least 0"),
        ("--weight-decay", -0.1, "at least 0"),
        ("--clip-norm", 0.0, "above 0"),
        ("--label-smoothing", 1.0, r"in \[0, 1\)"),
        ("--label-smoothing", -0.1, r"in \[0, 1\)"),
        ("--seed", -1, "at least 0"),
        ("--split-seed", -1, "at least 0"),
        ("--checkpoint-epochs", 0, "at least 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(jaxcnn, words, tmp_path, option, value, expected):
    done = jaxcnn(*words(tmp_path / "run", option, value))
    assert done.status == 2
    assert re.fullmatch(f"error: {option} expects a number {expected}.*, got {value}\n", done.err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("option", "value"), [("--seed", 10**20), ("--warmup-epochs", "inf")])
def test_numbers_that_are_too_large_are_refused(jaxcnn, words, tmp_path, option, value):
    done = jaxcnn(*words(tmp_path / "run", "--epochs", 1, option, value))
    assert done.status == 2
    assert re.match(f"error: {option} expects a number .*, got {value}\n", done.err)
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_no_classifier_is_refused(jaxcnn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "squares.npz"
    np.savez(data, images=np.zeros((40, 16, 16, 3), np.float32), labels=np.arange(40) % 2)
    done = jaxcnn("train", "--model", "unet", "--data", str(data), "--batch-size", "4", "--augment", "none")
    assert done.status == 2
    assert done.err == (
        "error: expected a model for data with labels of whole images, such as mlp, got unet, "
        "which is for segmentation\n"
    )
    assert list(tmp_path.iterdir()) == [data]


def test_a_batch_larger_than_the_data_is_refused(jaxcnn, words, tmp_path):
    done = jaxcnn(*words(tmp_path / "run", "--batch-size", 181))
    assert done.status == 2
    assert done.err == "error: --batch-size expects at most the number of training examples, 180, got 181\n"
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_refused(jaxcnn, words, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    done = jaxcnn(*words(finished))
    assert done.status == 2
    assert done.err == (
        f"error: expected a new folder for the run, but {finished} already contains a run; "
        "choose another folder, or resume its run\n"
    )
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_place_where_something_else_is_is_refused(jaxcnn, words, tmp_path, kind):
    run = tmp_path / "run"
    if kind == "folder":
        run.mkdir()
        (run / "thesis.tex").touch()
    else:
        run.touch()
    done = jaxcnn(*words(run))
    assert done.status == 2
    what = f"but {run} is not empty" if kind == "folder" else f"got the file {run}"
    assert re.match(rf"error: expected a new folder for the run, {what}", done.err)


@pytest.mark.usefixtures("no_pictures")
def test_an_empty_folder_will_do(jaxcnn, words, tmp_path):
    (tmp_path / "run").mkdir()
    assert jaxcnn(*words(tmp_path / "run", "--epochs", 1, "--augment", "none")).status == 0


def test_a_folder_that_cannot_be_made_is_refused(jaxcnn, words, tmp_path):
    (tmp_path / "file").touch()
    done = jaxcnn(*words(tmp_path / "file" / "run"))
    assert done.status == 2
    assert f"got the file {tmp_path}/file" in done.err


def test_a_learning_rate_that_is_much_too_large_stops_and_names_the_step(jaxcnn, words, tmp_path):
    run = tmp_path / "run"
    options = ["--optimizer", "sgd", "--learning-rate", 1e18, "--warmup-epochs", 0, "--augment", "none"]
    done = jaxcnn(*words(run, *options))
    assert done.status == 2
    assert re.fullmatch(
        rf"error: expected (a finite loss, got (nan|inf) at|finite parameters and running moments, got NaN or "
        rf"infinity in \d+ arrays after) step \d; lower the learning rate, .*; there is no checkpoint yet in {run}\n",
        done.err,
    )


@pytest.mark.usefixtures("no_pictures")
def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint_to_go_on_from(
    jaxcnn, words, monkeypatch, finished, saved, rows, tmp_path
):
    run, original = tmp_path / "run", data.Batches.at

    def planted(batches, steps):
        for step, batch in zip(steps, original(batches, steps), strict=True):
            image = data.unit_pixels(batch["image"])
            yield batch | {"image": image * np.float32("nan") if step == 12 else image}

    options = RunFolder(finished).config["command"][2:]
    with monkeypatch.context() as patch:
        patch.setattr(data.Batches, "at", planted)
        done = jaxcnn("train", *options, "--run-dir", run)
    assert done.status == 2
    assert done.err == (
        "error: expected a finite loss, got nan at step 13; lower the learning rate, warm it up or clip the gradients, "
        "and make sure that the images are finite and the labels in [0, num_classes); "
        f"the checkpoint of step 10 is kept in {run}\n"
    )
    assert saved(run).step == 10
    assert not (run / "result.json").exists()
    assert jaxcnn("train", "--run-dir", run, "--resume").status == 0
    assert saved(run) == saved(finished)
    assert rows(run) == rows(finished)


@pytest.mark.parametrize("epochs", [1, 2])
def test_an_epoch_whose_validation_loss_is_not_finite_is_never_the_best(jaxcnn, words, tmp_path, epochs):
    # One step an epoch: the loss is taken before the update that ruins the parameters.
    run = tmp_path / "run"
    options = ["--optimizer", "sgd", "--learning-rate", 1e30, "--warmup-epochs", 0, "--augment", "none"]
    done = jaxcnn(*words(run, *options, "--batch-size", 180, "--epochs", epochs))
    assert done.status == 2
    assert re.match(r"error: expected a finite .*, got (nan|inf) at (step|epoch) ", done.err)
    assert not (run / "checkpoints").exists()
    assert "best so far" not in done.out
    for line in (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []:
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.slow
@pytest.mark.heavy
def test_images_of_two_channels_are_trained_to_the_end_or_refused_at_once(jaxcnn, words, tmp_path):
    random, run = np.random.default_rng(0), tmp_path / "run"
    np.savez(tmp_path / "two.npz", images=random.uniform(size=(60, 8, 8, 2)), labels=np.arange(60) % 3)
    options = ["--data", tmp_path / "two.npz", "--epochs", 1, "--augment", "none"]
    done = jaxcnn(*words(run, *options))
    assert (done.status == 0 and (run / "result.json").exists()) or (done.status == 2 and not run.exists())


def test_an_augmentation_that_does_not_fit_the_images_is_refused(jaxcnn, words, tmp_path):
    random, run = np.random.default_rng(0), tmp_path / "run"
    np.savez(tmp_path / "small.npz", images=random.uniform(size=(60, 4, 4)), labels=np.arange(60) % 3)
    done = jaxcnn(*words(run, "--data", tmp_path / "small.npz", "--augment", "affine"))
    assert done.status == 2
    assert re.match(r"error: affine expects max_shift .*, got 4", done.err)
    assert not run.exists()


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(("every", "steps"), [(1, [10, 15]), (2, [10, 15]), (10, [15])])
def test_checkpoints_are_saved_every_so_many_epochs_and_after_the_last(jaxcnn, words, tmp_path, every, steps):
    options = ["--epochs", 3, "--augment", "none", "--checkpoint-epochs", every]
    assert jaxcnn(*words(tmp_path / "run", *options)).status == 0
    assert sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()) == steps


@pytest.mark.usefixtures("no_pictures")
def test_a_checkpoint_that_cannot_be_written_is_an_error(jaxcnn, words, tmp_path, at_step):
    run = tmp_path / "run"
    at_step({3: lambda: (run / "checkpoints").touch()})
    done = jaxcnn(*words(run, "--epochs", 1, "--augment", "none"))
    assert done.status == 2
    assert done.err.startswith("error: ")


def two_heads(num_classes=10, *, in_channels=1):
    """A small model with an auxiliary head."""
    classifier = Sequential(pool=GlobalAvgPool(), head=Dense(4, num_classes))
    return AuxiliaryHeads("aux", conv=Conv(in_channels, 4), aux=classifier, relu=Function(jax.nn.relu), head=classifier)


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.usefixtures("no_pictures")
def test_a_model_with_auxiliary_heads_trains_with_their_weight(jaxcnn, words, tmp_path, monkeypatch):
    losses = {}
    for weight in (0.0, 0.3):
        monkeypatch.setitem(CATALOG, "two_heads", Entry(two_heads, (8, 8, 1), 10, ("in_channels",), 0, 0, 8))
        run = tmp_path / str(weight)
        options = (
            "--model",
            "two_heads",
            "--epochs",
            1,
            "--learning-rate",
            1e-9,
            "--augment",
            "none",
            "--auxiliary-weight",
            weight,
        )
        assert jaxcnn(*words(run, *options)).status == 0
        [row] = RunFolder(run).metrics()
        losses[weight] = row["train_loss"]
        # At this learning rate the main head alone has the same loss on all images, up to which images they are.
        assert abs(row["validation_loss"] - losses[0.0]) < 0.2
    assert losses[0.3] > 1.2 * losses[0.0]


@pytest.mark.slow
@pytest.mark.heavy
def test_where_the_examples_are_is_no_part_of_the_run(jaxcnn, finished, saved, rows, tmp_path):
    options = [*RunFolder(finished).config["command"][2:], "--run-dir", tmp_path / "run"]
    done = jaxcnn("train", *options, "--place", "stream")
    assert done.status == 0
    assert "the examples are" not in done.out
    assert saved(tmp_path / "run") == saved(finished)
    assert rows(tmp_path / "run") == rows(finished)
    assert "place" not in RunFolder(tmp_path / "run").config["options"]
    assert jaxcnn("train", "--run-dir", tmp_path / "run", "--resume", "--place", "memory").status == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--processes", 2), "--processes and --process expect --coordinator HOST:PORT; give it, or omit them"),
        (
            ("--coordinator", "host"),
            "the coordinator as HOST:PORT, such as 10.0.0.1:1234, or auto, got 'host'",
        ),
        (
            ("--devices", 1, "--find-learning-rate"),
            "uses one device: --devices, --shard and --coordinator have",
        ),
        (("--devices", 1, "--place", "device"), "--devices splits each batch on the host, got --place device; give"),
        (
            ("--devices", 10**6),
            "how many there are, got 1000000; use fewer, or start more processes",
        ),
    ],
)
def test_devices_and_processes_that_cannot_be_used_are_refused(jaxcnn, tmp_path, words, message):
    done = jaxcnn("train", *words, *([] if "--find-learning-rate" in words else ["--run-dir", tmp_path / "run"]))
    assert done.status == 2
    assert message in done.err
    assert not (tmp_path / "run").exists()
