"""Models of one's own on the command line: MODULE:FUNCTION and FILE.py:FUNCTION."""

import io
import json
import os
import shutil
import sys

import pytest
from PIL import Image

from jaxcnn import benchmark
from jaxcnn.benchmark import contest
from jaxcnn.cli import bench, own_models
from jaxcnn.cli.errors import CommandError
from jaxcnn.cli.options import Bench
from jaxcnn.layers import Conv, Dense, GlobalAvgPool
from jaxcnn.models import text

MODULE = """
from dataclasses import dataclass
from pathlib import Path

import jax

from jaxcnn.layers import Composite, Conv, Dense, Function, GlobalAvgPool, Sequential

Path("imported").touch()


@dataclass(frozen=True, repr=False)
class OwnNet(Composite):
    conv: Conv
    pool: GlobalAvgPool
    head: Dense

    def forward(self, run, x):
        return run.head(run.pool(jax.nn.relu(run.conv(x))))


@dataclass(frozen=True, repr=False)
class TwoResults(Composite):
    conv: Conv

    def forward(self, run, x):
        y = run.conv(x)
        return {"one": y, "two": y}


@dataclass
class Mutable:
    def init(self, key):
        return {}, {}

    def apply(self, params, state, x, *, train, key=None):
        return x, state


def twice(x):
    return 2 * x


def net(num_classes=10, in_channels=3):
    return OwnNet(Conv(in_channels, 4), GlobalAvgPool(), Dense(4, num_classes))


def needs_classes(num_classes, **options):
    return net(num_classes, **options)


def needs_width(width, num_classes=10):
    return net(num_classes)


def flat(num_classes, in_channels, image_size):
    height, width = image_size
    return Sequential(conv=Conv(in_channels, num_classes, (height, width), padding="VALID"), pool=GlobalAvgPool())


def fails():
    return Conv(3, 0)


def leaves():
    raise SystemExit(3)


@dataclass(frozen=True, repr=False)
class FailsInTraining(Composite):
    conv: Conv

    def forward(self, run, x):
        y = run.conv(x)
        return y + unknown if run.train else jax.numpy.mean(y, (0, 1))


def fails_in_training(num_classes, in_channels):
    return FailsInTraining(Conv(in_channels, num_classes))


def gives_two(num_classes, in_channels):
    return TwoResults(Conv(in_channels, num_classes))


def dict_into_conv(num_classes, in_channels):
    return Sequential(two=gives_two(4, in_channels), head=Conv(4, num_classes))


def doubled():
    return Sequential(twice=Function(twice), net=net())


def nameless():
    return Sequential(twice=Function(lambda x: 2 * x), net=net())


def two_results():
    return TwoResults(Conv(3, 4))


number = 5
fixed = net(7)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a module; nothing of it stays imported."""
    (tmp_path / "nets.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def no_race(monkeypatch):
    monkeypatch.setattr(benchmark, "race", None)


def total(done):
    assert done.status == 0, done.err
    return done.out.splitlines()[-1].split()[1:3]


@pytest.mark.parametrize("name", ["nets:net", "nets.py:net", "./nets.py:net"])
def test_a_model_is_found_in_a_module_and_in_a_file(jaxcnn, folder, name):
    done = jaxcnn("summary", name, "--image-shape", 8, 8, 1, "--num-classes", 3)
    assert done.out.startswith(f"{name} on 8x8x1\n")
    assert total(done) == ["3", str(9 * 4 + 4 + 4 * 3 + 3)]


def test_a_file_of_a_package_keeps_its_relative_imports(jaxcnn, folder):
    package = folder / "place" / "ownpackage"
    (package / "inner").mkdir(parents=True)
    for path in (package / "__init__.py", package / "inner" / "__init__.py"):
        path.touch()
    (package / "sizes.py").write_text("WIDTH = 6\n")
    (package / "inner" / "deep.py").write_text(
        "from jaxcnn.layers import Conv\nfrom ..sizes import WIDTH\n\ndef net():\n    return Conv(3, WIDTH)\n"
    )
    done = jaxcnn("summary", "place/ownpackage/inner/deep.py:net", "--image-shape", 5, 5, 3)
    assert total(done) == ["5x5x6", str(27 * 6 + 6)]
    assert sys.modules["ownpackage.inner.deep"].WIDTH == 6


def test_a_function_gets_the_arguments_that_it_takes(folder):
    assert own_models.build("nets:net", None, (8, 6, 2)).children() == {
        "conv": Conv(2, 4),
        "pool": GlobalAvgPool(),
        "head": Dense(4, 10),
    }
    assert own_models.build("nets:needs_classes", 3, (8, 6, 3))["head"] == Dense(4, 3)
    assert own_models.build("nets:flat", 5, (8, 6, 2))["conv"] == Conv(2, 5, (8, 6), padding="VALID")
    assert own_models.build("nets:fixed", None, (8, 6, 3))["head"] == Dense(4, 7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nets:nett", r"expected a function of nets, got 'nett', which it does not have; did you mean net\?"),
        ("nets:", "expected a model as MODULE:FUNCTION or FILE.py:FUNCTION, got nets:"),
        ("a b:net", "expected a model as MODULE:FUNCTION or FILE.py:FUNCTION, got a b:net"),
        ("nest:net", "expected a module that can be imported, got 'nest'; call the command in the folder that has it"),
        ("nets.inner:net", "expected a module that can be imported, got 'nets.inner'"),
        ("nest.py:net", "expected a file of Python code, got nest.py, which does not exist"),
        ("nets:number", "expected nets:number to be a function or a layer, got 5"),
        ("nets:twice", "to require none but num_classes, in_channels and image_size, got no value for x; give its "),
        ("nets:needs_width", "got no value for width; give its other parameters defaults"),
        ("nets:needs_classes", "got no value for num_classes; give --num-classes"),
        ("nets:OwnNet", "got no value for conv, pool, head"),
        ("nets:Path", r"expected nets:Path to return a layer, with init\(key\) and .* got PosixPath"),
        ("nets:Mutable", "expected nets:Mutable to return a frozen dataclass, got unhashable type: 'Mutable'"),
        ("nets:fails", r"the code of nets:fails fails: ValueError: .*nets.py, line 62\)"),
        ("nets:leaves", r"the code of nets:leaves fails: SystemExit: 3 \(.*nets.py, line 66\)"),
    ],
)
def test_what_is_no_model_is_refused(jaxcnn, folder, name, message):
    done = jaxcnn("summary", name, "--image-shape", 8, 8, 3)
    assert done.status == 2
    with pytest.raises(CommandError, match=message) as caught:
        own_models.build(name, None, (8, 8, 3))
    assert done.err == f"error: {caught.value}\n"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 / 0", r"the code of broken fails: ZeroDivisionError: division by zero \(.*broken.py, line 2\)"),
        ("import no_such_package", r"ModuleNotFoundError: No module named 'no_such_package' \(.*broken.py, line 2\)"),
        ("def (", r"the code of broken fails: SyntaxError: .*\(broken.py, line 2\)"),
    ],
)
def test_a_module_that_fails_is_named_with_the_line(folder, code, message):
    (folder / "broken.py").write_text(f"\n{code}\n")
    with pytest.raises(CommandError, match=message):
        own_models.find("broken:net")


