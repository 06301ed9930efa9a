"""The whole job of a training: phases, validation, best epoch, checkpoints, exact resumption and test."""

import contextlib
import dataclasses
import functools
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import data, trees
from jaxcnn.data import Arrays, Prepare, Source, Splits, Where
from jaxcnn.data.splits import shared_files
from jaxcnn.layers.flow import structure
from jaxcnn.text import printable
from jaxcnn.training import first_schema, hosts
from jaxcnn.training.checkpoint import CheckpointError, Checkpoints
from jaxcnn.training.experiment import (
    Experiment,
    changed_versions,
    check_same,
    choose_task,
    describe,
    evaluation_task,
    facts,
    weights_fingerprint,
)
from jaxcnn.training.loop import Fitted, NonFiniteLossError, Progress, evaluate, fit, predict
from jaxcnn.training.memory import OutOfMemoryError, memory_of_step, memory_reported
from jaxcnn.training.metrics import Metrics
from jaxcnn.training.non_finite import Cause, find_cause
from jaxcnn.training.observers import Observer, Start
from jaxcnn.training.phases import Phase, cut_in_two, make_phase_step
from jaxcnn.training.placement import Placement
from jaxcnn.training.recipe import Recipe, RecipeError
from jaxcnn.training.run_folder import RunFolder, RunFolderError
from jaxcnn.training.step import make_eval_step, make_predict_step
from jaxcnn.training.train_state import TrainState, evaluation_weights, make_train_state
from jaxcnn.types import Layer, Mean, Params, State, Task, check_task

EVAL_BATCH_SIZE = 256
"""Examples in a batch of evaluation."""

_AGREE_STEPS = 10
"""Steps between two questions to all processes whether one of them wants to stop."""

_PLACES = {"device": "on the device", "memory": "in memory", "stream": "read when they are used"}


class Result(NamedTuple):
    """The result of a training.

    Attributes:
      params: parameters of the best epoch.
      state: its state.
      best_epoch: the best epoch on the validation set, from 1; 0 if none is finished.
      history: the metrics of each epoch, by name.
      figures: those of the best epoch on the validation and the test set; empty if the training was stopped.
      stopped: whether it was stopped before its end.
      folder: path of the run folder, or None.
    """

    params: Params
    state: State
    best_epoch: int
    history: list[dict[str, Any]]
    figures: dict[str, Any]
    stopped: bool
    folder: Path | None


def run(
    layer: Layer,
    source: Source | Splits,
    recipe: Recipe | None = None,
    *,
    weights: tuple[Params, State] | None = None,
    task: Task | None = None,
    folder: str | Path | None = None,
    numbered: bool = False,
    resume: bool = False,
    prepare: Prepare | None = None,
    workers: int | None = None,
    place: Where | None = None,
    placement: Placement | None = None,
    observers: Sequence[Observer] = (),
    about: Mapping[str, Any] | None = None,
) -> Result:
    """Trains a model, keeps the best epoch on the validation set, and tests it once.

        result = run(lenet5(), data.digits(), Recipe(epochs=5), folder="runs/digits")

    Nothing is printed: give observers to see the progress. The first Ctrl-C, or SIGTERM, stops after the current step,
    with a checkpoint; a second one stops at once. A resumed training has the results of an uninterrupted one, to the
    bit on the same machine.

    Args:
      layer: the model, without frozen layers.
      source: the examples. `jaxcnn.data.split` draws the missing parts, by `split_fractions` and
        `split_seed` of the recipe.
      recipe: how to train; `Recipe()` if None.
      weights: initial parameters and state; drawn by `recipe.seed` if None.
      task: loss and metrics; chosen by the entries of the examples if None, see `choose_task`.
      folder: the run folder to write, new or empty; None writes nothing. See `jaxcnn.training.run_folder`.
      numbered: whether to append a number to the name of the folder if there is one already.
      resume: whether to resume the training in that folder; layer, data, task and recipe must be the same.
      prepare: prepares the examples of training on the host, such as `jaxcnn.data.RandomResizedCrop`, which may then
        differ in size; those of validation and test are of one size.
      workers: number of threads that read examples, at least 0; None for as many as suit the source. The results do not
        depend on it.
      place: where the training and the validation set are while the model trains: "device", "memory" or "stream"; None
        for the fastest, see `jaxcnn.data.choose_place`. The results are the same.
      placement: the devices that share each batch, and the parameters that are split over them; None for one device. Of
        many processes, which `jaxcnn.training.hosts.join` joins, all call this function with the same arguments;
        process 0 alone writes the folder. A training can be resumed in another placement: its batches are the same,
        and its numbers up to rounding.
      observers: receive the events of the training.
      about: more facts for config.json, as JSON values by name.

    Returns:
      The weights of the best epoch, and all figures.

    Raises:
      ValueError: model, data, task, recipe and weights do not fit together, or the folder does not allow the training.
      TypeError: an argument is of another kind, such as the name of a model.
      NonFiniteLossError: the training diverged.
      OutOfMemoryError: a step needs more memory than there is.
      CheckpointError: a checkpoint cannot be written, or all are damaged.
      HostsError: the processes were called with different arguments, or process 0 failed.
    """
    recipe = Recipe() if recipe is None else recipe
    check_arguments("run", layer, recipe, task, weights, observers)
    check_place("run", place, prepare)
    if placement is not None and place == "device":
        raise ValueError(
            "run expects place='memory' or 'stream' with placement=, which splits each batch, got 'device'"
        )
    spans = placement is not None and placement.spans_processes
    if spans and recipe.cache_features:
        raise RecipeError("cache_features", "expects one process, got several; omit it")
    splits = data.split(source, fractions=recipe.split_fractions, seed=recipe.split_seed)
    task = choose_task(splits["train"], layer) if task is None else task
    experiment = Experiment(layer, splits, recipe, task, tuple(observers), prepare, workers, placement)
    experiment.check()
    if resume and folder is None:
        raise ValueError("run expects a folder to resume, got resume=True without one")
    first = None if resume else experiment.first_weights(weights)
    if spans:
        hosts.check_agreement({"resume": resume, **facts(experiment, first)})
    with contextlib.ExitStack() as held:

        def opened() -> RunFolder | None:
            if folder is None:
                return None
            if first is None:
                existing = RunFolder(folder)
                check_same(existing, experiment)
                return held.enter_context(existing.writing())
            config = describe(experiment, first) | dict(about or {})
            return held.enter_context(RunFolder.create(folder, config, numbered=numbered))

        job = Job(experiment, hosts.led(opened) if spans else opened(), place, keeps=folder is not None)
        return job.resume(weights) if first is None else job.start(*first)


