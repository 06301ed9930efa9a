"""`jaxcnn train`: turns options into a training of the library, and shows it."""

import contextlib
import dataclasses
import functools
import os
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tyro

from jaxcnn.cli import names, own_models, pictures, rates, transfer
from jaxcnn.cli.display import Display, make_display
from jaxcnn.cli.errors import CommandError, flag, reported
from jaxcnn.cli.options import RecipeOptions, Train
from jaxcnn.cli.terminal import complain, errors_escaped, say, shown
from jaxcnn.data import Source, named
from jaxcnn.layers import MeanOverViews
from jaxcnn.models.normalized import normalized
from jaxcnn.tasks import Classification, MultiLabel, Regression
from jaxcnn.training import NonFiniteLossError, Placement, first_schema, hosts, make_placement, trackers, whitened
from jaxcnn.training.checkpoint import CheckpointError
from jaxcnn.training.experiment import init_key
from jaxcnn.training.many import Runs, train_many
from jaxcnn.training.observers import Observer
from jaxcnn.training.recipe import Recipe
from jaxcnn.training.run_folder import RunFolder, RunFolderError, listed_runs
from jaxcnn.training.runs import Result, run
from jaxcnn.types import Layer, Params, State, Task

_DEVICES = ("devices", "shard", "coordinator", "processes", "process")
"""Options that say where a run is computed."""

_UNSTORED = (
    "preset",
    "seeds",
    "run_dir",
    "workers",
    "place",
    *_DEVICES,
    "resume",
    "tensorboard",
    "wandb",
    "find_learning_rate",
)
"""Options that do not define a run: the name for other options, further runs, the place of the run, how its data are
read, its devices, its trackers, and other actions than to train."""


def train(options: Train, arguments: list[str]) -> int:
    """Trains a model in a run folder, from the start or from its newest checkpoint.

    Args:
      options: the options of the training.
      arguments: the words of the command line after `train`, to detect options that were given.

    Returns:
      The exit status: 0 if the run is finished or was stopped by Ctrl-C.

    Raises:
      CommandError: the options, the data or the folder are invalid, or the training diverged.
    """
    _join(options)
    try:
        with reported(RunFolderError):
            if options.resume and not options.find_learning_rate:
                return _resume(options, arguments)
            return _start(options, arguments)
    except hosts.LostProcessError as error:
        complain(f"error: {error}")
        os._exit(2)


def _join(options: Train) -> None:
    """Joins the other processes, before a device is used."""
    if options.coordinator is None:
        if options.processes is not None or options.process is not None:
            raise CommandError("--processes and --process expect --coordinator HOST:PORT; give it, or omit them")
        return
    with reported(hosts.HostsError, ValueError):
        hosts.join(options.coordinator, options.processes, options.process)


def stored_options(folder: RunFolder) -> Train:
    """Returns the options that a run was started with.

    Args:
      folder: the run folder.

    Returns:
      The options.

    Raises:
      CommandError: the run was started in Python, or with an option that this version does not know.
    """
    values = folder.config.get("options")
    if values is None:
        raise CommandError(
            f"expected a run of `jaxcnn train`, got {shown(folder.path)}, which was started in Python: its data are "
            "not recorded; resume it with jaxcnn.training.run, or evaluate it with --data"
        )
    known = {field.name for field in dataclasses.fields(Train)}
    if unknown := sorted(values.keys() - known):
        raise CommandError(
            f"expected options that this version knows in {shown(folder.path / 'config.json')}, got "
            f"{', '.join(map(flag, unknown))}; was it written by a later version?"
        )
    # JSON has no tuples.
    options: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    with reported(RunFolderError):
        recipe = RecipeOptions.from_json(folder.recipe.to_json())
    return Train(**options, recipe=recipe, run_dir=folder.path)


