"""The race with contestants that only say how long they took, and with processes that only speak the protocol."""

import sys

import pytest

from jaxcnn import environment
from jaxcnn.benchmark import Contest, contest, make_records, race
from jaxcnn.benchmark.contest import Stopped, WorkerProcess
from jaxcnn.benchmark.peers import CONTESTANTS, PEERS, implied
from jaxcnn.benchmark.program import COLD_START
from jaxcnn.benchmark.spec import Spec
from jaxcnn.layers import Dense

MODEL = Dense(4, 2)


class Fake:
    """A contestant whose rounds take what a list says, and that notes them in a log."""

    def __init__(self, name, log, seconds, *, parameters=10, platform="cpu"):
        self.name, self.log, self.seconds = name, log, iter(seconds)
        device = {"platform": platform, "kind": "NVIDIA A100-SXM4-40GB" if platform == "gpu" else "cpu", "count": 1}
        self.ready = {
            "parameters": parameters,
            "cold_start": {"import": 1.0, "first_step": 0.5},
            "facts": {"device": device, "multiply_adds": 100, "versions": {"jax": "0"}},
        }

    def round(self, seconds):
        self.log.append(self.name)
        taken = next(self.seconds)
        if isinstance(taken, Exception):
            raise taken
        return {"samples": [taken], "steps": 2, "peak_bytes": 5, "memory": "process"}

    def close(self):
        self.log.append(f"{self.name} ends")


def run(peers=(), rounds=2, **fakes):
    """Races fakes by name; an exception stands for one that does not get ready."""
    log = []

    def start(spec):
        fake = fakes[spec.contestant.replace("-", "_")](spec.contestant, log)
        if isinstance(fake, Exception):
            raise fake
        return fake

    found = race(Contest("model", MODEL, (4,), 8, peers=peers, rounds=rounds), start=start)
    return found, log


def taking(*seconds, **options):
    return lambda name, log: Fake(name, log, seconds, **options)


def test_contestants_alternate_to_and_fro_and_the_warm_up_does_not_count():
    found, log = run(
        ("torch", "equinox"), jaxcnn=taking(9.0, 1.0, 2.0), torch=taking(9.0, 4.0, 4.0), equinox=taking(9.0, 1.0, 1.0)
    )
    ours, torch, equinox = "jaxcnn", "torch", "equinox"
    # Of its two processes the first one only leaves its programs to the second.
    assert log[:10] == ["jaxcnn ends", ours, torch, equinox, equinox, torch, ours, ours, torch, equinox]
    assert sorted(log[10:]) == ["equinox ends", "jaxcnn ends", "torch ends"]
    assert [outcome.samples for outcome in found.outcomes] == [[[1.0], [2.0]], [[4.0], [4.0]], [[1.0], [1.0]]]
    records = {record["contestant"]: record for record in make_records(found)}
    assert records["torch"]["ratio"]["median"] == 0.375
    assert records["equinox"]["ratio"]["median"] == 1.5
    assert records["jaxcnn"]["ratio"] is None


def test_a_contestant_that_stops_leaves_the_others_running():
    found, _ = run(
        ("torch", "keras"),
        jaxcnn=taking(1.0, 1.0, 1.0),
        torch=lambda name, log: Stopped("missing", "not installed; pip install torch"),
        keras=taking(1.0, 2.0, Stopped("failed", "out of memory")),
    )
    by_name = {record["contestant"]: record for record in make_records(found)}
    assert (by_name["torch"]["status"], by_name["torch"]["reason"]) == ("missing", "not installed; pip install torch")
    assert (by_name["keras"]["status"], by_name["keras"]["reason"]) == ("failed", "out of memory")
    assert by_name["jaxcnn"]["rounds"] == 2


def test_without_ours_the_peers_are_measured_and_have_no_ratio():
    found, _ = run(("torch",), jaxcnn=lambda name, log: Stopped("failed", "broken"), torch=taking(1.0, 2.0, 3.0))
    ours, torch = make_records(found)
    assert (ours["status"], ours["step_seconds"]) == ("failed", None)
    assert (torch["step_seconds"]["median"], torch["ratio"], torch["flops"]) == (2.5, None, None)


def test_another_architecture_is_refused():
    found, _ = run(("torch",), jaxcnn=taking(1.0, 1.0, 1.0), torch=taking(parameters=1234))
    assert found.outcomes[1].status == "failed"
    assert found.outcomes[1].reason == "expected the same architecture, of 10 parameters, got 1,234"


def test_another_device_is_refused():
    fakes = {"torch": taking(), "torch_compile": taking()}
    found, _ = run(("torch",), jaxcnn=taking(1.0, 1.0, 1.0, platform="gpu"), **fakes)
    assert [outcome.contestant for outcome in found.outcomes] == ["jaxcnn", "torch", "torch-compile"]
    assert found.outcomes[1].reason == "jaxcnn runs on gpu, it on cpu; install its build for gpu"


