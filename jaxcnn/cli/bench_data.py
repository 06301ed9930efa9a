"""`jaxcnn bench --data`."""

import dataclasses
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

from rich.text import Text

from jaxcnn import benchmark
from jaxcnn.benchmark import loading
from jaxcnn.benchmark.spread import three_digits
from jaxcnn.cli import names
from jaxcnn.cli.errors import CommandError, flag, reported
from jaxcnn.cli.options import Bench
from jaxcnn.cli.terminal import columns, make_console, say, shown
from jaxcnn.files import check_target
from jaxcnn.tables import Table

_USED = ("data", "peers", "batch_size", "repeats", "output")
_WIDTH = 80
_HEADINGS = ("contestant", "images/s (quartiles)", "ours / theirs (quartiles)")
_MEANING = (
    "ours / theirs: the time of jaxcnn divided by that of the other loader in the same round, median and quartiles "
    "over rounds; below 1 jaxcnn is faster. The decoder reads, decodes and crops on all cores, and delivers nothing."
)


def bench_data(options: Bench) -> int:
    """Measures the loading of data in jaxcnn and other loaders, prints tables, and writes records.

    Args:
      options: peers, batch size, number of rounds and file of the records.

    Returns:
      The exit status, 0.

    Raises:
      CommandError: an option is invalid or has no effect, a package is missing, or the file cannot be written.
    """
    peers = _checked_peers(options)
    if options.output:
        with reported(OSError):
            check_target(options.output)
    progress = make_console(stderr=True)
    with tempfile.TemporaryDirectory() as folder, reported(ImportError, ValueError):
        for workload in _workloads(options, Path(folder)):
            with progress.status("") as status:
                records = loading.race_loaders(
                    workload,
                    peers=peers,
                    rounds=options.repeats,
                    report=lambda text: status.update(Text(shown(text))),
                )
            if options.output:
                benchmark.append_records(options.output, records)
            _print(records)
    say(textwrap.fill(_MEANING, columns() or _WIDTH))
    return 0


def _checked_peers(options: Bench) -> tuple[str, ...]:
    for field in dataclasses.fields(options):
        if field.name not in _USED and (value := getattr(options, field.name)) != field.default:
            if field.name == "models":
                raise CommandError(f"--data measures sets of its own, got {' '.join(value)!r}; omit it")
            raise CommandError(f"{flag(field.name)} has no effect with --data; omit it")
    for name in ("batch_size", "repeats"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise CommandError(f"{flag(name)} expects a number at least 1, got {value}")
    peers = tuple(peer.strip() for peer in options.peers.split(",") if peer.strip())
    for peer in peers:
        names.choose("peer", peer, dict.fromkeys(loading.PEERS))
    return peers


def _workloads(options: Bench, folder: Path) -> Iterator[loading.Workload]:
    size = {} if options.batch_size is None else {"batch_size": options.batch_size}
    yield loading.small_images(**size)
    yield loading.photographs(folder, **size)


def _print(records: list[benchmark.Record]) -> None:
    first = records[0]
    rows = [_cells(record) for record in records if record["status"] == "measured"]
    table = Table(_HEADINGS, rows, totals=[], left=(0,), counts=(), spare=())
    say(f"{first['workload']}, batches of {first['batch_size']}\n\n{table.text(columns())}\n")
    for record in records:
        if record["status"] != "measured":
            say(f"{record['contestant']} is {record['status']}: {shown(record['reason'])}\n")


def _cells(record: benchmark.Record) -> tuple[str, ...]:
    rate, ratio = record["images_per_second"], record["ratio"]
    return (
        record["contestant"],
        _with_quartiles(rate),
        "" if ratio is None else _with_quartiles(ratio),
    )


def _with_quartiles(values: dict[str, float]) -> str:
    median, lower, upper = (three_digits(values[name]) for name in ("median", "lower_quartile", "upper_quartile"))
    return f"{median} ({lower} to {upper})"
