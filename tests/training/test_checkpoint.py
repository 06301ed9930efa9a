import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn.training import TrainState
from jaxcnn.training.checkpoint import CheckpointError, Checkpoints

ROOT = Path(__file__).parents[2]


def small_tree(step):
    """Noise, which makes nearly all of the data file, and a counter."""
    noise = np.random.default_rng(step).normal(size=(200, 100))
    return {"noise": jnp.asarray(noise, jnp.float32), "step": jnp.int32(step)}


def raw_bytes(leaf):
    leaf = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return np.asarray(leaf).tobytes()


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, jax.Array)
        assert (a.dtype, a.shape) == (e.dtype, e.shape)
        assert not getattr(a, "weak_type", False)  # keys have none
        assert raw_bytes(a) == raw_bytes(e)


@pytest.fixture
def two(tmp_path):
    """A directory with checkpoints 1 and 2 of small_tree."""
    directory = tmp_path / "run"
    checkpoints = Checkpoints(directory)
    checkpoints.save(1, small_tree(1), {"note": "step one", "loss": 0.5})
    checkpoints.save(2, small_tree(2), {"note": "step two", "loss": 0.25})
    return directory


def data_file(directory, step):
    """The file that holds most of the arrays."""
    files = (directory / str(step) / "leaves").rglob("d/*")
    return max(files, key=lambda file: file.stat().st_size)


def flip(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 0x10
    file.write_bytes(content)


def assert_fell_back(directory, reason):
    restored = Checkpoints(directory).restore(small_tree(0))
    assert restored.step == 1
    assert restored.meta == {"note": "step one", "loss": 0.5}
    assert_same(restored.tree, small_tree(1))
    assert len(restored.skipped) == 1
    assert re.search(reason, restored.skipped[0])


@pytest.mark.parametrize("abstract", [False, True])
def test_every_kind_of_leaf_comes_back_byte_for_byte(tmp_path, abstract):
    params = {"conv1": {"kernel": jnp.full((5, 5, 1, 6), 1 / 3), "bias": jnp.zeros(6)}, "relu": {}}
    optimizer = optax.adamw(optax.cosine_decay_schedule(1e-3, 10))
    tree = {
        "params": params,
        "state": {"norm": {"mean": jnp.arange(6.0), "var": jnp.ones(6)}, "relu": {}},
        "optimizer": optimizer.init(params),
        "keys": (jax.random.key(3), jax.random.split(jax.random.key(4, impl="rbg"), (2, 3))),
        "raw key": jax.random.PRNGKey(5),
        "dtypes": [
            jnp.asarray([1.5, -0.0, 1e30], jnp.bfloat16),
            jnp.asarray([1.5, 6e-8], jnp.float16),
            jnp.asarray([0.5, 2], jnp.float8_e4m3fn),
            jnp.asarray([1 - 2j], jnp.complex64),
            jnp.asarray([-128, 127], jnp.int8),
            jnp.asarray([-8, 7], jnp.int4),
            jnp.asarray([2**32 - 1], jnp.uint32),
            jnp.asarray([True, False]),
            jnp.int32(-7),
        ],
        "empty": [jnp.zeros((0, 3)), jax.random.split(jax.random.key(0), 0), {}, (), None],
        "numpy": [np.arange(6, dtype=np.int32).reshape(2, 3).T, np.float32(0.1), np.int32(9), np.bool_(True)],
    }
    like = jax.eval_shape(lambda: tree) if abstract else tree
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(7, tree, {"model": "lenet5", "shape": (32, 32, 1), "best": float("inf"), "é": None})
    restored = checkpoints.restore(like)
    assert_same(restored.tree, tree)
    assert restored.step == 7
    assert restored.meta == {"model": "lenet5", "shape": [32, 32, 1], "best": float("inf"), "é": None}
    assert restored.skipped == ()
    for key, expected in zip(restored.tree["keys"], tree["keys"], strict=True):
        assert jax.random.key_impl(key) == jax.random.key_impl(expected)


@pytest.mark.parametrize("tree", [{}, {"empty": np.zeros((2, 0), np.float32)}, np.ones(3, np.float32)])
def test_trees_without_values_or_without_names_come_back(tmp_path, tree):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, tree, {})
    assert_same(checkpoints.restore(tree).tree, tree)


