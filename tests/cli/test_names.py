import importlib.metadata
import itertools
import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

from jaxcnn.cli import main, names
from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.cli.options import COMMANDS
from jaxcnn.data import AUGMENTATIONS, named
from jaxcnn.models.catalog import CATALOG
from jaxcnn.training.optimizers import OPTIMIZERS


@pytest.mark.parametrize(
    ("words", "kind", "nearest", "known"),
    [
        (["train", "--model", "lenet"], "model 'lenet'", "lenet5", CATALOG),
        (["train", "--model", "ResNet18"], "model 'ResNet18'", "resnet18", CATALOG),
        (["summary", "resnet-50"], "model 'resnet-50'", "resnet50", CATALOG),
        (
            ["train", "--data", "digit"],
            "data set 'digit'",
            "digits",
            [*named.NAMES, *named.DOWNLOADED, *named.PATTERNS],
        ),
        (["trian"], "command 'trian'", "train", COMMANDS),
    ],
)
def test_an_unknown_name_lists_the_known_ones_and_the_nearest(
    jaxcnn, tmp_path, monkeypatch, words, kind, nearest, known
):
    monkeypatch.chdir(tmp_path)
    done = jaxcnn(*words)
    assert done.status == 2
    first, *rest = done.err.splitlines()
    assert first == f"error: unknown {kind}; did you mean {nearest}?"
    assert " ".join(" ".join(rest).split()) == f"known: {', '.join(known)}"
    assert max(map(len, rest)) <= 80
    assert list(tmp_path.iterdir()) == []  # no folder of a run that never was


@pytest.mark.parametrize(
    ("option", "given", "nearest", "known"),
    [
        ("--optimizer", "adamwd", "adamw", ", ".join(OPTIMIZERS)),
        (
            "--augment",
            "afine",
            "affine",
            f"{', '.join(AUGMENTATIONS)} or a list such as 'random_crop(padding=4), flip(), cutout(8)'",
        ),
    ],
)
def test_an_unknown_choice_lists_the_known_ones_and_the_nearest(
    jaxcnn, tmp_path, monkeypatch, option, given, nearest, known
):
    monkeypatch.chdir(tmp_path)
    done = jaxcnn("train", option, given)
    assert done.status == 2
    assert done.err == f"error: {option} expects one of {known}, got {given!r}; did you mean {nearest}?\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--model", "--data"])
def test_a_name_that_resembles_none_gets_no_guess(jaxcnn, option):
    done = jaxcnn("train", option, "qqqqqq")
    assert done.status == 2
    assert re.fullmatch(r"error: unknown [a-z ]+ 'qqqqqq'\nknown: .+\n", done.err, re.DOTALL)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--modle", "mlp"], r"Perhaps you meant:.* --model STR"),
        (["train", "--schedule", "cos"], r"invalid choice 'cos' .* Expected one of \('cosine', 'linear', 'constant'\)"),
        (["train", "--epochs", "many"], r"--epochs"),
        (["evaluate"], r"required"),
    ],
)
def test_words_that_are_no_command_or_option_say_what_there_is(jaxcnn, words, message):
    done = jaxcnn(*words)
    assert done.status == 2
    text = re.sub(r"[│╭╮╰╯─\s]+", " ", done.out + done.err)
    assert re.search(message, text)


@pytest.mark.parametrize("words", [["--help"], ["-h"], []])
def test_help_lists_the_commands(jaxcnn, words):
    done = jaxcnn(*words)
    assert done.status == 0
    for command in ("train", "evaluate", "predict", "export", "summary", "bench"):
        assert f"• {command} " in done.out


