"""XLA options against XLA as installed, for our steps and flax's: the evidence for `jaxcnn.compiler.MEASURED`.

Each candidate's program of each model of the benchmark's standard set, in training and in inference, is compiled; then
all run in turn. The ratios are medians over the steps of a candidate's time to that without options: below 1 is faster.
Writes experiments/results/compiler_options.json. The steps of a model are limited in number and in time, and where one
alone takes too long, as ResNeXt does in flax, the model is left out, which the results say.

    python experiments/compiler_options.py                     # the whole set
    python experiments/compiler_options.py lenet5 small_cnn    # some models: printed, not written

A candidate earns a row in the table if it is faster for our steps on most of the set, and slower on none.
"""

import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
from reports import write_report

from jaxcnn.benchmark.jax_program import JaxModel, JaxProgram
from jaxcnn.benchmark.peers import ours, to_flax
from jaxcnn.benchmark.spec import Mode, Spec
from jaxcnn.benchmark.standard import STANDARD
from jaxcnn.models import catalog

MOST_STEPS, FEWEST_STEPS = 15, 3
SECONDS = 6.0
"""For the steps of one model, all candidates together; at least FEWEST_STEPS of each are measured."""
TOO_LONG = 6.0
"""Seconds of the first step, above which a model is left out."""
YNNPACK = "xla_cpu_experimental_ynn_fusion_type"
CANDIDATES: dict[str, dict[str, Any]] = {
    "none": {},
    "YNNPACK for dot": {YNNPACK: "LIBRARY_FUSION_TYPE_DOT"},
    "vectors of 512 bits": {"xla_cpu_prefer_vector_width": "512"},
    "older fusion": {"xla_cpu_use_fusion_emitters": False},
    "order for memory": {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"},
}


MODELS = {"jaxcnn": ours.make_model, "flax": to_flax.make_model}


def measure(who: str, name: str, mode: Mode) -> dict[str, Any]:
    """Times a model with every candidate.

    Args:
      who: "jaxcnn" or "flax".
      name: its name in the standard set.
      mode: "train" or "infer".

    Returns:
      The median time without options in milliseconds, the number of steps, and each candidate's median ratio to it with
      quartiles; None for those that the compiler refuses. Of a model that is left out, the time of its first step.
    """
    batch_size, image_shape = STANDARD[name]
    model = catalog.build(name, catalog.CATALOG[name].num_classes, image_shape)
    spec = Spec(who, model, image_shape, batch_size, mode)
    built = MODELS[who](spec)

    def own_copy() -> JaxModel:
        """Returns the model with arrays of its own: a training step takes those that it is given."""
        params, state = jax.tree.map(jnp.copy, (built.params, built.state))
        return built._replace(params=params, state=state)

    programs = {}
    for candidate, options in CANDIDATES.items():
        try:
            programs[candidate] = JaxProgram(spec, own_copy, compiler_options=options)
        except jax.errors.JaxRuntimeError:
            continue
        first = _seconds_of_step(programs[candidate])  # warms up
        if candidate == "none" and first > TOO_LONG:
            return {"none_ms": round(1000 * first, 2), "steps": 0}
    seconds: dict[str, list[float]] = {candidate: [] for candidate in programs}
    started = time.perf_counter()
    while (steps := len(seconds["none"])) < MOST_STEPS:
        if steps >= FEWEST_STEPS and time.perf_counter() - started > SECONDS:
            break
        for candidate, program in programs.items():
            seconds[candidate].append(_seconds_of_step(program))
    results: dict[str, Any] = {"none_ms": round(1000 * statistics.median(seconds["none"]), 2), "steps": steps}
    for candidate in CANDIDATES:
        if candidate == "none":
            continue
        if candidate not in seconds:
            results[candidate] = None
            continue
        ratios = [a / b for a, b in zip(seconds[candidate], seconds["none"], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        results[candidate] = {
            "ratio": round(statistics.median(ratios), 3),
            "quartiles": [round(low, 3), round(high, 3)],
        }
    return results


def _seconds_of_step(program: JaxProgram) -> float:
    started = time.perf_counter()
    program.step()
    program.wait()
    return time.perf_counter() - started


def main(names: list[str]) -> None:
    """Measures the models, prints them, and writes the results if they are the whole set.

    Args:
      names: names in the standard set; all if empty.
    """
    rows = []
    for name in names or STANDARD:
        for mode in ("train", "infer"):
            for who in MODELS:
                results = measure(who, name, mode)
                rows.append({"contestant": who, "model": name, "mode": mode, **results})
                cells = (
                    f"{candidate} {results[candidate]['ratio']:.2f}" if results[candidate] else f"{candidate} refused"
                    for candidate in CANDIDATES
                    if candidate in results
                )
                found = "   ".join(cells) if results["steps"] else "left out"
                print(f"{name:<16} {mode:<6} {who:<7} {results['none_ms']:9.1f} ms   {found}", flush=True)
    if names:
        return
    write_report(__file__, {"most_steps": MOST_STEPS, "candidates": CANDIDATES, "rows": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
