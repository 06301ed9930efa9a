"""Arrays that are kept in the folder of caches, where making them again takes long."""

import contextlib
import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxcnn.files import cache_folder, written_whole

_LOG = logging.getLogger("jaxcnn")


def kept_array(
    name: str, what: str, is_valid: Callable[[np.ndarray], bool], make: Callable[[], np.ndarray]
) -> np.ndarray:
    """Reads an array from the folder of caches, or makes it and keeps it there.

    Args:
      name: path of its file in that folder; another content has another name.
      what: whose files it tells about, for a message.
      is_valid: whether what a file holds is such an array; if not, it is made again.
      make: makes the array.

    Returns:
      The array.
    """
    path = cache_folder() / name
    # Not there, or damaged: NumPy raises many kinds of exceptions then.
    with contextlib.suppress(Exception):
        array = np.load(path, allow_pickle=False)
        if is_valid(array):
            return array
    array = make()
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    keep_file(path, content.getvalue(), what)
    return array


def keep_file(path: Path, content: bytes, what: str) -> None:
    """Writes a file in the folder of caches, or warns that it cannot be written.

    Args:
      path: the file.
      content: its content.
      what: whose files it tells about, for the message.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            file.write(content)
    except OSError as error:
        _LOG.warning(
            "what was found in the files of %s cannot be kept, and they are examined again the next time: %s; set "
            "JAXCNN_CACHE_DIR to a folder that can be written",
            what,
            error,
        )
