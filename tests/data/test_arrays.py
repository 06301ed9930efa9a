import io
import os
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest

from jaxcnn.data import Dataset, arrays, choose_classes, dataset, few, load_npz, split
from jaxcnn.data.arrays import _shares


def numbered(labels, num_classes=None):
    """A dataset whose example i holds the pixel i / 10000, so that examples can be told apart."""
    labels = np.asarray(labels)
    images = (np.arange(len(labels)) / 10000).reshape(-1, 1, 1, 1)
    return dataset(images, labels, num_classes=num_classes)


def indices(part):
    return np.round(part.images[:, 0, 0, 0] * 10000).astype(int)


def grey(count=4):
    return np.full((count, 2, 3, 1), 0.5, np.float32)


def test_importing_the_package_loads_no_optional_dependency():
    code = (
        "import sys, jaxcnn.data;"
        "heavy = {'sklearn', 'PIL', 'matplotlib', 'orbax', 'flax', 'rich', 'tyro'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_bytes_are_scaled_to_one():
    data = dataset(np.array([0, 51, 255], np.uint8).reshape(3, 1, 1, 1), [0, 1, 0])
    np.testing.assert_array_equal(data.images.ravel(), np.array([0, 0.2, 1], np.float32))
    assert data.images.dtype == np.float32


def test_images_without_channels_get_one():
    data = dataset(np.zeros((2, 5, 4), np.uint8), [0, 1])
    assert data.images.shape == (2, 5, 4, 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_point_images_keep_their_values(dtype):
    images = np.array([0, 0.25, 1], dtype).reshape(3, 1, 1, 1)
    data = dataset(images, [0, 1, 2])
    np.testing.assert_array_equal(data.images, images.astype(np.float32))
    assert data.images.dtype == np.float32


def test_float32_images_are_not_copied():
    images = grey()
    assert np.shares_memory(dataset(images, [0, 0, 1, 1]).images, images)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64])
def test_labels_become_int32(dtype):
    data = dataset(grey(), np.array([1, 0, 1, 0], dtype))
    assert data.labels.dtype == np.int32
    np.testing.assert_array_equal(data.labels, [1, 0, 1, 0])


def test_class_names_come_from_names_from_a_number_or_from_the_labels():
    labels = [0, 1, 1, 0]
    assert dataset(grey(), labels, ["cat", "dog", "cow"]).class_names == ("cat", "dog", "cow")
    assert dataset(grey(), labels, num_classes=3).class_names == ("0", "1", "2")
    assert dataset(grey(), labels).class_names == ("0", "1")


def test_class_names_and_a_number_together_are_refused():
    with pytest.raises(ValueError, match="class_names or num_classes, not both"):
        dataset(grey(), [0, 1, 1, 0], ["a", "b"], num_classes=2)


@pytest.mark.parametrize("names", ["ab", [1, 2], [["a"], ["b"]]])
def test_class_names_that_are_no_strings_are_refused(names):
    with pytest.raises(TypeError, match="class_names must be a sequence of strings, got"):
        dataset(grey(), [0, 1, 1, 0], names)


def test_class_names_that_repeat_are_refused():
    with pytest.raises(ValueError, match=r"class_names must all be different, got \('a', 'a'\)"):
        dataset(grey(), [0, 1, 1, 0], ["a", "a"])


@pytest.mark.parametrize("labels", [[1, 2, 2, 1], [0, 2, 2, 0], [-1, 0, 0, 0], [0, 1, 255, 1]])
def test_labels_with_gaps_are_not_counted(labels):
    low, high, different = min(labels), max(labels), len(set(labels))
    with pytest.raises(
        ValueError, match=f"cannot count the classes: {different} different labels lie between {low} and {high}"
    ):
        dataset(grey(), labels)


