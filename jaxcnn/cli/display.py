"""Shows the progress of training: a live bar on a terminal, plain lines elsewhere."""

import logging
import sys
import threading
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from jaxcnn.cli.errors import OutputError
from jaxcnn.cli.terminal import escaped, make_console, notices, say, shown
from jaxcnn.training import Progress
from jaxcnn.training.observers import Observer, Start

_FIRST_SIGN = 2.0
"""Seconds without a line after which a line display prints a sign of life; each further pause is twice as long."""

_ANY_WAITING, _MUCH_WAITING = 0.01, 0.1
"""Shares of an epoch in which the device waits for data, above which they are shown, and above which there is advice.
"""


class Display(Observer):
    """Shows the progress of a training; a context manager. It also shows the notices of the logger "jaxcnn".

    Args:
      model: name of the model.
      data: name of the data.
    """

    def __init__(self, model: str, data: str) -> None:
        self._model, self._data = model, data
        self._clock, self._advised = Clock(), False
        self._notices = ExitStack()

    def __enter__(self) -> Self:
        self._notices.enter_context(notices(lambda note: self.on_note(note), logging.INFO))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._notices.close()

    def on_start(self, start: Start) -> None:
        """Describes the training."""
        self._start, self._objective = start, start.objective
        some = "" if start.trained == start.parameters else f" ({start.trained:,} trained at first)"
        sizes = start.examples
        classes = f", {len(start.class_names)} classes" if start.class_names else ""
        self.on_note(
            f"{self._model}, {start.parameters:,} parameters{some}, on {shown(self._data)}: {sizes['train']:,} "
            f"training, {sizes['validation']:,} validation and {sizes['test']:,} test images of "
            f"{'x'.join(map(str, start.image_shape))}{classes}"
        )
        self.on_note(f"run folder {shown(start.folder)}; Ctrl-C stops with a checkpoint")
        self._clock.begin(start.first_step)

    def on_activity(self, activity: str | None) -> None:
        """Stops the clock during an activity, which happens once and says nothing about the time that is left."""
        self._clock.pause(activity is not None)

    def on_epoch(self, row: dict[str, Any], best: bool) -> None:
        """Gives advice, once, if the device waits for the data."""
        if row["waiting_for_data"] > _MUCH_WAITING and not self._advised:
            self._advised = True
            self.on_note(
                f"the device waited for data for {row['waiting_for_data']:.0%} of the epoch: keep the data in memory "
                "if they fit (--place memory), store smaller images, or use more CPU cores"
            )

    def on_interrupt(self) -> None:
        """Answers Ctrl-C."""
        self.on_note("\nstopping after this step; Ctrl-C again stops at once")

    def _figure(self, value: float | None) -> str:
        if value is None:
            return "-"
        return f"{value:7.2%}" if self._objective.larger_is_better else f"{value:.4f}"


def _waiting(share: float) -> str:
    """Writes the share of waiting for data; nothing below a percent."""
    return f", waiting {share:.0%}" if share >= _ANY_WAITING else ""


class Clock:
    """Measures the time of steps, without pauses, and estimates the time that is left."""

    def __init__(self) -> None:
        self._first_step, self._spent, self._since = 0, 0.0, None

    def begin(self, first_step: int) -> None:
        """Starts to measure.

        Args:
          first_step: number of steps done already.
        """
        self._first_step, self._spent, self._since = first_step, 0.0, time.monotonic()

    def pause(self, paused: bool) -> None:
        """Stops the clock, or starts it again."""
        now = time.monotonic()
        if paused and self._since is not None:
            self._spent, self._since = self._spent + now - self._since, None
        elif not paused and self._since is None:
            self._since = now

    def seconds_left(self, step: int, steps: int) -> float | None:
        """Estimates the time that is left.

        Args:
          step: number of steps done.
          steps: number of steps of the whole training.

        Returns:
          Seconds; None before the second step, since the first one may wait for the device.
        """
        done = step - self._first_step
        if done < 2:
            return None
        spent = self._spent + (0.0 if self._since is None else time.monotonic() - self._since)
        return spent / done * (steps - step)


def make_display(model: str, data: str) -> Display:
    """Returns the display for standard output.

    Args:
      model: name of the model.
      data: name of the data.

    Returns:
      A bar if standard output is a terminal, otherwise lines.
    """
    kind = BarDisplay if sys.stdout.isatty() else LineDisplay
    return kind(model, data)


class _TimeLeft(ProgressColumn):
    """The time that an activity has taken, or the time that is left."""

    def render(self, task: Task) -> Text:
        """Formats the seconds."""
        activity, left = task.fields["since"], task.fields["left"]
        seconds = time.monotonic() - activity if activity is not None else left
        if seconds is None:
            return Text("-:--")
        minutes, seconds = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        text = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
        return Text(text if activity is not None else f"{text} left", style="cyan")


