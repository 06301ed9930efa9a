"""Escapes untrusted text for display, formats sizes, and suggests names."""

import difflib
import re
from collections.abc import Iterable


def readable_bytes(size: int) -> str:
    """Formats a number of bytes, such as "1.5 GB".

    Args:
      size: the number.

    Returns:
      It in kB, MB or GB, which are powers of 1000.
    """
    unit, name = (10**9, "GB") if size >= 10**9 else (10**6, "MB") if size >= 10**6 else (10**3, "kB")
    return f"{size / unit:,.1f} {name}"


def printable(text: object, *, keep: str = "") -> str:
    r"""Escapes unprintable characters as `repr` does, but without quotes: an escape character becomes "\x1b".

    Control characters could move the cursor or clear the screen. Line breaks could fake another line. Marks of writing
    direction could reverse the text. Bytes of a file name that are not UTF-8 are escaped as "\xe9".

    Args:
      text: a name, a path or a message; other objects are converted to a string.
      keep: characters to leave as they are, such as "\n" in a message of several lines.

    Returns:
      Printable text with spaces of any width, which UTF-8 can encode.
    """

    def escape(match: re.Match[str]) -> str:
        character = match[0]
        if character.isprintable() or character in keep or (character.isspace() and character not in _BREAKS):
            return character
        if "\udc80" <= character <= "\udcff":  # Python's surrogate for a byte of a file name that is not UTF-8
            return f"\\x{ord(character) - 0xDC00:02x}"
        return character.encode("unicode_escape", "backslashreplace").decode("ascii")

    return re.sub(r"[^ -~]", escape, str(text))


def nearest(name: str, known: Iterable[str]) -> str:
    """Formats the end of the message for an unknown name.

    Args:
      name: the unknown name.
      known: the known names.

    Returns:
      "; did you mean adamw?" with the name that is most like it, or "" if none is.
    """
    found = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.4)
    return f"; did you mean {found[0]}?" if found else ""


_BREAKS = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029"