@pytest.mark.parametrize("bad", [3, -1, 2**40])
def test_the_first_label_out_of_range_is_named(bad):
    with pytest.raises(ValueError, match=rf"labels must be in \[0, 3\), got {bad} at index 2"):
        dataset(grey(), [0, 2, bad, 7], num_classes=3)


def test_no_classes_are_refused():
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        dataset(grey(), [0, 0, 0, 0], num_classes=0)


@pytest.mark.parametrize("labels", [[0.0, 1.0, 0.0, 1.0], [True, False, True, False], ["0", "1", "0", "1"]])
def test_labels_that_are_no_integers_are_refused(labels):
    with pytest.raises(TypeError, match="labels must be integers, got"):
        dataset(grey(), labels)


def test_labels_of_another_rank_are_refused():
    with pytest.raises(ValueError, match=r"labels must have shape \(examples,\), got \(4, 1\)"):
        dataset(grey(), np.zeros((4, 1), int))


def test_counts_that_differ_are_refused():
    with pytest.raises(ValueError, match="got 4 images and 3 labels"):
        dataset(grey(), [0, 1, 0])


@pytest.mark.parametrize("shape", [(4,), (4, 6), (4, 1, 2, 3, 1)])
def test_images_of_another_rank_are_refused(shape):
    with pytest.raises(ValueError, match=r"images must have shape \(examples, height, width, channels\) or"):
        dataset(np.zeros(shape), [0, 1, 0, 1])


@pytest.mark.parametrize("shape", [(0, 2, 2, 1), (2, 0, 2, 1), (2, 2, 2, 0)])
def test_empty_images_are_refused(shape):
    with pytest.raises(ValueError, match="at least one example and one pixel, got shape"):
        dataset(np.zeros(shape), np.zeros(shape[0], int))


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.bool_, np.complex64])
def test_images_of_another_dtype_are_refused(dtype):
    with pytest.raises(TypeError, match=f"images must be uint8, or floating point.*got {np.dtype(dtype).name}"):
        dataset(grey().astype(dtype), [0, 1, 0, 1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_image_that_is_not_finite_is_named(bad):
    images = grey()
    images[2, 1, 0, 0] = images[3, 0, 0, 0] = bad
    with pytest.raises(ValueError, match="image 2 holds nan or infinity"):
        dataset(images, [0, 1, 0, 1])


@pytest.mark.parametrize(("bad", "low", "high"), [(255.0, "0.5", "255"), (-0.5, "-0.5", "0.5")])
def test_floating_point_images_out_of_range_are_refused(bad, low, high):
    images = grey()
    images[1, 0, 0, 0] = bad
    with pytest.raises(ValueError, match=rf"must be in \[0, 1\], got values from {low} to {high}"):
        dataset(images, [0, 1, 0, 1])


def test_parts_are_disjoint_complete_and_in_order():
    labels = np.random.default_rng(0).integers(0, 5, 333)
    whole = numbered(labels)
    parts = split(whole, seed=3)
    found = [indices(part) for part in parts]
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.arange(333))
    for part, index in zip(parts, found, strict=True):
        np.testing.assert_array_equal(part.labels, labels[index])
        assert (np.diff(index) > 0).all()
        assert part.class_names == whole.class_names


def test_every_part_has_the_mix_of_the_whole():
    labels = np.repeat(np.arange(4), [500, 300, 150, 50])
    parts = split(numbered(labels), fractions=(0.5, 0.3, 0.2))
    np.testing.assert_array_equal([np.bincount(part.labels) for part in parts], [
        [250, 150, 75, 25],
        [150, 90, 45, 15],
        [100, 60, 30, 10],
    ])  # fmt: skip


def largest_remainder(total, fractions):
    counts = [int(total * fraction) for fraction in fractions]
    by_remainder = sorted(range(len(fractions)), key=lambda i: counts[i] - total * fractions[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def test_shares_add_up_both_ways_and_stay_near_proportion():
    rng = np.random.default_rng(0)
    for _ in range(200):
        fractions = rng.dirichlet([3, 3, 3])
        sizes = rng.integers(3, 60, rng.integers(1, 12))
        shares = _shares(sizes, fractions)
        np.testing.assert_array_equal(shares.sum(1), sizes)
        assert shares.min() >= 1
        totals = largest_remainder(int(sizes.sum()), list(fractions))
        if min(totals) >= len(sizes):
            np.testing.assert_array_equal(shares.sum(0), totals)
        if (np.outer(sizes, fractions) > 2).all():
            assert np.abs(shares - np.outer(sizes, fractions)).max() < 2


@pytest.mark.parametrize("fractions", [(0.98, 0.01, 0.01), (0.01, 0.98, 0.01), (0.01, 0.01, 0.98)])
def test_every_class_is_in_every_part_even_where_a_fraction_is_too_small(fractions):
    labels = np.repeat(np.arange(3), [3, 4, 40])
    for part in split(numbered(labels), fractions=fractions):
        assert set(part.labels) == {0, 1, 2}


def test_a_split_is_a_function_of_the_seed():
    whole = numbered(np.arange(100) % 4)
    first, again, other = (split(whole, seed=seed) for seed in (5, 5, 6))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.images, b.images)
    assert not np.array_equal(first.test.images, other.test.images)


def test_the_split_of_seed_zero_never_changes():
    parts = split(numbered(np.arange(100) % 4))
    sums = [zlib.crc32(indices(part).astype("<i4").tobytes()) for part in parts]
    assert sums == [1720212446, 78062009, 2058943254]


def test_members_are_drawn_at_random():
    first = np.zeros(60)
    for seed in range(200):
        first[indices(split(numbered(np.arange(60) % 3), seed=seed).train)] += 1
    assert first.min() > 80  # each example is in train with probability 0.6: 120 of 200 expected
    assert first.max() < 160


@pytest.mark.parametrize("fractions", [(0.6, 0.2, 0.3), (0.5, 0.2, 0.2)])
def test_fractions_that_are_not_parts_of_one_are_refused(fractions):
    with pytest.raises(ValueError, match="fractions must sum to 1, got"):
        split(numbered(np.arange(30) % 3), fractions=fractions)


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.8, 0.2, 0.0), (1.2, 0.2, -0.4), (0.6, 0.4, float("nan"))])
def test_fractions_that_are_not_three_positive_numbers_are_refused(fractions):
    with pytest.raises(ValueError, match="fractions must be three numbers above 0"):
        split(numbered(np.arange(30) % 3), fractions=fractions)


