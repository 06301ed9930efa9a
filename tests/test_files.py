import os
import socket
import stat
from pathlib import Path

import pytest

from jaxcnn.files import LockedError, cache_folder, check_target, locked, write_text, written_whole


def write(path, content=b"new"):
    with written_whole(path) as file:
        file.write(content)


@pytest.fixture
def no_files_left(tmp_path):
    yield
    assert [path.name for path in tmp_path.rglob("*.tmp")] == []


pytestmark = pytest.mark.usefixtures("no_files_left")


def test_a_file_is_made_and_replaced(tmp_path):
    for content in (b"one", b"two"):
        write(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert check_target(tmp_path / "file") == tmp_path / "file"


def test_an_error_leaves_the_older_file(tmp_path):
    write(tmp_path / "file", b"old")

    def fail():
        with written_whole(tmp_path / "file") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (tmp_path / "file").read_bytes() == b"old"


def test_permissions_stay(tmp_path):
    write(tmp_path / "file")
    assert (tmp_path / "file").stat().st_mode & 0o444 == 0o444 & ~_umask()
    (tmp_path / "file").chmod(0o640)
    write(tmp_path / "file")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_file_is_written(tmp_path, there):
    (tmp_path / "elsewhere").mkdir()
    if there:
        (tmp_path / "elsewhere" / "file").write_bytes(b"old")
    (tmp_path / "middle").symlink_to("elsewhere/file")
    (tmp_path / "link").symlink_to("middle")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "middle").is_symlink()
    assert (tmp_path / "elsewhere" / "file").read_bytes() == b"new"


def test_the_longest_name_that_a_folder_takes_can_be_written(tmp_path):
    write(tmp_path / ("é" * 127))
    assert (tmp_path / ("é" * 127)).read_bytes() == b"new"


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # such names are short


NO_TARGETS = {
    "pipe": (os.mkfifo, FileExistsError, "a regular file to write, got '.*', which is a pipe"),
    "socket": (make_socket, FileExistsError, "which is a socket"),
    "folder": (os.mkdir, IsADirectoryError, "expected a file to write, got the folder '.*'; give the name of a file"),
    "link to a pipe": (lambda path: (os.mkfifo(f"{path}.1"), os.symlink(f"{path}.1", path)), FileExistsError, "a pipe"),
    "link to a folder": (lambda path: (os.mkdir(f"{path}.1"), os.symlink(f"{path}.1", path)), IsADirectoryError, "fol"),
    "link into no folder": (lambda path: os.symlink("no/file", path), FileNotFoundError, "create it first"),
    "link to itself": (lambda path: os.symlink(path, path), OSError, "symbolic links"),
    "link to a device": (
        lambda path: os.symlink("/dev/null", path),
        FileExistsError,
        r"\('/dev/null'\), which is a dev",
    ),
}


@pytest.mark.parametrize("name", NO_TARGETS)
def test_nothing_but_a_regular_file_is_replaced(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, error, message = NO_TARGETS[name]
    make(tmp_path / "there")
    before = os.lstat(tmp_path / "there")
    for way in (check_target, write):
        with pytest.raises(error, match=message):
            way(tmp_path / "there")
    after = os.lstat(tmp_path / "there")
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)


def test_open_files_without_a_name_are_refused(tmp_path):
    read, write_end = os.pipe()
    with open(tmp_path / "file", "wb") as file:
        (tmp_path / "file").unlink()
        for number, message in ((write_end, "a pipe"), (file.fileno(), "a file without a name")):
            with pytest.raises(FileExistsError, match=message):
                write(f"/proc/self/fd/{number}")
    os.close(read)
    os.close(write_end)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("device", ["/dev/null", "/dev/full"])
def test_devices_stay(device):
    before = os.lstat(device)
    with pytest.raises(OSError, match=f"expected a new name or a regular file to write, got '{device}'"):
        write(device)
    assert os.lstat(device) == before


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder of '.*no/file' does not exist; create it first"):
        check_target(tmp_path / "no" / "file")
    write(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        check_target(tmp_path / "file" / "file")


def test_what_is_write_protected_is_refused(tmp_path, monkeypatch):
    write(tmp_path / "file")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "file")
    with pytest.raises(PermissionError, match=r"got '.*file', which is write-protected"):
        write(tmp_path / "file")
    write(tmp_path / "other")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError):
        write(tmp_path / "third")


def test_a_text_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "text"
    write_text(path, "before")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half of this is fine \ud800")
    assert path.read_text() == "before"
    write_text(path, "after")
    assert path.read_text() == "after"


def test_a_lock_is_held_while_the_block_runs(tmp_path):
    with locked(tmp_path / "lock"):
        with pytest.raises(LockedError, match=rf"process {os.getpid()} holds the lock .*lock'") as refused:
            locked(tmp_path / "lock", patience=0.15).__enter__()
        assert refused.value.holder == str(os.getpid())
    with pytest.raises(OSError, match="disk full"), locked(tmp_path / "lock"):
        raise OSError("disk full")
    with locked(tmp_path / "lock"):
        pass


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("JAXCNN_CACHE_DIR", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "jaxcnn"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/jaxcnn")
    monkeypatch.setenv("JAXCNN_CACHE_DIR", "/mine")
    assert cache_folder() == Path("/mine")
