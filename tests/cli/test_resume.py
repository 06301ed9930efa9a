import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxcnn.cli import display, train
from jaxcnn.training.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
# Order and augmentation of the images are random. 5 steps in an epoch, a checkpoint every 2 epochs.
OPTIONS = ["--epochs", 4, "--checkpoint-epochs", 2, "--learning-rate", 5e-3, "--augment", "crop-flip", "--seed", 3]


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory, words):
    """A run of OPTIONS that was never stopped, not to be changed; made in a process of its own."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    subprocess.run(
        [sys.executable, "-m", "jaxcnn.cli", *map(str, words(run, *OPTIONS))],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return run


@pytest.fixture
def assert_as_uninterrupted(uninterrupted, saved, rows):
    def check(run):
        assert saved(run) == saved(uninterrupted)
        assert rows(run) == rows(uninterrupted)
        assert RunFolder(run).result() == RunFolder(uninterrupted).result()

    return check


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "lock"}


def damage(run, step):
    """Cuts the largest file of a checkpoint in half, as a full disk might."""
    folder = run / "checkpoints" / str(step)
    file = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("stop", [1, 5, 7, 10])
def test_a_run_stopped_by_ctrl_c_goes_on_exactly_as_it_says(
    jaxcnn, words, at_step, ctrl_c, tmp_path, saved, assert_as_uninterrupted, stop
):
    run = tmp_path / "run"
    at_step({stop: ctrl_c})
    stopped = jaxcnn(*words(run, *OPTIONS))
    assert stopped.status == 0
    message = r"(?s).*\nstopping after this step; Ctrl-C again stops at once\n.*stopped after step (\d+), with a "
    message += r"checkpoint; resume with:\n  jaxcnn (.+)\n"
    printed = re.fullmatch(message, stopped.out)
    assert printed
    assert int(printed[1]) == stop == saved(run).step
    assert not (run / "result.json").exists()
    resumed = jaxcnn(*shlex.split(printed[2]))
    assert resumed.status == 0
    assert f"resuming after step {stop}\n" in resumed.out
    assert_as_uninterrupted(run)


@pytest.mark.usefixtures("no_pictures")
def test_the_printed_command_works_for_a_folder_with_a_space_too(jaxcnn, words, at_step, ctrl_c, tmp_path):
    at_step({1: ctrl_c})
    stopped = jaxcnn(*words(tmp_path / "my run", "--epochs", 1, "--augment", "none"))
    at_step({})
    assert jaxcnn(*shlex.split(stopped.out.splitlines()[-1])[1:]).status == 0


@pytest.mark.usefixtures("no_pictures")
def test_a_run_stopped_twice_goes_on_exactly(jaxcnn, words, at_step, ctrl_c, tmp_path, assert_as_uninterrupted):
    run = tmp_path / "run"
    at_step({3: ctrl_c, 13: ctrl_c})
    assert "stopped after step 3," in jaxcnn(*words(run, *OPTIONS)).out
    assert "stopped after step 13," in jaxcnn("train", "--run-dir", run, "--resume").out
    assert jaxcnn("train", "--run-dir", run, "--resume").status == 0
    assert_as_uninterrupted(run)


@pytest.mark.usefixtures("no_pictures")
def test_ctrl_c_at_the_last_step_lets_the_run_finish(jaxcnn, words, at_step, ctrl_c, tmp_path, assert_as_uninterrupted):
    at_step({20: ctrl_c})
    assert "stopped after" not in jaxcnn(*words(tmp_path / "run", *OPTIONS)).out
    assert_as_uninterrupted(tmp_path / "run")


@pytest.mark.usefixtures("no_pictures")
def test_a_polite_kill_stops_as_ctrl_c_does(jaxcnn, words, at_step, tmp_path, saved):
    at_step({2: lambda: signal.raise_signal(signal.SIGTERM)})
    assert jaxcnn(*words(tmp_path / "run", *OPTIONS)).status == 0
    assert saved(tmp_path / "run").step == 2


def twice(ctrl_c):
    def act():
        ctrl_c()
        ctrl_c()

    return act


@pytest.mark.usefixtures("no_pictures")
def test_a_second_ctrl_c_stops_at_once_and_leaves_the_last_checkpoint(
    jaxcnn, words, at_step, ctrl_c, tmp_path, saved, assert_as_uninterrupted
):
    run = tmp_path / "run"
    at_step({13: twice(ctrl_c)})
    stopped = jaxcnn(*words(run, *OPTIONS))
    assert stopped.status == 130
    assert stopped.err == "\nstopped at once; the checkpoints are unchanged\n"
    assert saved(run).step == 10
    at_step({})
    assert jaxcnn("train", "--run-dir", run, "--resume").status == 0
    assert_as_uninterrupted(run)


@pytest.mark.usefixtures("no_pictures")
def test_a_second_ctrl_c_stops_at_once_even_while_the_first_is_answered(
    jaxcnn, words, at_step, ctrl_c, tmp_path, monkeypatch
):
    def press_again(text, **options):
        if "stopping after this step" in text:
            monkeypatch.setattr(display, "say", say)
            ctrl_c()

    say = display.say

    def press():
        monkeypatch.setattr(display, "say", press_again)
        ctrl_c()

    at_step({2: press})
    assert jaxcnn(*words(tmp_path / "run", *OPTIONS)).status == 130


def test_the_handlers_of_signals_are_put_back(jaxcnn, words, at_step, ctrl_c, no_pictures, tmp_path):
    before = [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)]
    at_step({2: ctrl_c})
    jaxcnn(*words(tmp_path / "run", *OPTIONS))
    assert [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)] == before


KILLED = """
import os, signal, sys
from jaxcnn.cli import main, train
from jaxcnn.cli.display import LineDisplay

