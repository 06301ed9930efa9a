"""The command `jaxcnn`: the only part of the library that prints and reads options."""

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      arguments: as after `jaxcnn` on the command line; those of the process if None.

    Returns:
      The exit status: that of the command, usually 0 or 1; 2 after an error that the user can fix, or if standard
      output is closed or full; 130 after Ctrl-C.
    """
    # Python sets a stream to None if it was closed at the start.
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        print("error: standard output is closed; send it to a file or to /dev/null", file=sys.stderr)
        return 2
    try:
        with _interruptible():
            return _run(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        print("\nstopped at once", file=sys.stderr)
        return 130


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Raises a KeyboardInterrupt again that Python ignored, as it does in callbacks of the garbage collector."""

    def hook(ignored: Any) -> None:
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            threading.Timer(0.01, _thread.interrupt_main).start()
        else:
            before(ignored)

    before, sys.unraisablehook = sys.unraisablehook, hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextlib.contextmanager
def _ending_at_once() -> Iterator[None]:
    """Lets Ctrl-C end the process while the block imports: half imported packages in C crash on an exception."""
    is_main = threading.current_thread() is threading.main_thread()
    # Only the main thread may handle signals. Another handler is there on purpose, as in a job in the background.
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(*_: Any) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"\nstopped at once\n")
    os._exit(130)


def _run(arguments: list[str]) -> int:
    try:
        with _ending_at_once():
            from jaxcnn.cli import commands, terminal
            from jaxcnn.cli.errors import OutputError
    except ModuleNotFoundError as error:
        print(f"error: the command line needs {error.name}: pip install 'jaxcnn[cli]'", file=sys.stderr)
        return 2
    try:
        try:
            return commands.run(arguments)
        finally:
            terminal.finish()
    except OutputError as error:
        # The reader of a pipe may stop early, as `head` does.
        if not isinstance(error.__cause__, BrokenPipeError):
            terminal.complain(f"error: {error}")
        return 2
