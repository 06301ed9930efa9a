"""Parts of a data set in folders of their names."""

import os
from collections.abc import Iterator
from pathlib import Path

PARTS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
"""Names of folders of parts in lower case, and of the parts that they hold."""

_OF_THE_SYSTEM = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
"""Files and folders, in lower case, that systems put beside pictures."""


def part_folders(root: Path) -> dict[str, Path]:
    """Finds the folders of the parts.

    Args:
      root: an existing folder.

    Returns:
      The folders by the name of the part, in the order of `PARTS`; {} if there is none for "train".

    Raises:
      ValueError: two folders hold the same part.
    """
    folders: dict[str, list[str]] = {}
    for entry in visible_entries(root):
        part = PARTS.get(entry.name.lower())
        if part is not None and os.path.isdir(entry):
            folders.setdefault(part, []).append(entry.name)
    if "train" not in folders:
        return {}
    if doubled := [sorted(names) for names in folders.values() if len(names) > 1]:
        raise ValueError(
            f"expected one folder for each part in {os.fspath(root)!r}, got {' and '.join(map(repr, doubled[0]))}; "
            "join them"
        )
    return {part: root / folders[part][0] for part in dict.fromkeys(PARTS.values()) if part in folders}


def visible_entries(folder: Path) -> Iterator["os.DirEntry[str]"]:
    """Yields what is in a folder, without hidden files and those of the system."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.name.lower() not in _OF_THE_SYSTEM:
                yield entry
