"""The cache of the C++ kernels: damaged libraries, compilers of every kind, and builds that hang or are killed."""

import fcntl
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxcnn.files import cache_folder
from jaxcnn.ops.lowering.native import build

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the kernels are built on POSIX systems only")


class Compiler:
    """A script in the place of a compiler: it notes its arguments, and writes a library of a few bytes."""

    def __init__(self, folder: Path, lines: str = 'printf library > "$out"'):
        self.path, self.calls = folder / "compiler", folder / "calls"
        self.path.write_text(f'#!/bin/bash\nout="${{@: -1}}"\necho "$@" >> {shlex.quote(str(self.calls))}\n{lines}\n')
        self.path.chmod(0o755)

    @property
    def count(self):
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def compiler(tmp_path):
    return Compiler(tmp_path)


def built(compiler, cache):
    return build._built((str(compiler.path),), cache)


def test_a_library_is_built_once(compiler, cache):
    library = built(compiler, cache)
    assert built(compiler, cache) == library
    assert compiler.count == 1
    assert library.read_bytes().startswith(b"library")
    assert sorted(path.name for path in cache.iterdir()) == [library.name, "lock"]


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut by half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "cut by a byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer by a byte": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "garbage": lambda path: path.write_bytes(random.Random(0).randbytes(5000)),
    "one bit": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nothing")),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_library_is_built_anew(compiler, cache, damage):
    library = built(compiler, cache)
    whole = library.read_bytes()
    DAMAGES[damage](library)
    assert built(compiler, cache) == library
    assert library.read_bytes() == whole
    assert compiler.count == 2
    built(compiler, cache)
    assert compiler.count == 2


def test_a_library_for_another_processor_is_not_taken_even_under_this_name(compiler, cache, monkeypatch):
    library = built(compiler, cache)
    monkeypatch.setattr(build, "describe_processor", lambda: "another")
    other = built(compiler, cache)
    assert other != library
    monkeypatch.undo()
    other.replace(library)
    built(compiler, cache)
    assert compiler.count == 3


def test_a_damaged_library_does_not_end_the_process(cache, tmp_path):
    if not build.ready():
        pytest.skip("there is no C++ compiler here")
    good = build._built(build._compiler(), cache_folder())
    copier = Compiler(tmp_path, f'cp {shlex.quote(str(good))} "$out"')
    code = """
import jax.numpy as jnp
from jaxcnn.ops.lowering import Geometry, convolve, native
print(float(convolve(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 1)), Geometry(), (2, 2))[0, 0, 0, 0]), native.ready())
"""
    library = built(copier, cache)
    os.truncate(library, library.stat().st_size // 2)
    environment = {"JAX_PLATFORMS": "cpu", "CXX": str(copier.path), "JAXCNN_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    # Nobody asked for notes: whoever waits sees this one, and only this one.
    note = f"building the C++ kernels of jaxcnn in {cache} (convolutions); this takes about 15 seconds, once\n"
    assert (done.stdout.split(), done.stderr) == (["18.0", "True"], note)
    assert copier.count == 2


@pytest.mark.parametrize("form", ["{}", " {} ", "{} -DA='b c'", "'{}' -x c++"])
def test_cxx_may_have_arguments(compiler, monkeypatch, form):
    monkeypatch.setenv("CXX", form.format(compiler.path))
    path, *arguments = build._compiler()
    assert path == str(compiler.path)
    assert arguments == shlex.split(form.format(compiler.path))[1:]


def test_cxx_may_be_a_path_with_spaces(tmp_path, monkeypatch):
    (tmp_path / "my tools").mkdir()
    compiler = Compiler(tmp_path / "my tools")
    monkeypatch.setenv("CXX", str(compiler.path))
    assert build._compiler() == (str(compiler.path),)


def test_the_arguments_reach_the_compiler(compiler, cache, monkeypatch):
    monkeypatch.setenv("CXX", f"{compiler.path} -stdlib=libc++")
    build._built(build._compiler(), cache)
    assert compiler.calls.read_text().startswith("-stdlib=libc++ -std=c++17 ")


@pytest.mark.parametrize(
    ("cxx", "message"),
    [
        ("no-such-compiler -O2", r"no C\+\+ compiler found \(looked for no-such-compiler -O2\)"),
        ("g++ 'half a quote", r"CXX expects a C\+\+ compiler, optionally with arguments, got .*No closing quotation"),
    ],
)
def test_a_cxx_that_is_no_compiler_is_refused(monkeypatch, cxx, message):
    monkeypatch.setenv("CXX", cxx)
    with pytest.raises(build.BuildError, match=message):
        build._compiler()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("printf 'caf\\xe9 \\x1b[2J' >&2; exit 3", r"failed with status 3:\ncaf\\xe9 \?\[2J$"),
        ("kill -9 $$", "failed with status -9"),
        ("exit 0", r"left no library; is it a C\+\+ compiler\?"),
        ('cat; printf library > "$out.other"', "left no library"),
    ],
)
def test_a_compiler_that_fails_says_so_and_leaves_nothing(tmp_path, cache, lines, message):
    compiler = Compiler(tmp_path, lines)
    with pytest.raises(build.BuildError, match=message):
        built(compiler, cache)
    assert [path.name for path in cache.iterdir()] == ["lock"]


