"""Images per second that loaders deliver into a compiled step, beside the rates that jaxcnn aims at.

jaxcnn, plain NumPy, torch's DataLoader and Grain take turns, as in `jaxcnn bench --data`: small images in memory,
padded, cropped and mirrored; and JPEG files of 500x375, cropped at random to 224x224, beside what the decoder alone
reaches on all cores. Writes experiments/results/data_loading.json.

    python experiments/data_loading.py          # about 3 minutes on 2 CPU cores
"""

import tempfile
from pathlib import Path
from typing import Any

from reports import write_report

from jaxcnn.benchmark.loading import photographs, race_loaders, small_images

ROUNDS, PHOTOGRAPHS = 4, 1024
SMALL_IMAGES_PER_SECOND = 50_000
SHARE_OF_DECODER = 0.95


def _goals(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compares jaxcnn with what it aims at."""
    by_name = {record["contestant"]: record for record in records if record["status"] == "measured"}
    ours = by_name["jaxcnn"]["images_per_second"]["median"]
    if "decoder" not in by_name:
        return [_goal("images per second", ours, SMALL_IMAGES_PER_SECOND)]
    # A ratio is a time of jaxcnn divided by that of the other, so that its inverse compares rates.
    share = 1 / by_name["decoder"]["ratio"]["median"]
    goals = [_goal("share of the rate of the decoder alone", share, SHARE_OF_DECODER)]
    if "torch" in by_name:
        goals.append(_goal("rate, divided by that of torch", 1 / by_name["torch"]["ratio"]["median"], 1))
    return goals


def _goal(what: str, reached: float, least: float) -> dict[str, Any]:
    return {"what": what, "aim": least, "reached": round(reached, 3), "met": reached >= least}


def main() -> None:
    """Measures both workloads, prints what is reached and writes all records."""
    workloads = []
    with tempfile.TemporaryDirectory() as folder:
        for workload in (small_images(), photographs(Path(folder), count=PHOTOGRAPHS)):
            records = race_loaders(workload, rounds=ROUNDS)
            goals = _goals(records)
            workloads.append({"workload": workload.name, "goals": goals, "records": records})
            for goal in goals:
                print(f"{workload.name}: {goal['what']} {goal['reached']:,}, the aim is {goal['aim']:,}", flush=True)
    write_report(__file__, {"rounds": ROUNDS, "workloads": workloads})


if __name__ == "__main__":
    main()
