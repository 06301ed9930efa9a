import functools
import io
import json
import pickle
import socket

import numpy as np
import pytest
from PIL import Image
from tfrecord_files import write_records

from jaxcnn import data
from jaxcnn.data.pictures import PictureError
from jaxcnn.data.sources import tfds
from jaxcnn.data.sources.tfrecord import RecordError
from jaxcnn.data.splits import shared_files

tensorflow_datasets = pytest.importorskip("tensorflow_datasets")
features = tensorflow_datasets.features
array_record_module = pytest.importorskip("array_record.python.array_record_module")

FORMATS = ("tfrecord", "array_record")


def encoded(pixels, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, kind)
    return file.getvalue()


def picture(index, shape=(8, 6, 3)):
    return np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)


def write_array_record(path, records):
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def prepare(folder, splits, kinds, file_format="tfrecord", supervised=("image", "label"), name="toys"):
    """Writes a prepared data set as TensorFlow Datasets does: `splits` has the examples of each file of each split."""
    folder.mkdir(parents=True)
    kinds = features.FeaturesDict(kinds)
    kinds.save_config(folder)
    for split, shards in splits.items():
        for number, examples in enumerate(shards):
            path = folder / f"{name}-{split}.{file_format}-{number:05}-of-{len(shards):05}"
            records = [kinds.serialize_example(example) for example in examples]
            (write_records if file_format == "tfrecord" else write_array_record)(path, records)
    keys = {"tuple": {"items": [{"featureKey": key} for key in supervised or ()]}}
    described = [
        {
            "name": split,
            "numBytes": "1",
            "shardLengths": [str(len(examples)) for examples in shards],
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        }
        for split, shards in splits.items()
    ]
    info = {"fileFormat": file_format, "name": name, "version": folder.name, "splits": described}
    info |= {"supervisedKeys": keys} if supervised else {}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


KINDS = {
    "image": features.Image(shape=(8, 6, 3)),
    "label": features.ClassLabel(names=["cat", "dog", "emu"]),
    "id": features.Text(),
}


def example(index):
    return {"image": encoded(picture(index)), "label": index % 3, "id": f"number {index}"}


def shards(*counts, first=0):
    starts = np.cumsum([first, *counts])
    return [[example(start + i) for i in range(count)] for start, count in zip(starts, counts, strict=False)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXCNN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tfds"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module", params=FORMATS)
def root(request, tmp_path_factory):
    """A folder of data sets with one, in one format: 25 training examples in 3 files, and 4 of a test set."""
    root = tmp_path_factory.mktemp(request.param)
    prepare(root / "toys/1.0.0", {"train": shards(10, 7, 8), "test": shards(4, first=100)}, KINDS, request.param)
    return root


def check(source, indices):
    assert len(source) == len(indices)
    for found, index in zip(source, indices, strict=True):
        np.testing.assert_array_equal(found["image"], picture(index))
        assert found["label"] == index % 3
        assert {name: (array.shape, array.dtype) for name, array in found.items()} == {
            "image": ((8, 6, 3), np.uint8),
            "label": ((), np.int32),
        }


def test_a_prepared_set_is_read_without_tensorflow(root):
    parts = data.tfds("toys", root)
    assert list(parts) == ["train", "test"]
    check(parts["train"], range(25))
    check(parts["test"], range(100, 104))
    assert {part.class_names for part in parts.values()} == {("cat", "dog", "emu")}
    assert {name: tuple(spec) for name, spec in parts["train"].spec.items()} == {
        "image": ((8, 6, 3), np.uint8),
        "label": ((), np.int32),
    }
    assert repr(parts["train"]).startswith("<25 examples of toys/1.0.0 train: image uint8 (8, 6, 3), label int32 ()>")


@pytest.mark.parametrize(
    ("split", "indices"),
    [
        ("train[:80%]", range(20)),
        ("train[10%:]", range(2, 25)),
        ("train[30%:50%]", range(8, 12)),
        ("train[-5:]", range(20, 25)),
        ("train[9:18]+test[:2]", [*range(9, 18), 100, 101]),
        ("test+train[16:17]", [*range(100, 104), 16]),
    ],
)
def test_sub_splits_mean_what_they_mean_to_tensorflow_datasets(root, split, indices):
    check(data.tfds(f"toys:{split}", root), indices)
    check(data.tfds(f"toys:1.0.0:{split}", root), indices)