@pytest.mark.parametrize(
    ("command", "mentioned"),
    [
        ("train", ["--model", "--resume", "--run-dir", "(default: lenet5)", *OPTIMIZERS, *AUGMENTATIONS]),
        ("evaluate", ["Folder of the run", "--split {auto,test,validation,train}", "--batch-size"]),
        ("predict", ["Folder of the run", "--top", "--invert", "PNG, JPEG"]),
        ("bench", ["--peers", "--repeats", "--mode {train,infer,both}", "(default: standard)"]),
        ("summary", ["Name of the model", "--image-shape", "--num-classes"]),
    ],
)
def test_help_of_a_command_explains_its_options(jaxcnn, command, mentioned):
    done = jaxcnn(command, "--help")
    assert done.status == 0
    for word in mentioned:
        assert word in done.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_no_inner_names_of_types_and_defaults(jaxcnn, command):
    text = jaxcnn(command, "--help").out
    for inner in ("{None}", "(default: None)", "(default: )", "--recipe.", "recipe options"):
        assert inner not in text
    # No paragraph is broken in the middle: a short line ends a sentence, or continues an option.
    described = re.findall(r"│ {10,}(\S.*?) *│", text)
    assert all(len(line) > 30 or line.endswith((".", ")")) for line in described)


@pytest.mark.parametrize("command", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_is_as_wide_as_the_terminal(jaxcnn, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    lines = jaxcnn(*command).out.splitlines()
    assert 60 < max(map(len, lines)) <= 80
    # The description: whole words, and no line shorter than it must be.
    box = next(i for i, line in enumerate(lines) if line[:1] in ("╭", " "))
    assert box > 2
    for line, after in itertools.pairwise(lines[:box]):
        assert not after or not line or len(line) + 1 + len(after.split()[0]) > 80


def test_the_version_is_printed(jaxcnn):
    assert jaxcnn("--version") == (0, f"jaxcnn {importlib.metadata.version('jaxcnn')}\n", "")


def test_ctrl_c_while_the_options_are_read_leaves_no_traceback(monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("tyro.cli", interrupted)
    assert main(["evaluate", "run"]) == 130
    assert capsys.readouterr().err == "\nstopped at once\n"


AS_NUMPY = """
import signal
try:
    signal.raise_signal(signal.SIGINT)
    sum(range(1000))
except KeyboardInterrupt:
    raise ImportError("numpy cannot be imported")
"""
MAIN = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from jaxcnn.cli import main"


@pytest.mark.parametrize("source", ["raise KeyboardInterrupt", AS_NUMPY], ids=["exception", "signal"])
@pytest.mark.parametrize("package", ["jax", "tyro"])
def test_ctrl_c_while_packages_are_imported_leaves_no_traceback(environment, tmp_path, package, source):
    (tmp_path / f"{package}.py").write_text(source)
    path = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-c", f"{MAIN}; sys.exit(main(['--version']))"],
        env=environment | {"PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nstopped at once\n")


class Dying:
    """Raises in its destructor, where Python ignores exceptions."""

    def __init__(self, error):
        self.error = error

    def __del__(self):
        raise self.error


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_that_python_ignores_is_not_lost(monkeypatch, capsys):
    ignored = []

    def interrupted(*arguments, **options):
        Dying(OSError("another error"))
        Dying(KeyboardInterrupt())
        for _ in range(1000):
            threading.Event().wait(0.01)

    monkeypatch.setattr(sys, "unraisablehook", hook := ignored.append)
    monkeypatch.setattr("tyro.cli", interrupted)
    assert main(["evaluate", "run"]) == 130
    assert capsys.readouterr().err == "\nstopped at once\n"
    assert [one.exc_type for one in ignored] == [OSError]
    assert sys.unraisablehook is hook


def test_the_words_of_the_process_are_taken_where_none_are_given(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["jaxcnn", "summary", "nonsense"])
    assert main() == 2
    assert "unknown model 'nonsense'" in capsys.readouterr().err


def test_without_the_packages_of_the_command_line_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tyro", None)
    for module in ("commands", "options"):
        monkeypatch.delitem(sys.modules, f"jaxcnn.cli.{module}", raising=False)
    monkeypatch.delattr("jaxcnn.cli.commands", raising=False)
    assert main(["summary"]) == 2
    assert capsys.readouterr().err == "error: the command line needs tyro: pip install 'jaxcnn[cli]'\n"


def test_errors_of_the_user_lose_their_traceback_but_not_the_layer_they_came_from():
    error = ValueError("expected a kernel")
    error.add_note("in layer 'stage1/conv'")
    with pytest.raises(CommandError, match=r"^expected a kernel\nin layer 'stage1/conv'$"), reported(ValueError):
        raise error
    with pytest.raises(ZeroDivisionError), reported(ValueError):
        raise ZeroDivisionError


def test_the_digits_have_a_name():
    digits = names.load_data("digits")
    assert digits.entries["image"].shape == (1797, 32, 32, 1)


def test_an_npz_file_is_data_too(npz, digits8):
    data = names.load_data(str(npz))
    np.testing.assert_array_equal(data.entries["image"][..., 0], digits8[0])
    np.testing.assert_array_equal(data.entries["label"], digits8[1])


def arrays(**changes):
    images = np.zeros((30, 8, 8), np.uint8)
    return {"images": images, "labels": np.arange(30) % 3, **changes}


def without(name):
    return {key: value for key, value in arrays().items() if key != name}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file '.*bad.npz'; expected an .npz file with 'images' and 'labels'"),
        (b"", "'.*bad.npz' is not an .npz file; write one with numpy.savez"),
        (b"PK\x03\x04 and nothing more", "'.*bad.npz' is not an .npz file; write one with numpy.savez"),
        (without("images"), r"'.*bad.npz' has no array 'images', only \['labels'\]; add it with numpy.savez"),
        (without("labels"), r"'.*bad.npz' has no array 'labels', only \['images'\]; add it with numpy.savez"),
        (arrays(labels=np.arange(29) % 3), "expected as many labels as images, got 30 images and 29 labels"),
        (arrays(labels=np.arange(30) % 3 + 1), "cannot count the classes: 3 different labels lie between 1 and 3"),
        (
            arrays(labels=np.arange(30) % 3, class_names=np.array(["a", "b"])),
            r"labels must be in \[0, 2\), got 2 at index 2; number the classes from 0, or give a name for each",
        ),
        (
            arrays(labels=np.arange(30) % 3 - 1, class_names=np.array(["a", "b"])),
            r"labels must be in \[0, 2\), got -1 at index 0",
        ),
        (arrays(labels=np.arange(30) % 3 / 2), "labels must be integers, got float64"),
        (
            arrays(images=np.zeros((0, 8, 8), np.uint8), labels=np.zeros(0, int)),
            "images must hold at least one example",
        ),
        (arrays(images=np.full((30, 8, 8), 7.0)), r"floating point images must be in \[0, 1\], got values from 7 to 7"),
        (arrays(images=np.full((30, 8, 8), np.nan)), "images must be finite, but image 0 holds nan"),
        (arrays(labels=np.arange(30) // 28), "split expects at least 3 examples of every class, .* got 2 of class '1'"),
    ],
)
def test_data_that_cannot_be_used_are_refused_before_a_run_is_made(jaxcnn, tmp_path, content, message):
    path, run = tmp_path / "bad.npz", tmp_path / "run"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.savez(path, **content)
    done = jaxcnn("train", "--model", "mlp", "--batch-size", 4, "--data", path, "--run-dir", run)
    assert done.status == 2
    assert re.match(f"error: ('.*bad.npz': )?{message}", done.err)
    assert not run.exists()


def test_a_cut_npz_file_is_refused(jaxcnn, npz, tmp_path):
    whole = npz.read_bytes()
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole[: len(whole) // 2] + whole[len(whole) // 2 + 100 :])
    done = jaxcnn("train", "--data", cut)
    assert done.status == 2
    assert re.match(r"error: '.*cut.npz' (has an array that cannot be read|is not an .npz file)", done.err)


def test_the_word_for_a_file_is_no_file(jaxcnn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = jaxcnn("train", "--data", "FILE.npz")
    assert done.status == 2
    assert "there is no file 'FILE.npz'" in done.err


def test_a_model_that_cannot_take_the_images_is_refused(jaxcnn, words, tmp_path):
    done = jaxcnn(*words(tmp_path / "run", "--model", "lenet5"))
    assert done.status == 2
    assert done.err == (
        "error: lenet5 expects images of at least 16x16 pixels, got 8x8; enlarge them or take another model\n"
    )
    assert not (tmp_path / "run").exists()
