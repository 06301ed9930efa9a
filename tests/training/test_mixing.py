"""Mixup and CutMix against their definitions in NumPy, from the mixed images themselves."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn.layers import Dense, Flatten, Sequential
from jaxcnn.training import CutMix, MixInTurn, Mixup, RandomMix, init_train_state, make_train_step

CLASSES, N = 4, 8
LABELS = np.arange(N, dtype=np.int32) % CLASSES
# Each image is constant, and tells which one it is.
IMAGES = np.broadcast_to(2.0 ** np.arange(N, dtype=np.float32)[:, None, None, None], (N, 9, 7, 2))
BATCH = {"image": jnp.asarray(IMAGES), "label": jnp.asarray(LABELS)}
EYE = np.eye(CLASSES)
BOTH = (Mixup(CLASSES), CutMix(CLASSES))


@functools.cache
def compiled(mix):
    return jax.jit(mix)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("alpha", [0.2, 2.0])
def test_mixup_mixes_images_and_labels_in_the_same_shares(seed, alpha):
    # Image i has a 1 at place i alone, so that a mixed image shows the shares of all images in it.
    images = jnp.eye(N, dtype=jnp.float32).reshape(N, 2, 2, 2)
    mixed = compiled(Mixup(CLASSES, alpha))(jax.random.key(seed), {"image": images, "label": jnp.asarray(LABELS)})
    shares = np.asarray(mixed["image"]).reshape(N, N)
    np.testing.assert_allclose(mixed["label"], shares @ EYE[LABELS], atol=1e-6)
    np.testing.assert_allclose([shares.sum(0), shares.sum(1)], 1, atol=1e-6)
    moved = ~np.isclose(np.diag(shares), 1)
    others = shares[moved] - np.diag(np.diag(shares))[moved]
    assert np.all(np.count_nonzero(others, axis=1) == 1)
    np.testing.assert_allclose(np.diag(shares)[moved], np.diag(shares)[moved][:1].repeat(moved.sum()), rtol=1e-5)


def test_the_share_is_of_the_beta_distribution():
    images = jnp.zeros((2, 1, 1, 1)).at[1].set(1.0)
    mix = jax.jit(jax.vmap(lambda key: Mixup(2, 0.4)(key, {"image": images, "label": jnp.array([0, 1])})["image"]))
    drawn = np.asarray(mix(jax.random.split(jax.random.key(0), 4000)))[:, 0, 0, 0, 0]
    # Half of the permutations leave the images where they are.
    expected = np.random.default_rng(0).beta(0.4, 0.4, 100_000)
    for moment in (1, 2, 3):
        assert np.mean(drawn**moment) == pytest.approx(np.mean(expected**moment) / 2, abs=0.02)


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_puts_one_rectangle_into_each_image_and_shares_labels_by_area(seed):
    mixed = compiled(CutMix(CLASSES))(jax.random.key(seed), BATCH)
    images, labels = np.asarray(mixed["image"]), np.asarray(mixed["label"])
    replaced = images[..., 0] != IMAGES[..., 0]
    inside = replaced.any(0)
    rows, columns = inside.any(1), inside.any(0)
    np.testing.assert_array_equal(inside, rows[:, None] & columns[None, :])
    for axis in (rows, columns):
        places = np.flatnonzero(axis)
        assert len(places) == 0 or np.array_equal(places, np.arange(places[0], places[-1] + 1))
    share = inside.mean()
    for index in range(N):
        source = set(np.log2(images[index, inside].reshape(-1)))
        assert len(source) <= 1
        partner = int(source.pop()) if source else index
        expected = (1 - share) * EYE[LABELS[index]] + share * EYE[LABELS[partner]]
        np.testing.assert_allclose(labels[index], expected, atol=1e-6)


def test_the_area_of_the_rectangle_is_that_of_the_distribution():
    # Beta(1, 1) is uniform, and the mean area that stays in the image is known by drawing in NumPy.
    images = jnp.zeros((2, 64, 64, 1)).at[1].set(1.0)
    batch = {"image": images, "label": jnp.array([0, 1])}
    mix = jax.jit(jax.vmap(lambda key: CutMix(2)(key, batch)["label"][0, 1]))
    drawn = np.asarray(mix(jax.random.split(jax.random.key(0), 2000)))
    random = np.random.default_rng(0)
    side = 64 * np.sqrt(1 - random.beta(1, 1, 100_000))
    ends = [random.integers(0, 64, (100_000, 1)) + side[:, None] * [-0.5, 0.5] for _ in range(2)]
    areas = np.prod([np.ptp(np.clip(end, 0, 64), axis=1) for end in ends], axis=0) / 64**2
    assert np.mean(drawn) == pytest.approx(np.mean(areas) / 2, abs=0.02)  # half of the permutations exchange the two


def test_one_of_several_mixes_is_drawn_for_each_batch():
    # A constant image stays constant in mixup, and is cut in CutMix; all are 0 or 1.
    images = jnp.zeros((2, 16, 16, 1)).at[1].set(1.0)
    mix = RandomMix((Mixup(2, 5.0), CutMix(2)))

    def kind(key):
        image = mix(key, {"image": images, "label": jnp.array([0, 1])})["image"][0]
        return jnp.stack([jnp.any((image > 0) & (image < 1)), jnp.ptp(image) > 0])

    blended, cut = np.asarray(jax.jit(jax.vmap(kind))(jax.random.split(jax.random.key(0), 4000))).T
    assert not np.any(blended & cut)
    # Half of the permutations leave the images where they are.
    assert np.mean(blended) == pytest.approx(0.25, abs=0.03)
    assert 0.15 < np.mean(cut) < 0.28  # some rectangles are empty, or the whole image
    assert eval(repr(mix)) == mix


def test_a_random_mix_needs_something_to_choose_from():
    for mixes in ((), [Mixup(2)]):
        for kind in (RandomMix, MixInTurn):
            with pytest.raises(ValueError, match=f"{kind.__name__} expects a tuple of at least one mix, got"):
                kind(mixes)


@pytest.mark.parametrize("mix", BOTH, ids=repr)
def test_shares_are_mixed_as_labels_are(mix):
    shares = BATCH | {"label": jnp.asarray(EYE[LABELS], jnp.float32)}
    one, other = (mix(jax.random.key(3), batch) for batch in (BATCH, shares))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert pickle.loads(pickle.dumps(mix)) == mix


@pytest.mark.parametrize("mix", BOTH, ids=repr)
def test_a_label_out_of_range_is_nan(mix):
    mixed = mix(jax.random.key(3), BATCH | {"label": jnp.asarray(LABELS).at[2].set(CLASSES)})
    assert np.isnan(mixed["label"]).any()


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("mix", [*BOTH, RandomMix(BOTH)], ids=repr)
def test_the_step_mixes_another_way_in_each_step(mix):
    model, still = Sequential(flatten=Flatten(), head=Dense(9 * 7 * 2, CLASSES)), optax.sgd(0.0)
    step, losses = make_train_step(model, still, mix=mix), []
    train_state = init_train_state(model, still, jax.random.key(0))
    for _ in range(4):
        train_state, metrics = step(train_state, BATCH, jax.random.key(1))
        losses.append(metrics.mean_loss)
    assert len(set(losses)) == 4
    assert np.all(np.isfinite(losses))


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_what_makes_no_sense_is_refused(kind):
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        kind(1)
    with pytest.raises(ValueError, match=r"alpha above 0, got 0\.0"):
        kind(3, alpha=0.0)
    with pytest.raises(ValueError, match='a batch without "weight", got one'):
        kind(CLASSES)(jax.random.key(0), BATCH | {"weight": jnp.ones(N)})
    with pytest.raises(ValueError, match=r"a batch with 'label', got \['image'\]"):
        kind(CLASSES)(jax.random.key(0), {"image": BATCH["image"]})
    with pytest.raises(ValueError, match=r"integers or shares \(batch, 3\), got float32 \(8, 4\)"):
        kind(3)(jax.random.key(0), BATCH | {"label": jnp.zeros((N, 4))})
