"""The benchmark: training steps and inference of a layer value, in jaxcnn and in other libraries, side by side.

`race` starts each contestant in a separate process and runs them in turns. A peer runs the layer value translated into
its own modules (`jaxcnn.benchmark.peers`).

    contest = Contest("mine", model, (32, 32, 3), batch_size=64, peers=("torch", "flax"))
    records = make_records(race(contest))
"""

from jaxcnn.benchmark.contest import Contest, Outcome, Race, race
from jaxcnn.benchmark.records import Record, append_records, make_records
from jaxcnn.benchmark.standard import STANDARD, usual_batch_size

__all__ = [
    "STANDARD",
    "Contest",
    "Outcome",
    "Race",
    "Record",
    "append_records",
    "make_records",
    "race",
    "usual_batch_size",
]
