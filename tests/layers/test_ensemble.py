import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn
from jaxcnn import batched, data
from jaxcnn.layers import BatchNorm, Conv, Dense, Ensemble, Flatten, Sequential
from jaxcnn.models import small_retinanet
from jaxcnn.tasks import Classification
from jaxcnn.training import Recipe, train_many
from jaxcnn.training.run_folder import make_list

SHAPE = (5, 4, 3)


def model():
    return Sequential(conv=Conv(3, 4), norm=BatchNorm(4), flatten=Flatten(), head=Dense(80, 6))


@pytest.fixture(scope="module")
def members():
    return [model().init(jax.random.key(seed)) for seed in range(3)]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(7, *SHAPE)).astype(np.float32)


def outputs_of(members, images):
    return [np.asarray(batched(model())(*member, images, train=False)[0], np.float64) for member in members]


def test_the_softmax_of_an_ensemble_is_the_mean_of_the_members(members, images):
    ensemble, params, state = Ensemble.of(model(), members)
    found = np.asarray(jax.jit(batched(ensemble), static_argnames="train")(params, state, images, train=False)[0])
    expected = []
    for logits in outputs_of(members, images):
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        expected.append(chances / chances.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(np.exp(found), np.mean(expected, axis=0), rtol=1e-5)
    # Logits that are already normalised.
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-5)


def test_the_outputs_of_an_ensemble_are_the_mean_of_the_members(members, images):
    ensemble, params, state = Ensemble.of(model(), members, combine="outputs")
    found, same = batched(ensemble)(params, state, images, train=False)
    np.testing.assert_allclose(found, np.mean(outputs_of(members, images), axis=0), rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, same, state)


def test_in_training_each_member_has_moments_and_a_key_of_its_own(members, images):
    ensemble, params, state = Ensemble.of(model(), members)
    _, after = batched(ensemble)(params, state, images, train=True)
    for place, member in enumerate(members):
        _, expected = batched(model())(*member, images, train=True)
        np.testing.assert_allclose(after["norm"]["mean"][place], expected["norm"]["mean"], rtol=1e-5, atol=1e-6)
    drop = jaxcnn.layers.Dropout(0.5)
    ensemble = Ensemble(drop, 2, combine="outputs")
    outputs, _ = ensemble.apply({}, {}, jnp.ones(1000), train=True, key=jax.random.key(0))
    # Two independent masks: a value is 0, 1 or 2.
    assert np.bincount(np.asarray(outputs).astype(int)) == pytest.approx([250, 500, 250], abs=60)


def test_members_are_drawn_from_keys_of_their_own():
    params, _ = Ensemble(model(), 3).init(jax.random.key(5))
    for place, key in enumerate(jax.random.split(jax.random.key(5), 3)):
        expected, _ = model().init(key)
        jax.tree.map(lambda a, b, place=place: np.testing.assert_array_equal(a[place], b), params, expected)


def test_the_folder_of_several_runs_is_loaded_as_their_ensemble(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 6
    images = rng.random((60, *SHAPE), np.float32)
    source = data.arrays(image=images, label=labels, class_names=list("abcdef"))
    with jax.numpy_dtype_promotion("standard"):
        recipe = Recipe(epochs=1, batch_size=12, augment="none")
        runs = train_many(model(), source, recipe, seeds=2, folder=tmp_path / "runs")
    network = jaxcnn.load(tmp_path / "runs")
    assert (network.layer, network.task, network.class_names) == (
        Ensemble(model(), 2),
        Classification(),
        tuple("abcdef"),
    )
    members = [(result.params, result.state) for result in runs.results]
    chances = [np.exp(each - np.log(np.exp(each).sum(1, keepdims=True))) for each in outputs_of(members, images)]
    [found] = network.predict(images[0], top=6)
    assert [found[name] for name in "abcdef"] == pytest.approx(np.mean(chances, axis=0)[0], rel=1e-4)
    with pytest.raises(ValueError, match="for published weights"):
        jaxcnn.load(tmp_path / "runs", model="lenet5")


def test_detectors_have_no_mean(tmp_path, monkeypatch):
    detector = small_retinanet(num_classes=2)
    network = jaxcnn.Network(detector, *detector.init(jax.random.key(0)), task=detector.task((64, 64)))
    monkeypatch.setattr("jaxcnn.network._load_run", lambda path, layer: network)
    make_list(tmp_path / "runs", ["seed-0", "seed-1"])
    with pytest.raises(ValueError, match="expects runs whose outputs have a mean, got 2 runs of a detector; load one"):
        jaxcnn.load(tmp_path / "runs")


def test_nonsense_is_refused(members):
    with pytest.raises(TypeError, match="Ensemble expects a layer, with init and apply, got 'lenet5'"):
        Ensemble("lenet5", 2)
    with pytest.raises(ValueError, match="a size of at least 1, got 0"):
        Ensemble.of(model(), [])
    with pytest.raises(ValueError, match="combine to be 'probabilities' or 'outputs', got 'vote'"):
        Ensemble(model(), 2, combine="vote")
    params, state = members[1]
    cut = {**params, "head": {**params["head"], "bias": params["head"]["bias"][:5]}}
    with pytest.raises(ValueError, match="members with the arrays of the layer, but member 1 differs"):
        Ensemble.of(model(), [members[0], (cut, state)])
    heads = jaxcnn.layers.AuxiliaryHeads("aux", a=Flatten(), aux=Flatten(), main=Flatten())
    ensemble = Ensemble(heads, 2)
    with pytest.raises(TypeError, match="logits for combine='probabilities', got a tree of arrays; give combine="):
        ensemble.apply(*ensemble.init(jax.random.key(0)), jnp.ones(SHAPE), train=True)
