"""The cache of the C++ kernels: damaged libraries, compilers of every kind, and builds that hang or are killed."""

import fcntl
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import jax
import pytest

from jaxcnn.files import cache_folder
from jaxcnn.ops.lowering.native import build, variants

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


# Words of "flags" in /proc/cpuinfo, where they matter.
NEHALEM = "fpu pni ssse3 cx16 sse4_1 sse4_2 popcnt lahf_lm"
IVY_BRIDGE = f"{NEHALEM} avx f16c xsave"
HASWELL = f"{IVY_BRIDGE} fma movbe abm bmi1 avx2 bmi2"
KNIGHTS_LANDING = f"{HASWELL} avx512f avx512cd avx512er avx512pf"
SKYLAKE_SERVER = f"{HASWELL} avx512f avx512dq avx512cd avx512bw avx512vl"
ZEN_4 = f"{SKYLAKE_SERVER} avx512_bf16 avx512_vnni"


@pytest.mark.parametrize(
    ("flags", "machine", "expected"),
    [
        ("fpu sse2 cx16", "x86_64", []),
        (NEHALEM, "x86_64", ["v2"]),
        (IVY_BRIDGE, "x86_64", ["v2"]),
        (HASWELL, "x86_64", ["v3", "v2"]),
        (KNIGHTS_LANDING, "x86_64", ["v3", "v2"]),
        (SKYLAKE_SERVER, "x86_64", ["v4", "v3", "v2"]),
        (ZEN_4, "x86_64", ["v4-bf16", "v4", "v3", "v2"]),
        ("", "aarch64", ["armv8-a"]),
        (ZEN_4, "riscv64", []),
    ],
)
def test_a_processor_gets_the_fastest_library_that_it_can_run(flags, machine, expected):
    found = variants.best(set(flags.split()), machine)
    assert [variant.name.removeprefix("x86-64-") for variant in found] == expected


def test_this_processor_has_what_the_chosen_variant_is_compiled_for(tmp_path):
    if not build.ready():
        pytest.skip("there is no C++ compiler here")
    compiler, *arguments = build._compiler()

    def macros(*flags):
        command = [compiler, *arguments, *flags, "-dM", "-E", "-x", "c++", "/dev/null"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return {line.split()[1] for line in text.splitlines()}

    features = ("__SSE", "__SSSE", "__AVX", "__FMA", "__BMI", "__F16C", "__LZCNT", "__MOVBE", "__POPCNT")
    wanted = {name for name in macros(*variants.best(build._features())[0].flags) if name.startswith(features)}
    assert wanted <= macros("-march=native")


@pytest.fixture
def package(tmp_path):
    """A folder of libraries for two kinds of processors, as an installed package has it."""
    installed = variants.interface(Path(jax.ffi.include_dir()))
    libraries = {}
    for variant in variants.variants("x86_64")[-2:]:
        path = tmp_path / variants.file_name("kernels", variant, installed)
        path.write_bytes(variants.sealed(b"library", variants.key(path.name)))
        libraries[variant.name] = path
    return libraries


def packaged(package, monkeypatch, flags=ZEN_4):
    monkeypatch.setattr(build, "_features", lambda: set(flags.split()))
    monkeypatch.setattr(variants.platform, "machine", lambda: "x86_64")
    return build._packaged("kernels", next(iter(package.values())).parent)


def test_the_package_has_the_library_for_a_processor(package, monkeypatch):
    assert packaged(package, monkeypatch) == package["x86-64-v3"]
    assert packaged(package, monkeypatch, NEHALEM) == package["x86-64-v2"]
    assert packaged(package, monkeypatch, "fpu sse2") is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_library_of_the_package_is_not_used(package, monkeypatch, damage):
    DAMAGES[damage](package["x86-64-v3"])
    assert packaged(package, monkeypatch) == package["x86-64-v2"]


def test_a_library_of_the_package_from_other_sources_is_not_used(package, monkeypatch):
    monkeypatch.setattr(variants, "_sources", lambda: b"changed")
    assert packaged(package, monkeypatch) is None


@pytest.mark.parametrize(("version", "is_used"), [((0, 3), True), ((0, 4), True), ((0, 2), False), ((1, 3), False)])
def test_a_library_of_the_package_for_another_interface_is_not_used(package, monkeypatch, version, is_used):
    for name, path in package.items():
        variant = next(variant for variant in variants.variants("x86_64") if variant.name == name)
        path.unlink()
        path = path.with_name(variants.file_name("kernels", variant, (0, 3)))
        path.write_bytes(variants.sealed(b"library", variants.key(path.name)))
    monkeypatch.setattr(variants, "interface", lambda headers: version)
    assert (packaged(package, monkeypatch) is not None) == is_used


def test_headers_that_do_not_tell_their_version_are_refused(package, monkeypatch, tmp_path):
    header = tmp_path / "xla" / "ffi" / "api" / "c_api.h"
    header.parent.mkdir(parents=True)
    header.write_text("#define XLA_FFI_API_MAJOR 0\n")
    with pytest.raises(ValueError, match=r"expected the version of the interface in the headers of jax, .*, got none"):
        variants.interface(tmp_path)
    monkeypatch.setattr(jax.ffi, "include_dir", lambda: str(tmp_path))
    assert packaged(package, monkeypatch) is None


CONVOLVE = """
import jax, jax.numpy as jnp
from jaxcnn.ops.lowering import Geometry, convolve
from jaxcnn.ops.lowering.native import build, variants
run = jax.jit(lambda x, kernel: convolve(x, kernel, Geometry(), (2, 2)))
x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 1))
print("jaxcnn_convolve" in run.lower(x, kernel).as_text(), float(run(x, kernel)[0, 0, 0, 0]), bool(build.resampler()))
"""


@pytest.mark.heavy
@pytest.mark.slow
@pytest.mark.parametrize("has_compiler", [True, False])
def test_an_installed_wheel_runs_without_a_compiler(tmp_path, has_compiler):
    if not build.ready():
        pytest.skip("there is no C++ compiler here")
    root, without = Path(__file__).parents[2], {} if has_compiler else {"CXX": "no-such-compiler"}
    # A copy, so that nothing is built in the sources.
    shutil.copytree(root / "jaxcnn", tmp_path / "sources" / "jaxcnn", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, tmp_path / "sources")
    wheels, place, home = tmp_path / "wheels", tmp_path / "place", tmp_path / "home"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "-q", "-w", wheels]
    subprocess.run([*pip, tmp_path / "sources"], env={**os.environ, **without}, check=True)
    [wheel] = wheels.iterdir()
    assert ("py3-none-any" in wheel.name) != has_compiler
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    home.mkdir()
    environment = {"PATH": "/nowhere", "HOME": str(home), "PYTHONPATH": str(place), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", CONVOLVE], env=environment, cwd=home, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(has_compiler), "18.0", str(has_compiler)]
    assert ("no C++ compiler found" in done.stderr) != has_compiler
    assert list(home.iterdir()) == []


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
    # At the default level of logging, only the note about the build is printed.
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
from jaxcnn.ops.lowering.native import build, variants
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