def test_the_builder_of_tensorflow_datasets_writes_what_is_read(tmp_path):
    class Builder(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
        name = "built"
        VERSION = tensorflow_datasets.core.Version("2.1.0")

        def _info(self):
            return tensorflow_datasets.core.DatasetInfo(
                builder=self, features=features.FeaturesDict(KINDS), supervised_keys=("image", "label")
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(12), "test": self._generate_examples(3)}

        def _generate_examples(self, count):
            for index in range(count):
                yield index, example(index) | {"image": io.BytesIO(encoded(picture(index)))}

    builder = Builder(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare(file_format="array_record")
    source = data.tfds("built:train", tmp_path)
    expected = builder.as_data_source("train")
    assert len(source) == len(expected) == 12
    for ours, theirs in zip(source, (expected[i] for i in range(12)), strict=True):
        np.testing.assert_array_equal(ours["image"], theirs["image"])
        assert ours["label"] == theirs["label"]


def test_several_examples_are_gathered(root, monkeypatch):
    source = data.tfds("toys:train", root)
    entries = data.gather(source, np.array([24, 3, 10]))
    np.testing.assert_array_equal(entries["image"], np.stack([picture(i) for i in (24, 3, 10)]))
    monkeypatch.setattr(tfds, "read_picture", None)
    assert data.gather(source, np.arange(25), ["label"])["label"].tolist() == [i % 3 for i in range(25)]
    for index in (-1, 25):
        with pytest.raises(IndexError, match=rf"expected an example in \[0, 25\), got {index}"):
            source[index]


def test_labels_of_a_whole_set_are_kept(root, cache, monkeypatch):
    expected = [i % 3 for i in range(25)]
    order = np.arange(25)[::-1]

    def labels():
        return data.gather(data.tfds("toys:train", root), order, ["label"])["label"][::-1]

    assert labels().tolist() == expected
    (kept,) = cache.iterdir()
    content = kept.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(tfds.Tfds, "_read", None)
        assert labels().tolist() == expected
        assert labels().dtype == np.int32
    for damaged in (b"", content[:-1], content[:100]):
        kept.write_bytes(damaged)
        assert labels().tolist() == expected
        assert kept.read_bytes() == content


def test_a_source_is_pickled_without_its_open_files(root):
    source = data.tfds("toys:train[:5]", root)
    assert source[4]["label"] == 1
    again = pickle.loads(pickle.dumps(source))
    check(again, range(5))
    assert again.fingerprint == source.fingerprint
    assert len(pickle.dumps(source)) < 1000


def test_batches_and_splits_take_it(root):
    parts = data.split(data.tfds("toys", root), fractions=(0.6, 0.3, 0.1), seed=0)
    assert {name: len(part) for name, part in parts.items()} == {"train": 17, "validation": 8, "test": 4}
    (batch,) = data.eval_batches(parts["test"], 4)
    np.testing.assert_array_equal(batch["label"], [100 % 3, 101 % 3, 102 % 3, 103 % 3])
    assert batch["image"].dtype == np.uint8


def test_the_fingerprint_sees_what_matters(tmp_path):
    def fingerprint(folder, split="train", **changes):
        splits = {"train": changes.pop("train", shards(3, 2))}
        prepare(folder / "toys/1.0.0", splits, changes.pop("kinds", KINDS))
        return data.tfds(f"toys:{split}", folder, **changes).fingerprint

    first = fingerprint(tmp_path / "first")
    assert fingerprint(tmp_path / "copy") == first
    other = shards(3, 2)
    other[1][1]["label"] = 0
    assert other != shards(3, 2)
    different = [
        fingerprint(tmp_path / "label", train=other),
        fingerprint(tmp_path / "split", "train[:4]"),
        fingerprint(tmp_path / "names", class_names=("a", "b", "c")),
        fingerprint(tmp_path / "entries", entries={"image": "image"}),
    ]
    assert len({first, *different}) == 5


@pytest.mark.parametrize("place", [0.3, 0.7])
def test_a_damaged_record_names_file_and_byte(tmp_path, root, place):
    file_format = root.name.rstrip("0123456789")
    folder = prepare(tmp_path / "toys/1.0.0", {"train": shards(10, 7)}, KINDS, file_format)
    path = folder / f"toys-train.{file_format}-00001-of-00002"
    content = bytearray(path.read_bytes())
    start = content.index(b"number 13" if file_format == "tfrecord" else b"\x89PNG", 200)
    content[start + 2] ^= 1
    path.write_bytes(content)
    source = data.tfds("toys:train", tmp_path)
    check([source[i] for i in range(10)], range(10))

    def read_all():
        for _ in source:
            pass

    with pytest.raises(RecordError, match=rf"toys-train.{file_format}-00001-of-00002' is damaged.* byte [\d,]+"):
        read_all()


def test_a_truncated_file_is_named(tmp_path, root):
    file_format = root.name.rstrip("0123456789")
    folder = prepare(tmp_path / "toys/1.0.0", {"train": shards(10, 7)}, KINDS, file_format)
    path = folder / f"toys-train.{file_format}-00000-of-00002"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RecordError, match=r"00000-of-00002' is damaged"):
        data.tfds("toys:train", tmp_path)[0]


def test_another_number_of_records_is_refused(tmp_path, root):
    file_format = root.name.rstrip("0123456789")
    folder = prepare(tmp_path / "toys/1.0.0", {"train": shards(10, 7)}, KINDS, file_format)
    names = [folder / f"toys-train.{file_format}-0000{i}-of-00002" for i in range(2)]
    names[0].write_bytes(names[1].read_bytes())
    with pytest.raises(RecordError, match=r"expected 10 records in .*00000-of-00002', got 7; copy or prepare it again"):
        data.tfds("toys:train", tmp_path)[0]
    names[1].unlink()
    with pytest.raises(
        FileNotFoundError, match=r"expected 2 files of toys/1.0.0 train, but 1 are missing, the first .*00"
    ):
        data.tfds("toys", tmp_path)


def test_a_record_of_other_features_is_refused(tmp_path):
    folder = prepare(tmp_path / "toys/1.0.0", {"train": [[example(0)]]}, KINDS)
    write_records(folder / "toys-train.tfrecord-00000-of-00001", [b"no example"])
    with pytest.raises(RecordError, match=r"expected example 0 of .* to have the features image, label, got: "):
        data.tfds("toys:train", tmp_path)[0]


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path):
    prepare(tmp_path / "toys/1.0.0", {"train": [[example(0) | {"image": b"no picture"}]]}, KINDS)
    with pytest.raises(PictureError, match=r"example 0 of .*00000-of-00001', feature 'image': expected a picture"):
        data.tfds("toys:train", tmp_path)[0]


