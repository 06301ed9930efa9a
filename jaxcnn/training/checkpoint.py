"""Atomic checkpoints on disk, verified leaf by leaf when they are read.

Orbax stores the arrays and makes each save atomic. This module
adds a checksum of every leaf (Orbax returns flipped bytes and other dtypes without an error), the fallback to the
previous checkpoint, and errors that name the leaf.
"""

import asyncio
import contextlib
import json
import logging
import operator
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.trees import differences, named_leaves

# A longer list would push the message off the screen.
_LISTED_DIFFERENCES = 20

# The field of a `TrainState` whose leaves may be infinite.
_OPTIMIZER_STATE = "opt_state"

# The types that describe a leaf to restore.
_EXPECTED = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or all checkpoints are damaged."""


class Restored(NamedTuple):
    """A checkpoint as `Checkpoints.restore` returns it.

    Attributes:
      step: the step of the checkpoint.
      tree: its arrays, in the structure of `like`.
      meta: its JSON values.
      skipped: one line for each newer, damaged checkpoint: its step and the error.
    """

    step: int
    tree: Any
    meta: dict[str, Any]
    skipped: tuple[str, ...]


class Checkpoints:
    """The checkpoints of one run, in one local directory.

    One process writes; others may read at the same time. Nothing stays open between two calls, so there is nothing to
    close. The first `save` creates the directory.

    Args:
      directory: folder of the checkpoints, with one subfolder for each step.
      keep: number of checkpoints to keep, at least 1. With 1 there is no fallback if it is damaged.
      owner: identity of the run, which each checkpoint holds; a checkpoint of another owner counts as damaged. None
        accepts all.

    Raises:
      ImportError: orbax-checkpoint is not installed.
      ValueError: `keep` is below 1, or `directory` is a URL.
      NotADirectoryError: `directory` is a file.
    """

    def __init__(self, directory: str | os.PathLike[str], *, keep: int = 2, owner: str | None = None):
        _import_orbax()
        if keep < 1:
            raise ValueError(f"expected to keep at least 1 checkpoint, got keep={keep}")
        if "://" in os.fspath(directory):
            raise ValueError(
                f"expected a local directory, got {os.fspath(directory)!r}; save locally and copy from there"
            )
        # Absolute, so that a later os.chdir does not move the checkpoints.
        self.directory = Path(directory).absolute()
        self.keep = operator.index(keep)
        self.owner = owner
        self._damaged: set[int] = set()
        if self.directory.exists() and not self.directory.is_dir():
            raise NotADirectoryError(
                f"expected a directory for checkpoints, got the file {self.directory}; choose another path"
            )

    def steps(self) -> list[int]:
        """Lists the steps that have a folder, oldest first, including damaged checkpoints."""
        with self._open() as manager:
            return sorted(manager.all_steps())

    def latest_step(self) -> int | None:
        """Returns the largest of `steps`, or None if there is no checkpoint."""
        return max(self.steps(), default=None)

    def save(self, step: int, tree: Any, meta: dict[str, Any]) -> None:
        """Writes one checkpoint; it is complete on disk when `save` returns.

        If the process is killed, the previous checkpoints are unchanged. Checkpoints beyond `keep` are deleted after
        the new one is complete. Checkpoints that `restore` found damaged do not count: they are renamed to
        `<step>.damaged`, so that a run that fell back can save these steps again.

        Args:
          step: 0 or more, and larger than that of every earlier checkpoint.
          tree: any pytree of JAX and NumPy arrays and NumPy scalars, including typed PRNG keys. Infinities are allowed
            only under the name `opt_state`, as in a `TrainState`: some optimizers start with an infinite "best loss so
            far". Everywhere else they mean that training diverged.
          meta: a dict for `json.dumps`; tuples come back as lists.

        Raises:
          ValueError: the step is negative or not larger than the latest, a leaf holds NaN, or infinity outside an
            optimizer's state, JAX does not support its dtype (float64 without `jax_enable_x64`), or two leaves have the
            same name. Nothing is written.
          TypeError: a leaf is not an array, or `meta` does not consist of JSON values. Nothing is written.
          CheckpointError: writing failed, for example on a full disk.
        """
        step = operator.index(step)
        self._check_step(step)
        leaves = _named_arrays(tree, (jax.Array, np.ndarray, np.generic))
        arrays = {name: _to_numpy(leaf) for name, leaf in leaves.items()}
        for name, array in arrays.items():
            if bad := _count_refused(name, array):
                raise ValueError(
                    f"expected finite values at step {step}, got {bad} of {array.size} NaN or infinite in leaf "
                    f"{name!r}; nothing was saved, the earlier checkpoints are unchanged"
                    + ("" if np.isnan(array).any() else f" (infinities are accepted only under {_OPTIMIZER_STATE!r})")
                )
        if not isinstance(meta, dict):
            raise TypeError(f"expected meta as a dict of JSON values, got {type(meta).__name__}")
        described = {name: _describe(leaves[name], arrays[name]) for name in leaves}
        record = _as_json({"leaves": described, "meta": meta, "step": step, "owner": self.owner})
        ocp = _import_orbax()
        items = {"record": ocp.args.JsonSave({"crc32": _json_checksum(record), "record": record})}
        # Orbax refuses empty arrays and empty trees; the record describes them completely.
        if filled := {name: array for name, array in arrays.items() if array.size}:
            items["leaves"] = ocp.args.PyTreeSave(filled)

        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._set_damaged_aside()
            with _quiet_threads(), self._open(cleanup_tmp_directories=True) as manager:
                # Without `force`, Orbax may skip the save and only return False.
                manager.save(step, args=ocp.args.Composite(**items), force=True)
        except Exception as error:  # Orbax raises many types, such as ValueError for a full disk.
            kept = "the earlier checkpoints still exist" if self._kept() else "there is no earlier one"
            raise CheckpointError(
                f"expected to save in {self.directory}, got {_explain(step, error)}; {kept}; check the free space and "
                "the permissions"
            ) from error

    def restore(self, like: Any) -> Restored:
        """Reads the newest checkpoint whose leaves all match their checksums.

        Args:
          like: a pytree of arrays or `jax.ShapeDtypeStruct`s with the expected structure; values are ignored. Or a
            function of the step that returns such a pytree, if the structure changes during training.

        Returns:
          The checkpoint, with JAX arrays on the default device that share no memory as leaves, and the reasons why
          newer checkpoints were skipped.

        Raises:
          FileNotFoundError: the directory holds no checkpoint.
          CheckpointError: every checkpoint is damaged; the message lists all reasons.
          ValueError: the leaves, shapes or dtypes of the newest readable checkpoint differ from `like`; the message
            lists them.
          TypeError: a leaf of `like` has no shape and dtype.
        """
        if callable(like):
            return self._restore(lambda step, record: like(step))
        _named_arrays(like, _EXPECTED)
        return self._restore(lambda step, record: like)

    def restore_leaves(self, prefix: str) -> Restored:
        """Reads some leaves of the newest checkpoint in which they match their checksums; other leaves are ignored.

        Args:
          prefix: prefix of the paths of these leaves, such as "best/params/".

        Returns:
          The checkpoint; its tree is a dict of JAX arrays by path, without the prefix.

        Raises:
          FileNotFoundError: the directory holds no checkpoint.
          CheckpointError: every checkpoint is damaged; the message lists all reasons.
          ValueError: the newest readable checkpoint has no leaf with this prefix.
        """

        def described(step: int, record: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
            chosen = {name: leaf for name, leaf in record["leaves"].items() if name.startswith(prefix)}
            if not chosen:
                there = list(record["leaves"])[:_LISTED_DIFFERENCES]
                raise ValueError(
                    f"expected leaves with the prefix {prefix!r} in checkpoint {step} of {self.directory}, got {there}"
                )
            return {name: jax.ShapeDtypeStruct(leaf["shape"], leaf["dtype"]) for name, leaf in chosen.items()}

        restored = self._restore(described, prefix)
        return restored._replace(tree={name.removeprefix(prefix): leaf for name, leaf in restored.tree.items()})

    def _restore(self, like: Callable[[int, Mapping[str, Any]], Any], prefix: str = "") -> Restored:
        """Reads the leaves with the prefix, in the structure that `like` returns for a step and its record."""
        skipped: list[str] = []
        with self._open() as manager:
            for step, record in self._records(manager, skipped):
                tree = like(step, record)
                expected = _named_arrays(tree, _EXPECTED)
                stored = {name: leaf for name, leaf in record["leaves"].items() if name.startswith(prefix)}
                if faults := _differences(expected, stored):
                    raise ValueError(
                        f"expected the leaves of this model and its options, got others in checkpoint {step} of "
                        f"{self.directory}; restore with those it was saved with:\n  " + "\n  ".join(faults)
                    )
                try:
                    arrays = _read_arrays(manager, step, expected, stored)
                except Exception as error:  # Orbax raises many types, including bare Exception.
                    skipped.append(_explain(step, error))
                    self._damaged.add(step)
                    continue
                leaves = [_to_jax(arrays[name], stored[name]) for name in expected]
                return Restored(
                    step, jax.tree.unflatten(jax.tree.structure(tree), leaves), record["meta"], tuple(skipped)
                )
        raise self._none_usable(skipped)

    def faults(self) -> list[str]:
        """Checks the records of all checkpoints without reading their arrays.

        Returns:
          One line for each damaged checkpoint, newest first: its step and the error.
        """
        skipped: list[str] = []
        with self._open() as manager, contextlib.suppress(FileNotFoundError):
            list(self._records(manager, skipped))
        return skipped

    def _kept(self) -> bool:
        """Whether there is a checkpoint; false if the folder cannot be read."""
        try:
            return bool(self.steps())
        except Exception:  # Orbax raises many types.
            return False

    def _open(self, **options: Any) -> Any:
        """Opens Orbax's manager, which reads the directory again and must be closed."""
        ocp = _import_orbax()
        handlers = ocp.handlers.DefaultCheckpointHandlerRegistry()
        leaf_handler = _leaf_handler()
        handlers.add("leaves", ocp.args.PyTreeSave, leaf_handler)
        handlers.add("leaves", ocp.args.PyTreeRestore, leaf_handler)
        return ocp.CheckpointManager(
            self.directory,
            handler_registry=handlers,
            options=ocp.CheckpointManagerOptions(
                create=False,
                enable_async_checkpointing=False,
                preservation_policy=ocp.checkpoint_managers.LatestN(self.keep),
                # Several threads wait 0.1 s for each other per deleted checkpoint.
                num_deletion_threads=1,
                lightweight_initialize=True,
                # Of several processes that train together, only the one that opens it takes part.
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    primary_host=jax.process_index(), active_processes={jax.process_index()}
                ),
                **options,
            ),
        )

    def _records(self, manager: Any, skipped: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields step and record, newest first; adds the reasons for invalid records to `skipped`."""
        steps = sorted(manager.all_steps(), reverse=True)
        if not steps:
            raise FileNotFoundError(
                f"expected checkpoints in {self.directory}, got none; save one first or give the directory of a run"
            )
        for step in steps:
            try:
                record = self._read_record(manager, step)
            except Exception as error:  # Orbax raises many types, including bare Exception.
                skipped.append(_explain(step, error))
                self._damaged.add(step)
            else:
                yield step, record

    def _read_record(self, manager: Any, step: int) -> dict[str, Any]:
        ocp = _import_orbax()
        stored = manager.restore(step, args=ocp.args.Composite(record=ocp.args.JsonRestore())).record
        record = stored["record"]
        if _json_checksum(record) != stored["crc32"]:
            raise CheckpointError("the record of the leaves and meta does not match its checksum")
        # Checkpoints of version 0.1 know neither their step nor their owner.
        if record.get("step", step) != step:
            raise CheckpointError(f"it was saved at step {record['step']}; its folder was renamed")
        if self.owner is not None and record.get("owner") != self.owner:
            raise CheckpointError(f"it belongs to another run ({record.get('owner')}, not {self.owner})")
        return record

    def _none_usable(self, skipped: list[str]) -> CheckpointError:
        return CheckpointError(
            f"expected a usable checkpoint in {self.directory}, got only damaged ones; restore the files from a copy "
            "or start again in another directory:\n  " + "\n  ".join(skipped)
        )

    def _check_step(self, step: int) -> None:
        if step < 0:
            raise ValueError(f"expected a step of 0 or more, got {step}")
        latest = max(set(self.steps()) - self._damaged, default=None)
        if latest is not None and step <= latest:
            raise ValueError(
                f"expected a step larger than {latest}, the latest checkpoint in {self.directory}, got {step}; "
                "resume from that checkpoint or use another directory"
            )

    def _set_damaged_aside(self) -> None:
        # Renamed, not deleted: a temporary read error of the disk looks like damage.
        for step in self._damaged:
            folder = self.directory / str(step)
            aside = folder.with_suffix(".damaged")
            if folder.exists():
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
        self._damaged.clear()


def _import_orbax() -> ModuleType:
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ImportError("checkpoints need orbax-checkpoint; pip install 'jaxcnn[cli]'") from error
    return ocp


def _named_arrays(tree: Any, kinds: tuple[type, ...]) -> dict[str, Any]:
    """Lists the leaves by name. Refuses a leaf that `restore` could not return unchanged."""
    leaves = named_leaves(tree)
    if len(leaves) != len(jax.tree.leaves(tree)):
        raise ValueError("expected distinct names for all leaves, got two equal ones; remove '/' from the keys")
    for name, leaf in leaves.items():
        if not isinstance(leaf, kinds):
            raise TypeError(
                f"expected an array in leaf {name!r}, got {leaf!r}; keep plain values in meta or use jnp.asarray"
            )
        try:
            dtype = jax.eval_shape(lambda x: x, leaf).dtype
        except TypeError:
            dtype = None
        if dtype != leaf.dtype:
            raise ValueError(
                f"expected a dtype that JAX supports in leaf {name!r}, got {leaf.dtype}; cast it"
                + (f" to {dtype} or set jax_enable_x64" if dtype else "")
            )
    return leaves


def _count_refused(name: str, array: np.ndarray) -> int:
    """Counts the values that no checkpoint may hold: NaN, and infinities outside an optimizer's state."""
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return 0
    refused = np.isnan(array) if _OPTIMIZER_STATE in name.split("/") else ~np.isfinite(array)
    return int(refused.sum())


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_numpy(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _to_jax(array: np.ndarray, description: Mapping[str, Any]) -> jax.Array:
    # A copy: `jax.device_put` may alias NumPy's memory, which a step with donated arguments cannot reuse.
    leaf = jnp.array(array)
    return jax.random.wrap_key_data(leaf, impl=description["key"]) if "key" in description else leaf


def _describe(leaf: Any, array: np.ndarray) -> dict[str, Any]:
    """Describes in JSON the leaf that `restore` must return."""
    description = {"dtype": str(leaf.dtype), "shape": list(leaf.shape), "crc32": zlib.crc32(array.tobytes())}
    if _is_key(leaf):
        description["key"] = str(jax.random.key_impl(leaf))
    return description


def _differences(expected: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """Lists the leaves that are missing, unexpected, or differ in shape or dtype, one line for each."""
    lines = differences(
        {name: f"{leaf.dtype} {tuple(leaf.shape)}" for name, leaf in expected.items()},
        {name: f"{record['dtype']} {tuple(record['shape'])}" for name, record in stored.items()},
    )
    hidden = len(lines) - _LISTED_DIFFERENCES
    return lines if hidden <= 0 else [*lines[:_LISTED_DIFFERENCES], f"and {hidden} more"]


def _as_json(record: dict[str, Any]) -> dict[str, Any]:
    """Returns the record as it will be read, to compute its checksum."""
    try:
        return json.loads(json.dumps(record))
    except (TypeError, ValueError) as error:
        raise TypeError(f"expected JSON values in meta: {error}; convert it first") from error


def _json_checksum(record: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(record).encode())


def _read_arrays(
    manager: Any, step: int, expected: Mapping[str, Any], stored: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Reads the arrays of one checkpoint and compares each with its record."""
    ocp = _import_orbax()
    arrays = {}
    if any(leaf.size for leaf in expected.values()):
        arrays = manager.restore(step, args=ocp.args.Composite(leaves=ocp.args.PyTreeRestore())).leaves
    for name, leaf in expected.items():
        plain = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        if not leaf.size:
            arrays[name] = np.empty(plain.shape, plain.dtype)
        array = arrays[name]
        if array.shape != plain.shape or array.dtype != plain.dtype:
            raise CheckpointError(f"leaf {name!r} was read as {array.dtype} {array.shape}")
        if zlib.crc32(array.tobytes()) != stored[name]["crc32"]:
            raise CheckpointError(f"leaf {name!r} does not match its checksum")
    return arrays


@contextlib.contextmanager
def _quiet_threads() -> Iterator[None]:
    """Drops the tracebacks that Orbax's threads log; the error is raised as well."""
    logger = logging.getLogger("absl")

    def drop(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR

    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


def _leaf_handler() -> Any:
    """Makes the Orbax handler that reads and writes the leaves as NumPy arrays."""
    ocp = _import_orbax()

    class PatientHandler(ocp.type_handlers.NumpyHandler):
        """Waits for every read and write before it reports a failure.

        Orbax itself closes its event loop at the first failure; the threads of the others then print a traceback each.
        """

        async def _open_and_write(self, *args: Any) -> None:
            try:
                await super()._open_and_write(*args)
            except Exception as error:
                self._failure = error

        async def _background_serialize(self, *args: Any) -> None:
            self._failure: Exception | None = None
            await super()._background_serialize(*args)
            if self._failure is not None:
                raise self._failure

        async def deserialize(self, infos: Sequence[Any], args: Sequence[Any] | None = None) -> list[np.ndarray]:
            read = super().deserialize
            args = args or [ocp.RestoreArgs()] * len(infos)
            reads = (read([info], [arg]) for info, arg in zip(infos, args, strict=True))
            arrays = []
            for info, result in zip(infos, await asyncio.gather(*reads, return_exceptions=True), strict=True):
                if isinstance(result, BaseException):
                    raise CheckpointError(f"leaf {info.name!r} cannot be read: {result}") from result
                arrays.extend(result)
            return arrays

    registry = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, PatientHandler()),
        # Never used, but Orbax logs a warning if it is missing.
        (jax.Array, ocp.type_handlers.ArrayHandler()),
    )
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


def _explain(step: int, error: Exception) -> str:
    # Tensorstore names the system's reason by its number, after long lists of files.
    if code := re.search(r"\[os_error_code='(\d+)'\]", str(error)):
        return f"checkpoint {step}: {os.strerror(int(code[1]))}"
    lines = str(error).splitlines() or [""]
    kind = "" if isinstance(error, CheckpointError) else f"{type(error).__name__}: "
    return f"checkpoint {step}: {kind}{lines[0][:200]}"
