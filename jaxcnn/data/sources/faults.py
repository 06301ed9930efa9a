"""Errors about many files at once."""

import os
from collections.abc import Sequence

LISTED = 5
"""Number of faults that an error lists."""


def refuse_faults(place: str | os.PathLike[str], faults: Sequence[str], expected: str, advice: str = "") -> None:
    """Refuses data with faults, and lists the first of them.

    Args:
      place: the folder or the file.
      faults: one line for each; nothing happens without any.
      expected: what was expected there.
      advice: what to do, for the end of the message.

    Raises:
      ValueError: there are faults.
    """
    if faults:
        more = f"\n  and {len(faults) - LISTED:,} more" if len(faults) > LISTED else ""
        listed = "".join(f"\n  {fault}" for fault in faults[:LISTED])
        last = f"\n{advice}" if advice else ""
        raise ValueError(f"expected {expected}, in {os.fspath(place)!r}, got:{listed}{more}{last}")