class Deadly(LineDisplay):
    def on_step(self, progress, images_per_second):
        if progress.step == 18:
            os.kill(os.getpid(), signal.SIGKILL)

train.make_display = Deadly
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.usefixtures("no_pictures")
def test_a_run_killed_between_checkpoints_goes_on_exactly_from_the_last_one(
    jaxcnn, words, environment, tmp_path, saved, assert_as_uninterrupted
):
    run = tmp_path / "run"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, words(run, *OPTIONS))], env=environment, stdout=subprocess.DEVNULL
    )
    assert killed.returncode == -signal.SIGKILL
    assert saved(run).step == 10
    assert len(RunFolder(run).metrics()) == 3  # one epoch more than the checkpoint knows of
    resumed = jaxcnn("train", "--run-dir", run, "--resume")
    assert resumed.status == 0
    assert "resuming after step 10\n" in resumed.out
    assert_as_uninterrupted(run)


def killed_at(step):
    def act():
        raise RuntimeError(f"killed after step {step}")

    return {step: act}


@pytest.mark.usefixtures("no_pictures")
def test_a_run_killed_before_its_first_checkpoint_starts_again(
    jaxcnn, words, at_step, tmp_path, assert_as_uninterrupted
):
    run = tmp_path / "run"
    at_step(killed_at(8))
    with pytest.raises(RuntimeError, match="killed after step 8"):
        jaxcnn(*words(run, *OPTIONS))
    assert not (run / "checkpoints").exists()
    at_step({})
    resumed = jaxcnn("train", "--run-dir", run, "--resume")
    assert resumed.status == 0, resumed.err
    assert_as_uninterrupted(run)


@pytest.mark.usefixtures("no_pictures")
def test_half_a_line_at_the_end_of_the_metrics_does_not_stop_a_resume(
    jaxcnn, words, at_step, tmp_path, assert_as_uninterrupted
):
    run = tmp_path / "run"
    at_step(killed_at(13))
    with pytest.raises(RuntimeError, match="killed after step 13"):
        jaxcnn(*words(run, *OPTIONS))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "st')
    at_step({})
    resumed = jaxcnn("train", "--run-dir", run, "--resume")
    assert resumed.status == 0, resumed.err
    assert_as_uninterrupted(run)


@pytest.mark.usefixtures("no_pictures")
def test_a_damaged_newest_checkpoint_is_named_and_the_previous_one_used(
    jaxcnn, uninterrupted, tmp_path, assert_as_uninterrupted
):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    (run / "result.json").unlink()
    damage(run, 20)
    resumed = jaxcnn("train", "--run-dir", run, "--resume")
    assert resumed.status == 0
    assert re.search(r"^skipped a damaged checkpoint: checkpoint 20: .+\nresuming after step 10$", resumed.out, re.M)
    # The step of the damaged checkpoint is reached again, and must be saved again.
    assert_as_uninterrupted(run)


@pytest.mark.usefixtures("no_pictures")
def test_ctrl_c_at_the_step_of_a_damaged_checkpoint_saves_it_again(
    jaxcnn, uninterrupted, at_step, ctrl_c, tmp_path, saved
):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    (run / "result.json").unlink()
    (run / "checkpoints" / "20").rename(run / "checkpoints" / "13")
    damage(run, 13)
    at_step({13: ctrl_c})
    assert "stopped after step 13, with a checkpoint" in jaxcnn("train", "--run-dir", run, "--resume").out
    assert saved(run).step == 13


