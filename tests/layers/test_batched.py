import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import batched
from jaxcnn.layers import Batched, Conv, Dense, Dropout, Function


def add_index_of_batch(x):
    return x + jax.lax.axis_index("row").astype(x.dtype)


def test_each_image_is_mapped_with_the_same_parameters():
    params = {"kernel": jnp.array([[2.0], [3.0]]), "bias": jnp.array([1.0])}
    outputs, state = batched(Dense(2, 1))(params, {}, jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), train=False)
    np.testing.assert_array_equal(outputs, [[3], [4], [6]])
    assert state == {}


def test_each_image_has_its_own_key(key):
    outputs, _ = batched(Dropout(0.5))({}, {}, jnp.ones((4, 100)), train=True, key=key)
    assert len({np.asarray(row).tobytes() for row in outputs}) == 4


def test_the_axis_has_the_name_that_was_given():
    layer = Function(add_index_of_batch)
    outputs, _ = batched(layer, axis_name="row")({}, {}, jnp.zeros((3, 2)), train=False)
    np.testing.assert_array_equal(outputs, [[0, 0], [1, 1], [2, 2]])
    with pytest.raises(NameError, match="row"):
        batched(layer)({}, {}, jnp.zeros((3, 2)), train=False)


def test_a_batched_layer_is_a_value():
    assert batched(Conv(3, 4)) == batched(Conv(3, 4)) == Batched(Conv(3, 4), "batch")
    assert hash(batched(Conv(3, 4))) == hash(batched(Conv(3, 4)))
    assert batched(Conv(3, 4)) != batched(Conv(3, 5))
    assert batched(Conv(3, 4)) != batched(Conv(3, 4), "row")
    assert repr(batched(Conv(3, 4))) == "Batched(Conv(3, 4))"


def test_equal_batched_layers_are_traced_once():
    traces = []

    def count(x):
        traces.append(x)
        return x

    # jax forgets the programs of a function that no longer exists.
    compiled = [jax.jit(batched(Function(count)), static_argnames="train") for _ in range(3)]
    for function in compiled:
        function({}, {}, jnp.ones((2, 3)), train=False)
    assert len(traces) == 1


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (0,), (3,), ()])
def test_what_is_no_batch_is_refused(shape):
    with pytest.raises(ValueError, match=r"batched expects a batch of images of shape \(batch, .* got \("):
        batched(Conv(3, 4))({}, {}, jnp.ones(shape), train=False)


def test_one_image_without_its_batch_axis_is_refused(key):
    layer = Conv(3, 4)
    with pytest.raises(ValueError, match=r"conv expects one image of shape \(height, width, channels\), got \(4, 3\)"):
        batched(layer)(*layer.init(key), jnp.ones((4, 4, 3)), train=False)
