"""Shows the progress of training: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any, Protocol, Self

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from jaxcnn.cli.terminal import escaped, make_console, say
from jaxcnn.training import Metrics


class Display(Protocol):
    """Shows the progress of a training; a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def step(self, step: int, epoch: int, metrics: Metrics, rate: float) -> None:
        """Shows a step: the number of steps done, the epoch, the sums of the epoch so far, images per second."""
        ...

    def epoch(self, row: dict[str, Any], best: bool) -> None:
        """Shows the metrics of an epoch, and whether it is the best so far."""
        ...

    def note(self, text: str) -> None:
        """Shows a line."""
        ...


def make_display(epochs: int, steps_per_epoch: int, first_step: int) -> Display:
    """Returns the display for standard output.

    Args:
      epochs: number of epochs of the run.
      steps_per_epoch: number of steps of an epoch.
      first_step: number of steps done already.

    Returns:
      A bar if standard output is a terminal, otherwise lines.
    """
    if sys.stdout.isatty():
        return BarDisplay(epochs, steps_per_epoch, first_step)
    return LineDisplay(epochs)


class BarDisplay:
    """A progress bar of the whole training at the bottom, with a line for each new best epoch above it."""

    def __init__(self, epochs: int, steps_per_epoch: int, first_step: int) -> None:
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]:>3}/" + str(epochs)),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[training]}"),
            TextColumn("{task.fields[validation]}", style="green"),
            TextColumn("{task.fields[rate]}", style="dim"),
            TimeRemainingColumn(compact=True),
            console=make_console(),
        )
        self._task = self._progress.add_task(
            "",
            total=epochs * steps_per_epoch,
            completed=first_step,
            epoch=min(first_step // steps_per_epoch + 1, epochs),
            training="compiling",
            validation="",
            rate="",
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, step: int, epoch: int, metrics: Metrics, rate: float) -> None:
        """Moves the bar."""
        fields: dict[str, Any] = {"epoch": epoch, "rate": f"{rate:,.0f} img/s" if rate else ""}
        if metrics.sums:
            figures = metrics.figures()
            fields["training"] = f"loss {figures['loss']:.3f} train {figures['accuracy']:.1%}"
        self._progress.update(self._task, completed=step, **fields)

    def epoch(self, row: dict[str, Any], best: bool) -> None:
        """Shows the validation accuracy beside the bar, and a line above it for a new best."""
        self._progress.update(self._task, validation=f"val {row['validation_accuracy']:.1%}")
        if best:
            self._progress.console.print(
                Text.assemble(
                    ("best so far", "green"),
                    f": epoch {row['epoch']:>3}, validation {row['validation_accuracy']:.2%}, "
                    f"loss {row['validation_loss']:.4f}",
                )
            )

    def note(self, text: str) -> None:
        """Prints a line above the bar."""
        self._progress.console.print(escaped(text))


class LineDisplay:
    """One line for each epoch."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._started = time.monotonic()
        self._first_epoch: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def step(self, step: int, epoch: int, metrics: Metrics, rate: float) -> None:
        """Stores the epoch of the first step."""
        if self._first_epoch is None:
            self._first_epoch = epoch

    def epoch(self, row: dict[str, Any], best: bool) -> None:
        """Prints the line of an epoch."""
        done = row["epoch"] - (self._first_epoch or row["epoch"]) + 1
        left = (time.monotonic() - self._started) / done * (self._epochs - row["epoch"])
        say(
            f"epoch {row['epoch']:>3}/{self._epochs}  loss {row['train_loss']:.4f}  "
            f"train {row['train_accuracy']:7.2%}  validation {row['validation_accuracy']:7.2%}  "
            f"{row['images_per_second']:,.0f} images/s  "
            f"{left:.0f} s left{'  best so far' if best else ''}",
            flush=True,
        )

    def note(self, text: str) -> None:
        """Prints a line."""
        say(text, flush=True)


class Stopwatch:
    """Measures images per second within an epoch, without the first step, which may compile.

    Args:
      batch_size: images in a step.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size, self._rate = batch_size, 0.0
        self.restart()

    def restart(self) -> None:
        """Starts a new epoch; the time since the last step does not count."""
        self._steps, self._since = 0, 0.0

    def step(self) -> float:
        """Counts a step.

        Returns:
          Images per second of the epoch so far; on its first step, those of the previous epoch, or 0.
        """
        now = time.monotonic()
        if self._steps == 0:
            self._since = now
        self._steps += 1
        seconds = now - self._since
        if seconds > 0:
            self._rate = self._batch_size * (self._steps - 1) / seconds
        return self._rate
