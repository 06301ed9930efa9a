import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxcnn import data, trees
from jaxcnn.evaluation import mean_interval
from jaxcnn.layers import BatchNorm, Conv, Dense, Dropout, Flatten, Function, Sequential
from jaxcnn.models import lenet5
from jaxcnn.training import NonFiniteLossError, Observer, Recipe, load_model, run, train_many
from jaxcnn.training.recipe import RecipeError
from jaxcnn.training.run_folder import RunFolder, RunFolderError, listed_runs

RECIPE = Recipe(epochs=3, batch_size=10, learning_rate=0.02, augment="none", checkpoint_epochs=2)
CLOCKS = ("images_per_second", "waiting_for_data")


@pytest.fixture(autouse=True)
def standard_promotion(compile_once):
    """Optax's Adam needs it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def stripes():
    """100 images of 6x6 pixels with bright rows (class 0) or bright columns (class 1), and noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 2
    images = rng.uniform(0, 0.8, (100, 6, 6, 1)).astype(np.float32)
    images[labels == 0, ::2] += 0.2
    images[labels == 1, :, ::2] += 0.2
    return data.arrays(image=images, label=labels, class_names=["rows", "columns"])


def classifier():
    """A model with running moments and random numbers."""
    stem = Sequential(conv=Conv(1, 4, use_bias=False), norm=BatchNorm(4), relu=Function(jax.nn.relu))
    return Sequential(stem=stem, flatten=Flatten(), dropout=Dropout(0.2), head=Dense(144, 2))


def assert_same_run(one, other, tolerance=1e-5):
    assert one.best_epoch == other.best_epoch
    for mine, theirs in zip((one.params, one.state), (other.params, other.state), strict=True):
        mine, theirs = trees.named_leaves(mine), trees.named_leaves(theirs)
        assert mine.keys() == theirs.keys()
        for name, leaf in mine.items():
            np.testing.assert_allclose(leaf, theirs[name], rtol=0, atol=tolerance, err_msg=name)
    assert len(one.history) == len(other.history)
    for row, expected in zip([*one.history, one.figures], [*other.history, other.figures], strict=True):
        assert row.keys() == expected.keys()
        for name in row.keys() - set(CLOCKS):
            assert row[name] == pytest.approx(expected[name], rel=1e-4, abs=tolerance), name


@pytest.mark.heavy
# Augmented, a resampled pixel can be the maximum of another window, so that rounding grows.
@pytest.mark.slow
@pytest.mark.parametrize(("mapped", "augment"), [("map", "affine"), ("vmap", "none")])
def test_each_run_of_lenet_on_digits_is_the_run_alone(mapped, augment):
    recipe = Recipe(epochs=2, batch_size=256, optimizer="sgd", augment=augment)
    runs = train_many(lenet5(), data.digits(), recipe, seeds=[3, 5], learning_rates=[0.02, 0.01], mapped=mapped)
    assert [(each.seed, each.learning_rate) for each in runs.recipes] == [(3, 0.02), (5, 0.02), (3, 0.01), (5, 0.01)]
    for place in (1, 2):
        assert_same_run(runs.results[place], run(lenet5(), data.digits(), runs.recipes[place]))
    assert runs.results[0].history[-1]["train_loss"] != runs.results[1].history[-1]["train_loss"]


EMA = {"ema": 0.9, "micro_batches": 2, "augment": "flip()"}
FREEZE = {"freeze": "stem", "unfreeze_epoch": 1, "epochs": 4, "optimizer": "sgd"}
MIXUP = {"mixup": 0.5, "plain_epochs": 1, "patience": 1, "epochs": 5, "learning_rate": 0.1}


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("options", "mapped"),
    [
        pytest.param(options, mapped, marks=() if default else pytest.mark.slow, id=f"{next(iter(options))}-{mapped}")
        for options, mapped, default in (
            (EMA, "map", False),
            (EMA, "vmap", True),
            (FREEZE, "map", False),
            (FREEZE, "vmap", False),
            (MIXUP, "map", False),
            (MIXUP, "vmap", False),
        )
    ],
)
def test_each_run_is_the_run_alone_with_all_that_a_recipe_can_do(stripes, options, mapped):
    recipe = dataclasses.replace(RECIPE, **options)
    runs = train_many(classifier(), stripes, recipe, seeds=4 if "patience" in options else 2, mapped=mapped)
    assert [each.seed for each in runs.recipes] == list(range(len(runs.results)))
    for result, each in zip(runs.results, runs.recipes, strict=True):
        assert_same_run(result, run(classifier(), stripes, each))
    if "patience" in options:
        # Otherwise no run would have stopped before another.
        assert len({len(result.history) for result in runs.results}) > 1


