import copy
import dataclasses
import functools
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.values import Partial, Value, describe


@dataclasses.dataclass(frozen=True, repr=False)
class Box(Value):
    size: int
    shape: tuple[int, int]
    function: object = jax.nn.relu
    label: str = "plain"


def half(x, *, by=2):
    return x / by


class Tools:
    @staticmethod
    def double(x):
        return 2 * x


def test_required_fields_are_printed_by_position():
    assert repr(Box(3, (1, 2))) == "Box(3, (1, 2))"


def test_other_fields_are_printed_by_name_where_they_differ_from_their_default():
    # Equal to the default, though not the same object.
    assert repr(Box(3, (1, 2), label="".join(["pl", "ain"]))) == "Box(3, (1, 2))"
    assert repr(Box(3, (1, 2), label="it's")) == """Box(3, (1, 2), label="it's")"""
    assert repr(Box(3, (1, 2), jnp.tanh, "x")) == "Box(3, (1, 2), function=jax.nn.tanh, label='x')"


def test_a_subclass_prints_under_its_own_name():
    class Crate(Box):
        pass

    assert repr(Crate(1, (2, 3))) == "Crate(1, (2, 3))"


ACTIVATIONS = (
    "relu",
    "relu6",
    "gelu",
    "silu",
    "swish",
    "elu",
    "celu",
    "selu",
    "softplus",
    "sigmoid",
    "hard_swish",
    "mish",
)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_described_by_source_that_gives_them_back(name):
    function = getattr(jax.nn, name)
    assert describe(function).startswith("jax.nn.")
    assert eval(describe(function)) is function


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (jnp.ravel, "jax.numpy.ravel"),
        (jnp.add, "jax.numpy.add"),
        (jax.lax.rsqrt, "jax.lax.rsqrt"),
        (jax.nn.initializers.he_normal, "jax.nn.initializers.he_normal"),
        (jnp.bfloat16, "jax.numpy.bfloat16"),
        (np.tanh, "numpy.tanh"),
        (half, f"{__name__}.half"),
        (Tools.double, f"{__name__}.Tools.double"),
        (abs, "builtins.abs"),
        (3, "3"),
        (0.1, "0.1"),
        ("a b", "'a b'"),
        (((1, 2), None), "((1, 2), None)"),
    ],
)
def test_values_are_described_as_source(value, expected):
    assert describe(value) == expected


def test_a_public_function_is_described_by_the_shortest_path_that_leads_to_it():
    # Defined in json.decoder, and imported from there by the package.
    assert describe(json.JSONDecoder) == "json.JSONDecoder"


def test_a_lambda_is_described_by_its_module():
    assert describe(lambda x: x).startswith(f"{__name__}.")


def test_partial_calls_the_function_with_its_options():
    assert Partial(half)(3) == 1.5
    assert Partial(half, by=3)(6) == 2


def test_partials_are_equal_when_function_and_options_are():
    assert Partial(half, by=3) == Partial(half, by=3) != functools.partial(half, by=3)
    assert Partial(half, by=3) != Partial(half, by=4)
    assert Partial(half, by=3) != Partial(half)
    assert Partial(half) != Partial(abs)
    assert hash(Partial(half, by=3)) == hash(Partial(half, by=3))


def test_the_order_of_options_does_not_matter():
    one, other = Partial(dict, a=1, b=2), Partial(dict, b=2, a=1)
    assert one == other
    assert hash(one) == hash(other)
    assert one() == {"a": 1, "b": 2}


def test_a_partial_is_not_a_partial_of_another_kind():
    class Special(Partial):
        pass

    assert Special(half) != Partial(half)
    assert Special(half) == Special(half)
    assert repr(Special(half, by=2)) == f"Special({__name__}.half, by=2)"


def test_an_option_may_be_named_like_the_argument_for_the_function():
    assert Partial(dict, function=1)() == {"function": 1}


def test_a_partial_prints_as_its_constructor():
    partial = Partial(jnp.clip, min=0.0, max=1.0)
    assert repr(partial) == "Partial(jax.numpy.clip, max=1.0, min=0.0)"
    assert eval(repr(partial)) == partial


def test_a_partial_in_jit_is_traced_once():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def call(function, x):
        traces.append(function)
        return function(x)

    for _ in range(3):
        np.testing.assert_allclose(call(Partial(half, by=4), jnp.ones(2)), 0.25)
    assert len(traces) == 1


