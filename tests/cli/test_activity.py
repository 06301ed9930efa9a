import io
import logging
import re
import sys

import numpy as np
import pytest
from PIL import Image

from jaxcnn.cli import trained
from jaxcnn.cli.activity import Activity
from jaxcnn.cli.terminal import notices


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def as_terminal(monkeypatch):
    """Makes standard error a terminal whose characters can be read, and standard output if asked for."""

    # Not before the test begins: pytest replaces both streams then.
    def as_terminal(*streams, term="xterm-256color"):
        terminal = Terminal()
        monkeypatch.setenv("TERM", term)
        for stream in streams:
            monkeypatch.setattr(sys, stream, terminal)
        return terminal

    return as_terminal


def left(drawn):
    """What stays on a terminal: the lines that nothing has erased."""
    rows, row = [""], 0
    for piece in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\r\n\x1b]+", drawn):
        if piece == "\n":
            row += 1
            rows += [""] * (row == len(rows))
        elif piece == "\x1b[1A":
            row -= 1
        elif piece == "\x1b[2K":
            rows[row] = ""
        elif piece[0] not in "\r\x1b":
            rows[row] += piece
    return [text for text in rows if text]


def test_an_activity_is_a_line_that_vanishes(as_terminal, capsys):
    terminal = as_terminal("stderr")
    with Activity("reading [bold]") as activity:
        activity.update("predicting")
        with activity.hidden():
            print("a result")
    assert capsys.readouterr().out == "a result\n"
    for text in (r"reading \[bold\] .*0:00:00", r"predicting .*0:00:00"):
        assert re.search(text, terminal.getvalue())
    assert left(terminal.getvalue()) == []


def test_results_stay_whole_on_the_same_terminal(as_terminal):
    terminal = as_terminal("stdout", "stderr")
    with Activity("predicting") as activity:
        for result in ("one", "two"):
            with activity.hidden():
                print(result)
    assert left(terminal.getvalue()) == ["one", "two"]


def test_where_nobody_looks_nothing_is_shown(as_terminal, capsys):
    with Activity("reading") as activity, activity.hidden():
        pass
    assert capsys.readouterr() == ("", "")
    dumb = as_terminal("stderr", term="dumb")
    with Activity("reading"):
        pass
    assert dumb.getvalue() == ""


@pytest.mark.slow
@pytest.mark.heavy
def test_predictions_in_a_file_leave_the_progress_on_the_terminal(jaxcnn, finished, as_terminal, tmp_path):
    terminal = as_terminal("stderr")
    for i in range(5):
        Image.fromarray(np.full((8, 8), 50 * i, np.uint8)).save(tmp_path / f"{i}.png")
    done = jaxcnn("predict", finished, tmp_path, "--batch-size", 2)
    assert done.status == 0
    assert len(done.out.splitlines()) == 5
    assert "\x1b" not in done.out
    for text in ("reading the run", "predicting", "predicting, 2 images so far", "predicting, 5 images so far"):
        assert text in terminal.getvalue()
    assert left(terminal.getvalue()) == []


def test_a_notice_of_the_library_stays_on_the_terminal(as_terminal, caplog):
    terminal, logger = as_terminal("stderr"), logging.getLogger("jaxcnn")
    with notices(), Activity("predicting"):
        logger.info("of no concern")
        logger.warning("building %s", "in a\x1b folder")
    assert left(terminal.getvalue()) == ["building in a\\x1b folder"]
    assert caplog.messages == []
    logger.warning("after")
    assert caplog.messages == ["after"]


def test_a_command_shows_the_notices_of_the_library_once(jaxcnn, finished, monkeypatch):
    def load(*arguments):
        logging.getLogger("jaxcnn").warning("building")
        return real(*arguments)

    real = trained.load
    monkeypatch.setattr(trained, "load", load)
    assert jaxcnn("evaluate", finished).err == "building\n"


def test_an_activity_ends_with_an_error(jaxcnn, as_terminal, tmp_path):
    terminal = as_terminal("stderr")
    assert jaxcnn("predict", tmp_path, "a.png").status == 2
    [error] = left(terminal.getvalue())
    assert error.startswith("error: expected the folder of a run")
