import subprocess
import sys

import numpy as np
import pytest

from jaxcnn.data import arrays


def labelled(images, labels, class_names=None, **options):
    return arrays(image=images, label=labels, class_names=class_names, **options)


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


def test_bytes_stay_bytes_and_are_not_copied():
    images = np.array([0, 51, 255], np.uint8).reshape(3, 1, 1, 1)
    data = labelled(images, [0, 1, 0])
    assert data.entries["image"].dtype == np.uint8
    assert np.shares_memory(data.entries["image"], images)


def test_images_without_channels_get_one():
    data = labelled(np.zeros((2, 5, 4), np.uint8), [0, 1])
    assert data.entries["image"].shape == (2, 5, 4, 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_point_images_keep_their_values(dtype):
    images = np.array([0, 0.25, 1], dtype).reshape(3, 1, 1, 1)
    data = labelled(images, [0, 1, 2])
    np.testing.assert_array_equal(data.entries["image"], images.astype(np.float32))
    assert data.entries["image"].dtype == np.float32


def test_float32_images_are_not_copied():
    images = grey()
    assert np.shares_memory(labelled(images, [0, 0, 1, 1]).entries["image"], images)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64])
def test_labels_become_int32(dtype):
    data = labelled(grey(), np.array([1, 0, 1, 0], dtype))
    assert data.entries["label"].dtype == np.int32
    np.testing.assert_array_equal(data.entries["label"], [1, 0, 1, 0])


def test_class_names_come_from_names_from_a_number_or_from_the_labels():
    labels = [0, 1, 1, 0]
    assert labelled(grey(), labels, ["cat", "dog", "cow"]).class_names == ("cat", "dog", "cow")
    assert labelled(grey(), labels, num_classes=3).class_names == ("0", "1", "2")
    assert labelled(grey(), labels).class_names == ("0", "1")


def test_class_names_and_a_number_together_are_refused():
    with pytest.raises(ValueError, match="class_names or num_classes, not both"):
        labelled(grey(), [0, 1, 1, 0], ["a", "b"], num_classes=2)


@pytest.mark.parametrize("names", ["ab", [1, 2], [["a"], ["b"]]])
def test_class_names_that_are_no_strings_are_refused(names):
    with pytest.raises(TypeError, match="class_names must be a sequence of strings, got"):
        labelled(grey(), [0, 1, 1, 0], names)


def test_class_names_that_repeat_are_refused():
    with pytest.raises(ValueError, match=r"class_names must all be different, got \('a', 'a'\)"):
        labelled(grey(), [0, 1, 1, 0], ["a", "a"])


@pytest.mark.parametrize("labels", [[1, 2, 2, 1], [0, 2, 2, 0], [-1, 0, 0, 0], [0, 1, 255, 1]])
def test_labels_with_gaps_are_not_counted(labels):
    low, high, different = min(labels), max(labels), len(set(labels))
    with pytest.raises(
        ValueError, match=f"cannot count the classes: {different} different labels lie between {low} and {high}"
    ):
        labelled(grey(), labels)


@pytest.mark.parametrize("bad", [3, -1, 2**40])
def test_the_first_label_out_of_range_is_named(bad):
    with pytest.raises(ValueError, match=rf"labels must be in \[0, 3\), got {bad} at index 2"):
        labelled(grey(), [0, 2, bad, 7], num_classes=3)


def test_no_classes_are_refused():
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        labelled(grey(), [0, 0, 0, 0], num_classes=0)


@pytest.mark.parametrize("labels", [[0.0, 1.0, 0.0, 1.0], [True, False, True, False], ["0", "1", "0", "1"]])
def test_labels_that_are_no_integers_are_refused(labels):
    with pytest.raises(TypeError, match="labels must be integers, got"):
        labelled(grey(), labels)


def test_labels_of_another_rank_are_refused():
    with pytest.raises(ValueError, match=r"labels must have shape \(examples,\), got \(4, 1\)"):
        labelled(grey(), np.zeros((4, 1), int))


def test_counts_that_differ_are_refused():
    with pytest.raises(ValueError, match="got 4 images and 3 labels"):
        labelled(grey(), [0, 1, 0])


@pytest.mark.parametrize("shape", [(4,), (4, 6), (4, 1, 2, 3, 1)])
def test_images_of_another_rank_are_refused(shape):
    with pytest.raises(ValueError, match=r"images must have shape \(examples, height, width, channels\) or"):
        labelled(np.zeros(shape), [0, 1, 0, 1])


