import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcnn import environment
from jaxcnn.cli import pictures
from jaxcnn.cli.options import RecipeOptions, Train
from jaxcnn.cli.train import stored_options
from jaxcnn.models import mlp
from jaxcnn.training.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"


def strict_json(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_finished_run_holds_these_files_and_no_others(finished):
    assert sorted(path.name for path in finished.iterdir()) == [
        "best.npz",
        "checkpoints",
        "config.json",
        "confusion.png",
        "curves.png",
        "lock",
        "metrics.jsonl",
        "mistakes.png",
        "result.json",
    ]
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["15", "20"]


def test_the_config_holds_all_that_is_needed_to_repeat_the_run(finished, npz):
    config = strict_json((finished / "config.json").read_text())
    assert config["schema"] == 1
    assert (
        config["recipe"]
        == RecipeOptions(
            epochs=4, batch_size=32, learning_rate=5e-3, warmup_epochs=1.0, augment="none", checkpoint_epochs=1
        ).to_json()
    )
    assert config["options"] == {
        "model": "mlp",
        "data": str(npz),
        "image_size": [],
        "resize": "crop",
        "crop_fraction": 1.0,
        "random_resized_crop": False,
        "training_size": [],
        "views": None,
        "whiten": None,
        "channels": None,
        "skip_bad": False,
        "instances": False,
        "clip_boxes": False,
        "one_based": True,
        "max_objects": None,
        "labels": [],
        "separator": None,
        "task": "auto",
        "classes": [],
        "validation_data": None,
        "test_data": None,
        "examples_per_class": None,
        "label_smoothing": 0.0,
        "init_from": None,
        "head": "auto",
    }
    assert config["command"][:4] == ["jaxcnn", "train", "--model", "mlp"]
    assert config["model"] == repr(mlp(10, image_size=8))
    assert config["task"] == "Classification()"
    assert config["image_shape"] == [8, 8, 1]
    assert config["class_names"] == [str(k) for k in range(10)]
    assert set(config["data_fingerprint"]) == {"train", "validation", "test"}
    assert re.fullmatch(r"[0-9a-f]{8}", config["weights_fingerprint"])
    for package in ("jax", "jaxlib", "optax", "numpy", "orbax-checkpoint"):
        assert config["versions"][package] == importlib.metadata.version(package)
    assert set(config["versions"]) >= {"python", "jaxcnn", "scikit-learn"}
    assert config["devices"]
    assert config["platform"]
    assert config["processor"] == {"processor": environment.processor(), "cores": environment.usable_cores()}


def test_the_options_come_back_as_they_were(finished, npz):
    recipe = RecipeOptions(
        epochs=4, batch_size=32, learning_rate=5e-3, warmup_epochs=1.0, augment="none", checkpoint_epochs=1
    )
    assert stored_options(RunFolder(finished)) == Train(model="mlp", data=str(npz), recipe=recipe, run_dir=finished)


def test_options_that_came_later_have_defaults_and_unknown_ones_are_refused(finished, tmp_path, edit_config, jaxcnn):
    shutil.copytree(finished, tmp_path / "run")

    def forget(config):
        del config["recipe"]["patience"], config["options"]["task"]

    edit_config(tmp_path / "run", forget)
    assert stored_options(RunFolder(tmp_path / "run")).task == "auto"
    edit_config(tmp_path / "run", lambda config: config["recipe"].update(temperature=3))
    resumed = jaxcnn("train", "--resume", "--run-dir", tmp_path / "run")
    assert resumed.status == 2
    assert re.match("error: expected the recipe of a run in .*, got: temperature is no field of a recipe", resumed.err)
    edit_config(tmp_path / "run", lambda config: config["recipe"].pop("temperature"))
    edit_config(tmp_path / "run", lambda config: config["options"].update(weather="fine"))
    resumed = jaxcnn("evaluate", tmp_path / "run")
    assert resumed.status == 2
    assert re.match(r"error: expected options that this version knows in .*, got --weather; was it", resumed.err)


def test_the_metrics_are_one_line_of_json_for_each_epoch(finished):
    rows = [strict_json(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 5), (2, 10), (3, 15), (4, 20)]
    assert {row["run"] for row in rows} == {RunFolder(finished).id}
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
    result = RunFolder(finished).result()
    best = max(rows, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))
    assert result["best_epoch"] == best["epoch"]
    assert result["validation_accuracy"] == best["validation_accuracy"]
    assert result["validation_loss"] == best["validation_loss"]
    assert result["test_images"] == 60
    assert result["test_accuracy"] * 60 == pytest.approx(round(result["test_accuracy"] * 60))