def test_a_picture_of_another_size_is_refused(tmp_path):
    wrong = example(0) | {"image": encoded(picture(0, (5, 6, 3)))}
    prepare(tmp_path / "toys/1.0.0", {"train": [[wrong]]}, KINDS)
    with pytest.raises(ValueError, match=r"expected 'image' of shape \(8, 6, 3\) in example 0 of .*, got \(5, 6, 3\)"):
        data.tfds("toys:train", tmp_path)[0]


def test_pictures_of_many_sizes(tmp_path):
    sizes = [(8, 6, 3), (5, 9, 3)]
    examples = [{"photo": encoded(picture(i, size)), "kind": i} for i, size in enumerate(sizes)]
    kinds = {"photo": features.Image(), "kind": features.ClassLabel(num_classes=2)}
    prepare(tmp_path / "toys/1.0.0", {"train": [examples]}, kinds, supervised=None)
    source = data.tfds("toys", tmp_path)["train"]
    assert source.spec["image"].shape == (None, None, 3)
    assert source.class_names == ("0", "1")
    for i, size in enumerate(sizes):
        np.testing.assert_array_equal(source[i]["image"], picture(i, size))


def test_pictures_with_transparency_have_three_channels(tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.full((4, 5, 4), (10, 20, 30, 0), np.uint8), "RGBA").save(file, "PNG")
    kinds = {"image": features.Image(shape=(4, 5, 4)), "label": features.ClassLabel(num_classes=1)}
    prepare(tmp_path / "toys/1.0.0", {"train": [[{"image": file.getvalue(), "label": 0}]]}, kinds)
    source = data.tfds("toys:train", tmp_path)
    assert source.spec["image"].shape == (4, 5, 3)
    np.testing.assert_array_equal(source[0]["image"], np.full((4, 5, 3), 255))


