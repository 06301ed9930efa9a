import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from jaxcnn.data import Batches, gather, manifest, split
from jaxcnn.data.sources import picture_index
from jaxcnn.training.experiment import choose_task


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(picture_index, "cache_folder", lambda: folder)


def pixels(seed, shape=(4, 5, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def write(tmp_path):
    """Writes a table, and the pictures 0.png to 5.png beside it; returns its path."""
    (tmp_path / "p").mkdir()
    for i in range(6):
        Image.fromarray(pixels(i)).save(tmp_path / "p" / f"{i}.png")

    def write(text, name="table.csv", encoding="utf-8"):
        (tmp_path / name).write_text(text, encoding=encoding, newline="")
        return tmp_path / name

    return write


def rows(header, *labels):
    return f"path,{header}\n" + "".join(f"p/{i}.png,{label}\n" for i, label in enumerate(labels))


def labels(source):
    (name,) = (name for name in source.spec if name != "image")
    return gather(source, np.arange(len(source)), [name])[name]


def test_classes_are_read_by_name(write):
    source = manifest(write(rows("label", "dog", "cat", "dog", "ape")))
    assert source.class_names == ("ape", "cat", "dog")
    np.testing.assert_array_equal(labels(source), np.int32([2, 1, 2, 0]), strict=True)
    for i in range(4):
        np.testing.assert_array_equal(source[i]["image"], pixels(i))
    assert Batches(source, 4, seed=0)[0]["image"].shape == (4, 4, 5, 3)
    assert type(choose_task(source)).__name__ == "Classification"
    assert manifest(source.root + "/table.csv", channels=1)[0]["image"].shape == (4, 5, 1)


def test_classes_that_are_numbers_are_in_their_order(write):
    source = manifest(write(rows("class", "10", "2", "0", "2")))
    assert source.class_names == ("0", "2", "10")
    np.testing.assert_array_equal(labels(source), [2, 1, 0, 1])


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("path;label\np/0.png;a, b\np/1.png;c\n", "utf-8"),
        ("\ufeffpath\tlabel\r\np/0.png\ta, b\r\n\r\np/1.png\tc\r\n", "utf-8"),
        ('label,path\n"a, b",p/0.png\nc,"p/1.png"', "utf-8"),
        ('Path, Label\n p/0.png, "a, b"\np/1.png, c', "utf-8"),
    ],
)
def test_every_usual_form_of_csv_is_read(write, text, encoding):
    source = manifest(write(text, encoding=encoding))
    assert source.names == ("p/0.png", "p/1.png")
    assert source.class_names == ("a, b", "c")


def test_names_with_spaces_unicode_and_line_breaks_are_read(write, tmp_path):
    for i, name in enumerate(("with space.png", "größe.png", "new\nline.png")):
        shutil.copy(tmp_path / "p" / f"{i}.png", tmp_path / name)
    source = manifest(write('path,label\nwith space.png,a\ngröße.png,b\n"new\nline.png","c\nd"\np/4.png,b\n'))
    assert source.class_names == ("a", "b", "c\nd")
    for i in range(3):
        np.testing.assert_array_equal(source[i]["image"], pixels(i))
    with pytest.raises(ValueError, match=r"\n  line 6 has none"):
        manifest(write('path,label\nwith space.png,a\ngröße.png,b\n"new\nline.png",a\np/4.png,\n'))


def test_blanks_around_a_value_do_not_matter(write):
    parts = manifest(write("path,label,split\np/0.png, a ,train \np/1.png,b\t, train\np/2.png,a, val\n"))
    assert parts["train"].class_names == ("a", "b")
    assert [labels(part).tolist() for part in parts.values()] == [[0, 1], [0]]


def test_a_picture_is_the_same_by_any_path(write, tmp_path):
    with pytest.raises(ValueError, match=r"line 4 lists '.*/p/0\.png' again, after line 2"):
        manifest(write(rows("label", "a", "b") + f"{tmp_path}/p/0.png,b\n"))


def test_several_classes_are_zeros_and_ones(write):
    source = manifest(write(rows("tags", "cat|dog", "", "dog", "cat | ape")), separator="|")
    assert source.class_names == ("ape", "cat", "dog")
    expected = np.uint8([[0, 1, 1], [0, 0, 0], [0, 0, 1], [1, 1, 0]])
    np.testing.assert_array_equal(labels(source), expected, strict=True)
    assert type(choose_task(source)).__name__ == "MultiLabel"
    columns = manifest(write(rows("cat,ape,dog", "1,0,1", "0,0,0", "0,0,1", "1,1,0")), label=["ape", "cat", "dog"])
    np.testing.assert_array_equal(labels(columns), expected, strict=True)
    assert columns.class_names == source.class_names
    other = manifest(source.root + "/table.csv", label=["ape", "cat", "dog"], class_names=("dog", "ape", "cat"))
    np.testing.assert_array_equal(labels(other), expected[:, [2, 0, 1]])
    batch = Batches(source, 4, seed=0)[0]
    assert batch["label"].shape == (4, 3)