def test_a_partial_refuses_what_cannot_be_called():
    with pytest.raises(TypeError, match="Partial expects a function, got 3"):
        Partial(3)


def test_a_partial_refuses_options_that_cannot_be_hashed():
    with pytest.raises(TypeError, match=r"Partial expects hashable options, got by=\[1, 2\]; use a tuple"):
        Partial(half, by=[1, 2])
    with pytest.raises(TypeError, match="pass arrays as arguments"):
        Partial(half, by=jnp.ones(2))


def test_a_partial_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Partial(half).options = ()


@dataclasses.dataclass(frozen=True, repr=False)
class Numbers(Value):
    count: int
    rate: float = 0.5
    flag: bool = True
    table: tuple = ()
    doubled: int = 0

    def __post_init__(self):
        # A check of a class sees the numbers as they will be.
        assert type(self.count) is int
        object.__setattr__(self, "doubled", 2 * self.count)


@dataclasses.dataclass(frozen=True, repr=False)
class More(Numbers):
    other: int = 0

    def __post_init__(self):
        super().__post_init__()
        assert type(self.other) is int


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda: Numbers(np.int64(3)), "Numbers(3, doubled=6)"),
        (
            lambda: Numbers(np.uint8(3), np.float32(0.25), np.bool_(False)),
            "Numbers(3, rate=0.25, flag=False, doubled=6)",
        ),
        (lambda: Numbers(3, rate=1, flag=0), "Numbers(3, rate=1.0, flag=False, doubled=6)"),
        (lambda: Numbers(3, rate=np.longdouble(0.25)), "Numbers(3, rate=0.25, doubled=6)"),
        (lambda: Numbers(3, rate=jnp.bfloat16(0.25).item()), "Numbers(3, rate=0.25, doubled=6)"),
        (
            lambda: Numbers(3, table=((np.int8(1), np.float16(0.5)), [np.str_("a")])),
            "Numbers(3, table=((1, 0.5), ['a']), doubled=6)",
        ),
        (lambda: More(np.int32(3), other=np.int32(4)), "More(3, doubled=6, other=4)"),
        (lambda: Partial(half, by=np.float64(2), of=(np.int64(1),)), f"Partial({__name__}.half, by=2.0, of=(1,))"),
        (lambda: dataclasses.replace(Numbers(3), count=np.int16(4)), "Numbers(4, doubled=8)"),
    ],
)
def test_numbers_of_numpy_become_those_of_python(made, expected):
    assert repr(made()) == expected


def test_equal_values_print_alike():
    assert Numbers(3, rate=1, flag=1) == Numbers(3, rate=1.0, flag=True)
    assert repr(Numbers(3, rate=1, flag=1)) == repr(Numbers(3, rate=1.0, flag=True))


def test_a_value_is_its_own_copy():
    box = Box(3, (1, 2))
    assert copy.copy(box) is box
    assert copy.deepcopy([box])[0] is box


FUNCTIONS = [getattr(jax.nn, name) for name in dir(jax.nn) if name[0] != "_" and callable(getattr(jax.nn, name))]
FUNCTIONS += [jnp.tanh, jnp.add, jnp.clip, jax.lax.rsqrt, np.tanh, half, Tools.double, jnp.bfloat16, abs]


@pytest.mark.parametrize("function", FUNCTIONS, ids=describe)
def test_functions_pickle_by_their_public_name(function):
    for value in (Partial(function), Box(1, (2, 3), function), Partial(half, by=((function, 1),))):
        assert pickle.loads(pickle.dumps(value)) == value
    assert b"_src" not in pickle.dumps(Partial(jax.nn.relu))


@pytest.mark.parametrize(
    "function", [lambda x: x, jax.nn.initializers.he_normal(), jax.jit(lambda x: x)], ids=["lambda", "closure", "jit"]
)
def test_what_has_no_name_in_a_module_does_not_pickle_and_says_so(function):
    with pytest.raises(pickle.PicklingError, match=r"Box cannot be pickled, because it holds .*; define a function at"):
        pickle.dumps([Box(1, (2, 3), function)])


def test_a_pickle_of_a_function_that_is_gone_says_which(monkeypatch):
    pickled = pickle.dumps(Partial(half))
    monkeypatch.delitem(globals(), "half")
    with pytest.raises(pickle.UnpicklingError, match=rf"holds the function {__name__}\.half, which cannot be imported"):
        pickle.loads(pickled)
