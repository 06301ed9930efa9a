import dataclasses
import itertools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.data import Arrays, ArraySpec, Batches, Subset, arrays, eval_batches, put, unit_pixels
from jaxcnn.data.batches import _order
from jaxcnn.data.reading import default_workers
from jaxcnn.environment import usable_cores


def numbered(count):
    """Example i holds the pixel i / 1000 and the label i % 3."""
    images = (np.arange(count) / 1000).reshape(-1, 1, 1, 1)
    return arrays(image=images, label=np.arange(count) % 3, num_classes=3)


def indices(batch):
    return np.round(batch["image"][:, 0, 0, 0] * 1000).astype(int)


def epoch_of(batches, epoch):
    steps = batches.steps_per_epoch
    return np.concatenate([indices(batches[epoch * steps + k]) for k in range(steps)])


def test_an_epoch_visits_no_example_twice_and_drops_less_than_a_batch():
    batches = Batches(numbered(23), 5, seed=0)
    assert batches.steps_per_epoch == 4
    for epoch in range(5):
        seen = epoch_of(batches, epoch)
        assert len(seen) == len(set(seen)) == 20


def test_an_epoch_of_whole_batches_visits_every_example():
    seen = epoch_of(Batches(numbered(20), 5, seed=0), 3)
    np.testing.assert_array_equal(np.sort(seen), np.arange(20))


def test_every_epoch_has_its_own_order_and_drops_other_examples():
    batches = Batches(numbered(23), 5, seed=0)
    orders = [epoch_of(batches, epoch) for epoch in range(8)]
    assert len({tuple(order) for order in orders}) == 8
    assert len({frozenset(range(23)) - set(order) for order in orders}) > 4


def test_labels_follow_their_images():
    batch = Batches(numbered(23), 5, seed=1)[7]
    assert list(batch) == ["image", "label"]
    np.testing.assert_array_equal(batch["label"], indices(batch) % 3)
    assert batch["image"].shape == (5, 1, 1, 1)
    assert (batch["image"].dtype, batch["label"].dtype) == (np.float32, np.int32)


def test_random_access_equals_sequential_access():
    data = numbered(23)
    sequential = [indices(batch) for batch in itertools.islice(Batches(data, 5, seed=2), 80)]
    jumping = Batches(data, 5, seed=2)
    for step in np.random.default_rng(0).permutation(80):
        np.testing.assert_array_equal(indices(jumping[step]), sequential[step])


def test_loaders_used_in_turns_do_not_disturb_each_other():
    data = numbered(23)
    alone = [indices(Batches(data, 5, seed=0)[step]) for step in range(12)]
    loaders = [Batches(data, 5, seed=seed) for seed in range(12)]
    mixed = np.array([[indices(loader[step]) for loader in loaders] for step in range(12)])
    np.testing.assert_array_equal(mixed[:, 0], alone)


def test_the_order_depends_on_the_seed():
    data = numbered(23)
    orders = {tuple(epoch_of(Batches(data, 5, seed=seed), 0)) for seed in range(6)}
    assert len(orders) == 6


def test_the_order_never_changes_between_releases():
    batches = Batches(numbered(23), 5, seed=7)
    np.testing.assert_array_equal(indices(batches[0]), [15, 4, 18, 3, 14])
    np.testing.assert_array_equal(indices(batches[8]), [10, 22, 2, 8, 13])


def test_every_example_comes_equally_often_in_the_long_run():
    counts = np.zeros(10)
    for batch in itertools.islice(Batches(numbered(10), 4, seed=0), 500):
        counts[indices(batch)] += 1
    assert counts.min() > 180  # 200 expected; the order of each epoch leaves 2 of 10 out
    assert counts.max() < 220


def test_an_epoch_is_shuffled_once():
    batches = Batches(numbered(97), 2, seed=11)
    before = _order.cache_info().misses
    epoch_of(batches, 0)
    assert _order.cache_info().misses == before + 1


def test_a_batch_is_a_copy():
    batches = Batches(numbered(6), 3, seed=0)
    batch = batches[0]
    batch["image"][:], batch["label"][:] = 1, 2
    assert batches.source.entries["image"].max() < 1
    np.testing.assert_array_equal(batches.source.entries["label"], np.arange(6) % 3)


def test_the_loader_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Batches(numbered(6), 3, seed=0).seed = 1


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="at most the number of examples, got 7 for 6 examples"):
        Batches(numbered(6), 7, seed=0)


@pytest.mark.parametrize("batch_size", [0, -2])
def test_an_empty_batch_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be at least 1, got {batch_size}"):
        Batches(numbered(6), batch_size, seed=0)
    with pytest.raises(ValueError, match=f"batch_size must be at least 1, got {batch_size}"):
        eval_batches(numbered(6), batch_size)


