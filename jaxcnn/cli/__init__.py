"""The command `jaxcnn`: the only part of the library that prints and reads options."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      arguments: as after `jaxcnn` on the command line; those of the process if None.

    Returns:
      The exit status: 0, or 2 where the user asked for something that cannot be done, or 130 after Ctrl-C.
    """
    try:
        from jaxcnn.cli import commands
    except ImportError as error:
        print(f"error: the command line needs {error.name}: pip install 'jaxcnn[cli]'", file=sys.stderr)
        return 2
    return commands.run(sys.argv[1:] if arguments is None else list(arguments))