def check_place(caller: str, place: Any, prepare: Any) -> None:
    """Refuses a place of the examples that does not exist, or where nothing can be prepared.

    Args:
      caller: name of the caller, for the message.
      place: expected a value of `jaxcnn.data.Where`, or None.
      prepare: a function that changes examples on the host, or None.

    Raises:
      ValueError: the place is unknown, or is the device although examples are prepared.
    """
    if place is not None and place not in get_args(Where):
        raise ValueError(f"{caller} expects place to be one of {', '.join(get_args(Where))}, or None, got {place!r}")
    if place == "device" and prepare is not None:
        raise ValueError(
            f"{caller} expects place='memory' or 'stream' with prepare=, which works on the host, got 'device'"
        )


def check_arguments(caller: str, layer: Any, recipe: Any, task: Any, weights: Any, observers: Any) -> None:
    """Refuses arguments of another kind.

    Args:
      caller: name of the caller, for the message.
      layer: expected a layer.
      recipe: expected a recipe.
      task: expected a task, or None.
      weights: expected parameters and state of the layer, or None.
      observers: expected a sequence of observers.

    Raises:
      TypeError: one is of another kind.
      ValueError: the weights are not those of the layer.
    """
    if isinstance(layer, type) or not isinstance(layer, Layer):
        hint = ", which must be called" if callable(layer) else ""
        raise TypeError(f"{caller} expects a layer, such as jaxcnn.models.lenet5(), got a {type(layer).__name__}{hint}")
    if not isinstance(recipe, Recipe):
        raise TypeError(f"{caller} expects a recipe, such as Recipe(epochs=5), got {recipe!r:.200}")
    if task is not None:
        check_task(caller, task)
    if isinstance(observers, Observer) or not isinstance(observers, Sequence):
        raise TypeError(f"{caller} expects a list of observers, got {observers!r:.200}")
    for observer in observers:
        if isinstance(observer, type) or not callable(getattr(observer, "on_start", None)):
            raise TypeError(f"{caller} expects observers, objects of jaxcnn.training.Observer, got {observer!r:.200}")
    if weights is None:
        return
    if not isinstance(weights, tuple) or len(weights) != 2:
        raise TypeError(f"{caller} expects weights=(params, state), got a {type(weights).__name__}")
    for what, given, expected in zip(("parameters", "state"), weights, structure(layer), strict=True):
        shapes = (
            {name: jnp.shape(leaf) for name, leaf in trees.named_leaves(tree).items()} for tree in (expected, given)
        )
        if lines := trees.differences(*shapes):
            raise ValueError(f"{caller} expects the {what} of the model, got others: {', '.join(lines):.400}")


class _Best(NamedTuple):
    """The best epoch so far, by the objective of the task on the validation set and then by loss.

    Attributes:
      epoch: its number, from 1; 0 before the first epoch.
      score: the objective, negative if a smaller one is better; -inf for NaN.
      loss: on the validation set.
      params: its parameters.
      state: its state.
    """

    epoch: int
    score: float
    loss: float
    params: Params
    state: State


