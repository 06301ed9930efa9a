"""Many processes that train together: how they join, agree and share what one of them knows.

Every process runs the same program on its own devices (JAX's multi-controller runtime). All functions but `join` are
collective: every process must call them, in the same order.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")

AUTOMATIC = "auto"
"""As the coordinator: SLURM, Open MPI, Kubernetes or the TPU runtime tell a process what it must know."""

_HEARTBEAT_SECONDS = 20
"""A process that is silent for so long counts as dead, and all others stop."""


class HostsError(RuntimeError):
    """The processes of a training could not join, do not agree, or one of them failed."""


def join(
    coordinator: str, processes: int | None = None, process: int | None = None, *, time_limit: float = 60.0
) -> None:
    """Joins the other processes of a training; must come before the first use of a device.

    Args:
      coordinator: address HOST:PORT of process 0, which all processes can reach; or "auto" where the cluster tells.
      processes: number of processes; None with "auto".
      process: number of this process, from 0; None with "auto".
      time_limit: seconds to wait for the others.

    Raises:
      HostsError: the coordinator cannot be reached, its port is in use, the other processes did not come in time, or no
        cluster was found.
      ValueError: an argument is out of range.
    """
    options: dict[str, Any] = {}
    if coordinator != AUTOMATIC:
        address = _address(coordinator)
        if processes is None or process is None or not 0 <= process < processes:
            raise ValueError(
                "expected the number of processes and that of this process, from 0 to the number less 1, got "
                f"processes={processes}, process={process}"
            )
        if process == 0:
            _check_free(address)
        else:
            _wait_for(address, time_limit)
        options = {
            "coordinator_address": coordinator,
            "num_processes": processes,
            "process_id": process,
            # A cluster would give each of its processes one device.
            "cluster_detection_method": "deactivate",
        }
    elif processes is not None or process is not None:
        raise ValueError("expected no numbers of processes with the coordinator auto, which finds them; omit them")
    # JAX's own service takes SIGTERM for itself, from here to the end of the process.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **options,
            initialization_timeout=int(time_limit),
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    # A cluster that is not found is a ValueError; JAX reports a time limit as a RuntimeError of many lines.
    except (RuntimeError, ValueError) as error:
        if coordinator == AUTOMATIC:
            raise HostsError(
                "expected a process that SLURM, Open MPI, Kubernetes or a TPU runtime started, got none of them: "
                f"{str(error).splitlines()[0]}; give the address of process 0, the number of processes and that of "
                "this process"
            ) from error
        raise HostsError(
            f"expected {processes} processes at {coordinator} within {time_limit:g} s, got fewer; start all of them, "
            f"each with its own number: {str(error).splitlines()[0]:.200}"
        ) from error


def _address(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"expected the coordinator as HOST:PORT, such as 10.0.0.1:1234, or auto, got {coordinator!r}")
    return host, int(port)


def _check_free(address: tuple[str, int]) -> None:
    with socket.socket() as probe:
        # As the server does: without it, a port of a server that has just ended would count as used.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", address[1]))
        except OSError as error:
            raise HostsError(
                f"expected a free port for the coordinator, got {address[1]}: {os.strerror(error.errno or 0)}; choose "
                "another, the same in all processes"
            ) from error


def _wait_for(address: tuple[str, int], time_limit: float) -> None:
    deadline, reason = time.monotonic() + time_limit, ""
    while time.monotonic() < deadline:
        try:
            socket.create_connection(address, timeout=max(deadline - time.monotonic(), 0.1)).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
            time.sleep(0.2)
    raise HostsError(
        f"expected process 0 at the coordinator's address {address[0]}:{address[1]} within {time_limit:g} s, got: "
        f"{reason}; start process 0, and check the address and the firewall"
    )


def leads() -> bool:
    """Whether this is process 0, which writes the run folder."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Whether a flag is set in any process.

    Args:
      flag: that of this process.
    """
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def share(value: T) -> T:
    """Returns a JSON value of process 0 in all processes.

    Args:
      value: the value; that of other processes is ignored.
    """
    return json.loads(_share_bytes(json.dumps(value if leads() else None).encode()))


def share_arrays(tree: Any, like: Any) -> Any:
    """Returns the arrays of process 0 in all processes.

    Args:
      tree: arrays in the structure of `like`; those of other processes are ignored.
      like: a tree of arrays or of `jax.ShapeDtypeStruct`s.

    Returns:
      Arrays of NumPy.
    """
    leaves, structure = jax.tree.flatten(like)
    content = _share_bytes(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)) if leads() else b"")
    arrays, first = [], 0
    for leaf in leaves:
        size = leaf.size * leaf.dtype.itemsize
        arrays.append(np.frombuffer(content[first : first + size], leaf.dtype).reshape(leaf.shape))
        first += size
    return jax.tree.unflatten(structure, arrays)


def led(function: Callable[[], T]) -> T | None:
    """Calls a function in process 0 alone.

    Args:
      function: the function.

    Returns:
      Its result in process 0, None in the others.

    Raises:
      HostsError: the function failed, in all processes but 0, which raises its exception.
    """
    result, failure = None, None
    if leads():
        try:
            result = function()
        except Exception as error:
            failure = error
    message = share(None if failure is None else str(failure))
    if failure is not None:
        raise failure
    if message is not None:
        raise HostsError(f"process 0 stopped: {message}")
    return result


def check_agreement(facts: Mapping[str, Any]) -> None:
    """Refuses processes that differ in what must be the same.

    Args:
      facts: JSON values by name.

    Raises:
      HostsError: facts differ, or are missing in some processes; the message names each, and for each the first process
        that differs from process 0. All processes raise it.
    """
    own = json.dumps(facts).encode()
    sizes = multihost_utils.process_allgather(np.array(len(own), np.int32))
    padded = np.frombuffer(own.ljust(int(sizes.max())), np.uint8)
    everyone = [json.loads(row.tobytes()) for row in multihost_utils.process_allgather(padded)]
    differences = []
    for name in dict.fromkeys(name for each in everyone for name in each):
        first = everyone[0].get(name)
        index = next((index for index, other in enumerate(everyone) if other.get(name) != first), None)
        if index is not None:
            differences.append(
                f"{name} in all processes, got {first!r:.200} in process 0 and {everyone[index].get(name)!r:.200} in "
                f"process {index}"
            )
    if differences:
        raise HostsError(
            f"expected the same {'; the same '.join(differences)}; start all with the same options, data and versions"
        )


class LostProcessError(HostsError):
    """An exchange failed, because another process died.

    The process should end without JAX's own end, `os._exit`, which would wait for the dead one.
    """


@contextlib.contextmanager
def losses_reported(resume: str) -> Iterator[None]:
    """Turns the failure of an exchange with a process that died into a `LostProcessError`.

    Args:
      resume: how to go on, for the message.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise LostProcessError(
            f"process {jax.process_index()} lost another process, which failed or was killed; see its last message. "
            f"{resume} ({str(error).splitlines()[0]:.200})"
        ) from error


def _share_bytes(content: bytes) -> bytes:
    # Without 64-bit types, a length of more than two gigabytes needs two numbers.
    high, low = divmod(len(content), 2**20)
    high, low = map(int, multihost_utils.broadcast_one_to_all(np.array([high, low], np.int32)))
    buffer = np.zeros(high * 2**20 + low, np.uint8)
    if leads():
        buffer[:] = np.frombuffer(content, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(buffer)).tobytes()
