import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jaxcnn.layers import Conv, ConvTranspose, Initializer, count_parameters, output_shape

CONVS = {
    "plain": {},
    "strides": {"strides": (2, 3)},
    "valid": {"padding": "VALID", "kernel_size": (2, 4)},
    "pixels": {"padding": 2},
    "sides": {"padding": ((0, 2), (3, 1))},
    "dilation": {"dilation": (2, 3)},
    "groups": {"groups": 2},
    "depthwise": {"groups": 4, "out_channels": 8},
    "border": {"border": "reflect", "padding": 2},
    "no bias": {"use_bias": False},
}

TRANSPOSED = {
    "plain": {},
    "strides": {"strides": (1, 3), "kernel_size": (3, 2)},
    "valid": {"padding": "VALID"},
    "pixels": {"padding": 1, "kernel_size": 4},
    "sides": {"padding": ((0, 1), (1, 0))},
    "output padding": {"output_padding": (1, 0)},
    "dilation": {"dilation": (2, 3)},
    "groups": {"groups": 2},
    "no bias": {"use_bias": False},
}


def check_against_loops(layer, loops, options, seed):
    """Runs a layer on parameters that are all different, and the loops of the reference on the same numbers."""
    rng = np.random.default_rng(seed)
    params, state = jax.eval_shape(layer.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
    x = rng.normal(size=(7, 8, 4))
    y, new_state = layer.apply(params, state, jnp.asarray(x), train=False)
    assert new_state == state == {}
    options = {
        name: value for name, value in options.items() if name not in ("kernel_size", "out_channels", "use_bias")
    }
    np.testing.assert_allclose(y, loops(x, params["kernel"], params.get("bias"), **options), rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", CONVS)
def test_conv_computes_what_its_options_say(name):
    options = {"out_channels": 6, **CONVS[name]}
    check_against_loops(Conv(4, **options), reference.conv, options, seed=0)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", TRANSPOSED)
def test_conv_transpose_computes_what_its_options_say(name):
    options = {"out_channels": 6, "strides": 2, **TRANSPOSED[name]}
    check_against_loops(ConvTranspose(4, **options), reference.conv_transpose, options, seed=1)


@pytest.mark.parametrize(
    ("layer", "shapes"),
    [
        (Conv(4, 6), {"kernel": (3, 3, 4, 6), "bias": (6,)}),
        (Conv(4, 6, (5, 1), groups=2, use_bias=False), {"kernel": (5, 1, 2, 6)}),
        (ConvTranspose(4, 6), {"kernel": (2, 2, 4, 6), "bias": (6,)}),
        (ConvTranspose(4, 6, (3, 4), groups=2, use_bias=False), {"kernel": (3, 4, 2, 6)}),
    ],
    ids=repr,
)
def test_parameters_have_the_documented_shapes(layer, shapes):
    params, state = jax.eval_shape(layer.init, jax.random.key(0))
    assert {name: leaf.shape for name, leaf in params.items()} == shapes
    assert state == {}


@pytest.mark.parametrize(
    ("size", "padding_output"), [((1080, 1920, 3), (1076, 1916)), ((1920, 1080, 3), (1916, 1076))], ids=["hwc", "whc"]
)
@pytest.mark.parametrize(("filters", "parameters"), [(1, 75), (16, 1200)])
def test_filters_of_five_by_five_on_a_full_hd_image(size, padding_output, filters, parameters):
    layer = Conv(3, filters, 5, padding="VALID", use_bias=False)
    params, state = jax.eval_shape(layer.init, jax.random.key(0))
    assert params["kernel"].size == parameters == count_parameters(layer)
    image = jax.ShapeDtypeStruct(size, jnp.float32)
    y, _ = jax.eval_shape(lambda p, s, x: layer.apply(p, s, x, train=False), params, state, image)
    assert y.shape == (*padding_output, filters) == output_shape(layer, size)


def check_moments(values, variance):
    """Checks mean and variance to five standard deviations of their estimates, as of a normal sample."""
    values = np.asarray(values, np.float64).ravel()
    assert abs(values.mean()) < 5 * np.sqrt(variance / values.size)
    assert abs(values.var() / variance - 1) < 5 * np.sqrt(2 / values.size)


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [
        (Conv(16, 64), 9 * 16),
        (Conv(16, 64, (1, 5), groups=4), 5 * 4),
        (ConvTranspose(16, 64, 4), 16 * 16),
    ],
    ids=repr,
)
def test_kernels_start_with_variance_one_over_fan_in(key, layer, fan_in):
    params, _ = layer.init(key)
    check_moments(params["kernel"], 1 / fan_in)
    # A normal distribution cut off at two of its standard deviations, then stretched to the variance.
    assert np.abs(params["kernel"]).max() < 2 / 0.8796 / np.sqrt(fan_in)
    np.testing.assert_array_equal(params["bias"], 0)


def test_other_initializers_are_used(key):
    he_fan_out = Initializer(jax.nn.initializers.variance_scaling, scale=2.0, mode="fan_out", distribution="normal")
    layer = Conv(16, 64, kernel_init=he_fan_out, bias_init=jax.nn.initializers.ones)
    params, _ = layer.init(key)
    check_moments(params["kernel"], 2 / (9 * 64))
    np.testing.assert_array_equal(params["bias"], 1)


def test_kernel_and_bias_are_drawn_with_different_keys(key):
    normal = Initializer(jax.nn.initializers.normal)
    params, _ = Conv(1, 8, 1, kernel_init=normal, bias_init=normal).init(key)
    assert (params["kernel"].ravel() != params["bias"]).all()


@pytest.mark.parametrize("layer", [Conv, ConvTranspose])
def test_sizes_have_one_form_whatever_they_were_written_as(layer):
    short = layer(4, 6, 3, 2, 1, dilation=2)
    assert short == layer(4, 6, (3, 3), [2, 2], ((1, 1), (1, 1)), dilation=(2, 2))
    assert hash(short) == hash(layer(4, 6, [3, 3], (2, 2), [[1, 1], [1, 1]], dilation=(2, 2)))


def test_a_conv_prints_what_differs_from_the_default():
    assert repr(Conv(3, 64, 3, 1, "SAME")) == "Conv(3, 64)"
    assert repr(Conv(3, 64, 7, 2, 3, use_bias=False)) == (
        "Conv(3, 64, kernel_size=(7, 7), strides=(2, 2), padding=((3, 3), (3, 3)), use_bias=False)"
    )


@pytest.mark.parametrize("layer", [Conv, ConvTranspose])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 0}, "expects in_channels to be an int of at least 1, got 0"),
        ({"out_channels": -1}, "expects out_channels to be an int of at least 1, got -1"),
        ({"out_channels": 6.0}, "expects out_channels to be an int of at least 1, got 6.0"),
        ({"groups": 0}, "expects groups to be an int of at least 1, got 0"),
        ({"groups": True}, "expects groups to be an int of at least 1, got True"),
        ({"groups": 4}, r"groups that divide in_channels=4 and out_channels=6, got groups=4"),
        ({"kernel_size": 0}, "kernel_size expects an int or a pair of ints, each at least 1, got 0"),
        ({"kernel_size": (3, 3, 3)}, r"kernel_size expects .* got \(3, 3, 3\)"),
        ({"strides": -1}, "strides expects .* at least 1, got -1"),
        ({"strides": 1.5}, "strides expects .* got 1.5"),
        ({"dilation": 0}, "dilation expects .* got 0"),
        ({"padding": "FULL"}, "padding expects 'VALID', 'SAME', 'SAME_LOWER', an int .* got 'FULL'"),
        ({"padding": -1}, "padding expects .* got -1"),
        ({"padding": (1, 1)}, r"padding expects .* got \(1, 1\)"),
    ],
)
def test_nonsense_is_refused(layer, options, message):
    with pytest.raises(ValueError, match=message):
        layer(**{"in_channels": 4, "out_channels": 6, **options})