@pytest.mark.usefixtures("float64")
def test_float64_comes_back_as_float64(tmp_path):
    tree = {"array": jnp.asarray([1 / 3]), "scalar": np.float64(1 / 7), "count": np.int64(2**40)}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, tree, {})
    assert_same(checkpoints.restore(tree).tree, tree)


def test_a_weak_type_is_not_restored(tmp_path):
    weak = jnp.asarray(2.5)
    assert weak.weak_type
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, {"weak": weak}, {})
    assert_same(checkpoints.restore({"weak": weak}).tree, {"weak": np.float32(2.5)})


def test_saved_and_restored_leaves_can_be_donated_and_share_no_memory(tmp_path):
    tree = {name: jnp.zeros(size) for name, size in (("a", 64), ("b", 64), ("c", 10_000), ("d", 100_000))}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, tree, {})
    restored = checkpoints.restore(tree).tree
    add_one = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1.0, tree), donate_argnums=0)

    def addresses(tree):
        return {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)}

    before = addresses(restored)
    assert len(before) == 4
    added = add_one(restored)
    assert addresses(added) == before  # the same memory: nothing was held by NumPy
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(restored))
    assert_same(add_one(tree), added)


def test_a_relative_directory_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = Checkpoints("run")
    checkpoints.save(0, small_tree(0), {})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert checkpoints.latest_step() == 0


def test_works_inside_a_running_event_loop(tmp_path):
    async def save_and_restore():
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(0, small_tree(0), {})
        return checkpoints.restore(small_tree(0)).tree

    assert_same(asyncio.run(save_and_restore()), small_tree(0))


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.4, 0.5, 0.7, 0.9])
def test_a_flipped_byte_in_the_data_is_found_and_its_leaf_named(two, fraction):
    # Orbax returns most of these without a word; at some places zstd notices.
    file = data_file(two, 2)
    flip(file, int(fraction * file.stat().st_size))
    assert_fell_back(two, "^checkpoint 2: leaf 'noise' (does not match its checksum|cannot be read)")


def test_flipped_bytes_in_compressed_leaves_are_found(tmp_path):
    # Here zstd itself notices most flips, so that reading fails where the checksum was not needed.
    tree = {"ramp": jnp.arange(50_000, dtype=jnp.int32)}
    Checkpoints(tmp_path / "run").save(1, tree, {})
    Checkpoints(tmp_path / "run").save(2, tree, {})
    file = data_file(tmp_path / "run", 2)
    whole = file.read_bytes()
    reasons = []
    for position in range(0, int(len(whole) * 0.9), len(whole) // 12):
        flip(file, position)
        restored = Checkpoints(tmp_path / "run").restore(tree)
        file.write_bytes(whole)
        assert_same(restored.tree, tree)
        reasons.append(restored.skipped[0])
    assert all(reason.startswith("checkpoint 2: leaf 'ramp' ") for reason in reasons)
    assert any("cannot be read" in reason for reason in reasons)


def test_no_flipped_byte_in_any_file_gives_wrong_values(two):
    random = np.random.default_rng(0)
    skips = 0
    for file in sorted(file for file in (two / "2").rglob("*") if file.is_file()):
        whole = file.read_bytes()
        for position in random.integers(len(whole), size=3):
            flip(file, position)
            restored = Checkpoints(two).restore(small_tree(0))
            assert_same(restored.tree, small_tree(restored.step))
            assert restored.meta["note"] == {1: "step one", 2: "step two"}[restored.step]
            assert len(restored.skipped) == (restored.step == 1)
            skips += restored.step == 1
        file.write_bytes(whole)
    assert skips > 10


def test_a_changed_number_in_meta_is_found(two):
    file = two / "2" / "record" / "metadata"
    text = file.read_text()
    assert text.count("0.25") == 1
    file.write_text(text.replace("0.25", "0.26"))
    assert_fell_back(two, "^checkpoint 2: the record of the leaves and meta does not match its checksum$")


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty_folder(folder):
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda run: truncate(data_file(run, 2)), "^checkpoint 2: leaf '(noise|step)' cannot be read"),
        (lambda run: data_file(run, 2).unlink(), "^checkpoint 2: leaf '(noise|step)' cannot be read"),
        (lambda run: truncate(run / "2/leaves/manifest.ocdbt"), "^checkpoint 2: leaf '(noise|step)' cannot be read"),
        (lambda run: truncate(run / "2/leaves/_METADATA"), "checkpoint 2: JSONDecodeError"),
        (lambda run: (run / "2/leaves/_METADATA").unlink(), "checkpoint 2: FileNotFoundError"),
        (lambda run: shutil.rmtree(run / "2/leaves"), "checkpoint 2: KeyError.*leaves"),
        (lambda run: truncate(run / "2/record/metadata"), "checkpoint 2: JSONDecodeError"),
        (lambda run: (run / "2/record/metadata").write_text("{}"), "checkpoint 2: KeyError"),
        (lambda run: (run / "2/record/metadata").unlink(), "checkpoint 2: FileNotFoundError"),
        (lambda run: empty_folder(run / "2"), "checkpoint 2: KeyError.*record"),
    ],
    ids=[
        "data cut",
        "data gone",
        "index cut",
        "array metadata cut",
        "array metadata gone",
        "arrays gone",
        "record cut",
        "record of something else",
        "record gone",
        "empty step folder",
    ],
)
def test_damaged_files_send_restore_to_the_previous_checkpoint(two, damage, reason):
    damage(two)
    assert_fell_back(two, reason)


