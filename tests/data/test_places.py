import jax
import numpy as np
import pytest

from jaxcnn.data import Arrays, ArraySpec, Batches, OnDevice, Subset, arrays, choose_place, eval_batches, places, put
from jaxcnn.data.reading import default_workers


def some_data(count=23):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)
    return arrays(image=images, label=rng.integers(0, 3, count), mask=images[..., 0] % 3, num_classes=3)


class Stored:
    """The same examples, read one by one."""

    def __init__(self, source, shape=None):
        self.inner, self.class_names, self.fingerprint = source, source.class_names, source.fingerprint
        self.spec = {**source.spec} if shape is None else {"image": ArraySpec(shape, np.dtype(np.uint8))}

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        return self.inner[index]


def equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert (one[name].dtype, one[name].shape) == (other[name].dtype, other[name].shape)
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("where", ["device", "memory", "stream"])
@pytest.mark.parametrize("make", [lambda source: source, Stored, lambda source: Subset(Stored(source), np.arange(23))])
def test_batches_are_the_same_wherever_the_examples_are(where, make):
    expected, placed = some_data(), put(make(some_data()), where)
    one, other = Batches(expected, 5, seed=3), Batches(placed, 5, seed=3)
    assert other.spec == one.spec
    # Two epochs, from the middle of the first.
    for step, batch in zip(range(2, 8), other.at(range(2, 8)), strict=True):
        equal(batch, one[step])
        assert all(isinstance(array, jax.Array) == (where == "device") for array in batch.values())
    for a, b in zip(eval_batches(placed, 10), eval_batches(expected, 10), strict=True):
        equal(a, b)
    assert (len(placed), placed.class_names) == (23, ("0", "1", "2"))
    equal(placed[7], expected[7])


def test_memory_is_read_once_and_stream_is_the_source_itself():
    source = Stored(some_data())
    memory = put(source, "memory")
    assert isinstance(memory, Arrays)
    assert memory.fingerprint == source.fingerprint
    assert put(memory, "memory") is memory
    assert put(source, "stream") is source
    device = put(memory, "device")
    assert device.source is memory
    assert device.fingerprint == source.fingerprint


def test_no_thread_reads_what_is_in_a_memory():
    assert default_workers(put(some_data(), "device")) == default_workers(put(some_data(), "memory")) == 0


def test_a_label_out_of_range_is_refused_on_the_way_to_the_device():
    wrong = Arrays({"label": np.array([0, 1, 3], np.int32)}, ("a", "b", "c"))
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\), got 3 at index 2"):
        put(wrong, "device")
    wrong = Arrays({"mask": np.array([[[0, 7]]], np.uint8)}, ("a", "b", "c"))
    with pytest.raises(ValueError, match=r"masks must be in \[0, 3\), or 255 .*, got 7 at index 0"):
        OnDevice(wrong)


def test_there_are_three_places():
    with pytest.raises(ValueError, match="one of the places device, memory, stream, got 'disk'"):
        put(some_data(), "disk")


@pytest.mark.parametrize("where", ["device", "memory"])
def test_examples_of_many_sizes_stay_where_they_are(where):
    with pytest.raises(ValueError, match=r"got 'image' of shape \(None, None, 3\), where None differs"):
        put(Stored(some_data(), (None, None, 3)), where)


@pytest.mark.parametrize(
    ("host", "device", "where", "reason"),
    [
        # 2 x 1000 examples of 16 x 16 x 3 bytes are 1.5 MB.
        (10**9, 10**8, "device", "they take 1.5 MB of its 100.0 MB"),
        (10**9, 10**7, "memory", "they take 1.5 MB of 1.0 GB"),
        (10**7, 10**9, "stream", "in memory they would take 1.5 MB of 10.0 MB"),
    ],
)
def test_a_set_is_where_it_takes_at_most_a_tenth(monkeypatch, host, device, where, reason):
    monkeypatch.setattr(places, "memory_bytes", lambda: host)
    monkeypatch.setattr(places, "_device_bytes", lambda: device)
    part = Arrays({"image": np.zeros((1000, 16, 16, 3), np.uint8)})
    assert choose_place([part, part]) == (where, reason)
    assert choose_place([part, part], prepared=True) == ("stream", "the host prepares each example")
    sizes = Stored(part, (None, 16, 3))
    assert choose_place([part, sizes]) == ("stream", "the examples differ in size")


def test_the_memory_of_a_device_that_does_not_tell_it_is_that_of_the_host():
    # XLA does not tell it on CPU.
    if jax.local_devices()[0].memory_stats() is None:
        assert places._device_bytes() == places.memory_bytes()


def test_numbers_of_64_bits_have_the_dtype_of_the_device():
    labels = np.arange(6, dtype=np.int64) % 3
    source = Arrays({"image": np.zeros((6, 2, 2, 1)), "label": labels}, ("a", "b", "c"))
    placed = put(source, "device")
    wide = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    dtypes = {"image": np.float64, "label": np.int64} if wide else {"image": np.float32, "label": np.int32}
    batch = Batches(placed, 6, seed=0)[0]
    for found in (placed.spec, placed[1], batch):
        assert {name: entry.dtype for name, entry in found.items()} == dtypes
    assert np.array_equal(batch["label"], Batches(source, 6, seed=0)[0]["label"])
    assert placed[4]["label"] == 1
