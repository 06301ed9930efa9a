import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jaxcnn import trees
from jaxcnn.layers import Conv, Dense, arithmetic, identity, output_shape
from jaxcnn.models import lenet5, lenet5_1998
from jaxcnn.models.lenet import C3_TABLE, Gaussian, Subsampling, TableConv, fan_in_uniform, scaled_tanh

IMAGE = (32, 32, 1)

# Table I of the paper as it is printed: a row for each map of S2, an X where the map of C3 in that column sees it.
TABLE_I = """
X...XXX..XXXX.XX
XX...XXX..XXXX.X
XXX...XXX..X.XXX
.XXX..XXXX..X.XX
..XXX..XXXX.XX.X
...XXX..XXXX.XXX
"""


def parameters_by_layer(model, image_shape=IMAGE):
    return {row.path: row.parameters for row in arithmetic(model, image_shape) if row.parameters}


def shapes_by_layer(model, image_shape=IMAGE):
    return {row.path: row.output_shape for row in arithmetic(model, image_shape)}


def draw(layer):
    """Draws parameters and state by shape, all different."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(layer.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)


# LeNet-5 of today


def test_lenet5_has_its_parameters():
    layers = parameters_by_layer(lenet5())
    assert layers == {"conv1": 156, "conv2": 2416, "dense1": 48_120, "dense2": 10_164, "head": 850}
    assert sum(layers.values()) == 61_706
    assert trees.count(jax.eval_shape(lenet5().init, jax.random.key(0))[0]) == 61_706


def test_lenet5_has_its_maps():
    shapes = shapes_by_layer(lenet5())
    names = ("conv1", "pool1", "conv2", "pool2", "flatten", "dense1", "dense2", "head")
    assert [shapes[name] for name in names] == [
        (28, 28, 6),
        (14, 14, 6),
        (10, 10, 16),
        (5, 5, 16),
        (400,),
        (120,),
        (84,),
        (10,),
    ]


@pytest.mark.usefixtures("float64")
def test_lenet5_computes_what_its_layers_say(key):
    model = lenet5()
    params, state = draw(model)
    x = np.random.default_rng(1).normal(size=IMAGE)
    y, _ = model.apply(params, state, jnp.asarray(x), train=False)
    for name in ("conv1", "conv2"):
        x = np.maximum(reference.conv(x, params[name]["kernel"], params[name]["bias"], padding="VALID"), 0)
        x = reference.max_pool(x, 2)
    x = x.ravel()
    for name in ("dense1", "dense2"):
        x = np.maximum(x @ params[name]["kernel"] + params[name]["bias"], 0)
    np.testing.assert_allclose(y, x @ params["head"]["kernel"] + params["head"]["bias"], rtol=1e-9)


@pytest.mark.usefixtures("float64")
def test_lenet5_1998_computes_what_the_paper_says(key):
    model = lenet5_1998(partial_connections=False)
    params, state = draw(model)
    # Small numbers, so that no unit saturates.
    params = jax.tree.map(lambda leaf: 0.1 * leaf, params)
    x = np.random.default_rng(1).normal(size=IMAGE)
    y, _ = model.apply(params, state, jnp.asarray(x), train=False)

    def squash(x):
        return 1.7159 * np.tanh(2 / 3 * x)

    for conv, subsampling in (("c1", "s2"), ("c3", "s4")):
        x = squash(reference.conv(x, params[conv]["kernel"], params[conv]["bias"], padding="VALID"))
        x = 4 * reference.avg_pool(x, 2) * params[subsampling]["scale"] + params[subsampling]["bias"]
        x = squash(x)
    x = squash(reference.conv(x, params["c5"]["kernel"], params["c5"]["bias"], padding="VALID")).ravel()
    x = squash(x @ params["f6"]["kernel"] + params["f6"]["bias"])
    distances = ((x[:, None] - np.asarray(state["head"]["mean"], np.float64)) ** 2).sum(0)
    np.testing.assert_allclose(y, -distances / 2, rtol=1e-9)


def test_lenet5_takes_images_of_other_sizes():
    model = lenet5(7, in_channels=3, image_size=(28, 20))
    assert output_shape(model, (28, 20, 3)) == (7,)
    # (28 - 4) / 2 = 12, (12 - 4) / 2 = 4; (20 - 4) / 2 = 8, (8 - 4) / 2 = 2.
    assert model["dense1"].in_features == 4 * 2 * 16


@pytest.mark.parametrize(
    ("image_size", "message"),
    [(11, "a kernel that fits the padded image of 3x3 pixels, got one that spans 5x5"), (15, "a window that fits")],
)
def test_lenet5_refuses_images_too_small_for_its_kernels(image_size, message):
    with pytest.raises(ValueError, match=message):
        lenet5(image_size=image_size)
    assert lenet5(image_size=16)["dense1"].in_features == 16


# LeNet-5 of 1998


def test_lenet5_1998_has_the_parameters_of_the_paper():
    layers = parameters_by_layer(lenet5_1998())
    assert layers == {"c1": 156, "s2": 12, "c3": 1516, "s4": 32, "c5": 48_120, "f6": 10_164}
    assert sum(layers.values()) == 60_000


def test_lenet5_1998_has_the_maps_of_the_paper():
    shapes = shapes_by_layer(lenet5_1998())
    assert [shapes[name] for name in ("c1", "s2", "c3", "s4", "c5", "f6", "head")] == [
        (28, 28, 6),
        (14, 14, 6),
        (10, 10, 16),
        (5, 5, 16),
        (1, 1, 120),
        (84,),
        (10,),
    ]


def test_lenet5_1998_has_the_connections_of_the_paper():
    # Section II.B: connections count the products of a layer and its biases, each once for every output.
    rows = {row.path: row for row in arithmetic(lenet5_1998(), IMAGE)}
    connections = {
        name: rows[name].multiply_adds + np.prod(rows[name].output_shape) for name in ("c1", "c3", "c5", "f6")
    }
    assert connections == {"c1": 122_304, "c3": 151_600, "c5": 48_120, "f6": 10_164}
    # A map of the subsampling layers has four inputs and a bias for each output.
    assert 5 * np.prod(rows["s2"].output_shape) == 5880
    assert 5 * np.prod(rows["s4"].output_shape) == 2000


def test_lenet5_1998_without_its_peculiarities():
    model = lenet5_1998(7, partial_connections=False, gaussian_output=False)
    assert model["c3"].in_channels == 6
    assert isinstance(model["c3"], Conv)
    assert model["head"] == Dense(84, 7, kernel_init=fan_in_uniform)
    assert parameters_by_layer(model)["c3"] == 25 * 6 * 16 + 16
    assert output_shape(model, IMAGE) == (7,)


def test_the_table_is_that_of_the_paper():
    rows = TABLE_I.split()
    assert [sum(column) for column in (np.array([list(row) for row in rows]) == "X").T] == [3] * 6 + [4] * 9 + [6]
    for output, inputs in enumerate(C3_TABLE):
        assert inputs == tuple(i for i, row in enumerate(rows) if row[output] == "X")


def test_maps_of_c3_see_the_maps_of_the_table(key):
    layer = TableConv(6, C3_TABLE)
    params, state = layer.init(key)
    x = jax.random.normal(key, (5, 5, 6))
    jacobian = jax.jacobian(lambda x: layer.apply(params, state, x, train=False)[0][0, 0])(x)
    seen = np.asarray(jacobian != 0).all((1, 2))
    np.testing.assert_array_equal(seen, np.array([list(row) for row in TABLE_I.split()]).T == "X")
    np.testing.assert_array_equal(seen, np.asarray(jacobian != 0).any((1, 2)))


@pytest.mark.usefixtures("float64")
def test_a_table_convolution_is_a_convolution_of_the_maps_it_sees(key):
    table = ((2,), (0, 1), (2, 0))
    layer = TableConv(3, table)
    params, state = draw(layer)
    assert params["kernel"].shape == (5, 5, 5)
    x = np.random.default_rng(1).normal(size=(7, 8, 3))
    y, _ = layer.apply(jax.tree.map(jnp.asarray, params), state, jnp.asarray(x), train=False)
    first = 0
    for output, inputs in enumerate(table):
        kernel = params["kernel"][:, :, first : first + len(inputs), None]
        first += len(inputs)
        expected = reference.conv(x[..., list(inputs)], kernel, params["bias"][output], padding="VALID")
        np.testing.assert_allclose(y[..., output], expected[..., 0], rtol=1e-10)


def test_connections_of_the_table_start_by_the_fan_in_of_their_map(key):
    layer = TableConv(6, C3_TABLE)
    kernel = np.asarray(layer.init(key)[0]["kernel"])
    first = 0
    for inputs in C3_TABLE:
        taps = kernel[:, :, first : first + len(inputs)]
        first += len(inputs)
        limit = 2.4 / (25 * len(inputs))
        assert np.abs(taps).max() <= limit
        assert np.abs(taps).max() > 0.8 * limit
    np.testing.assert_array_equal(layer.init(key)[0]["bias"], 0)


@pytest.mark.parametrize("row", [(), (0, 0), (6,), (-1, 2)])
def test_a_table_that_makes_no_sense_is_refused(row):
    with pytest.raises(ValueError, match=r"TableConv expects rows of different input maps among 0 to 5, got \("):
        TableConv(6, ((0, 1), row))


@pytest.mark.usefixtures("float64")
def test_subsampling_weighs_the_sum_of_each_window(key):
    layer = Subsampling(3)
    params, state = draw(layer)
    x = np.random.default_rng(1).normal(size=(4, 6, 3))
    y, _ = layer.apply(params, state, jnp.asarray(x), train=False)
    sums = x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]
    np.testing.assert_allclose(y, sums * params["scale"] + params["bias"], rtol=1e-10)


def test_subsampling_starts_as_weights_of_four_inputs(key):
    params, _ = Subsampling(1000).init(key)
    scale = np.asarray(params["scale"])
    assert scale.min() < -0.59 < 0.59 < scale.max() <= 0.6
    np.testing.assert_array_equal(params["bias"], 0)


def test_subsampling_refuses_other_maps(key):
    with pytest.raises(ValueError, match=r"expects .* 6"):
        Subsampling(6).apply(*Subsampling(6).init(key), jnp.ones((4, 4, 1)), train=False)


@pytest.mark.usefixtures("float64")
def test_the_output_is_minus_half_the_squared_distance_to_each_code(key):
    layer = Gaussian(84, 10)
    params, state = layer.init(key)
    x = np.random.default_rng(0).normal(size=84)
    y, new_state = layer.apply(params, state, jnp.asarray(x), train=True)
    codes = np.asarray(state["mean"], np.float64)
    expected = [-0.5 * sum((x[i] - codes[i, j]) ** 2 for i in range(84)) for j in range(10)]
    np.testing.assert_allclose(y, expected, rtol=1e-10)
    assert new_state is state
    # A softmax over the logits is the share of each Gaussian's density.
    density = np.exp(-0.5 * ((x[:, None] - codes) ** 2).sum(0))
    np.testing.assert_allclose(jax.nn.softmax(y), density / density.sum(), rtol=1e-8)


def test_codes_are_of_two_values_and_not_trained(key):
    params, state = Gaussian(84, 10).init(key)
    assert params == {}
    assert set(np.unique(state["mean"])) == {-1, 1}
    assert len(np.unique(state["mean"], axis=1).T) == 10


def test_the_output_refuses_other_features(key):
    with pytest.raises(ValueError, match=r"Gaussian expects features of shape \(84,\), got \(1, 84\)"):
        Gaussian(84, 10).apply(*Gaussian(84, 10).init(key), jnp.ones((1, 84)), train=False)
    with pytest.raises(ValueError, match=r"Gaussian state: expected a dict of the names \('mean',\), got \(\)"):
        Gaussian(84, 10).apply({}, {}, jnp.ones(84), train=False)


def test_scaled_tanh_keeps_plus_and_minus_one():
    x = np.array([-1, 0, 1, 100, 0.3], np.float32)
    y = scaled_tanh(jnp.asarray(x))
    np.testing.assert_allclose(y[:3], [-1, 0, 1], atol=2e-5)
    np.testing.assert_allclose(y, 1.7159 * np.tanh(2 * x / 3), rtol=1e-6)
    # Its curvature is largest at one, which is why (appendix A).
    curvature = np.abs(np.diff(1.7159 * np.tanh(2 * np.linspace(0, 3, 3001) / 3), 2))
    assert abs(curvature.argmax() / 1000 - 1) < 0.02


def test_the_uniform_initializer_stays_within_its_limits(key):
    kernel = np.asarray(fan_in_uniform(key, (5, 5, 4, 50)))
    limit = 2.4 / 100
    assert np.abs(kernel).max() <= limit
    assert abs(kernel.var() / (limit**2 / 3) - 1) < 0.05
    assert abs(kernel.mean()) < 5 * limit / np.sqrt(3 * kernel.size)


@pytest.mark.parametrize("build", [lenet5, lenet5_1998])
def test_the_head_can_be_replaced(key, build):
    model = build()
    params, state = jax.eval_shape(model.init, key)
    params["head"], state["head"] = {}, {}
    backbone = functools.partial(model.replace(head=identity).apply, train=False)
    features, _ = jax.eval_shape(backbone, params, state, jax.ShapeDtypeStruct(IMAGE, jnp.float32))
    assert features.shape == (84,)


@pytest.mark.parametrize("build", [lenet5, lenet5_1998])
def test_images_of_other_sizes_are_refused(key, build):
    model = build()
    with pytest.raises(ValueError, match=r"features on the last axis, got shape \(.*\); put Flatten or a global"):
        jax.eval_shape(
            functools.partial(model.apply, train=False),
            *jax.eval_shape(model.init, key),
            jax.ShapeDtypeStruct((36, 36, 1), jnp.float32),
        )
