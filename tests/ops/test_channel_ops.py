import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import ops


def numbered(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize(
    ("groups", "order"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 3, 1, 4, 2, 5]), (3, [0, 2, 4, 1, 3, 5])]
)
def test_channels_are_dealt_out_in_the_order_of_the_paper(groups, order):
    x = numbered(3, 2, 6)
    np.testing.assert_array_equal(ops.channel_shuffle(jnp.asarray(x), groups), x[..., order])


def test_shuffling_is_that_of_torch():
    torch = pytest.importorskip("torch")
    x = numbered(4, 5, 12)
    expected = torch.nn.functional.channel_shuffle(torch.from_numpy(x).permute(2, 0, 1)[None], 3)
    np.testing.assert_array_equal(ops.channel_shuffle(jnp.asarray(x), 3), expected[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("shape", [(6,), (3, 2, 6), (2, 3, 2, 6)])
def test_any_axes_may_stand_before_the_channels(shape):
    x = numbered(*shape)
    np.testing.assert_array_equal(ops.channel_shuffle(jnp.asarray(x), 2), x[..., [0, 3, 1, 4, 2, 5]])
    np.testing.assert_array_equal(ops.channel_slice(jnp.asarray(x), 1, 4), x[..., 1:4])


def test_a_slice_of_all_channels_is_the_image():
    x = numbered(3, 2, 6)
    np.testing.assert_array_equal(ops.channel_slice(jnp.asarray(x), 0, 6), x)


def test_the_dtype_stays():
    x = jnp.ones((2, 2, 4), jnp.bfloat16)
    assert ops.channel_shuffle(x, 2).dtype == ops.channel_slice(x, 0, 2).dtype == jnp.bfloat16


def test_gradients_go_back_to_the_channels_they_came_from():
    weights = numbered(2, 3, 6)
    shuffled = jax.grad(lambda x: jnp.sum(weights * ops.channel_shuffle(x, 2)))(jnp.zeros((2, 3, 6)))
    np.testing.assert_array_equal(np.asarray(shuffled)[..., [0, 3, 1, 4, 2, 5]], weights)
    sliced = jax.grad(lambda x: jnp.sum(ops.channel_slice(x, 2, 5)))(jnp.zeros((1, 1, 6)))
    np.testing.assert_array_equal(np.ravel(sliced), [0, 0, 1, 1, 1, 0])


@pytest.mark.parametrize("groups", [0, -2, 4, 2.0, True])
def test_groups_that_do_not_divide_the_channels_are_refused(groups):
    with pytest.raises(ValueError, match=rf"channel_shuffle expects .* divides 6 channels, got {groups}"):
        ops.channel_shuffle(jnp.ones((2, 2, 6)), groups)


@pytest.mark.parametrize(("start", "stop"), [(0, 7), (-1, 3), (3, 3), (4, 2), (0.0, 2), (False, True)])
def test_channels_that_are_not_there_are_refused(start, stop):
    with pytest.raises(ValueError, match=rf"0 <= start < stop <= 6, .* got start={start} and stop={stop}"):
        ops.channel_slice(jnp.ones((2, 2, 6)), start, stop)


@pytest.mark.parametrize("shape", [(), (3, 0)])
def test_an_array_without_channels_is_refused(shape):
    with pytest.raises(ValueError, match=r"channel_shuffle expects channels on the last axis, got shape \("):
        ops.channel_shuffle(jnp.ones(shape), 1)
    with pytest.raises(ValueError, match=r"channel_slice expects channels on the last axis, got shape \("):
        ops.channel_slice(jnp.ones(shape), 0, 1)


@pytest.mark.parametrize(("shape", "factor"), [((2, 3, 12), 2), ((1, 2, 18), 3), ((3, 2, 5), 1)])
def test_pixels_are_shuffled_as_in_torch_and_back(shape, factor):
    torch = pytest.importorskip("torch")
    x = numbered(*shape)
    y = ops.pixel_shuffle(jnp.asarray(x), factor)
    expected = torch.nn.functional.pixel_shuffle(torch.from_numpy(x).permute(2, 0, 1), factor).permute(1, 2, 0)
    np.testing.assert_array_equal(y, expected.numpy())
    np.testing.assert_array_equal(ops.pixel_unshuffle(y, factor), x)


def test_pixel_shuffle_lays_each_group_of_channels_out_in_a_square():
    x = jnp.arange(8).reshape(1, 1, 8)
    np.testing.assert_array_equal(ops.pixel_shuffle(x, 2)[..., 0], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(ops.pixel_shuffle(x, 2)[..., 1], [[4, 5], [6, 7]])


@pytest.mark.parametrize(
    ("op", "factor", "message"),
    [
        (ops.pixel_shuffle, 2, "pixel_shuffle expects a factor of at least 1 whose square divides 6 channels, got 2"),
        (ops.pixel_shuffle, 0, "pixel_shuffle expects a factor .* got 0"),
        (ops.pixel_unshuffle, 2, "pixel_unshuffle expects a factor of at least 1 that divides 4x9 pixels, got 2"),
        (ops.pixel_unshuffle, 1.0, "pixel_unshuffle expects a factor .* got 1.0"),
    ],
)
def test_pixel_shuffles_refuse_what_does_not_fit(op, factor, message):
    with pytest.raises(ValueError, match=message):
        op(jnp.zeros((4, 9, 6)), factor)
    with pytest.raises(ValueError, match=rf"{op.__name__} expects one image .* got \(1, 4, 9, 6\); map it"):
        op(jnp.zeros((1, 4, 9, 6)), 1)