class Found(NamedTuple):
    """What a training is resumed from.

    Attributes:
      figures: those of a finished training, or None.
      step: the step of the newest valid checkpoint; None if there is none.
      meta: its JSON values.
      rows: the metrics of the finished epochs.
      tree: its arrays; of a finished training the best weights.
    """

    figures: dict[str, Any] | None
    step: int | None
    meta: dict[str, Any]
    rows: list[dict[str, Any]]
    tree: Any


class Examples(NamedTuple):
    """Training and validation set, and where they are.

    Attributes:
      where: the place.
      train: the training set.
      validation: the validation set.
    """

    where: Where
    train: Source
    validation: Source


class _Switch:
    """A training step that becomes another one at some step."""

    def __init__(
        self, before: Callable[..., Any], after: Callable[..., Any], step: int, at: int, on_switch: Callable[[], None]
    ) -> None:
        self.before, self.after, self.step, self.at, self.on_switch = before, after, step, at, on_switch

    def __call__(self, *arguments: Any) -> Any:
        if self.step == self.at:
            self.on_switch()
        chosen = self.before if self.step < self.at else self.after
        self.step += 1
        return chosen(*arguments)


class Job:
    """One training: the state that callbacks share. `run` and `train_many` drive it.

    Args:
      experiment: what is trained.
      folder: the run folder of this process, or None.
      place: see `run`.
      keeps: whether any process has a folder.
    """

    def __init__(self, experiment: Experiment, folder: RunFolder | None, place: Where | None, *, keeps: bool) -> None:
        # Of several processes, one has the folder, and `keeps` tells all that there is one.
        self.experiment, self.folder, self.keeps = experiment, folder, keeps
        self.placement = experiment.placement
        self.spans = self.placement is not None and self.placement.spans_processes
        self.place: Where | None = place
        self.recipe, self.observers = experiment.recipe, experiment.observers
        self.steps_per_epoch = experiment.batches.steps_per_epoch
        self.phases = experiment.phases
        # Made at the start, to refuse a folder that it cannot use; it remembers damaged checkpoints for the next save.
        self.checkpoints: Checkpoints | None = None if folder is None else folder.checkpoints
        self.rows: list[dict[str, Any]] = []
        self.saved_step: int | None = None
        self.interrupted, self.wanted, self.stopped_early = False, False, False
        self.stopwatch = _Stopwatch(self.recipe.batch_size)
        self._first: tuple[Params, State] | None = None

    def start(self, params: Params, state: State) -> Result:
        """Trains from the first step."""
        # To repeat steps from them; `run` holds them in any case.
        self._first = params, state
        return self._go(self._placed(self.first(params, state)), Metrics())

    def first(self, params: Params, state: State) -> TrainState:
        """Returns the train state of the first step, on one device.

        Args:
          params: the first parameters.
          state: their state.
        """
        self.best = _Best(0, -math.inf, math.inf, params, state)
        return self.begin(self.phases[0], params, state, step=0)

    def resume(self, weights: tuple[Params, State] | None) -> Result:
        """Trains from the newest checkpoint, or from the first step if there is none."""
        find = functools.partial(self.find, lambda: weights)
        found = hosts.led(find) if self.spans else find()
        if self.spans:
            known: Any = hosts.share(None if found is None else [found.figures, found.step, found.meta, found.rows])
            like = structure(self.experiment.layer) if known[0] is not None else self._like(known[1])
            found = Found(*known, tree=hosts.share_arrays(None if found is None else found.tree, like))
        assert found is not None
        if found.figures is not None:
            return self.finished(found)
        if found.step is None:
            return self.start(*self.experiment.first_weights(weights))
        train_state, metrics = self.restored(found)
        return self._go(self._placed(train_state), metrics)

    def finished(self, found: Found) -> Result:
        """Returns the result of a training that the folder holds whole.

        Args:
          found: what `find` returned, with figures.
        """
        assert found.figures is not None
        self.rows = found.rows
        params, state = found.tree
        return Result(params, state, found.figures["best_epoch"], found.rows, found.figures, False, self.path)

    def restored(self, found: Found) -> tuple[TrainState, Metrics]:
        """Continues from a checkpoint.

        Args:
          found: what `find` returned, with a step.

        Returns:
          The train state, on one device, and the sums of the unfinished epoch.
        """
        self.rows, self.saved_step = found.rows, found.step
        best = found.tree["best"]
        self.best = _Best(**found.meta["best"], params=best["params"], state=best["state"])
        return found.tree["train_state"], Metrics.from_json(found.meta["metrics"])

    @property
    def path(self) -> Path | None:
        """Path of the run folder."""
        return None if self.folder is None else self.folder.path

    def find(self, weights: Callable[[], tuple[Params, State] | None]) -> Found:
        """Reads what the folder holds.

        Args:
          weights: returns the initial weights, or None for those drawn from the seed; not called if there is a
            checkpoint.

        Returns:
          A finished training, the newest checkpoint, or neither.
        """
        assert self.folder is not None
        assert self.checkpoints is not None
        if (figures := self.folder.result()) is not None:
            leaves, epoch, _ = self.folder.read_best()
            tree = tuple(map(trees.unflatten, leaves.values(), structure(self.experiment.layer)))
            return Found(figures | {"best_epoch": epoch}, None, {}, self.folder.metrics(), tree)
        if self.checkpoints.latest_step() is None:
            self.note("there is no checkpoint yet: starting again")
            expected = self.folder.config.get("weights_fingerprint")
            if expected not in (None, weights_fingerprint(*self.experiment.first_weights(weights()))):
                raise RunFolderError(
                    f"expected the initial weights of the run in {printable(self.folder.path)}, got others"
                )
            self.folder.keep_metrics(0)
            return Found(None, None, {}, [], {})
        return self._restore()

    def _go(self, train_state: TrainState, metrics: Metrics) -> Result:
        self.tell(lambda observer: observer.on_start(self.start_facts(int(train_state.step))))
        with interruptible(self._interrupt):
            fitted = self._fit(train_state, metrics)
            if fitted.stopped:
                self.save(fitted.train_state, fitted.metrics)
        figures = {} if fitted.stopped else self._test()
        if self.placement is not None:
            params, state = jax.tree.map(jnp.asarray, self._gathered((self.best.params, self.best.state)))
            self.best = self.best._replace(params=params, state=state)
        result = self.result(figures)
        self.tell(lambda observer: observer.on_end(result))
        return result

    def result(self, figures: dict[str, Any]) -> Result:
        """Returns the best epoch so far.

        Args:
          figures: those of the best epoch; empty for a training that was stopped.
        """
        best = self.best
        return Result(best.params, best.state, best.epoch, self.rows, figures, not figures, self.path)

    @functools.cached_property
    def all_examples(self) -> Examples:
        """Training and validation set where they are read fastest."""
        splits = self.experiment.splits
        for name, count in shared_files(splits).items():
            self.note(
                f"note: {count} of the {len(splits[name])} pictures in {name} are in train too; its figures tell less "
                "about new pictures"
            )
        return self._put(splits["train"], splits["validation"])

    def _put(self, train: Source, validation: Source) -> Examples:
        where = self.place
        if where is None:
            place = data.choose_place([train, validation], prepared=self.experiment.prepare is not None)
            where = place.where
            if where == "device" and self.placement is not None:
                # Each device needs its part of every batch.
                where = "memory"
            self.note(f"the examples are {_PLACES[where]}: {place.reason}")
        with self.doing("reading the examples"):
            workers = self.experiment.workers
            return Examples(where, *(data.put(one, where, workers=workers) for one in (train, validation)))

    def start_facts(self, first_step: int) -> Start:
        """Returns what observers are told at the start.

        Args:
          first_step: number of steps done already.
        """
        params, _ = structure(self.experiment.layer)
        mask = self.phases[0].trainable
        trained = params if mask is None else trees.partition(params, mask)[0]
        train = self.experiment.splits["train"]
        return Start(
            trees.count(params),
            trees.count(trained),
            {name: len(part) for name, part in self.experiment.splits.items()},
            self.experiment.image_shape,
            train.class_names,
            self.experiment.task.objective,
            self.recipe.epochs,
            self.steps_per_epoch,
            first_step,
            None if self.folder is None else str(self.folder.path),
        )

    def tell(self, call: Callable[[Observer], Any]) -> bool:
        """Calls all observers.

        Args:
          call: what to call on each.

        Returns:
          Whether any of them stops the training.
        """
        return any([bool(call(observer)) for observer in self.observers])

    def note(self, note: str) -> None:
        """Tells the observers something that a user should know.

        Args:
          note: one line.
        """
        self.tell(lambda observer: observer.on_note(note))

    @contextlib.contextmanager
    def doing(self, activity: str) -> Iterator[None]:
        """Tells the observers what is done while the block runs.

        Args:
          activity: such as "saving a checkpoint".
        """
        self.tell(lambda observer: observer.on_activity(activity))
        try:
            yield
        finally:
            self.tell(lambda observer: observer.on_activity(None))

    def announced(self, function: Callable[..., Any], activity: str) -> Callable[..., Any]:
        """Tells the observers that the first call of a compiled function compiles.

        Args:
          function: the function.
          activity: such as "compiling the evaluation".

        Returns:
          The same function.
        """
        first = True

        def call(*arguments: Any) -> Any:
            nonlocal first
            with self.doing(activity) if first else contextlib.nullcontext():
                first = False
                return function(*arguments)

        return call

    def begin(self, phase: Phase, params: Params, state: State, step: int) -> TrainState:
        """Makes the initial train state of a phase, on one device.

        Args:
          phase: the phase.
          params: the parameters at its start.
          state: their state.
          step: number of steps done.
        """
        ema = self.recipe.ema is not None
        return make_train_state(params, state, phase.optimizer, step=step, ema=ema, trainable=phase.trainable)

    def _placed(self, train_state: TrainState) -> TrainState:
        return train_state if self.placement is None else self.placement.put(train_state)

    def training_key(self) -> jax.Array:
        """Returns the key of all steps."""
        return self._key if self.placement is None else self.placement.put_whole(self._key)

    @property
    def _key(self) -> jax.Array:
        """The key of all steps, on one device."""
        return jax.random.split(jax.random.key(self.recipe.seed))[1]

    def _gathered(self, tree: Any) -> Any:
        return tree if self.placement is None else self.placement.gather(tree)

    def _any(self, flag: bool) -> bool:
        """Whether any process wants something; all must ask at the same step."""
        return hosts.any_process(flag) if self.spans else flag

    def _fit(self, train_state: TrainState, metrics: Metrics) -> Fitted:
        try:
            shape = "x".join(str(size or "?") for size in self.experiment.batches.spec["image"].shape)
            with memory_reported(
                f"a training step of {self.recipe.batch_size} images of {shape}",
                f"micro_batches {2 * self.recipe.micro_batches}, which computes the batch in equal parts, a smaller "
                "batch_size, precision bfloat16, smaller images, or more devices",
                "micro_batches",
                "batch_size",
                "precision",
                needs=self._memory,
            ):
                return self._fit_phases(train_state, metrics)
        except NonFiniteLossError as error:
            if (cause := self._cause(error)) is not None:
                error.args = (f"{error.expected}; {cause.where}; {cause.advice}",)
            error.args = (f"{error}{self._kept()}",)
            raise
        except OutOfMemoryError as error:
            error.args = (f"{error}{self._kept()}",)
            raise

    def _kept(self) -> str:
        """The end of a message about a training that failed: which checkpoint is left."""
        if self.folder is None or self.checkpoints is None:
            return ""
        latest = self.checkpoints.latest_step()
        kept = "there is no checkpoint yet" if latest is None else f"the checkpoint of step {latest} is kept"
        return f"; {kept} in {printable(self.folder.path)}"

    def _memory(self) -> dict[str, int]:
        """Estimates the bytes of a step by part."""
        step = int(self._first_step)
        spec = {
            name: jax.ShapeDtypeStruct(
                (self.recipe.batch_size, *entry.shape), jax.dtypes.canonicalize_dtype(entry.dtype)
            )
            for name, entry in self.batches.spec.items()
        }
        train_state = jax.eval_shape(
            lambda *weights: self.begin(self.phase, *weights, step=0), *structure(self.phase.layer)
        )
        return memory_of_step(self._make_step(step, None).parts, train_state, spec, jax.eval_shape(lambda: self._key))

    def _cause(self, error: NonFiniteLossError) -> Cause | None:
        """Repeats the steps since the newest checkpoint, and looks into the one whose numbers are not finite.

        The train state before that step is lost, since it was donated; to keep it would cost each step a copy.

        Returns:
          The cause; None if it cannot be found: the checkpoint is too long ago, or of another phase.
        """
        if error.validates or self.spans:
            return None
        begin = self._before(error.step)
        if begin is None:
            return None
        with self.doing("repeating the steps since the checkpoint, to find the cause"):
            train_state, key, last = self._placed(begin), self.training_key(), error.step - 1
            first = int(train_state.step)
            for step, batch in zip(range(first, last), self.batches.at(range(first, last)), strict=True):
                if self.interrupted:
                    return None
                train_state, _ = self._make_step(step, self.placement)(train_state, batch, key)
            names = functools.partial(_example_name, self.experiment.splits["train"], self.batches.indices(last))
            parts = self._make_step(last, None).parts
            try:
                return find_cause(parts, self._gathered(train_state), self.batches[last], self._key, names)
            except jax.errors.JaxRuntimeError:
                # It needs more memory than a step. The message about the step matters more.
                return None

    def _before(self, step: int) -> TrainState | None:
        """Returns the newest train state before a step, on one device; None if it is too long ago, or of another phase.

        Args:
          step: the number of the step, from 1.
        """
        first = self._first_step
        try:
            if self.folder is not None and self.checkpoints is not None and self.checkpoints.latest_step() is not None:
                restored = self.checkpoints.restore(self._like).tree["train_state"]
                at = int(restored.step)
                if first < at < step:
                    return restored
                if at == first:
                    return self.begin(self.phase, restored.params, restored.state, step=first)
        except (CheckpointError, ValueError, OSError):
            # The message about the step matters more than one about a damaged checkpoint.
            return None
        if first or self._first is None or step > self.recipe.checkpoint_epochs * self.steps_per_epoch:
            return None
        return self.begin(self.phase, *self._first, step=0)

    def _fit_phases(self, train_state: TrainState, metrics: Metrics) -> Fitted:
        """Runs the phases, from the one of the train state's step."""
        fitted = None
        for phase in self.phases:
            if fitted is not None:
                weights = self._gathered((fitted.train_state.params, fitted.train_state.state))
                train_state = self._placed(self.begin(phase, *weights, step=int(fitted.train_state.step)))
                self.note(f"epoch {phase.first_epoch + 1}: all layers are trained from now on")
            elif int(train_state.step) > phase.last_epoch * self.steps_per_epoch:
                continue
            self._enter(phase, train_state)
            self.stopped_early = self.patience_is_over()
            if self.stopped_early:
                return Fitted(train_state, metrics, False, [])
            fitted = fit(
                train_state,
                self.train_step,
                self.batches,
                self.training_key(),
                epochs=phase.last_epoch,
                on_step=[self._on_step],
                on_epoch=[self._on_epoch],
                metrics=metrics,
                # The device gathers its batches by itself, without a thread of the host.
                prefetch=0 if self.examples.where == "device" else 2,
            )
            metrics = Metrics()
            if self.stopped_early:
                return fitted._replace(stopped=False)
            # After the last step of a phase, `fit` does not know about the next phase.
            if fitted.stopped or (self.interrupted and phase.last_epoch < self.recipe.epochs):
                return fitted._replace(stopped=True)
        assert fitted is not None
        return fitted

    def _enter(self, phase: Phase, train_state: TrainState) -> None:
        """Makes the compiled steps of a phase, and their data."""
        self.phase, recipe = phase, self.recipe
        self.stopwatch.restart(compiles=True)
        model, precision = phase.layer, recipe.precision
        if recipe.cache_features and phase.trainable is not None:
            backbone, model = cut_in_two(model)
            with self.doing("computing the features of the frozen layers"):
                features = _cached(
                    make_predict_step(backbone, precision=precision), train_state, self.experiment.workers
                )
                splits = self.experiment.splits
                examples = self._put(features(splits["train"]), features(splits["validation"]))
            shape = examples.validation.spec["image"].shape
            self.note(f"features of the frozen layers: {'x'.join(map(str, shape))}")
        else:
            examples = self.all_examples
        self.examples, self.batches = examples, dataclasses.replace(self.experiment.batches, source=examples.train)
        num_classes = len(self.experiment.splits["train"].class_names)

        first_plain = (recipe.epochs - recipe.plain_epochs) * self.steps_per_epoch

        @functools.cache
        def make_step(plain: bool, placement: Placement | None) -> Any:
            return make_phase_step(
                phase, model, recipe, self.experiment.task, num_classes, plain=plain, placement=placement
            )

        def announced_step(*, plain: bool = False) -> Any:
            return self.announced(make_step(plain, self.placement), "compiling the training step")

        self._make_step = lambda step, placement: make_step(step >= first_plain, placement)
        self.train_step: Any = announced_step()
        if recipe.plain_epochs:
            self.train_step = _Switch(
                self.train_step, announced_step(plain=True), int(train_state.step), first_plain, self.note_plain
            )
        self.eval_step = self.announced(
            make_eval_step(model, evaluation_task(self.experiment.task), precision=precision, placement=self.placement),
            "compiling the evaluation",
        )

    def note_plain(self) -> None:
        """Tells the observers that the last epochs, in which no images are mixed, begin."""
        self.note(f"epoch {self.recipe.epochs - self.recipe.plain_epochs + 1}: images are no longer mixed from now on")

    def _on_step(self, progress: Progress) -> bool:
        rate = self.stopwatch.step()
        self.wanted = self.tell(lambda observer: observer.on_step(progress, rate)) or self.interrupted or self.wanted
        # An exchange between processes waits for the device: so not after each step.
        return progress.step % _AGREE_STEPS == 0 and self._any(self.wanted) if self.spans else self.wanted

    def _on_epoch(self, progress: Progress) -> bool:
        sums = self._sums(self.eval_step, *evaluation_weights(progress.train_state), self.examples.validation)
        row, improved = self.end_epoch(progress, sums)
        stop = self.tell(lambda observer: observer.on_epoch(row, improved)) or self.interrupted or self.wanted
        self.interrupted = self._any(stop)
        self.save_if_due(progress)
        self.stopwatch.restart()
        return self.interrupted or self.stopped_early

    def end_epoch(self, progress: Progress, sums: Mapping[str, Mean]) -> tuple[dict[str, Any], bool]:
        """Adds an epoch to the metrics, and keeps it if it is the best.

        Args:
          progress: after the last step of the epoch.
          sums: loss and metrics on the validation set.

        Returns:
          The line of metrics, and whether the epoch is the best so far.

        Raises:
          NonFiniteLossError: the loss on the validation set is NaN or infinite.
        """
        params, state = evaluation_weights(progress.train_state)
        figures = self._report(sums)
        if not math.isfinite(figures["loss"]):
            raise NonFiniteLossError(progress.step, figures["loss"], where=" on the validation set")
        score = _score(self.experiment.task, figures)
        improved = (score, -figures["loss"]) > (self.best.score, -self.best.loss)
        if improved:
            # Copies, because the train state is donated to the next step.
            copies = jax.tree.map(jnp.copy, (params, state))
            self.best = _Best(progress.epoch, score, figures["loss"], *copies)
        row = {
            "epoch": progress.epoch,
            "step": progress.step,
            **_prefixed("train", self._report(progress.metrics.sums)),
            **_prefixed("validation", figures),
            "learning_rate": float(jnp.asarray(self.phase.schedule(progress.step - 1 - self._first_step))),
            # An epoch of one step that compiles tells no rate.
            "images_per_second": round(self.stopwatch.rate, 1) or None,
            "waiting_for_data": round(progress.waiting, 4),
        }
        self.rows.append(row)
        if self.folder is not None:
            self.folder.append_metrics(row)
        self.stopped_early = self.patience_is_over()
        return row, improved

    def save_if_due(self, progress: Progress) -> None:
        """Writes a checkpoint after every `checkpoint_epochs` of the recipe, and after the last epoch.

        Args:
          progress: after the last step of an epoch that `end_epoch` has added.
        """
        last = progress.epoch == self.recipe.epochs or self.stopped_early
        if progress.epoch % self.recipe.checkpoint_epochs == 0 or last:
            self.save(progress.train_state, Metrics())

    @property
    def _first_step(self) -> int:
        return self.phase.first_epoch * self.steps_per_epoch

    def patience_is_over(self) -> bool:
        """Whether the epochs without a new best are as many as the recipe allows."""
        return self.recipe.patience is not None and len(self.rows) - self.best.epoch >= self.recipe.patience

    def _report(self, sums: Mapping[str, Mean]) -> dict[str, float]:
        """Returns the loss and the figures of the task."""
        rest = {name: mean for name, mean in sums.items() if name != "loss"}
        return {"loss": float(sums["loss"].value), **self.experiment.task.report(rest)}

    def _sums(self, eval_step: Any, params: Params, state: State, source: Source) -> dict[str, Mean]:
        parts, shard = (1 if self.placement is None else self.placement.parts), self.experiment.shard
        # The padding has weight 0.
        size = math.ceil(min(EVAL_BATCH_SIZE, len(source)) / parts) * parts
        batches = data.eval_batches(source, size, shard=shard, workers=self.experiment.workers)
        shape = "x".join(str(length or "?") for length in source.spec["image"].shape)
        with memory_reported(
            f"the evaluation of {size} images of {shape} at once",
            "precision bfloat16, smaller images, or more devices",
            "precision",
            needs=dict,
        ):
            return evaluate(eval_step, params, state, batches, count=None if self.spans else len(source))

    def save(self, train_state: TrainState, metrics: Metrics) -> None:
        """Writes a checkpoint and the best weights, if there is a folder and this step is not saved yet.

        Args:
          train_state: the train state after the last step.
          metrics: sums of the unfinished epoch.
        """
        step = int(train_state.step)
        # Not `latest_step`: it may be a damaged checkpoint, which a resumed run must save again.
        if not self.keeps or step == self.saved_step:
            return
        self.saved_step = step
        # Every process gives its parts, and one writes.
        tree = self._gathered(_tree(train_state, self.best.params, self.best.state))
        if self.folder is None or self.checkpoints is None:
            return
        meta = {
            "metrics": metrics.as_json(),
            "best": {"epoch": self.best.epoch, "score": self.best.score, "loss": self.best.loss},
        }
        with self.doing("saving a checkpoint"):
            self.folder.check_writable()
            self.checkpoints.save(step, tree, meta)
            if self.best.epoch:
                self.folder.save_best(**tree["best"], epoch=self.best.epoch)

    def _like(self, step: int | None) -> Any:
        """Returns the structure of the checkpoint of a step; an empty one for None."""
        if step is None:
            return {}
        epochs = step / self.steps_per_epoch
        phase = next((phase for phase in self.phases if epochs <= phase.last_epoch), None)
        if phase is None:
            where = "" if self.checkpoints is None else f" in {printable(self.checkpoints.directory)}"
            raise RunFolderError(
                f"expected checkpoints of at most step {self.recipe.epochs * self.steps_per_epoch}, the end of the "
                f"run, got one of step {step}{where}; remove it"
            )

        def tree(params: Params, state: State) -> Any:
            return _tree(self.begin(phase, params, state, step), params, state)

        return jax.eval_shape(tree, *structure(self.experiment.layer))

    def _restore(self) -> Found:
        """Reads the newest valid checkpoint."""
        assert self.folder is not None
        assert self.checkpoints is not None
        checkpoints = self.checkpoints

        restored = checkpoints.restore(self._like)
        train_state = restored.tree["train_state"]
        if int(train_state.step) != restored.step:
            raise RunFolderError(
                f"expected the checkpoint of step {restored.step} in {printable(checkpoints.directory)}, got that "
                f"of step {int(train_state.step)}; its folder was renamed, give it its name again"
            )
        meta = restored.meta
        if self.folder.id is None:
            meta = first_schema.upgraded_meta(meta, len(self.experiment.splits["train"].class_names))
        for reason in restored.skipped:
            self.note(f"skipped a damaged checkpoint: {reason}")
        rows = self.folder.keep_metrics(restored.step // self.steps_per_epoch)
        for difference in changed_versions(self.folder):
            self.note(f"note: {difference}; the last digits may differ from those of a run without a stop")
        self.note(f"resuming after step {restored.step}")
        return Found(None, restored.step, meta, rows, restored.tree)

    def _interrupt(self) -> None:
        self.interrupted = True
        self.tell(lambda observer: observer.on_interrupt())

    def _test(self) -> dict[str, Any]:
        """Evaluates the best epoch on the test set, and writes the result."""
        layer, task, test = self.experiment.layer, self.experiment.task, self.experiment.splits["test"]
        with self.doing("testing the best epoch"):
            eval_step = make_eval_step(
                layer, evaluation_task(task), precision=self.recipe.precision, placement=self.placement
            )
            sums = self._sums(eval_step, self.best.params, self.best.state, test)
        return self.finish(sums)

    def finish(self, sums: Mapping[str, Mean]) -> dict[str, Any]:
        """Writes the figures of the best epoch.

        Args:
          sums: its loss and metrics on the test set.

        Returns:
          Its figures on the validation and the test set.
        """
        best = self.best
        row = self.rows[best.epoch - 1]
        result = {
            "best_epoch": best.epoch,
            **{name: value for name, value in row.items() if name.startswith("validation_")},
            **_prefixed("test", self._report(sums)),
            **({"test_correct": int(sums["accuracy"].total)} if "accuracy" in sums else {}),
            "test_images": len(self.experiment.splits["test"]),
        }
        if self.folder is not None:
            self.folder.write_result(result)
        return result


def _tree(train_state: TrainState, params: Params, state: State) -> dict[str, Any]:
    """Returns the tree of a checkpoint: the train state, and the weights of the best epoch."""
    return {"train_state": train_state, "best": {"params": params, "state": state}}


def _score(task: Task, figures: Mapping[str, float]) -> float:
    value = figures[task.objective.figure] * (1 if task.objective.larger_is_better else -1)
    return -math.inf if math.isnan(value) else value


def _prefixed(part: str, figures: Mapping[str, float]) -> dict[str, float | None]:
    """Names figures as in metrics.jsonl; NaN, which JSON does not know, becomes None."""
    return {f"{part}_{name}": value if math.isfinite(value) else None for name, value in figures.items()}


def _example_name(source: Source, indices: np.ndarray, place: int) -> str:
    """Names an example of a batch by its index in the source, and by its file if it has one."""
    index = int(indices[place])
    # Sources that fit the pictures or number the classes of another one.
    inner: Any = source
    while not hasattr(inner, "path") and hasattr(inner, "source"):
        inner = inner.source
    return f"{index} of train" + (f" ({printable(inner.path(index))})" if hasattr(inner, "path") else "")


def _cached(predict_step: Any, train_state: TrainState, workers: int | None) -> Callable[[Source], Arrays]:
    """Returns a function that replaces the images of a source by the outputs of a step."""

    def features(source: Source) -> Arrays:
        batches = data.eval_batches(source, min(EVAL_BATCH_SIZE, len(source)), workers=workers)
        images = predict(predict_step, train_state.params, train_state.state, batches)
        others = [name for name in source.spec if name != "image"]
        return Arrays({"image": images, **data.gather(source, np.arange(len(source)), others)}, source.class_names)

    return features


class _Stopwatch:
    """Measures images per second within an epoch, without what lies between epochs and steps that may compile.

    Args:
      batch_size: images in a step.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size, self.rate = batch_size, 0.0
        self.restart(compiles=True)

    def restart(self, *, compiles: bool = False) -> None:
        """Starts a new epoch.

        Args:
          compiles: whether the next step may compile: then it is not counted.
        """
        self._steps, self._since = 0, None if compiles else time.monotonic()

    def step(self) -> float:
        """Counts a step.

        Returns:
          Images per second of the epoch so far; those of the previous epoch as long as no step counts, or 0.
        """
        now = time.monotonic()
        if self._since is None:
            self._since = now
            return self.rate
        self._steps += 1
        seconds = now - self._since
        if seconds > 0:
            self.rate = self._batch_size * self._steps / seconds
        return self.rate


@contextlib.contextmanager
def interruptible(interrupt: Callable[[], None]) -> Iterator[None]:
    """Turns the first Ctrl-C (or SIGTERM) into a call while the block runs; the second one stops at once.

    Args:
      interrupt: what to call.
    """
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may handle signals.
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        # First, so that a second signal stops at once even while the first is handled.
        for kind in kinds:
            signal.signal(kind, previous[kind])
        interrupt()

    kinds = (signal.SIGINT, signal.SIGTERM)
    previous = {kind: signal.signal(kind, handle) for kind in kinds}
    try:
        yield
    finally:
        for kind in kinds:
            signal.signal(kind, previous[kind])
