"""Pictures with objects in the XML format of Pascal VOC: what is read, and what is refused."""

import numpy as np
import pytest
from object_folders import write_picture

from jaxcnn.data import load, voc
from jaxcnn.data.sources import picture_index

pytest.importorskip("PIL")

OBJECT = """
  <object>
    <name>{name}</name>
    <difficult>{difficult}</difficult>
    <bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox>
    <part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
  </object>"""
FILE = """<annotation>
  <filename>{stem}.jpg</filename>
  <size><width>60</width><height>40</height><depth>3</depth></size>{objects}
</annotation>
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(picture_index, "cache_folder", lambda: folder)


def write(folder, stem, *objects):
    """Writes a picture and its objects, each of a name, whether it is difficult, and its box."""
    write_picture(folder / "JPEGImages" / f"{stem}.jpg", 40, 60)
    text = "".join(OBJECT.format(*box, name=name, difficult=difficult) for name, difficult, box in objects)
    file = folder / "Annotations" / f"{stem}.xml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(FILE.format(stem=stem, objects=text))
    return file


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "a", ("dog", 0, (1, 1, 60, 40)), ("cat", 1, (11, 6, 20, 25)))
    write(tmp_path, "b")
    write(tmp_path, "c", ("dog", 0, (5, 5, 5, 5)))
    return tmp_path


def test_boxes_count_pixels_from_one(folder):
    source = voc(folder)
    assert source.class_names == ("cat", "dog")
    example = source[0]
    np.testing.assert_array_equal(example["boxes"], [[0, 0, 60, 40], [10, 5, 20, 25]])
    assert example["classes"].tolist() == [1, 0]
    assert example["difficult"].tolist() == [False, True]
    assert source[1]["valid"].tolist() == [False, False]
    np.testing.assert_array_equal(source[2]["boxes"][0], [4, 4, 5, 5])


def test_boxes_may_count_pixels_from_zero(folder):
    write(folder, "d", ("cat", 0, (0, 3, 60, 40)))
    with pytest.raises(
        ValueError, match=r"pixels that count from 1.*\n.*d.xml, line 4: xmin or ymin is 0\n.*one_based=False"
    ):
        voc(folder)
    source = load(f"voc:{folder}", one_based=False, clip_boxes=True)
    np.testing.assert_array_equal(source[3]["boxes"][0], [0, 3, 60, 40])


def test_lists_are_parts(folder):
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("c\na\n")
    (lists / "val.txt").write_text("b -1\n")
    parts = voc(folder)
    assert {name: len(part) for name, part in parts.items()} == {"train": 2, "validation": 1}
    assert parts["train"][1]["valid"].sum() == 2
    (lists / "val.txt").write_text("b\nz\n")
    with pytest.raises(ValueError, match=r"names of .xml files in Annotations.*val.txt', got:\n  line 2: z"):
        voc(folder)


def test_everything_may_lie_in_one_folder(folder):
    for name in ("JPEGImages", "Annotations"):
        for file in (folder / name).iterdir():
            file.rename(folder / file.name)
        (folder / name).rmdir()
    assert len(voc(folder)) == 3


def test_classes_may_have_another_order(folder):
    source = voc(folder, class_names=["dog", "bird", "cat"])
    assert source[0]["classes"].tolist() == [0, 2]
    with pytest.raises(ValueError, match=r"objects of the classes dog, .*\n.*a.xml, line 10: 'cat'"):
        voc(folder, class_names=["dog"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("<name>dog</name>", ""), "a.xml, line 4: an object without a name"),
        (("<xmin>1</xmin>", "<xmin>?</xmin>", 1), r"a.xml, line 4: an object with the box \['\?', '1', '60', '40'\]"),
        (
            ("<ymin>1</ymin>", "<ymin>nan</ymin>", 1),
            r"a.xml, line 4: an object with the box \['1', 'nan', '60', '40'\]",
        ),
        (("<bndbox>", "<box>"), r"a.xml, line \d+: mismatched tag"),
        (("annotation>", "annotations>"), "a.xml, line 1: <annotations> rather than <annotation>"),
        (("<xmax>60", "<xmax>61"), r"a.xml, line 4: the box \(0, 0, 61, 40\), .* reaches beyond its image of 40x60"),
        (("<xmax>20", "<xmax>10"), r"a.xml, line 10: the box \(10, 5, 10, 25\), .* is empty"),
        (("<width>60", "<width>61"), r"a.xml: 'JPEGImages/a.jpg' is 40x60, but is annotated as 40x61"),
        (("<width>60", "<width>wide"), r"a.xml, line 3: a size of '40' x 'wide'"),
    ],
)
def test_faults_are_named_with_file_and_line(folder, change, message):
    file = folder / "Annotations" / "a.xml"
    file.write_text(file.read_text().replace(*change))
    with pytest.raises(ValueError, match=message):
        voc(folder)


def test_pictures_without_a_size_in_the_file_are_measured(folder):
    file = folder / "Annotations" / "a.xml"
    file.write_text(file.read_text().replace("size>", "sized>"))
    assert len(voc(folder)) == 3


def test_missing_files_are_refused(folder, tmp_path_factory):
    (folder / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(ValueError, match=r"b.xml has no picture b.jpg or of another extension"):
        voc(folder)
    with pytest.raises(FileNotFoundError, match=r"expected .xml files in .*nowhere"):
        voc(folder / "nowhere")


def test_a_set_without_any_object_is_refused(tmp_path):
    write(tmp_path, "a")
    with pytest.raises(ValueError, match=r"expected an object in the .xml files of"):
        voc(tmp_path)
