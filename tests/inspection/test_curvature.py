import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from matplotlib.backends.backend_agg import FigureCanvasAgg

from jaxcnn import batched
from jaxcnn.inspection import (
    filter_normalized,
    hessian_vector_product,
    lanczos,
    loss_slice,
    random_direction,
)
from jaxcnn.layers import Conv, Dense, Flatten, Function, Sequential
from jaxcnn.plots import landscape


@pytest.fixture(scope="module")
def problem():
    """A tiny net in float64, the loss of a batch, and its whole Hessian by two derivatives in forward mode."""
    with jax.enable_x64(True):
        model = Sequential(conv=Conv(1, 2), tanh=Function(jnp.tanh), flatten=Flatten(), head=Dense(24, 3))
        params, state = model.init(jax.random.key(0))
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        rng = np.random.default_rng(0)
        images, labels = jnp.asarray(rng.normal(size=(8, 4, 3, 1))), jnp.asarray(rng.integers(0, 3, 8))

        def loss(params):
            logits, _ = batched(model)(params, state, images, train=False)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        flat, unravel = ravel_pytree(params)
        hessian = np.asarray(jax.jacfwd(jax.jacfwd(lambda flat: loss(unravel(flat))))(flat))
    return loss, params, hessian


def test_products_are_those_of_the_dense_hessian(problem, float64):
    loss, params, hessian = problem
    flat, unravel = ravel_pytree(params)
    vector = np.random.default_rng(1).normal(size=flat.shape)
    found = ravel_pytree(hessian_vector_product(loss, params, unravel(jnp.asarray(vector))))[0]
    np.testing.assert_allclose(found, hessian @ vector, rtol=1e-9, atol=1e-12)
    # By differences of the gradient.
    step = 1e-5
    above, below = (
        ravel_pytree(jax.grad(loss)(unravel(flat + sign * step * jnp.asarray(vector))))[0] for sign in (1, -1)
    )
    np.testing.assert_allclose(found, (above - below) / (2 * step), rtol=1e-5, atol=1e-8)


def test_eigenvalues_are_those_of_the_dense_hessian(problem, float64):
    loss, params, hessian = problem
    expected = np.linalg.eigvalsh(hessian)[::-1]
    found = lanczos(loss, params, jax.random.key(3), count=4, steps=60)
    np.testing.assert_allclose(found.values, expected[:4], rtol=1e-9)
    assert found.residuals.max() < 1e-7
    for place in range(4):
        vector = np.asarray(ravel_pytree(jax.tree.map(lambda leaf, place=place: leaf[place], found.vectors))[0])
        assert np.linalg.norm(vector) == pytest.approx(1)
        np.testing.assert_allclose(hessian @ vector, expected[place] * vector, atol=1e-7)


def test_too_few_steps_show_in_the_residual(problem, float64):
    loss, params, hessian = problem
    found = lanczos(loss, params, jax.random.key(3), steps=3)
    eigenvalues = np.linalg.eigvalsh(hessian)
    assert found.residuals[0] > 1e-3
    assert np.abs(eigenvalues - found.values[0]).min() <= found.residuals[0]


def test_a_subspace_that_the_start_cannot_leave_ends_the_iteration(float64):
    # Two different eigenvalues: two vectors span all that a start reaches.
    found = lanczos(lambda x: 2 * jnp.sum(x[:3] ** 2) - jnp.sum(x[3:] ** 2), jnp.ones(8), jax.random.key(0), steps=8)
    np.testing.assert_allclose(found.values, [4.0], rtol=1e-12)


