import dataclasses
import itertools

import numpy as np
import pytest

from jaxcnn.data import Batches, dataset, eval_batches
from jaxcnn.data.batches import _order


def numbered(count):
    """Example i holds the pixel i / 1000 and the label i % 3."""
    images = (np.arange(count) / 1000).reshape(-1, 1, 1, 1)
    return dataset(images, np.arange(count) % 3, num_classes=3)


def indices(images):
    return np.round(images[:, 0, 0, 0] * 1000).astype(int)


def epoch_of(batches, epoch):
    steps = batches.steps_per_epoch
    return np.concatenate([indices(batches[epoch * steps + k][0]) for k in range(steps)])


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
    images, labels = Batches(numbered(23), 5, seed=1)[7]
    np.testing.assert_array_equal(labels, indices(images) % 3)
    assert images.shape == (5, 1, 1, 1)
    assert (images.dtype, labels.dtype) == (np.float32, np.int32)


def test_random_access_equals_sequential_access():
    data = numbered(23)
    sequential = [indices(images) for images, _ in itertools.islice(Batches(data, 5, seed=2), 80)]
    jumping = Batches(data, 5, seed=2)
    for step in np.random.default_rng(0).permutation(80):
        np.testing.assert_array_equal(indices(jumping[step][0]), sequential[step])


def test_loaders_used_in_turns_do_not_disturb_each_other():
    data = numbered(23)
    alone = [indices(Batches(data, 5, seed=0)[step][0]) for step in range(12)]
    loaders = [Batches(data, 5, seed=seed) for seed in range(12)]
    mixed = np.array([[indices(loader[step][0]) for loader in loaders] for step in range(12)])
    np.testing.assert_array_equal(mixed[:, 0], alone)


def test_the_order_depends_on_the_seed():
    data = numbered(23)
    orders = {tuple(epoch_of(Batches(data, 5, seed=seed), 0)) for seed in range(6)}
    assert len(orders) == 6


def test_the_order_never_changes_between_releases():
    batches = Batches(numbered(23), 5, seed=7)
    np.testing.assert_array_equal(indices(batches[0][0]), [15, 4, 18, 3, 14])
    np.testing.assert_array_equal(indices(batches[8][0]), [10, 22, 2, 8, 13])


def test_every_example_comes_equally_often_in_the_long_run():
    counts = np.zeros(10)
    for images, _ in itertools.islice(Batches(numbered(10), 4, seed=0), 500):
        counts[indices(images)] += 1
    assert counts.min() > 180  # 200 expected; the order of each epoch leaves 2 of 10 out
    assert counts.max() < 220


def test_an_epoch_is_shuffled_once():
    batches = Batches(numbered(97), 2, seed=11)
    before = _order.cache_info().misses
    epoch_of(batches, 0)
    assert _order.cache_info().misses == before + 1


def test_a_batch_is_a_copy():
    batches = Batches(numbered(6), 3, seed=0)
    images, labels = batches[0]
    images[:], labels[:] = 1, 2
    assert batches.dataset.images.max() < 1
    np.testing.assert_array_equal(batches.dataset.labels, np.arange(6) % 3)


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
    for images, labels, mask in batches:
        assert images.shape == (batch_size, 1, 1, 1)
        assert labels.shape == mask.shape == (batch_size,)
        assert (images.dtype, labels.dtype, mask.dtype) == (np.float32, np.int32, np.bool_)
    seen = np.concatenate([indices(images)[mask] for images, _, mask in batches])
    labels = np.concatenate([labels[mask] for _, labels, mask in batches])
    np.testing.assert_array_equal(seen, np.arange(count))
    np.testing.assert_array_equal(labels, data.labels)


def test_the_last_evaluation_batch_is_filled_with_the_first_images_under_label_zero():
    data = dataset(np.array([0.1, 0.2, 0.3]).reshape(3, 1, 1), [2, 1, 2], num_classes=3)
    *_, (images, labels, mask) = eval_batches(data, 2)
    np.testing.assert_array_equal(images.ravel(), np.float32([0.3, 0.1]))
    np.testing.assert_array_equal(labels, [2, 0])
    np.testing.assert_array_equal(mask, [True, False])


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_is_refused_in_a_dataset_that_nothing_has_checked(label):
    data = numbered(6)
    data = data._replace(labels=np.where(np.arange(6) == 4, label, data.labels))
    message = rf"labels must be in \[0, 3\), got {label} at index 4"
    with pytest.raises(ValueError, match=message):
        Batches(data, 3, seed=0)
    with pytest.raises(ValueError, match=message):
        eval_batches(data, 3)
