"""The standard set of `jaxcnn bench`: training steps and inference of eight models, in turns with the same in peers.

Writes experiments/results/<device>.json (the records of `jaxcnn.benchmark`), a picture next to it, and the table
between two marker comments of docs/speed.md. Run nothing else on the machine: the script prints the load of others.

    python experiments/benchmarks.py                        against torch and flax
    python experiments/benchmarks.py --peers torch          about 15 minutes on 2 CPU cores
    python experiments/benchmarks.py --peers torch,flax,equinox,keras
    python experiments/benchmarks.py --peers flax --add     keep the records of other peers
    python experiments/benchmarks.py --models lenet5 unet   some of the set; docs/speed.md is changed with --add only

On an accelerator, use larger batches: `--precision bfloat16 --batch-factor 16`.
"""

import argparse
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxcnn import benchmark, plots
from jaxcnn.benchmark.spread import three_digits
from jaxcnn.environment import usable_cores
from jaxcnn.files import write_text
from jaxcnn.models import catalog

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
PAGE = ROOT / "docs" / "speed.md"
START, END = "<!-- benchmarks: start -->", "<!-- benchmarks: end -->"
ROUNDS = 5


def main() -> None:
    """Runs the set, and writes records, picture and table."""
    options = _options()
    started = time.monotonic()
    records: list[benchmark.Record] = []
    for name in options.models or benchmark.STANDARD:
        model, image_shape = catalog.build(name), catalog.CATALOG[name].image_shape
        for mode in ("train", "infer"):
            contest = benchmark.Contest(
                name,
                model,
                image_shape,
                benchmark.STANDARD[name] * options.batch_factor,
                mode,
                options.precision,
                peers=tuple(options.peers.split(",")),
                rounds=ROUNDS,
            )
            found = benchmark.make_records(benchmark.race(contest))
            records += found
            print("\n".join(line(record) for record in found), flush=True)
    slug = device_slug(records)
    RESULTS.mkdir(exist_ok=True)
    path, seconds = RESULTS / f"{slug}.json", round(time.monotonic() - started)
    if options.add and path.exists():
        before = json.loads(path.read_text())
        records, seconds = joined(before["records"], records), seconds + before["seconds"]
    plots.save(plots.ratios(records), RESULTS / f"{slug}.png")
    results = {"script": "experiments/benchmarks.py", "seconds": seconds, "records": records}
    write_text(path, json.dumps(results, indent=1) + "\n")
    if {record["model"] for record in records} == set(benchmark.STANDARD):
        write_text(PAGE, with_table(PAGE.read_text(), table(records)))
    print(f"{RESULTS / slug}.json and .png, {seconds} s")


def joined(before: Sequence[benchmark.Record], now: Sequence[benchmark.Record]) -> list[benchmark.Record]:
    """Replaces records by newer ones of the same model, mode and contestant.

    Args:
      before: records of an earlier run, with other peers or models.
      now: records of this run.

    Returns:
      The records of both, grouped by model and mode; for the same model, mode and contestant only the new one. Each
      ratio stays that of its own run.
    """
    kept = {(record["model"], record["mode"], record["contestant"]): record for record in (*before, *now)}
    places = list(dict.fromkeys((model, mode) for model, mode, _ in kept))
    return sorted(kept.values(), key=lambda record: places.index((record["model"], record["mode"])))


def line(record: benchmark.Record) -> str:
    """Formats a record as one line."""
    head = f"{record['model']:16} {record['mode']:6} {record['contestant']:14}"
    step = record["step_seconds"]
    if not step:
        return f"{head} {record['status']}: {record['reason']}"
    busy = record["host"]["busy_cores"]
    return f"{head} {1e3 * step['median']:9.1f} ms  {ratio(record) or 'ours':24} others: {busy or 0:.1f} cores"


def ratio(record: benchmark.Record) -> str:
    """Formats a ratio with its quartiles; empty without a ratio."""
    found = record["ratio"]
    return f"{found['median']:.2f} ({found['lower_quartile']:.2f} to {found['upper_quartile']:.2f})" if found else ""


def table(records: Sequence[benchmark.Record]) -> str:
    """Formats the table of docs/speed.md: for each model and mode our time, and our time divided by each peer's.

    Args:
      records: records of the whole set.

    Returns:
      Lines of Markdown.
    """
    peers = list(dict.fromkeys(record["contestant"] for record in records if record["contestant"] != "jaxcnn"))
    by_row: dict[tuple[str, str], dict[str, benchmark.Record]] = {}
    for record in records:
        by_row.setdefault((record["mode"], record["model"]), {})[record["contestant"]] = record
    lines = [
        "| | batch | jaxcnn, ms | " + " | ".join(f"ours / {peer}" for peer in peers) + " |",
        "|---|---|---:|" + "---:|" * len(peers),
    ]
    for mode in ("train", "infer"):
        for (row_mode, model), found in by_row.items():
            if row_mode == mode:
                lines.append(_row(mode, model, found, peers))
    return "\n".join(lines)


def _row(mode: str, model: str, found: dict[str, benchmark.Record], peers: Sequence[str]) -> str:
    ours = found["jaxcnn"]
    shape = "x".join(map(str, (ours["batch_size"], *ours["image_shape"])))
    step = three_digits(1e3 * ours["step_seconds"]["median"]) if ours["step_seconds"] else ours["status"]
    ratios = [ratio(found[peer]) or found[peer]["status"] if peer in found else "" for peer in peers]
    return f"| {model}, {mode} | {shape} | {step} | " + " | ".join(ratios) + " |"


def with_table(text: str, table: str) -> str:
    """Puts a table between the markers of a text.

    Args:
      text: with both markers, each once.
      table: replaces the text between them.

    Returns:
      The new text.

    Raises:
      ValueError: a marker is missing or there twice.
    """
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ValueError(f"expected the markers {START} and {END} once each, in this order, in {PAGE.name}")
    head, rest = text.split(START)
    return f"{head}{START}\n{table}\n{END}{rest.split(END)[1]}"


def device_slug(records: Sequence[benchmark.Record]) -> str:
    """Names the device for a file: cpu-2-cores, nvidia-h200.

    Args:
      records: at least one.

    Returns:
      Small letters, digits and hyphens.
    """
    devices: list[dict[str, Any]] = [record["device"] for record in records if record["device"]]
    if not devices or devices[0]["platform"] == "cpu":
        return f"cpu-{usable_cores()}-cores"
    return re.sub(r"[^a-z0-9]+", "-", devices[0]["kind"].lower()).strip("-")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Runs the standard set of jaxcnn bench.")
    parser.add_argument("--models", nargs="*", choices=list(benchmark.STANDARD), help="some of the set")
    parser.add_argument("--peers", default="torch,flax", help="separated by commas")
    parser.add_argument("--add", action="store_true", help="keep the existing records of other peers and models")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--batch-factor", type=int, default=1, help="multiplies every batch size")
    return parser.parse_args()


if __name__ == "__main__":
    main()