def _start(options: Train, arguments: list[str]) -> int:
    _check(options)
    options = _with_absolute_paths(options)
    watching = _trackers(options)
    with _display(options) as display:
        splits = names.load_splits(options)
        channels = _channels(options, splits["train"])
        source = None if options.init_from is None else transfer.read_source(options, channels, display.on_note)
        task = names.make_task(options, splits["train"])
        names.check_model(options.model, task)
        model = _build(options, splits, source)
        weights = _first_weights(options, model, splits, source)
        layer = _averaged(options, model, task)
        if options.find_learning_rate:
            return rates.find(options, layer, splits, weights, task, display)
        seeds = f"{options.recipe.seed}" if options.seeds is None else f"{options.seeds}-seeds"
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{options.model_name}-{seeds}"
        words = {
            "task": task,
            "prepare": names.make_prepare(options, splits),
            "folder": options.run_dir or Path("runs") / name,
            "numbered": options.run_dir is None,
            "observers": [display, *watching],
            "about": {"options": _option_values(options), "command": ["jaxcnn", "train", *arguments]},
        }
        if options.seeds is not None:
            return _run_many(
                options, layer, splits, _weights_by_recipe(options, model, splits, lambda: source), display, words
            )
        result = _run(options, layer, splits, weights=weights, **words)
        if result.folder is None:
            # Another process has the folder, and tells the rest.
            return 0
        _draw(options, splits, layer, result, display)
    return _end(options, result)


def _resume(options: Train, arguments: list[str]) -> int:
    if options.run_dir is None:
        raise CommandError("--resume expects the folder of the run: --run-dir FOLDER")
    if options.preset is not None:
        raise CommandError("--resume keeps the options of a run, got --recipe too, which gives others; omit --recipe")
    runs = listed_runs(options.run_dir)
    if runs and not (runs[0] / "config.json").is_file():
        raise CommandError(
            f"expected runs to resume in {shown(options.run_dir)}, got none: they were stopped before the first step; "
            "remove the folder, and start them again"
        )
    folder = RunFolder(runs[0] if runs else options.run_dir)
    options = _resumed_options(folder, arguments)
    if options.seeds not in (None, len(runs) or None):
        was = f"--seeds {len(runs)}" if runs else "one seed"
        raise CommandError(f"--resume keeps the options of a run and cannot change {was} to --seeds {options.seeds}")
    if runs:
        return _resume_many(options, folder, runs)
    figures, _ = folder.result(), folder.metrics()
    if options.coordinator is None and figures is not None and not pictures.missing(folder):
        say(f"the run in {shown(folder.path)} is already finished")
        _print_result(folder, figures)
        return 0
    if not os.access(folder.path, os.W_OK):
        raise CommandError(f"expected a run folder that can be written, got {shown(folder.path)}, which is read-only")
    with _display(options) as display:
        if folder.id is None:
            with reported(ValueError, OSError, ImportError):
                first_schema.read_source(folder.config)
        splits = names.load_splits(options)
        if own_models.is_own(options.model):
            own_models.find(options.model)
        layer, image_shape, _ = folder.described()
        weights = None
        if (options.init_from or options.whiten) and folder.checkpoints.latest_step() is None:
            source = transfer.read_source(options, image_shape[2], display.on_note) if options.init_from else None
            # The views have no parameters of their own.
            model = layer.layer if isinstance(layer, MeanOverViews) else layer
            weights = _first_weights(options, model, splits, source)
        result = _run(
            options,
            layer,
            splits,
            weights=weights,
            task=names.make_task(options, splits["train"]),
            prepare=names.make_prepare(options, splits),
            folder=folder.path,
            resume=True,
            observers=[display, *_trackers(options)],
        )
        if result.folder is None:
            return 0
        _draw(options, splits, layer, result, display)
    return _end(options, result)


def _resume_many(options: Train, folder: RunFolder, runs: tuple[Path, ...]) -> int:
    """Resumes the runs of --seeds."""
    options = dataclasses.replace(options, seeds=len(runs), run_dir=runs[0].parent)
    _check(options)
    with _display(options) as display:
        splits = names.load_splits(options)
        if own_models.is_own(options.model):
            own_models.find(options.model)
        layer, image_shape, _ = folder.described()
        model = layer.layer if isinstance(layer, MeanOverViews) else layer

        @functools.cache
        def source() -> transfer.Source | None:
            # Read only if a run has no checkpoint yet.
            return transfer.read_source(options, image_shape[2], display.on_note) if options.init_from else None

        words = {
            "task": names.make_task(options, splits["train"]),
            "prepare": names.make_prepare(options, splits),
            "folder": options.run_dir,
            "resume": True,
            "observers": [display],
            # For runs whose folder is still missing.
            "about": {name: folder.config[name] for name in ("options", "command")},
        }
        return _run_many(options, layer, splits, _weights_by_recipe(options, model, splits, source), display, words)


