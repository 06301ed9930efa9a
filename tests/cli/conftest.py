import contextlib
import io
import json
import os
import signal
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image

from jaxcnn import data
from jaxcnn.cli import display, main, pictures, train
from jaxcnn.cli.display import LineDisplay
from jaxcnn.layers import Conv, Sequential
from jaxcnn.training.recipe import Recipe
from jaxcnn.training.run_folder import RunFolder
from jaxcnn.training.runs import run

ROOT = Path(__file__).parents[2]
FINISHED = ["--epochs", 4, "--learning-rate", 5e-3, "--warmup-epochs", 1, "--augment", "none", "--checkpoint-epochs", 1]


class Done(NamedTuple):
    """A command that was run in this process."""

    status: int
    out: str
    err: str


class Part(NamedTuple):
    """A part of a data set as arrays."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]


class Saved(NamedTuple):
    """A checkpoint: leaves by name as (dtype, shape, bytes)."""

    step: int
    leaves: dict[str, tuple]
    meta: dict


@pytest.fixture(autouse=True, scope="module")
def compiled_once(compile_once):
    """Most of the runs train the same small model."""


@pytest.fixture
def environment(compilation_cache_settings):
    """The environment of a process that shares them."""
    settings = {name.upper(): str(value) for name, value in compilation_cache_settings.items()}
    own = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    return own | settings | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


@pytest.fixture(autouse=True, scope="session")
def without_signs_of_life():
    """Leaves out the lines that depend on the time that something takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(display, "_FIRST_SIGN", 1e9)
        yield


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
def splits(npz):
    """The three parts of that file, by name."""

    def part(source):
        (batch,) = data.eval_batches(source, len(source))
        return Part(data.unit_pixels(batch["image"]), batch["label"], source.class_names)

    return {name: part(source) for name, source in data.split(data.load_npz(npz), seed=0).items()}


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


@pytest.fixture(scope="session")
def masked(tmp_path_factory):
    """A folder of 30 noisy images of 8x8 and their masks: class 1 is bright, class 0 dark."""
    folder = tmp_path_factory.mktemp("masked")
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for k in range(30):
        mask = rng.random((8, 8)) < 0.4
        image = np.clip(60 + 120 * mask[..., None] + rng.normal(0, 30, (8, 8, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{k:02}.png")
        Image.fromarray(mask.astype(np.uint8)).save(folder / "masks" / f"{k:02}.png")
    (folder / "classes.txt").write_text("dark\nbright\n")
    return folder


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory, masked):
    """The folder of a run that was started in Python: a model of one layer on these images."""
    folder = tmp_path_factory.mktemp("segmenter") / "run"
    recipe = Recipe(epochs=3, batch_size=6, learning_rate=0.5, augment="none", warmup_epochs=0)
    with jax.numpy_dtype_promotion("standard"):
        run(Sequential(head=Conv(3, 2, kernel_size=1)), data.mask_folder(masked), recipe, folder=folder)
    return folder


def leave_pictures_out(monkeypatch):
    for name in ("curves", "confusion", "detections", "mistakes", "segmentations"):
        monkeypatch.setattr(pictures.plots, name, lambda *arguments, **options: None)
    monkeypatch.setattr(pictures.plots, "save", lambda figure, path: path.touch())


@pytest.fixture
def no_pictures(monkeypatch):
    """Leaves the pictures out, which take most of the time of a tiny run."""
    leave_pictures_out(monkeypatch)


@pytest.fixture
def at_step(monkeypatch):
    """Plans what happens just after steps of the next training: `at_step({7: ctrl_c})`."""

    def plan(actions):
        class Planned(LineDisplay):
            def on_step(self, progress, images_per_second):
                super().on_step(progress, images_per_second)
                actions.get(progress.step, lambda: None)()

        monkeypatch.setattr(train, "make_display", Planned)

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
        restored = RunFolder(run).checkpoints.restore_leaves("")
        assert restored.skipped == ()
        arrays = {name: np.asarray(leaf) for name, leaf in restored.tree.items()}
        leaves = {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()}
        return Saved(restored.step, leaves, restored.meta)

    return read


@pytest.fixture
def rows():
    """Reads metrics.jsonl without the one column that is measured with a clock."""

    def read(run: Path) -> list[dict]:
        return [
            {name: value for name, value in row.items() if name not in ("images_per_second", "waiting_for_data")}
            for row in RunFolder(run).metrics()
        ]

    return read


@pytest.fixture
def edit_config():
    """Changes config.json as the program itself would, with a new checksum."""

    def edit(run: Path, change) -> None:
        file = run / "config.json"
        config = json.loads(file.read_text())
        del config["checksum"]
        change(config)
        checksum = zlib.crc32(json.dumps(config, sort_keys=True).encode())
        file.write_text(json.dumps(config | {"checksum": f"{checksum:08x}"}))

    return edit