def test_a_class_too_small_to_split_is_refused():
    with pytest.raises(ValueError, match=r"at least 3 examples of every class.*got 2 of class '1'"):
        split(numbered([0, 0, 0, 1, 1]))
    with pytest.raises(ValueError, match="got 0 of class '1'"):
        split(numbered([0, 0, 0], num_classes=2))


def test_a_negative_split_seed_is_refused():
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        split(numbered([0, 0, 0]), seed=-1)


def test_an_npz_file_comes_back(tmp_path):
    path = tmp_path / "data.npz"
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.savez(path, images=images, labels=np.array([1, 0]), class_names=np.array(["cat", "dog"]), other=np.ones(2))
    data = load_npz(path)
    assert isinstance(data, Dataset)
    np.testing.assert_allclose(data.images[..., 0], images / 255, rtol=1e-7)
    np.testing.assert_array_equal(data.labels, [1, 0])
    assert data.class_names == ("cat", "dog")


def test_an_npz_file_needs_no_class_names(tmp_path):
    np.savez_compressed(tmp_path / "data.npz", images=grey(), labels=np.array([0, 1, 2, 0]))
    assert load_npz(str(tmp_path / "data.npz")).class_names == ("0", "1", "2")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere\.npz"):
        load_npz(tmp_path / "nowhere.npz")
    with pytest.raises(ValueError, match=r"is not an \.npz file"):
        load_npz(tmp_path)


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    np.save(tmp_path / "one.npy", grey())
    (tmp_path / "text.npz").write_text("images, labels")
    for name in ("one.npy", "text.npz"):
        with pytest.raises(ValueError, match=f"{name}' is not an .npz file"):
            load_npz(tmp_path / name)


