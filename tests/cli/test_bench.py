import json
import re
from pathlib import Path

import pytest

from jaxcnn import benchmark
from jaxcnn.benchmark import loading
from jaxcnn.benchmark.contest import Stopped
from jaxcnn.cli import bench
from jaxcnn.cli.options import Bench
from jaxcnn.models.catalog import CATALOG

COLD_START = {
    "process": 0.5,
    "import": 1.0,
    "build": 2.0,
    "trace": None,
    "lower": None,
    "compile": None,
    "first_step": 0.25,
}
SECONDS = {"jaxcnn": 0.01, "flax": 0.02, "flax-flags": 0.008}


class Fake:
    def __init__(self, spec):
        if spec.contestant not in SECONDS:
            raise Stopped("missing", f"not installed; pip install {spec.contestant}")
        self._seconds = SECONDS[spec.contestant]
        facts = {"device": {"platform": "cpu", "kind": "cpu", "count": 1}, "multiply_adds": 10**6}
        # The second process of jaxcnn finds the programs of the first one.
        folder = spec.programs and Path(spec.programs)
        found = folder and any(folder.iterdir())
        if folder:
            (folder / "program").touch()
        start = COLD_START | {"import": 0.5, "build": 0.25} if found else COLD_START
        self.ready = {"parameters": 5, "cold_start": start, "facts": facts}

    def round(self, seconds):
        return {"samples": [self._seconds], "steps": 1, "peak_bytes": 123_000_000, "memory": "process"}

    def close(self):
        pass


@pytest.fixture(autouse=True)
def nothing_is_measured(monkeypatch):
    """Contestants that only say how long they took, and no other work on the machine."""

    def race(contest, report):
        found = real(contest, report=report, start=Fake)
        return found._replace(busy_cores=0.0)

    real = benchmark.race
    monkeypatch.setattr(benchmark, "race", race)


def test_a_model_against_peers(jaxcnn, tmp_path):
    output, plot = tmp_path / "all.jsonl", tmp_path / "ratios.png"
    words = ("lenet5", "--peers", "flax,keras", "--repeats", 3, "--output", output, "--plot", plot)
    done = jaxcnn("bench", *words)
    assert done.status == 0
    rows = [re.split(r"  +", line.strip()) for line in done.out.splitlines() if line.strip()]
    assert "lenet5, train, 128x32x32x1, float32: warm step" in done.out
    assert ["jaxcnn", "10 (10 to 10)", "3", "12,800", "76.8", "123"] in rows
    assert ["flax", "20 (20 to 20)", "3", "6,400", "38.4", "123", "0.50 (0.50 to 0.50)"] in rows
    assert ["flax-flags", "8 (8 to 8)", "3", "16,000", "96", "123", "1.25 (1.25 to 1.25)"] in rows
    assert ["jaxcnn", "0.50", "1.00", "2.00", "0.25", "3.75", "1.50"] in rows
    assert ["flax", "0.50", "1.00", "2.00", "0.25", "3.75"] in rows
    assert "warm: the same with the compiled programs that an earlier process has kept." in done.out
    assert done.out.count("keras: missing: not installed; pip install keras") == 2
    assert "below 1 jaxcnn is faster" in done.out
    assert plot.stat().st_size > 1000
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(record["mode"], record["contestant"]) for record in records] == [
        (mode, name) for mode in ("train", "infer") for name in ("jaxcnn", "flax", "flax-flags", "keras")
    ]


def test_a_model_alone_is_compared_with_nothing(jaxcnn):
    done = jaxcnn("bench", "mlp", "--mode", "infer", "--repeats", 1)
    assert done.status == 0
    assert "mlp, infer, " in done.out
    assert "divided by" not in done.out


def test_records_are_added_to_the_file(jaxcnn, tmp_path):
    for _ in range(2):
        assert jaxcnn("bench", "mlp", "--mode", "infer", "--output", tmp_path / "all.jsonl").status == 0
    assert len((tmp_path / "all.jsonl").read_text().splitlines()) == 2


def test_other_programs_are_told(jaxcnn, monkeypatch):
    race = benchmark.race
    monkeypatch.setattr(benchmark, "race", lambda *a, **k: race(*a, **k)._replace(busy_cores=1.25))
    assert re.search(r"Other programs kept 1.2 of \d+ cores busy", jaxcnn("bench", "mlp", "--mode", "train").out)


def test_when_ours_fails_the_status_says_so(jaxcnn, monkeypatch):
    monkeypatch.delitem(SECONDS, "jaxcnn")
    done = jaxcnn("bench", "mlp", "--mode", "train")
    assert done.status == 1
    assert "jaxcnn: missing" in done.out


def test_the_standard_set_is_the_default():
    contests = bench.plan(Bench())
    assert [contest.name for contest in contests[::2]] == list(benchmark.STANDARD)
    assert [contest.mode for contest in contests[:2]] == ["train", "infer"]
    assert {contest.name: contest.batch_size for contest in contests} == benchmark.STANDARD
    shapes = {contest.name: contest.image_shape for contest in contests}
    assert shapes == {name: CATALOG[name].image_shape for name in benchmark.STANDARD}