def test_directions_have_the_norms_of_the_filters(problem):
    _, params, _ = problem
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    direction = random_direction(jax.random.key(0), params)
    for name in ("conv", "head"):
        kernel, move = (np.asarray(tree[name]["kernel"]) for tree in (params, direction))
        for k in range(kernel.shape[-1]):
            assert np.linalg.norm(move[..., k]) == pytest.approx(np.linalg.norm(kernel[..., k]), rel=1e-5)
        assert not np.any(direction[name]["bias"])
    twice = filter_normalized(jax.tree.map(lambda leaf: 7 * leaf, direction), params)
    np.testing.assert_allclose(twice["conv"]["kernel"], direction["conv"]["kernel"], rtol=1e-5)
    zero = filter_normalized(jax.tree.map(jnp.zeros_like, params), params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(zero))


def test_a_slice_has_the_losses_at_its_places(problem, float64):
    loss, params, _ = problem
    one, other = (jax.tree.map(lambda leaf, s=scale: s * jnp.ones_like(leaf), params) for scale in (0.1, -0.2))
    steps = np.array([-1.0, 0.0, 2.0])
    found = loss_slice(loss, params, one, other, steps)
    for i, first in enumerate(steps):
        for j, second in enumerate(steps):
            moved = jax.tree.map(lambda p, a, b, f=first, s=second: p + f * a + s * b, params, one, other)
            assert found[i, j] == pytest.approx(float(loss(moved)), rel=1e-12)


@pytest.mark.parametrize(
    ("options", "got"), [({"count": 0}, "count=0"), ({"count": 9, "steps": 8}, "count=9"), ({"steps": 5}, "steps=5")]
)
def test_counts_out_of_range_are_refused(options, got):
    with pytest.raises(ValueError, match=rf"1 <= count <= steps <= 4, the number of parameters, got .*{got}"):
        lanczos(lambda x: jnp.sum(x**2), jnp.ones(4), jax.random.key(0), **options)


def test_no_more_eigenvalues_are_found_than_the_start_reaches():
    found = lanczos(lambda x: jnp.sum(x**2), jnp.ones(4), jax.random.key(0), count=3, steps=4)
    np.testing.assert_allclose(found.values, [2], atol=1e-5)
    assert found.vectors.shape == (1, 4)


def test_a_hessian_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="expects a finite Hessian, got NaN or infinity"):
        lanczos(lambda x: jnp.sum(jnp.sqrt(x)), jnp.zeros(4), jax.random.key(0), steps=2)


def test_a_landscape_is_drawn_with_the_first_direction_to_the_right():
    steps = np.linspace(-1, 1, 5)
    losses = np.exp(3 * steps)[:, None] * np.ones(5)
    losses[0, 0] = np.nan
    figure = landscape(losses, steps, names=("random direction", "other"), subtitle="lenet5 on digits")
    FigureCanvasAgg(figure).draw()
    texts = [text.get_text() for text in figure.texts]
    assert texts == ["Loss 0.04979 to 20.09", "lenet5 on digits", "log scale; 1 of 25 places have no finite loss"]
    assert figure.axes[0].get_xlabel() == "step along the random direction"
    # The loss grows to the right: the lowest band is a strip at the left.
    lowest = figure.axes[0].collections[0].get_paths()[0].vertices
    assert lowest[:, 0].max() < -0.9
    assert np.ptp(lowest[:, 1]) > 1
    # The mark is at the parameters.
    [mark] = figure.axes[0].lines
    assert mark.get_xydata().tolist() == [[0, 0]]
    flat = landscape(np.full((5, 5), 2.0), steps)
    assert flat.texts[0].get_text() == "Loss 2 to 2"


@pytest.mark.parametrize(
    ("losses", "steps", "message"),
    [
        (np.ones((2, 3)), [0, 1], r"losses \(n, n\) and n increasing steps"),
        (np.ones((2, 2)), [1, 0], r"losses \(n, n\) and n increasing steps"),
        (np.full((2, 2), np.nan), [0, 1], "expects a finite loss, got none; take smaller steps"),
    ],
)
def test_a_landscape_of_nonsense_is_refused(losses, steps, message):
    with pytest.raises(ValueError, match=message):
        landscape(losses, steps)