def test_numbers_are_targets(write):
    source = manifest(write(rows("target", "1.5", "-2", "3e1", "0")))
    np.testing.assert_array_equal(labels(source), np.float32([[1.5], [-2], [30], [0]]), strict=True)
    assert source.class_names == ()
    assert type(choose_task(source)).__name__ == "Regression"
    whole = write(rows("label", "1", "2", "3"))
    assert manifest(whole).class_names == ("1", "2", "3")
    np.testing.assert_array_equal(labels(manifest(whole, kind="numbers")), np.float32([[1], [2], [3]]))
    pairs = manifest(write(rows("x,y", "1,2", "3,4", "0,1")), label=("x", "y"))
    np.testing.assert_array_equal(labels(pairs), np.float32([[1, 2], [3, 4], [0, 1]]), strict=True)
    assert len(split(manifest(write(rows("target", *"012345")), kind="numbers"))["train"]) == 4


def test_a_column_names_the_parts(write):
    text = rows("label,split", "a,train", "b,Train", "a,val", "b,test", "a,train")
    parts = manifest(write(text))
    assert {name: part.names for name, part in parts.items()} == {
        "train": ("p/0.png", "p/1.png", "p/4.png"),
        "validation": ("p/2.png",),
        "test": ("p/3.png",),
    }
    assert parts["test"].class_names == ("a", "b")
    parts = manifest(write(text.replace("split", "fold")), split="fold")
    np.testing.assert_array_equal(labels(parts["train"]), [0, 1, 0])


