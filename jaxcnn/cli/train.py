"""`jaxcnn train`."""

import dataclasses
import math
import shlex
import signal
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from jaxcnn import data, plots, trees
from jaxcnn.cli import names, pairs, transfer
from jaxcnn.cli.display import Display, Stopwatch, make_display
from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.cli.options import Train
from jaxcnn.cli.run_folder import RunFolder, option_values, versions_differ
from jaxcnn.cli.terminal import errors_escaped, say, shown
from jaxcnn.layers import count_parameters, output_shape, trainable
from jaxcnn.models.catalog import CATALOG, Model
from jaxcnn.tasks import Classification
from jaxcnn.training import (
    Fitted,
    Metrics,
    NonFiniteLossError,
    Progress,
    TrainState,
    evaluate,
    fit,
    image_batches,
    init_train_state,
    make_eval_step,
    make_optimizer,
    make_predict_step,
    make_schedule,
    make_train_state,
    make_train_step,
    predict,
)
from jaxcnn.training.checkpoint import CheckpointError, Checkpoints, Restored
from jaxcnn.training.optimizers import OPTIMIZERS
from jaxcnn.types import Mean, Params, State

EVAL_BATCH_SIZE = 256


class Experiment(NamedTuple):
    """The data, model and phases that the options of a training define.

    Attributes:
      splits: the data, split.
      fingerprint: checksum of the data before the split.
      batches: the training set by step.
      model: gives logits.
      phases: phases of the training, in order.
      dtype: dtype of the computation.
    """

    splits: pairs.Splits
    fingerprint: str
    batches: pairs.Batches
    model: Model
    phases: tuple["Phase", ...]
    dtype: Any


class Phase(NamedTuple):
    """A part of a training with the same frozen layers.

    Attributes:
      frozen: the frozen layers; see `transfer.freeze_layers`.
      model: the model, with these layers frozen.
      trainable: which parameters are trained, a tree of bools.
      first_epoch: number of finished epochs at its start.
      last_epoch: number of finished epochs at its end.
      schedule: learning rate by step, counted from the start of the phase.
      optimizer: optimizer with the schedule; its state is new in each phase.
    """

    frozen: str | None
    model: Model
    trainable: Any
    first_epoch: int
    last_epoch: int
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation


class Best(NamedTuple):
    """The best epoch so far, by accuracy on the validation set and then by loss.

    Attributes:
      epoch: its number, from 1; 0 before the first epoch.
      accuracy: on the validation set.
      loss: on the validation set.
      params: its parameters.
      state: its state.
    """

    epoch: int
    accuracy: float
    loss: float
    params: Any
    state: Any


def set_up(options: Train, normalization: transfer.Normalization | None = None) -> Experiment:
    """Reads and splits the data, and builds the model and the optimizers.

    Args:
      options: the options of a training.
      normalization: normalization of the pixels in the model, or None.

    Returns:
      The experiment.

    Raises:
      CommandError: a name is unknown, or the data do not fit the model.
    """
    source = names.load_data(options.data)
    everything = pairs.dataset(source)
    checksum = zlib.crc32(everything.labels.tobytes(), zlib.crc32(everything.images.tobytes()))
    with reported(ValueError):
        if options.classes:
            source = data.choose_classes(source, options.classes)
        parts = data.split(source, seed=options.split_seed)
        if options.examples_per_class is not None:
            parts["train"] = data.few(parts["train"], options.examples_per_class, seed=options.split_seed)
        splits = pairs.splits(parts)
        batches = pairs.Batches(splits.train, options.batch_size, seed=options.seed)
    shape = everything.images.shape[1:]
    model = names.build_model(options.model, len(source.class_names), shape)
    with reported(ValueError):
        outputs = output_shape(model, shape)
    if outputs != (len(source.class_names),):
        raise CommandError(
            f"train expects a model that gives one logit for each class, got {options.model}, which gives {outputs}; "
            "choose a classifier"
        )
    augment = names.choose("augmentation", options.augment, names.AUGMENTATIONS)
    if augment is not None:
        with reported(ValueError):
            jax.eval_shape(augment, jax.random.key(0), {"image": jax.ShapeDtypeStruct(shape, jnp.float32)})
    model = transfer.normalized(model, normalization)
    phases = _phases(options, model, batches.steps_per_epoch)
    return Experiment(splits, f"{checksum:08x}", batches, model, phases, jnp.dtype(options.precision))