def test_a_file_with_the_name_of_another_module_is_refused(folder):
    (folder / "json.py").write_text("def net(): ...\n")
    with pytest.raises(CommandError, match=r"expected .*json.py to be the module json, got .*; rename the file"):
        own_models.find("json.py:net")


def test_a_summary_needs_the_size_of_the_images(jaxcnn, folder):
    assert jaxcnn("summary", "nets:net").err == (
        "error: --image-shape expects the size of the images for nets:net, got none\n"
    )
    done = jaxcnn("summary", "nets:net", "--image-shape", 8, 8, 3, "--num-classes", 3)
    assert total(done)[0] == "3"
    done = jaxcnn("summary", "nets:fixed", "--image-shape", 8, 8, 3, "--num-classes", 3)
    assert done.err == (
        "error: --num-classes expects a model that gives 3 numbers, got (7,) of nets:fixed; omit it, or use "
        "num_classes in the function\n"
    )
    done = jaxcnn("summary", "nets:fixed", "--image-shape", 8, 8, 1)
    assert done.err.startswith("error: conv expects an image of 3 channels")
    assert done.err.endswith("in layer 'conv'\n")


def test_a_benchmark_takes_sizes_and_classes(folder):
    options = Bench(models=("nets:net",), image_size=8, in_channels=2, num_classes=3, peers="torch", mode="infer")
    (planned,) = bench.plan(options)
    assert (planned.name, planned.batch_size, planned.image_shape) == ("nets:net", 128, (8, 8, 2))
    assert planned.model == own_models.build("nets:net", 3, (8, 8, 2))
    (planned,) = bench.plan(Bench(models=("nets.py:net",), image_size=65, mode="infer"))
    assert (planned.batch_size, planned.image_shape) == (8, (65, 65, 3))
    (planned,) = bench.plan(Bench(models=("lenet5",), in_channels=3, num_classes=7, mode="infer"))
    assert (planned.image_shape, planned.model["head"].out_features) == ((32, 32, 3), 7)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nets:net"], "--image-size expects the size of the images for nets:net, got none"),
        (["nets:fixed", "--image-size", 8, "--num-classes", 3], "--num-classes expects a model that gives 3 numbers"),
        (["nets:net", "--image-size", 8, "--in-channels", 0], "--in-channels expects a number at least 1, got 0"),
        (["nets:nameless", "--image-size", 8], "expects its functions to be named ones of modules, not lambdas"),
        (["nets:two_results", "--image-size", 8], "a model whose result is one array of logits, got {'one': (8, 8, 4)"),
    ],
)
def test_a_benchmark_refuses_before_anything_is_measured(jaxcnn, folder, no_race, words, message):
    done = jaxcnn("bench", *words)
    assert done.status == 2
    assert message in done.err