def test_a_slow_contestant_sits_the_last_rounds_out(monkeypatch):
    monkeypatch.setattr(contest, "PATIENCE_SECONDS", 7.0)
    found, _ = run(("torch",), rounds=5, jaxcnn=taking(*[0.1] * 6), torch=taking(*[2.0] * 6))
    assert [len(outcome.rounds) for outcome in found.outcomes] == [5, 3]


def test_a_long_first_step_is_warm_up_enough():
    def slow(name, log):
        fake = Fake(name, log, [3.0, 3.0])
        fake.ready["cold_start"]["first_step"] = 11.0
        return fake

    found, _ = run(("torch",), jaxcnn=taking(1.0, 1.0, 1.0), torch=slow)
    assert [outcome.samples for outcome in found.outcomes] == [[[1.0], [1.0]], [[3.0], [3.0]]]


def test_what_a_choice_of_peers_implies():
    assert implied(("flax",), gpu=False) == ["flax", "flax-flags"]
    assert implied(("torch",), gpu=False) == ["torch"]
    assert implied(("keras", "torch"), gpu=True) == ["torch", "torch-compile", "keras"]
    assert implied(("torch-compile",), gpu=False) == ["torch-compile"]
    assert implied((), gpu=True) == []
    assert set(PEERS) == set(CONTESTANTS) - {"jaxcnn"}


def test_utilisation_is_the_rate_over_the_peak():
    record = make_records(run(jaxcnn=taking(1.0, 2e-9, 2e-9, platform="gpu"))[0])[0]
    assert record["flops"] == 2 * 3 * 100 * 8
    assert record["flops_per_second"] == pytest.approx(4800 / 2e-9)
    assert record["images_per_second"] == pytest.approx(8 / 2e-9)
    assert record["model_flop_utilisation"] == pytest.approx(4800 / 2e-9 / 156e12)
    assert make_records(run(jaxcnn=taking(1.0, 1.0, 1.0))[0])[0]["model_flop_utilisation"] is None


def test_all_records_have_the_same_names():
    found, _ = run(("torch",), jaxcnn=taking(1.0, 1.0, 1.0), torch=lambda *_: Stopped("missing", "why"))
    ours, torch = make_records(found)
    assert ours.keys() == torch.keys()
    assert ours["host"]["cores"] >= 1
    assert ours["versions"] == {"jax": "0"}


def test_a_peer_that_is_not_installed_is_missing(monkeypatch):
    monkeypatch.setattr(contest.importlib.util, "find_spec", lambda name: None if name == "keras" else object())
    with pytest.raises(Stopped, match="not installed; pip install keras") as stopped:
        WorkerProcess(Spec("keras", MODEL, (4,), 1))
    assert stopped.value.status == "missing"


def process(monkeypatch, program):
    """Starts a process that runs a program instead of a worker."""
    monkeypatch.setattr(contest, "PROCESS", program)
    return WorkerProcess(Spec("jaxcnn", MODEL, (4,), 1))


def test_a_process_answers_line_by_line(monkeypatch):
    program = """
import json, sys
spec = json.loads(sys.stdin.readline())
print(json.dumps({"ready": {"contestant": spec["contestant"], "imports": sys.argv[2:]}}), flush=True)
for line in sys.stdin:
    print(json.dumps({"round": json.loads(line)}), flush=True)
"""
    with process(monkeypatch, program) as worker:
        assert worker.ready == {"contestant": "jaxcnn", "imports": ["jax", "optax", "jaxcnn.models"]}
        assert worker.round(0.25) == {"seconds": 0.25}


@pytest.mark.parametrize(
    ("program", "status", "reason"),
    [
        ('print(\'{"missing": "no compiler"}\')', "missing", "no compiler"),
        ('import sys; sys.exit("out of memory")', "failed", "its process ended with status 1: out of memory"),
        ("import os; os._exit(3)", "failed", "its process ended with status 3"),
    ],
)
def test_a_process_that_cannot_go_on_says_why(monkeypatch, program, status, reason):
    with pytest.raises(Stopped, match=f"^{reason}$") as stopped:
        process(monkeypatch, f"import sys; sys.stdin.readline(); {program}")
    assert stopped.value.status == status


def test_the_real_thing_on_two_devices():
    found = race(Contest("dense", MODEL, (4,), 8, "infer", devices=2, rounds=1), round_seconds=0.01)
    (record,) = make_records(found)
    assert record["status"] == "measured", record["reason"]
    assert record["parameters"] == 10
    assert record["device"]["count"] == 2
    cold, warm = record["cold_start_seconds"], record["warm_start_seconds"]
    assert cold.keys() == warm.keys() == set(COLD_START)
    assert all(seconds >= 0 for seconds in (*cold.values(), *warm.values()))
    assert warm["compile"] < cold["compile"]
    assert record["step_seconds"]["minimum"] > 0
    assert record["peak_bytes"] > 1e7
    assert record["folded_batch_norms"] is True


def test_other_work_is_what_all_programs_but_this_one_did():
    with environment.OtherWork() as others:
        sum(range(10**5))
    assert others.cores is None if sys.platform != "linux" else others.cores >= 0
