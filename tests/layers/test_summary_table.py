import jax
import pytest
from user_blocks import pyramid

from jaxcnn.layers import (
    AuxiliaryHeads,
    BatchNorm,
    Conv,
    Dense,
    Flatten,
    Function,
    GlobalAvgPool,
    Residual,
    Sequential,
    identity,
    summary,
)

MODEL = Sequential(
    stem=Conv(3, 64, 3, 2),
    relu=Function(jax.nn.relu),
    block=Residual(Sequential(conv=Conv(64, 64, use_bias=False), norm=BatchNorm(64))),
    pool=GlobalAvgPool(),
    head=Dense(64, 10),
)

TABLE = """\
path            kind           output shape  parameters  multiply-adds  receptive field
---------------------------------------------------------------------------------------
stem            Conv               16x16x64       1,792        442,368              3x3
relu            relu               16x16x64                                         3x3
block/conv      Conv               16x16x64      36,864      9,437,184              7x7
block/norm      BatchNorm          16x16x64         128                             7x7
block/shortcut  identity           16x16x64                                         3x3
block           Residual           16x16x64                                         7x7
pool            GlobalAvgPool            64                                         all
head            Dense                    10         650            640              all
---------------------------------------------------------------------------------------
total                                    10      39,434      9,880,192"""

ROWS = [line.split()[0] for line in TABLE.splitlines()[2:-2]]


def test_the_table_lists_the_layers_and_their_sums():
    assert str(summary(MODEL, (32, 32, 3))) == TABLE


def test_a_narrow_table_keeps_the_paths():
    table = summary(MODEL, (32, 32, 3))
    assert table.text(200) == TABLE
    for width in (20, 40, 60):
        lines = table.text(width).splitlines()
        assert [row.path for row in table.rows] == [line.split()[0] for line in lines if line.split()[0] in ROWS]
        assert max(len(line) for line in lines if not line.startswith(("total:", "columns hidden"))) <= width


def test_totals_are_numbers_too():
    table = summary(MODEL, (32, 32, 3))
    assert table.input_shape == (32, 32, 3)
    assert table.parameters == 3 * 9 * 64 + 64 + 64 * 9 * 64 + 2 * 64 + 64 * 10 + 10
    assert table.multiply_adds == 16 * 16 * (3 * 9 * 64 + 64 * 9 * 64) + 64 * 10
    assert table.totals() == [("total", "", "10", "39,434", "9,880,192", "")]
    assert all(len(cells) == len(table.HEADINGS) for cells in table.cells())


def test_auxiliary_heads_are_counted_apart():
    model = AuxiliaryHeads("aux", stem=Conv(3, 4), pool=GlobalAvgPool(), aux=Dense(4, 2), head=Dense(4, 2, False))
    table = summary(model, (8, 8, 3))
    assert (table.parameters, table.multiply_adds) == (27 * 4 + 4 + 8, 64 * 27 * 4 + 8)
    assert (table.auxiliary_parameters, table.auxiliary_multiply_adds) == (10, 8)
    assert table.totals()[1] == ("auxiliary heads, in training only", "", "", "10", "8", "")
    assert [line.split() for line in str(table).splitlines()[-2:]] == [
        ["total", "2", "120", "6,920"],
        ["auxiliary", "heads,", "in", "training", "only", "10", "8"],
    ]


def test_a_summary_is_a_value():
    assert summary(MODEL, (32, 32, 3)) == summary(MODEL, (32, 32, 3))
    assert summary(MODEL, (32, 32, 3)) != summary(MODEL, (64, 64, 3))


def test_a_model_without_layers_has_a_table_without_rows():
    table = summary(Sequential(), (4, 5, 3))
    assert table.rows == ()
    assert table.totals() == [("total", "", "4x5x3", "0", "0", "")]


def test_a_single_layer_has_a_row_without_a_path():
    (cells,) = summary(Flatten(), (4, 5, 3)).cells()
    assert cells == ("", "Flatten", "60", "", "", "all")


def test_functions_are_listed_by_their_own_names():
    model = Sequential(a=Function(jax.nn.gelu, approximate=False), b=identity)
    assert [cells[1] for cells in summary(model, (4,)).cells()] == ["gelu", "identity"]


def test_shapes_that_do_not_fit_are_refused_where_they_do_not():
    with pytest.raises(ValueError, match=r"conv expects an image of 3 channels .*, got 1") as caught:
        summary(MODEL, (8, 8, 1))
    assert caught.value.__notes__ == ["in layer 'stem'"]


def test_a_dict_of_maps_has_one_row_with_all_shapes_and_fields():
    (cells,) = [cells for cells in summary(pyramid(), (6, 5, 4)).cells() if cells[1] == "Pyramid"]
    assert cells == ("", "Pyramid", "3x3x5, 6x5x5", "", "", "5x5, 6x6")


def test_the_total_has_the_shapes_of_the_whole_result():
    assert summary(pyramid(), (8, 6, 4)).totals()[0][2] == "4x3x5, 8x6x5"