@pytest.mark.parametrize("name", ["curves.png", "confusion.png", "mistakes.png"])
def test_the_pictures_are_pictures(finished, name):
    with Image.open(finished / name) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("L"), float)
    assert min(pixels.shape) > 300
    assert pixels.std() > 5  # not a blank page


@pytest.mark.usefixtures("no_pictures")
def test_the_command_in_the_config_repeats_the_run(jaxcnn, finished, tmp_path, saved, rows):
    words = RunFolder(finished).config["command"][1:]
    words[words.index("--run-dir") + 1] = str(tmp_path / "again")
    assert jaxcnn(*words).status == 0
    assert saved(tmp_path / "again") == saved(finished)
    assert rows(tmp_path / "again") == rows(finished)


def test_a_folder_whose_name_is_not_utf_8_is_refused_before_the_training(jaxcnn, words, tmp_path):
    done = jaxcnn(*words(tmp_path / os.fsdecode(b"caf\xe9"), "--epochs", 1))
    assert done.status == 2
    assert done.err == (
        f"error: expected a folder whose whole path is UTF-8, got {tmp_path}/caf\\xe9; choose another\n"
    )
    assert list(tmp_path.iterdir()) == []


COMMANDS = {
    "evaluate": lambda run: ["evaluate", run],
    "predict": lambda run: ["predict", run, GOLDEN / "digits16.npz"],
    "export": lambda run: ["export", run],
    "plot": lambda run: ["plot", run, "--output", run / "runs.png"],
    "resume": lambda run: ["train", "--run-dir", run, "--resume"],
    "init-from": lambda run: ["train", "--model", "mlp", "--init-from", run],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "kind", ["edited config", "damaged config", "edited metrics", "edited result", "other weights"]
)
def test_every_command_notices_edited_and_damaged_files(jaxcnn, finished, other_seed, tmp_path, command, kind):
    uses = {"edited metrics": ("evaluate", "predict", "export", "plot", "resume")}
    uses |= {"edited result": ("evaluate", "predict", "export", "resume")}
    uses |= {"other weights": ("evaluate", "predict", "export", "init-from")}
    if command not in uses.get(kind, COMMANDS):
        pytest.skip("does not apply: the command does not read that file")
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    if kind == "edited config":
        text = (run / "config.json").read_text()
        (run / "config.json").write_text(text.replace('"split_seed": 0', '"split_seed": 2'))
        name = "config.json"
    elif kind == "damaged config":
        (run / "config.json").write_bytes(b"\xff{")
        name = "config.json"
    elif kind == "edited metrics":
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        (run / "metrics.jsonl").write_text("".join([lines[0], "{}\n", *lines[2:]]))
        name = "metrics.jsonl, line 2"
    elif kind == "edited result":
        (run / "result.json").write_text("[]")
        name = "result.json"
    else:
        shutil.copy(other_seed / "best.npz", run)
        name = "best.npz"
    done = jaxcnn(*COMMANDS[command](run))
    assert done.status == 2
    assert done.err.startswith("error: ")
    assert str(run / name.partition(",")[0]) in done.err
    assert name in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_a_checkpoint_of_another_run_or_step_is_named(jaxcnn, finished, other_seed, tmp_path, command):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints" / "20")
    shutil.copytree(other_seed / "checkpoints" / "20", run / "checkpoints" / "25")
    (run / "checkpoints" / "15").rename(run / "checkpoints" / "16")
    done = jaxcnn(*COMMANDS[command](run))
    assert done.status == 0
    assert "checkpoint 25: it was saved at step 20; its folder was renamed\n" in done.err
    assert "checkpoint 16: it was saved at step 15; its folder was renamed\n" in done.err
    (run / "checkpoints" / "25").rename(run / "checkpoints" / "20")
    assert "checkpoint 20: it belongs to another run (" in jaxcnn(*COMMANDS[command](run)).err


