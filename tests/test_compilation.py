"""The cache of compiled programs: the same bits, the user's settings, and folders of every kind."""

import os
import subprocess
import sys

import filelock
import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

import jaxcnn
from jaxcnn import compilation
from jaxcnn.cli import main
from jaxcnn.ops.lowering.native import build

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)

TRAINING = """
import hashlib, sys
import jax, jax.numpy as jnp
import jaxcnn
from jaxcnn.benchmark.jax_program import JaxModel, first_carry, make_train_step
from jaxcnn.layers import BatchNorm, Conv, Dense, Function, GlobalAvgPool, Sequential

events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name.rpartition("/")[2]))
assert jaxcnn.enable_compilation_cache(sys.argv[1])
net = Sequential(conv1=Conv(3, 16), norm1=BatchNorm(16), relu1=Function(jax.nn.relu), conv2=Conv(16, 16),
                 pool=GlobalAvgPool(), head=Dense(16, 5))
forward = jaxcnn.batched(net)
apply = lambda params, state, x, train, key: forward(params, state, x, train=train, key=key)
carry = first_carry(JaxModel(*net.init(jax.random.key(0)), apply, 0))
step = jax.jit(make_train_step(apply), donate_argnums=0)
images, labels = jax.random.normal(jax.random.key(1), (4, 12, 12, 3)), jnp.arange(4)
text = step.lower(carry, images, labels).as_text()
for _ in range(3):
    carry, loss = step(carry, images, labels)
leaves = [loss, *jax.tree.leaves(carry[:3])]
digest = hashlib.sha256(b"".join(bytes(memoryview(jax.device_get(leaf)).cast("B")) for leaf in leaves)).hexdigest()
print(events.count("compile_requests_use_cache"), events.count("cache_hits"), digest, "jaxcnn_convolve" in text)
"""


def train(folder, **environment):
    """Trains in a process of its own; returns its requests to the cache, how many were kept, the results, and whether
    the kernels ran.
    """
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, folder],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAXCNN_COMPILATION_CACHE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    requests, hits, digest, native = done.stdout.split()
    return int(requests), int(hits), digest, native == "True"


def test_a_kept_program_gives_the_same_bits_and_is_another_without_the_kernels(tmp_path):
    if not build.ready():
        pytest.skip("there is no C++ compiler here")
    requests, hits, fresh, native = train(tmp_path)
    assert requests > hits == 0
    assert native
    assert list(tmp_path.glob("*/jit_train_step-*-cache"))
    # Neither takes a program of the other.
    plain_requests, plain_hits, plain, native = train(tmp_path, JAXCNN_NATIVE="0")
    assert 0 < plain_hits < plain_requests
    assert not native
    assert plain != fresh
    assert train(tmp_path) == (requests, requests, fresh, True)


