import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from archive_files import pixels
from PIL import Image

from jaxcnn import data
from jaxcnn.data.pictures import PictureError
from jaxcnn.data.sources import web_dataset
from jaxcnn.data.sources.web_dataset import WebDatasetError


def picture(index):
    return pixels(index, 5 + index % 3, 6, 3)


def encoded(index):
    file = io.BytesIO()
    Image.fromarray(picture(index)).save(file, "PNG")
    return file.getvalue()


def write(path, files):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("folder"))
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def examples(first, last):
    files = {}
    for i in range(first, last):
        files |= {
            f"a/{i:03}.json": b"{}",
            f"a/{i:03}.PNG": encoded(i),
            f"a/{i:03}.seg.png": b"",
            f"a/{i:03}.cls": b"%d\n" % (i % 3),
        }
    return files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXCNN_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(3):
        write(folder / f"train-{shard:02}.tar", examples(4 * shard, 4 * shard + 4))
    return folder


@pytest.mark.parametrize("pattern", ["train-{00..02}.tar", "train-*.tar", "train-0?.tar"])
def test_pictures_of_several_tar_files(folder, pattern):
    source = data.web_dataset(f"{folder}/{pattern}", class_names=["a", "b", "c"])
    assert len(source) == 12
    assert source.class_names == ("a", "b", "c")
    for copy in (source, pickle.loads(pickle.dumps(source))):
        for i, example in enumerate(copy):
            np.testing.assert_array_equal(example["image"], picture(i))
            assert example["label"] == i % 3
            assert example["label"].dtype == np.int32
    assert source.spec["image"].shape == (None, None, 3)
    assert repr(source) == "<12 pictures of 3 classes in 3 tar files>"
    assert data.web_dataset(f"{folder}/{pattern}", channels=1)[0]["image"].shape == (5, 6, 1)


def test_labels_need_no_file(folder):
    source = data.web_dataset(f"{folder}/*.tar")
    assert source.class_names == ("0", "1", "2")
    assert data.gather(source, np.array([0, 1]), ["label"])["label"].tolist() == [0, 1]
    parts = data.split(source, seed=0)
    for file in folder.iterdir():
        file.unlink()
    assert {name: len(part) for name, part in parts.items()} == {"train": 6, "validation": 3, "test": 3}


def test_several_pictures_of_one_size_are_gathered(folder):
    entries = data.web_dataset(f"{folder}/*.tar").gather(np.array([9, 3]), ["image", "label"])
    np.testing.assert_array_equal(entries["image"], np.stack([picture(9), picture(3)]))
    assert entries["label"].tolist() == [0, 0]


def test_a_stream_goes_on_with_the_very_next_picture(folder):
    def batches(workers):
        source = data.web_dataset(f"{folder}/*.tar")
        return data.Batches(source, 5, seed=3, prepare=data.RandomResizedCrop((4, 4)), workers=workers, add=("index",))

    whole = list(batches(0).at(range(6)))
    resumed = list(batches(3).at(range(3, 6)))
    for expected, got in zip(whole[3:], resumed, strict=True):
        assert expected.keys() == got.keys()
        for name in expected:
            np.testing.assert_array_equal(expected[name], got[name])
    assert len({tuple(batch["index"]) for batch in whole}) == 6


def test_the_index_is_kept_until_a_file_changes(folder, tmp_path, monkeypatch):
    made, make = [], web_dataset._index
    monkeypatch.setattr(web_dataset, "_index", lambda *arguments: made.append(arguments[1].name) or make(*arguments))

    def read():
        made.clear()
        return data.web_dataset(f"{folder}/*.tar")

    first = read()
    assert len(made) == 3
    again = read()
    assert made == []
    assert again.fingerprint == first.fingerprint
    np.testing.assert_array_equal(again.index, first.index)
    (cached,) = (tmp_path / "cache" / "web_dataset").iterdir()
    for damage in (b"", cached.read_bytes()[:100], b"\x93NUMPY"):
        cached.write_bytes(damage)
        assert len(read()) == 12
        assert len(made) == 3
    write(folder / "train-01.tar", examples(50, 52))
    changed = read()
    assert (len(changed), len(made)) == (10, 3)
    assert changed.fingerprint != first.fingerprint
    os.utime(folder / "train-01.tar", ns=(1, 1))
    assert read().fingerprint == changed.fingerprint


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"a.png": encoded(0)},
            r"a picture and a .cls file of each name in .*x.tar', got only .* 1 names, the first '/a'",
        ),
        ({"b.cls": b"1"}, r"got only one of both for 1 names, the first '/b'"),
        ({"a.png": b"", "a.jpg": b"", "a.cls": b"1"}, "expected one picture of the name '/a' in .*x.tar', got several"),
        ({"a.png": b"", "a.cls": b"cat"}, r"the number of a class, from 0 to 999,999, in a.cls of .*, got b'cat'"),
        ({"a.png": b"", "a.cls": b"-1"}, r"the number of a class, from 0 to 999,999, in a.cls of .*, got b'-1'"),
        ({"a.png": b"", "a.cls": b"999999999"}, r"from 0 to 999,999, in a.cls of .*, got b'999999999'"),
        ({"a.png": b"", "a.cls": b"1", "a.CLS": b"0"}, "expected one label of the name '/a' in .*x.tar', got several"),
        ({"a.txt": b"text"}, r"expected pictures with .cls files in .*x.tar', got none"),
    ],
)
def test_other_content_is_refused(folder, files, message):
    write(folder / "x.tar", files)
    with pytest.raises(WebDatasetError, match=message):
        data.web_dataset(f"{folder}/x.tar")


