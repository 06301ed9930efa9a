"""`jaxcnn bench`."""

import dataclasses
import importlib.util
from pathlib import Path

from rich.text import Text

from jaxcnn import benchmark, plots
from jaxcnn.benchmark.peers import PEERS
from jaxcnn.benchmark.program import COLD_START
from jaxcnn.benchmark.spread import three_digits
from jaxcnn.cli import names, own_models
from jaxcnn.cli.bench_data import bench_data
from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.cli.options import Bench
from jaxcnn.cli.terminal import columns, make_console, say, shown
from jaxcnn.files import check_target
from jaxcnn.models.catalog import CATALOG
from jaxcnn.tables import Table
from jaxcnn.types import Shape

_STANDARD = "standard"
_MEANING = (
    "ours / theirs: the time of a jaxcnn step divided by the peer's in the same round, median and quartiles over "
    "rounds; below 1 jaxcnn is faster."
)
_START = (
    "sum: seconds from the start of the process to the end of the first step; warm: the same with the compiled "
    "programs that an earlier process has kept."
)
_SCALING = (
    "efficiency: images/s on all devices, divided by their number times the images/s of one device with its part of "
    "the batch."
)
_WARM = ("contestant", "ms (quartiles)", "n", "images/s", "GFLOP/s", "MFU", "peak MB", "ours / theirs (quartiles)")
_DISTURBING = 0.2
"""Busy CPU cores above which other programs may distort the measurement."""


def bench(options: Bench) -> int:
    """Measures models in jaxcnn and its peers, prints tables, and writes records and a picture.

    Args:
      options: models, settings and peers.

    Returns:
      The exit status: 0, or 1 if jaxcnn itself could not be measured.

    Raises:
      CommandError: an option is invalid, or a file cannot be written; then nothing is measured.
    """
    if options.data:
        return bench_data(options)
    contests = plan(options)
    # Files that cannot be written are refused before the measurements.
    with reported(OSError):
        for path in filter(None, (options.output, options.plot)):
            check_target(path)
    _check_plot(options.plot)
    progress = make_console(stderr=True)
    records = []
    for contest in contests:
        with progress.status("") as status:

            def measured(contest: benchmark.Contest) -> list[benchmark.Record]:
                race = benchmark.race(contest, report=lambda text: status.update(Text(shown(text))))
                return benchmark.make_records(race)

            found = measured(contest)
            if contest.devices > 1:
                found = with_scaling(found, measured(alone(contest))[0])
        if options.output:
            benchmark.append_records(options.output, found)
        records += found
        print_records(found)
    if any(record["warm_start_seconds"] for record in records):
        say(_START)
    if any(record["ratio"] is not None for record in records):
        say(_MEANING)
    if any(record.get("scaling_efficiency") for record in records):
        say(_SCALING)
    if options.plot:
        subtitle = f"{options.precision}, {records[0]['host']['cpu']}, {records[0]['host']['cores']} cores"
        plots.save(plots.ratios(records, subtitle=subtitle), options.plot)
    failed = [record for record in records if record["contestant"] == "jaxcnn" and record["status"] != "measured"]
    return 1 if failed else 0


def plan(options: Bench) -> list[benchmark.Contest]:
    """Turns the options into contests, one for each model and mode.

    Args:
      options: models, settings and peers.

    Returns:
      The contests, in the order of the models.

    Raises:
      CommandError: a model or peer is unknown, or a size is invalid.
    """
    names.check_count(options, "batch_size", "image_size", "in_channels", "num_classes", "repeats", "devices")
    peers = tuple(peer.strip() for peer in options.peers.split(",") if peer.strip())
    for peer in peers:
        names.choose("peer", peer, dict.fromkeys(PEERS))
    modes = ("train", "infer") if options.mode == "both" else (options.mode,)
    models = [name for word in options.models for name in (tuple(benchmark.STANDARD) if word == _STANDARD else (word,))]
    contests = []
    for name in models:
        image_shape = _image_shape(options, name)
        batch_size = options.batch_size or benchmark.usual_batch_size(name, image_shape)
        if batch_size % options.devices:
            raise CommandError(
                f"--devices expects a number that divides the batch of {batch_size} images, got {options.devices}"
            )
        model = names.build_model(name, options.num_classes, image_shape)
        if own_models.is_own(name):
            own_models.check_outputs(name, model, options.num_classes, image_shape)
        contest = benchmark.Contest(
            name, model, image_shape, batch_size, "train", options.precision, options.devices, peers, options.repeats
        )
        with reported(ValueError):
            contest.check()
        contests += [dataclasses.replace(contest, mode=mode) for mode in modes]
    return contests


