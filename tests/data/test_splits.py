import re
import zlib

import numpy as np
import pytest

from jaxcnn import data
from jaxcnn.data import Arrays, Subset, arrays, choose_classes, few, gather, in_memory, match_classes, split
from jaxcnn.data.splits import _shares


def labelled(images, labels, class_names=None, **options):
    return arrays(image=images, label=labels, class_names=class_names, **options)


def numbered(labels, num_classes=None):
    """A dataset whose example i holds the pixel i / 10000, so that examples can be told apart."""
    labels = np.asarray(labels)
    images = (np.arange(len(labels)) / 10000).reshape(-1, 1, 1, 1)
    return labelled(images, labels, num_classes=num_classes)


def indices(part):
    return np.round(part.entries["image"][:, 0, 0, 0] * 10000).astype(int)


def test_parts_are_disjoint_complete_and_in_order():
    labels = np.random.default_rng(0).integers(0, 5, 333)
    whole = numbered(labels)
    parts = split(whole, seed=3)
    found = [indices(part) for part in parts.values()]
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.arange(333))
    for part, index in zip(parts.values(), found, strict=True):
        np.testing.assert_array_equal(part.entries["label"], labels[index])
        assert (np.diff(index) > 0).all()
        assert part.class_names == whole.class_names


def test_every_part_has_the_mix_of_the_whole():
    labels = np.repeat(np.arange(4), [500, 300, 150, 50])
    parts = split(numbered(labels), fractions=(0.5, 0.3, 0.2))
    np.testing.assert_array_equal([np.bincount(part.entries["label"]) for part in parts.values()], [
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
    for part in split(numbered(labels), fractions=fractions).values():
        assert set(part.entries["label"]) == {0, 1, 2}


def test_a_split_is_a_function_of_the_seed():
    whole = numbered(np.arange(100) % 4)
    first, again, other = (split(whole, seed=seed) for seed in (5, 5, 6))
    for a, b in zip(first.values(), again.values(), strict=True):
        np.testing.assert_array_equal(a.entries["image"], b.entries["image"])
    assert not np.array_equal(first["test"].entries["image"], other["test"].entries["image"])


def test_the_split_of_seed_zero_never_changes():
    parts = split(numbered(np.arange(100) % 4))
    sums = [zlib.crc32(indices(part).astype("<i4").tobytes()) for part in parts.values()]
    assert sums == [1720212446, 78062009, 2058943254]


def test_members_are_drawn_at_random():
    first = np.zeros(60)
    for seed in range(200):
        first[indices(split(numbered(np.arange(60) % 3), seed=seed)["train"])] += 1
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


def test_chosen_classes_are_numbered_as_they_are_named():
    whole = labelled(np.arange(6).reshape(-1, 1, 1, 1) / 10, [0, 2, 1, 2, 0, 1], ["cat", "dog", "eel"])
    chosen = choose_classes(whole, ["eel", "cat"])
    np.testing.assert_array_equal(chosen.entries["label"], [1, 0, 0, 1])
    np.testing.assert_allclose(chosen.entries["image"].ravel(), [0, 0.1, 0.3, 0.4])
    assert chosen.class_names == ("eel", "cat")
    assert chosen.entries["label"].dtype == np.int32


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
    np.testing.assert_array_equal(np.bincount(drawn.entries["label"]), [4, 4, 4])
    np.testing.assert_array_equal(drawn.entries["label"], indices(drawn) % 3)
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


class Lazy:
    """Example i of `numbered`, read one by one; it knows its labels without reading images."""

    def __init__(self, labels):
        self.whole, self.read = numbered(labels), []
        self.spec, self.class_names = self.whole.spec, self.whole.class_names
        self.fingerprint = self.whole.fingerprint

    def __len__(self):
        return len(self.whole)

    def __getitem__(self, index):
        self.read.append(index)
        return self.whole[index]


class Columns(Lazy):
    def gather(self, indices, names):
        assert list(names) == ["label"], "an image was read"
        return self.whole.gather(indices, names)


def test_any_source_is_split_as_one_in_memory():
    labels = np.random.default_rng(0).integers(0, 3, 50)
    expected = split(numbered(labels), seed=2)
    for name, part in split(Lazy(labels), seed=2).items():
        assert isinstance(part, Subset)
        read = in_memory(part)
        np.testing.assert_array_equal(indices(read), indices(expected[name]))
        np.testing.assert_array_equal([int(example["label"]) for example in part], expected[name].entries["label"])
        assert read.class_names == part.class_names == expected[name].class_names
        assert part.spec == expected[name].spec
        assert part.fingerprint != Lazy(labels).fingerprint


def test_a_source_that_knows_its_labels_is_split_without_reading_an_image():
    source = Columns([0, 1] * 10)
    parts = split(source)
    few(parts["train"], 2, seed=0)
    assert source.read == []
    assert parts["train"][0]["image"].shape == (1, 1, 1)
    assert source.read == [parts["train"].indices[0]]


def test_parts_of_one_source_have_fingerprints_of_their_own():
    parts = [*split(Lazy([0, 1] * 10)).values(), *split(Lazy([0, 1] * 10), seed=1).values()]
    assert len({part.fingerprint for part in parts}) == 6
    assert split(Lazy([0, 1] * 10))["test"].fingerprint == parts[2].fingerprint


def test_official_parts_are_kept_and_only_missing_ones_are_drawn():
    train, validation, test = (numbered(np.arange(count) % 2) for count in (40, 6, 8))
    drawn = split({"train": train, "test": test}, fractions=(0.6, 0.2, 0.2), seed=1)
    assert drawn["test"] is test
    assert list(drawn) == ["train", "validation", "test"]
    assert (len(drawn["train"]), len(drawn["validation"])) == (30, 10)
    both = np.concatenate([indices(drawn["train"]), indices(drawn["validation"])])
    np.testing.assert_array_equal(np.sort(both), np.arange(40))
    np.testing.assert_array_equal(np.bincount(drawn["validation"].entries["label"]), [5, 5])
    drawn = split({"validation": validation, "train": train})
    assert drawn["validation"] is validation
    assert (len(drawn["train"]), len(drawn["test"])) == (30, 10)
    official = {"train": train, "validation": validation, "test": test}
    assert split(official) == official
    alone = split({"train": train}, seed=3)
    for name, part in split(train, seed=3).items():
        np.testing.assert_array_equal(indices(alone[name]), indices(part))


@pytest.mark.parametrize("names", [["test"], ["train", "val"], []])
def test_parts_of_other_names_are_refused(names):
    with pytest.raises(ValueError, match=r"a part 'train', and parts 'validation' and 'test' or none of these, got \["):
        split({name: numbered([0, 1] * 5) for name in names})


def test_parts_of_other_classes_are_refused():
    with pytest.raises(
        ValueError, match=r"same classes in every part, got \('0', '1'\) in 'train' and \('0', '1', '2'\) in 'test'"
    ):
        split({"train": numbered([0, 1] * 5), "test": numbered([0, 1, 2])})


def test_examples_without_labels_are_split_at_random():
    source = arrays(image=np.arange(20).reshape(-1, 1, 1) / 10000, target=np.arange(20.0))
    parts = split(source, seed=1)
    assert [len(part) for part in parts.values()] == [12, 4, 4]
    found = np.concatenate([indices(part) for part in parts.values()])
    np.testing.assert_array_equal(np.sort(found), np.arange(20))
    assert set(indices(parts["test"])) != set(indices(split(source, seed=2)["test"]))
    with pytest.raises(ValueError, match="at least 3 examples of every class, one for each part, got 2 of class 'all'"):
        split(arrays(image=np.zeros((2, 1, 1))))


def several(count):
    """Examples with labels of several classes; their images tell their index."""
    labels = np.eye(3, dtype=np.int32)[np.arange(count) % 3]
    images = np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1) / 10000
    return Arrays({"image": images, "label": labels}, ("cat", "dog", "eel"))


def test_examples_with_labels_of_several_classes_are_split_as_those_without():
    parts = split(several(20), seed=1)
    without = split(arrays(image=several(20).entries["image"]), seed=1)
    for name, part in parts.items():
        np.testing.assert_array_equal(indices(part), indices(without[name]))
        np.testing.assert_array_equal(gather(part, np.arange(len(part)))["label"].argmax(1), indices(part) % 3)


@pytest.mark.parametrize(
    "function", [lambda source: choose_classes(source, ["cat"]), lambda source: few(source, 1, seed=0)]
)
def test_labels_of_several_classes_are_not_one_class_to_choose(function):
    with pytest.raises(ValueError, match=r"expects labels of one class for each example, got labels of shape \(3,\)"):
        function(several(6))


def test_classes_are_chosen_of_any_source():
    chosen = choose_classes(Lazy([0, 1, 2, 1]), ["2", "1"])
    assert isinstance(choose_classes(in_memory(Lazy([0, 1, 2, 1])), ["2", "1"]), Arrays)
    np.testing.assert_array_equal(indices(in_memory(chosen)), [1, 2, 3])
    np.testing.assert_array_equal(gather(chosen, np.arange(3), ["label"])["label"], [1, 0, 1])


@pytest.mark.parametrize(
    "function", [lambda source: choose_classes(source, ["a"]), lambda source: few(source, 1, seed=0)]
)
def test_examples_without_labels_have_no_classes_to_choose(function):
    with pytest.raises(ValueError, match="expects examples with 'label', got 'image', 'target'"):
        function(arrays(image=np.zeros((2, 1, 1)), target=[1.0, 2.0]))


def test_entries_are_gathered_by_name():
    whole = numbered([0, 1, 2, 1])
    for source in (whole, Lazy([0, 1, 2, 1]), Subset(numbered([1, 2, 1, 0]), np.array([3, 0, 1, 2]))):
        found = gather(source, np.array([2, 0]), ["label"])
        assert list(found) == ["label"]
        np.testing.assert_array_equal(found["label"], [2, 0])
    with pytest.raises(ValueError, match="expected examples with 'mask', got 'image', 'label'"):
        gather(whole, np.array([0]), ["mask"])


def test_classes_are_renumbered_by_their_names():
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    labels, masks = np.array([0, 1, 2, 2, 1, 0]), np.array([0, 1, 2, 255, 1, 0], np.uint8).reshape(6, 1, 1)
    source = arrays(image=images, label=labels, mask=masks, class_names=["cat", "dog", "eel"])
    matched = match_classes(source, ("eel", "cat", "dog"))
    assert matched.class_names == ("eel", "cat", "dog")
    assert (len(matched), matched.spec) == (6, source.spec)
    assert matched.fingerprint not in (source.fingerprint, match_classes(source, ("eel", "dog", "cat")).fingerprint)
    whole = gather(matched, np.arange(6))
    assert whole["label"].tolist() == [1, 2, 0, 0, 2, 1]
    assert whole["mask"].ravel().tolist() == [1, 2, 0, 255, 2, 1]
    assert {name: array.dtype for name, array in whole.items()} == {
        name: spec.dtype for name, spec in source.spec.items()
    }
    assert [int(matched[k]["label"]) for k in range(6)] == [1, 2, 0, 0, 2, 1]
    assert match_classes(source, ["cat", "dog", "eel"]) is source


def test_several_labels_are_reordered_by_their_names():
    labels = np.array([[1, 0, 0], [0, 1, 1]], np.float32)
    source = Arrays({"image": np.zeros((2, 1, 1, 1), np.uint8), "label": labels}, ("cat", "dog", "eel"))
    matched = match_classes(source, ("eel", "cat", "dog"))
    np.testing.assert_array_equal(gather(matched, np.arange(2))["label"], [[0, 1, 0], [1, 0, 1]])


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (("cat", "dog"), "got unknown 'eel'; rename"),
        (("cat", "dog", "eel", "ant"), "got missing 'ant'; rename"),
        (("cat", "dog", "Eel"), "got unknown 'eel' and missing 'Eel'; rename"),
    ],
)
def test_classes_that_differ_are_named(names, fault):
    source = arrays(image=np.zeros((3, 1, 1), np.uint8), label=np.arange(3), class_names=["cat", "dog", "eel"])
    with pytest.raises(ValueError, match=re.escape(fault)):
        match_classes(source, names)