def test_grey_pictures_and_masks(tmp_path):
    masks = [np.random.default_rng(i).integers(0, 3, (8, 6, 1), dtype=np.uint8) for i in range(2)]
    examples = [{"image": encoded(picture(i, (8, 6, 1))), "segments": encoded(masks[i])} for i in range(2)]
    kinds = {
        "image": features.Image(shape=(8, 6, 1)),
        "segments": features.LabeledImage(labels=["sky", "sea", "sand"], shape=(8, 6, 1)),
    }
    prepare(tmp_path / "toys/1.0.0", {"train": [examples]}, kinds, supervised=None)
    source = data.tfds("toys:train", tmp_path)
    assert source.class_names == ("sky", "sea", "sand")
    for i in range(2):
        np.testing.assert_array_equal(source[i]["image"], picture(i, (8, 6, 1)))
        np.testing.assert_array_equal(source[i]["mask"], masks[i][..., 0])
    assert {name: tuple(spec) for name, spec in source.spec.items()} == {
        "image": ((8, 6, 1), np.uint8),
        "mask": ((8, 6), np.uint8),
    }


@pytest.mark.parametrize("encoding", ["none", "bytes", "zlib"])
def test_tensors_and_numbers(tmp_path, encoding):
    kinds = {
        "pixels": features.Tensor(shape=(4, 5), dtype=np.uint8, encoding=encoding),
        "age": features.Scalar(dtype=np.float32),
        "where": features.BBoxFeature(),
        "number": features.Scalar(dtype=np.int64),
    }
    box = features.BBox(0.25, 0.5, 0.75, 1.0)
    examples = [{"pixels": picture(i, (4, 5)), "age": i / 2, "where": box, "number": 1} for i in range(3)]
    prepare(tmp_path / "toys/1.0.0", {"train": [examples]}, kinds, supervised=("pixels", "age"))
    source = data.tfds("toys:train", tmp_path)
    assert list(source.spec) == ["image", "target"]
    for i in range(3):
        np.testing.assert_array_equal(source[i]["image"][..., 0], picture(i, (4, 5)))
        assert source[i]["target"] == np.float32(i / 2)
    boxes = data.tfds("toys:train", tmp_path, entries={"image": "pixels", "target": "where"})
    np.testing.assert_array_equal(boxes[0]["target"], np.array([0.25, 0.5, 0.75, 1], np.float32))
    numbered = data.tfds("toys:train", tmp_path, entries={"label": "number"}, class_names=["no", "yes"])
    assert numbered[0]["label"] == 1
    assert numbered.class_names == ("no", "yes")


DETECTION = {
    "image": features.Image(),
    "depth": features.Image(shape=(None, None, 1), dtype=np.uint16),
    "number": features.Scalar(dtype=np.int64),
    "moving": features.Image(shape=(None, None, None, 3)),
    "objects": features.Sequence({"bbox": features.BBoxFeature(), "label": features.ClassLabel(num_classes=2)}),
}


