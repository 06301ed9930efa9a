import numpy as np
import pytest
from PIL import Image

from jaxcnn import plots
from jaxcnn.cli.plot import compare_options
from jaxcnn.training.run_folder import RunFolder


def test_runs_that_differ_in_their_seed_are_one_line(jaxcnn, finished, other_seed, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    picture = tmp_path / "runs.png"
    assert jaxcnn("plot", finished, other_seed, "--output", picture) == (0, f"2 runs in {picture}\n", "")
    (figure,) = figures
    assert [text.get_text() for text in figure.texts][:2] == ["2 runs", "mlp on digits8.npz"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mlp (2 runs)"]
    accuracies = [[row["validation_accuracy"] for row in RunFolder(run).metrics()] for run in (finished, other_seed)]
    assert accuracies[0] != accuracies[1]
    (line,) = figure.axes[2].lines
    np.testing.assert_allclose(line.get_ydata(), 100 * np.mean(accuracies, axis=0))


def test_labels_keep_runs_apart(jaxcnn, finished, other_seed, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    jaxcnn("plot", finished, other_seed, "--labels", "first", "second", "--output", tmp_path / "runs.png")
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["first", "second"]


def test_segmenters_are_compared_by_their_objective(jaxcnn, segmenter, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    assert jaxcnn("plot", segmenter, "--output", tmp_path / "runs.png").status == 0
    assert "mean IoU" in " ".join(axes.get_title(loc="left") for axes in figures[0].axes)
    ious = [row["validation_mean_iou"] for row in RunFolder(segmenter).metrics()]
    assert any(np.allclose(line.get_ydata(), 100 * np.array(ious)) for axes in figures[0].axes for line in axes.lines)


def test_the_picture_is_a_png_file(jaxcnn, finished, tmp_path):
    assert jaxcnn("plot", finished, "--output", tmp_path / "runs.png").out == f"1 run in {tmp_path / 'runs.png'}\n"
    with Image.open(tmp_path / "runs.png") as picture:
        assert picture.format == "PNG"


def test_labels_are_the_options_that_differ():
    base = {"model": "mlp", "data": "/there/digits.npz", "seed": 0, "batch_size": 32, "classes": []}
    runs = [base, base | {"seed": 1}, base | {"batch_size": 64}, base | {"model": "lenet5", "classes": ["a"]}]
    assert compare_options(runs) == (
        "several models on digits.npz",
        [
            "model=mlp, batch_size=32, classes=[]",
            "model=mlp, batch_size=32, classes=[]",
            "model=mlp, batch_size=64, classes=[]",
            "model=lenet5, batch_size=32, classes=['a']",
        ],
    )
    assert compare_options(runs[:2]) == ("mlp on digits.npz", ["mlp", "mlp"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--labels", "a", "b"), "--labels expects one label for each of the 1 runs, got 2"),
        (("--output", "runs.pdf"), "--output expects a file with the extension .png, got runs.pdf"),
        (("--output", "missing/runs.png"), "the folder of 'missing/runs.png' does not exist"),
    ],
)
def test_nonsense_is_refused(jaxcnn, finished, more, message):
    done = jaxcnn("plot", finished, *more)
    assert done.status == 2
    assert message in done.err


def test_a_run_without_a_finished_epoch_is_refused(jaxcnn, finished, tmp_path):
    (tmp_path / "config.json").write_bytes((finished / "config.json").read_bytes())
    done = jaxcnn("plot", tmp_path, "--output", tmp_path / "runs.png")
    assert done.status == 2
    assert "expected a run with a finished epoch" in done.err
