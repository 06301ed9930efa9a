import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from jaxcnn import batched, data, trees
from jaxcnn.cli import names, transfer
from jaxcnn.cli.errors import CommandError
from jaxcnn.cli.options import Train
from jaxcnn.cli.train import stored_options
from jaxcnn.interop import weights as published_weights
from jaxcnn.interop.preprocessing import Preprocessing
from jaxcnn.interop.weights import Weights, save_safetensors
from jaxcnn.layers import AuxiliaryHeads, Backbone, Conv, Dense, Function, GlobalAvgPool, Sequential
from jaxcnn.models import mlp, resnet18, resnet20, resnet50, small_cnn
from jaxcnn.models.catalog import CATALOG
from jaxcnn.models.normalized import Normalization, normalized
from jaxcnn.models.segmentation.fcn import fcn, fcn_resnet
from jaxcnn.training.phases import cut_in_two, make_phases
from jaxcnn.training.recipe import Recipe
from jaxcnn.training.run_folder import RunFolder
from jaxcnn.training.trained_model import load_model

FIRST, SECOND = ["0", "1", "2", "3", "4"], ["5", "6", "7", "8", "9"]
# 18 training images of each class: 3 steps of 30 in an epoch. Frozen until step 6, a checkpoint every 4 epochs.
OPTIONS = ["--epochs", 4, "--freeze", "backbone", "--unfreeze-epoch", 2, "--unfreeze-learning-rate", 1e-3]
OPTIONS += ["--learning-rates", "head/.*=1", "dense./.*=0.5", "--augment", "none", "--checkpoint-epochs", 4]
OPTIONS += ["--warmup-epochs", 0.5, "--cache-features"]


@pytest.fixture(scope="module")
def pretrained(finish, words):
    """The folder of a finished run on the first five digits, not to be changed."""
    options = ["--classes", *FIRST, "--batch-size", 30, "--epochs", 3, "--augment", "none"]
    return finish(lambda run: words(run, *options))


@pytest.fixture(scope="module")
def transferring(pretrained, words):
    """`train` on the other five digits."""

    def transferring(run, *more, init_from=pretrained):
        return words(run, "--classes", *SECOND, "--batch-size", 30, "--init-from", init_from, *more)

    return transferring


@pytest.fixture(scope="module")
def uninterrupted(finish, transferring):
    """A run of OPTIONS that was never stopped, not to be changed."""
    return finish(lambda run: transferring(run, *OPTIONS))


@pytest.fixture(autouse=True)
def without_pictures(no_pictures):
    pass


def best(run):
    restored = RunFolder(run).checkpoints.restore_leaves("best/params/")
    return {name: np.asarray(leaf) for name, leaf in restored.tree.items()}


def test_the_backbone_stays_until_it_is_unfrozen_and_the_head_is_new(jaxcnn, transferring, pretrained, saved, tmp_path):
    run = tmp_path / "run"
    done = jaxcnn(*transferring(run, "--epochs", 2, "--freeze", "backbone", "--augment", "none"))
    assert done.status == 0
    assert "50,181 parameters (645 trained at first), on" in done.out
    was, now, leaves = best(pretrained), best(run), saved(run).leaves
    assert was.keys() == now.keys()
    for name, leaf in was.items():
        assert np.array_equal(leaf, now[name]) != name.startswith("head/"), name
    assert not any("opt_state" in name and "dense" in name for name in leaves)
    assert leaves["train_state/params/dense1/kernel"][2] == was["dense1/kernel"].tobytes()


def test_a_phase_with_a_smaller_rate_trains_all_of_it(uninterrupted, pretrained, saved, rows):
    output = uninterrupted.with_name("output").read_text()
    assert "features of the frozen layers: 128\n" in output
    assert output.index("epoch   2/4") < output.index("epoch 3: all layers are trained") < output.index("3/4")
    assert "train_state/params/dense1/kernel" in saved(uninterrupted).leaves
    # Linear warm-up over 1.5 steps of each phase to 2e-3 and to 1e-3.
    rates = [row["learning_rate"] for row in rows(uninterrupted)]
    assert rates[1] < rates[0] == pytest.approx(2e-3)
    assert rates[3] < rates[2] == pytest.approx(1e-3)
    was, now = best(pretrained), best(uninterrupted)
    assert RunFolder(uninterrupted).result()["best_epoch"] > 2
    assert not any(np.array_equal(was[name], now[name]) for name in was)