@pytest.mark.parametrize("missing", ["images", "labels"])
def test_a_missing_array_is_named(tmp_path, missing):
    arrays = {"images": grey(), "labels": np.array([0, 1, 0, 1])}
    arrays["wrong"] = arrays.pop(missing)
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(ValueError, match=f"has no array '{missing}', only .*'wrong'"):
        load_npz(tmp_path / "data.npz")


def test_pickled_arrays_are_not_opened(tmp_path):
    np.savez(tmp_path / "data.npz", images=grey(), labels=np.array([0, 1, 0, None], object))
    with pytest.raises(ValueError, match=r"has an array that cannot be read .*which are not read"):
        load_npz(tmp_path / "data.npz")


def test_a_damaged_archive_is_refused(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, images=grey(), labels=np.array([0, 1, 0, 1]))
    damaged = bytearray(path.read_bytes())
    damaged[200] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"data\.npz' has an array that cannot be read"):
        load_npz(path)


def test_a_refused_array_is_reported_with_its_file(tmp_path):
    np.savez(tmp_path / "data.npz", images=grey() * 300, labels=np.array([0, 1, 0, 1]))
    with pytest.raises(ValueError, match=r"data\.npz': .* must be in \[0, 1\]"):
        load_npz(tmp_path / "data.npz")
    np.savez(tmp_path / "data.npz", images=grey(), labels=np.array([0.5, 1, 0, 1]))
    with pytest.raises(ValueError, match=r"data\.npz': labels must be integers, got float64"):
        load_npz(tmp_path / "data.npz")


def test_an_array_that_is_not_needed_is_not_read(tmp_path):
    np.savez(tmp_path / "data.npz", images=grey(), labels=[0, 1, 0, 1], notes=np.array([None, {}], object))
    np.testing.assert_array_equal(load_npz(tmp_path / "data.npz").labels, [0, 1, 0, 1])
    with zipfile.ZipFile(tmp_path / "data.npz", "a") as archive:
        archive.writestr("more.npy", b"no array at all")
    np.testing.assert_array_equal(load_npz(tmp_path / "data.npz").labels, [0, 1, 0, 1])


@pytest.mark.parametrize("kind", [str, "S"])
def test_labels_that_are_strings_become_classes_in_sorted_order(kind, tmp_path):
    labels = np.array(["dog", "cat", "eel", "cat"]).astype(kind)
    np.savez(tmp_path / "data.npz", images=grey(), labels=labels)
    data = load_npz(tmp_path / "data.npz")
    assert data.class_names == ("cat", "dog", "eel")
    np.testing.assert_array_equal(data.labels, [1, 0, 2, 0])
    names = np.array(["eel", "dog", "cat", "fox"]).astype(kind)
    np.savez(tmp_path / "data.npz", images=grey(), labels=labels, class_names=names)
    data = load_npz(tmp_path / "data.npz")
    assert data.class_names == ("eel", "dog", "cat", "fox")
    np.testing.assert_array_equal(data.labels, [1, 2, 0, 2])
    np.savez(tmp_path / "data.npz", images=grey(), labels=labels, class_names=names[1:])
    with pytest.raises(ValueError, match="labels must be among class_names, got 'eel'"):
        load_npz(tmp_path / "data.npz")


def test_an_array_that_says_it_is_larger_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, images=grey())
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (2**45,)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.npy", header.getvalue() + bytes(32))
    with pytest.raises(ValueError, match=r"cannot be read \(the size of 'labels' does not match its shape"):
        load_npz(path)


