"""Text from files and users, made fit to be shown: on a terminal, in a table, in a picture."""

import re


def printable(text: object, *, keep: str = "") -> str:
    r"""Escapes what a name should not hold, as `repr` does, but without quotes: "a\x1b[2J" in the place of an escape.

    Control characters could move the cursor or clear the screen, line breaks could feign another line, and marks of
    writing direction could turn the text round. Bytes of a file name that are not UTF-8 become "\xe9".

    Args:
      text: a name, a path or a message; anything else is turned into a string.
      keep: characters to leave as they are, such as "\n" in a message of several lines.

    Returns:
      Text of printable characters and spaces of any width, encodable as UTF-8.
    """

    def escape(match: re.Match[str]) -> str:
        character = match[0]
        if character.isprintable() or character in keep or (character.isspace() and character not in _BREAKS):
            return character
        if "\udc80" <= character <= "\udcff":  # how Python holds a byte of a file name that is not UTF-8
            return f"\\x{ord(character) - 0xDC00:02x}"
        return character.encode("unicode_escape", "backslashreplace").decode("ascii")

    return re.sub(r"[^ -~]", escape, str(text))


_BREAKS = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029"