def test_the_processes_of_a_benchmark_find_the_module(folder):
    (planned,) = bench.plan(Bench(models=("nets.py:net",), image_size=8, mode="infer", batch_size=2))
    paths = contest._environment(planned.spec("jaxcnn"))["PYTHONPATH"].split(os.pathsep)
    assert str(folder) in paths
    assert "" not in paths


@pytest.mark.slow
def test_a_model_of_ones_own_is_measured(jaxcnn, folder, monkeypatch):
    words = ["--image-size", 8, "--batch-size", 2, "--repeats", 1, "--mode", "infer", "--output", "all.jsonl"]
    assert jaxcnn("bench", "nets.py:net", *words).status == 0
    (record,) = map(json.loads, (folder / "all.jsonl").read_text().splitlines())
    assert (record["model"], record["status"]) == ("nets.py:net", "measured")


RESUME = ["train", "--run-dir", "run", "--resume"]
COMMANDS = (["evaluate", "run"], ["predict", "run", "picture.png"], ["export", "run", "--platforms", "cpu"])


def test_code_that_only_a_run_folder_names_is_not_imported(jaxcnn, finished, folder, edit_config):
    (folder / "run").mkdir()
    shutil.copy(finished / "config.json", folder / "run")
    edit_config(folder / "run", lambda config: config["options"].update(model="nets:net"))
    for command, option in (*((command, "--layer") for command in COMMANDS), (RESUME, "--model")):
        done = jaxcnn(*command)
        assert done.status == 2
        assert done.err == (
            f"error: expected {option} nets:net, or where that code is now: the run in run has a model of one's own, "
            "and code is imported only if you name it; do so only if you trust it\n"
        )
    assert not (folder / "imported").exists()