def test_an_array_that_comes_back_in_another_dtype_is_damage(two):
    # Both arrays hold the same bytes, so that the checksum alone would accept the wrong one.
    tree = {"x": np.arange(1000, dtype=np.int32)}
    other = {"x": tree["x"].view(np.float32)}
    for name, saved in (("mine", tree), ("other", other)):
        Checkpoints(two.parent / name).save(1, saved, {})
    Checkpoints(two.parent / "mine").save(2, tree, {})
    shutil.rmtree(two.parent / "mine/2/leaves")
    shutil.copytree(two.parent / "other/1/leaves", two.parent / "mine/2/leaves")
    restored = Checkpoints(two.parent / "mine").restore(tree)
    assert restored.skipped == ("checkpoint 2: leaf 'x' was read as float32 (1000,)",)
    assert_same(restored.tree, tree)


def test_when_every_checkpoint_is_damaged_the_error_gives_all_reasons(two):
    flip(data_file(two, 1), 5000)
    truncate(two / "2/record/metadata")
    with pytest.raises(
        CheckpointError,
        match=rf"(?s)usable checkpoint in {two}, got only damaged.*checkpoint 2: JSON.*checkpoint 1: leaf 'noise'",
    ):
        Checkpoints(two).restore(small_tree(0))


def test_a_run_that_fell_back_saves_the_damaged_step_again(two):
    flip(data_file(two, 2), 5000)
    checkpoints = Checkpoints(two)
    with pytest.raises(ValueError, match="expected a step larger than 2"):
        checkpoints.save(2, small_tree(2), {})
    assert checkpoints.restore(small_tree(0)).step == 1
    checkpoints.save(2, small_tree(2), {"note": "again"})
    assert Checkpoints(two).restore(small_tree(0)).meta == {"note": "again"}
    assert checkpoints.steps() == [1, 2]
    assert sorted(path.name for path in two.iterdir()) == ["1", "2", "2.damaged"]
    with pytest.raises(ValueError, match="expected a step larger than 2"):
        checkpoints.save(2, small_tree(2), {})


KILLED_SAVE = """
import os, signal, sys
import numpy as np
from jaxcnn.training import TrainState
from jaxcnn.training.checkpoint import Checkpoints

directory, event, path = sys.argv[1:]
tree = lambda step: {"x": np.full((300, 300), step, np.float32)}
checkpoints = Checkpoints(directory)
checkpoints.save(1, tree(1), {})
checkpoints.save(2, tree(2), {})

def kill(name, arguments):
    if name == event and str(arguments[0]) == os.path.join(directory, path):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
checkpoints.save(3, tree(3), {})
"""