class Recorder(Observer):
    def __init__(self, stop=None):
        self.rows, self.notes, self.ends, self.starts, self.stop = [], [], [], [], stop

    def on_start(self, start):
        self.starts.append(start)

    def on_note(self, note):
        self.notes.append(note)

    def on_step(self, progress, images_per_second):
        return progress.step == self.stop

    def on_epoch(self, row, best):
        self.rows.append((row, best))

    def on_end(self, result):
        self.ends.append(result)


@pytest.fixture(scope="module")
def finished(compile_once, stripes, tmp_path_factory):
    """Three finished runs, their folder and their events; not to be changed."""
    recorder, folder = Recorder(), tmp_path_factory.mktemp("finished") / "runs"
    with jax.numpy_dtype_promotion("standard"):
        return train_many(classifier(), stripes, RECIPE, seeds=3, folder=folder, observers=[recorder]), recorder


def test_each_run_has_a_folder_of_its_own(finished, stripes):
    runs, _ = finished
    paths = listed_runs(runs.folder)
    assert [path.name for path in paths] == ["seed-0", "seed-1", "seed-2"]
    for path, result, recipe in zip(paths, runs.results, runs.recipes, strict=True):
        folder = RunFolder(path)
        assert result.folder == path
        assert (folder.recipe, folder.metrics(), folder.result()) == (recipe, result.history, result.figures)
        np.testing.assert_array_equal(load_model(path).params["head"]["kernel"], result.params["head"]["kernel"])
        # Ordinary runs, which `run` accepts as its own.
        again = run(classifier(), stripes, recipe, folder=path, resume=True)
        assert again.figures == result.figures


def test_observers_get_the_means(finished):
    runs, recorder = finished
    [start], [end] = recorder.starts, recorder.ends
    assert (start.epochs, start.steps_per_epoch, start.folder) == (3, 6, str(runs.folder))
    assert end is runs
    for epoch, (row, _) in enumerate(recorder.rows):
        each = [result.history[epoch] for result in runs.results]
        assert row["epoch"] == epoch + 1
        assert row["validation_loss"] == pytest.approx(np.mean([one["validation_loss"] for one in each]))
        assert row["train_accuracy"] == pytest.approx(np.mean([one["train_accuracy"] for one in each]))
    scores = [(row["validation_accuracy"], -row["validation_loss"]) for row, _ in recorder.rows]
    assert [best for _, best in recorder.rows] == [
        score > max(scores[:place], default=(0, -np.inf)) for place, score in enumerate(scores)
    ]
    assert runs.figures["test_loss"] == pytest.approx(np.mean([one.figures["test_loss"] for one in runs.results]))


def test_intervals_and_curves(finished):
    from scipy import stats

    runs, _ = finished
    losses = [result.figures["test_loss"] for result in runs.results]
    expected = stats.t.interval(0.9, 2, np.mean(losses), stats.sem(losses))
    found = runs.interval("test_loss", confidence=0.9)
    assert found == pytest.approx((np.mean(losses), *expected, 3))
    curve = runs.curve("validation_loss")
    assert curve.mean.shape == curve.low.shape == (3,)
    second = [result.history[1]["validation_loss"] for result in runs.results]
    assert curve.high[1] == pytest.approx(stats.t.interval(0.95, 2, np.mean(second), stats.sem(second))[1])
    with pytest.raises(ValueError, match=r"expects the name of a figure, got 'loss'; there are: best_epoch"):
        runs.interval("loss")
    with pytest.raises(ValueError, match=r"expects the name of a column, got 'loss'; there are: epoch"):
        runs.curve("loss")


def test_an_interval_of_one_value_is_unknown():
    found = mean_interval([2.0])
    assert (found.mean, found.n) == (2.0, 1)
    assert np.isnan([found.low, found.high]).all()
    with pytest.raises(ValueError, match="at least one value, got none"):
        mean_interval([])
    with pytest.raises(ValueError, match=r"confidence in \(0, 1\), got 95"):
        mean_interval([1.0, 2.0], 95)


def test_stopped_runs_are_resumed_together(finished, stripes, tmp_path):
    whole, _ = finished
    folder = tmp_path / "runs"
    stopped = train_many(classifier(), stripes, RECIPE, seeds=3, folder=folder, observers=[Recorder(stop=8)])
    assert stopped.stopped
    assert [(result.stopped, result.figures, len(result.history)) for result in stopped.results] == [(True, {}, 1)] * 3
    assert [RunFolder(path).checkpoints.latest_step() for path in listed_runs(folder)] == [8] * 3
    # One of them goes on alone, and the others then together.
    alone = run(classifier(), stripes, stopped.recipes[1], folder=folder / "seed-1", resume=True)
    assert_same_run(alone, whole.results[1])
    recorder = Recorder()
    resumed = train_many(classifier(), stripes, RECIPE, seeds=3, folder=folder, resume=True, observers=[recorder])
    assert not resumed.stopped
    assert recorder.starts[0].first_step == 8
    assert "seed-0: resuming after step 8" in recorder.notes
    for one, other in zip(resumed.results, whole.results, strict=True):
        assert_same_run(one, other)