@pytest.mark.heavy
@pytest.mark.parametrize("stop", [pytest.param(2, marks=pytest.mark.slow), 6, pytest.param(8, marks=pytest.mark.slow)])
def test_it_goes_on_exactly_in_either_phase_and_between_them(
    jaxcnn, transferring, uninterrupted, at_step, ctrl_c, tmp_path, saved, rows, stop
):
    run = tmp_path / "run"
    at_step({stop: ctrl_c})
    assert f"stopped after step {stop}, with a checkpoint" in jaxcnn(*transferring(run, *OPTIONS)).out
    at_step({})
    resumed = jaxcnn("train", "--run-dir", run, "--resume")
    assert resumed.status == 0, resumed.err
    assert f"resuming after step {stop}\n" in resumed.out
    assert saved(run) == saved(uninterrupted)
    assert rows(run) == rows(uninterrupted)
    assert RunFolder(run).result() == RunFolder(uninterrupted).result()


@pytest.mark.heavy
@pytest.mark.slow
def test_a_damaged_checkpoint_of_the_second_phase_is_passed_over_for_one_of_the_first(
    jaxcnn, transferring, uninterrupted, at_step, ctrl_c, tmp_path, saved
):
    run = tmp_path / "run"
    at_step({5: ctrl_c})
    jaxcnn(*transferring(run, *OPTIONS))
    at_step({8: ctrl_c})
    jaxcnn("train", "--run-dir", run, "--resume")
    at_step({})
    folder = run / "checkpoints" / "8"
    file = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    resumed = jaxcnn("train", "--run-dir", run, "--resume")
    assert resumed.status == 0, resumed.err
    assert "resuming after step 5\n" in resumed.out
    assert saved(run) == saved(uninterrupted)


def test_a_run_without_a_checkpoint_starts_again_from_the_same_weights_only(
    jaxcnn, transferring, pretrained, uninterrupted, at_step, tmp_path, saved
):
    def kill():
        raise RuntimeError("killed")

    run, weights = tmp_path / "run", tmp_path / "weights"
    shutil.copytree(pretrained, weights)
    at_step({3: kill})
    with pytest.raises(RuntimeError, match="killed"):
        jaxcnn(*transferring(run, *OPTIONS, init_from=weights))
    at_step({})
    fingerprint = json.loads((run / "config.json").read_text())["weights_fingerprint"]
    assert fingerprint == RunFolder(uninterrupted).config["weights_fingerprint"]
    shutil.rmtree(weights)
    shutil.copytree(uninterrupted, weights)
    refused = jaxcnn("train", "--run-dir", run, "--resume")
    assert refused.status == 2
    assert "expected the initial weights of the run in" in refused.err
    shutil.rmtree(weights)
    shutil.copytree(pretrained, weights)
    assert jaxcnn("train", "--run-dir", run, "--resume").status == 0
    assert saved(run).leaves == saved(uninterrupted).leaves
    # What has a checkpoint needs the weights no longer.
    shutil.rmtree(weights)
    (run / "result.json").unlink()
    assert jaxcnn("train", "--run-dir", run, "--resume").status == 0
    assert jaxcnn("evaluate", run).out == jaxcnn("evaluate", uninterrupted).out


def test_cached_features_give_what_images_give(jaxcnn, transferring, uninterrupted, tmp_path, rows):
    run = tmp_path / "run"
    assert jaxcnn(*transferring(run, *(word for word in OPTIONS if word != "--cache-features"))).status == 0
    for row, cached in zip(rows(run), rows(uninterrupted), strict=True):
        assert row == pytest.approx(cached, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "keeps"),
    [
        ([], True),
        (["--head", "new"], False),
        (["--freeze", "dense1"], False),
        (["--freeze", "dense1", "--head", "keep"], True),
    ],
)
def test_the_head_is_that_of_the_weights_or_a_new_one(
    jaxcnn, transferring, pretrained, tmp_path, saved, at_step, ctrl_c, options, keeps
):
    run = tmp_path / "run"
    # One step at a rate of zero.
    at_step({1: ctrl_c})
    assert jaxcnn(*transferring(run, "--epochs", 1, "--augment", "none", *options)).status == 0
    first, head = saved(run).leaves["train_state/params/head/kernel"], best(pretrained)["head/kernel"]
    assert (first[2] == head.tobytes()) == keeps


