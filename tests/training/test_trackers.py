import math
import struct
import sys
import types

import jax
import numpy as np
import pytest

from jaxcnn import data
from jaxcnn.layers import Dense, Flatten, Sequential
from jaxcnn.training import Observer, Recipe, TensorBoard, WeightsAndBiases, run, train_many
from jaxcnn.training.observers import Start
from jaxcnn.training.run_folder import RunFolder
from jaxcnn.types import Objective

MODEL = Sequential(flatten=Flatten(), head=Dense(16, 2))
RECIPE = Recipe(epochs=3, batch_size=4, augment="none", warmup_epochs=0, checkpoint_epochs=1)


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax's Adam needs it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def source():
    """20 images of 2 classes: 12 for training, so 3 steps in an epoch."""
    labels = np.arange(20) % 2
    images = np.random.default_rng(0).random((20, 4, 4, 1), np.float32) * 0.5 + labels[:, None, None, None] * 0.5
    return data.arrays(image=images.astype(np.float32), label=labels)


class StopsAfter(Observer):
    """Stops a training after an epoch."""

    def __init__(self, epoch):
        self._epoch = epoch

    def on_epoch(self, row, best):
        return row["epoch"] == self._epoch


def events(folder):
    """Reads an event file: records of length, checksum, message and checksum (TensorFlow's TFRecord)."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            found.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return found


def points(folder):
    """Returns the values of each tag as (step, value)."""
    found = {}
    for event in events(folder):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


@pytest.mark.slow
@pytest.mark.heavy
def test_tensorboard_gets_every_figure_of_every_epoch_at_its_step(source, tmp_path):
    pytest.importorskip("tensorboardX")
    result = run(MODEL, source, RECIPE, folder=tmp_path / "run", observers=[TensorBoard()])
    found = points(tmp_path / "run" / "tensorboard")
    expected = {}
    for row in result.history:
        for name, value in row.items():
            tag = name.replace("train_", "train/").replace("validation_", "validation/")
            if name != "step":
                expected.setdefault(tag, []).append((row["step"], pytest.approx(value)))
    for name in ("test_loss", "test_accuracy"):
        expected[name.replace("_", "/")] = [(9, pytest.approx(result.figures[name]))]
    assert found == expected


def test_tensorboard_hides_the_points_that_a_resumed_training_writes_again(source, tmp_path, monkeypatch):
    module = pytest.importorskip("tensorboardX.event_file_writer")
    # tensorboardX names files by the second: here both trainings start in the same one.
    monkeypatch.setattr(module, "time", types.SimpleNamespace(time=lambda: 1e9))
    run(MODEL, source, RECIPE, folder=tmp_path / "run", observers=[TensorBoard(tmp_path / "board"), StopsAfter(2)])
    run(MODEL, source, RECIPE, folder=tmp_path / "run", observers=[TensorBoard(tmp_path / "board")], resume=True)
    starts = [event.step for event in events(tmp_path / "board") if event.HasField("session_log")]
    assert starts[-1] == 7
    assert [step for step, _ in points(tmp_path / "board")["train/loss"]] == [3, 6, 9]


def test_tensorboard_needs_a_folder(source):
    pytest.importorskip("tensorboardX")
    with pytest.raises(ValueError, match="TensorBoard expects a folder, or a training with a run folder, got neither"):
        run(MODEL, source, RECIPE, observers=[TensorBoard()])


@pytest.mark.parametrize(
    ("make", "package", "extra"),
    [(TensorBoard, "tensorboardX", "tensorboard"), (lambda: WeightsAndBiases("p"), "wandb", "wandb")],
)
def test_a_missing_package_is_named_before_anything_is_trained(monkeypatch, make, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"expects {package}; pip install 'jaxcnn\[{extra}\]'"):
        make()


@pytest.fixture
def wandb(monkeypatch):
    """A module in place of wandb that records its calls."""

    class Run:
        def __init__(self, options):
            self.options, self.logged, self.summary, self.finished = options, [], {}, False

        def log(self, figures, step):
            self.logged.append((step, figures))

        def finish(self):
            self.finished = True

    module = types.ModuleType("wandb")
    module.runs = []

    def init(**options):
        module.runs.append(Run(options))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_weights_and_biases_gets_every_figure_and_the_identity_of_the_run(source, tmp_path, wandb):
    folder = tmp_path / "run"
    observer = WeightsAndBiases("digits", config=RECIPE.to_json(), mode="offline")
    result = run(MODEL, source, RECIPE, folder=folder, observers=[observer])
    (one,) = wandb.runs
    config = one.options.pop("config")
    assert one.options == {
        "project": "digits",
        "id": RunFolder(folder).id,
        "name": "run",
        "resume": "allow",
        "mode": "offline",
    }
    assert config == RECIPE.to_json() | {
        "parameters": 34,
        "examples": {"train": 12, "validation": 4, "test": 4},
        "image_shape": [4, 4, 1],
    }
    assert [step for step, _ in one.logged] == [3, 6, 9]
    for row, (_, figures) in zip(result.history, one.logged, strict=True):
        assert figures["validation/loss"] == row["validation_loss"]
        assert set(figures) == {
            "epoch",
            *(f"{part}/{name}" for part in ("train", "validation") for name in ("loss", "accuracy")),
            "learning_rate",
            "images_per_second",
            "waiting_for_data",
        }
    assert one.summary["test/accuracy"] == result.figures["test_accuracy"]
    assert one.summary["best_epoch"] == result.best_epoch
    assert one.finished


def test_runs_of_several_seeds_are_one_run_with_their_means(source, tmp_path, wandb):
    observer = WeightsAndBiases("digits", mode="offline")
    runs = train_many(MODEL, source, RECIPE, seeds=2, folder=tmp_path / "runs", observers=[observer])
    (one,) = wandb.runs
    assert one.options["name"] == "runs"
    assert "id" not in one.options
    assert one.logged[-1][1]["validation/loss"] == pytest.approx(
        np.mean([result.history[-1]["validation_loss"] for result in runs.results])
    )
    assert one.summary["best_epoch"] == runs.best_epoch


def test_a_figure_that_is_not_finite_is_left_out(wandb):
    observer = WeightsAndBiases("project")
    observer.on_start(Start(1, 1, {}, (4, 4, 1), (), Objective("accuracy", True), 1, 3, 0, None))
    observer.on_epoch({"epoch": 1, "step": 3, "train_loss": 0.5, "validation_mean_iou": None}, True)
    assert wandb.runs[0].logged == [(3, {"epoch": 1, "train/loss": 0.5})]
    assert "id" not in wandb.runs[0].options
    assert math.isfinite(wandb.runs[0].logged[0][1]["train/loss"])