@pytest.mark.usefixtures("no_pictures")
def test_a_resumed_run_passes_over_a_checkpoint_of_another_run(jaxcnn, finished, other_seed, tmp_path, saved, rows):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints" / "20")
    shutil.copytree(other_seed / "checkpoints" / "20", run / "checkpoints" / "20")
    resumed = jaxcnn("train", "--run-dir", run, "--resume")
    assert resumed.status == 0
    assert "skipped a damaged checkpoint: checkpoint 20: it belongs to another run (" in resumed.out
    assert "resuming after step 15\n" in resumed.out
    assert saved(run).leaves == saved(finished).leaves
    assert rows(run) == rows(finished)


def test_missing_lines_of_the_metrics_are_noticed(jaxcnn, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "result.json").unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:2]))
    resumed = jaxcnn("train", "--run-dir", run, "--resume")
    assert resumed.status == 2
    assert re.match(r"error: expected the metrics of 4 epochs in .*metrics\.jsonl, got 2; restore", resumed.err)


@pytest.mark.slow
@pytest.mark.heavy
def test_pictures_that_a_killed_run_did_not_draw_are_drawn_later(jaxcnn, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for name in ("confusion.png", "mistakes.png"):
        (run / name).unlink()
    before = (run / "result.json").read_bytes(), (run / "metrics.jsonl").read_bytes()
    resumed = jaxcnn("train", "--run-dir", run, "--resume")
    assert resumed.status == 0, resumed.err
    assert resumed.out.endswith(f"pictures and checkpoints: {run}\n")
    for name in ("curves.png", "confusion.png", "mistakes.png"):
        assert (run / name).read_bytes() == (finished / name).read_bytes()
    assert ((run / "result.json").read_bytes(), (run / "metrics.jsonl").read_bytes()) == before


@pytest.mark.usefixtures("no_pictures")
def test_a_folder_that_is_deleted_during_the_run_is_an_error(jaxcnn, words, at_step, tmp_path):
    run = tmp_path / "run"
    at_step({7: lambda: shutil.rmtree(run)})
    done = jaxcnn(*words(run, "--epochs", 3, "--augment", "none"))
    assert done.status == 2
    assert done.err.startswith(f"error: expected the folder {run} to stay while its run is in progress, but it was")
    assert not run.exists()


@pytest.mark.usefixtures("no_pictures")
def test_runs_of_the_same_second_have_folders_of_their_own(jaxcnn, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda layout: "20260101-120000")
    for _ in range(2):
        command = words(None, "--epochs", 1, "--augment", "none")
        del command[command.index("--run-dir") : command.index("--run-dir") + 2]
        assert jaxcnn(*command).status == 0
    assert sorted(os.listdir("runs")) == ["20260101-120000-mlp-0", "20260101-120000-mlp-0-2"]


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.usefixtures("no_pictures")
def test_a_run_in_progress_cannot_be_resumed_by_another_process(jaxcnn, words, at_step, environment, tmp_path):
    run = tmp_path / "run"
    other = []

    def resume():
        command = [sys.executable, "-m", "jaxcnn.cli", "train", "--run-dir", str(run), "--resume"]
        other.append(subprocess.run(command, env=environment, capture_output=True, text=True))

    at_step({7: resume})
    assert jaxcnn(*words(run, "--epochs", 2, "--augment", "none")).status == 0
    assert other[0].returncode == 2
    assert re.match(
        rf"error: expected a run folder that no other process writes to, .* process {os.getpid()} trains",
        other[0].stderr,
    )
    assert len(RunFolder(run).metrics()) == 2


def test_a_read_only_folder_is_refused_in_one_sentence(jaxcnn, finished, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "result.json").unlink()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    resumed = jaxcnn("train", "--run-dir", run, "--resume")
    assert resumed == (
        2,
        "",
        f"error: expected a run folder that can be written, got {run}, which is read-only\n",
    )


FULL = """
import resource, signal, sys
from jaxcnn.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.heavy
def test_a_full_disk_is_one_sentence(words, environment, tmp_path):
    run = tmp_path / "run"
    command = words(run, "--epochs", 2, "--augment", "none", "--checkpoint-epochs", 1)
    # Nothing is compiled into the cache: it would meet the limit too.
    own = {name: value for name, value in environment.items() if not name.startswith("JAX_")} | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", FULL, *map(str, command)], env=own, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: expected to save in {run}/checkpoints, got checkpoint 5: File too large; there is no earlier one; "
        "check the free space and the permissions\n"
    )


@pytest.fixture
def golden(tmp_path, monkeypatch):
    """A folder of version 0.1, stopped in its seventh epoch, whose data are where it expects them."""
    shutil.copytree(GOLDEN / "run_0_1", tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    config["options"]["data"] = str(GOLDEN / "digits16.npz")
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    return tmp_path / "old"


def test_a_folder_of_the_first_version_is_used_by_every_command(jaxcnn, golden, tmp_path):
    # Version 0.1 printed these figures.
    assert (
        "epoch 5, test: accuracy 85.00% (51 of 60), top-5 accuracy 100.00%, loss 0.3969\n"
        in jaxcnn("evaluate", golden).out
    )
    with np.load(GOLDEN / "digits16.npz") as arrays:
        Image.fromarray(arrays["images"][40, ..., 0]).save(tmp_path / "digit.png")
    assert jaxcnn("predict", golden, tmp_path / "digit.png").out == (
        f"{tmp_path}/digit.png  eight 95.4%  two 3.7%  one 0.7%\n"
    )
    exported = jaxcnn("export", golden, "--output", tmp_path / "model.stablehlo")
    assert exported.status == 0
    assert exported.out.startswith(f"epoch 5 in {tmp_path}/model.stablehlo (")
    description = json.loads((tmp_path / "model.stablehlo.json").read_text())
    assert description["class_names"][:3] == ["zero", "one", "two"]


@pytest.mark.usefixtures("no_pictures")
def test_a_run_of_the_first_version_goes_on(jaxcnn, golden):
    resumed = jaxcnn("train", "--resume", "--run-dir", golden)
    assert resumed.status == 0, resumed.err
    assert "resuming after step 70\n" in resumed.out
    # What version 0.1 reached without a stop, on another machine.
    assert "epoch   7/8  loss 0.0944  train  97.16%  validation  95.00%" in resumed.out
    assert "best epoch 8: validation accuracy 96.67%\ntest accuracy 90.00%, 6 of 60 wrong\n" in resumed.out
    assert RunFolder(golden).result()["test_loss"] == pytest.approx(0.28398528695106506, rel=1e-4)
    assert len(RunFolder(golden).metrics()) == 8


def test_a_run_of_the_first_version_needs_its_data(jaxcnn, golden, tmp_path):
    with np.load(GOLDEN / "digits16.npz") as arrays:
        changed = dict(arrays)
    changed["images"][7, 3, 3] ^= 1
    np.savez(tmp_path / "changed.npz", **changed)
    config = json.loads((golden / "config.json").read_text())
    for data, message in ((tmp_path / "changed.npz", "got other data"), (tmp_path / "gone.npz", "there is no file")):
        config["options"]["data"] = str(data)
        (golden / "config.json").write_text(json.dumps(config))
        for command in (["evaluate", golden], ["export", golden], ["train", "--resume", "--run-dir", golden]):
            done = jaxcnn(*command)
            assert done.status == 2
            assert message in done.err


BLIND = """
import sys
import jaxcnn.data
from jaxcnn.cli import main

def refuse(*arguments, **options):
    raise AssertionError("the data were read")

for name in ("load_npz", "digits", "split"):
    setattr(jaxcnn.data, name, refuse)
sys.exit(main())
"""


def test_a_run_travels_to_a_machine_without_its_data(words, finish, environment, tmp_path, digits8, jaxcnn):
    data = tmp_path / "home" / "data.npz"
    data.parent.mkdir()
    np.savez(data, images=digits8[0], labels=digits8[1])
    run = finish(lambda run: [*words(run, "--epochs", 2, "--augment", "none"), "--data", data])
    data.unlink()
    for name in ("checkpoints", "metrics.jsonl"):
        (shutil.rmtree if name == "checkpoints" else os.unlink)(run / name)
    run.rename(tmp_path / "away")
    Image.fromarray(digits8[0][0]).save(tmp_path / "digit.png")
    for command in (["predict", tmp_path / "away", tmp_path / "digit.png"], ["export", tmp_path / "away"]):
        done = subprocess.run(
            [sys.executable, "-c", BLIND, *map(str, command)], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    evaluated = jaxcnn("evaluate", tmp_path / "away")
    assert evaluated.status == 2
    assert "there is no file" in evaluated.err


def test_missing_pictures_are_those_of_the_task(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    assert not pictures.missing(RunFolder(tmp_path / "run"))
    (tmp_path / "run" / "mistakes.png").unlink()
    assert pictures.missing(RunFolder(tmp_path / "run"))