def test_sizes_and_precision_are_passed_on():
    options = Bench(models=("unet",), batch_size=6, image_size=64, precision="bfloat16", devices=3, mode="infer")
    (contest,) = bench.plan(options)
    assert (contest.batch_size, contest.image_shape) == (6, (64, 64, 3))
    assert (contest.precision, contest.devices, contest.mode) == ("bfloat16", 3, "infer")


def test_several_devices_have_a_scaling_efficiency(jaxcnn, monkeypatch, tmp_path):
    measured, race = [], benchmark.race
    monkeypatch.setattr(benchmark, "race", lambda contest, **words: measured.append(contest) or race(contest, **words))
    done = jaxcnn("bench", "mlp", "--mode", "infer", "--devices", 4, "--batch-size", 64, "--output", tmp_path / "all")
    assert [(contest.devices, contest.batch_size) for contest in measured] == [(4, 64), (1, 16)]
    # The same time for a quarter of the images.
    (record,) = map(json.loads, (tmp_path / "all").read_text().splitlines())
    assert record["scaling_efficiency"] == pytest.approx(1.0)
    assert "efficiency" in done.out
    assert "100%" in done.out


def test_the_scaling_efficiency_is_the_share_of_the_rate_of_all_devices():
    ours = {"images_per_second": 300.0, "devices": 4}
    (record,) = bench.with_scaling([ours], {"images_per_second": 100.0})
    assert record["scaling_efficiency"] == 0.75
    (record,) = bench.with_scaling([ours], {"images_per_second": None})
    assert record["scaling_efficiency"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("resnet5",), "unknown model 'resnet5'; did you mean resnet56?"),
        (("lenet5", "--peers", "torhc"), "unknown peer 'torhc'; did you mean torch?"),
        (("lenet5", "--batch-size", 0), "--batch-size expects a number at least 1, got 0"),
        (("lenet5", "--repeats", 0), "--repeats expects a number at least 1, got 0"),
        (("lenet5", "--devices", 3), "--devices expects a number that divides the batch of 128 images, got 3"),
        (("lenet5", "--image-size", 4), "lenet5 expects images of at least 16x16 pixels, got 4x4"),
        (("unet", "--image-size", 40), "multiples of 16"),
        (("lenet5", "--output", "/no/such/folder/all.jsonl"), "/no/such/folder/all.jsonl"),
        (("lenet5", "--plot", "ratios.pdf"), "--plot expects a file with the extension .png, got ratios.pdf"),
    ],
)
def test_nonsense_is_refused_before_anything_is_measured(jaxcnn, monkeypatch, words, message):
    monkeypatch.setattr(benchmark, "race", None)
    done = jaxcnn("bench", *words)
    assert done.status == 2
    assert done.err.startswith("error: ")
    assert message in done.err


def test_loaders_of_data(jaxcnn, tmp_path, monkeypatch):
    def photographs(folder, **words):
        return small_images(name="files", **words)

    def small_images(name="arrays", count=4, batch_size=2):
        return real(count=count, batch_size=batch_size)._replace(name=name)

    real = loading.small_images
    monkeypatch.setattr(loading, "small_images", small_images)
    monkeypatch.setattr(loading, "photographs", photographs)

    def broken(workload):
        raise ImportError("no torchvision")

    monkeypatch.setitem(loading._MAKERS, "torch", broken)
    output = tmp_path / "all.jsonl"
    done = jaxcnn("bench", "--data", "--peers", "numpy,torch", "--repeats", 2, "--output", output)
    assert done.status == 0
    assert re.search(
        r"arrays, batches of 2\n\n.*\n-+\njaxcnn +[\d,.]+ \([\d,.]+ to [\d,.]+\) *\nnumpy .*\d\)\n", done.out
    )
    assert "files, batches of 2" in done.out
    assert done.out.count("torch is missing: no torchvision\n\n") == 2
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["contestant"] for record in records] == ["jaxcnn", "numpy", "torch"] * 2
    assert max(map(len, done.out.splitlines())) <= 80
    assert "--data" in jaxcnn("bench", "--help").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("lenet5",), "--data measures sets of its own, got 'lenet5'; omit it"),
        (("--mode", "train"), "--mode has no effect with --data"),
        (("--plot", "x.png"), "--plot has no effect with --data"),
        (("--repeats", 0), "--repeats expects a number at least 1, got 0"),
        (("--peers", "keras"), "unknown peer 'keras'"),
        (("--batch-size", 100_000), "batch_size must be at most the number of examples, got 100000 for 50000"),
    ],
)
def test_nonsense_about_data_is_refused(jaxcnn, words, message):
    done = jaxcnn("bench", "--data", *words)
    assert done.status == 2
    assert message in done.err
