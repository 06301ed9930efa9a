"""Temporary memory and compile time of a training step, ours against flax's, for the standard set of the benchmark.

Same model, batch, optimizer and compilation for both, flax with its own layers and as installed. Each repeat builds and
compiles both in turn, with JAX's caches cleared before. The memory is what XLA plans for temporaries; compile time is
given for trace, lower and compile together and for compile alone. Writes
experiments/results/memory_and_compile_time.json.

    python experiments/memory_and_compile_time.py                     # the whole set
    python experiments/memory_and_compile_time.py lenet5 small_cnn    # some models: printed, not written
"""

import statistics
import sys
from typing import Any

import jax
from reports import write_report

from jaxcnn.benchmark.peers import ours, to_flax
from jaxcnn.benchmark.spec import Spec
from jaxcnn.benchmark.standard import STANDARD
from jaxcnn.models import catalog

REPEATS = 5
PROGRAMS = {"jaxcnn": ours.make_program, "flax": to_flax.make_program}


def measure(name: str) -> dict[str, Any]:
    """Compiles both training steps of a model, repeatedly.

    Args:
      name: its name in the standard set.

    Returns:
      For memory (MiB), for trace, lower and compile together and for compile alone (seconds): both medians and
      quartiles, and the ratio of the medians, ours to flax's.
    """
    model, image_shape = catalog.build(name), catalog.CATALOG[name].image_shape
    seen: dict[str, dict[str, list[float]]] = {"temporary_mib": {}, "trace_lower_compile_s": {}, "compile_s": {}}
    for _ in range(REPEATS):
        for who, make_program in PROGRAMS.items():
            jax.clear_caches()
            program = make_program(Spec(who, model, image_shape, STANDARD[name]))
            parts = [program.cold_start[part] or 0.0 for part in ("trace", "lower", "compile")]
            seen["temporary_mib"].setdefault(who, []).append(program.facts["temporary_bytes"] / 2**20)
            seen["trace_lower_compile_s"].setdefault(who, []).append(sum(parts))
            seen["compile_s"].setdefault(who, []).append(parts[-1])
    results = {}
    for what, values in seen.items():
        medians = {who: statistics.median(each) for who, each in values.items()}
        results[what] = {
            **{who: round(median, 3) for who, median in medians.items()},
            **{
                f"{who}_quartiles": [round(quartile, 3) for quartile in statistics.quantiles(each, n=4)[::2]]
                for who, each in values.items()
            },
            "ratio": round(medians["jaxcnn"] / medians["flax"], 3),
        }
    return results


def main(names: list[str]) -> None:
    """Measures the models, prints them, and writes the results if they are the whole set.

    Args:
      names: names in the standard set; all if empty.
    """
    rows = []
    for name in names or STANDARD:
        results = measure(name)
        rows.append({"model": name, "batch_size": STANDARD[name], **results})
        cells = (f"{what} {r['jaxcnn']:.2f} | {r['flax']:.2f} ({r['ratio']:.2f})" for what, r in results.items())
        print(f"{name:<16} " + "   ".join(cells), flush=True)
    if names:
        return
    write_report(__file__, {"repeats": REPEATS, "models": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
