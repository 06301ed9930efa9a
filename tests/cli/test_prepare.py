import hashlib
import io

import numpy as np
import pytest
from archive_files import idx, pixels

from jaxcnn.cli import names, prepare
from jaxcnn.data import named
from jaxcnn.data.download import PublishedFile
from jaxcnn.data.sources import archives


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """A folder with small files of MNIST's format, which count as the published ones: 30 and 10 images."""
    monkeypatch.setenv("JAXCNN_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for prefix, count in (("train", 30), ("t10k", 10)):
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(idx(pixels(count, count, 28, 28)))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx((np.arange(count) % 10).astype(np.uint8)))

    def described(file):
        content = (folder / file.name).read_bytes()
        return PublishedFile("http://127.0.0.1:9/" + file.name, len(content), hashlib.sha256(content).hexdigest())

    archive = archives.ARCHIVES["mnist"]
    monkeypatch.setitem(
        archives.ARCHIVES, "mnist", archive._replace(files=tuple(described(file) for file in archive.files))
    )
    return folder


def test_a_data_set_is_listed_and_prepared(jaxcnn, mnist, tmp_path):
    listed = jaxcnn("data", "list").out
    assert "emnist_digits" in listed
    assert "562 MB" in listed
    assert str(tmp_path) not in listed
    folder = tmp_path / "cache" / "data" / "mnist"
    done = jaxcnn("data", "prepare", "mnist", "--from", mnist)
    assert (done.status, done.err) == (0, "")
    assert done.out == f"mnist is prepared in {folder}; train on it by --data mnist\n"
    assert str(folder) in jaxcnn("data", "list").out
    assert {name: len(part) for name, part in names.load_data("mnist").items()} == {"train": 30, "test": 10}


@pytest.mark.slow
def test_a_prepared_data_set_is_trained_on(jaxcnn, mnist, tmp_path, no_pictures):
    assert jaxcnn("data", "prepare", "mnist", "--from", mnist).status == 0
    run = tmp_path / "run"
    done = jaxcnn(*["train", "--data", "mnist", "--model", "mlp", "--epochs", 1, "--batch-size", 8, "--run-dir", run])
    assert done.status == 0
    assert jaxcnn("evaluate", run, "--json").status == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prepare", "mnits"], "error: expected one of the data sets cifar10, "),
        (["prepare", "mnist", "--from", "nowhere"], "error: expected the folder of the files train-images"),
        (["prepare", "mnist"], "error: the download of http://127.0.0.1:9/train-images"),
    ],
)
def test_what_cannot_be_prepared_is_one_message(jaxcnn, mnist, words, message):
    done = jaxcnn("data", *words)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(message)


def test_a_training_downloads_or_says_what_else_to_do(jaxcnn, mnist, tmp_path):
    done = jaxcnn("train", "--data", "mnist", "--run-dir", tmp_path / "run")
    assert done.status == 2
    assert done.err.endswith("; or give a local copy, as `jaxcnn data prepare mnist --from PATH`\n")
    assert not (tmp_path / "run").exists()


def test_help_of_the_commands_explains_them(jaxcnn):
    for words, mentioned in ((["data"], "prepare"), (["data", "prepare"], "--from PATH"), (["data", "list"], "Lists")):
        done = jaxcnn(*words, "--help")
        assert done.status == 0
        assert mentioned in done.out
    assert jaxcnn("data").status == 2


def test_a_bar_is_shown_on_a_terminal_alone(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, is_shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", stream)
        with prepare.progress_bar() as progress:
            progress("file[1].gz", 500_000, 1_000_000)
            progress("file[1].gz", 1_000_000, 1_000_000)
        assert ("file[1].gz" in stream.getvalue()) == is_shown
        assert ("1.0/1.0 MB" in stream.getvalue()) == is_shown


def test_prepared_sets_of_tensorflow_datasets_have_names(jaxcnn, tmp_path, monkeypatch):
    tensorflow_datasets = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(tensorflow_datasets.core.constants, "DATA_DIR", str(tmp_path))
    done = jaxcnn("train", "--data", "tfds:mnist:train[:80%]")
    assert done.status == 2
    assert done.err.startswith("error: 'mnist' is not prepared in ")
    assert f"  tfds build mnist --data_dir={tmp_path}\n" in done.err
    assert jaxcnn("train", "--data", "tfds:").err.startswith("error: expected a data set, ")


def test_a_file_does_not_hide_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    assert [named.find(name).scheme for name in ("mnist", "digits", "tfds:mnist", "mnist.npz")] == [
        "",
        "",
        "tfds",
        "npz",
    ]
