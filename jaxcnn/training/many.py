"""Many trainings as one program: runs that differ in their seed or their learning rate."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import data
from jaxcnn.data import Prepare, Source, Splits, Where
from jaxcnn.data.prefetch import ahead
from jaxcnn.evaluation.intervals import Interval, mean_interval
from jaxcnn.layers.flow import structure
from jaxcnn.text import printable
from jaxcnn.training.experiment import Experiment, check_same, choose_task, describe, evaluation_task
from jaxcnn.training.loop import NonFiniteLossError, Progress, WaitClock, evaluate
from jaxcnn.training.metrics import Metrics, add_sums
from jaxcnn.training.observers import Observer
from jaxcnn.training.phases import make_phase_step, make_phases
from jaxcnn.training.recipe import Recipe, RecipeError
from jaxcnn.training.run_folder import RunFolder, RunFolderError, listed_runs, make_list
from jaxcnn.training.runs import EVAL_BATCH_SIZE, Examples, Job, Result, check_arguments, check_place, interruptible
from jaxcnn.training.step import make_eval_step
from jaxcnn.training.train_state import TrainState, evaluation_weights
from jaxcnn.types import Example, Layer, Mean, Params, State, Task

Weights: TypeAlias = tuple[Params, State]

Mapped: TypeAlias = Literal["vmap", "map"]
"""How a program computes several runs: `jax.vmap`, all at once; `jax.lax.map`, one after the other."""


class Runs(NamedTuple):
    """The results of several trainings.

    Attributes:
      recipes: the recipe of each run, which differ in `seed` and `learning_rate`.
      results: the result of each run. A run that diverged has `stopped` True and no `figures`.
      diverged: the error of each run that diverged, by its place in `results`.
      folder: path of the folder that holds the run folders, or None.
    """

    recipes: tuple[Recipe, ...]
    results: tuple[Result, ...]
    diverged: dict[int, NonFiniteLossError]
    folder: Path | None

    @property
    def stopped(self) -> bool:
        """Whether the training was stopped before its end."""
        return any(result.stopped and place not in self.diverged for place, result in enumerate(self.results))

    @property
    def figures(self) -> dict[str, float]:
        """The mean of each figure over the finished runs; empty if there is none."""
        return _mean_row([result.figures for result in self.results if result.figures])

    @property
    def best_epoch(self) -> float:
        """The mean of the best epochs of the runs that did not diverge; 0 if all did."""
        epochs = [result.best_epoch for place, result in enumerate(self.results) if place not in self.diverged]
        return float(np.mean(epochs)) if epochs else 0.0

    def by_learning_rate(self) -> dict[float, "Runs"]:
        """Returns the runs of each learning rate."""
        places: dict[float, list[int]] = {}
        for place, recipe in enumerate(self.recipes):
            places.setdefault(recipe.learning_rate, []).append(place)
        return {
            rate: Runs(
                tuple(self.recipes[place] for place in chosen),
                tuple(self.results[place] for place in chosen),
                {now: self.diverged[place] for now, place in enumerate(chosen) if place in self.diverged},
                self.folder,
            )
            for rate, chosen in places.items()
        }

    def interval(self, figure: str, *, confidence: float = 0.95) -> Interval:
        """Computes the mean of a figure over the finished runs, with its confidence interval.

        Args:
          figure: name of a figure, such as "test_accuracy".
          confidence: see `jaxcnn.evaluation.mean_interval`.

        Returns:
          The mean, the ends of the interval and the number of runs.

        Raises:
          ValueError: no run is finished, or there is no such figure.
        """
        found = [result.figures for result in self.results if result.figures]
        if not found or any(figure not in figures for figures in found):
            known = ", ".join(found[0]) if found else "none, for no run is finished"
            raise ValueError(f"interval expects the name of a figure, got {figure!r}; there are: {known}")
        return mean_interval([figures[figure] for figures in found], confidence)

    def curve(self, figure: str, *, confidence: float = 0.95) -> Interval:
        """Computes the mean of a figure in each epoch, with its confidence interval.

        Args:
          figure: name of a column of `Result.history`, such as "validation_accuracy".
          confidence: see `jaxcnn.evaluation.mean_interval`.

        Returns:
          Arrays of shape (epochs,): the epochs that every run has finished, without the runs that diverged.

        Raises:
          ValueError: no such run has finished an epoch, or there is no such column.
        """
        histories = [result.history for place, result in enumerate(self.results) if place not in self.diverged]
        epochs = min((len(history) for history in histories), default=0)
        if not epochs or figure not in histories[0][0]:
            known = ", ".join(histories[0][0]) if epochs else "none, for no epoch is finished"
            raise ValueError(f"curve expects the name of a column, got {figure!r}; there are: {known}")
        rows = [[np.nan if row[figure] is None else row[figure] for row in history[:epochs]] for history in histories]
        return mean_interval(rows, confidence)


def train_many(
    layer: Layer,
    source: Source | Splits,
    recipe: Recipe | None = None,
    *,
    seeds: int | Sequence[int],
    learning_rates: Sequence[float] | None = None,
    weights: Weights | Callable[[Recipe], Weights] | None = None,
    task: Task | None = None,
    folder: str | Path | None = None,
    numbered: bool = False,
    resume: bool = False,
    prepare: Prepare | None = None,
    workers: int | None = None,
    place: Where | None = None,
    mapped: Mapped | None = None,
    observers: Sequence[Observer] = (),
    about: Mapping[str, Any] | None = None,
) -> Runs:
    """Trains a model several times in one program, for each seed and learning rate.

        runs = train_many(lenet5(), data.digits(), Recipe(epochs=5), seeds=16)
        runs.interval("test_accuracy")  # Interval(mean=..., low=..., high=..., n=16)

    Each run has the results that `run` gives with its recipe alone, up to rounding: its own initial weights, order of
    the images, augmentation, best epoch and early stop. A run that diverges ends, and the others go on. The training
    step is compiled once for all. Signals stop all runs, as in `run`.

    Args:
      layer: the model, without frozen layers.
      source: the examples, split alike for all runs by `split_seed` of the recipe.
      recipe: how to train; its seed and learning rate are replaced.
      seeds: the seeds; a number n stands for n seeds from that of the recipe on.
      learning_rates: the learning rates, each of which is combined with each seed; that of the recipe if None.
      weights: initial parameters and state for all runs, or a function that makes those of a recipe; drawn by the
        seeds if None.
      task: loss and metrics; chosen by the entries of the examples if None.
      folder: the folder for the run folders, new or empty; None writes nothing. Each is as `run` writes it, and is
        named by its seed, and by its learning rate if there are several: "seed-3", "rate-0.01-seed-3".
      numbered: whether to append a number to the name of the folder if there is one already.
      resume: whether to resume the runs in that folder, each from its newest checkpoint; all arguments that define
        the runs must be the same.
      prepare: see `run`.
      workers: see `run`.
      place: see `run`.
      mapped: "vmap" computes all runs at once, and "map" one after the other within a step; None for "map" on CPU,
        where the convolutions of one run use all cores, and "vmap" elsewhere.
      observers: receive the events of all runs together: the rows of epochs are means over the runs, and the end has
        the `Runs`.
      about: more facts for config.json of each run, as JSON values by name.

    Returns:
      The results of all runs, for the seeds of the first learning rate first.

    Raises:
      ValueError: the parts do not fit together, seeds or learning rates repeat, or the folder does not allow the
        training.
      TypeError: an argument is of another kind, such as the name of a model.
      NonFiniteLossError: all runs diverged.
      CheckpointError: a checkpoint cannot be written, or all of a run are damaged.
    """
    recipe = Recipe() if recipe is None else recipe
    check_arguments("train_many", layer, recipe, task, None if callable(weights) else weights, observers)
    check_place("train_many", place, prepare)
    recipes = _recipes(recipe, seeds, learning_rates)
    if recipe.cache_features:
        raise RecipeError("cache_features", "expects one run, got several; omit it")
    if mapped not in ("vmap", "map", None):
        raise ValueError(f"train_many expects mapped to be 'vmap', 'map' or None, got {mapped!r}")
    if resume and folder is None:
        raise ValueError("train_many expects a folder to resume, got resume=True without one")
    splits = data.split(source, fractions=recipe.split_fractions, seed=recipe.split_seed)
    task = choose_task(splits["train"], layer) if task is None else task
    together = Experiment(layer, splits, recipes[0], task, tuple(observers), prepare, workers)
    together.check()
    names = _names(recipes)
    experiments = [
        dataclasses.replace(together, recipe=each, observers=(_Notes(name, together.observers),))
        for name, each in zip(names, recipes, strict=True)
    ]
    make_weights = weights if callable(weights) else lambda recipe: weights
    with contextlib.ExitStack() as held:
        root = None if folder is None else _opened_root(Path(folder), names, resume=resume, numbered=numbered)

        def opened(name: str, experiment: Experiment) -> RunFolder | None:
            if root is None:
                return None
            if (root / name / "config.json").exists():
                existing = RunFolder(root / name)
                check_same(existing, experiment)
                return held.enter_context(existing.writing())
            first = experiment.first_weights(make_weights(experiment.recipe))
            return held.enter_context(RunFolder.create(root / name, describe(experiment, first) | dict(about or {})))

        jobs = [
            Job(experiment, opened(name, experiment), place, keeps=root is not None)
            for name, experiment in zip(names, experiments, strict=True)
        ]
        lead = Job(together, None, place, keeps=False)
        first = [functools.partial(make_weights, job.recipe) for job in jobs]
        runs = _Lockstep(lead, jobs, mapped, root).go(first, resume=resume)
    if len(runs.diverged) == len(recipes):
        raise runs.diverged[0]
    return runs


def _recipes(recipe: Recipe, seeds: int | Sequence[int], learning_rates: Sequence[float] | None) -> tuple[Recipe, ...]:
    if isinstance(seeds, int):
        if seeds < 1:
            raise ValueError(f"train_many expects at least 1 seed, got {seeds}")
        seeds = range(recipe.seed, recipe.seed + seeds)
    rates = [recipe.learning_rate] if learning_rates is None else list(learning_rates)
    for what, given in (("seeds", seeds), ("learning rates", rates)):
        if not len(given) or len(set(given)) < len(given):
            raise ValueError(f"train_many expects different {what}, at least one, got {list(given)}")
    return tuple(
        dataclasses.replace(recipe, seed=int(seed), learning_rate=float(rate)) for rate in rates for seed in seeds
    )


def _names(recipes: Sequence[Recipe]) -> list[str]:
    several = len({recipe.learning_rate for recipe in recipes}) > 1
    return [f"rate-{each.learning_rate!r}-seed-{each.seed}" if several else f"seed-{each.seed}" for each in recipes]


def _opened_root(folder: Path, names: Sequence[str], *, resume: bool, numbered: bool) -> Path:
    """Makes the folder of the run folders, or checks that it is that of the same runs."""
    if resume:
        known = [path.name for path in listed_runs(folder)]
        if known != list(names):
            got = ", ".join(known) if known else "another folder"
            raise RunFolderError(
                f"expected the folder of the runs {', '.join(names)} in {printable(folder)}, got {got}; resume them "
                "with the same seeds and learning rates"
            )
        return folder
    # Before the folders of the runs, so that a killed training can be resumed whole.
    return make_list(folder, names, numbered=numbered)


class _Notes(Observer):
    """Passes the notes of one of several runs on, with its name."""

    def __init__(self, name: str, observers: Sequence[Observer]) -> None:
        self._name, self._observers = name, observers

    def on_note(self, note: str) -> None:
        for observer in self._observers:
            observer.on_note(f"{self._name}: {note}")


class _Lockstep:
    """Several trainings, all at the same step.

    Arrays of all runs are stacked along their first axis, but for the step, which they share.
    """

    def __init__(self, lead: Job, jobs: Sequence[Job], mapped: Mapped | None, root: Path | None) -> None:
        self.lead, self.jobs, self.root = lead, jobs, root
        self.mapped: Mapped = mapped or ("map" if jax.default_backend() == "cpu" else "vmap")
        self.results: dict[int, Result] = {}
        self.diverged: dict[int, NonFiniteLossError] = {}
        # The score and the negative loss of the best epoch, both means over the runs.
        self.best_mean = -math.inf, -math.inf

    def go(self, weights: Sequence[Callable[[], Weights | None]], *, resume: bool) -> Runs:
        """Trains all runs. Runs that resume from the same step are trained together."""
        starts: dict[int, list[tuple[int, TrainState, Metrics]]] = {}
        for place, (job, make) in enumerate(zip(self.jobs, weights, strict=True)):
            found = job.find(make) if resume else None
            if found is not None and found.figures is not None:
                self.results[place] = job.finished(found)
            elif found is None or found.step is None:
                first = job.first(*job.experiment.first_weights(make()))
                starts.setdefault(0, []).append((place, first, Metrics()))
            else:
                starts.setdefault(found.step, []).append((place, *job.restored(found)))
        self.lead.tell(lambda observer: observer.on_start(self._facts(min(starts, default=0))))
        with interruptible(self._interrupt):
            for step, members in sorted(starts.items()):
                places, states, sums = zip(*members, strict=True)
                self._train(places, _stacked(states), dict(zip(places, sums, strict=True)), step)
        results = tuple(self.results[place] for place in range(len(self.jobs)))
        runs = Runs(tuple(job.recipe for job in self.jobs), results, self.diverged, self.root)
        self.lead.tell(lambda observer: observer.on_end(runs))
        return runs

    def _facts(self, step: int) -> Any:
        facts = self.lead.start_facts(step)
        return facts._replace(folder=None if self.root is None else str(self.root))

    def _interrupt(self) -> None:
        self.lead.interrupted = True
        self.lead.tell(lambda observer: observer.on_interrupt())

    def _train(self, places: Sequence[int], stacked: TrainState, sums: dict[int, Metrics], step: int) -> None:
        """Trains runs that are at the same step, and tests the runs that finish."""
        lead, jobs = self.lead, {place: self.jobs[place] for place in places}
        live = [place for place in places if not jobs[place].patience_is_over()]
        began = False
        for number, phase in enumerate(lead.phases):
            if not live or self._is_stopping:
                break
            if began:
                lead.note(f"epoch {phase.first_epoch + 1}: all layers are trained from now on")
                stacked = _stacked(
                    [
                        jobs[place].begin(jobs[place].phases[number], state.params, state.state, step)
                        for place, state in zip(places, _unstacked(stacked, len(places)), strict=True)
                    ]
                )
            elif step > phase.last_epoch * lead.steps_per_epoch:
                continue
            began = True
            for job in jobs.values():
                job.phase = job.phases[number]
            stacked, step = self._train_phase(number, places, live, stacked, sums, step)
        # A stop after the last step changes nothing.
        is_stopped = self._is_stopping and step < lead.phases[-1].last_epoch * lead.steps_per_epoch
        if is_stopped:
            for place, state in zip(places, _unstacked(stacked, len(places)), strict=True):
                if place in live:
                    jobs[place].save(state, sums[place])
        for place in self.diverged:
            if place in jobs:
                self.results[place] = jobs[place].result({})
        stopped = live if is_stopped else []
        for place in stopped:
            self.results[place] = jobs[place].result({})
        self._finish([place for place in places if place not in (*self.diverged, *stopped)])

    @property
    def _is_stopping(self) -> bool:
        """Whether a signal or an observer stops the training."""
        return self.lead.interrupted or self.lead.wanted

    def _train_phase(
        self,
        number: int,
        places: Sequence[int],
        live: list[int],
        stacked: TrainState,
        sums: dict[int, Metrics],
        step: int,
    ) -> tuple[TrainState, int]:
        """Trains in one phase; takes runs that end out of `live`, and leaves the sums of the unfinished epoch."""
        lead, length = self.lead, self.lead.steps_per_epoch
        last = lead.phases[number].last_epoch * length
        step_of = self._steps(number)
        rates = jnp.asarray([self.jobs[place].recipe.learning_rate for place in places], jnp.float32)
        keys = jnp.stack([self.jobs[place].training_key() for place in places])
        batches = [
            dataclasses.replace(self.jobs[place].experiment.batches, source=self._examples.train) for place in places
        ]
        unread: list[tuple[int, Metrics]] = []
        clock = WaitClock()

        def read() -> None:
            for done, metrics in unread:
                self._add(done, metrics, places, live, sums)
            unread.clear()

        def on_wait() -> None:
            # Only what comes after the step before is lost.
            jax.block_until_ready(unread)
            clock.wait()

        each = (tuple(one[now] for one in batches) for now in range(step, last))
        lead.stopwatch.restart(compiles=True)
        with closing(ahead(each, 0 if self._examples.where == "device" else 2, on_wait)) as items:
            for batch in items:
                clock.go_on()
                stacked, metrics = step_of(step)(stacked, rates, batch, keys)
                # While the device computes this step.
                read()
                step += 1
                unread.append((step, metrics))
                epoch = (step - 1) // length + 1
                clock.begin(epoch)
                rate = lead.stopwatch.step() * len(live)
                pooled = Progress(step, epoch, stacked, _pooled([sums[place] for place in live]), clock.share)
                stop = functools.partial(_on_step, pooled, rate)
                lead.wanted = lead.tell(stop) or lead.wanted
                if step % length == 0:
                    read()
                    ended = Progress(step, epoch, stacked, Metrics(), clock.share)
                    self._end_epoch(ended, places, live, sums)
                    lead.stopwatch.restart()
                if not live or self._is_stopping:
                    break
        read()
        return stacked, step

    def _steps(self, number: int) -> Callable[[int], Any]:
        """Returns the compiled step of a phase by step: that of the last epochs may mix no images."""
        lead = self.lead
        recipe, task, layer = lead.recipe, lead.experiment.task, lead.phases[number].layer
        classes = len(lead.experiment.splits["train"].class_names)
        params, _ = structure(lead.experiment.layer)

        def make(*, plain: bool) -> Any:
            def one(step: jax.Array, learning_rate: Any, rest: Any, batch: Example, key: jax.Array) -> Any:
                phase = make_phases(
                    recipe, lead.experiment.layer, params, lead.steps_per_epoch, learning_rate=learning_rate
                )[number]
                train_step = make_phase_step(phase, layer, recipe, task, classes, plain=plain)
                train_state, metrics = train_step(TrainState(step, *rest), batch, key)
                return tuple(train_state)[1:], metrics

            def all_runs(stacked: TrainState, rates: jax.Array, batches: Any, keys: jax.Array) -> Any:
                batch = jax.tree.map(lambda *each: jnp.stack(each), *batches)
                mapped = _mapped(functools.partial(one, stacked.step), self.mapped)
                rest, metrics = mapped(rates, tuple(stacked)[1:], batch, keys)
                return TrainState._make((stacked.step + 1, *rest)), metrics

            return lead.announced(jax.jit(all_runs, donate_argnums=0), "compiling the training step")

        usual = make(plain=False)
        if not recipe.plain_epochs:
            return lambda step: usual
        plain, first_plain = make(plain=True), (recipe.epochs - recipe.plain_epochs) * lead.steps_per_epoch

        def step_of(step: int) -> Any:
            if step == first_plain:
                lead.note_plain()
            return usual if step < first_plain else plain

        return step_of

    @functools.cached_property
    def _eval_step(self) -> Any:
        experiment = self.lead.experiment
        step = make_eval_step(experiment.layer, evaluation_task(experiment.task), precision=experiment.recipe.precision)

        @jax.jit
        def all_runs(params: Params, state: State, batch: Example) -> dict[str, Mean]:
            return _mapped(lambda params, state: step(params, state, batch), self.mapped)(params, state)

        return self.lead.announced(all_runs, "compiling the evaluation")

    @functools.cached_property
    def _examples(self) -> Examples:
        return self.lead.all_examples

    def _add(
        self, step: int, metrics: Metrics, places: Sequence[int], live: list[int], sums: dict[int, Metrics]
    ) -> None:
        """Adds the metrics of a step to those of each run; one that diverged ends."""
        on_host = jax.tree.map(np.asarray, metrics)
        for row, place in enumerate(places):
            if place not in live:
                continue
            mine: Metrics = jax.tree.map(lambda array, row=row: array[row], on_host)
            if mine.non_finite or not math.isfinite(mine.sums["loss"].total):
                self._end_diverged(place, NonFiniteLossError(step, mine.mean_loss, int(mine.non_finite)), live)
            else:
                sums[place] = sums[place].plus(mine)

    def _end_diverged(self, place: int, error: NonFiniteLossError, live: list[int]) -> None:
        live.remove(place)
        self.diverged[place] = error
        self.jobs[place].tell(lambda observer: observer.on_note(f"diverged: {error}"))

    def _end_epoch(
        self,
        progress: Progress,
        places: Sequence[int],
        live: list[int],
        sums: dict[int, Metrics],
    ) -> None:
        """Evaluates all runs, and ends the epoch of each."""
        lead = self.lead
        found = self._sums(*evaluation_weights(progress.train_state), self._examples.validation)
        states = _unstacked(progress.train_state, len(places))
        rows, ended = [], []
        for row, place in enumerate(places):
            if place not in live:
                continue
            job = self.jobs[place]
            job.stopwatch.rate = lead.stopwatch.rate
            own = progress._replace(train_state=states[row], metrics=sums[place])
            try:
                rows.append(job.end_epoch(own, _of_run(found, row))[0])
            except NonFiniteLossError as error:
                self._end_diverged(place, error, live)
                continue
            sums[place] = Metrics()
            ended.append((job, own))
        if rows:
            mean = _mean_row(rows)
            mean |= {"epoch": progress.epoch, "step": progress.step}
            rate = mean["images_per_second"]
            mean["images_per_second"] = None if rate is None else rate * len(rows)
            objective = lead.experiment.task.objective
            value = mean[f"validation_{objective.figure}"]
            score = -math.inf if value is None else value * (1 if objective.larger_is_better else -1)
            improved = (score, -mean["validation_loss"]) > self.best_mean
            self.best_mean = max(self.best_mean, (score, -mean["validation_loss"]))
            lead.wanted = lead.tell(lambda observer: observer.on_epoch(mean, improved)) or lead.wanted
        for job, own in ended:
            job.save_if_due(own)
        live[:] = [place for place in live if not self.jobs[place].stopped_early]

    def _sums(self, params: Params, state: State, source: Source) -> dict[str, Mean]:
        batches = data.eval_batches(source, min(EVAL_BATCH_SIZE, len(source)), workers=self.lead.experiment.workers)
        return evaluate(self._eval_step, params, state, batches, count=len(source))

    def _finish(self, ended: Sequence[int]) -> None:
        """Tests the best epochs of the runs that came to their end."""
        if not ended:
            return
        best = [self.jobs[place].best for place in ended]
        params, state = (_stack([getattr(one, name) for one in best]) for name in ("params", "state"))
        with self.lead.doing("testing the best epochs"):
            found = self._sums(params, state, self.lead.experiment.splits["test"])
            for row, place in enumerate(ended):
                job = self.jobs[place]
                self.results[place] = job.result(job.finish(_of_run(found, row)))


def _on_step(progress: Progress, rate: float, observer: Observer) -> bool | None:
    return observer.on_step(progress, rate)


def _mapped(function: Callable[..., Any], how: Mapped) -> Callable[..., Any]:
    if how == "vmap":
        return jax.vmap(function)
    return lambda *arguments: jax.lax.map(lambda each: function(*each), arguments)


@jax.jit
def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _stacked(states: Sequence[TrainState]) -> TrainState:
    return TrainState._make((states[0].step, *_stack([tuple(state)[1:] for state in states])))


@functools.partial(jax.jit, static_argnums=1)
def _split_up(stacked: Any, count: int) -> list[Any]:
    return [jax.tree.map(lambda leaf, row=row: leaf[row], stacked) for row in range(count)]


def _unstacked(stacked: TrainState, count: int) -> list[TrainState]:
    return [TrainState._make((stacked.step, *rest)) for rest in _split_up(tuple(stacked)[1:], count)]


def _of_run(sums: Mapping[str, Mean], row: int) -> dict[str, Mean]:
    return {name: Mean(mean.total[row], mean.weight[row]) for name, mean in sums.items()}


def _pooled(sums: Sequence[Metrics]) -> Metrics:
    """Adds the metrics of several runs."""
    total: dict[str, Mean] = {}
    for metrics in sums:
        if metrics.sums:
            total = add_sums(total, metrics.sums)
    return Metrics(total)


def _mean_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the mean of each number over the rows that have it; None where none has."""
    values = {
        name: [row[name] for row in rows if row[name] is not None] for name in dict.fromkeys(n for r in rows for n in r)
    }
    return {name: float(np.mean(each)) if each else None for name, each in values.items()}