@pytest.fixture
def settings(monkeypatch):
    """JAX's settings as they are when nobody has set them; those of before come back at the end."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    for name, value in zip(SETTINGS, (None, -1, True, 1.0), strict=True):
        jax.config.update(name, value)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("JAXCNN_COMPILATION_CACHE", "1")
    compilation_cache.reset_cache()
    yield lambda: tuple(getattr(jax.config, name) for name in SETTINGS)
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_programs_are_kept_in_the_folder_of_caches_and_bounded(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXCNN_CACHE_DIR", str(tmp_path))
    folder = jaxcnn.enable_compilation_cache(max_bytes=15_000)
    assert folder is not None
    assert folder.parent == tmp_path / "programs"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert settings() == (str(folder), 15_000, True, 0.0)
    for size in range(3, 13):
        jax.jit(lambda x: jnp.sin(x) + 1)(jnp.ones(size))
        assert 0 < sum(path.stat().st_size for path in folder.glob("*-cache")) <= 15_000
    assert len(list(folder.glob("*-cache"))) < 10


def test_a_folder_of_ones_own_and_no_bound(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = jaxcnn.enable_compilation_cache("mine", max_bytes=None)
    assert folder is not None
    assert (folder.parent, settings()[1]) == (tmp_path / "mine", -1)


def test_each_kind_of_processor_has_programs_of_its_own(settings, tmp_path, monkeypatch):
    first = jaxcnn.enable_compilation_cache(tmp_path)
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(compilation, "describe_processor", lambda: "another")
    assert jaxcnn.enable_compilation_cache(tmp_path) not in (None, first)


def test_what_the_user_has_set_stays(settings, tmp_path, monkeypatch):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    before = settings()
    assert jaxcnn.enable_compilation_cache(tmp_path / "ours") == tmp_path / "theirs"
    assert settings() == before
    jax.config.update("jax_compilation_cache_dir", "")
    assert jaxcnn.enable_compilation_cache(tmp_path / "ours") is None
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 7.0)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "-1")
    folder = jaxcnn.enable_compilation_cache(tmp_path / "ours")
    assert settings() == (str(folder), -1, True, 7.0)


def test_it_can_be_turned_off(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXCNN_COMPILATION_CACHE", "0")
    assert jaxcnn.enable_compilation_cache(tmp_path / "ours") is None
    monkeypatch.delenv("JAXCNN_COMPILATION_CACHE")
    jax.config.update("jax_enable_compilation_cache", False)
    assert jaxcnn.enable_compilation_cache(tmp_path / "ours") is None
    assert settings()[0] is None
    assert not (tmp_path / "ours").exists()


def test_a_folder_that_cannot_be_written_is_a_note(settings, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert jaxcnn.enable_compilation_cache(tmp_path / "file" / "below") is None
    assert settings() == (None, -1, True, 1.0)
    [note] = caplog.messages
    assert note.startswith("compiled programs are not kept for the next start: ")
    assert note.endswith("set JAXCNN_CACHE_DIR to a folder that can be written, or JAXCNN_COMPILATION_CACHE=0")


def test_without_a_home_folder_there_is_a_note(settings, monkeypatch, caplog):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compilation, "cache_folder", no_home)
    assert jaxcnn.enable_compilation_cache() is None
    assert "not kept for the next start: Could not determine home directory.; " in caplog.text


def test_commands_that_compile_keep_their_programs(settings, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXCNN_CACHE_DIR", str(tmp_path))
    assert main(["data", "list"]) == 0
    assert settings()[0] is None
    # The run is missing: nothing is compiled here.
    assert main(["evaluate", str(tmp_path / "no-run")]) == 2
    assert settings()[0].startswith(str(tmp_path / "programs"))


@pytest.mark.parametrize("size", [0, -1])
def test_a_bound_without_room_is_refused(size):
    with pytest.raises(ValueError, match=f"max_bytes expects a number of bytes, at least 1, .* got {size}$"):
        jaxcnn.enable_compilation_cache(max_bytes=size)


def keep(folder, name, use):
    (folder / f"{name}-cache").write_bytes(b"code")
    (folder / f"{name}-atime").write_bytes(use.to_bytes(8, "little"))


def test_what_a_killed_process_has_left_is_removed(settings, tmp_path):
    folder = jaxcnn.enable_compilation_cache(tmp_path)
    assert folder is not None
    keep(folder, "whole", 1)
    (folder / "half-cache").write_bytes(b"co")
    (folder / "alone-atime").write_bytes(bytes(8))
    jax.config.update("jax_compilation_cache_dir", None)
    assert jaxcnn.enable_compilation_cache(tmp_path) == folder
    assert sorted(path.name for path in folder.glob("*-*")) == ["whole-atime", "whole-cache"]
    # JAX would warn here, and keep nothing.
    jax.jit(lambda x: jnp.cos(x) + 2)(jnp.ones(3))
    assert len(list(folder.glob("*-cache"))) > 1


def test_the_least_recently_used_programs_go_when_they_are_many(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "_MOST_PROGRAMS", 2)
    for name, use in (("a", 300), ("b", 1), ("c", 70_000)):
        keep(tmp_path, name, use)
    compilation._tidy(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*-cache")) == ["a-cache", "c-cache"]


def test_another_process_that_writes_is_not_waited_for_long(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "_PATIENCE", 0.1)
    keep(tmp_path, "whole", 1)
    (tmp_path / "half-cache").write_bytes(b"co")
    with filelock.FileLock(tmp_path / ".lockfile"):
        compilation._tidy(tmp_path)
    assert (tmp_path / "half-cache").exists()