def _weights_by_recipe(
    options: Train, model: Layer, splits: dict[str, Source], source: Callable[[], transfer.Source | None]
) -> Callable[[Recipe], tuple[Params, State]]:
    """Returns a function that makes the first weights of a run, which depend on its seed."""

    def weights(recipe: Recipe) -> tuple[Params, State]:
        seeded = RecipeOptions.from_json(recipe.to_json())
        return _first_weights(dataclasses.replace(options, recipe=seeded), model, splits, source())

    return weights


def _run_many(
    options: Train,
    layer: Layer,
    splits: dict[str, Source],
    weights: Callable[[Recipe], tuple[Params, State]],
    display: Display,
    words: dict[str, Any],
) -> int:
    """Trains the runs of --seeds, draws their curves and prints their figures."""
    assert options.seeds is not None
    place = None if options.place == "auto" else options.place
    with _reported_in_run():
        runs = train_many(
            layer,
            splits,
            options.recipe,
            seeds=options.seeds,
            weights=weights,
            place=place,
            workers=options.workers,
            **words,
        )
    assert runs.folder is not None
    display.on_activity("drawing the picture")
    pictures.draw_runs(options, runs, runs.folder)
    display.on_activity(None)
    _print_runs(options, runs)
    return 0


def _print_runs(options: Train, runs: Runs) -> None:
    assert runs.folder is not None
    if runs.stopped:
        say("stopped, with a checkpoint of each run; resume with:")
        own = f" --model {shown(shlex.quote(options.model))}" if own_models.is_own(options.model) else ""
        say(f"  jaxcnn train --run-dir {shown(shlex.quote(str(runs.folder)))} --resume{own}")
        return
    first = next(result for result in runs.results if result.folder is not None)
    assert first.folder is not None
    objective = RunFolder(first.folder).task.objective
    name = f"test_{objective.figure}"
    values = [result.figures[name] for result in runs.results if result.figures]
    words = _figure_words(objective.figure)

    def text(value: float) -> str:
        return f"{value:.2%}" if objective.larger_is_better else f"{value:.4f}"

    undefined = any(value is None for value in values)
    if undefined:
        say(f"test {words}: undefined in some runs")
    else:
        mean, low, high, n = runs.interval(name)
        if n == 1:
            say(f"test {words} of 1 run: {text(mean)}")
        else:
            interval = f"95 % confidence interval of the mean {text(low)} to {text(high)}"
            say(f"test {words} of {n} runs: mean {text(mean)}, {interval}; {text(min(values))} to {text(max(values))}")
    if runs.diverged:
        seeds = ", ".join(str(runs.recipes[place].seed) for place in runs.diverged)
        say(f"diverged: seeds {seeds}")
    say(f"a folder for each run, and their curves in runs.png: {shown(runs.folder)}")


def _figure_words(name: str) -> str:
    return name.replace("_", " ").replace("iou", "IoU").replace("ap50", "AP50")


def _display(options: Train) -> contextlib.AbstractContextManager[Any]:
    """Makes what shows the training: of several processes, process 0 shows it."""
    if options.coordinator is not None and not hosts.leads():
        return contextlib.nullcontext(Observer())
    return make_display(options.model_name, options.data)


def _trackers(options: Train) -> list[Observer]:
    """Makes the observers that send the figures to experiment trackers."""
    if options.coordinator is not None and not hosts.leads():
        return []
    with reported(ImportError):
        return [
            *([trackers.TensorBoard()] if options.tensorboard else []),
            *([trackers.WeightsAndBiases(options.wandb, config=_all_values(options))] if options.wandb else []),
        ]


def _run(options: Train, layer: Layer, splits: dict[str, Source], **words: Any) -> Result:
    with _reported_in_run():
        place, placement = (None if options.place == "auto" else options.place), _placement(options)
        with hosts.losses_reported("Start all processes again with --run-dir FOLDER --resume, or fewer of them."):
            return run(
                layer, splits, options.recipe, place=place, placement=placement, workers=options.workers, **words
            )