class BarDisplay(Display):
    """A progress bar of the whole training at the bottom, with a line for each new best epoch above it."""

    def __init__(self, model: str, data: str) -> None:
        super().__init__(model, data)
        self._progress = RichProgress(
            TextColumn("{task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[training]}"),
            TextColumn("{task.fields[validation]}", style="green"),
            TextColumn("{task.fields[rate]}", style="dim"),
            _TimeLeft(Column(no_wrap=True)),
            console=make_console(),
        )
        fields = {"epoch": "", "training": "preparing", "validation": "", "rate": "", "left": None}
        self._task = self._progress.add_task("", total=None, since=time.monotonic(), **fields)
        self._training = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._progress.stop()

    def on_start(self, start: Start) -> None:
        """Describes the training, and sets the length of the bar."""
        super().on_start(start)
        total = start.epochs * start.steps_per_epoch
        self._progress.update(self._task, total=total, completed=start.first_step, training="", since=None)
        self._show_epoch(min(start.first_step // start.steps_per_epoch + 1, start.epochs))

    def on_activity(self, activity: str | None) -> None:
        """Shows the activity and its time instead of the figures."""
        super().on_activity(activity)
        since = None if activity is None else time.monotonic()
        self._progress.update(self._task, training=self._training if activity is None else activity, since=since)

    def on_step(self, progress: Progress, images_per_second: float) -> None:
        """Moves the bar."""
        figures = progress.metrics.figures()
        if figures:
            name = self._objective.figure
            trained = f" train {self._figure(figures[name]).strip()}" if name in figures else ""
            self._training = f"loss {figures['loss']:.3f}{trained}"
        left = self._clock.seconds_left(progress.step, self._start.epochs * self._start.steps_per_epoch)
        rate = f"{images_per_second:,.0f} img/s" if images_per_second else ""
        rate += _waiting(progress.waiting)
        self._progress.update(
            self._task, completed=progress.step, training=self._training, rate=rate, left=left, since=None
        )
        self._show_epoch(progress.epoch)

    def on_epoch(self, row: dict[str, Any], best: bool) -> None:
        """Shows the validation figure beside the bar, and a line above it for a new best."""
        figure = self._figure(row[f"validation_{self._objective.figure}"]).strip()
        self._progress.update(self._task, validation=f"val {figure}")
        if best:
            self._progress.console.print(
                Text.assemble(
                    ("best so far", "green"),
                    f": epoch {row['epoch']:>3}, validation {figure}, loss {row['validation_loss']:.4f}",
                )
            )
        super().on_epoch(row, best)

    def on_note(self, note: str) -> None:
        """Prints a line above the bar."""
        self._progress.console.print(escaped(note))

    def _show_epoch(self, epoch: int) -> None:
        self._progress.update(self._task, epoch=f"epoch {epoch:>3}/{self._start.epochs}")


class LineDisplay(Display):
    """One line for each epoch, and a sign of life after some seconds without a line."""

    def __init__(self, model: str, data: str) -> None:
        super().__init__(model, data)
        self._ended = threading.Event()
        self._lock = threading.RLock()  # Ctrl-C may come while a line is printed
        self._status = "reading the data and building the model"
        self._said = time.monotonic()
        self._began = self._said
        self._pause = _FIRST_SIGN

    def __enter__(self) -> Self:
        self._signs = threading.Thread(target=self._give_signs, name="jaxcnn display", daemon=True)
        self._signs.start()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._ended.set()
        self._signs.join()

    def on_activity(self, activity: str | None) -> None:
        """Begins to measure the activity."""
        super().on_activity(activity)
        self._begin("training" if activity is None else activity)

    def on_step(self, progress: Progress, images_per_second: float) -> None:
        """Stores the step, for the next sign of life."""
        self._status = f"epoch {progress.epoch}/{self._start.epochs}, step {progress.step}"

    def on_epoch(self, row: dict[str, Any], best: bool) -> None:
        """Prints the line of an epoch."""
        figure = self._objective.figure
        train = f"train {self._figure(row[name])}  " if (name := f"train_{figure}") in row else ""
        left = self._clock.seconds_left(row["step"], self._start.epochs * self._start.steps_per_epoch)
        rate = row["images_per_second"]
        self.on_note(
            f"epoch {row['epoch']:>3}/{self._start.epochs}  loss {row['train_loss']:.4f}  {train}"
            f"validation {self._figure(row[f'validation_{figure}'])}"
            f"{'' if rate is None else f'  {rate:,.0f} images/s'}"
            f"{_waiting(row['waiting_for_data'])}  "
            f"{0 if left is None else left:.0f} s left{'  best so far' if best else ''}"
        )
        super().on_epoch(row, best)
        self._begin("training")

    def on_note(self, note: str) -> None:
        """Prints a line."""
        with self._lock:
            say(note, flush=True)
            self._said = time.monotonic()

    def _begin(self, status: str) -> None:
        with self._lock:
            self._status, self._pause = status, _FIRST_SIGN
            self._began = self._said = time.monotonic()

    def _give_signs(self) -> None:
        """Prints the current activity after 2 seconds without a line, then after 4, 8 and so on."""
        while not self._ended.wait(0.1):
            with self._lock:
                now = time.monotonic()
                if now - self._said < self._pause:
                    continue
                try:
                    say(f"... {self._status}, for {now - self._began:.0f} s", flush=True)
                except OutputError:  # The next line of the training reports it.
                    return
                self._said, self._pause = now, 2 * self._pause