def _phases(options: Train, model: Model, steps_per_epoch: int) -> tuple[Phase, ...]:
    """Returns the phases of a training, with their frozen layers and optimizers."""
    structure = jax.eval_shape(model.init, jax.random.key(0))
    factors = transfer.learning_rate_factors(options, structure[0])

    def phase(pattern: str | None, first_epoch: int, last_epoch: int, learning_rate: float) -> Phase:
        schedule = make_schedule(
            options.schedule,
            learning_rate,
            warmup_steps=round(options.warmup_epochs * steps_per_epoch),
            total_steps=(last_epoch - first_epoch) * steps_per_epoch,
        )
        frozen = transfer.freeze_layers(pattern, model)
        learns = trainable(frozen, structure[0])
        params = {name: None for name, one in trees.named_leaves(learns).items() if one}
        optimizer = make_optimizer(
            options.optimizer,
            schedule,
            weight_decay=options.weight_decay,
            clip_norm=options.clip_norm,
            factors=transfer.those_that_learn(factors, params),
        )
        return Phase(pattern, frozen, learns, first_epoch, last_epoch, schedule, optimizer)

    end = options.unfreeze_epoch
    first = phase(options.freeze, 0, end or options.epochs, options.learning_rate)
    if options.cache_features:
        transfer.cut_in_two(first.model)
    if end is None:
        return (first,)
    return first, phase(None, end, options.epochs, options.unfreeze_learning_rate or options.learning_rate / 10)


def checkpoint_tree(train_state: TrainState, params: Any, state: Any) -> dict[str, Any]:
    """Returns the tree of a checkpoint.

    Args:
      train_state: the train state.
      params: parameters of the best epoch so far.
      state: state of the best epoch so far.

    Returns:
      The tree to save, or to restore into.
    """
    return {"train_state": train_state, "best": {"params": params, "state": state}}


def restore(experiment: Experiment, checkpoints: Checkpoints) -> Restored:
    """Reads the newest valid checkpoint of a run.

    Args:
      experiment: the experiment of the run.
      checkpoints: its checkpoints.

    Returns:
      The checkpoint; its tree is that of `checkpoint_tree`, in the layout of the phase of its step.
    """

    def like(step: int) -> dict[str, Any]:
        epochs = step / experiment.batches.steps_per_epoch
        phase = next(phase for phase in experiment.phases if epochs <= phase.last_epoch)

        def tree(key: jax.Array) -> dict[str, Any]:
            return checkpoint_tree(init_train_state(phase.model, phase.optimizer, key), *experiment.model.init(key))

        return jax.eval_shape(tree, jax.random.key(0))

    return checkpoints.restore(like)


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
    folder = None
    if options.resume:
        folder = _folder_to_resume(options)
        options = _resumed_options(folder, arguments)
        if result := folder.result():
            say(f"the run in {shown(folder.path)} is already finished")
            _print_result(folder.path, result)
            return 0
    _check(options)
    options = _with_absolute_paths(options)
    source, normalization = None, None if folder is None else transfer.read_normalization(folder)
    fresh = folder is None or Checkpoints(folder.checkpoints).latest_step() is None
    if fresh and options.init_from is not None:
        source = transfer.read_source(options)
        normalization = source.normalization
    experiment = set_up(options, normalization)
    first = transfer.first_parameters(options, experiment.model, _keys(options)[0], source) if fresh else None
    begins_with = {
        "weights_fingerprint": None if source is None else source.fingerprint(),
        "normalization": None if normalization is None else normalization._asdict(),
    }
    if folder is None:
        path = options.run_dir or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{options.model}-{options.seed}"
        folder = RunFolder.create(path, options, arguments, experiment.fingerprint, begins_with)
    elif folder.config["data_fingerprint"] != experiment.fingerprint:
        raise CommandError(f"expected the data that the run in {shown(folder.path)} was started with, got other data")
    elif fresh and folder.config["weights_fingerprint"] != begins_with["weights_fingerprint"]:
        raise CommandError(f"expected the weights of the start of the run in {shown(folder.path)}, got other weights")
    return _Run(options, experiment, folder).go(first)


