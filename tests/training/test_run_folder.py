import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.training.run_folder import RunFolder, RunFolderError

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "run_0_1"
CONFIG = {
    "recipe": {"epochs": 3},
    "model": "Dense(2, 3)",
    "task": "Classification()",
    "image_shape": [4, 4, 1],
    "class_names": ["cat", "dog"],
    "data_fingerprint": {"train": "ab"},
    "versions": {},
}
ROWS = [{"epoch": epoch, "train_loss": 1 / epoch} for epoch in (1, 2, 3)]
PARAMS = {"head": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3, jnp.bfloat16)}, "relu": {}}


@pytest.fixture
def path(tmp_path):
    """The folder of a run with three epochs, weights and a result."""
    with RunFolder.create(tmp_path / "run", CONFIG) as folder:
        for row in ROWS:
            folder.append_metrics(row)
        folder.save_best(PARAMS, {"head": {}, "relu": {}}, epoch=2)
        folder.write_result({"best_epoch": 2})
        folder.checkpoints.save(5, {"w": jnp.ones(2)}, {"best": {"epoch": 2}})
    return tmp_path / "run"


def edit(file, change):
    """Changes a JSON file."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_what_was_written_is_read(path):
    folder = RunFolder(path)
    assert {name: folder.config[name] for name in CONFIG} == CONFIG
    assert re.fullmatch("[0-9a-f]{16}", folder.id or "")
    assert folder.metrics() == ROWS
    assert folder.result() == {"best_epoch": 2}
    leaves, epoch, skipped = folder.read_best()
    assert (epoch, skipped) == (2, ())
    assert list(leaves["params"]) == ["head/bias", "head/kernel"]
    assert leaves["state"] == {}
    for name, leaf in leaves["params"].items():
        expected = PARAMS["head"][name.removeprefix("head/")]
        assert leaf.dtype == expected.dtype
        np.testing.assert_array_equal(np.asarray(leaf, float), np.asarray(expected, float))
    assert folder.checkpoints.faults() == []


def test_two_runs_have_different_identities(tmp_path):
    ids = []
    for name in ("one", "two"):
        with RunFolder.create(tmp_path / name, CONFIG) as folder:
            ids.append(folder.id)
    assert ids[0] != ids[1]


def test_the_folder_can_be_moved(path, tmp_path):
    path.rename(tmp_path / "elsewhere")
    folder = RunFolder(tmp_path / "elsewhere")
    with folder.writing():
        folder.append_metrics({"epoch": 4})
    assert len(folder.metrics()) == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["recipe"].update(epochs=4),
        lambda config: config.update(class_names=["dog", "cat"]),
        lambda config: config.update(more=1),
        lambda config: config.pop("model"),
        lambda config: config.pop("checksum"),
        lambda config: config.update(run="0" * 16),
    ],
)
def test_an_edited_config_is_refused(path, change):
    edit(path / "config.json", change)
    with pytest.raises(RunFolderError, match=r"got an edited or damaged one: its checksum does not match"):
        RunFolder(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"schema": 1}', b"\xff", b"[" * 100_000])
def test_a_damaged_config_is_named(path, content):
    (path / "config.json").write_bytes(content)
    with pytest.raises(RunFolderError, match=re.escape(str(path / "config.json"))):
        RunFolder(path)


def test_a_folder_of_a_later_version_is_refused(path):
    edit(path / "config.json", lambda config: config.update(schema=2))
    with pytest.raises(RunFolderError, match=r"expected a run folder of schema 1 in .*, got 2; .* by a later version"):
        RunFolder(path)


def test_a_folder_of_the_first_version_opens():
    folder = RunFolder(GOLDEN)
    assert folder.id is None
    assert [row["epoch"] for row in folder.metrics()] == [1, 2, 3, 4, 5, 6]
    leaves, epoch, skipped = folder.read_best()
    assert (epoch, skipped) == (5, ())
    assert leaves["params"]["head/bias"].shape == (10,)


def damaged_lines(lines):
    half = json.dumps(json.loads(lines[1]) | {"train_loss": 0.25}).encode()
    return {
        "half a line": [lines[0], lines[1][:20], lines[2]],
        "an edited number": [lines[0], half, lines[2]],
        "no object": [lines[0], b"{}", lines[2]],
        "a list": [lines[0], b"[1]", lines[2]],
        "an empty line": [lines[0], b"", lines[2]],
        "bytes": [lines[0], b"\xff\xfe", lines[2]],
        "a line twice": [lines[0], lines[0], lines[2]],
        "a line too few": [lines[0], lines[2], lines[2]],
    }


@pytest.mark.parametrize("kind", sorted(damaged_lines([b'{"train_loss": 1}'] * 3)))
def test_damaged_metrics_are_named(path, kind):
    lines = (path / "metrics.jsonl").read_bytes().splitlines()
    (path / "metrics.jsonl").write_bytes(b"".join(line + b"\n" for line in damaged_lines(lines)[kind]))
    before = (path / "metrics.jsonl").read_bytes()
    folder = RunFolder(path)
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl, line 2"):
        folder.metrics()
    with folder.writing(), pytest.raises(RunFolderError, match=r"metrics\.jsonl, line 2"):
        folder.keep_metrics(3)
    assert (path / "metrics.jsonl").read_bytes() == before


def test_a_last_line_without_its_end_does_not_count(path):
    with (path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"epoch": 4, "train_')
    folder = RunFolder(path)
    assert folder.metrics() == ROWS
    with folder.writing():
        assert folder.keep_metrics(2) == ROWS[:2]
        assert folder.metrics() == ROWS[:2]
        with pytest.raises(RunFolderError, match=r"expected the metrics of 3 epochs in .*, got 2"):
            folder.keep_metrics(3)


@pytest.mark.parametrize("lines", [0, 1])
def test_lines_that_a_finished_run_lacks_are_missed(path, lines):
    file = path / "metrics.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:lines]))
    if not lines:
        file.unlink()
    with pytest.raises(RunFolderError, match=rf"at least 2 epochs in .*, as result.json says, got {lines}; restore"):
        RunFolder(path).metrics()


@pytest.mark.parametrize("name", ["metrics.jsonl", "result.json", "best.npz"])
def test_a_file_of_another_run_is_refused(path, tmp_path, name):
    with RunFolder.create(tmp_path / "other", CONFIG) as other:
        other.append_metrics(ROWS[0])
        other.save_best(PARAMS, {}, epoch=1)
        other.write_result({"best_epoch": 1})
    (path / name).write_bytes((tmp_path / "other" / name).read_bytes())
    folder = RunFolder(path)
    read = {"metrics.jsonl": folder.metrics, "result.json": folder.result, "best.npz": folder.read_best}[name]
    with pytest.raises(RunFolderError, match=rf"of run {folder.id} in .*{re.escape(name)}.*, got th.* another"):
        read()


def test_a_checkpoint_of_another_run_or_step_is_named(path, tmp_path):
    with RunFolder.create(tmp_path / "other", CONFIG) as other:
        other.checkpoints.save(7, {"w": jnp.zeros(2)}, {"best": {"epoch": 1}})
    (tmp_path / "other" / "checkpoints" / "7").rename(path / "checkpoints" / "7")
    folder = RunFolder(path)
    assert folder.checkpoints.faults() == [f"checkpoint 7: it belongs to another run ({other.id}, not {folder.id})"]
    restored = folder.checkpoints.restore({"w": jnp.zeros(2)})
    assert (restored.step, float(restored.tree["w"][0])) == (5, 1.0)
    (path / "checkpoints" / "5").rename(path / "checkpoints" / "6")
    assert folder.checkpoints.faults()[1] == "checkpoint 6: it was saved at step 5; its folder was renamed"


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_damaged_weights_are_named(path, place):
    content = bytearray((path / "best.npz").read_bytes())
    content[int(place * len(content))] ^= 255
    (path / "best.npz").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"expected the best weights in .*best\.npz, got"):
        RunFolder(path).read_best()
    (path / "best.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(RunFolderError, match=r"delete it to use the best epoch of the newest checkpoint"):
        RunFolder(path).read_best()


def test_a_run_without_a_whole_epoch_has_no_weights(tmp_path):
    with RunFolder.create(tmp_path / "run", CONFIG) as folder:
        assert folder.metrics() == []
        assert folder.result() is None
        with pytest.raises(
            RunFolderError, match=r"expected a run with at least one whole epoch, got .*; resume it first"
        ):
            folder.read_best()


@pytest.mark.parametrize("what", ["nothing", "an empty folder", "a file"])
def test_what_is_no_run_is_refused(tmp_path, what):
    path = tmp_path / "run"
    if what == "an empty folder":
        path.mkdir()
    elif what == "a file":
        path.touch()
    with pytest.raises(
        RunFolderError, match=rf"expected the folder of a run, with a config.json, got {path}; create one"
    ):
        RunFolder(path)


def test_a_folder_that_is_not_empty_is_refused(path, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").touch()
    (tmp_path / "file").touch()
    for name, message in (
        ("run", "already contains a run"),
        ("full", r"is not empty \(notes\)"),
        ("file", "got the file"),
    ):
        with pytest.raises(RunFolderError, match=message), RunFolder.create(tmp_path / name, CONFIG):
            pass
    with (
        pytest.raises(RunFolderError, match=r"whole path is UTF-8, got .*caf\\xe9"),
        RunFolder.create(tmp_path / os.fsdecode(b"caf\xe9"), CONFIG),
    ):
        pass


def test_numbered_folders_never_collide(tmp_path):
    names = []
    for _ in range(3):
        with RunFolder.create(tmp_path / "deep" / "run", CONFIG, numbered=True) as folder:
            names.append(folder.path.name)
    assert names == ["run", "run-2", "run-3"]


HOLDER = """
import sys, time
from jaxcnn.training.run_folder import RunFolder
with RunFolder(sys.argv[1]).writing():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_one_process_writes_and_a_dead_one_holds_no_lock(path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with (
            pytest.raises(RunFolderError, match=rf"in which process {holder.pid} trains; wait for it, or stop it"),
            RunFolder(path).writing(),
        ):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with RunFolder(path).writing() as folder:
        folder.append_metrics({"epoch": 4})


@pytest.fixture
def windows(monkeypatch):
    """What Windows has instead of POSIX's locks, built from Linux's locks of a byte, which belong to the open file."""
    if not hasattr(fcntl, "F_OFD_SETLK"):
        pytest.skip("does not apply: this system has no locks that belong to an open file")

    def locking(file, mode, size):
        assert mode == "nonblocking"
        start = os.lseek(file, 0, os.SEEK_CUR)
        assert start >= os.fstat(file).st_size, "Windows lets nobody else read a locked byte"
        wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, start, size, 0)
        try:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, wanted)
        except BlockingIOError:
            raise PermissionError(13, "Permission denied") from None

    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(LK_NBLCK="nonblocking", locking=locking))
    monkeypatch.setitem(sys.modules, "fcntl", None)
    for name in ("O_CLOEXEC", "pread", "pwrite"):
        monkeypatch.delattr(os, name)