def test_a_library_without_the_kernels_is_not_used(tmp_path, cache, monkeypatch, caplog):
    compiler = Compiler(tmp_path)
    monkeypatch.setenv("CXX", str(compiler.path))
    monkeypatch.setenv("JAXCNN_CACHE_DIR", str(cache))
    monkeypatch.setattr(build, "_library", build._library.__wrapped__)
    assert not build.ready.__wrapped__()
    assert "convolutions on CPU run without the C++ kernels of jaxcnn, and slower" in caplog.text
    with caplog.at_level("INFO", "jaxcnn"):
        assert build.resampler.__wrapped__() is None
    assert "pictures are resized by Pillow, slower than by the C++ of jaxcnn" in caplog.text


def test_the_kernels_and_the_resampler_can_be_turned_off(monkeypatch):
    monkeypatch.setenv("JAXCNN_NATIVE", "0")
    assert not build.ready.__wrapped__()
    assert build.resampler.__wrapped__() is None


def test_a_compiler_that_hangs_is_ended_with_all_that_it_started(tmp_path, cache, monkeypatch):
    compiler = Compiler(tmp_path, f"sleep 1000 & echo $! > {tmp_path / 'child'}; wait")
    monkeypatch.setattr(build, "_PATIENCE", 3)
    with pytest.raises(build.BuildError, match=r"did not end within 3 seconds"):
        built(compiler, cache)
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 60
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(child)
    Compiler(tmp_path)
    assert built(compiler, cache).read_bytes().startswith(b"library")


def _runs(process):
    try:
        return "(zombie)" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_build_that_was_killed_is_begun_again(tmp_path, cache):
    compiler = Compiler(tmp_path, f'printf half > "$out"; echo $$ > {tmp_path / "started"}; exec sleep 1000')
    code = f"""
from pathlib import Path
from jaxcnn.ops.lowering.native import build
build._built(({str(compiler.path)!r},), Path({str(cache)!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    while not (tmp_path / "started").exists() or not (tmp_path / "started").read_text():
        time.sleep(0.01)
        assert process.poll() is None
    process.kill()
    process.wait()
    assert (cache / "building").exists()
    Compiler(tmp_path)
    library = built(compiler, cache)
    os.kill(int((tmp_path / "started").read_text()), signal.SIGKILL)
    assert library.read_bytes().startswith(b"library")
    assert sorted(path.name for path in cache.iterdir()) == [library.name, "lock"]


def test_waiting_for_another_process_has_an_end(compiler, cache, monkeypatch):
    monkeypatch.setattr(build, "_PATIENCE", 0.2)
    cache.mkdir()
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(build.BuildError, match="another process has been building them in"):
            built(compiler, cache)
    assert built(compiler, cache).is_file()