@pytest.mark.parametrize(
    ("event", "path", "survivor"),
    [
        ("open", "3.orbax-checkpoint-tmp/record.orbax-checkpoint-tmp/metadata", 2),
        ("os.rename", "3.orbax-checkpoint-tmp", 2),
        ("shutil.rmtree", "1", 3),
    ],
    ids=["first file", "just before it is complete", "just after"],
)
def test_kill_9_in_a_save_leaves_a_whole_checkpoint(tmp_path, event, path, survivor):
    process = subprocess.run([sys.executable, "-c", KILLED_SAVE, tmp_path, event, path], cwd=ROOT)
    assert process.returncode == -signal.SIGKILL
    checkpoints = Checkpoints(tmp_path)
    restored = checkpoints.restore({"x": jax.ShapeDtypeStruct((300, 300), np.float32)})
    assert (restored.step, restored.skipped) == (survivor, ())
    np.testing.assert_array_equal(restored.tree["x"], np.full((300, 300), survivor))
    checkpoints.save(4, restored.tree, {})
    assert sorted(file.name for file in tmp_path.iterdir()) == [str(survivor), "4"]


PLAIN_PROCESS = """
import sys, threading
import numpy as np
from jaxcnn.training import checkpoint
assert not any(name.split(".")[0] == "orbax" for name in sys.modules)

tree = {f"leaf{i}": np.random.default_rng(i).normal(size=(50, 50)).astype(np.float32) for i in range(20)}
checkpoints = checkpoint.Checkpoints(sys.argv[1])
for step in range(4):
    checkpoints.save(step, tree, {})
data = max((checkpoints.directory / "3").rglob("d/*"), key=lambda file: file.stat().st_size)
data.write_bytes(data.read_bytes()[:100])
for _ in range(10):
    assert checkpoints.restore(tree).step == 2
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join(timeout=20)
assert threading.enumerate() == [threading.current_thread()]
"""


@pytest.mark.slow
@pytest.mark.heavy
def test_a_plain_process_leaves_no_thread_and_prints_nothing_even_for_a_damaged_checkpoint(tmp_path):
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", PLAIN_PROCESS, tmp_path], cwd=ROOT, capture_output=True, text=True
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("bad", "count"),
    [
        (jnp.asarray([1, jnp.nan, 3]), "1 of 3"),
        (jnp.asarray([jnp.inf, -jnp.inf], jnp.bfloat16), "2 of 2"),
        (np.float32("nan"), "1 of 1"),
        (jnp.asarray([1j * jnp.inf]), "1 of 1"),
    ],
    ids=["nan", "bfloat16 infinities", "scalar", "complex"],
)
def test_values_that_are_not_finite_are_refused_and_nothing_is_written(two, bad, count):
    before = sorted(two.rglob("*"))
    message = f"finite values at step 3, got {count} NaN or infinite in leaf 'params/conv1/kernel'; nothing was saved"
    with pytest.raises(ValueError, match=message):
        Checkpoints(two).save(3, {"params": {"conv1": {"bias": jnp.zeros(2), "kernel": bad}}}, {})
    assert sorted(two.rglob("*")) == before
    assert Checkpoints(two).restore(small_tree(0)).step == 2


def plateau_state():
    params = {"kernel": jnp.ones(3)}
    return TrainState(jnp.int32(0), params, {}, optax.contrib.reduce_on_plateau().init(params))


def test_the_state_of_an_optimizer_may_hold_infinities(tmp_path):
    saved = {"train_state": plateau_state(), "best": {"params": {}}}
    assert np.isinf(saved["train_state"].opt_state.best_value)
    Checkpoints(tmp_path).save(1, saved, {})
    assert_same(Checkpoints(tmp_path).restore(saved).tree, saved)


@pytest.mark.parametrize(
    ("change", "leaf"),
    [
        ({"params": {"kernel": jnp.array([1, jnp.inf, 2])}}, "params/kernel"),
        ({"state": {"opt_state_": jnp.array([jnp.inf])}}, "state/opt_state_"),
        ({"opt_state": {"trace": jnp.array([jnp.inf, jnp.nan])}}, "opt_state/trace"),
    ],
)
def test_infinities_anywhere_else_are_refused_and_nan_everywhere(tmp_path, change, leaf):
    with pytest.raises(ValueError, match=rf"got 1 of \d NaN or infinite in leaf '{leaf}'") as caught:
        Checkpoints(tmp_path).save(1, plateau_state()._replace(**change), {})
    assert ("infinities are accepted only under 'opt_state'" in str(caught.value)) == ("opt_state" not in change)


def test_a_refused_first_save_creates_no_directory(tmp_path):
    with pytest.raises(ValueError, match="finite"):
        Checkpoints(tmp_path / "run").save(0, {"x": jnp.asarray(jnp.nan)}, {})
    assert not (tmp_path / "run").exists()