@pytest.mark.usefixtures("windows")
def test_one_process_writes_on_windows_too(path):
    with RunFolder(path).writing() as folder:
        for _ in range(2):
            with (
                pytest.raises(RunFolderError, match=rf"in which process {os.getpid()} trains; wait for it, or stop it"),
                RunFolder(path).writing(),
            ):
                pass
        folder.append_metrics({"epoch": 4})
    with RunFolder(path).writing() as folder:
        folder.append_metrics({"epoch": 5})


def test_a_file_system_without_locks_is_named(path, monkeypatch):
    def flock(*arguments):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(RunFolderError, match=r"cannot write to the run folder .*: No locks available"):
        RunFolder(path).writing().__enter__()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_is_deleted_during_the_run_is_noticed(path, tmp_path, replaced):
    folder = RunFolder(path)
    with folder.writing():
        path.rename(tmp_path / "gone")
        if replaced:
            with RunFolder.create(path, CONFIG):
                pass
        for write in (
            lambda: folder.append_metrics({"epoch": 4}),
            lambda: folder.write_result({}),
            lambda: folder.save_best(PARAMS, {}, 1),
            lambda: folder.keep_metrics(0),
        ):
            with pytest.raises(RunFolderError, match="but it was deleted or replaced"):
                write()
    assert path.exists() == replaced


