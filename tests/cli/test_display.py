import fcntl
import io
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from types import SimpleNamespace

import pytest

from jaxcnn.cli import display
from jaxcnn.cli.display import BarDisplay, Clock, LineDisplay, make_display
from jaxcnn.training import Metrics, Progress, runs
from jaxcnn.training.observers import Start
from jaxcnn.types import Mean, Objective

ROW = {
    "epoch": 3,
    "train_loss": 0.51239,
    "train_accuracy": 0.8125,
    "validation_accuracy": 0.7503,
    "validation_loss": 0.6789,
    "images_per_second": 12345.6,
    "waiting_for_data": 0.0,
}


ACCURACY = Objective("accuracy", larger_is_better=True)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def open_terminal(monkeypatch):
    """Makes standard output a terminal of 80 columns whose characters can be read."""

    def open_terminal():
        terminal = Terminal()
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
        return terminal

    return open_terminal


def lines(drawn):
    """What was drawn, without colours: every line that stood there for a moment."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", re.sub(r"\x1b\[[0-9;]*m", "", drawn))
    return [line for line in re.split(r"[\r\n]+", plain) if line.strip()]


BAR = re.compile(
    r"epoch +(?P<epoch>\d+)/(?P<epochs>\d+) [━╸╺]+ +loss (?P<loss>\d\.\d{3}) train (?P<train>\d+\.\d\d)% "
    r"val (?P<val>\d+\.\d\d)% (?P<rate>[\d,]+) img/s (?P<left>(\d+:)?\d+:\d\d) left"
)


def start(epochs=4, steps_per_epoch=5, first_step=0, objective=ACCURACY):
    sizes = {"train": 320, "validation": 60, "test": 60}
    return Start(1000, 1000, sizes, (8, 8, 1), ("a", "b"), objective, epochs, steps_per_epoch, first_step, "runs/7")


def progress(step, epoch, loss, correct):
    return Progress(step, epoch, None, Metrics({"loss": Mean(loss, 64), "accuracy": Mean(correct, 64)}))


def test_a_terminal_gets_a_bar_and_anything_else_lines(open_terminal, monkeypatch):
    open_terminal()
    assert isinstance(make_display("mlp", "digits"), BarDisplay)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert isinstance(make_display("mlp", "digits"), LineDisplay)


def test_the_bar_shows_epoch_loss_accuracies_images_per_second_and_time_left(open_terminal):
    terminal = open_terminal()
    with BarDisplay("mlp", "digits") as bar:
        bar.on_start(start())
        bar.on_step(progress(11, 3, 30.0, 48), 9876.5)
        bar.on_epoch(ROW, best=False)
        bar.on_step(progress(20, 4, 32.0, 48), 9876.5)
    last = lines(terminal.getvalue())[-1]
    found = BAR.search(last)
    assert found, last
    assert found.groupdict() == {
        "epoch": "4",
        "epochs": "4",
        "loss": "0.500",
        "train": "75.00",
        "val": "75.03",
        "rate": "9,876",
        "left": "0:00",
    }


def test_the_bar_never_exceeds_the_terminal_and_gives_the_cursor_back(open_terminal):
    terminal = open_terminal()
    with BarDisplay("mlp", "digits") as bar:
        bar.on_start(start(400, 50))
        bar.on_note("a line that is longer than the terminal " * 4)
        bar.on_activity("computing the features of the frozen layers")
        bar.on_activity(None)
        bar.on_step(progress(50, 100, 6400.0, 64), 1_234_567.0)
        bar.on_epoch({**ROW, "validation_accuracy": 1.0}, best=True)
    assert max(map(len, lines(terminal.getvalue()))) <= 80
    assert terminal.getvalue().count("\x1b[?25l") == terminal.getvalue().count("\x1b[?25h") == 1


def test_the_bar_is_one_line_where_all_is_right(open_terminal):
    terminal = open_terminal()
    with BarDisplay("resnet20", "photos") as bar:
        bar.on_start(start(40, 2))
        bar.on_step(progress(75, 38, 0.5, 64), 121_646.0)
        bar.on_epoch({**ROW, "validation_accuracy": 1.0}, best=False)
        for step in (76, 77, 78):
            bar.on_step(progress(step, 38, 0.5, 64), 121_646.0)
    drawn = [line for line in lines(terminal.getvalue()) if "left" in line]
    assert drawn
    assert all(BAR.fullmatch(line.strip()) for line in drawn), drawn


def test_a_new_best_epoch_gets_a_line_of_its_own_above_the_bar(open_terminal):
    terminal = open_terminal()
    with BarDisplay("mlp", "digits") as bar:
        bar.on_start(start())
        bar.on_epoch(ROW, best=False)
        assert not any("best so far" in line for line in lines(terminal.getvalue()))
        bar.on_epoch(ROW, best=True)
    assert "best so far: epoch   3, validation 75.03%, loss 0.6789" in lines(terminal.getvalue())


def test_a_note_is_printed_as_it_is(open_terminal):
    terminal = open_terminal()
    with BarDisplay("mlp", "digits") as bar:
        bar.on_note("runs/[bold]7 [red]")
    assert "runs/[bold]7 [red]" in lines(terminal.getvalue())


@pytest.mark.parametrize(("first", "share"), [(0, 0.0), (10, 0.5)])
def test_a_resumed_bar_starts_where_the_training_stands(open_terminal, first, share):
    open_terminal()
    with BarDisplay("mlp", "digits") as bar:
        bar.on_start(start(first_step=first))
        task = bar._progress.tasks[0]
        assert task.percentage == 100 * share


def test_the_bar_names_what_takes_long_and_counts_its_seconds(open_terminal, monkeypatch):
    terminal = open_terminal()
    with BarDisplay("mlp", "digits") as bar:
        bar.on_start(start())
        now = time.monotonic()
        bar.on_activity("compiling the training step")
        monkeypatch.setattr(display.time, "monotonic", lambda: now + 75)
        bar._progress.refresh()
    assert re.search(r"compiling the training step +1:15", terminal.getvalue().replace("\x1b[36m", ""))


def test_elsewhere_each_epoch_is_a_plain_line(capsys, clock):
    with LineDisplay("mlp", "digits") as printed:
        printed.on_start(start(5, first_step=10))
        printed.on_note("[bold]a note")
        clock.now += 3
        printed.on_epoch(ROW | {"step": 15}, best=True)
        clock.now += 4
        printed.on_epoch({**ROW, "epoch": 4, "step": 20}, best=False)
    # Resumed in the third epoch, which took 3 s; with the fourth it is 3.5 s an epoch, and one is left.
    assert capsys.readouterr().out == (
        "mlp, 1,000 parameters, on digits: 320 training, 60 validation and 60 test images of 8x8x1, 2 classes\n"
        "run folder runs/7; Ctrl-C stops with a checkpoint\n"
        "[bold]a note\n"
        "epoch   3/5  loss 0.5124  train  81.25%  validation  75.03%  12,346 images/s  6 s left  best so far\n"
        "epoch   4/5  loss 0.5124  train  81.25%  validation  75.03%  12,346 images/s  4 s left\n"
    )


def test_waiting_for_data_is_shown_and_much_of_it_gets_advice_once(capsys, open_terminal):
    def advice(text):
        return text.count("keep the data in memory if they fit (--place memory), store smaller images, or use more CPU")

    rows = [
        {**ROW, "epoch": k, "step": 5 * k, "waiting_for_data": share}
        for k, share in enumerate((0.004, 0.1, 0.354, 0.5), 1)
    ]
    with LineDisplay("mlp", "digits") as printed:
        printed.on_start(start())
        for row in rows:
            printed.on_epoch(row, best=False)
    out = capsys.readouterr().out
    assert [re.search(r"images/s(.*?)  ", line)[1] for line in out.splitlines() if line.startswith("epoch")] == [
        "", ", waiting 10%", ", waiting 35%", ", waiting 50%"
    ]  # fmt: skip
    assert "the device waited for data for 35% of the epoch: keep" in out
    assert advice(out) == 1
    terminal = open_terminal()
    with BarDisplay("mlp", "digits") as bar:
        bar.on_start(start())
        bar.on_step(progress(3, 1, 32.0, 48)._replace(waiting=0.25), 1000.0)
        bar._progress.refresh()
        bar.on_epoch(rows[2], best=False)
    text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert "1,000 img/s, waiting 25%" in text
    assert "the device waited for data for 35% of the epoch" in text


def test_a_figure_that_is_no_share_is_no_percentage(capsys):
    row = {"epoch": 1, "step": 5, "train_loss": 2.0, "train_rmse": 1.5, "validation_loss": 2.0, "waiting_for_data": 0.0}
    with LineDisplay("mlp", "wind") as printed:
        printed.on_start(start(objective=Objective("rmse", larger_is_better=False)))
        printed.on_epoch(row | {"validation_rmse": 2.25, "images_per_second": 10.0}, best=False)
        printed.on_epoch(row | {"validation_rmse": None, "images_per_second": 10.0}, best=False)
        printed.on_epoch(row | {"validation_rmse": 2.25, "images_per_second": None}, best=False)
    lines = capsys.readouterr().out.splitlines()
    assert "train 1.5000  validation 2.2500  10 images/s" in lines[2]
    assert "validation -  10 images/s" in lines[3]
    assert "images/s" not in lines[4]


def test_signs_of_life_say_what_takes_long(capsys, monkeypatch):
    monkeypatch.setattr(display, "_FIRST_SIGN", 0.2)
    with LineDisplay("mlp", "digits") as printed:
        printed.on_start(start())
        printed.on_activity("compiling the training step")
        time.sleep(1.2)
        printed.on_activity(None)
    signs = [line for line in capsys.readouterr().out.splitlines() if line.startswith("...")]
    # After 0.2 and 0.6 seconds; the next one would come after 1.4.
    assert signs == ["... compiling the training step, for 0 s", "... compiling the training step, for 1 s"]


def test_notices_of_the_library_are_shown(capsys):
    with LineDisplay("mlp", "digits"):
        logging.getLogger("jaxcnn").info("building the C++ kernels of %s", "jaxcnn\x1b")
    logging.getLogger("jaxcnn").info("nobody listens any more")
    assert capsys.readouterr().out == "building the C++ kernels of jaxcnn\\x1b\n"


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(display.time, "monotonic", lambda: clock.now)
    return clock


def test_the_time_left_does_not_count_what_happens_once(clock):
    measured = Clock()
    measured.begin(first_step=10)
    measured.pause(True)
    clock.now += 1000  # compiling
    measured.pause(False)
    clock.now += 2
    assert measured.seconds_left(11, 30) is None
    assert measured.seconds_left(12, 30) == pytest.approx(2 / 2 * 18)
    clock.now += 2
    assert measured.seconds_left(14, 30) == pytest.approx(4 / 4 * 16)


def test_the_stopwatch_leaves_out_steps_that_compile_and_what_lies_between_epochs(monkeypatch):
    clock = iter([10.0, 12.0, 13.0, 50.0, 50.5, 51.0, 60.0, 61.0])
    monkeypatch.setattr(runs.time, "monotonic", lambda: next(clock))
    stopwatch = runs._Stopwatch(64)
    assert [stopwatch.step(), stopwatch.step(), stopwatch.step()] == [0.0, 64 / 2, 2 * 64 / 3]
    stopwatch.restart()
    assert [stopwatch.step(), stopwatch.step()] == [64 / 0.5, 2 * 64 / 1.0]
    stopwatch.restart(compiles=True)
    assert [stopwatch.step(), stopwatch.step()] == [2 * 64 / 1.0, 64 / 1.0]


def test_two_steps_at_the_same_moment_have_no_rate(monkeypatch):
    monkeypatch.setattr(runs.time, "monotonic", lambda: 1.0)
    stopwatch = runs._Stopwatch(64)
    assert [stopwatch.step(), stopwatch.step()] == [0.0, 0.0]


# A new session takes the terminal as its own, so that Ctrl-C typed there reaches it as a signal.
IN_TERMINAL = (
    "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from jaxcnn.cli import main; sys.exit(main())"
)


def test_in_a_real_terminal_the_bar_is_drawn_and_ctrl_c_stops_with_a_checkpoint(words, environment, tmp_path, saved):
    run = tmp_path / "run"
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL, *map(str, words(run, "--epochs", 10**6, "--augment", "none"))],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(theirs)
    drawn, deadline, typed = b"", time.monotonic() + 120, False
    try:
        while time.monotonic() < deadline:
            try:
                read = os.read(ours, 65536)
            except OSError:  # how Linux tells that the other side is closed
                break
            if not read:
                break
            drawn += read
            if not typed and BAR.search("\n".join(lines(drawn[-20_000:].decode(errors="ignore")))):
                os.write(ours, b"\x03")
                typed = True
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    shown = lines(drawn.decode().replace("^C", ""))  # which the terminal itself echoes
    frames = [found for line in shown if (found := BAR.search(line))]
    assert frames[-1]["epochs"] == "1000000"
    assert sum("best so far: epoch" in line for line in shown) >= 1
    assert max(len(line) for line in shown if line.startswith("epoch ")) <= 100
    assert any(line.startswith("stopping after this step; Ctrl-C again stops at once") for line in shown)
    stopped = re.fullmatch(r"stopped after step (\d+), with a checkpoint; resume with:", shown[-2])
    assert stopped, shown[-3:]
    assert shown[-1] == f"  jaxcnn train --run-dir {run} --resume"
    assert drawn.decode().rindex("\x1b[?25h") > drawn.decode().rindex("\x1b[?25l")  # the cursor is back
    assert saved(run).step == int(stopped[1])


def test_a_notice_of_the_library_is_shown_once(caplog):
    # A handler of the root logger, such as caplog's and those that packages add, must not show it again.
    with make_display("mlp", "digits"):
        logging.getLogger("jaxcnn").info("building the kernels")
    assert caplog.messages == []
    logging.getLogger("jaxcnn").warning("after")
    assert caplog.messages == ["after"]
