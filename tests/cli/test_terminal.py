import io
import shlex
import subprocess
import sys

import pytest

from jaxcnn.cli import terminal
from jaxcnn.cli.errors import OutputError


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


def run(redirections, *words):
    """Runs the command as a process, with the redirections of a shell."""
    command = shlex.join([sys.executable, "-m", "jaxcnn.cli", *words])
    done = subprocess.run(["sh", "-c", f"{command} {redirections}"], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


CLOSED = "error: standard output is closed; send it to a file or to /dev/null\n"
FULL = "error: cannot write to standard output: No space left on device\n"


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize(
    ("redirections", "words", "error"),
    [
        (">&-", ("summary", "lenet5"), CLOSED),
        (">&- 2>&-", ("summary", "lenet5"), ""),
        (">/dev/full", ("summary", "lenet5"), FULL),
        (">/dev/full", ("--help",), FULL),
        (">/dev/full 2>/dev/full", ("summary", "lenet5"), ""),
        (">/dev/full", ("predict", "nowhere", "a.png"), "error: expected the folder of a run"),
        ("2>&-", ("predict", "nowhere", "a.png"), ""),
    ],
)
def test_closed_and_full_streams_are_one_line_and_a_status(redirections, words, error):
    status, out, err = run(redirections, *words)
    assert (status, out) == (2, "")
    assert err.startswith(error)
    assert err.count("\n") == bool(error)


def test_output_that_its_reader_does_not_want_is_no_error():
    assert run("| true", "summary", "resnet50") == (0, "", "")


@pytest.mark.parametrize("length", [3, 100_000])
def test_text_of_any_length_that_a_full_device_does_not_take_is_an_error(length, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(OutputError, match="cannot write to standard output: No space left on device"):
            say_and_finish("x" * length)
        full.flush()


def say_and_finish(text):
    terminal.say(text)
    terminal.finish()
