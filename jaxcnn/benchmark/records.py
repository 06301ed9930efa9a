"""Records of a race: one flat dict for each contestant, stored in a file of JSON lines."""

import datetime
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxcnn import environment
from jaxcnn.benchmark.accelerators import peak_flops, step_flops
from jaxcnn.benchmark.contest import Contest, Outcome, Race
from jaxcnn.benchmark.spread import ratios, spread
from jaxcnn.files import check_target

Record = dict[str, Any]


def make_records(race: Race) -> list[Record]:
    """Makes the records of a race.

    Args:
      race: the result of `jaxcnn.benchmark.race`.

    Returns:
      A record for each contestant, with the same keys; unknown or unmeasured values are None. Seconds are for one step;
      those of "cold_start_seconds" and "warm_start_seconds" are the parts of the time from the start of the process to
      the first result (`jaxcnn.benchmark.program.COLD_START`). "ratio" is jaxcnn's time divided by the contestant's,
      round by round; None for jaxcnn itself.
    """
    contest, ours = race.contest, race.outcomes[0]
    multiply_adds = ours.ready.get("facts", {}).get("multiply_adds")
    common = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": contest.name,
        "mode": contest.mode,
        "batch_size": contest.batch_size,
        "image_shape": list(contest.image_shape),
        "precision": contest.precision,
        "devices": contest.devices,
        "multiply_adds": multiply_adds,
        "flops": None if multiply_adds is None else step_flops(multiply_adds, contest.batch_size, contest.mode),
        "host": {
            "cpu": environment.processor(),
            "cores": environment.usable_cores(),
            "busy_cores": race.busy_cores,
        },
        "commit": environment.commit(),
    }
    return [{**common, **_own(contest, outcome, ours, common["flops"])} for outcome in race.outcomes]


def _own(contest: Contest, outcome: Outcome, ours: Outcome, flops: int | None) -> Record:
    facts = outcome.ready.get("facts", {})
    samples = [seconds for answer in outcome.samples for seconds in answer]
    step = spread(samples) if samples else None
    compared = ratios(ours.samples, outcome.samples) if outcome is not ours else []
    device = facts.get("device")
    rate = flops / step.median if flops and step else None
    peak = peak_flops(device["kind"], contest.precision) if device else None
    last = outcome.rounds[-1] if outcome.rounds else {}
    return {
        "contestant": outcome.contestant,
        "status": outcome.status,
        "reason": outcome.reason,
        "parameters": outcome.ready.get("parameters"),
        "cold_start_seconds": outcome.ready.get("cold_start"),
        "warm_start_seconds": outcome.warm_start,
        "step_seconds": step.as_dict() if step else None,
        "rounds": len(outcome.rounds),
        "images_per_second": contest.batch_size / step.median if step else None,
        "flops_per_second": rate,
        "peak_flops_per_second": peak * contest.devices if peak else None,
        "model_flop_utilisation": rate / (peak * contest.devices) if rate and peak else None,
        "peak_bytes": last.get("peak_bytes"),
        "peak_bytes_of": last.get("memory"),
        "temporary_bytes": facts.get("temporary_bytes"),
        "ratio": spread(compared).as_dict() if compared else None,
        "folded_batch_norms": facts.get("folded_batch_norms"),
        "native_kernels": facts.get("native_kernels"),
        "compiler_options": facts.get("compiler_options"),
        "xla_flags": facts.get("xla_flags"),
        "threads": facts.get("threads"),
        "device": device,
        "versions": facts.get("versions"),
    }


def append_records(path: Path, records: Iterable[Record]) -> None:
    """Appends records to a file of JSON lines in one write, so that no line is incomplete.

    Args:
      path: the file; it is created if it does not exist.
      records: the records.

    Raises:
      OSError: the file cannot be written; see `jaxcnn.files.check_target`.
    """
    text = "".join(json.dumps(record) + "\n" for record in records)
    with check_target(path).open("a") as file:
        file.write(text)