def test_another_number_of_classes_makes_a_new_head(jaxcnn, words, pretrained, tmp_path):
    options = ["--init-from", pretrained, "--epochs", 1, "--augment", "none"]
    assert jaxcnn(*words(tmp_path / "run", *options)).status == 0
    assert best(tmp_path / "run")["head/kernel"].shape == (128, 10)
    refused = jaxcnn(*words(tmp_path / "other", *options, "--head", "keep"))
    assert refused.status == 2
    assert "expects weights with the same number of classes" in refused.err
    assert "'head/bias' is (5,), expected (10,); draw a new head by --head new" in refused.err
    assert not (tmp_path / "other").exists()


def test_few_examples_are_taken_of_the_training_set_alone(jaxcnn, transferring, tmp_path):
    options = ["--examples-per-class", 6, "--epochs", 1, "--augment", "none"]
    done = jaxcnn(*transferring(tmp_path / "run", *options))
    assert "30 training, 30 validation and 30 test images of 8x8x1, 5 classes" in done.out
    refused = jaxcnn(*transferring(tmp_path / "other", "--examples-per-class", 19))
    assert refused.status == 2
    assert "few expects at least 19 examples of every class, got 18 of class" in refused.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--freeze", "stage1"], "freeze expects a pattern that matches the path of a layer, got 'stage1'"),
        (["--freeze", "("], "missing ), unterminated subpattern"),
        (["--freeze", ".*"], "--freeze .* leaves no parameter to train; freeze fewer layers"),
        (
            ["--freeze", "dense2", "--cache-features", "--augment", "none"],
            "dense1 is trained; use --freeze backbone",
        ),
        (
            ["--freeze", "backbone", "--cache-features"],
            "expects --augment none, got affine: augmentation changes",
        ),
        (["--cache-features", "--augment", "none"], "--cache-features has an effect only with --freeze"),
        (["--unfreeze-epoch", 2], "--unfreeze-epoch has an effect only with --freeze"),
        (["--freeze", "backbone", "--unfreeze-learning-rate", 1], "has an effect only with --unfreeze-epoch"),
        (["--freeze", "backbone", "--unfreeze-epoch", 40], "--unfreeze-epoch expects a number below --epochs, got 40"),
        (
            ["--learning-rates", "head"],
            "--learning-rates expects PATTERN=FACTOR with a regular expression and a factor above 0, got 'head'",
        ),
        (["--learning-rates", "head/.*=0"], "and a factor above 0, got 'head/.*=0'"),
        (["--learning-rates", "head/.*=2"], "'dense1/kernel' matches no rule"),
        (["--learning-rates", "head/.*=2", ".*=1"], "'head/bias' matches ['head/.*', '.*']"),
        (["--learning-rates", ".*=1", "tail=2"], "rule 'tail' matches no leaf"),
        (["--learning-rates", "(=1"], "with a regular expression and a factor above 0, got '(=1'"),
        (["--classes", "5", "ten"], "classes must be different names among ('0', '1',"),
        (["--examples-per-class", 0], "--examples-per-class expects a number at least 1, got 0"),
        (["--model", "small_cnn"], "expected the weights of small_cnn, got a run of mlp"),
        (["--init-from", "nowhere"], "expected a hub id such as timm/resnet50.a1_in1k, a folder with"),
    ],
)
def test_nonsense_is_refused_before_anything_is_made(jaxcnn, transferring, tmp_path, options, message):
    refused = jaxcnn(*transferring(tmp_path / "run", *options))
    assert refused.status == 2
    assert message in refused.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [["--freeze", "backbone"], ["--head", "new"]])
def test_what_needs_weights_is_refused_without_them(jaxcnn, words, tmp_path, options):
    refused = jaxcnn(*words(tmp_path / "run", *options))
    assert refused.status == 2
    assert f"{options[0]} has an effect only with --init-from" in refused.err


@pytest.mark.heavy
@pytest.mark.slow
def test_weights_for_images_of_other_channels_or_sizes_are_refused(jaxcnn, words, pretrained, tmp_path, digits8):
    images, labels = digits8
    options = ["--epochs", 1, "--augment", "none"]

    def start(name, images, model, source):
        np.savez(tmp_path / f"{name}.npz", images=images, labels=labels)
        more = ["--model", model, "--data", tmp_path / f"{name}.npz", "--init-from", source, *options]
        return jaxcnn(*words(tmp_path / name, *more))

    larger = np.pad(images, ((0, 0), (0, 2), (0, 2)))
    refused = start("larger", larger, "mlp", pretrained)
    assert refused.status == 2
    assert "do not fit mlp for these images:\n  'dense1/kernel' is (64, 256), expected (100, 256)" in refused.err
    grey = tmp_path / "grey"
    assert jaxcnn(*words(grey, "--model", "small_cnn", *options)).status == 0
    refused = start("colour", np.stack([images] * 3, axis=-1), "small_cnn", grey)
    assert refused.status == 2
    assert f"expected weights for images of 3 channels, got those in {grey}, which take 1; give --data" in refused.err