def alone(contest: benchmark.Contest) -> benchmark.Contest:
    """Returns the contest of jaxcnn on one device, with the part of the batch that each of several devices has.

    Args:
      contest: on several devices.
    """
    return dataclasses.replace(contest, devices=1, batch_size=contest.batch_size // contest.devices, peers=())


def with_scaling(records: list[benchmark.Record], one: benchmark.Record) -> list[benchmark.Record]:
    """Adds "scaling_efficiency" to the record of jaxcnn.

    Args:
      records: records of a race on several devices, the first of them that of jaxcnn.
      one: the record of jaxcnn on one device, with its part of the batch.

    Returns:
      The records. The efficiency is 1 if n devices are n times as fast as one; None if one of the two was not measured.
    """
    ours, *others = records
    rates = ours["images_per_second"], one["images_per_second"]
    efficiency = None if None in rates else rates[0] / (rates[1] * ours["devices"])
    return [ours | {"scaling_efficiency": efficiency}, *others]


def _image_shape(options: Bench, name: str) -> Shape:
    """Returns the shape of the images of a model: that of the options, then that of the catalog."""
    if own_models.is_own(name):
        if options.image_size is None:
            raise CommandError(f"--image-size expects the size of the images for {shown(name)}, got none")
        usual = (options.image_size, options.image_size, 3)
    elif name in CATALOG:
        usual = CATALOG[name].image_shape
    else:
        raise CommandError(names.unknown("model", name, [*CATALOG, _STANDARD]))
    size, channels = options.image_size, options.in_channels
    return size or usual[0], size or usual[1], channels or usual[2]


def print_records(records: list[benchmark.Record]) -> None:
    """Prints the tables of one race: the warm step, and the time from the start of the process to the first step.

    Args:
      records: records from `make_records`.
    """
    first = records[0]
    shape = "x".join(map(str, (first["batch_size"], *first["image_shape"])))
    title = f"{shown(first['model'])}, {first['mode']}, {shape}, {first['precision']}"
    if first["devices"] > 1:
        title += f", {first['devices']} devices"
    measured = [record for record in records if record["step_seconds"]]
    warm, rows = _WARM, [_warm_cells(record) for record in measured]
    if first["devices"] > 1:
        warm = (*warm, "efficiency")
        rows = [(*row, _efficiency_cell(record)) for row, record in zip(rows, measured, strict=True)]
    _print(f"{title}: warm step", warm, rows, spare=(5, 2, 4, 6, 3))
    starts = ("contestant", *(part.replace("_", " ") for part in COLD_START), "sum", "warm")
    rows = [_start_cells(record) for record in measured]
    _print(f"{title}: start to first step, seconds", starts, rows, spare=(1, 3, 4, 5))
    for record in records:
        if record["status"] != "measured":
            say(f"{record['contestant']}: {record['status']}: {record['reason']}")
    busy = first["host"]["busy_cores"]
    if busy and busy > _DISTURBING:
        say(
            f"Other programs kept {busy:.1f} of {first['host']['cores']} cores busy during the measurement: "
            "do not trust these numbers."
        )
    say("")


def _print(title: str, headings: tuple[str, ...], rows: list[tuple[str, ...]], *, spare: tuple[int, ...]) -> None:
    table = Table(headings, rows, totals=[], left=(0,), counts=(), spare=spare)
    say(f"{title}\n\n{table.text(columns())}\n")


def _warm_cells(record: benchmark.Record) -> tuple[str, ...]:
    step, ratio, utilisation = record["step_seconds"], record["ratio"], record["model_flop_utilisation"]
    median, lower, upper = (three_digits(1e3 * step[name]) for name in ("median", "lower_quartile", "upper_quartile"))
    return (
        record["contestant"],
        f"{median} ({lower} to {upper})",
        str(step["n"]),
        three_digits(record["images_per_second"]),
        "" if record["flops_per_second"] is None else three_digits(record["flops_per_second"] / 1e9),
        "" if utilisation is None else f"{utilisation:.1%}",
        f"{record['peak_bytes'] / 1e6:,.0f}",
        ""
        if ratio is None
        else f"{ratio['median']:.2f} ({ratio['lower_quartile']:.2f} to {ratio['upper_quartile']:.2f})",
    )


def _efficiency_cell(record: benchmark.Record) -> str:
    efficiency = record.get("scaling_efficiency")
    return "" if efficiency is None else f"{efficiency:.0%}"


def _start_cells(record: benchmark.Record) -> tuple[str, ...]:
    seconds = record["cold_start_seconds"]
    parts = ["" if seconds[part] is None else f"{seconds[part]:.2f}" for part in COLD_START]
    warm = record["warm_start_seconds"]
    return (record["contestant"], *parts, _sum(seconds), "" if warm is None else _sum(warm))


def _sum(seconds: dict[str, float | None]) -> str:
    return f"{sum(filter(None, seconds.values())):.2f}"


def _check_plot(path: Path | None) -> None:
    """Refuses a picture that cannot be drawn, before the measurements."""
    if path is None:
        return
    if path.suffix.lower() != ".png":
        raise CommandError(f"--plot expects a file with the extension .png, got {shown(path)}")
    if not importlib.util.find_spec("matplotlib"):
        raise CommandError("--plot expects matplotlib to be installed; pip install matplotlib")