def test_a_name_may_have_brackets_and_an_extension_any_case(folder):
    write(folder / "x [1].tar", {"é.JPG": encoded(0), "é.CLS": b"0"})
    assert len(data.web_dataset(f"{folder}/x [1].tar")) == 1


def test_a_cache_that_cannot_be_written_costs_only_time(folder, monkeypatch, caplog):
    (folder / "file").touch()
    monkeypatch.setenv("JAXCNN_CACHE_DIR", str(folder / "file"))
    assert len(data.web_dataset(f"{folder}/train-*.tar")) == 12
    assert f"what was found in the files of {folder}/train-00.tar cannot be kept" in caplog.text


def test_other_files_are_refused(folder):
    path = folder / "train-00.tar"
    content = path.read_bytes()
    for damaged in (
        b"no archive" * 100,
        content[:3000],
        content[:2100],
        content[:1536],
        content[:512] + bytes([content[512] ^ 1]) + content[513:],
    ):
        path.write_bytes(damaged)
        with pytest.raises(
            WebDatasetError, match=r"expected a tar file that is whole and not compressed, got .*00.tar': "
        ):
            data.web_dataset(str(path))
    with tarfile.open(path, "w:gz"):
        pass
    with pytest.raises(WebDatasetError, match=r"expected a tar file that is whole and not compressed, got .*00.tar': "):
        data.web_dataset(str(path))


def test_patterns_and_options_that_mean_nothing_are_refused(folder):
    with pytest.raises(FileNotFoundError, match=r"a range from the smaller to the larger number, got '\{02\.\.00\}'"):
        data.web_dataset(f"{folder}/train-{{02..00}}.tar")
    with pytest.raises(FileNotFoundError, match=r"expected tar files, got '.*test-\*.tar', which matches no file"):
        data.web_dataset(f"{folder}/test-*.tar")
    with pytest.raises(FileNotFoundError, match=r"expected tar files, got '.*train-03.tar', which matches no file"):
        data.web_dataset(f"{folder}/train-{{00..03}}.tar")
    with pytest.raises(ValueError, match="web_dataset expects 1 or 3 channels, got 4"):
        data.web_dataset(f"{folder}/*.tar", channels=4)
    for names in (["a", "b"], ["a", "b", "b"]):
        with pytest.raises(ValueError, match=r"expected different names for at least 3 classes, got [23]: \('a', 'b'"):
            data.web_dataset(f"{folder}/*.tar", class_names=names)


def test_a_picture_that_cannot_be_decoded_is_named(folder):
    write(folder / "x.tar", {"a.png": b"no picture", "a.cls": b"0"})
    with pytest.raises(PictureError, match=r"x.tar', byte 1,024: expected a picture"):
        data.web_dataset(f"{folder}/x.tar")[0]


def test_parts_and_fitted_pictures_are_those_of_files(folder, tmp_path):
    rows, columns = np.mgrid[:200, :320]
    smooth = np.stack([rows, columns // 2, 255 - rows], axis=2).astype(np.uint8)
    for name in ("a", "b"):
        (tmp_path / "files" / name).mkdir(parents=True)
        Image.fromarray(smooth).save(tmp_path / "files" / name / "one.jpg")
    content = (tmp_path / "files" / "a" / "one.jpg").read_bytes()
    write(folder / "x.tar", {"a.jpg": content, "a.cls": b"0", "b.jpg": content[:1000], "b.cls": b"0"})
    source, files = data.web_dataset(f"{folder}/x.tar"), data.image_folder(tmp_path / "files")
    fit, crop = data.FitPicture((20, 30, 3)), data.RandomResizedCrop((16, 16))
    np.testing.assert_array_equal(
        data.resized(source, fit, keep=False)[0]["image"], data.resized(files, fit, keep=False)[0]["image"]
    )
    for seed in range(5):
        found, expected = (crop.read(np.random.default_rng(seed), each, 0) for each in (source, files))
        np.testing.assert_array_equal(found["image"], expected["image"])
        assert found["label"] == 0
    with pytest.raises(PictureError, match=r"x.tar', byte [\d,]+: expected a picture in the given bytes"):
        crop.read(np.random.default_rng(0), source, 1)
    with pytest.raises(ValueError, match=r"expected images of 3 channels, as they are read, got FitPicture\(\(4, 4, 1"):
        source.fitted(0, data.FitPicture((4, 4, 1)))