@contextlib.contextmanager
def _reported_in_run() -> Iterator[None]:
    try:
        with reported(NonFiniteLossError, CheckpointError, ValueError):
            yield
    except hosts.LostProcessError:
        raise
    except hosts.HostsError as error:
        raise CommandError(str(error)) from error


def _placement(options: Train) -> Placement | None:
    if options.devices is None and options.shard == "nothing" and options.coordinator is None:
        return None
    return make_placement(options.devices, shard=options.shard)


def _draw(options: Train, splits: dict[str, Source], layer: Layer, result: Result, display: Display) -> None:
    assert result.folder is not None
    folder = RunFolder(result.folder)
    display.on_activity("drawing the pictures")
    if result.stopped:
        pictures.draw_curves(folder, options, result.history, result.best_epoch)
    else:
        pictures.draw(folder, options, splits["test"], layer, result)
    display.on_activity(None)


def _end(options: Train, result: Result) -> int:
    """Prints how the training ended."""
    assert result.folder is not None
    folder = RunFolder(result.folder)
    if result.stopped:
        say(f"stopped after step {folder.checkpoints.latest_step()}, with a checkpoint; resume with:")
        own = f" --model {shown(shlex.quote(options.model))}" if own_models.is_own(options.model) else ""
        say(f"  jaxcnn train --run-dir {shown(shlex.quote(str(folder.path)))} --resume{own}")
    else:
        _print_result(folder, result.figures)
    return 0


def _channels(options: Train, source: Source) -> int:
    """Returns the number of channels of the images."""
    if "image" not in source.spec:
        raise CommandError(f"expected examples with images in {shown(options.data)}, got {', '.join(source.spec)}")
    shape: Any = source.spec["image"].shape
    return shape[2]


def _build(options: Train, splits: dict[str, Source], source: transfer.Source | None) -> Layer:
    spec, class_names = splits["train"].spec, splits["train"].class_names
    outputs = len(class_names) or int(spec["target"].shape[-1] or 1 if spec["target"].shape else 1)
    shape = names.image_shape(splits)
    model = names.build_model(options.model, outputs, shape)
    if own_models.is_own(options.model):
        own_models.check_readable(options.model, model)
        own_models.check_forward(options.model, model, shape)
    return normalized(model, None if source is None else source.normalization)


def _first_weights(
    options: Train, model: Layer, splits: dict[str, Source], source: transfer.Source | None
) -> tuple[Params, State]:
    params, state = transfer.first_parameters(options, model, init_key(options.recipe), source)
    if options.whiten is not None:
        with reported(ValueError):
            params = whitened(params, splits["train"], options.whiten)
    return params, state


def _averaged(options: Train, model: Layer, task: Task) -> Layer:
    if options.views is None:
        return model
    if not isinstance(task, Classification | MultiLabel | Regression):
        raise CommandError(
            f"--views expects a task of whole images, whose answer does not move with the pixels, got "
            f"{type(task).__name__}; omit it"
        )
    return MeanOverViews(model, options.views)


def _option_values(options: Train) -> dict[str, Any]:
    """Returns the options that define a run and are not fields of the recipe, as JSON values by name."""
    values = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)
        if field.name not in (*_UNSTORED, "recipe")
    }
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _all_values(options: Train) -> dict[str, Any]:
    """Returns the options that define a run, those of the recipe too, as JSON values by name."""
    return _option_values(options) | options.recipe.to_json()


def _with_absolute_paths(options: Train) -> Train:
    """Makes paths absolute, so that a run does not depend on the working directory."""
    for name in ("data", "validation_data", "test_data", "init_from"):
        given = getattr(options, name)
        if given is None:
            continue
        if name == "init_from":
            path = str(Path(given).absolute()) if Path(given).exists() else given
        else:
            path = named.absolute(given)
        options = dataclasses.replace(options, **{name: path})
    return dataclasses.replace(options, model=own_models.with_absolute_path(options.model))