def test_a_full_disk_is_one_sentence(path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    folder = RunFolder(path)
    before = (path / "best.npz").read_bytes()
    with folder.writing():
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(RunFolderError) as error:
            folder.save_best(PARAMS, {}, 3)
    assert str(error.value) == (
        f"cannot write to the run folder {path}: No space left on device; check the free space and the permissions"
    )
    assert (path / "best.npz").read_bytes() == before
    assert not list(path.glob(".*tmp"))


def test_what_a_killed_process_left_half_written_is_in_nobodys_way(path, tmp_path):
    def killed_in(folder):
        """Leaves what a process leaves that is killed while it writes the files of a run."""
        code = (
            "import os, pathlib, sys\nfrom jaxcnn.files import written_whole\nkept = []\n"
            "for name in ('config.json', 'metrics.jsonl', 'result.json', 'best.npz', 'curves.png'):\n"
            "    kept.append(written_whole(pathlib.Path(sys.argv[1]) / name))\n    kept[-1].__enter__()\n"
            "(pathlib.Path(sys.argv[1]) / 'lock').touch()\nos._exit(9)"
        )
        assert subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, check=False).returncode == 9
        return sorted(file.name for file in folder.iterdir() if file.name.startswith("."))

    new = tmp_path / "new"
    new.mkdir()
    assert len(killed_in(new)) == 5
    with RunFolder.create(new, CONFIG):
        assert sorted(file.name for file in new.iterdir()) == ["config.json", "lock"]
    assert len(killed_in(path)) == 5
    with RunFolder(path).writing() as folder:
        assert not [file for file in path.iterdir() if file.name.startswith(".")]
        assert [row["epoch"] for row in folder.metrics()] == [1, 2, 3]


def test_a_description_that_json_does_not_know_leaves_no_folder(tmp_path):
    with (
        pytest.raises(TypeError, match="object is not JSON serializable"),
        RunFolder.create(tmp_path / "run", CONFIG | {"about": object()}),
    ):
        pass
    assert not (tmp_path / "run").exists()
