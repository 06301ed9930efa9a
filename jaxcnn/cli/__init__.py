"""The command `jaxcnn`: the only part of the library that prints and reads options."""

import os
import sys
from collections.abc import Sequence


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
        return _run(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        print("\nstopped at once", file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    try:
        from jaxcnn.cli import commands, terminal
        from jaxcnn.cli.errors import OutputError
    except ImportError as error:
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
