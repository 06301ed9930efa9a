import pytest

from jaxcnn.tables import Table

TABLE = Table(
    ("name", "kind of thing", "count-up", "share (of all)"),
    [("a/long/name", "x", "1,234,567", "1 (2)"), ("b", "yy", "", "")],
    [("all of it", "", "1,234,567", "")],
    left=(0, 1),
    counts=(2,),
    spare=(3, 1),
)

WIDE = """\
name         kind of thing   count-up  share (of all)
-----------------------------------------------------
a/long/name  x              1,234,567           1 (2)
b            yy
-----------------------------------------------------
all of it                   1,234,567"""

BROKEN = """\
name         kind      count-     share
             of            up  (of all)
             thing
---------------------------------------
a/long/name  x      1,234,567     1 (2)
b            yy
---------------------------------------
all of it           1,234,567"""

ROUNDED = """\
name         kind   count-     share
             of         up  (of all)
             thing
------------------------------------
a/long/name  x       1.23M     1 (2)
b            yy
------------------------------------
all of it            1.23M
all of it: 1,234,567 count-up"""

NARROW = """\
name         count-
                 up
-------------------
a/long/name   1.23M
b
-------------------
all of it     1.23M
all of it: 1,234,567 count-up
columns hidden (narrow terminal): kind of thing, share (of all)"""


@pytest.mark.parametrize(
    ("width", "expected"),
    [(None, WIDE), (53, WIDE), (52, BROKEN), (39, BROKEN), (38, ROUNDED), (36, ROUNDED), (19, NARROW), (5, NARROW)],
)
def test_a_table_gives_way_step_by_step(width, expected):
    assert TABLE.text(width) == expected


def test_names_go_on_in_the_next_line():
    table = Table(("name", "n"), [("stage1/block0/conv1", "1"), ("x" * 30, "2")], [], (0,), (), ())
    assert table.text(20).splitlines()[2:] == ["stage1/block0/     1", "  conv1", "x" * 30 + "  2"]


def test_a_table_without_rows_has_its_headings():
    assert Table(("name", "n"), [], [], (0,), (), ()).text(80) == "name  n\n-------"
