"""Two processes on this machine train as one, agree before they start, and end when one of them dies."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxcnn.training import hosts

ROOT = Path(__file__).parents[2]
TRAIN = ["--batch-size", "32", "--optimizer", "sgd", "--learning-rate", "0.05", "--checkpoint-epochs", "1"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(*words, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "jaxcnn.cli", "train", *map(str, words)],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": "", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(*words, second=()):
    address = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", 2]
    return start(*words, *address, "--process", 0), start(*words, *second, *address, "--process", 1)


def end(process, seconds=300):
    output, errors = process.communicate(timeout=seconds)
    return process.returncode, output, errors


def weights(folder):
    with np.load(folder / "best.npz") as content:
        about = json.loads(content["about"].tobytes())
        return {name: content[name].view(leaf["dtype"]) for name, leaf in about["leaves"].items()}


def metrics(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [[row[name] for name in ("train_loss", "validation_loss", "validation_accuracy")] for row in rows]


def check_equal(one, other):
    np.testing.assert_allclose(metrics(one), metrics(other), rtol=1e-4, atol=1e-5)
    expected = weights(other)
    for name, array in weights(one).items():
        np.testing.assert_allclose(array, expected[name], atol=2e-5, err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "alone"
    assert end(start(*TRAIN, "--epochs", 4, "--run-dir", folder))[0] == 0
    return folder


@pytest.mark.slow
def test_two_processes_train_as_one(alone, tmp_path):
    folder = tmp_path / "two"
    results = [end(one) for one in start_two(*TRAIN, "--epochs", 4, "--run-dir", folder, "--shard", "parameters")]
    assert [status for status, _, _ in results] == [0, 0], results
    check_equal(folder, alone)
    # Process 0 tells about the training, and draws.
    assert "test" in results[0][1]
    # The library of the exchange says a line of its own.
    assert all(line.startswith("[Gloo]") for line in results[1][1].splitlines()), results[1][1]
    assert (folder / "result.json").exists()


@pytest.mark.heavy
@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_where_one_is_killed_the_other_ends_and_the_run_is_resumed_by_one(killed, alone, tmp_path):
    folder = tmp_path / "killed"
    both = start_two(*TRAIN, "--epochs", 4, "--run-dir", folder)
    while not list(folder.glob("checkpoints/[0-9]*")):
        assert [one.poll() for one in both] == [None, None], [end(one) for one in both]
        time.sleep(0.1)
    both[killed].send_signal(signal.SIGKILL)
    began = time.monotonic()
    status, _, errors = end(both[1 - killed], 60)
    assert time.monotonic() - began < 60
    assert status != 0
    assert "lost another process, which failed or was killed" in errors, errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    end(both[killed])
    assert end(start("--run-dir", folder, "--resume"))[0] == 0
    check_equal(folder, alone)


@pytest.mark.slow
def test_a_signal_to_one_stops_both_with_a_checkpoint_and_both_resume(alone, tmp_path):
    folder = tmp_path / "run"
    both = start_two(*TRAIN, "--epochs", 4, "--run-dir", folder)
    while not list(folder.glob("checkpoints/[0-9]*")):
        assert [one.poll() for one in both] == [None, None], [end(one) for one in both]
        time.sleep(0.1)
    both[1].send_signal(signal.SIGTERM)
    results = [end(one) for one in both]
    assert [status for status, _, _ in results] == [0, 0], results
    assert "stopped after step" in results[0][1]
    results = [end(one) for one in start_two("--run-dir", folder, "--resume")]
    assert [status for status, _, _ in results] == [0, 0], results
    check_equal(folder, alone)


@pytest.mark.heavy
@pytest.mark.slow
def test_processes_that_differ_say_in_what(tmp_path):
    both = start_two(*TRAIN, "--epochs", 1, "--run-dir", tmp_path / "run", second=["--learning-rate", "0.1"])
    for status, _, errors in map(end, both):
        assert status == 2
        message = "expected the same learning_rate in all processes, got 0.05 in process 0 and 0.1 in process 1"
        assert message in errors
        assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()


def gathered(monkeypatch, *everyone):
    """Pretends that the processes have these facts; this is the last one."""
    rows = [json.dumps(facts).encode() for facts in everyone]
    longest = max(map(len, rows))

    def allgather(array):
        if array.ndim == 0:
            return np.array([len(row) for row in rows])
        np.testing.assert_array_equal(array, np.frombuffer(rows[-1].ljust(longest), np.uint8))
        return np.stack([np.frombuffer(row.ljust(longest), np.uint8) for row in rows])

    monkeypatch.setattr(hosts.multihost_utils, "process_allgather", allgather)
    return everyone[-1]


def test_everything_that_differs_is_named_with_both_values(monkeypatch):
    one = {"epochs": 3, "train data": "aa", "classes": ["a", "b"], "version of jax": "0.10.2"}
    other = {"epochs": 3, "train data": "bb", "classes": ["a", "c"], "version of jax": "0.10.1", "mosaic": 0.5}
    own = gathered(monkeypatch, one, one, other)
    with pytest.raises(hosts.HostsError) as error:
        hosts.check_agreement(own)
    assert str(error.value) == (
        "expected the same train data in all processes, got 'aa' in process 0 and 'bb' in process 2; "
        "the same classes in all processes, got ['a', 'b'] in process 0 and ['a', 'c'] in process 2; "
        "the same version of jax in all processes, got '0.10.2' in process 0 and '0.10.1' in process 2; "
        "the same mosaic in all processes, got None in process 0 and 0.5 in process 2; "
        "start all with the same options, data and versions"
    )


def test_processes_that_agree_go_on(monkeypatch):
    hosts.check_agreement(gathered(monkeypatch, {"epochs": 3}, {"epochs": 3}))


@pytest.mark.slow
def test_processes_that_differ_in_several_things_name_each(tmp_path):
    second = ["--learning-rate", "0.1", "--seed", "3"]
    for status, _, errors in map(end, start_two(*TRAIN, "--epochs", 1, "--run-dir", tmp_path / "run", second=second)):
        assert status == 2, errors
        assert "Traceback" not in errors
        for name in ("learning_rate", "seed", "weights"):
            assert f"the same {name} in all processes, got " in errors, errors
    assert not (tmp_path / "run").exists()


@pytest.mark.heavy
@pytest.mark.slow
def test_an_error_of_process_0_ends_both(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "notes.txt").touch()
    for status, _, errors in map(end, start_two(*TRAIN, "--epochs", 1, "--run-dir", folder)):
        assert status == 2
        assert "is not empty (notes.txt)" in errors
        assert "Traceback" not in errors


def test_a_coordinator_that_cannot_be_reached_is_named():
    port = free_port()
    with pytest.raises(
        hosts.HostsError, match=rf"coordinator's address 127.0.0.1:{port} within 0.5 s, got: Connection"
    ):
        hosts.join(f"127.0.0.1:{port}", 2, 1, time_limit=0.5)


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(hosts.HostsError, match=rf"a free port for the coordinator, got {port}: Address already in"):
            hosts.join(f"127.0.0.1:{port}", 2, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("127.0.0.1", 2, 0), "coordinator as HOST:PORT, such as 10.0.0.1:1234, or auto, got '127.0.0.1'"),
        (("host:0", 2, 0), "coordinator as HOST:PORT, such as 10.0.0.1:1234, or auto, got 'host:0'"),
        (("host:1234", None, 0), "number of processes and that of this process, .* got processes=None, process=0"),
        (("host:1234", 2, 2), "from 0 to the number less 1, got processes=2, process=2"),
        (("auto", 2, None), "no numbers of processes with the coordinator auto, which finds them; omit them"),
    ],
)
def test_arguments_out_of_range_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        hosts.join(*words)


def test_a_process_that_no_cluster_started_is_refused():
    code = "from jaxcnn.training import hosts\ntry: hosts.join('auto')\nexcept hosts.HostsError as e: print(e)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert re.match("expected a process that SLURM, .* runtime started, got none of them: ", done.stdout), done
