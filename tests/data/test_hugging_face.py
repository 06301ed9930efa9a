import dataclasses
import io
import sys
import types

import numpy as np
import pytest
from archive_files import pixels
from PIL import Image as PillowImage

from jaxcnn import data
from jaxcnn.data.pictures import PictureError


@dataclasses.dataclass
class Image:
    """The column of pictures of the package `datasets`, which is not needed here."""

    decode: bool = True


@dataclasses.dataclass
class ClassLabel:
    names: list


@dataclasses.dataclass
class Value:
    dtype: str


@dataclasses.dataclass
class Dataset:
    """What `hugging_face` uses of a `datasets.Dataset`."""

    features: dict
    rows: list
    _fingerprint: str = "0123"

    def __len__(self):
        return len(self.rows)

    def with_format(self, kind):
        assert kind is None
        return self

    def select_columns(self, names):
        return dataclasses.replace(self, features={name: self.features[name] for name in names})

    def cast_column(self, name, feature):
        return dataclasses.replace(self, features=self.features | {name: feature})

    def __getitem__(self, index):
        if isinstance(index, list):
            rows = [self[i] for i in index]
            return {name: [row[name] for row in rows] for name in self.features}
        for feature in self.features.values():
            assert not getattr(feature, "decode", False), "a picture would be decoded"
        return {name: self.rows[index][name] for name in self.features}


COLUMNS = {"img": Image(), "kind": ClassLabel(["cat", "dog"]), "id": Value("int64")}


def picture(index):
    return pixels(index, 5, 6, 3)


@pytest.fixture
def dataset(tmp_path):
    rows = []
    for i in range(4):
        file = io.BytesIO()
        PillowImage.fromarray(picture(i)).save(file, "PNG")
        rows.append({"img": {"bytes": file.getvalue(), "path": "gone.png"}, "kind": i % 2, "id": i})
    (tmp_path / "3.png").write_bytes(rows[3]["img"]["bytes"])
    rows[3]["img"] = {"bytes": None, "path": str(tmp_path / "3.png")}
    return Dataset(COLUMNS, rows)


def test_pictures_and_classes(dataset):
    source = data.hugging_face(dataset)
    assert len(source) == 4
    assert source.class_names == ("cat", "dog")
    for i in range(4):
        np.testing.assert_array_equal(source[i]["image"], picture(i))
        assert source[i]["label"] == i % 2
    assert {name: tuple(spec) for name, spec in source.spec.items()} == {
        "image": ((None, None, 3), np.uint8),
        "label": ((), np.int32),
    }
    np.testing.assert_array_equal(source.gather(np.array([2, 3]), ["image"])["image"], [picture(2), picture(3)])
    assert data.hugging_face(dataset, channels=1)[0]["image"].shape == (5, 6, 1)
    assert repr(source) == "<4 pictures of 2 classes of Hugging Face>"


def test_labels_need_no_picture(dataset):
    for row in dataset.rows:
        row["img"] = None
    source = data.hugging_face(dataset)
    assert data.gather(source, np.arange(4), ["label"])["label"].tolist() == [0, 1, 0, 1]
    dataset.rows[1]["kind"] = None
    assert data.gather(source, np.arange(2), ["label"])["label"].tolist() == [0, -1]


def test_parts_keep_their_names(dataset):
    parts = data.hugging_face({"train": dataset, "test": dataset})
    assert {name: len(part) for name, part in parts.items()} == {"train": 4, "test": 4}


def test_the_fingerprint_is_that_of_the_data_set(dataset):
    sources = [
        data.hugging_face(dataset),
        data.hugging_face(dataset, channels=1),
        data.hugging_face(dataclasses.replace(dataset, _fingerprint="4567")),
    ]
    assert len({source.fingerprint for source in sources}) == 3
    assert data.hugging_face(dataset).fingerprint == sources[0].fingerprint


def test_a_picture_that_cannot_be_decoded_is_named(dataset):
    dataset.rows[2]["img"] = {"bytes": b"no picture", "path": None}
    with pytest.raises(PictureError, match="example 2, column 'img': expected a picture"):
        data.hugging_face(dataset)[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "id"}, r"expected the column 'id' of kind Image, as image= tells, among img \(Image\), kind .*, id"),
        ({"label": "none"}, r"expected the column 'none' of kind ClassLabel, as label= tells, among img"),
        ({}, r"expected one column of kind Image, as image= tells, among img \(Image\), .*, second \(Image\)"),
        ({"channels": 2}, "hugging_face expects 1 or 3 channels, got 2"),
    ],
)
def test_columns_that_do_not_fit_are_named(dataset, options, message):
    several = dataclasses.replace(dataset, features=COLUMNS if options else COLUMNS | {"second": Image()})
    with pytest.raises(ValueError, match=message):
        data.hugging_face(several, **options)
    assert len(data.hugging_face(dataclasses.replace(dataset, features=COLUMNS | {"x": Image()}), image="img")) == 4


@pytest.fixture
def library(dataset, monkeypatch):
    """The functions of the package `datasets` that load a set by its name."""

    def load_dataset(path, split):
        if path == "owner/none":
            raise ConnectionError("Couldn't reach 'owner/none' on the Hub")
        if path == "owner/odd":
            return {"train": dataset, "unlabelled": dataset}
        parts = {"test": dataset, "valid": dataset, "train": dataset}
        return parts if split is None else dataclasses.replace(dataset, rows=dataset.rows[:2], _fingerprint=split)

    def load_from_disk(path):
        return dataset if path.endswith("one") else {"train": dataset}

    module = types.SimpleNamespace(load_dataset=load_dataset, load_from_disk=load_from_disk)
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_a_set_of_the_hub_has_a_name(library):
    assert list(data.load("hf:owner/flowers")) == ["train", "validation", "test"]
    chosen = data.load("hf:owner/flowers:train[:50%]", channels=1)
    assert (len(chosen), chosen.dataset._fingerprint, chosen.spec["image"].shape[2]) == (2, "train[:50%]", 1)


def test_a_folder_of_a_set_has_a_name(library, tmp_path):
    for name, file in (("one", "state.json"), ("parts", "dataset_dict.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
    assert len(data.load(f"hf:{tmp_path}/one")) == 4
    assert list(data.load(f"hf:{tmp_path}/parts")) == ["train"]
    assert len(data.load(f"hf:{tmp_path}/parts:train")) == 4
    with pytest.raises(ValueError, match=r"expected one of the splits train of '.*parts', got 'test'"):
        data.load(f"hf:{tmp_path}/parts:test")
    with pytest.raises(ValueError, match=r"expected one of the splits \(none\) of '.*one', got 'train'"):
        data.load(f"hf:{tmp_path}/one:train")


def test_names_that_cannot_be_loaded_are_refused(library):
    with pytest.raises(
        ValueError, match=r"the package datasets can load, got 'owner/none' with the split 'x': Couldn't"
    ):
        data.load("hf:owner/none:x")
    with pytest.raises(ValueError, match=r"got train, unlabelled; name one, as hf:owner/odd:train"):
        data.load("hf:owner/odd")


def test_a_name_needs_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="are loaded by the package datasets; pip install datasets"):
        data.load("hf:owner/flowers")


def test_streams_are_refused(dataset):
    with pytest.raises(TypeError, match=r"expected a datasets.Dataset or DatasetDict, got list; a stream has no"):
        data.hugging_face([1, 2])