def test_a_run_with_nothing_but_damaged_checkpoints_says_what_is_wrong_with_each(jaxcnn, uninterrupted, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    (run / "result.json").unlink()
    damage(run, 10)
    damage(run, 20)
    before = contents(run)
    resumed = jaxcnn("train", "--run-dir", run, "--resume")
    assert resumed.status == 2
    assert re.match(
        r"error: expected a usable checkpoint in .+, got only damaged ones; restore the files from a copy or start "
        r"again in another directory:\n  checkpoint 20: .+\n  checkpoint 10: ",
        resumed.err,
    )
    assert contents(run) == before


def test_a_finished_run_is_not_touched(jaxcnn, uninterrupted, monkeypatch):
    monkeypatch.setattr(train.names, "load_splits", None)  # not even the data are read
    before = contents(uninterrupted)
    resumed = jaxcnn("train", "--run-dir", uninterrupted, "--resume")
    result = RunFolder(uninterrupted).result()
    assert resumed.status == 0
    assert resumed.out.startswith(
        f"the run in {uninterrupted} is already finished\nbest epoch {result['best_epoch']}: "
    )
    assert f"test accuracy {result['test_accuracy']:.2%}" in resumed.out
    assert contents(uninterrupted) == before


@pytest.mark.slow
@pytest.mark.heavy
def test_a_run_that_was_killed_while_it_drew_its_pictures_is_finished_by_resuming(
    jaxcnn, uninterrupted, tmp_path, assert_as_uninterrupted
):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    for name in ("result.json", "curves.png", "mistakes.png"):
        (run / name).unlink()
    assert jaxcnn("train", "--run-dir", run, "--resume").status == 0
    assert_as_uninterrupted(run)
    for name in ("curves.png", "confusion.png", "mistakes.png"):
        assert (run / name).read_bytes() == (uninterrupted / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", 40], r"--epochs 4 to 40;"),
        (["--seed", 0], r"--seed 3 to 0;"),  # the default, but not what the run was started with
        (["--optimizer", "sgd", "--clip-norm", 1.0], r"--optimizer adamw to sgd, --clip-norm None to 1\.0;"),
        (["--data", "digits"], r"--data .+digits8\.npz to digits;"),
    ],
)
def test_other_options_are_refused(jaxcnn, uninterrupted, options, message):
    before = contents(uninterrupted)
    resumed = jaxcnn("train", "--run-dir", uninterrupted, "--resume", *options)
    assert resumed.status == 2
    assert re.match(
        rf"error: --resume keeps the options of a run and cannot change {message} omit these options, "
        "or start a new run",
        resumed.err,
    )
    assert contents(uninterrupted) == before


@pytest.mark.usefixtures("no_pictures")
def test_the_same_options_once_more_are_fine(jaxcnn, words, at_step, ctrl_c, tmp_path, assert_as_uninterrupted):
    at_step({7: ctrl_c})
    command = words(tmp_path / "run", *OPTIONS)
    jaxcnn(*command)
    assert jaxcnn(*command, "--resume").status == 0
    assert_as_uninterrupted(tmp_path / "run")


@pytest.mark.usefixtures("no_pictures")
def test_other_data_are_refused(jaxcnn, words, at_step, ctrl_c, digits8, tmp_path):
    images, labels = digits8[0].copy(), digits8[1]
    data, run = tmp_path / "data.npz", tmp_path / "run"
    np.savez(data, images=images, labels=labels)
    at_step({7: ctrl_c})
    jaxcnn(*words(run, *OPTIONS, "--data", data))
    images[17, 3, 3] ^= 1
    np.savez(data, images=images, labels=labels)
    resumed = jaxcnn("train", "--run-dir", run, "--resume")
    assert resumed.status == 2
    assert resumed.err == (
        f"error: expected the data that the run in {run} was started with, got other data; restore them, or start a "
        "new run\n"
    )


@pytest.mark.usefixtures("no_pictures")
def test_other_versions_are_noted(jaxcnn, uninterrupted, tmp_path, edit_config):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    (run / "result.json").unlink()
    now = RunFolder(run).config["versions"]["optax"]
    edit_config(run, lambda config: config["versions"].update(optax="0.0.1"))
    assert (
        f"note: optax 0.0.1, now {now}; the last digits may differ from those of a run without a stop\n"
        in jaxcnn("train", "--run-dir", run, "--resume").out
    )


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("recorded", [True, False])
def test_another_number_of_cores_is_noted(jaxcnn, uninterrupted, tmp_path, edit_config, recorded):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    (run / "result.json").unlink()
    processor = RunFolder(run).config["processor"]
    edit_config(run, lambda config: config.update(processor=processor | {"cores": 99} if recorded else {}))
    done = jaxcnn("train", "--run-dir", run, "--resume")
    assert done.status == 0
    note = f"note: cores 99, now {processor['cores']}; the last digits may differ from those of a run without"
    assert (note in done.out) == ("note: " in done.out) == recorded


def test_resume_needs_the_folder_of_a_run(jaxcnn, tmp_path):
    assert jaxcnn("train", "--resume") == (
        2,
        "",
        "error: --resume expects the folder of the run: --run-dir FOLDER\n",
    )
    for path in (tmp_path, tmp_path / "nowhere"):
        resumed = jaxcnn("train", "--run-dir", path, "--resume")
        assert resumed.status == 2
        assert resumed.err == (
            f"error: expected the folder of a run, with a config.json, got {path}; create one with `jaxcnn train`\n"
        )
