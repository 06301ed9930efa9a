import importlib.util
import json
from pathlib import Path

import jax
import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def experiment():
    return load("benchmarks")


def record(model, mode, contestant, seconds=None, ratio=None, device="cpu"):
    return {
        "model": model,
        "mode": mode,
        "contestant": contestant,
        "status": "measured" if seconds else "missing",
        "reason": None,
        "batch_size": 8,
        "image_shape": [32, 32, 3],
        "step_seconds": seconds and {"median": seconds},
        "ratio": ratio and {"median": ratio, "lower_quartile": ratio - 0.1, "upper_quartile": ratio + 0.1},
        "device": {"platform": "cpu" if device == "cpu" else "gpu", "kind": device},
        "host": {"busy_cores": 0.04},
    }


RECORDS = [
    record("lenet5", "train", "jaxcnn", 0.0123),
    record("lenet5", "train", "torch", 0.02, 0.6),
    record("lenet5", "train", "flax"),
    record("lenet5", "infer", "jaxcnn", 1.5),
    record("lenet5", "infer", "torch", 0.75, 2.0),
]


def test_the_table_has_a_row_for_each_model_and_mode(experiment):
    assert experiment.table(RECORDS).splitlines() == [
        "| | batch | jaxcnn, ms | ours / torch | ours / flax |",
        "|---|---|---:|---:|---:|",
        "| lenet5, train | 8x32x32x3 | 12.3 | 0.60 (0.50 to 0.70) | missing |",
        "| lenet5, infer | 8x32x32x3 | 1,500 | 2.00 (1.90 to 2.10) |  |",
    ]


def test_the_table_goes_between_the_markers(experiment):
    text = f"before\n{experiment.START}\nold\n{experiment.END}\nafter\n"
    expected = f"before\n{experiment.START}\nnew\n{experiment.END}\nafter\n"
    assert experiment.with_table(text, "new") == expected
    assert experiment.with_table(expected, "new") == expected


@pytest.mark.parametrize("text", ["", "{START} {START} {END}", "{END} {START}"])
def test_without_both_markers_nothing_is_written(experiment, text):
    with pytest.raises(ValueError, match=r"once each, in this order, in speed.md"):
        experiment.with_table(text.format(START=experiment.START, END=experiment.END), "new")


def test_records_of_another_run_are_kept_where_nothing_newer_is(experiment):
    now = [
        record("lenet5", "train", "jaxcnn", 0.02),
        record("lenet5", "train", "flax", 0.04, 0.5),
        record("lenet5", "train", "keras"),
    ]
    joined = experiment.joined(RECORDS, now)
    assert joined == [now[0], RECORDS[1], *now[1:], *RECORDS[3:]]
    assert experiment.table(joined).splitlines()[2] == (
        "| lenet5, train | 8x32x32x3 | 20 | 0.60 (0.50 to 0.70) | 0.50 (0.40 to 0.60) | missing |"
    )


def test_a_device_names_its_files(experiment, monkeypatch):
    monkeypatch.setattr(experiment, "usable_cores", lambda: 2)
    assert experiment.device_slug(RECORDS) == "cpu-2-cores"
    assert experiment.device_slug([record("unet", "train", "jaxcnn", 1.0, device="NVIDIA H200")]) == "nvidia-h200"


def test_a_line_tells_what_was_measured(experiment):
    line = " ".join(experiment.line(RECORDS[1]).split())
    assert line == "lenet5 train torch 20.0 ms 0.60 (0.50 to 0.70) others: 0.0 cores"
    assert " ".join(experiment.line(RECORDS[2]).split()) == "lenet5 train flax missing: None"


def test_a_report_names_its_script_the_hardware_and_jax(tmp_path, monkeypatch):
    reports = load("reports")
    monkeypatch.setattr(reports, "__file__", str(tmp_path / "reports.py"))
    monkeypatch.setattr(reports, "usable_cores", lambda: 2)
    monkeypatch.setattr(reports, "processor", lambda: "Some CPU")
    monkeypatch.setattr(reports.platform, "machine", lambda: "x86_64")
    path = reports.write_report("anywhere/speed.py", {"rows": [{"ms": 0.5}]})
    assert path == tmp_path / "results" / "speed.json"
    assert json.loads(path.read_text()) == {
        "script": "experiments/speed.py",
        "hardware": "2 CPU cores, Some CPU, x86_64",
        "jax": jax.__version__,
        "rows": [{"ms": 0.5}],
    }