def test_examples_with_several_labels_are_split_at_random_and_have_no_class_to_choose():
    source = Arrays(
        {"image": np.zeros((20, 1, 1, 1)), "label": np.eye(4, dtype=np.int32)[np.arange(20) % 4]}, tuple("abcd")
    )
    assert [len(part) for part in split(source).values()] == [12, 4, 4]
    with pytest.raises(
        ValueError, match=r"choose_classes expects labels of one class for each example, got labels of shape \(4,\)"
    ):
        choose_classes(source, ["a", "b"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("digits", "expected a source of examples, .*, got a str as the part 'train'"),
        (arrays, "got a function as the part 'train'"),
        ((np.zeros((4, 8, 8)), np.zeros(4)), "got a tuple as the part 'train'"),
        ({"train": arrays(image=np.zeros((4, 8, 8))), "test": None}, "got a NoneType as the part 'test'"),
    ],
)
def test_what_is_no_source_is_refused(source, message):
    with pytest.raises(TypeError, match=message):
        split(source)


def test_a_source_is_known_without_reading_its_files():
    class Costly:
        spec, class_names = {"label": data.ArraySpec((), np.dtype(np.int32))}, ("a",)

        @property
        def fingerprint(self):
            raise AssertionError("a fingerprint may read every file")

        def __len__(self):
            return 6

        def __getitem__(self, index):
            return {"label": np.int32(0)}

    assert {name: len(part) for name, part in split(Costly()).items()} == {"train": 4, "validation": 1, "test": 1}
    with pytest.raises(TypeError, match="expected a source of examples"):
        split(Costly)


def test_objects_of_other_classes_are_left_out_and_their_images_stay():
    boxes = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    classes, valid = np.array([[0, 1, 2], [1, 1, 0]], np.int32), np.array([[True, True, True], [True, False, False]])
    entries = {"image": np.zeros((2, 8, 8, 3), np.uint8), "boxes": boxes, "classes": classes, "valid": valid}
    source = Arrays(entries | {"crowd": valid}, ("ant", "bee", "cat"))
    chosen = choose_classes(source, ["cat", "ant"])
    assert (len(chosen), chosen.class_names) == (2, ("cat", "ant"))
    for k, (expected, numbers) in enumerate([([True, False, True], [1, 0, 0]), ([False] * 3, [0, 0, 0])]):
        example = chosen[k]
        assert example["valid"].tolist() == example["crowd"].tolist() == expected
        assert example["classes"].tolist() == numbers
        np.testing.assert_array_equal(example["boxes"], boxes[k] * np.array(expected)[:, None])
        for name in ("boxes", "classes", "valid"):
            np.testing.assert_array_equal(chosen.gather(np.array([k]), [name])[name][0], example[name])
    # That of the source is untouched.
    assert source[0]["valid"].all()