@pytest.mark.parametrize("shape", [(0, 2, 2, 1), (2, 0, 2, 1), (2, 2, 2, 0)])
def test_empty_images_are_refused(shape):
    with pytest.raises(ValueError, match="at least one example and one pixel, got shape"):
        labelled(np.zeros(shape), np.zeros(shape[0], int))


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.bool_, np.complex64])
def test_images_of_another_dtype_are_refused(dtype):
    with pytest.raises(TypeError, match=f"images must be uint8, or floating point.*got {np.dtype(dtype).name}"):
        labelled(grey().astype(dtype), [0, 1, 0, 1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_image_that_is_not_finite_is_named(bad):
    images = grey()
    images[2, 1, 0, 0] = images[3, 0, 0, 0] = bad
    with pytest.raises(ValueError, match="image 2 holds nan or infinity"):
        labelled(images, [0, 1, 0, 1])


@pytest.mark.parametrize(("bad", "low", "high"), [(255.0, "0.5", "255"), (-0.5, "-0.5", "0.5")])
def test_floating_point_images_out_of_range_are_refused(bad, low, high):
    images = grey()
    images[1, 0, 0, 0] = bad
    with pytest.raises(ValueError, match=rf"must be in \[0, 1\], got values from {low} to {high}"):
        labelled(images, [0, 1, 0, 1])


def masked(**changes):
    entries = {"image": np.zeros((2, 3, 4, 3), np.uint8), "mask": np.array([0, 1, 255] * 8).reshape(2, 3, 4)}
    return arrays(**(entries | changes))


def test_an_example_holds_each_entry_under_its_name():
    data = labelled(np.arange(6).reshape(2, 3, 1) / 10, [1, 0], target=np.array([[0.25, 0.75], [1, 0]]))
    assert len(data) == 2
    example = data[1]
    assert {name: (type(array), array.shape, array.dtype) for name, array in example.items()} == {
        "image": (np.ndarray, (3, 1, 1), np.float32),
        "label": (np.ndarray, (), np.int32),
        "target": (np.ndarray, (2,), np.float32),
    }
    np.testing.assert_allclose(example["image"].ravel(), [0.3, 0.4, 0.5])
    np.testing.assert_array_equal(example["target"], [1, 0])
    assert {name: tuple(spec) for name, spec in data.spec.items()} == {
        name: (array.shape, array.dtype) for name, array in example.items()
    }
    assert repr(data) == "<2 examples in memory: image float32 (3, 1, 1), label int32 (), target float32 (2,)>"
    assert [int(one["label"]) for one in data] == [1, 0]
    with pytest.raises(IndexError):
        data[2]


def test_the_entries_cannot_be_changed():
    data = labelled(grey(), [0, 1, 0, 1])
    for array in (*data.entries.values(), data[0]["image"]):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint16])
def test_masks_become_bytes_and_their_classes_are_counted_without_the_ignored_pixels(dtype):
    data = masked(mask=np.array([0, 1, 255] * 8, dtype).reshape(2, 3, 4))
    assert data.entries["mask"].dtype == np.uint8
    assert data.class_names == ("0", "1")
    np.testing.assert_array_equal(data.entries["mask"].ravel(), [0, 1, 255] * 8)


def test_masks_of_more_classes_than_a_byte_holds_are_int32():
    mask = np.array([0, 255, 256, 299] * 6).reshape(2, 3, 4)
    data = masked(mask=mask, num_classes=300)
    assert data.entries["mask"].dtype == np.int32
    np.testing.assert_array_equal(data.entries["mask"], mask)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.zeros((2, 3, 4)), TypeError, "masks must be integers, the class of each pixel, got float64"),
        (
            np.zeros((2, 3, 4, 1), int),
            ValueError,
            r"shape \(examples, height, width\), got \(2, 3, 4, 1\)",
        ),
        (
            np.zeros((2, 4, 3), int),
            ValueError,
            r"as large as their images, got masks of shape \(2, 4, 3\)",
        ),
        (np.zeros((0, 3, 4), int), ValueError, "masks must hold at least one example and one pixel"),
        (np.zeros((3, 3, 4), int), ValueError, "as many examples of every entry, got 2 of 'image', 3 of 'mask'"),
        (np.full((2, 3, 4), 255), ValueError, "cannot count the classes: every pixel of the masks is 255"),
        (np.array([0, 2] * 12).reshape(2, 3, 4), ValueError, "2 different labels lie between 0 and 2"),
        (np.array([0, -1] * 12).reshape(2, 3, 4), ValueError, "2 different labels lie between -1 and 0"),
    ],
    ids=str,
)
def test_masks_that_are_none_are_refused(mask, error, message):
    with pytest.raises(error, match=message):
        masked(mask=mask)


@pytest.mark.parametrize("bad", [-1, 2, 256])
def test_a_pixel_of_a_mask_out_of_range_is_named(bad):
    mask = np.array([0, 1, 255] * 8).reshape(2, 3, 4)
    mask[1, 2, 0] = bad
    with pytest.raises(
        ValueError, match=rf"masks must be in \[0, 2\), or 255 for pixels of no class, got {bad} at index 1; number"
    ):
        masked(mask=mask, num_classes=2)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ([0.5, np.nan], ValueError, "'target' must be finite, but example 1 holds nan or infinity"),
        (["a", "b"], TypeError, "'target' must hold numbers, got <U1"),
        (0.5, ValueError, r"'target' must hold a value for each example, got shape \(\)"),
        ([1.0, 2.0, 3.0], ValueError, "as many examples of every entry, got 2 of 'image', 3 of 'target'"),
    ],
)
def test_other_entries_are_finite_numbers_one_for_each_example(target, error, message):
    with pytest.raises(error, match=message):
        arrays(image=grey(2), target=target)


def test_entries_without_classes_have_no_class_names():
    assert arrays(image=grey(2), target=[0.5, 1]).class_names == ()
    with pytest.raises(
        ValueError, match="class names need an entry 'label', 'mask' or 'classes', got only 'image', 'target'"
    ):
        arrays(image=grey(2), target=[0.5, 1], num_classes=2)
    with pytest.raises(ValueError, match="at least one array by name"):
        arrays()


def test_the_fingerprint_sees_every_change():
    def fingerprint(**changes):
        return arrays(**({"image": grey(2), "label": (0, 1), "class_names": ("a", "b")} | changes)).fingerprint

    last_pixel = grey(2)
    last_pixel[-1, -1, -1] += 1e-6
    changes = [
        fingerprint(),
        fingerprint(image=last_pixel),
        fingerprint(image=grey(2).reshape(2, 3, 2, 1)),
        fingerprint(image=np.full((2, 2, 3, 1), 127, np.uint8)),
        fingerprint(label=(1, 0)),
        fingerprint(class_names=("b", "a")),
        fingerprint(class_names=("ab", "")),
        fingerprint(target=(0.0, 1.0)),
        fingerprint(weight=(0.0, 1.0)),
    ]
    assert len(set(changes)) == len(changes)
    assert fingerprint() == changes[0]
