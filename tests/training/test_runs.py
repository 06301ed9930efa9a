import dataclasses
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import batched, data, trees
from jaxcnn.data.sources.digit_scenes import digit_scenes
from jaxcnn.layers import Composite, Conv, Dense, DropPath, Flatten, Function, Residual, Sequential, freeze, identity
from jaxcnn.models import mlp, small_retinanet
from jaxcnn.models.detection.yolox import yolox
from jaxcnn.tasks import Classification, MultiLabel, Regression, Segmentation
from jaxcnn.training import Observer, Recipe, load_model, phases, run
from jaxcnn.training.experiment import choose_task
from jaxcnn.training.phases import make_phase_step, make_phases, mixing
from jaxcnn.training.recipe import RecipeError
from jaxcnn.training.run_folder import RunFolder, RunFolderError
from jaxcnn.types import Layer

ROOT = Path(__file__).parents[2]
RECIPE = Recipe(epochs=3, batch_size=10, learning_rate=0.05, augment="none", checkpoint_epochs=2)


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax's Adam needs it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def classifier():
    return Sequential(flatten=Flatten(), dense=Dense(36, 8), relu=Function(jax.nn.relu), head=Dense(8, 2))


def same(one, other):
    one, other = trees.named_leaves(one), trees.named_leaves(other)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


class Recorder(Observer):
    """Records the events, and stops after a step."""

    def __init__(self, stop=None):
        self.events, self.stop = [], stop

    def on_start(self, start):
        self.events.append(("start", start))

    def on_activity(self, activity):
        self.events.append(("activity", activity))

    def on_note(self, note):
        self.events.append(("note", note))

    def on_step(self, progress, images_per_second):
        self.events.append(("step", progress.step))
        return progress.step == self.stop

    def on_epoch(self, row, best):
        self.events.append(("epoch", row["epoch"]))

    def on_end(self, result):
        self.events.append(("end", result.stopped))

    def of(self, kind):
        return [what for event, what in self.events if event == kind]


@pytest.fixture(scope="module")
def finished(stripes, tmp_path_factory):
    """A finished run, its folder and its events; not to be changed."""
    recorder, folder = Recorder(), tmp_path_factory.mktemp("finished") / "run"
    with jax.numpy_dtype_promotion("standard"):
        return run(classifier(), stripes, RECIPE, folder=folder, observers=[recorder]), folder, recorder


def test_a_run_trains_tests_and_keeps_its_best_epoch(finished, stripes):
    result, folder, _ = finished
    assert [row["epoch"] for row in result.history] == [1, 2, 3]
    assert result.history == RunFolder(folder).metrics()
    assert result.figures == RunFolder(folder).result()
    assert not result.stopped
    best = max(result.history, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))
    assert result.best_epoch == best["epoch"] == result.figures["best_epoch"]
    assert result.figures["test_accuracy"] > 0.9
    # The figures by hand, from the weights.
    for part in ("validation", "test"):
        (batch,) = data.eval_batches(data.split(stripes, seed=0)[part], 20)
        logits, _ = batched(classifier())(result.params, result.state, batch["image"], train=False)
        assert result.figures[f"{part}_accuracy"] == np.mean(np.argmax(logits, 1) == batch["label"])
        losses = (
            np.log(np.exp(logits).sum(1)) - np.take_along_axis(np.asarray(logits), batch["label"][:, None], 1)[:, 0]
        )
        assert result.figures[f"{part}_loss"] == pytest.approx(losses.mean(), rel=1e-5)


def test_observers_hear_everything_in_order(finished):
    _, folder, recorder = finished
    [start] = recorder.of("start")
    assert (start.parameters, start.trained) == (36 * 8 + 8 + 8 * 2 + 2,) * 2
    assert start.examples == {"train": 60, "validation": 20, "test": 20}
    assert (start.image_shape, start.class_names) == ((6, 6, 1), ("rows", "columns"))
    assert (start.epochs, start.steps_per_epoch, start.first_step, start.folder) == (3, 6, 0, str(folder))
    assert recorder.of("step") == list(range(1, 19))
    assert recorder.of("epoch") == [1, 2, 3]
    activities = recorder.of("activity")
    assert activities[::2] == [
        "reading the examples",
        "compiling the training step",
        "compiling the evaluation",
        "saving a checkpoint",
        "saving a checkpoint",
        "testing the best epoch",
    ]
    assert set(activities[1::2]) == {None}
    kinds = [kind for kind, _ in recorder.events]
    assert (kinds[0], kinds[-1]) == ("start", "end")


