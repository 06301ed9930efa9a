import shutil

import numpy as np
import pytest

from jaxcnn import plots
from jaxcnn.training.run_folder import RunFolder, listed_runs

FINISHED = ["--epochs", 4, "--learning-rate", 5e-3, "--warmup-epochs", 1, "--augment", "none", "--checkpoint-epochs", 1]


@pytest.fixture(scope="module")
def many(finish, words):
    """The folder of two finished runs, not to be changed."""
    return finish(lambda run: words(run, *FINISHED, "--seeds", 2))


def test_each_seed_has_the_run_of_its_own_command(many, finished, other_seed, rows):
    paths = listed_runs(many)
    assert [path.name for path in paths] == ["seed-0", "seed-1"]
    for path, alone in zip(paths, (finished, other_seed), strict=True):
        mine, theirs = RunFolder(path), RunFolder(alone)
        assert mine.recipe == theirs.recipe
        assert mine.config["options"] == theirs.config["options"]
        assert mine.config["weights_fingerprint"] == theirs.config["weights_fingerprint"]
        for row, expected in zip([*rows(path), mine.result()], [*rows(alone), theirs.result()], strict=True):
            assert row == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_end_says_the_mean_and_its_interval(many):
    values = [RunFolder(path).result()["test_accuracy"] for path in listed_runs(many)]
    # The quantile of Student's t with one degree of freedom, from a table.
    half = 12.706 * abs(values[0] - values[1]) / 2
    low, high = np.mean(values) - half, np.mean(values) + half
    lines = many.with_name("output").read_text().splitlines()
    assert f"run folder {many}; Ctrl-C stops with a checkpoint" in lines
    assert lines[-2:] == [
        f"test accuracy of 2 runs: mean {np.mean(values):.2%}, 95 % confidence interval of the mean {low:.2%} to "
        f"{high:.2%}; {min(values):.2%} to {max(values):.2%}",
        f"a folder for each run, and their curves in runs.png: {many}",
    ]
    assert (many / "runs.png").exists()


def test_the_other_commands_take_each_run(jaxcnn, many, tmp_path):
    run = many / "seed-1"
    accuracy = RunFolder(run).result()["test_accuracy"]
    assert f"{accuracy:.2%}" in jaxcnn("evaluate", run).out
    done = jaxcnn("evaluate", many)
    assert done.status == 2
    assert "expected the folder of one run, got that of 2 runs; give one of them, such as" in done.err
    copy = tmp_path / "seed-1"
    shutil.copytree(run, copy)
    assert jaxcnn("train", "--run-dir", copy, "--resume").status == 0
    assert (copy / "curves.png").exists()
    assert "is already finished" in jaxcnn("train", "--run-dir", copy, "--resume").out


def test_plot_takes_all_runs_of_the_folder(jaxcnn, many, tmp_path, monkeypatch):
    from scipy import stats

    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    picture = tmp_path / "runs.png"
    assert jaxcnn("plot", many, "--band", "confidence", "--output", picture).out == f"2 runs in {picture}\n"
    [figure] = figures
    assert "95 % confidence interval of the mean" in " ".join(text.get_text() for text in figure.texts)
    losses = np.array([[row["train_loss"] for row in RunFolder(path).metrics()] for path in listed_runs(many)])
    low, high = stats.t.interval(0.95, 1, losses.mean(0), stats.sem(losses))
    [band] = figure.axes[0].collections
    corners = band.get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([corners.min(), corners.max()], [low.min(), high.max()], rtol=1e-6)


@pytest.mark.usefixtures("no_pictures")
def test_stopped_runs_are_resumed_with_the_command_that_is_printed(jaxcnn, words, at_step, ctrl_c, many, tmp_path):
    run = tmp_path / "runs"
    at_step({7: ctrl_c})
    out = jaxcnn(*words(run, *FINISHED, "--seeds", 2)).out
    assert out.endswith(
        f"stopped, with a checkpoint of each run; resume with:\n  jaxcnn train --run-dir {run} --resume\n"
    )
    assert [RunFolder(path).checkpoints.latest_step() for path in listed_runs(run)] == [7, 7]
    at_step({})
    refused = jaxcnn("train", "--run-dir", run, "--resume", "--seeds", 3)
    assert refused.status == 2
    assert "cannot change --seeds 2 to --seeds 3" in refused.err
    shutil.rmtree(run / "seed-1")
    assert jaxcnn("train", "--run-dir", run, "--resume").status == 0
    for path, whole in zip(listed_runs(run), listed_runs(many), strict=True):
        assert RunFolder(path).result() == pytest.approx(RunFolder(whole).result(), rel=1e-4, abs=1e-5)
        assert RunFolder(path).config["options"] == RunFolder(whole).config["options"]
    shutil.rmtree(run / "seed-0")
    assert (
        "they were stopped before the first step; remove the folder"
        in jaxcnn("train", "--run-dir", run, "--resume").err
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--seeds", 0), "--seeds expects a number at least 1, got 0"),
        (("--seeds", 2, "--devices", 2), "--seeds trains several runs on one device, got --devices too"),
        (("--seeds", 2, "--tensorboard"), "--seeds trains several runs on one device, got --tensorboard too"),
        (("--seeds", 2, "--find-learning-rate"), "--seeds trains several runs on one device, got --find-learning-rate"),
    ],
)
def test_nonsense_is_refused(jaxcnn, words, tmp_path, more, message):
    command = words(tmp_path / "run", *more)
    if "--find-learning-rate" in more:
        del command[command.index("--run-dir") : command.index("--run-dir") + 2]
    done = jaxcnn(*command)
    assert done.status == 2
    assert message in done.err
    assert not (tmp_path / "run").exists()


def test_a_single_run_has_one_seed(jaxcnn, finished):
    done = jaxcnn("train", "--run-dir", finished, "--resume", "--seeds", 2)
    assert done.status == 2
    assert "cannot change one seed to --seeds 2" in done.err