def test_a_negative_step_is_refused():
    with pytest.raises(IndexError, match="step must be at least 0, got -1"):
        Batches(numbered(6), 3, seed=0)[-1]


def test_a_step_that_is_no_integer_is_refused():
    with pytest.raises(TypeError, match="float"):
        Batches(numbered(6), 3, seed=0)[1.5]


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        Batches(numbered(6), 3, seed=-1)


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (12, 4), (3, 8), (1, 1), (5, 1)])
def test_evaluation_sees_every_example_once_in_order(count, batch_size):
    data = numbered(count)
    batches = list(eval_batches(data, batch_size))
    assert len(batches) == -(-count // batch_size)
    for batch in batches:
        assert list(batch) == ["image", "label", "weight"]
        assert batch["image"].shape == (batch_size, 1, 1, 1)
        assert batch["label"].shape == batch["weight"].shape == (batch_size,)
        assert [array.dtype for array in batch.values()] == [np.float32, np.int32, np.float32]
        assert set(batch["weight"]) <= {0, 1}
    seen = np.concatenate([indices(batch)[batch["weight"] == 1] for batch in batches])
    labels = np.concatenate([batch["label"][batch["weight"] == 1] for batch in batches])
    np.testing.assert_array_equal(seen, np.arange(count))
    np.testing.assert_array_equal(labels, data.entries["label"])


def test_the_last_evaluation_batch_is_filled_with_the_first_examples_of_weight_zero():
    data = arrays(image=np.array([0.1, 0.2, 0.3]).reshape(3, 1, 1), label=[2, 1, 2], num_classes=3)
    *_, batch = eval_batches(data, 2)
    np.testing.assert_array_equal(batch["image"].ravel(), np.float32([0.3, 0.1]))
    np.testing.assert_array_equal(batch["label"], [2, 2])
    np.testing.assert_array_equal(batch["weight"], [1, 0])


def test_the_weights_of_the_examples_are_kept_in_evaluation():
    data = arrays(image=np.zeros((3, 1, 1)), label=[0, 1, 0], weight=[0.5, 2.0, 3.0])
    *_, batch = eval_batches(data, 2)
    np.testing.assert_array_equal(batch["weight"], [3, 0])
    assert batch["weight"].dtype == np.float32


def test_bytes_stay_bytes():
    pixels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    data = arrays(image=pixels, mask=np.zeros((4, 8, 8), np.uint8))
    batch = next(eval_batches(data, 4))
    assert (batch["image"].dtype, batch["mask"].dtype) == (np.uint8, np.uint8)
    np.testing.assert_array_equal(batch["image"][..., 0], pixels)
    assert Batches(data, 4, seed=0)[0]["image"].dtype == np.uint8


def test_all_bytes_are_the_same_numbers_on_the_host_and_in_compiled_programs():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    exact = (levels.astype(np.float64) / 255).astype(np.float32)
    np.testing.assert_array_equal(unit_pixels(levels), exact)
    np.testing.assert_array_equal(unit_pixels(jnp.asarray(levels)), exact)
    np.testing.assert_array_equal(jax.jit(unit_pixels)(levels), exact)
    numbers = exact / 2
    assert unit_pixels(numbers) is numbers


class Squares:
    """A source outside of this library: example i is a square of side 2 of the number i."""

    class_names = ("even", "odd")
    fingerprint = "squares"

    def __init__(self, labels=(0, 1, 0, 1, 0), shape=(2, 2, 1)):
        self.labels = labels
        self.spec = {
            "image": ArraySpec(shape, np.dtype(np.float32)),
            "label": ArraySpec((), np.dtype(np.int32)),
        }

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        assert type(index) is int
        return {"image": np.full((2, 2, 1), index / 1000, np.float32), "label": np.int32(self.labels[index])}


def test_examples_of_any_source_are_stacked_in_the_same_order():
    own, memory = Batches(Squares(), 2, seed=4), Batches(numbered(5), 2, seed=4)
    for step in range(6):
        np.testing.assert_array_equal(indices(own[step]), indices(memory[step]))
        np.testing.assert_array_equal(own[step]["label"], indices(own[step]) % 2)
        assert {name: (array.shape, array.dtype) for name, array in own[step].items()} == {
            "image": ((2, 2, 2, 1), np.float32),
            "label": ((2,), np.int32),
        }
    assert [list(indices(batch)) for batch in eval_batches(Squares(), 2)] == [[0, 1], [2, 3], [4, 0]]


@pytest.mark.parametrize("make", [lambda source: Batches(source, 2, seed=0), lambda source: eval_batches(source, 2)])
def test_images_of_different_sizes_are_refused(make):
    with pytest.raises(ValueError, match=r"examples of one shape, got 'image' of shape \(None, None, 1\), where None"):
        make(Squares(shape=(None, None, 1)))


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_is_refused_in_a_source_that_nothing_has_checked(label):
    data = numbered(6)
    data = Arrays(
        {**data.entries, "label": np.where(np.arange(6) == 4, np.int32(label), data.entries["label"])}, data.class_names
    )
    with pytest.raises(ValueError, match=rf"labels must be in \[0, 3\), got {label} at index 4"):
        next(eval_batches(data, 6))
    with pytest.raises(ValueError, match=rf"labels must be in \[0, 3\), got {label} at index"):
        Batches(data, 6, seed=0)[0]


def test_a_pixel_of_a_mask_out_of_range_is_refused_in_a_source_that_nothing_has_checked():
    mask = np.array([0, 1, 255, 1, 2, 0], np.uint8).reshape(3, 1, 2)
    data = Arrays({"mask": mask}, ("a", "b"))
    with pytest.raises(ValueError, match=r"masks must be in \[0, 2\), or 255 for pixels of no class, got 2 at index 2"):
        next(eval_batches(data, 3))
    np.testing.assert_array_equal(next(eval_batches(data, 2))["mask"], mask[:2])


class Noisy:
    """Adds noise to an image, and cuts its first row off."""

    def __call__(self, rng, example):
        return example | {"image": example["image"][1:] + rng.random(dtype=np.float32)}

    def spec(self, spec):
        rows, *rest = spec["image"].shape
        return {**spec, "image": spec["image"]._replace(shape=(rows - 1, *rest))}


WORKERS = [0, 1, 2, 5]


@pytest.mark.parametrize("workers", WORKERS)
def test_the_number_of_threads_changes_no_batch(workers):
    alone = Batches(Squares(), 2, seed=4, prepare=Noisy(), workers=0)
    several = Batches(Squares(), 2, seed=4, prepare=Noisy(), workers=workers)
    steps = [3, 0, 0, 7, 1]
    for step, batch in zip(steps, several.at(steps), strict=True):
        assert batch.keys() == {"image", "label"}
        for name, array in alone[step].items():
            np.testing.assert_array_equal(batch[name], array)
            np.testing.assert_array_equal(several[step][name], array)
    for one, other in zip(eval_batches(Squares(), 2, workers=workers), eval_batches(Squares(), 2), strict=True):
        for name, array in one.items():
            np.testing.assert_array_equal(array, other[name])


@pytest.mark.parametrize("workers", [0, 2])
def test_prepared_images_lie_where_xla_takes_them_without_a_copy(workers):
    batches = Batches(Squares(), 2, seed=4, prepare=Noisy(), workers=workers)
    for step in range(5):
        assert batches[step]["image"].ctypes.data % 64 == 0


def test_the_random_numbers_of_an_example_depend_on_seed_epoch_and_index_alone():
    def noise(batch_size, seed, epoch):
        batches = Batches(Squares(), batch_size, seed=seed, prepare=Noisy())
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        images = np.concatenate([batch["image"] for batch in batches.at(steps)])
        order = np.concatenate([indices(Batches(Squares(), batch_size, seed=seed)[step]) for step in steps])
        return images[np.argsort(order), 0, 0, 0] - np.sort(order) / 1000

    whole = noise(5, 3, 1)
    assert len(np.unique(whole)) == 5
    np.testing.assert_array_equal(noise(1, 3, 1), whole)
    for other in (noise(5, 3, 2), noise(5, 4, 1)):
        assert not np.any(np.isclose(other, whole))
    # By hand, and not the numbers of the order.
    rng = np.random.default_rng(np.random.SeedSequence((3, 1), spawn_key=(4,)))
    assert whole[4] == pytest.approx(rng.random(dtype=np.float32), abs=1e-6)
    assert whole[0] != pytest.approx(np.random.default_rng([3, 1]).random(dtype=np.float32), abs=1e-6)


def test_the_spec_of_batches_is_that_of_prepared_examples():
    assert Batches(Squares(), 2, seed=0).spec["image"].shape == (2, 2, 1)
    assert Batches(Squares(), 2, seed=0, prepare=Noisy()).spec["image"].shape == (1, 2, 1)


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("wrong", [np.zeros((2, 1, 1), np.float32), np.zeros((2, 2, 1), np.uint8)])
def test_an_example_that_is_not_as_its_spec_says_is_refused(workers, wrong):
    class Wrong(Squares):
        def __getitem__(self, index):
            return super().__getitem__(index) | {"image": wrong}

    class Unchanged:
        def __call__(self, rng, example):
            return example

        def spec(self, spec):
            return spec

    message = rf"'image' of float32 \(2, 2, 1\), as the spec of the examples says, got {wrong.dtype} "
    for prepare in (None, Unchanged()):
        with pytest.raises(ValueError, match=message):
            Batches(Wrong(), 2, seed=0, workers=workers, prepare=prepare)[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_source_comes_with_its_batch_and_ends_the_threads(workers):
    class Broken(Squares):
        def __getitem__(self, index):
            if index == 3:
                raise OSError("example 3 is damaged")
            return super().__getitem__(index)

    before = threading.active_count()
    batches = eval_batches(Broken(), 1, workers=workers)
    assert [indices(next(batches))[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="example 3 is damaged"):
        next(batches)
    assert threading.active_count() == before


def test_batches_that_nobody_wants_any_more_end_their_threads():
    before = threading.active_count()
    batches = Batches(Squares(), 2, seed=0, workers=3).at(itertools.count())
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


def test_only_sources_outside_of_memory_are_read_in_threads():
    memory = numbered(4)
    assert default_workers(memory) == default_workers(Subset(memory, np.arange(2))) == 0
    assert default_workers(Squares()) == default_workers(Subset(Squares(), np.arange(2))) == usable_cores()


@pytest.mark.parametrize("shards", [1, 2, 3, 6])
def test_shards_together_are_the_batch_of_one_process(shards):
    whole = Batches(numbered(23), 6, seed=1)
    parts = [Batches(numbered(23), 6, seed=1, shard=(i, shards)) for i in range(shards)]
    assert {part.steps_per_epoch for part in parts} == {3}
    for step in range(7):
        np.testing.assert_array_equal(np.concatenate([indices(part[step]) for part in parts]), indices(whole[step]))


@pytest.mark.parametrize("count", [1, 5, 6, 7, 23])
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_evaluation_in_shards_counts_every_example_once(count, shards):
    parts = [list(eval_batches(numbered(count), 6, shard=(i, shards))) for i in range(shards)]
    assert {len(part) for part in parts} == {-(-count // 6)}
    seen = [indices(batch)[batch["weight"] == 1] for part in parts for batch in part]
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(count))
    assert {len(batch["label"]) for part in parts for batch in part} == {6 // shards}


@pytest.mark.parametrize(
    "make",
    [lambda **words: Batches(numbered(6), 4, seed=0, **words), lambda **words: eval_batches(numbered(6), 4, **words)],
)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"shard": (2, 2)}, r"shard must be \(i, n\) with 0 <= i < n, got \(2, 2\)"),
        ({"shard": (-1, 2)}, r"shard must be \(i, n\) with 0 <= i < n, got \(-1, 2\)"),
        ({"shard": (0, 3)}, "batch_size must be a multiple of the 3 shards, got 4"),
        ({"workers": -1}, "workers must be at least 0, or None, got -1"),
    ],
)
def test_shards_and_workers_out_of_range_are_refused(make, words, message):
    with pytest.raises(ValueError, match=message):
        make(**words)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("place", ["device", "memory"])
def test_batches_add_the_index_and_the_epoch_of_each_example(place, workers):
    source = put(numbered(23), place)
    plain = Batches(source, 4, seed=3, workers=workers)
    placed = dataclasses.replace(plain, add=("index", "epoch"))
    for step in (0, 4, 5, 13):
        batch = placed[step]
        assert list(batch) == ["image", "label", "index", "epoch"]
        np.testing.assert_array_equal(batch["index"], indices(batch))
        np.testing.assert_array_equal(batch["epoch"], [step // 5] * 4)
        assert batch["index"].dtype == batch["epoch"].dtype == np.int32
        np.testing.assert_array_equal(batch["image"], plain[step]["image"])


def test_added_entries_are_in_the_spec_and_in_shards_and_follow_prepared_examples():
    batches = Batches(numbered(23), 4, seed=3, add=("epoch", "index"), prepare=Brighter())
    assert batches.spec["index"] == batches.spec["epoch"] == ArraySpec((), np.dtype(np.int32))
    halves = [dataclasses.replace(batches, shard=(part, 2))[7] for part in range(2)]
    assert list(halves[0]) == ["image", "label", "epoch", "index"]
    whole = batches[7]
    for name in whole:
        np.testing.assert_array_equal(np.concatenate([half[name] for half in halves]), whole[name])
    np.testing.assert_array_equal(whole["index"], indices(whole) - 500)


def test_entries_that_cannot_be_added_are_refused():
    with pytest.raises(ValueError, match="add expects names among 'index', 'epoch', got 'step'"):
        Batches(numbered(6), 3, seed=0, add=("epoch", "step"))
    source = Arrays({**numbered(6).entries, "index": np.arange(6)}, ("a", "b", "c"))
    with pytest.raises(ValueError, match=r"examples without the entry 'index', which add=.* adds, got one"):
        Batches(source, 3, seed=0, add=("index",))
    assert Batches(source, 3, seed=0)[0]["index"].shape == (3,)


class Brighter:
    """Adds 0.5 to each pixel."""

    def __call__(self, rng, example):
        return example | {"image": example["image"] + np.float32(0.5)}

    def spec(self, spec):
        return spec