@pytest.mark.slow
def test_an_unfinished_first_epoch_is_no_source(jaxcnn, words, transferring, at_step, ctrl_c, tmp_path):
    at_step({2: ctrl_c})
    jaxcnn(*words(tmp_path / "stopped", "--augment", "none"))
    at_step({})
    refused = jaxcnn(*transferring(tmp_path / "run", init_from=tmp_path / "stopped"))
    assert refused.status == 2
    assert "expected a run with at least one whole epoch" in refused.err


def test_frozen_layers_are_cut_off_with_the_auxiliary_heads_that_look_into_them():
    classifier = Sequential(pool=GlobalAvgPool(), dense=Dense(4, 2))
    model = AuxiliaryHeads(
        "aux1", "aux2", a=Conv(3, 4), aux1=classifier, b=Conv(4, 4), c=Conv(4, 4), aux2=classifier, head=classifier
    )
    params, state = model.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (2, 6, 5, 3))
    for pattern, results in (("a|b", {"main", "aux2"}), ("backbone", None)):
        recipe = Recipe(freeze=pattern, augment="none", cache_features=True)
        whole = make_phases(recipe, model, params, steps_per_epoch=5)[0].layer
        frozen, learning = cut_in_two(whole)
        cached, _ = batched(frozen)(params, state, images, train=False)
        assert cached.shape == (2, 6, 5, 4)
        logits, _ = batched(learning)(params, state, cached, train=False)
        np.testing.assert_allclose(logits, batched(model)(params, state, images, train=False)[0], rtol=1e-5, atol=1e-6)
        trained, _ = batched(learning)(params, state, cached, train=True)
        whole_trained, _ = batched(whole)(params, state, images, train=True)
        if results is None:
            trained, results = {"main": trained}, {"main"}
        assert set(trained) == results
        for name, result in trained.items():
            np.testing.assert_allclose(result, whole_trained[name], rtol=1e-5, atol=1e-6)


@pytest.fixture
def published(monkeypatch):
    """Weights as if they were published: of a small_cnn for colour images that are blue first and in grey levels."""
    preprocessing = Preprocessing(None, None, channel_order="BGR", scale=255, mean=(10, 20, 30), std=(51, 102, 204))

    def publish(model):
        params, state = model.init(jax.random.key(7))
        weights = Weights(model, params, state, preprocessing)
        monkeypatch.setattr(published_weights, "load_weights", lambda name, source: weights)
        return weights

    return publish