@pytest.mark.slow
def test_a_run_is_used_with_its_code_named(jaxcnn, npz, no_pictures, folder, monkeypatch):
    words = ["--data", npz, "--batch-size", 60, "--run-dir", "run", "--epochs", 1, "--augment", "none"]
    assert jaxcnn("train", "--model", "nets.py:net", *words).status == 0
    config = json.loads((folder / "run" / "config.json").read_text())
    assert config["options"]["model"] == f"{folder}/nets.py:net"
    assert config["model"] == "OwnNet(Conv(1, 4), GlobalAvgPool(), Dense(4, 10))"
    forget(monkeypatch)
    (folder / "picture.png").write_bytes(picture())
    # The folder of the code may have moved.
    (folder / "elsewhere").mkdir()
    (folder / "nets.py").rename(folder / "elsewhere" / "nets.py")
    for command in COMMANDS:
        assert jaxcnn(*command, "--layer", "elsewhere/nets.py:net").status == 0
    resumed = jaxcnn(*RESUME, "--model", "elsewhere/nets.py:net")
    assert resumed.out.startswith("the run in run is already finished\n")
    other = jaxcnn(*RESUME, "--model", "mlp")
    assert "cannot change --model" in other.err
    more = ["--data", npz, "--run-dir", "more", "--epochs", 1, "--augment", "none", "--init-from", "run"]
    assert jaxcnn("train", "--model", "elsewhere/nets.py:net", *more).status == 0


@pytest.mark.slow
def test_a_stopped_run_is_resumed(jaxcnn, npz, no_pictures, folder, at_step, ctrl_c, monkeypatch):
    at_step({2: ctrl_c})
    words = ["--data", npz, "--batch-size", 60, "--run-dir", "run", "--epochs", 2, "--augment", "none"]
    stopped = jaxcnn("train", "--model", "nets:net", *words)
    assert stopped.out.endswith("  jaxcnn train --run-dir run --resume --model nets:net\n")
    forget(monkeypatch)
    # The file of the code may have moved: the advice names its new place.
    (folder / "elsewhere").mkdir()
    (folder / "nets.py").rename(folder / "elsewhere" / "nets.py")
    at_step({3: ctrl_c})
    stopped = jaxcnn(*RESUME, "--model", "elsewhere/nets.py:net")
    assert stopped.out.endswith("  jaxcnn train --run-dir run --resume --model elsewhere/nets.py:net\n")
    forget(monkeypatch)
    at_step({})
    done = jaxcnn(*stopped.out.splitlines()[-1].split()[1:])
    assert (done.status, done.err) == (0, "")
    assert "best epoch" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nets:doubled"], "expected nets:doubled to be made of layers whose text tells what they are, got expected a"),
        (["nets:nameless"], "expected nets:nameless to be made of layers whose text tells what they are"),
        (
            ["nets:net", "--init-from", "weights.pth"],
            "--init-from expects the folder of a run with nets:net, which is ",
        ),
        (["nets:fixed"], "conv expects an image of 3 channels"),
        (
            ["nets:fails_in_training"],
            "the code of nets:fails_in_training fails: NameError: name 'unknown' is",
        ),
        (
            ["nets:gives_two"],
            "expected a model that gives one array, for Classification, got a model that gives {",
        ),
        (["nets:dict_into_conv"], "fails: TypeError: conv expects an array, got a dict of 'one', 'two'; choose"),
    ],
)
def test_a_training_that_nobody_could_read_again_is_refused(jaxcnn, npz, folder, words, message):
    done = jaxcnn("train", "--data", npz, "--run-dir", "run", "--model", *words)
    assert done.status == 2
    assert message in done.err
    assert not (folder / "run").exists()


def forget(monkeypatch):
    """Forgets the module and its classes, as a new process would."""
    known = text._known_classes

    def without():
        return known() if "nets" in sys.modules else {name: k for name, k in known().items() if name != "OwnNet"}

    del sys.modules["nets"]
    monkeypatch.setattr(text, "_known_classes", without)


def picture():
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 200).save(buffer, "PNG")
    return buffer.getvalue()