def test_a_run_is_silent_and_needs_no_folder(finished, stripes, capfd):
    result = run(classifier(), stripes, RECIPE)
    assert capfd.readouterr() == ("", "")
    assert result.folder is None
    assert same(result.params, finished[0].params)
    assert result.figures == finished[0].figures


def test_given_weights_are_where_it_begins(stripes, finished):
    key = jax.random.split(jax.random.key(0))[0]
    result = run(classifier(), stripes, RECIPE, weights=classifier().init(key))
    assert same(result.params, finished[0].params)
    other = run(classifier(), stripes, RECIPE, weights=classifier().init(jax.random.key(5)))
    assert not same(result.params, other.params)


@pytest.mark.parametrize("stop", [5, 6, 13])
def test_a_run_that_an_observer_stopped_goes_on_to_the_same_bits(stripes, finished, tmp_path, stop):
    folder = tmp_path / "run"
    stopped = run(classifier(), stripes, RECIPE, folder=folder, observers=[Recorder(stop)])
    assert stopped.stopped
    assert stopped.figures == {}
    recorder = Recorder()
    resumed = run(classifier(), stripes, RECIPE, folder=folder, resume=True, observers=[recorder])
    assert f"resuming after step {stop}" in recorder.of("note")
    assert same((resumed.params, resumed.state), (finished[0].params, finished[0].state))
    assert resumed.figures == finished[0].figures

    def without_clock(rows):
        return [
            {name: value for name, value in row.items() if name not in ("images_per_second", "waiting_for_data")}
            for row in rows
        ]

    assert without_clock(resumed.history) == without_clock(finished[0].history)


def dropping():
    """A classifier with stochastic depth in its backbone."""
    branch = Sequential(dense=Dense(36, 36), drop_path=DropPath(0.9))
    return Sequential(flatten=Flatten(), block=Residual(branch), head=Dense(36, 2))


@pytest.mark.slow
@pytest.mark.heavy
def test_a_rise_of_drop_path_goes_on_to_the_same_bits(stripes, tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=2, checkpoint_epochs=1, drop_path_warmup_epochs=1.5)
    whole = run(dropping(), stripes, recipe)
    run(dropping(), stripes, recipe, folder=tmp_path / "run", observers=[Recorder(7)])
    resumed = run(dropping(), stripes, recipe, folder=tmp_path / "run", resume=True)
    assert same((resumed.params, resumed.state), (whole.params, whole.state))
    assert resumed.figures == whole.figures


def test_the_rise_of_drop_path_reaches_the_step():
    params, _ = dropping().init(jax.random.key(0))
    recipe = Recipe(drop_path_warmup_epochs=1)
    (phase,) = make_phases(recipe, dropping(), params, steps_per_epoch=10)
    with pytest.raises(ValueError, match="make_train_step expects a model with DropPath layers"):
        make_phase_step(phase, classifier(), recipe, Classification(), 2)


def test_drop_path_rises_over_the_steps_of_the_whole_training_where_it_is_trained():
    def rises(model, **fields):
        recipe = Recipe(drop_path_warmup_epochs=3, **fields)
        return [phase.drop_path_schedule for phase in make_phases(recipe, model, params, steps_per_epoch=10)]

    params, _ = dropping().init(jax.random.key(0))
    (rise,) = rises(dropping())
    assert [float(rise(jnp.array(step))) for step in (0, 15, 30, 99)] == [0, 0.5, 1, 1]
    first, second = rises(dropping(), freeze="backbone", unfreeze_epoch=1)
    assert first is None
    assert float(second(jnp.array(15))) == 0.5
    message = "drop_path_warmup_epochs expects a model with drop path that is trained, got one without; omit it, or"
    for model, fields in ((classifier(), {}), (dropping(), {"freeze": "backbone"})):
        params, _ = model.init(jax.random.key(0))
        with pytest.raises(RecipeError, match=message):
            rises(model, **fields)