def _keys(options: Train) -> tuple[jax.Array, jax.Array]:
    """Returns the keys of the initial parameters and of the training."""
    init_key, train_key = jax.random.split(jax.random.key(options.seed))
    return init_key, train_key


def _with_absolute_paths(options: Train) -> Train:
    """Makes paths absolute, so that a run does not depend on the working directory."""
    if options.data not in names.DATA and Path(options.data).exists():
        options = dataclasses.replace(options, data=str(Path(options.data).absolute()))
    if options.init_from is not None and Path(options.init_from).exists():
        options = dataclasses.replace(options, init_from=str(Path(options.init_from).absolute()))
    return options


class _Run:
    """One training: the state that callbacks share."""

    def __init__(self, options: Train, experiment: Experiment, folder: RunFolder) -> None:
        self.options, self.experiment, self.folder = options, experiment, folder
        self.checkpoints = Checkpoints(folder.checkpoints)
        self.rows: list[dict[str, Any]] = []
        self.saved_step: int | None = None
        self.stopwatch = Stopwatch(options.batch_size)
        self.rate = 0.0
        self.interrupted = False

    def go(self, first: tuple[Params, State] | None) -> int:
        """Trains, then tests and draws the figures.

        Args:
          first: initial parameters and state; None to continue from the newest checkpoint.

        Returns:
          The exit status, 0.
        """
        metrics = Metrics()
        if first is None:
            train_state, metrics = self._restore()
        else:
            if self.options.resume:
                say("there is no checkpoint yet: starting again")
                self.folder.keep_metrics(0)
            elif self.folder.checkpoints.exists():
                raise CommandError(f"expected a new folder for the run, got checkpoints in {shown(self.folder.path)}")
            self.best = Best(0, -1.0, 0.0, *first)
            train_state = self._begin(self.experiment.phases[0], *first, step=0)
        self.display = make_display(self.options.epochs, self.experiment.batches.steps_per_epoch, int(train_state.step))
        with _interruptible(self._interrupt), self.display:
            self._announce(self.display)
            with reported(NonFiniteLossError, CheckpointError):
                fitted = self._fit(train_state, metrics)
            if fitted.stopped:
                self._save(fitted.train_state, fitted.metrics)
        if fitted.stopped:
            self._draw_curves()
            say(f"stopped after step {int(fitted.train_state.step)}, with a checkpoint; resume with:")
            say(f"  jaxcnn train --run-dir {shown(shlex.quote(str(self.folder.path)))} --resume")
            return 0
        self._finish()
        return 0

    def _begin(self, phase: Phase, params: Params, state: State, step: int) -> TrainState:
        """Makes the initial train state of a phase."""
        return make_train_state(params, state, phase.optimizer, step=step, trainable=phase.trainable)

    def _fit(self, train_state: TrainState, metrics: Metrics) -> Fitted:
        try:
            return self._fit_phases(train_state, metrics)
        except NonFiniteLossError as error:
            latest = self.checkpoints.latest_step()
            kept = "there is no checkpoint yet" if latest is None else f"the checkpoint of step {latest} is kept"
            error.args = (f"{error}; {kept} in {shown(self.folder.path)}",)
            raise

    def _fit_phases(self, train_state: TrainState, metrics: Metrics) -> Fitted:
        """Runs the phases, from the one of the train state's step."""
        steps_per_epoch, fitted = self.experiment.batches.steps_per_epoch, None
        for phase in self.experiment.phases:
            if fitted is not None:
                done = fitted.train_state
                train_state = self._begin(phase, done.params, done.state, step=int(done.step))
                self.display.note(f"epoch {phase.first_epoch + 1}: all layers are trained from now on")
            elif int(train_state.step) > phase.last_epoch * steps_per_epoch:
                continue
            self._enter(phase, train_state)
            fitted = fit(
                train_state,
                self.train_step,
                self.batches,
                _keys(self.options)[1],
                epochs=phase.last_epoch,
                on_step=[self._on_step],
                on_epoch=[self._on_epoch],
                metrics=metrics,
            )
            metrics = Metrics()
            # After the last step of a phase, `fit` does not know about the next phase.
            if fitted.stopped or (self.interrupted and phase.last_epoch < self.options.epochs):
                return fitted._replace(stopped=True)
        assert fitted is not None
        return fitted

    def _enter(self, phase: Phase, train_state: TrainState) -> None:
        """Makes the compiled steps of a phase, and their data."""
        self.phase, self.batches, self.validation = phase, self.experiment.batches, self.experiment.splits.validation
        model, dtype = phase.model, self.experiment.dtype
        if self.options.cache_features and phase.frozen is not None:
            backbone, model = transfer.cut_in_two(model)
            predict_step = make_predict_step(backbone, precision=dtype)

            def cached(dataset: pairs.Dataset) -> pairs.Dataset:
                size = min(EVAL_BATCH_SIZE, len(dataset.labels))
                batches = image_batches(dataset.images, size)
                images = predict(predict_step, train_state.params, train_state.state, batches)
                return dataset._replace(images=images)

            self.batches = dataclasses.replace(self.batches, dataset=cached(self.batches.dataset))
            self.validation = cached(self.validation)
            self.display.note(f"features of the frozen layers: {'x'.join(map(str, self.validation.images.shape[1:]))}")
        augment = names.choose("augmentation", self.options.augment, names.AUGMENTATIONS)
        self.train_step = make_train_step(
            model,
            phase.optimizer,
            Classification(label_smoothing=self.options.label_smoothing),
            augment=augment,
            precision=dtype,
            auxiliary_weight=CATALOG[self.options.model].auxiliary_weight,
            trainable=phase.trainable,
        )
        self.eval_step = make_eval_step(model, precision=dtype)

    def _on_step(self, progress: Progress) -> bool:
        self.rate = self.stopwatch.step()
        self.display.step(progress.step, progress.epoch, progress.metrics, self.rate)
        return self.interrupted

    def _on_epoch(self, progress: Progress) -> bool:
        params, state = progress.train_state.params, progress.train_state.state
        measured = self._evaluate(params, state, self.validation)
        accuracy, loss = float(measured["accuracy"].value), float(measured["loss"].value)
        if not math.isfinite(loss):
            raise NonFiniteLossError(progress.step, loss)
        improved = (accuracy, -loss) > (self.best.accuracy, -self.best.loss)
        if improved:
            # Copies, because the train state is donated to the next step.
            self.best = Best(progress.epoch, accuracy, loss, *jax.tree.map(jnp.copy, (params, state)))
        row = {
            "epoch": progress.epoch,
            "step": progress.step,
            "train_loss": progress.metrics.mean_loss,
            "train_accuracy": progress.metrics.figures()["accuracy"],
            "validation_loss": loss,
            "validation_accuracy": accuracy,
            "learning_rate": float(jnp.asarray(self.phase.schedule(progress.step - 1 - self._first_step))),
            "images_per_second": round(self.rate, 1),
        }
        self.rows.append(row)
        self.folder.append_metrics(row)
        self.display.epoch(row, improved)
        if progress.epoch % self.options.checkpoint_epochs == 0 or progress.epoch == self.options.epochs:
            self._save(progress.train_state, Metrics())
        self.stopwatch.restart()
        return self.interrupted

    @property
    def _first_step(self) -> int:
        return self.phase.first_epoch * self.experiment.batches.steps_per_epoch

    def _evaluate(self, params: Any, state: Any, dataset: pairs.Dataset) -> dict[str, Mean]:
        size = min(EVAL_BATCH_SIZE, len(dataset.labels))
        return evaluate(self.eval_step, params, state, pairs.eval_batches(dataset, size), count=len(dataset.labels))

    def _save(self, train_state: TrainState, metrics: Metrics) -> None:
        step = int(train_state.step)
        # Not `latest_step`: it may be a damaged checkpoint, which a resumed run must save again.
        if step == self.saved_step:
            return
        meta = {
            "metrics": metrics.as_json(),
            "best": {"epoch": self.best.epoch, "accuracy": self.best.accuracy, "loss": self.best.loss},
        }
        with reported(ValueError, CheckpointError):
            self.checkpoints.save(step, checkpoint_tree(train_state, self.best.params, self.best.state), meta)
        self.saved_step = step

    def _restore(self) -> tuple[TrainState, Metrics]:
        with reported(FileNotFoundError, CheckpointError, ValueError):
            restored = restore(self.experiment, self.checkpoints)
        for reason in restored.skipped:
            say(f"skipped a damaged checkpoint: {reason}")
        self.saved_step = restored.step
        best = restored.tree["best"]
        self.best = Best(**restored.meta["best"], params=best["params"], state=best["state"])
        self.rows = self.folder.keep_metrics(restored.step // self.experiment.batches.steps_per_epoch)
        for difference in versions_differ(self.folder):
            say(f"note: {difference}; the last digits may differ from those of a run without a stop")
        say(f"resuming after step {restored.step}")
        return restored.tree["train_state"], Metrics.from_json(restored.meta["metrics"])

    def _announce(self, display: Display) -> None:
        splits, options = self.experiment.splits, self.options
        params, _ = jax.eval_shape(self.experiment.model.init, jax.random.key(0))
        learns = jax.tree.leaves(trainable(self.experiment.phases[0].model, params))
        learning = sum(leaf.size for leaf, one in zip(jax.tree.leaves(params), learns, strict=True) if one)
        frozen = "" if options.freeze is None else f" ({learning:,} trained at first)"
        parameters = f"{count_parameters(self.experiment.model):,} parameters{frozen}"
        display.note(
            f"{options.model}, {parameters}, on {shown(options.data)}: "
            f"{len(splits.train.labels):,} training, {len(splits.validation.labels):,} validation and "
            f"{len(splits.test.labels):,} test images of {'x'.join(map(str, splits.train.images.shape[1:]))}, "
            f"{len(splits.train.class_names)} classes"
        )
        display.note(f"run folder {shown(self.folder.path)}; Ctrl-C stops with a checkpoint")

    def _interrupt(self) -> None:
        self.interrupted = True

    def _finish(self) -> None:
        test = self.experiment.splits.test
        logits = predict(
            make_predict_step(self.experiment.model, precision=self.experiment.dtype),
            self.best.params,
            self.best.state,
            image_batches(test.images, min(EVAL_BATCH_SIZE, len(test.labels))),
        )
        predictions = logits.argmax(1)
        probabilities = np.asarray(jax.nn.softmax(logits))
        result = {
            "best_epoch": self.best.epoch,
            "validation_accuracy": self.best.accuracy,
            "validation_loss": self.best.loss,
            "test_accuracy": float(np.mean(predictions == test.labels)),
            "test_loss": float(optax.softmax_cross_entropy_with_integer_labels(logits, test.labels).mean()),
            "test_correct": int(np.sum(predictions == test.labels)),
            "test_images": len(test.labels),
        }
        self.folder.write_result(result)
        self._draw_curves()
        subtitle = f"{self.options.model} on {Path(self.options.data).name}, test set"
        confusion = plots.confusion(test.labels, predictions, test.class_names, subtitle=subtitle)
        plots.save(confusion, self.folder.path / "confusion.png")
        # Images that are neither grey nor RGB are drawn as the mean of their channels.
        drawn = test.images if test.images.shape[3] in (1, 3) else test.images.mean(axis=3, keepdims=True)
        mistakes = plots.mistakes(drawn, test.labels, predictions, probabilities, test.class_names, subtitle=subtitle)
        plots.save(mistakes, self.folder.path / "mistakes.png")
        _print_result(self.folder.path, result)

    def _draw_curves(self) -> None:
        if not self.rows:
            return
        note = None if self.options.augment == "none" else "augmented images, before each step's update"
        subtitle = f"{self.options.model} on {Path(self.options.data).name}, seed {self.options.seed}"
        curves = plots.curves(self.rows, best_epoch=self.best.epoch, train_note=note, subtitle=subtitle)
        plots.save(curves, self.folder.path / "curves.png")


@contextmanager
def _interruptible(interrupt: Any) -> Iterator[None]:
    """Turns the first Ctrl-C (or SIGTERM) into a call; the second one stops at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        # First, so that a second signal stops at once even while the first is handled.
        for kind in kinds:
            signal.signal(kind, previous[kind])
        interrupt()
        say("\nstopping after this step; Ctrl-C again stops at once", flush=True)

    kinds = (signal.SIGINT, signal.SIGTERM)
    previous = {kind: signal.signal(kind, handle) for kind in kinds}
    try:
        yield
    finally:
        for kind in kinds:
            signal.signal(kind, previous[kind])


def _check(options: Train) -> None:
    """Refuses invalid options, before anything is created."""
    names.choose("optimizer", options.optimizer, OPTIMIZERS)
    names.choose("augmentation", options.augment, names.AUGMENTATIONS)
    for name, valid, expected in (
        ("epochs", options.epochs >= 1, "at least 1"),
        ("batch_size", options.batch_size >= 1, "at least 1"),
        ("learning_rate", options.learning_rate > 0, "above 0"),
        ("warmup_epochs", 0 <= options.warmup_epochs < math.inf, "at least 0, and finite"),
        ("weight_decay", options.weight_decay >= 0, "at least 0"),
        ("clip_norm", options.clip_norm is None or options.clip_norm > 0, "above 0"),
        ("label_smoothing", 0 <= options.label_smoothing < 1, "in [0, 1)"),
        ("seed", 0 <= options.seed < 2**63, "at least 0 and below 2**63"),
        ("split_seed", options.split_seed >= 0, "at least 0"),
        ("checkpoint_epochs", options.checkpoint_epochs >= 1, "at least 1"),
        ("examples_per_class", options.examples_per_class is None or options.examples_per_class >= 1, "at least 1"),
        (
            "unfreeze_epoch",
            options.unfreeze_epoch is None or 1 <= options.unfreeze_epoch < options.epochs,
            "at least 1 and below --epochs",
        ),
        (
            "unfreeze_learning_rate",
            options.unfreeze_learning_rate is None or options.unfreeze_learning_rate > 0,
            "above 0",
        ),
    ):
        if not valid:
            raise CommandError(f"{_flag(name)} expects a number {expected}, got {getattr(options, name)}")

    for name, given, needs, there in (
        ("head", options.head != "auto", "init_from", options.init_from is not None),
        ("freeze", options.freeze is not None, "init_from", options.init_from is not None),
        ("unfreeze_epoch", options.unfreeze_epoch is not None, "freeze", options.freeze is not None),
        (
            "unfreeze_learning_rate",
            options.unfreeze_learning_rate is not None,
            "unfreeze_epoch",
            options.unfreeze_epoch is not None,
        ),
        ("cache_features", options.cache_features, "freeze", options.freeze is not None),
    ):
        if given and not there:
            raise CommandError(f"{_flag(name)} has an effect only with {_flag(needs)}; give both, or omit it")
    if options.cache_features and options.augment != "none":
        raise CommandError(
            f"--cache-features expects --augment none, got {options.augment}: augmentation changes the images, "
            "and so their features, in every epoch"
        )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _folder_to_resume(options: Train) -> RunFolder:
    if options.run_dir is None:
        raise CommandError("--resume expects the folder of the run: --run-dir FOLDER")
    return RunFolder(options.run_dir)


def _resumed_options(folder: RunFolder, arguments: list[str]) -> Train:
    """Returns the options of the run, and refuses different ones on the command line."""
    stored = folder.options
    with errors_escaped():
        given: Train = tyro.cli(
            Train,
            prog="jaxcnn train",
            args=arguments,
            default=stored,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    before, now = option_values(stored), option_values(given)
    changed = [f"{_flag(name)} {before[name]} to {now[name]}" for name in before if before[name] != now[name]]
    if changed:
        raise CommandError(
            f"--resume keeps the options of a run and cannot change {', '.join(changed)}; "
            "omit these options, or start a new run"
        )
    return given


def _print_result(folder: Path, result: dict[str, Any]) -> None:
    wrong = result["test_images"] - result["test_correct"]
    say(
        f"best epoch {result['best_epoch']}: validation accuracy {result['validation_accuracy']:.2%}\n"
        f"test accuracy {result['test_accuracy']:.2%}, {wrong} of {result['test_images']} wrong\n"
        f"pictures and checkpoints: {shown(folder)}"
    )