@pytest.fixture
def detection(tmp_path):
    examples = [{"image": encoded(picture(0)), "depth": encoded(picture(1)), "number": 3, "moving": b"", "objects": []}]
    prepare(tmp_path / "toys/1.0.0", {"train": [examples]}, DETECTION, supervised=None)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"entries": {"target": "objects"}},
            "expected numbers of a fixed shape for 'target', got the feature 'objects'",
        ),
        ({"entries": {"boxes": "objects"}}, "expected numbers of a fixed shape for 'boxes', got the feature 'objects'"),
        (
            {"entries": {"image": "depth"}},
            r"expected an image or tensor of uint8 for 'image', .*, of kind Image of uint16 ",
        ),
        (
            {"entries": {"mask": "image"}},
            "expected an image of one channel of uint8 for 'mask', got the feature 'image'",
        ),
        ({"entries": {"image": "moving"}}, "expected an image or tensor of uint8 for 'image', got the feature 'mov"),
        ({"entries": {"label": "image"}}, "expected a class label or an integer for 'label', got the feature 'image'"),
        ({"entries": {"label": "labels"}}, "expected a feature for 'label' among depth .*, got 'labels'"),
        ({"entries": {"label": "number"}}, "expected class_names for 'label': the feature 'number' has no names"),
        (
            {"entries": {"image": "image"}, "class_names": ["a"]},
            "class names need an entry 'label', 'mask' or 'objects', got only",
        ),
        ({"entries": {"label": "number"}, "class_names": ["a", "a"]}, r"expected different names of classes, got \['a"),
        ({"entries": {"label": "number"}, "class_names": "ab"}, "expected different names of classes, got 'ab'"),
    ],
)
def test_features_that_cannot_be_entries_are_named(detection, options, message):
    with pytest.raises(ValueError, match=message):
        data.tfds("toys:train", detection, **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "toys:train[:0]",
            r"expected a split with at least one example of toys/1.0.0, got 'train\[:0\]', which is empty",
        ),
        (
            "toys:train[5:2]",
            r"expected a split with at least one example of toys/1.0.0, got 'train\[5:2\]', which is empty",
        ),
        ("toys:trian", "expected a split of toys/1.0.0 such as train, test or .*, got 'trian': Unknown split"),
        ("toys:train[:99]", r"expected a split of toys/1.0.0 .*, got 'train\[:99\]': Requested slice"),
        ("toys:train[a]", r"expected a split of toys/1.0.0 .*, got 'train\[a\]': Error parsing split"),
        ("../toys", r"expected a data set as NAME\[/CONFIG\]\[:VERSION\]\[:SPLIT\], .*, got '../toys'"),
        ("toys/..", r"expected a data set as NAME.*, got 'toys/..'"),
        ("", r"expected a data set as NAME.*, got ''"),
    ],
)
def test_names_and_splits_that_mean_nothing_are_refused(root, name, message):
    with pytest.raises(ValueError, match=message):
        data.tfds(name, root)


def test_a_set_that_is_not_prepared_says_how_to_prepare_it(root, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError) as refused:
        data.tfds("mnist", root)
    assert str(refused.value) == (
        f"'mnist' is not prepared in {str(root)!r}, which has the data sets toys. Set data_dir or the "
        "environment variable TFDS_DATA_DIR to another folder, or prepare it; only this needs TensorFlow:\n"
        "  pip install tensorflow tensorflow-datasets\n"
        f"  tfds build mnist --data_dir={root}\n"
        "The formats tfrecord and array_record are read"
    )
    with pytest.raises(
        FileNotFoundError, match=r"'toys:2\.\*\.\*' is not prepared in .*, which has the versions 1\.0\.0\."
    ):
        data.tfds("toys:2.*.*", root)
    with pytest.raises(
        FileNotFoundError, match=r"'toys/red' is not .*has the data sets toys(.|\n)*build toys --config=red"
    ):
        data.tfds("toys/red", root)
    monkeypatch.setattr(tensorflow_datasets.core.constants, "DATA_DIR", str(tmp_path / "none"))
    (tmp_path / "none" / "downloads" / "extracted").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"'mnist' is not prepared in .*none', which has no data sets\."):
        data.tfds("mnist")


def test_the_highest_version_and_the_default_configuration(tmp_path):
    for folder in ("toys/red/1.9.0", "toys/red/1.10.0", "toys/blue/1.0.0"):
        prepare(tmp_path / folder, {"train": shards(1)}, KINDS)
    (tmp_path / "toys/red/2.0.0").mkdir()  # preparing it has not finished
    assert data.tfds("toys/red", tmp_path)["train"].folder == tmp_path / "toys/red/1.10.0"
    assert data.tfds("toys/red:1.9.*:train", tmp_path).folder == tmp_path / "toys/red/1.9.0"
    with pytest.raises(ValueError, match=r"one of the configurations of 'toys' .* as toys/blue; got none of blue, red"):
        data.tfds("toys", tmp_path)
    (tmp_path / "toys/.config").mkdir()
    (tmp_path / "toys/.config/metadata.json").write_text('{"default_config_name": "red"}')
    assert data.tfds("toys", tmp_path)["train"].folder == tmp_path / "toys/red/1.10.0"
    prepare(tmp_path / "games/new/1.0.0", {"train": shards(1)}, KINDS)
    assert data.tfds("games", tmp_path)["train"].folder == tmp_path / "games/new/1.0.0"