def test_a_finished_run_is_only_read(finished, stripes):
    before = {path: path.stat().st_mtime_ns for path in finished[1].rglob("*") if path.name != "lock"}
    again = run(classifier(), stripes, RECIPE, folder=finished[1], resume=True)
    assert same(again.params, finished[0].params)
    assert (again.history, again.figures) == (finished[0].history, finished[0].figures)
    assert {path: path.stat().st_mtime_ns for path in finished[1].rglob("*") if path.name != "lock"} == before


def test_another_training_does_not_go_on_in_the_folder(finished, stripes):
    def resume(layer=None, source=stripes, recipe=RECIPE, **words):
        return run(layer or classifier(), source, recipe, folder=finished[1], resume=True, **words)

    with pytest.raises(RunFolderError, match=r"expected the recipe of .*, got changes: epochs 3 to 4; start a new run"):
        resume(recipe=dataclasses.replace(RECIPE, epochs=4))
    with pytest.raises(RunFolderError, match=r"expected the model of the run in .*, with 'Sequential\(.*, got 'Seq"):
        resume(layer=Sequential(flatten=Flatten(), head=Dense(36, 2)))
    with pytest.raises(RunFolderError, match="expected the task of the run in"):
        resume(task=Classification(label_smoothing=0.1))
    changed = data.arrays(
        image=np.flip(stripes.entries["image"], 0), label=stripes.entries["label"], class_names=["rows", "columns"]
    )
    with pytest.raises(RunFolderError, match=r"expected the data that the run in .* was started with"):
        resume(source=changed)
    with pytest.raises(RunFolderError, match="already contains a run"):
        run(classifier(), stripes, RECIPE, folder=finished[1])
    with pytest.raises(ValueError, match="expects a folder to resume"):
        run(classifier(), stripes, RECIPE, resume=True)


@dataclass(frozen=True, repr=False)
class BlockOfOnesOwn(Composite):
    """A block of a user."""

    conv: Conv
    shortcut: Layer = identity

    def forward(self, run, x):
        return jax.nn.relu(run.conv(x) + run.shortcut(x))


def test_a_model_of_ones_own_travels(stripes, tmp_path):
    model = Sequential(block=BlockOfOnesOwn(Conv(1, 1)), flatten=Flatten(), head=Dense(36, 2))
    result = run(model, stripes, dataclasses.replace(RECIPE, epochs=1), folder=tmp_path / "run")
    for loaded in (load_model(tmp_path / "run"), load_model(tmp_path / "run", layer=model)):
        assert loaded.layer == model
        assert same((loaded.params, loaded.state), (result.params, result.state))
        assert loaded.info.class_names == ("rows", "columns")
        assert loaded.info.image_shape == (6, 6, 1)
        assert loaded.info.task == Classification()
        assert (loaded.info.precision, loaded.info.epoch) == ("float32", 1)
    with pytest.raises(RunFolderError, match=r"BlockOfOnesOwn.*, which differs from .* in layer="):
        load_model(tmp_path / "run", layer=classifier())
    # A process that does not know the class says so.
    program = f"from jaxcnn.training import load_model; load_model({str(tmp_path / 'run')!r})"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (
        "'BlockOfOnesOwn', which is unknown; import the module that defines it; a model with classes or functions of "
        "your own is loaded in Python: jaxcnn.load(folder, layer=model)"
    ) in done.stderr


def test_averages_are_evaluated_and_kept(stripes, finished):
    recipe = dataclasses.replace(RECIPE, ema=0.9)
    result = run(classifier(), stripes, recipe)
    assert not same(result.params, finished[0].params)
    (batch,) = data.eval_batches(data.split(stripes, seed=0)["validation"], 20)
    logits, _ = batched(classifier())(result.params, result.state, batch["image"], train=False)
    assert result.figures["validation_accuracy"] == np.mean(np.argmax(logits, 1) == batch["label"])
    # The parameters themselves are trained as without averages.
    train = [row["train_loss"] for row in result.history]
    assert train == [row["train_loss"] for row in finished[0].history]