def test_another_structure_is_an_error_that_lists_the_leaves_and_no_damage(two):
    saved = {"kernel": jnp.zeros((5, 5, 1, 6)), "step": jnp.int32(0), "old": {"bias": jnp.zeros(3)}}
    like = {"kernel": jnp.zeros((3, 3, 1, 6)), "step": jnp.float32(0), "head": {"bias": jnp.zeros(3)}}
    Checkpoints(two).save(3, saved, {})
    with pytest.raises(ValueError, match=rf"got others in checkpoint 3 of {two}") as caught:
        Checkpoints(two).restore(like)
    assert str(caught.value).splitlines()[1:] == [
        "  missing 'head/bias'",
        "  unexpected 'old/bias'",
        "  'kernel' is float32 (5, 5, 1, 6), expected float32 (3, 3, 1, 6)",
        "  'step' is int32 (), expected float32 ()",
    ]
    # The older checkpoint fits, and is not what the caller believes to be the latest.
    with pytest.raises(ValueError, match="got others in checkpoint 3"):
        Checkpoints(two).restore(small_tree(0))


def test_another_kind_of_key_is_a_difference(tmp_path):
    Checkpoints(tmp_path).save(0, {"key": jax.random.key(0)}, {})
    with pytest.raises(ValueError, match=r"'key' is key<fry> \(\), expected key<rbg> \(\)"):
        Checkpoints(tmp_path).restore({"key": jax.random.key(0, impl="rbg")})


def test_a_long_list_of_differences_is_cut(two):
    with pytest.raises(ValueError, match=r"and 12 more$"):
        Checkpoints(two).restore([jnp.zeros(1)] * 30)


@pytest.mark.parametrize("exists", [True, False])
def test_no_checkpoint_at_all(tmp_path, exists):
    directory = tmp_path if exists else tmp_path / "typo"
    checkpoints = Checkpoints(directory)
    assert checkpoints.steps() == []
    assert checkpoints.latest_step() is None
    with pytest.raises(FileNotFoundError, match=rf"expected checkpoints in {directory}, got none; save one first"):
        checkpoints.restore(small_tree(0))
    assert directory.exists() == exists


def test_a_file_where_the_directory_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=rf"got the file {tmp_path}/file; choose another path"):
        Checkpoints(tmp_path / "file")


def test_a_url_is_refused():
    with pytest.raises(ValueError, match="expected a local directory, got 'gs://bucket/run'"):
        Checkpoints("gs://bucket/run")


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept_and_other_files_left_alone(tmp_path, keep):
    checkpoints = Checkpoints(tmp_path, keep=keep)
    (tmp_path / "config.json").write_text("{}")
    for step in (0, 10, 20, 25):
        checkpoints.save(np.int64(step), {"x": jnp.ones(2)}, {})
    assert checkpoints.steps() == [0, 10, 20, 25][-keep:]
    assert checkpoints.latest_step() == 25
    assert len(list(tmp_path.iterdir())) == keep + 1


def test_keeping_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 1 checkpoint, got keep=0"):
        Checkpoints(tmp_path, keep=0)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_step_that_is_not_new_is_refused(two, step):
    with pytest.raises(ValueError, match=rf"larger than 2, the latest checkpoint in {two}, got {step}; resume from"):
        Checkpoints(two).save(step, small_tree(3), {})
    assert Checkpoints(two).restore(small_tree(0)).meta["note"] == "step two"


def test_a_negative_step_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a step of 0 or more, got -1"):
        Checkpoints(tmp_path).save(-1, small_tree(0), {})


@pytest.mark.parametrize("meta", [{"x": np.float32(1)}, {"x": {1, 2}}, {("a", "b"): 1}])
def test_meta_that_is_not_json_is_refused(tmp_path, meta):
    with pytest.raises(TypeError, match="expected JSON values in meta: "):
        Checkpoints(tmp_path).save(0, small_tree(0), meta)
    assert list(tmp_path.iterdir()) == []


def test_meta_that_is_no_dict_is_refused(tmp_path):
    with pytest.raises(TypeError, match="expected meta as a dict of JSON values, got list"):
        Checkpoints(tmp_path).save(0, small_tree(0), [1])