def test_parts_have_the_names_of_jaxcnn(tmp_path):
    prepare(tmp_path / "toys/1.0.0", {"dev": shards(2), "train": shards(3), "extra": shards(4)}, KINDS)
    assert {name: len(part) for name, part in data.tfds("toys", tmp_path).items()} == {"train": 3, "validation": 2}
    assert len(data.tfds("toys:extra", tmp_path)) == 4
    prepare(tmp_path / "toys/1.0.1", {"dev": shards(2), "val": shards(1), "train": shards(1)}, KINDS)
    with pytest.raises(
        ValueError, match=r"expected one split for each of train.*got dev, val, train; name one, as toys:d"
    ):
        data.tfds("toys", tmp_path)
    prepare(tmp_path / "toys/1.0.2", {"extra": shards(2)}, KINDS)
    with pytest.raises(ValueError, match=r"expected one split for each of train.*got extra; name one, as toys:extra"):
        data.tfds("toys", tmp_path)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_a_damaged_description_is_refused(tmp_path, name):
    folder = prepare(tmp_path / "toys/1.0.0", {"train": shards(1)}, KINDS)
    (folder / name).write_text((folder / name).read_text()[:-9])
    with pytest.raises(
        ValueError, match=r"that TensorFlow Datasets can open in .*1.0.0', got \w+: .*; prepare it again"
    ):
        data.tfds("toys", tmp_path)


def test_another_format_is_refused(tmp_path):
    folder = prepare(tmp_path / "toys/1.0.0", {"train": shards(1)}, KINDS)
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "riegeli"}))
    with pytest.raises(ValueError, match=r"expected files of the formats tfrecord and array_record in .*, got riegeli"):
        data.tfds("toys", tmp_path)


def test_many_files_are_read_with_few_open(tmp_path, monkeypatch):
    few = functools.lru_cache(maxsize=3)(tfds._array_record.__wrapped__)
    monkeypatch.setattr(tfds, "_array_record", few)
    prepare(tmp_path / "toys/1.0.0", {"train": shards(*[1] * 12)}, KINDS, "array_record")
    check(data.tfds("toys:train", tmp_path), range(12))
    assert few.cache_info().currsize == 3


def test_sub_splits_that_overlap_are_counted(root):
    whole, test, part = (data.tfds(f"toys:{split}", root) for split in ("train[:60%]", "train[40%:]", "train[-3:]"))
    assert shared_files({"train": whole, "test": test, "validation": part}) == {"test": 5}
    assert shared_files({"train": data.tfds("toys:train", root), "test": data.tfds("toys:test", root)}) == {}
    half = data.Subset(test, np.arange(2))
    assert shared_files({"train": whole, "test": half}) == {"test": 2}
    assert shared_files({"train": data.tfds("toys:train+test", root), "test": data.tfds("toys:test", root)}) == {
        "test": 4
    }


def test_labels_are_read_again_where_they_cannot_be_kept(root, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAXCNN_CACHE_DIR", str(tmp_path / "file"))
    source = data.tfds("toys:test", root)
    assert data.gather(source, np.arange(4), ["label"])["label"].tolist() == [i % 3 for i in range(100, 104)]
    assert "cannot be kept, and they are examined again the next time" in caplog.text


def test_sets_without_labels_are_named(tmp_path):
    kinds = {name: kind for name, kind in DETECTION.items() if name != "objects"} | {
        "words": features.Sequence(features.Text())
    }
    made = {"image": encoded(picture(0)), "depth": encoded(picture(1)), "number": 3, "moving": b"", "words": ["a"]}
    prepare(tmp_path / "toys/1.0.0", {"train": [[made]]}, kinds, supervised=None)
    message = r"one class label, mask, target or sequence of objects .* got depth \(Image\), image .*words \(Sequence\)"
    with pytest.raises(ValueError, match=message):
        data.tfds("toys", tmp_path)


SCENES = {
    "image": features.Image(shape=(None, None, 3)),
    "objects": features.Sequence(
        {
            "area": features.Scalar(np.int64),
            "bbox": features.BBoxFeature(),
            "is_crowd": features.Scalar(np.bool_),
            "label": features.ClassLabel(names=["cat", "dog", "emu"]),
        }
    ),
}


def scene(index, count):
    rng = np.random.default_rng(index)
    height, width = 10 + index, 20
    corners = rng.uniform(0, 0.5, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.1, 0.5, (count, 2))], axis=1)
    return {
        "image": encoded(picture(index, (height, width, 3))),
        "objects": [
            {"area": 3, "bbox": features.BBox(*box), "is_crowd": place == 1, "label": (index + place) % 3}
            for place, box in enumerate(boxes.tolist())
        ],
    }


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    prepare(root / "toys/1.0.0", {"train": [[scene(i, i) for i in range(4)]]}, SCENES, supervised=None)
    return root