@pytest.mark.parametrize("change", [{"mixup": 0.3}, {"cutmix": 1.0}, {"clip_norm": 1e-3}, {"precision": "bfloat16"}])
def test_options_of_the_step_reach_it(stripes, finished, change):
    result = run(classifier(), stripes, dataclasses.replace(RECIPE, **change))
    assert not same(result.params, finished[0].params)


def small_yolox():
    return yolox(10, depth=0.33, width=0.0625)


@pytest.fixture(scope="module")
def eight_scenes():
    return {name: data.Subset(part, np.arange(8)) for name, part in digit_scenes(64).items()}


MIXED = Recipe(epochs=2, batch_size=4, augment="none", mosaic=1.0, mixup=1.5, plain_epochs=1, checkpoint_epochs=1)


def test_the_step_of_the_last_epochs_has_the_plain_task(monkeypatch):
    monkeypatch.setattr(phases, "make_train_step", lambda model, optimizer, task, **words: (task, words["mix"]))
    model, task = small_yolox(), small_yolox().task((64, 64))
    [phase] = make_phases(MIXED, model, jax.eval_shape(model.init, jax.random.key(0))[0], 2)
    assert make_phase_step(phase, model, MIXED, task, 10) == (task, mixing(MIXED, task, 10))
    assert make_phase_step(phase, model, MIXED, task, 10, plain=True) == (task.plain(), None)
    without = Classification()
    assert make_phase_step(phase, classifier(), MIXED, without, 2, plain=True) == (without, None)


@pytest.mark.slow
def test_the_last_epochs_are_plain_and_go_on_to_the_same_bits(eight_scenes, tmp_path):
    recorder = Recorder()
    whole = run(small_yolox(), eight_scenes, MIXED, observers=[recorder])
    notes = [event[1] for event in recorder.events if event[0] == "note"]
    assert "epoch 2: images are no longer mixed from now on" in notes
    first, last = whole.history
    assert first["train_l1_loss"] == 0 < last["train_l1_loss"]
    assert first["validation_l1_loss"] == last["validation_l1_loss"] == 0
    for stop in (1, 3):
        folder = tmp_path / f"run{stop}"
        run(small_yolox(), eight_scenes, MIXED, folder=folder, observers=[Recorder(stop)])
        resumed = run(small_yolox(), eight_scenes, MIXED, folder=folder, resume=True)
        assert same((resumed.params, resumed.state), (whole.params, whole.state))


def test_mosaic_and_mixup_of_a_recipe_reach_the_step(eight_scenes):
    task, key = small_yolox().task((64, 64)), jax.random.key(0)
    examples = [eight_scenes["train"][i] for i in range(4)]
    batch = {name: np.stack([one[name] for one in examples]) for name in examples[0]}
    slots = batch["valid"].shape[1]
    for fields, factor in (({"mosaic": 1.0}, 4), ({"mixup": 1.5}, 2), ({"mosaic": 0.5, "mixup": 1.5}, 8)):
        mix = mixing(Recipe(**fields), task, 10)
        mixed = jax.eval_shape(mix, key, {**batch, "image": np.zeros((4, 64, 64, 3), np.float32)})
        assert mixed["valid"].shape == (4, factor * slots)
    assert mixing(Recipe(), task, 10) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mosaic": 1.0}, "mosaic expects a detector and examples with 'boxes', got a model for Classification"),
        ({"mosaic": 1.0, "mixup": 0.2}, "mosaic expects a detector"),
    ],
)
def test_a_mosaic_of_images_without_objects_is_refused(stripes, fields, message):
    with pytest.raises(RecipeError, match=message):
        run(classifier(), stripes, dataclasses.replace(RECIPE, **fields))