def _check(options: Train) -> None:
    """Refuses invalid options, before anything is read."""
    names.check_count(options, "examples_per_class")
    if options.random_resized_crop and options.place == "device":
        raise CommandError("--random-resized-crop works on the host, got --place device; give memory, stream or auto")
    if options.crop_fraction != 1 and not options.random_resized_crop:
        raise CommandError("--crop-fraction has an effect only with --random-resized-crop; give both, or omit it")
    if options.preset is not None and not options.data:
        raise CommandError(
            f"--recipe {options.preset} expects data of your own, got none; give --data, such as a folder with a "
            "folder of pictures for each class"
        )
    if options.find_learning_rate and (options.run_dir or options.resume or options.tensorboard or options.wandb):
        raise CommandError(
            "--find-learning-rate does not train: --run-dir, --resume, --tensorboard and --wandb have no effect with "
            "it; omit them"
        )
    if options.find_learning_rate and any(getattr(options, name) != getattr(Train, name) for name in _DEVICES):
        raise CommandError(
            "--find-learning-rate uses one device: --devices, --shard and --coordinator have no effect with it; omit "
            "them"
        )
    if options.seeds is not None:
        names.check_count(options, "seeds")
        others = [
            flag(name) for name in (*_DEVICES, "tensorboard", "wandb") if getattr(options, name) != getattr(Train, name)
        ]
        if options.find_learning_rate:
            others.append("--find-learning-rate")
        if others:
            raise CommandError(f"--seeds trains several runs on one device, got {others[0]} too; omit one of them")
    if options.devices is not None and options.place == "device":
        raise CommandError("--devices splits each batch on the host, got --place device; give memory, stream or auto")
    if options.training_size and not options.random_resized_crop:
        raise CommandError("--training-size has an effect only with --random-resized-crop; give both, or omit it")
    if options.head != "auto" and options.init_from is None:
        raise CommandError("--head has an effect only with --init-from; give both, or omit it")
    if options.recipe.freeze is not None and options.init_from is None and options.whiten is None:
        raise CommandError("--freeze has an effect only with --init-from or --whiten; give both, or omit it")
    if options.workers is not None and options.workers < 0:
        raise CommandError(f"--workers expects a number of at least 0, got {options.workers}")
    if options.whiten is not None and options.random_resized_crop:
        raise CommandError("--whiten expects images of one size, got --random-resized-crop; omit one of them")


def _resumed_options(folder: RunFolder, arguments: list[str]) -> Train:
    """Returns the options of the run, and refuses different ones on the command line."""
    stored = stored_options(folder)
    with reported(), errors_escaped():
        given: Train = tyro.cli(
            Train,
            prog="jaxcnn train",
            args=arguments,
            default=stored,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    if not any(word.partition("=")[0] == "--model" for word in arguments):
        own_models.check_named(folder, "--model")
    # A file that was moved is still the same model.
    moved = own_models.is_own(given.model) and own_models.is_own(stored.model)
    before, now = _all_values(stored), _all_values(given) | ({"model": stored.model} if moved else {})
    changed = {name: f"{flag(name)} {before[name]} to {now[name]}" for name in before if before[name] != now[name]}
    if changed:
        longer = now["epochs"] > before["epochs"] and list(changed) == ["epochs"]
        raise CommandError(
            f"--resume keeps the options of a run and cannot change {', '.join(changed.values())}; omit these options, "
            "or start a new run"
            + (f" from its weights: jaxcnn train --init-from {shown(folder.path)} --epochs N" if longer else "")
        )
    changeable = ("model", "seeds", "workers", "place", *_DEVICES, "tensorboard", "wandb")
    changes = {name: getattr(given, name) for name in changeable}
    return dataclasses.replace(stored, **changes)


def _print_result(folder: RunFolder, figures: dict[str, Any]) -> None:
    task = folder.task
    name = task.objective.figure
    words, images = _figure_words(name), figures["test_images"]

    def shown_value(part: str) -> str:
        value = figures[f"{part}_{name}"]
        return "-" if value is None else f"{value:.2%}" if task.objective.larger_is_better else f"{value:.4f}"

    test = pictures.coco_text(folder) or f"{words} {shown_value('test')}"
    wrong = f", {images - figures['test_correct']} of {images} wrong" if "test_correct" in figures else ""
    say(
        f"best epoch {figures['best_epoch']}: validation {words} {shown_value('validation')}\n"
        f"test {test}{wrong}\n"
        f"pictures and checkpoints: {shown(folder.path)}"
    )