@pytest.mark.parametrize("name", ["images", "labels", "class_names"])
@pytest.mark.parametrize("kind", ["|S0", "<U0", "|V0"])
def test_an_array_of_values_without_bytes_is_refused(kind, name, tmp_path):
    path = tmp_path / "data.npz"
    whole = {"images": grey(), "labels": np.array([0, 1, 0, 1]), "class_names": np.array(["a", "b"])}
    np.savez(path, **{other: array for other, array in whole.items() if other != name})
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": (10**11,)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{name}.npy", header.getvalue())
    with pytest.raises(ValueError, match=rf"data\.npz' .*{name}' holds values of no bytes"):
        load_npz(path)


def test_labels_are_counted_before_they_become_strings(tmp_path, monkeypatch):
    np.savez(tmp_path / "data.npz", images=grey(), labels=np.full(1000, b"a"))
    monkeypatch.setattr(arrays, "_as_text", None)
    with pytest.raises(
        ValueError, match=r"data\.npz': expected as many labels as images, got 4 images and 1000 labels"
    ):
        load_npz(tmp_path / "data.npz")


def test_too_little_memory_is_reported_with_the_file(tmp_path, monkeypatch):
    def full(*arguments):
        raise MemoryError

    np.savez(tmp_path / "data.npz", images=grey(), labels=np.array([0, 1, 0, 1]))
    monkeypatch.setattr(arrays, "dataset", full)
    with pytest.raises(ValueError, match=r"data\.npz' holds arrays that do not fit into memory"):
        load_npz(tmp_path / "data.npz")


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "data.npz")
    with pytest.raises(ValueError, match=r"data\.npz' is not an \.npz file"):
        load_npz(tmp_path / "data.npz")


def test_chosen_classes_are_numbered_as_they_are_named():
    whole = dataset(np.arange(6).reshape(-1, 1, 1, 1) / 10, [0, 2, 1, 2, 0, 1], ["cat", "dog", "eel"])
    chosen = choose_classes(whole, ["eel", "cat"])
    np.testing.assert_array_equal(chosen.labels, [1, 0, 0, 1])
    np.testing.assert_allclose(chosen.images.ravel(), [0, 0.1, 0.3, 0.4])
    assert chosen.class_names == ("eel", "cat")
    assert chosen.labels.dtype == np.int32


@pytest.mark.parametrize("classes", [["0", "3"], ["1", "1"], []])
def test_classes_that_are_not_there_or_named_twice_are_refused(classes):
    with pytest.raises(ValueError, match=r"different names among \('0', '1', '2'\), got \("):
        choose_classes(numbered([0, 1, 2]), classes)


def test_a_string_is_no_list_of_classes():
    with pytest.raises(TypeError, match="a sequence of names, got the string '01'"):
        choose_classes(numbered([0, 1]), "01")


def test_few_draws_as_many_of_every_class_and_the_same_again():
    whole = numbered(np.arange(60) % 3)
    drawn = few(whole, 4, seed=5)
    np.testing.assert_array_equal(np.bincount(drawn.labels), [4, 4, 4])
    np.testing.assert_array_equal(drawn.labels, indices(drawn) % 3)
    assert list(indices(drawn)) == sorted(set(indices(drawn)))
    np.testing.assert_array_equal(indices(few(whole, 4, seed=5)), indices(drawn))
    assert set(indices(few(whole, 4, seed=6))) != set(indices(drawn))
    # Of one seed, fewer are among more.
    assert set(indices(few(whole, 3, seed=5))) < set(indices(drawn))


def test_few_refuses_more_than_there_are_and_nonsense():
    with pytest.raises(
        ValueError, match="few expects at least 3 examples of every class, got 2 of class '1'; ask for fewer"
    ):
        few(numbered([0, 0, 0, 1, 1]), 3, seed=0)
    with pytest.raises(ValueError, match="per_class must be at least 1, got 0"):
        few(numbered([0, 1]), 0, seed=0)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        few(numbered([0, 1]), 1, seed=-1)