@pytest.mark.heavy
@pytest.mark.slow
def test_runs_go_on_from_different_steps(finished, stripes, tmp_path):
    whole, _ = finished
    folder = tmp_path / "runs"
    train_many(classifier(), stripes, RECIPE, seeds=3, folder=folder, observers=[Recorder(stop=8)])
    run(classifier(), stripes, whole.recipes[1], folder=folder / "seed-1", resume=True, observers=[Recorder(stop=13)])
    # As if the training had been killed before it had made this folder.
    for path in sorted((folder / "seed-2").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (folder / "seed-2").rmdir()
    resumed = train_many(classifier(), stripes, RECIPE, seeds=3, folder=folder, resume=True)
    for one, other in zip(resumed.results, whole.results, strict=True):
        assert_same_run(one, other)


def test_a_run_that_diverges_ends_and_the_others_go_on(stripes, tmp_path):
    recipe = dataclasses.replace(RECIPE, optimizer="sgd", warmup_epochs=0.0)
    recorder = Recorder()
    runs = train_many(
        classifier(),
        stripes,
        recipe,
        seeds=1,
        learning_rates=[1e-2, 1e30],
        folder=tmp_path / "runs",
        observers=[recorder],
    )
    assert list(runs.diverged) == [1]
    assert runs.diverged[1].step <= 3
    assert (runs.results[1].stopped, runs.results[1].figures, runs.results[1].history) == (True, {}, [])
    assert not runs.stopped
    assert any(note.startswith("rate-1e+30-seed-0: diverged: expected ") for note in recorder.notes)
    assert len(runs.results[0].history) == 3
    one, other = runs.by_learning_rate().values()
    assert (one.results, one.diverged) == ((runs.results[0],), {})
    assert (other.results, list(other.diverged)) == ((runs.results[1],), [0])
    with pytest.raises(NonFiniteLossError, match="lower the learning rate"):
        train_many(classifier(), stripes, dataclasses.replace(recipe, learning_rate=1e30), seeds=2)


@pytest.mark.heavy
@pytest.mark.slow
def test_weights_may_be_a_function_of_the_recipe(stripes):
    def weights(recipe):
        return classifier().init(jax.random.key(recipe.seed + 7))

    recipe = dataclasses.replace(RECIPE, epochs=1)
    runs = train_many(classifier(), stripes, recipe, seeds=2, weights=weights)
    expected = run(classifier(), stripes, runs.recipes[1], weights=weights(runs.recipes[1]))
    assert_same_run(runs.results[1], expected)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seeds": 0}, ValueError, "at least 1 seed, got 0"),
        ({"seeds": []}, ValueError, r"different seeds, at least one, got \[\]"),
        ({"seeds": [1, 1]}, ValueError, r"different seeds, at least one, got \[1, 1\]"),
        ({"learning_rates": [0.1, 0.1]}, ValueError, r"different learning rates, at least one, got \[0.1, 0.1\]"),
        ({"learning_rates": [-1.0]}, RecipeError, "learning_rate expects a number above 0"),
        (
            {"place": "disk"},
            ValueError,
            "train_many expects place to be one of .*, got .disk.",
        ),
        ({"mapped": "pmap"}, ValueError, "mapped to be 'vmap', 'map' or None, got 'pmap'"),
        ({"resume": True}, ValueError, "expects a folder to resume"),
        ({"observers": Observer()}, TypeError, "train_many expects a list of observers"),
        (
            {"recipe": dataclasses.replace(RECIPE, freeze="stem", cache_features=True)},
            RecipeError,
            "cache_features expects one run, got several",
        ),
    ],
)
def test_nonsense_is_refused(stripes, options, error, message):
    with pytest.raises(error, match=message):
        train_many(classifier(), stripes, **{"recipe": RECIPE, "seeds": 2, **options})


def test_a_folder_that_holds_something_else_is_refused(finished, stripes, tmp_path):
    runs, _ = finished
    with pytest.raises(RunFolderError, match=r"is not empty \('?runs.json'?\); choose another folder"):
        train_many(classifier(), stripes, RECIPE, seeds=3, folder=runs.folder)
    with pytest.raises(RunFolderError, match=r"got seed-0, seed-1, seed-2; resume them with the same seeds"):
        train_many(classifier(), stripes, RECIPE, seeds=2, folder=runs.folder, resume=True)
    with pytest.raises(RunFolderError, match="got another folder; resume"):
        train_many(classifier(), stripes, RECIPE, seeds=2, folder=tmp_path, resume=True)
    assert listed_runs(tmp_path) == ()
    (tmp_path / "runs.json").write_text(json.dumps({"runs": ["seed-0"], "checksum": "00000000"}))
    with pytest.raises(RunFolderError, match="its checksum does not match"):
        listed_runs(tmp_path)
    with pytest.raises(RunFolderError, match=r"got that of 3 runs; give one of them, such as '?.*seed-0"):
        RunFolder(runs.folder)