def test_columns_of_other_names_are_named(write):
    table = write("photo,kind,note\np/0.png,a,x\np/1.png,b,y\n")
    with pytest.raises(
        ValueError, match=r"a column of paths of pictures, such as 'path', .* got 'photo', 'kind', 'note'"
    ):
        manifest(table)
    with pytest.raises(
        ValueError, match=r"a column of labels, such as 'label', .*; name it: label=, on the command line --labels$"
    ):
        manifest(table, image="photo")
    assert manifest(table, image="photo", label="kind").class_names == ("a", "b")
    with pytest.raises(ValueError, match=r"the column 'sort' in '.*table.csv', got 'photo', 'kind', 'note'"):
        manifest(table, image="photo", label="sort")
    with pytest.raises(ValueError, match=r"the column 'part' in '.*table.csv', got"):
        manifest(table, image="photo", label="kind", split="part")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "a row for each picture in .*, got none"),
        ("path,label\n", {}, "a row for each picture in .*, got none"),
        ("path,path\np/0.png,a\n", {}, "columns of different names in .*, got 'path' twice"),
        ("path,label\np/0.png,a\np/1.png\n", {}, r"2 values in every row(.|\n)*line 3 has 1"),
        ('path,label\np/0.png,"a\n', {}, r"expected CSV in '.*table.csv', line 2, got: unexpected end of data"),
        (rows("label", "a", "a"), {}, "at least two classes in .*, got 'a'"),
        (rows("label", "a", ""), {}, r"a class for every picture(.|\n)*line 3 has none"),
        (rows("label", "a", "b", "c"), {"class_names": ("a", "b")}, r"the classes 'a', 'b', (.|\n)*line 4 has 'c'"),
        (rows("tags", "a|b", "c"), {"separator": "|", "class_names": "ab"}, r"line 3 has the class 'c'"),
        (rows("tags", "a|b", "c"), {"kind": "multi-label"}, "a separator for several classes in the column 'tags'"),
        (rows("label", "1.5", "x"), {"kind": "numbers"}, r"finite numbers in the column label(.|\n)*line 3 has 'x'"),
        (rows("label", "1.5", "inf"), {"kind": "numbers"}, "line 3 has 'inf'"),
        (rows("x,y", "1,2", "3,"), {"label": ("x", "y")}, r"numbers in the columns x, y(.|\n)*line 3 has '' in 'y'"),
        (
            rows("x,y", "1,2", "0,1"),
            {"label": ("x", "y"), "kind": "multi-label"},
            r"0 or 1 in the columns(.|\n)*line 2",
        ),
        (rows("x,y", "1,2"), {"label": ("x", "y"), "kind": "classes"}, "one column of classes, got 'x', 'y'"),
        (rows("x,y", "1,0"), {"label": ("x", "y"), "class_names": "xz"}, "a column for each of the classes"),
        (rows("x,y", "1,0"), {"label": ("x", "x")}, "different columns of labels"),
        (
            rows("label,split", "a,train", "b,dev"),
            {},
            r"train, val or test in the column 'split'(.|\n)*line 3 has 'dev'",
        ),
        (
            rows("label,split", "a,val", "b,test"),
            {},
            "the part 'train' in the column 'split' of .*, got validation, test",
        ),
        (rows("label,split", "a,train", "b,test"), {}, "training pictures of every class in .*, got none of 'b'"),
        ("path,label\n,a\n", {"class_names": "ab"}, r"a picture in every row(.|\n)*line 2 has the path ''"),
        ("path,label\np/0.png,a\np/1.png,b\n./p/0.png,b\n", {}, r"line 4 lists './p/0.png' again, after line 2"),
        (rows("label", "1.5", "nan", "2"), {}, r"finite numbers in the column label(.|\n)*line 3 has 'nan'"),
        (rows("label", "1.5", "", "2"), {}, r"finite numbers in the column label(.|\n)*line 3 has ''"),
        ("path,label\np/0.png,a\np/9.png,b\n", {}, r"line 3: '.*p/9.png', which cannot be read: No such file"),
        ("path,label\np/0.png,a\ntable.csv,b\n", {}, r"line 3: expected a picture in '.*table.csv' .*another format"),
        ("path,label\np/0.png,a\np,b\n", {}, r"line 3: '.*p', which is not a regular file"),
        (rows("label", "a", "b"), {"channels": 2}, "manifest expects 1 or 3 channels, got 2"),
        (
            rows("label", "a", "b"),
            {"kind": "class"},
            "kind to be one of auto, classes, multi-label, numbers, got 'class'",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_line(write, text, options, message):
    with pytest.raises(ValueError, match=message):
        manifest(write(text), **options)


def test_files_that_are_no_tables_are_refused(write, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file '.*none.csv'; expected a table of pictures"):
        manifest(tmp_path / "none.csv")
    with pytest.raises(ValueError, match=r"the extension .csv, .tsv, .parquet, got '.*table.txt'"):
        manifest(write("", name="table.txt"))
    (tmp_path / "latin.csv").write_bytes("path,label\np/0.png,größe\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"expected CSV in UTF-8 in '.*latin.csv', got: 'utf-8' codec can't decode"):
        manifest(tmp_path / "latin.csv")


def test_files_that_are_no_pictures_may_be_left_out(write, tmp_path):
    table = write(
        "path,label,split\np/0.png,a,train\np/9.png,b,train\np/1.png,b,train\np/8.png,a,test\np/2.png,a,val\n"
    )
    with pytest.raises(ValueError, match=r"pictures of the part 'test' in .*, got none that can be read"):
        manifest(table, skip_bad=True)
    parts = manifest(write(table.read_text().replace("test", "val")), skip_bad=True)
    assert [len(part) for part in parts.values()] == [2, 1]
    assert [fault.partition(":")[0] for fault in parts["train"].faults] == ["line 3", "line 5"]


def test_the_fingerprint_does_not_depend_on_the_place(write, tmp_path):
    source = manifest(write(rows("label", "a", "b")))
    shutil.copytree(tmp_path, tmp_path.parent / "copy", copy_function=shutil.copyfile)
    assert manifest(tmp_path.parent / "copy" / "table.csv").fingerprint == source.fingerprint
    assert manifest(write(rows("label", "b", "a"))).fingerprint != source.fingerprint


def test_parquet_is_read_as_csv(write, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    paths = [f"p/{i}.png" for i in range(4)]

    def table(**columns):
        parquet.write_table(pyarrow.table({"path": paths, **columns}), tmp_path / "table.parquet")
        return tmp_path / "table.parquet"

    source = manifest(table(label=["b", "a", "b", "a"], split=["train", "train", "test", "val"], raw=[b"x"] * 4))
    assert labels(source["train"]).tolist() == [1, 0]
    assert manifest(table(label=[3, 1, 3, 2])).class_names == ("1", "2", "3")
    np.testing.assert_array_equal(
        labels(manifest(table(target=[0.5, 1.0, 2.0, 3.0]))), np.float32([[0.5], [1], [2], [3]])
    )
    several = manifest(table(labels=[["a", "b"], [], ["b"], ["c"]]))
    np.testing.assert_array_equal(labels(several), [[1, 1, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert manifest(table(a=[True, False, True, True], b=[0, 0, 1, 1]), label=("a", "b")).class_names == ("a", "b")
    with pytest.raises(ValueError, match=r"a list of classes in every row of the column 'labels'(.|\n)*row 2"):
        manifest(table(labels=[["a"], None, [], ["b"]]))
    with pytest.raises(ValueError, match=r"a class for every picture(.|\n)*row 2 has none"):
        manifest(table(label=["a", None, "b", "b"]))
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"expected Parquet in '.*table.parquet', got: "):
        manifest(tmp_path / "table.parquet")


def test_without_pyarrow_csv_is_advised(write, tmp_path, monkeypatch):
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"Parquet files are read by pyarrow; pip install pyarrow, or write a .csv"):
        manifest(tmp_path / "table.parquet")
