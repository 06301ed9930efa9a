"""The process of one contestant: it gets ready, then runs a round on request.

It exchanges lines of JSON with its parent. The first line is the spec (`Spec.to_json`), with the answer
`{"ready": {...}}`. Each further line `{"seconds": s}` runs a round, with the answer `{"round": {...}}`. The end of the
input ends the process. A contestant that cannot run answers `{"missing": reason}` or `{"failed": reason}` and ends.
"""

import json
import math
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from jaxcnn import environment
from jaxcnn.benchmark.peers import OURS, make_program
from jaxcnn.benchmark.program import Program, Unavailable, Untranslatable
from jaxcnn.benchmark.spec import Spec
from jaxcnn.compilation import enable_compilation_cache
from jaxcnn.layers import multiply_adds

PROCESS = """
import importlib, sys, time
process_seconds = time.time() - float(sys.argv[1])
started = time.perf_counter()
for name in sys.argv[2:]:
    importlib.import_module(name)
import_seconds = time.perf_counter() - started
from jaxcnn.benchmark import worker
worker.main(process_seconds, import_seconds)
"""
"""The program of the process. Its arguments are when it was started, in seconds since the epoch, and modules: it times
their import, without what the benchmark itself imports."""

_PACKAGES = ("jaxcnn", "jax", "jaxlib", "optax", "flax", "torch", "equinox", "keras", "numpy")

SAMPLE_SECONDS = 0.02
"""Least duration of a sample in seconds, so that the wait for the device at its end is negligible."""


def main(process_seconds: float, import_seconds: float) -> None:
    """Talks to the parent process until the input ends.

    Args:
      process_seconds: seconds that the start of the process took.
      import_seconds: seconds to import the contestant.
    """
    # The output of libraries must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")

    spec = Spec.from_json(sys.stdin.readline())
    try:
        if spec.programs:
            enable_compilation_cache(spec.programs)
        program = make_program(spec)
        seconds = _seconds(program, 1)
        cold_start = {
            **program.cold_start,
            "process": process_seconds,
            "import": import_seconds,
            "first_step": seconds,
        }
        facts = {"multiply_adds": multiply_adds(spec.model, spec.image_shape)} if spec.contestant == OURS else {}
        answer(
            ready={
                "parameters": program.parameters,
                "cold_start": cold_start,
                "facts": {**facts, **program.facts, "versions": environment.versions(*_PACKAGES)},
            }
        )
        steps = 1
        for line in sys.stdin:
            samples = run_round(lambda n: _seconds(program, n), json.loads(line)["seconds"], steps)
            answer(round={"samples": samples, "steps": steps, **_memory(program)})
            steps = steps_per_sample(min(samples))
    except (Unavailable, Untranslatable) as error:
        answer(missing=str(error))
    except Exception as error:
        traceback.print_exc()
        answer(failed=f"{type(error).__name__}: {error}")


def run_round(run: Callable[[int], float], seconds: float, steps: int) -> list[float]:
    """Runs samples for a while, after one that does not count.

    Steps of a training follow each other. The first one after the turn of another contestant has cold caches, and may
    find its memory taken back by the system, as virtual machines do after some seconds.

    Args:
      run: runs that number of steps and returns their total time in seconds.
      seconds: duration; at least one sample counts.
      steps: steps in a sample.

    Returns:
      Seconds of a step, one number for each sample.
    """
    run(steps)
    samples, left = [], seconds
    while not samples or left > 0:
        taken = run(steps)
        samples.append(taken / steps)
        left -= taken
    return samples


def steps_per_sample(seconds: float) -> int:
    """Returns how many steps make a sample, if a step takes that many seconds."""
    return max(1, math.ceil(SAMPLE_SECONDS / seconds))


def _seconds(program: Program, steps: int) -> float:
    started = time.perf_counter()
    for _ in range(steps):
        program.step()
    program.wait()
    return time.perf_counter() - started


def _memory(program: Program) -> dict[str, Any]:
    on_device = program.peak_device_bytes()
    if on_device is not None:
        return {"peak_bytes": on_device, "memory": "device"}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "memory": "process"}
