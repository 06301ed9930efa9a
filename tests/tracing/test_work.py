import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.tracing import count_multiply_adds


def conv(x, kernel, **options):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        **{"window_strides": (1, 1), "padding": "VALID", "dimension_numbers": ("NHWC", "HWIO", "NHWC"), **options},
    )


IMAGES, KERNEL = jax.ShapeDtypeStruct((2, 8, 9, 4), jnp.float32), jax.ShapeDtypeStruct((3, 3, 4, 5), jnp.float32)


def by_loops(output_shape, kernel_shape):
    """Counts the products of a convolution one by one."""
    height, width, inputs, _ = kernel_shape
    return sum(1 for _ in np.ndindex(*output_shape, height, width, inputs))


@pytest.mark.parametrize(
    ("options", "output_shape"),
    [
        ({}, (2, 6, 7, 5)),
        ({"padding": "SAME"}, (2, 8, 9, 5)),
        ({"window_strides": (2, 3)}, (2, 3, 3, 5)),
        ({"rhs_dilation": (2, 2)}, (2, 4, 5, 5)),
    ],
)
def test_each_tap_of_each_output_of_a_convolution_counts(options, output_shape):
    assert jax.eval_shape(lambda x, k: conv(x, k, **options), IMAGES, KERNEL).shape == output_shape
    assert count_multiply_adds(lambda x, k: conv(x, k, **options), IMAGES, KERNEL) == by_loops(
        output_shape, KERNEL.shape
    )


def test_groups_see_only_their_own_channels():
    kernel = jax.ShapeDtypeStruct((3, 3, 2, 6), jnp.float32)
    counted = count_multiply_adds(lambda x, k: conv(x, k, feature_group_count=2), IMAGES, kernel)
    assert counted == by_loops((2, 6, 7, 6), kernel.shape)


@pytest.mark.parametrize("groups", [1, 2])
def test_zeros_between_the_pixels_of_a_dilated_image_do_not_count(groups):
    kernel = jax.ShapeDtypeStruct((3, 3, 4 // groups, 6), jnp.float32)
    counted = count_multiply_adds(
        lambda x, k: conv(x, k, lhs_dilation=(2, 2), padding=((2, 2), (2, 2)), feature_group_count=groups),
        IMAGES,
        kernel,
    )
    # Every pixel meets every tap of the kernels of its group.
    assert counted == 2 * 8 * 9 * 4 * 9 * 6 // groups


def test_the_layout_of_a_convolution_does_not_matter():
    x, kernel = jax.ShapeDtypeStruct((2, 4, 8, 9), jnp.float32), jax.ShapeDtypeStruct((5, 4, 3, 3), jnp.float32)
    counted = count_multiply_adds(lambda x, k: conv(x, k, dimension_numbers=("NCHW", "OIHW", "NCHW")), x, kernel)
    assert counted == by_loops((2, 6, 7, 5), KERNEL.shape)


@pytest.mark.parametrize(
    ("equation", "shapes", "expected"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)], 2 * 3 * 4),
        ("i,i->", [(7,), (7,)], 7),
        ("bij,bjk->bik", [(5, 2, 3), (5, 3, 4)], 5 * 2 * 3 * 4),
        ("hwc,co->hwo", [(4, 5, 6), (6, 2)], 4 * 5 * 6 * 2),
        ("ijk,jkl->il", [(2, 3, 4), (3, 4, 5)], 2 * 3 * 4 * 5),
    ],
)
def test_each_product_of_a_contraction_counts(equation, shapes, expected):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    assert count_multiply_adds(lambda a, b: jnp.einsum(equation, a, b), *arrays) == expected


def test_other_operations_do_not_count():
    assert count_multiply_adds(lambda x: jnp.tanh(2 * x) + jnp.sum(x), IMAGES) == 0


def test_work_within_functions_counts():
    matrix = jax.ShapeDtypeStruct((3, 3), jnp.float32)

    def product(a):
        return a @ a

    def branches(a):
        return jax.lax.cond(a[0, 0] > 0, product, jnp.negative, a)

    assert count_multiply_adds(jax.jit(product), matrix) == 27
    assert count_multiply_adds(jax.checkpoint(product), matrix) == 27
    assert count_multiply_adds(jax.vmap(product), jax.ShapeDtypeStruct((5, 3, 3), jnp.float32)) == 5 * 27
    assert count_multiply_adds(lambda a: jax.jit(product)(product(a)), matrix) == 54
    assert count_multiply_adds(branches, matrix) == 27


def test_the_body_of_a_loop_counts_as_often_as_it_runs():
    matrix = jax.ShapeDtypeStruct((3, 3), jnp.float32)
    assert count_multiply_adds(lambda a: jax.lax.fori_loop(0, 10, lambda _, b: a @ b, a), matrix) == 10 * 27
    nested = jax.jit(lambda a: jax.lax.scan(lambda c, _: (jax.jit(jnp.dot)(c, a), None), a, length=7)[0])
    assert count_multiply_adds(nested, matrix) == 7 * 27


def test_the_body_of_a_loop_of_unknown_length_counts_once():
    matrix = jax.ShapeDtypeStruct((3, 3), jnp.float32)
    assert count_multiply_adds(lambda a: jax.lax.while_loop(lambda b: b[0, 0] > 0, lambda b: a @ b, a), matrix) == 27


def test_of_the_branches_of_a_condition_the_one_with_the_most_work_counts():
    matrix = jax.ShapeDtypeStruct((3, 3), jnp.float32)
    branches = [jnp.negative, lambda a: a @ a, lambda a: a @ a @ a]
    assert count_multiply_adds(lambda a: jax.lax.switch(jnp.argmax(a), branches, a), matrix) == 54


def test_arrays_may_be_given_too():
    assert count_multiply_adds(jnp.dot, jnp.ones((2, 3)), jnp.ones(3)) == 6


def test_a_gradient_has_its_work_too():
    # The product itself, and one for each of the two factors' gradients.
    matrix = jax.ShapeDtypeStruct((3, 3), jnp.float32)
    assert (
        count_multiply_adds(jax.value_and_grad(lambda a, b: jnp.sum(jnp.sin(a @ b)), (0, 1)), matrix, matrix) == 3 * 27
    )
