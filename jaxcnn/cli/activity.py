"""Shows what goes on while a command has nothing to print yet."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from jaxcnn.cli.terminal import make_console


class Activity:
    """One line on standard error: what goes on, and for how long. It is gone at the end; a context manager.

    Standard output, which may go to a file, has only results. Where standard error is not a terminal, nothing is shown.

    Args:
      text: what goes on.
    """

    def __init__(self, text: str) -> None:
        console = make_console(stderr=True)
        self._is_shown = sys.stderr.isatty() and console.is_interactive
        columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
        self._line = Progress(*columns, console=console, transient=True, redirect_stdout=False)
        self._task = self._line.add_task(text, total=None)

    def __enter__(self) -> Self:
        if self._is_shown:
            self._line.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_shown:
            self._line.stop()

    def update(self, text: str) -> None:
        """Says what goes on now."""
        self._line.update(self._task, description=text)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Removes the line while a block prints to standard output, which may be the same terminal."""
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()
