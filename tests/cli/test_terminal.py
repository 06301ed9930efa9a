import io
import sys

import pytest

from jaxcnn.cli import terminal


@pytest.fixture
def stream(monkeypatch):
    """Puts a terminal of an encoding in the place of standard output and error."""

    def put(encoding):
        written = io.BytesIO()
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(written, encoding, errors="strict", write_through=True))
        return lambda: written.getvalue().decode(encoding)

    return put


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "caf\\xe9 é€ \\x1b[2J\n猫\n"),
        ("latin-1", "caf\\xe9 é\\u20ac \\x1b[2J\n\\u732b\n"),
        ("ascii", "caf\\xe9 \\xe9\\u20ac \\x1b[2J\n\\u732b\n"),
    ],
)
@pytest.mark.parametrize("way", [terminal.say, terminal.complain])
def test_what_a_terminal_cannot_show_is_escaped(stream, way, encoding, expected):
    written = stream(encoding)
    way("caf\udce9 é€ \x1b[2J\n猫")
    assert written() == expected


def test_a_name_has_one_line_and_tables_keep_its_brackets(stream):
    written = stream("ascii")
    assert terminal.shown("a\nb€") == "a\\nb\\u20ac"
    terminal.make_console().print(terminal.shown("[red]:smile:[/red]"))
    assert written() == "[red]:smile:[/red]\n"


def test_errors_of_others_keep_nothing_but_their_colours(stream):
    written = stream("utf-8")
    with terminal.errors_escaped():
        print("\x1b[31mno \x1b[2J\x1b]0;x\x07\x1b[0m", file=sys.stderr)
    assert written() == "\x1b[31mno \\x1b[2J\\x1b]0;x\\x07\x1b[0m\n"


def test_words_that_are_no_options_are_escaped(jaxcnn):
    done = jaxcnn("predict", "run", "image.png", "--no\x1b[2J")
    assert done.status == 2
    assert "--no\\x1b[2J" in done.err