def test_a_transposed_convolution_refuses_same_padding():
    with pytest.raises(ValueError, match="'SAME', which fits several output sizes"):
        ConvTranspose(4, 6, padding="SAME")


def test_a_transposed_convolution_refuses_negative_output_padding():
    with pytest.raises(ValueError, match=r"output_padding expects .* at least 0, got -1"):
        ConvTranspose(4, 6, output_padding=-1)


@pytest.mark.parametrize("layer", [Conv, ConvTranspose])
def test_other_parameters_are_refused(layer):
    x = jnp.ones((5, 5, 4))
    with_bias = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), jax.eval_shape(layer(4, 6).init, jax.random.key(0))[0])
    with pytest.raises(ValueError, match=r"parameters: expected a dict of the names \('kernel',\), got .*'bias'"):
        layer(4, 6, use_bias=False).apply(with_bias, {}, x, train=False)
    with pytest.raises(ValueError, match=r"expected a dict of the names \('kernel', 'bias'\), got \('kernel',\)"):
        layer(4, 6).apply({"kernel": with_bias["kernel"]}, {}, x, train=False)


@pytest.mark.parametrize("layer", [Conv(4, 6), ConvTranspose(4, 6)], ids=repr)
def test_images_that_do_not_fit_are_refused(layer):
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), jax.eval_shape(layer.init, jax.random.key(0))[0])
    with pytest.raises(ValueError, match=r"expects an image of 4 channels .* got 3"):
        layer.apply(params, {}, jnp.ones((5, 5, 3)), train=False)
    with pytest.raises(ValueError, match=r"got \(2, 5, 5, 4\); map it over a batch with jaxcnn.batched"):
        layer.apply(params, {}, jnp.ones((2, 5, 5, 4)), train=False)
    with pytest.raises(TypeError, match="expects floating point values, got uint8"):
        layer.apply(params, {}, jnp.ones((5, 5, 4), jnp.uint8), train=False)
