"""`jaxcnn data list` and `jaxcnn data prepare`."""

import contextlib
from collections.abc import Iterator

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from jaxcnn import data
from jaxcnn.cli.errors import reported
from jaxcnn.cli.options import Prepare
from jaxcnn.cli.terminal import columns, make_console, say, shown
from jaxcnn.data import download
from jaxcnn.data.sources import archives
from jaxcnn.tables import Table


def prepare(options: Prepare) -> int:
    """Prepares a data set, and says where it is.

    Args:
      options: its name and the place of its archives.

    Returns:
      The exit status, 0.

    Raises:
      CommandError: there is no data set of that name, a file is not the published one, a download failed, or the disk
        is full.
    """
    with reported(ValueError, OSError), progress_bar() as progress:
        folder = data.prepare(options.name, options.archive, progress=progress)
    say(f"{options.name} is prepared in {shown(folder)}; train on it by --data {options.name}")
    return 0


def list_data() -> int:
    """Prints the data sets that can be prepared.

    Returns:
      The exit status, 0.
    """
    rows = []
    for name, archive in archives.ARCHIVES.items():
        megabytes = sum(file.size for file in archive.files) / 1e6
        folder = archives.prepared_folder(name)
        rows.append((name, f"{megabytes:.0f} MB", "not prepared" if folder is None else shown(folder)))
    say(Table(("name", "download", "prepared in"), rows, [], left=(0, 2), counts=(), spare=(1,)).text(columns()))
    return 0


@contextlib.contextmanager
def progress_bar() -> Iterator[download.Progress]:
    """Shows downloads on standard error, if it is a terminal.

    Yields:
      The function to tell about them.
    """
    console = make_console(stderr=True)
    kinds = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    tasks = {}
    with Progress(*kinds, console=console, transient=True, disable=not console.is_terminal) as bar:

        def progress(name: str, have: int, size: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=size)
            bar.update(tasks[name], completed=have)

        yield progress