def test_a_detector_takes_no_cutmix_and_no_weights(eight_scenes):
    recipe = dataclasses.replace(MIXED, mosaic=0.0, mixup=0.0, cutmix=1.0)
    with pytest.raises(RecipeError, match=r"cutmix expects one label .*, got no label for YOLOXDetection"):
        run(small_yolox(), eight_scenes, recipe)
    examples = [eight_scenes["train"][i] for i in range(8)]
    entries = {name: np.stack([one[name] for one in examples]) for name in examples[0]}
    source = data.Arrays({**entries, "weight": np.ones(8, np.float32)}, eight_scenes["train"].class_names)
    with pytest.raises(RecipeError, match="mosaic expects examples without 'weight'"):
        run(small_yolox(), source, MIXED)


def test_micro_batches_give_the_same_to_rounding(stripes, finished):
    result = run(classifier(), stripes, dataclasses.replace(RECIPE, micro_batches=5))
    for name, leaf in trees.named_leaves(result.params).items():
        np.testing.assert_allclose(leaf, trees.named_leaves(finished[0].params)[name], rtol=1e-3, atol=1e-4)


def test_patience_ends_a_run_that_no_longer_improves(stripes, tmp_path):
    # The updates are too small to change a parameter in float32.
    recipe = Recipe(
        epochs=30, batch_size=10, optimizer="sgd", learning_rate=1e-30, weight_decay=0.0, augment="none", patience=2
    )
    result = run(classifier(), stripes, recipe, folder=tmp_path / "run")
    assert (result.best_epoch, len(result.history), result.stopped) == (1, 3, False)
    assert result.figures["test_images"] == 20
    # Killed before the test: the resumed run does not train on.
    (tmp_path / "run" / "result.json").unlink()
    again = run(classifier(), stripes, recipe, folder=tmp_path / "run", resume=True)
    assert len(again.history) == 3
    assert again.figures == result.figures


@pytest.mark.slow
@pytest.mark.heavy
def test_masks_are_segmented(stripes):
    images = stripes.entries["image"]
    masks = (images[..., 0] > 0.5).astype(np.uint8)
    source = data.arrays(image=images, mask=masks, class_names=["dark", "bright"])
    model = Sequential(conv=Conv(1, 8, 1), relu=Function(jax.nn.relu), head=Conv(8, 2, 1))
    result = run(model, source, dataclasses.replace(RECIPE, epochs=20, learning_rate=0.05))
    assert result.figures["test_mean_iou"] > 0.8
    assert {"train_mean_iou", "validation_pixel_accuracy", "validation_mean_dice"} <= result.history[0].keys()
    best = max(result.history, key=lambda row: (row["validation_mean_iou"], -row["validation_loss"]))
    assert result.best_epoch == best["epoch"]


def test_numbers_are_predicted_and_the_smallest_error_is_the_best(stripes, tmp_path):
    images = stripes.entries["image"]
    source = data.arrays(image=images, target=images.mean((1, 2)))
    model = Sequential(flatten=Flatten(), head=Dense(36, 1))
    result = run(model, source, dataclasses.replace(RECIPE, epochs=5), folder=tmp_path / "run")
    best = min(result.history, key=lambda row: row["validation_rmse"])
    assert result.best_epoch == best["epoch"]
    assert result.figures["validation_rmse"] == best["validation_rmse"]
    loaded = load_model(tmp_path / "run")
    assert (loaded.info.task, loaded.info.class_names) == (Regression(), ())


def test_the_task_is_chosen_by_the_examples(stripes):
    images = stripes.entries["image"][:4]
    assert choose_task(stripes) == Classification()
    masked = data.arrays(image=images, mask=np.zeros((4, 6, 6), int), class_names=["a", "b", "c"])
    assert choose_task(masked) == Segmentation(3)
    assert choose_task(data.arrays(image=images, target=np.zeros((4, 2)))) == Regression()
    several = data.Arrays({"image": images, "label": np.zeros((4, 3), np.float32)}, ("a", "b", "c"))
    assert choose_task(several) == MultiLabel()
    with pytest.raises(ValueError, match="expected examples with 'label', 'mask', 'target' or 'boxes', got 'image'"):
        choose_task(data.arrays(image=images))


