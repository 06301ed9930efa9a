import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export

from jaxcnn.cli import trained


def test_the_best_epoch_of_a_run_is_exported(jaxcnn, finished, saved, splits, tmp_path):
    done = jaxcnn("export", finished, "--output", tmp_path / "digits.stablehlo", "--platforms", "cpu")
    assert done.err == ""
    assert done.status == 0
    program = tmp_path / "digits.stablehlo"
    description = json.loads((tmp_path / "digits.stablehlo.json").read_text())
    epoch = saved(finished).meta["best"]["epoch"]
    first, second = done.out.splitlines()
    assert first == (
        f"epoch {epoch} in {program} ({program.stat().st_size:,} bytes), "
        f"described in {tmp_path / 'digits.stablehlo.json'}"
    )
    assert second.startswith("it takes images of 8x8 pixels only: dense expects 64 features on the last axis")
    assert description["run"] == {"model": "mlp", "epoch": epoch}
    assert description["class_names"] == [str(k) for k in range(10)]
    assert description["input"]["shape"] == ["b", 8, 8, 1]
    assert "8-bit values divided by 255; 1 channel of grey" in description["preprocessing"]

    # The same by hand, from the parameters of the best epoch.
    arrays = {
        name: np.frombuffer(content, dtype).reshape(shape)
        for name, (dtype, shape, content) in saved(finished).leaves.items()
    }
    images = splits["test"].images
    y = images.reshape(len(images), -1)
    for name in ("dense1", "dense2", "head"):
        y = y @ arrays[f"best/params/{name}/kernel"] + arrays[f"best/params/{name}/bias"]
        y = y if name == "head" else np.maximum(y, 0)
    scope = {"images": images}
    exec("\n".join(description["load"]).replace('"digits.stablehlo"', repr(str(program))), scope)
    np.testing.assert_allclose(scope["logits"], y, rtol=0, atol=1e-5 * np.abs(y).max())


def test_without_a_name_the_file_lies_in_the_folder_of_the_run(jaxcnn, words, no_pictures, tmp_path):
    run = tmp_path / "run"
    jaxcnn(*words(run, "--epochs", 1, "--augment", "none"))
    assert jaxcnn("export", run, "--platforms", "cpu", "--image-size", "fixed", "--gradients").status == 0
    program = export.deserialize((run / "model.stablehlo").read_bytes())
    assert program.has_vjp()
    description = json.loads((run / "model.stablehlo.json").read_text())
    assert description["input"]["sizes"] == "images of 8x8 pixels"


def test_a_model_of_one_size_is_not_exported_for_any(jaxcnn, finished, tmp_path):
    output = tmp_path / "model"
    done = jaxcnn("export", finished, "--image-size", "any", "--output", output)
    assert done.status == 2
    assert done.err.startswith("error: symbolic_size=True expects a model that supports images of any size")
    assert "(in layer 'dense1')" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--platforms", "gpu"], "export expects platforms among"),
        (
            ["--platforms", "cpu", "--output", "/nowhere/model"],
            "the folder of '/nowhere/model' does not exist; create it first",
        ),
    ],
)
def test_what_cannot_be_done_is_said(jaxcnn, finished, options, message):
    done = jaxcnn("export", finished, *options)
    assert done.status == 2
    assert message in done.err


@pytest.mark.filterwarnings("ignore")
def test_a_run_is_exported_as_onnx(jaxcnn, finished, tmp_path):
    pytest.importorskip("jax2onnx")
    assert jaxcnn("export", finished, "--format", "onnx", "--output", tmp_path / "digits.onnx").status == 0
    description = json.loads((tmp_path / "digits.onnx.json").read_text())
    assert (description["format"], description["input"]["shape"]) == ("onnx", ["b", 8, 8, 1])


@pytest.mark.filterwarnings("ignore")
def test_an_onnx_file_with_other_results_is_never_there(jaxcnn, finished, tmp_path, monkeypatch):
    jax2onnx = pytest.importorskip("jax2onnx")
    convert = jax2onnx.to_onnx

    def convert_wrongly(function, inputs):
        return convert(lambda x: jax.tree.map(lambda result: 1.01 * result, function(x)), inputs)

    monkeypatch.setattr(jax2onnx, "to_onnx", convert_wrongly)
    done = jaxcnn("export", finished, "--format", "onnx", "--output", tmp_path / "digits.onnx")
    assert done.status == 2
    assert "jax2onnx converted the model wrongly" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [("--image-size", "any"), ("--gradients",)])
def test_what_onnx_files_do_not_have_is_refused(jaxcnn, finished, option):
    done = jaxcnn("export", finished, "--format", "onnx", *option)
    assert done.err == (
        "error: --format onnx takes images of the run's size and has no gradients; use --format stablehlo\n"
    )


@pytest.mark.parametrize("output", ["/dev/null", ".", "folder"])
def test_nothing_is_computed_for_a_file_that_cannot_be_written(jaxcnn, finished, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(trained, "load", lambda run: pytest.fail("the run was read"))
    done = jaxcnn("export", finished, "--output", output)
    assert done.status == 2
    assert re.match(
        r"error: expected a (new name or a regular )?file to write, got .*'(/dev/null|\.|folder)'", done.err
    )
    assert Path("/dev/null").is_char_device()
    assert not Path("/dev/null.json").exists()
