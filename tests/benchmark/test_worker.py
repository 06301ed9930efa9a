"""The process of a contestant, with a program in it that computes nothing."""

import json
import subprocess
import sys

import pytest

from jaxcnn.benchmark.spec import Spec
from jaxcnn.benchmark.worker import run_round, steps_per_sample
from jaxcnn.layers import Dense

FAKE = """
from jaxcnn.benchmark import worker
from jaxcnn.benchmark.program import Unavailable, Untranslatable

class Program:
    parameters = 10
    cold_start = {{"build": 1.0, "trace": None}}
    facts = {{"device": {{"platform": "cpu"}}}}
    steps = 0
    def step(self):
        self.steps += 1
        print("a library prints")
    def wait(self): pass
    def peak_device_bytes(self): return None

def make_program(spec):
    {body}

worker.make_program = make_program
worker.main(0.5, 2.5)
"""


def talk(body, *questions):
    """Runs a worker around a fake program, and returns its answers and what it printed."""
    spec = Spec("torch", Dense(4, 2), (4,), 1)
    done = subprocess.run(
        [sys.executable, "-c", FAKE.format(body=body)],
        input="\n".join([spec.to_json(), *map(json.dumps, questions)]) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_a_worker_gets_ready_and_runs_rounds():
    (ready, first, second), errors = talk("return Program()", {"seconds": 0.0}, {"seconds": 0.001})
    assert ready["ready"]["parameters"] == 10
    cold_start = ready["ready"]["cold_start"]
    assert cold_start["process"] == 0.5
    assert (cold_start["import"], cold_start["build"], cold_start["trace"]) == (2.5, 1.0, None)
    assert cold_start["first_step"] >= 0
    assert "jax" in ready["ready"]["facts"]["versions"]
    assert len(first["round"]["samples"]) == first["round"]["steps"] == 1
    assert second["round"]["steps"] > 1, "a step that takes no time is repeated within a sample"
    assert (second["round"]["memory"], second["round"]["peak_bytes"] > 1e6) == ("process", True)
    assert "a library prints" in errors


@pytest.mark.slow
@pytest.mark.heavy
def test_a_worker_says_why_it_cannot():
    assert talk('raise Unavailable("no compiler")')[0] == [{"missing": "no compiler"}]
    assert talk('raise Untranslatable("no counterpart")')[0] == [{"missing": "no counterpart"}]
    answers, errors = talk('raise ValueError("no such shape")')
    assert answers == [{"failed": "ValueError: no such shape"}]
    assert "Traceback" in errors


def test_a_round_lasts_as_long_as_it_should():
    asked = []

    def run(steps):
        asked.append(steps)
        return 0.25

    assert run_round(run, 0.5, 2) == [0.125, 0.125]
    assert run_round(run, 0.0, 5) == [0.05]
    assert asked == [2, 2, 2, 5, 5]


def test_the_first_sample_after_a_turn_of_another_does_not_count():
    times = iter([9.0, 0.25, 0.5])
    assert run_round(lambda steps: next(times), 0.5, 1) == [0.25, 0.5]


def test_short_steps_share_a_sample():
    assert [steps_per_sample(seconds) for seconds in (1.0, 0.02, 0.019, 0.001)] == [1, 1, 2, 20]