def test_the_record_names_every_leaf_for_other_readers(two):
    leaves = json.loads((two / "2/record/metadata").read_text())["record"]["leaves"]
    assert {name: (leaf["dtype"], leaf["shape"]) for name, leaf in leaves.items()} == {
        "noise": ("float32", [200, 100]),
        "step": ("int32", []),
    }


@pytest.mark.parametrize("leaf", [3, 0.5, "text"])
def test_leaves_that_are_no_arrays_are_refused(tmp_path, leaf):
    with pytest.raises(TypeError, match=rf"expected an array in leaf 'a/0', got {leaf!r}; keep plain values in meta"):
        Checkpoints(tmp_path).save(0, {"a": [leaf]}, {})
    with pytest.raises(TypeError, match="expected an array in leaf 'a/0'"):
        Checkpoints(tmp_path).restore({"a": [leaf]})


def test_a_tree_of_shapes_cannot_be_saved(tmp_path):
    with pytest.raises(TypeError, match="expected an array in leaf 'x', got ShapeDtypeStruct"):
        Checkpoints(tmp_path).save(0, {"x": jax.ShapeDtypeStruct((2,), np.float32)}, {})


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (np.ones(2), "got float64; cast it to float32 or set jax_enable_x64"),
        (np.int64(3), "got int64; cast it to int32 or set jax_enable_x64"),
        (np.asarray(["a"]), "got <U1; cast it$"),
        (np.ones(2, ">f4"), "got >f4; cast it$"),
    ],
)
def test_dtypes_that_jax_would_change_are_refused(tmp_path, leaf, message):
    with pytest.raises(ValueError, match=f"expected a dtype that JAX supports in leaf 'x', {message}"):
        Checkpoints(tmp_path).save(0, {"x": leaf}, {})
    with pytest.raises(ValueError, match=message):
        Checkpoints(tmp_path).restore({"x": leaf})


def test_two_leaves_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="distinct names for all leaves, got two equal ones; remove '/' from the keys"):
        Checkpoints(tmp_path).save(0, {"a/b": jnp.ones(1), "a": {"b": jnp.ones(1)}}, {})


def test_a_failed_write_is_a_checkpoint_error_and_the_next_save_works(two, monkeypatch):
    def full_disk(*arguments, **options):
        raise OSError(28, "No space left on device")

    checkpoints = Checkpoints(two)
    with monkeypatch.context() as patch:
        patch.setattr("os.rename", full_disk)
        with pytest.raises(CheckpointError, match=rf"to save in {two}, got checkpoint 3: OSError.*No space left"):
            checkpoints.save(3, small_tree(3), {})
    assert checkpoints.restore(small_tree(0)).step == 2
    checkpoints.save(3, small_tree(3), {})
    assert checkpoints.steps() == [2, 3]


def test_without_orbax_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'jaxcnn[cli]'")):
        Checkpoints(tmp_path)


def test_some_leaves_are_read_whatever_else_there_is(two):
    checkpoints = Checkpoints(two)
    tree = {
        "best": {"params": {"kernel": jnp.arange(3.0)}, "state": {}},
        "step": jnp.int32(3),
        "key": jax.random.key(0),
    }
    checkpoints.save(3, tree, {"epoch": 7})
    restored = checkpoints.restore_leaves("best/params/")
    assert (restored.step, restored.meta, restored.skipped) == (3, {"epoch": 7}, ())
    assert_same(restored.tree, {"kernel": jnp.arange(3.0)})
    with pytest.raises(
        ValueError, match=r"with the prefix 'params/' in checkpoint 3 of .*, got \['best/params/kernel', "
    ):
        checkpoints.restore_leaves("params/")


def test_some_leaves_are_those_of_the_previous_checkpoint_where_the_newest_is_damaged(two):
    flip(data_file(two, 2), 1000)
    restored = Checkpoints(two).restore_leaves("noise")
    assert restored.step == 1
    assert len(restored.skipped) == 1
    assert_same(restored.tree[""], small_tree(1)["noise"])


def test_the_structure_may_go_with_the_step(two):
    Checkpoints(two).save(3, {"other": jnp.arange(2)}, {})
    structures = {3: {"other": jnp.arange(2)}, 2: small_tree(0)}
    assert_same(Checkpoints(two).restore(structures.get).tree, {"other": jnp.arange(2)})
    data_file(two, 3).unlink()
    restored = Checkpoints(two).restore(structures.get)
    assert restored.step == 2
    assert_same(restored.tree, small_tree(2))