def test_a_detector_makes_its_task_for_examples_with_boxes():
    scenes = digit_scenes(64)
    assert choose_task(scenes["train"], small_retinanet(10)) == small_retinanet(10).task((64, 64))
    with pytest.raises(ValueError, match=r"expected a model that makes a task for .* 'boxes', .* got Sequential"):
        choose_task(scenes["train"], Sequential(flatten=Flatten()))
    with pytest.raises(
        ValueError, match="expected a detector of 10 classes, got one of 3; build it with num_classes=10"
    ):
        run(small_retinanet(3), scenes, RECIPE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": mlp(3, image_size=6)}, r"gives one number for each of 2 classes, got a model that gives \(3,\)"),
        ({"layer": Sequential(conv=Conv(1, 2))}, r"got a model that gives \(6, 6, 2\)"),
        ({"layer": Sequential(conv=Conv(3, 2))}, r"conv expects"),
        (
            {"recipe": Recipe(batch_size=61, augment="none")},
            "batch_size expects at most the number of training examples, 60",
        ),
        ({"recipe": Recipe(batch_size=6, augment="none", freeze="stage1")}, "freeze expects a pattern that matches"),
        ({"recipe": Recipe(batch_size=6, augment="none", freeze=".*")}, "leaves no parameter to train"),
        (
            {"recipe": Recipe(batch_size=6, augment="random_resized_crop(5)")},
            r"augment makes images of 5x5x1, and the model, for 6x6x1, does not take them: dense expects .*; keep that",
        ),
        (
            {"recipe": Recipe(batch_size=6, augment="cutout(7)")},
            "cutout expects size a whole number of .* from 0 to 6",
        ),
        (
            {"source": data.arrays(image=np.zeros((30, 6, 6)), label=np.zeros(30, int)), "layer": mlp(1, image_size=6)},
            "expected at least two classes, got only '0'; a classifier needs something to tell apart",
        ),
        ({"place": "disk"}, "place to be one of device, memory, stream, or None, got 'disk'"),
        ({"place": "device", "prepare": data.RandomResizedCrop((6, 6))}, "place='memory' or 'stream' with prepare="),
        (
            {"prepare": data.RandomResizedCrop((4, 4))},
            r"prepare= \(--training-size\) makes images of 4x4x1, and the model, for 6x6x1, does not take them: dense",
        ),
        (
            {
                "prepare": data.RandomResizedCrop((6, 6)),
                "recipe": Recipe(batch_size=6, augment="none", freeze="dense", cache_features=True),
            },
            "cache_features expects no prepare=, which changes the images, and so their features",
        ),
        ({"layer": "lenet5"}, r"run expects a layer, such as jaxcnn.models.lenet5\(\), got a str$"),
        ({"layer": mlp}, r"run expects a layer, .*, got a function, which must be called"),
        ({"layer": Sequential}, r"run expects a layer, .*, got a type, which must be called"),
        ({"layer": freeze(classifier(), "dense")}, r"a model without frozen layers; freeze them by Recipe\(freeze="),
        ({"recipe": {"epochs": 1}}, r"run expects a recipe, such as Recipe\(epochs=5\), got \{'epochs': 1\}"),
        ({"recipe": Recipe}, "run expects a recipe, .*, got <class"),
        ({"task": "classification"}, r"run expects a task, such as .*Classification\(\), got 'classification'"),
        ({"task": Classification}, "run expects a task, such as .*, got <class"),
        ({"observers": Observer()}, "run expects a list of observers, got <"),
        ({"observers": [print]}, "run expects observers, objects of jaxcnn.training.Observer, got <built-in"),
        ({"weights": {}}, r"run expects weights=\(params, state\), got a dict"),
        (
            {"weights": mlp(3, image_size=6).init(jax.random.key(0))},
            "run expects the parameters of the model, got others: missing 'dense/bias'",
        ),
        (
            {"weights": (classifier().init(jax.random.key(0))[0], {"dense": {"mean": np.zeros(3)}})},
            "run expects the state of the model, got others: unexpected 'dense/mean'",
        ),
        ({"about": {"now": object()}}, "not JSON serializable"),
        ({"task": Segmentation(2)}, "Segmentation expects a batch with 'mask'|Segmentation expects"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(stripes, tmp_path, change, message):
    words = {"layer": classifier(), "recipe": Recipe(batch_size=6, augment="none")} | change
    with pytest.raises((ValueError, TypeError), match=message):
        run(words.pop("layer"), words.pop("source", stripes), words.pop("recipe"), folder=tmp_path / "run", **words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["mixup", "cutmix"])
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"target": np.zeros((20, 2), np.float32)}, "expects one label .*, got no label for Regression"),
        ({"mask": np.zeros((20, 6, 6), np.uint8)}, "expects one label .*, got no label for Segmentation"),
        (
            {"label": np.arange(20, dtype=np.int32) % 2, "mask": np.zeros((20, 6, 6), np.uint8)},
            r"expects .*, got labels of int32 \(\) for Segmentation",
        ),
        ({"label": np.zeros((20, 2), np.uint8)}, r"expects .*, got labels of uint8 \(2,\) for MultiLabel"),
        ({"label": np.arange(20) % 2, "weight": np.ones(20, np.float32)}, "expects examples without 'weight'"),
    ],
)
def test_examples_that_cannot_be_mixed_are_refused_before_anything_is_written(tmp_path, option, entries, message):
    source = data.Arrays({"image": np.zeros((20, 6, 6, 1), np.float32), **entries}, ("a", "b"))
    layer = Sequential(conv=Conv(1, 2)) if "mask" in entries else classifier()
    with pytest.raises(RecipeError, match=f"{option} {message}"):
        run(layer, source, Recipe(batch_size=4, augment="none", **{option: 0.2}), folder=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_shares_of_several_labels_can_be_mixed():
    shares = np.tile(np.array([[1, 0], [1, 1]], np.float32), (10, 1))
    source = data.Arrays({"image": np.zeros((20, 6, 6, 1), np.float32), "label": shares}, ("a", "b"))
    recipe = Recipe(epochs=1, batch_size=4, augment="none", mixup=0.2)
    assert run(classifier(), source, recipe).best_epoch == 1


class SmoothedByItself:
    """A task of one's own that is not a dataclass, and has an attribute of a name that jaxcnn uses."""

    label_smoothing = 0.1
    objective = Classification().objective
    loss = staticmethod(Classification(label_smoothing).loss)
    metrics = staticmethod(Classification().metrics)
    decode = staticmethod(Classification().decode)
    report = staticmethod(Classification().report)


def test_a_task_of_ones_own_is_evaluated_as_it_is(stripes, finished):
    smoothed = run(classifier(), stripes, RECIPE, task=SmoothedByItself())
    same_training = run(classifier(), stripes, RECIPE, task=Classification(label_smoothing=0.1))
    assert [row["train_loss"] for row in smoothed.history] == [row["train_loss"] for row in same_training.history]
    assert smoothed.history[0]["validation_loss"] > same_training.history[0]["validation_loss"]


def test_a_run_works_in_another_thread(stripes, finished):
    results = []

    def train():
        with jax.numpy_dtype_promotion("standard"):
            results.append(run(classifier(), stripes, RECIPE))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert same(results[0].params, finished[0].params)


def test_the_weights_of_the_start_must_be_the_same_without_a_checkpoint(stripes, tmp_path):
    class Killed(Observer):
        def on_step(self, progress, images_per_second):
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run(classifier(), stripes, RECIPE, folder=tmp_path / "run", observers=[Killed()])
    other = classifier().init(jax.random.key(5))
    with pytest.raises(RunFolderError, match="expected the initial weights of the run in"):
        run(classifier(), stripes, RECIPE, weights=other, folder=tmp_path / "run", resume=True)
    recorder = Recorder()
    run(classifier(), stripes, RECIPE, folder=tmp_path / "run", resume=True, observers=[recorder])
    assert "there is no checkpoint yet: starting again" in recorder.of("note")
    assert jnp.isfinite(load_model(tmp_path / "run").params["head"]["bias"]).all()


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("place", ["device", "memory", "stream"])
def test_the_place_of_the_examples_changes_no_result(stripes, finished, tmp_path, place):
    stored = {name: Stored(part) for name, part in data.split(stripes, seed=0).items()}
    result = run(classifier(), stored, RECIPE, place=place)
    assert same(result.params, finished[0].params)
    recorder = Recorder(stop=8)
    run(classifier(), stripes, RECIPE, folder=tmp_path / "run", observers=[recorder], place=place)
    # Resumed within an epoch, elsewhere.
    other = {"device": "stream", "memory": "device", "stream": "memory"}[place]
    resumed = run(classifier(), stored, RECIPE, folder=tmp_path / "run", resume=True, place=other)
    assert same(resumed.params, finished[0].params)
    assert resumed.figures == finished[0].figures


def test_the_place_is_told_with_its_reason(finished):
    assert re.fullmatch(r"the examples are on the device: they take 11.8 kB of its .* GB", finished[2].of("note")[0])


class Stored:
    """Examples that are read one by one."""

    def __init__(self, source):
        self.inner, self.spec = source, source.spec
        self.class_names, self.fingerprint = source.class_names, source.fingerprint

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        return self.inner[index]


@dataclasses.dataclass(frozen=True)
class RandomRows:
    """Takes 6 rows of 8."""

    sharper: bool = False

    def __call__(self, rng, example):
        first = int(rng.integers(3))
        return example | {"image": example["image"][first : first + 6]}

    def spec(self, spec):
        return {**spec, "image": spec["image"]._replace(shape=(6, 6, 1))}


def test_examples_of_training_are_prepared(stripes, tmp_path):
    parts = data.split(stripes, seed=0)
    image = np.pad(parts["train"].entries["image"], ((0, 0), (1, 1), (0, 0), (0, 0)), "wrap")
    parts["train"] = data.Arrays(dict(parts["train"].entries) | {"image": image}, stripes.class_names)
    recipe = dataclasses.replace(RECIPE, epochs=1)
    words = {"recipe": recipe, "folder": tmp_path / "run", "prepare": RandomRows()}
    recorder = Recorder()
    result = run(classifier(), parts, observers=[recorder], **words)
    assert recorder.of("start")[0].image_shape == (6, 6, 1)
    assert recorder.of("note") == ["the examples are read when they are used: the host prepares each example"]
    assert RunFolder(tmp_path / "run").config["prepare"] == "RandomRows(sharper=False)"
    assert same(run(classifier(), parts, place="memory", **words, resume=True).params, result.params)
    with pytest.raises(RunFolderError, match=r"the same prepare= as .*, RandomRows\(sharper=False\), got None"):
        run(classifier(), data.split(stripes, seed=0), resume=True, recipe=recipe, folder=tmp_path / "run")


@pytest.mark.slow
@pytest.mark.heavy
def test_alternating_flips_are_the_same_in_all_places_and_after_a_stop(stripes, tmp_path):
    words = {"recipe": dataclasses.replace(RECIPE, augment="alternating_flip()", epochs=2, warmup_epochs=0)}
    whole = run(classifier(), stripes, place="memory", **words)
    words["folder"] = tmp_path / "run"
    run(classifier(), stripes, observers=[Recorder(stop=8)], place="device", **words)
    assert same(run(classifier(), stripes, resume=True, place="stream", **words).params, whole.params)


def test_alternating_flips_mirror_the_images_of_a_run_in_every_second_epoch(stripes):
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Watched(Classification):
        def loss(self, outputs, batch):
            if "epoch" in batch:  # not in evaluation
                jax.debug.callback(lambda *parts: seen.append(parts), batch["epoch"], batch["index"], batch["image"])
            return super().loss(outputs, batch)

    recipe = dataclasses.replace(RECIPE, augment="alternating_flip()", epochs=2, warmup_epochs=0)
    run(classifier(), stripes, recipe, task=Watched())
    jax.effects_barrier()
    originals = data.split(stripes, seed=0)["train"].entries["image"]
    mirrored = [set(), set()]
    for epochs, indices, images in seen:
        for epoch, index, image in zip(epochs.tolist(), indices.tolist(), images, strict=True):
            flipped = np.array_equal(image, originals[index][:, ::-1])
            assert flipped or np.array_equal(image, originals[index])
            mirrored[epoch] |= {index} if flipped else set()
    assert mirrored[0] | mirrored[1] == set(range(60))
    assert not mirrored[0] & mirrored[1]
    assert 15 < len(mirrored[0]) < 45