@pytest.fixture
def colour(tmp_path, digits8):
    images, labels = digits8
    rgb = np.stack([images, 255 - images, images // 2], axis=-1)
    np.savez(tmp_path / "colour.npz", images=rgb, labels=labels)
    return tmp_path / "colour.npz"


@pytest.mark.heavy
@pytest.mark.slow
def test_published_weights_bring_what_they_expect_of_pixels(jaxcnn, words, published, colour, tmp_path):
    weights, run = published(small_cnn(1000, image_size=8)), tmp_path / "run"
    options = ["--model", "small_cnn", "--data", colour, "--init-from", "published.pth", "--augment", "none"]
    options += ["--epochs", 1, "--freeze", "backbone", "--cache-features"]
    done = jaxcnn(*words(run, *options))
    assert done.status == 0, done.err
    loaded = load_model(run)
    test = names.load_splits(stored_options(RunFolder(run)))["test"]
    images = data.unit_pixels(next(data.eval_batches(test, 5))["image"])
    logits, _ = batched(loaded.layer)(loaded.params, loaded.state, images, train=False)
    levels = (255 * images[..., ::-1] - np.array([10, 20, 30])) / np.array([51, 102, 204])
    plain = small_cnn(10, image_size=8)
    params = {**weights.params, "head": loaded.params["head"]}
    expected, _ = batched(plain)(params, weights.state, levels.astype(np.float32), train=False)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    # The head learned from such pixels, and what goes on from this run sees them too.
    assert "normalize=Function(jaxcnn.models.normalized.normalize, mean=(" in RunFolder(run).config["model"]
    assert "reverse=True" in RunFolder(run).config["model"]
    assert jaxcnn(*words(tmp_path / "next", *options, "--init-from", run)).status == 0
    assert RunFolder(tmp_path / "next").config["model"] == RunFolder(run).config["model"]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_published_weights_are_converted_to_the_channels_of_the_images(published, channels):
    weights, notes = published(small_cnn(10, image_size=8)), []
    options = Train(model="small_cnn", init_from="x.pth")
    source = transfer.read_source(options, channels, notes.append)
    model = normalized(names.build_model("small_cnn", 10, (8, 8, channels)), source.normalization)
    params, _ = transfer.first_parameters(options, model, jax.random.key(0), source)
    params, was = trees.named_leaves(params), trees.named_leaves(weights.params)
    name, kernel = next((name, np.asarray(leaf)) for name, leaf in was.items() if leaf.shape[-2:-1] == (3,))
    kernels = {1: kernel.sum(2, keepdims=True), 3: kernel, 4: kernel[:, :, [0, 1, 2, 0]] * 0.75}
    np.testing.assert_allclose(params.pop(name), kernels[channels], rtol=1e-6)
    assert all(np.array_equal(leaf, was[name]) for name, leaf in params.items())
    converted, mean, std = "first convolution converted from 3 to", np.array([10, 20, 30]), np.array([51, 102, 204])
    if channels == 4:
        assert source.normalization is None
        assert notes == [f"{converted} 4 channels; the pixels are not normalized, as the weights are for 3 channels"]
        return
    assert notes == ([f"{converted} 1 channel"] if channels == 1 else [])
    found = source.normalization
    assert found.reverse == (channels == 3)
    np.testing.assert_allclose(found.mean, mean.mean(keepdims=True) / 255 if channels == 1 else mean / 255)
    np.testing.assert_allclose(found.std, std.mean(keepdims=True) / 255 if channels == 1 else std / 255)


def test_published_weights_without_a_first_convolution_are_not_converted(published):
    published(mlp(10, image_size=8, in_channels=3))
    options, notes = Train(model="mlp", init_from="x.pth"), []
    source = transfer.read_source(options, 1, notes.append)
    model = normalized(names.build_model("mlp", 10, (8, 8, 1)), source.normalization)
    with pytest.raises(CommandError, match=r"do not fit mlp for these images:\n  'dense1/kernel' is \(192, 256\)"):
        transfer.first_parameters(options, model, jax.random.key(0), source)
    assert notes == []


def small_fcn(**options):
    body = Sequential(stem=Conv(3, 8), stage=Conv(8, 12, strides=2))
    return fcn(Backbone(body, ["stem", "stage"]), 5, **options)


def test_an_auxiliary_head_that_the_weights_do_not_have_is_new():
    model, plain = small_fcn(), small_fcn(aux_heads=False)
    params, state = plain.init(jax.random.key(1))
    source = transfer.Source("x.pth", trees.named_leaves(params), trees.named_leaves(state), plain, None)
    filled, filled_state = transfer.first_parameters(
        Train(model="fcn_resnet50", init_from="x.pth"), model, jax.random.key(0), source
    )
    drawn, drawn_state = model.init(jax.random.key(0))
    for tree, was, new in ((filled, params, drawn), (filled_state, state, drawn_state)):
        assert jax.tree.structure(tree) == jax.tree.structure(new)
        leaves = trees.named_leaves(was) | trees.named_leaves({"aux": new["aux"]})
        assert all(np.array_equal(leaf, leaves[name]) for name, leaf in trees.named_leaves(tree).items())
    # Where the weights have a part of it, they are damaged.
    source.params["aux/conv/kernel"] = drawn["aux"]["conv"]["kernel"]
    with pytest.raises(CommandError, match="missing 'aux/norm/scale'"):
        transfer.first_parameters(Train(model="fcn_resnet50", init_from="x.pth"), model, jax.random.key(0), source)


@pytest.mark.slow
@pytest.mark.heavy
def test_a_segmentation_model_starts_from_the_weights_of_its_classifier(monkeypatch, tmp_path):
    classifier = resnet18(7)
    entry = CATALOG["fcn_resnet50"]._replace(backbone="resnet18")
    monkeypatch.setitem(CATALOG, "fcn_resnet50", entry)
    params, state = classifier.init(jax.random.key(1))
    save_safetensors(tmp_path / "resnet18.safetensors", classifier, params, state)
    options, notes = Train(model="fcn_resnet50", init_from=str(tmp_path / "resnet18.safetensors")), []
    source = transfer.read_source(options, 3, notes.append)
    assert notes == ["weights of resnet18 for the backbone; the other layers are new"]
    model = fcn_resnet(resnet18, 5)
    filled = transfer.first_parameters(options, model, jax.random.key(0), source)
    drawn = model.init(jax.random.key(0))
    for tree, was, new in zip(filled, (params, state), drawn, strict=True):
        assert jax.tree.structure(tree) == jax.tree.structure(new)
        was, new = trees.named_leaves(was), trees.named_leaves(new)
        for name, leaf in trees.named_leaves(tree).items():
            is_backbone = name.startswith(("stem", "stage"))
            assert np.array_equal(leaf, (was if is_backbone else new)[name]), name
    with pytest.raises(CommandError, match="--head keep expects weights of fcn_resnet50, got those of its backbone"):
        transfer.first_parameters(dataclasses.replace(options, head="keep"), model, jax.random.key(0), source)
    with pytest.raises(
        CommandError, match=r"do not fit fcn_resnet50 for these images:\n  missing 'stage1/block0/conv3"
    ):
        transfer.first_parameters(options, fcn_resnet(resnet50, 5), jax.random.key(0), source)
    # Of two misfits, that of the model itself is told.
    save_safetensors(tmp_path / "other.safetensors", *(other := small_cnn(10), *other.init(jax.random.key(0))))
    with pytest.raises(CommandError, match="fcn_resnet50"):
        transfer.read_source(
            dataclasses.replace(options, init_from=str(tmp_path / "other.safetensors")), 3, notes.append
        )


def test_a_model_that_is_no_row_of_layers_is_normalized_as_others_are():
    model, normalization = small_fcn(), Normalization((0.5, 0.4, 0.3), (0.2, 0.25, 0.5))
    params, state = model.init(jax.random.key(0))
    image = jax.random.uniform(jax.random.key(1), (6, 5, 3))
    trees_of = {"normalize": {}, **params}, {"normalize": {}, **state}
    y, _ = normalized(model, normalization).apply(*trees_of, image, train=False)
    expected, _ = model.apply(
        params, state, (image - np.array([0.5, 0.4, 0.3])) / np.array([0.2, 0.25, 0.5]), train=False
    )
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    assert normalized(model, None) is model
    with pytest.raises(TypeError, match="normalized expects a model made of layers, got Conv"):
        normalized(Conv(3, 4), normalization)


@pytest.mark.heavy
@pytest.mark.slow
def test_published_weights_for_colour_train_on_grey_images(jaxcnn, words, published, tmp_path):
    weights = published(small_cnn(10, image_size=8))
    options = ["--model", "small_cnn", "--init-from", "x.pth", "--freeze", "backbone", "--epochs", 1]
    done = jaxcnn(*words(tmp_path / "run", *options, "--augment", "none"))
    assert (done.status, done.err) == (0, "")
    assert "first convolution converted from 3 to 1 channel" in done.out
    found, was = load_model(tmp_path / "run").params["conv1"]["kernel"], weights.params["conv1"]["kernel"]
    np.testing.assert_allclose(found, was.sum(2, keepdims=True), rtol=1e-6)


def test_weights_of_a_variant_of_the_model_are_refused(jaxcnn, words, published, colour, tmp_path):
    other = small_cnn(10, image_size=8)
    published(other.replace(relu2=Function(jax.nn.gelu)))
    refused = jaxcnn(*words(tmp_path / "run", "--model", "small_cnn", "--data", colour, "--init-from", "x.pth"))
    assert refused.status == 2
    assert "x.pth belong to a variant of small_cnn that differs from the catalog's" in refused.err


@pytest.mark.slow
def test_a_file_of_weights_is_a_source(jaxcnn, words, colour, tmp_path):
    model = resnet20(10)
    params, state = model.init(jax.random.key(7))
    save_safetensors(tmp_path / "weights.safetensors", model, params, state)
    options = ["--model", "resnet20", "--data", colour, "--init-from", tmp_path / "weights.safetensors"]
    options += ["--freeze", "backbone", "--epochs", 1, "--augment", "none"]
    assert jaxcnn(*words(tmp_path / "run", *options)).status == 0
    loaded = load_model(tmp_path / "run")
    was = trees.named_leaves((params, state))
    for name, leaf in trees.named_leaves((loaded.params, loaded.state)).items():
        assert np.array_equal(leaf, was[name]) != name.startswith("0/head"), name