def test_boxes_become_edges_in_pixels(scenes):
    source = data.tfds("toys:train", scenes, max_objects=3)
    assert source.class_names == ("cat", "dog", "emu")
    assert source.entries == {"image": "image", "objects": "objects"}
    assert {name: spec.shape for name, spec in source.spec.items()} == {
        "image": (None, None, 3),
        "boxes": (3, 4),
        "classes": (3,),
        "crowd": (3,),
        "valid": (3,),
    }
    for index in range(4):
        found = source[index]
        assert {name: (array.shape, array.dtype) for name, array in found.items() if name != "image"} == {
            name: spec for name, spec in source.spec.items() if name != "image"
        }
        assert found["image"].shape == (10 + index, 20, 3)
        assert found["valid"].tolist() == [place < index for place in range(3)]
        for place, one in enumerate(scene(index, index)["objects"]):
            top, left, bottom, right = (getattr(one["bbox"], edge) for edge in ("ymin", "xmin", "ymax", "xmax"))
            expected = [left * 20, top * (10 + index), right * 20, bottom * (10 + index)]
            np.testing.assert_allclose(found["boxes"][place], expected, rtol=1e-5)
            assert (found["classes"][place], found["crowd"][place]) == (one["label"], place == 1)
    # Without the image, its size is read from the beginning of its file.
    together = source.gather(np.arange(4), ["boxes", "valid"])
    np.testing.assert_array_equal(together["boxes"], [source[index]["boxes"] for index in range(4)])
    assert pickle.loads(pickle.dumps(source)).fingerprint == source.fingerprint
    assert data.tfds("toys:train", scenes, max_objects=4).fingerprint != source.fingerprint
    fitted = data.resized(source, (16, 16), mode="fit", keep=False)
    np.testing.assert_allclose(fitted[1]["boxes"][0, ::2], source[1]["boxes"][0, ::2] * 0.8, rtol=1e-5)


def test_more_objects_than_slots_are_named(scenes):
    source = data.tfds("toys:train", scenes, max_objects=2)
    with pytest.raises(ValueError, match=r"at most 2 objects in example 3 of .*toys.* read it with max_objects=3"):
        source[3]
    with pytest.raises(ValueError, match="max_objects must be at least 1, got 0"):
        data.tfds("toys:train", scenes, max_objects=0)


def test_empty_boxes_are_refused_or_left_out(tmp_path, monkeypatch):
    made = scene(2, 2)
    made["objects"][0]["bbox"] = features.BBox(0.25, 0.5, 0.25, 0.75)
    prepare(tmp_path / "toys/1.0.0", {"train": [[made]]}, SCENES, supervised=None)
    with pytest.raises(ValueError, match=r"a width and a height in .* got \(10, 3, 15, 3\), .* clip_boxes"):
        data.tfds("toys:train", tmp_path)[0]
    found = data.tfds("toys:train", tmp_path, clip_boxes=True)[0]
    assert found["classes"][found["valid"]].tolist() == [0]


def test_objects_of_one_kind_have_the_name_of_their_feature(tmp_path):
    kinds = {"image": features.Image(shape=(8, 6, 3)), "faces": features.Sequence({"bbox": features.BBoxFeature()})}
    made = {"image": encoded(picture(0)), "faces": [{"bbox": features.BBox(0.0, 0.0, 0.5, 0.5)}]}
    prepare(tmp_path / "toys/1.0.0", {"train": [[made]]}, kinds, supervised=None)
    source = data.tfds("toys:train", tmp_path)
    assert source.class_names == ("faces",)
    np.testing.assert_array_equal(source[0]["boxes"][0], [0, 0, 3, 4])
    assert data.tfds("toys:train", tmp_path, class_names=["face"]).class_names == ("face",)


def test_a_feature_without_boxes_is_no_sequence_of_objects(root):
    with pytest.raises(ValueError, match=r"a sequence with one box for 'objects', beside an .* got 'label'"):
        data.tfds("toys", root, entries={"image": "image", "objects": "label"})
