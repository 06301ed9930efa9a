import contextlib
import io
import os
import signal
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxcnn import trees
from jaxcnn.cli import main, train
from jaxcnn.cli.display import LineDisplay
from jaxcnn.cli.run_folder import RunFolder
from jaxcnn.training.checkpoint import Checkpoints

ROOT = Path(__file__).parents[2]
FINISHED = ["--epochs", 4, "--learning-rate", 5e-3, "--warmup-epochs", 1, "--augment", "none", "--checkpoint-epochs", 1]


class Done(NamedTuple):
    """A command that was run in this process."""

    status: int
    out: str
    err: str


class Saved(NamedTuple):
    """A checkpoint: leaves by name as (dtype, shape, bytes)."""

    step: int
    leaves: dict[str, tuple]
    meta: dict


@pytest.fixture(scope="session")
def compilation_cache_settings(tmp_path_factory):
    return {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }


@pytest.fixture(autouse=True, scope="module")
def compile_once(compilation_cache_settings):
    """Keeps compiled programs for the runs to come: most of them train the same small model."""
    before = {name: getattr(jax.config, name) for name in compilation_cache_settings}

    def update(settings):
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()

    update(compilation_cache_settings)
    yield
    update(before)


@pytest.fixture
def environment(compilation_cache_settings):
    """The environment of a process that shares them."""
    settings = {name.upper(): str(value) for name, value in compilation_cache_settings.items()}
    own = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    return own | settings | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


@pytest.fixture(autouse=True)
def as_users_run_it(monkeypatch):
    """Standard promotion, which Optax's Adam needs, and the same width of the output everywhere."""
    monkeypatch.setenv("COLUMNS", "100")
    with jax.numpy_dtype_promotion("standard"):
        yield


def run_main(words):
    try:
        return main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code


@pytest.fixture
def jaxcnn(capsys):
    """Runs a command in this process: `jaxcnn("evaluate", folder)`."""

    def run(*words):
        capsys.readouterr()
        status = run_main(words)
        return Done(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def digits8():
    """30 of each handwritten digit, 8x8 pixels of 0 to 240, and their labels."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == k)[:30] for k in range(10)]))
    return (pixels[chosen].reshape(-1, 8, 8) * 15).astype(np.uint8), labels[chosen]


@pytest.fixture(scope="session")
def npz(tmp_path_factory, digits8):
    """The same as a file: 180 training, 60 validation and 60 test images, so 5 steps of 32 in an epoch."""
    path = tmp_path_factory.mktemp("data") / "digits8.npz"
    np.savez(path, images=digits8[0], labels=digits8[1])
    return path


@pytest.fixture(scope="session")
def words(npz):
    """`train` on that file with a small model."""

    def words(run, *more):
        return ["train", "--model", "mlp", "--data", npz, "--batch-size", 32, "--run-dir", run, *more]

    return words


@pytest.fixture(scope="session")
def finish(tmp_path_factory):
    """Runs a training for several tests, in a new folder that it returns; what it printed is beside that."""

    def finish(words, pictures=False):
        run = tmp_path_factory.mktemp("finished") / "run"
        with contextlib.ExitStack() as stack:
            stack.enter_context(jax.numpy_dtype_promotion("standard"))
            output = stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            if not pictures:
                leave_pictures_out(stack.enter_context(pytest.MonkeyPatch.context()))
            assert run_main(words(run)) == 0
        run.with_name("output").write_text(output.getvalue())
        return run

    return finish


@pytest.fixture(scope="session")
def finished(finish, words):
    """The folder of a finished run, not to be changed: 4 epochs of 5 steps, a checkpoint after each."""
    return finish(lambda run: words(run, *FINISHED), pictures=True)


@pytest.fixture(scope="session")
def other_seed(finish, words):
    """The folder of the same training with another seed, not to be changed."""
    return finish(lambda run: words(run, *FINISHED, "--seed", 1))


def leave_pictures_out(monkeypatch):
    for name in ("curves", "confusion", "mistakes", "save"):
        monkeypatch.setattr(train.plots, name, lambda *arguments, **options: None)


@pytest.fixture
def no_pictures(monkeypatch):
    """Leaves the pictures out, which take most of the time of a tiny run."""
    leave_pictures_out(monkeypatch)


@pytest.fixture
def at_step(monkeypatch):
    """Plans what happens just after steps of the next training: `at_step({7: ctrl_c})`."""

    def plan(actions):
        class Planned(LineDisplay):
            def step(self, step, epoch, metrics, rate):
                super().step(step, epoch, metrics, rate)
                actions.get(step, lambda: None)()

        monkeypatch.setattr(train, "make_display", lambda epochs, *_: Planned(epochs))

    return plan


@pytest.fixture
def ctrl_c():
    """Presses Ctrl-C; a shell that starts the tests in the background has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def saved():
    """Reads the newest checkpoint of a run."""

    def read(run: Path) -> Saved:
        folder = RunFolder(run)
        experiment = train.set_up(folder.options)
        restored = train.restore(experiment, Checkpoints(folder.checkpoints))
        assert restored.skipped == ()
        arrays = {name: np.asarray(leaf) for name, leaf in trees.named_leaves(restored.tree).items()}
        leaves = {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()}
        return Saved(restored.step, leaves, restored.meta)

    return read


@pytest.fixture
def rows():
    """Reads metrics.jsonl without the one column that is measured with a clock."""

    def read(run: Path) -> list[dict]:
        return [
            {name: value for name, value in row.items() if name != "images_per_second"}
            for row in RunFolder(run).metrics()
        ]

    return read
