import numpy as np
import pytest

from jaxcnn import ops


def test_anchors_of_one_place_by_hand():
    (anchors,) = ops.anchor_boxes((8, 8), [(1, 1)], [(8, 16)], (0.25, 1.0))
    # Ratio 1/4 of size 8 is 16 wide and 4 high.
    expected = [[-8, -2, 8, 2], [-16, -4, 16, 4], [-4, -4, 4, 4], [-8, -8, 8, 8]]
    np.testing.assert_array_equal(anchors, np.float32(expected))


def test_places_go_row_by_row_and_steps_are_whole_quotients():
    # 100 // 3 = 33 down, 64 // 2 = 32 across.
    (anchors,) = ops.anchor_boxes((100, 64), [(3, 2)], [(2,)], (1.0,))
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    np.testing.assert_array_equal(centres, [[0, 0], [32, 0], [0, 33], [32, 33], [0, 66], [32, 66]])
    assert anchors.dtype == np.float32


def test_default_boxes_by_hand():
    (boxes,) = ops.default_boxes((100, 200), [(1, 1)], [[4.0]], scales=(0.25, 1.0))
    # Around the centre (100, 50): a quarter, a half, a quarter with ratio 4 and with ratio 1/4.
    expected = [[75, 37.5, 125, 62.5], [50, 25, 150, 75], [50, 43.75, 150, 56.25], [87.5, 25, 112.5, 75]]
    np.testing.assert_array_equal(boxes, np.float32(expected))


def test_default_scales_are_spaced_evenly():
    np.testing.assert_allclose(ops.default_scales(4, 0.2, 0.8), [0.2, 0.4, 0.6, 0.8, 1.0])


def test_grid_points_by_hand():
    grid = ops.grid_points([(2, 2), (1, 1)], (8, 16), offset=0.5)
    np.testing.assert_array_equal(grid.points, [[4, 4], [12, 4], [4, 12], [12, 12], [8, 8]])
    np.testing.assert_array_equal(grid.strides, [8, 8, 8, 8, 16])
    assert grid.level_sizes == (4, 1)
    apart = ops.grid_points([(3, 2)], (32,), image_size=(100, 64)).points
    np.testing.assert_array_equal(apart[-1], [32, 66])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.anchor_boxes((8, 8), [(1, 1)], [(8,), (16,)], (1.0,)), "expects sizes for each of 1 maps, got 2"),
        (lambda: ops.anchor_boxes((8, 8), [(1, 1)], [(8,)], (0.0,)), r"expects aspect_ratios above 0, got \(0.0,\)"),
        (lambda: ops.anchor_boxes((8, 8), [(0, 1)], [(8,)], (1.0,)), "map_sizes expects an int or a pair of ints"),
        (lambda: ops.default_boxes((8, 8), [(1, 1)], [[2]], scales=(0.5,)), "one scale for each of 1 maps and one"),
        (
            lambda: ops.default_boxes((8, 8), [(1, 1)], [[2]], scales=(0.5, 1), steps=(4, 8)),
            "expects steps for each of 1 maps, got 2",
        ),
        (lambda: ops.default_scales(1), "expects at least 2 levels, got 1; give the scales themselves"),
        (lambda: ops.grid_points([(2, 2)], (8, 16)), "grid_points expects strides for each of 1 maps, got 2"),
        (lambda: ops.grid_points([], ()), "grid_points expects strides for each of 0 maps, got 0"),
    ],
)
def test_refuses_levels_that_do_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()
