import jax
import pytest
from catalog_members import members

from jaxcnn.layers import Conv, Dense, Flatten, Function, MaxPool, Sequential
from jaxcnn.models import catalog
from jaxcnn.models.text import difference, parse_value
from jaxcnn.values import Partial


@pytest.mark.parametrize("name", members(sorted(catalog.CATALOG)))
def test_every_model_comes_back_from_its_text(name):
    model = catalog.build(name)
    assert parse_value(repr(model)) == model


@pytest.mark.parametrize(
    "value",
    [
        Conv(3, 8, strides=(2, 1)),
        Partial(jax.numpy.clip, min=-1.5, max=float("inf")),
        Partial(jax.nn.leaky_relu, negative_slope=float("-inf")),
        Sequential(relu=Function(jax.nn.relu), head=Dense(2, 3)),
    ],
)
def test_a_value_comes_back_from_its_text(value):
    assert parse_value(repr(value)) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the text of a value"),
        ("Conv(3, ", "expected the text of a value"),
        ("(" * 10_000, "expected the text of a value"),
        ("Conv()", "missing"),
        ("Conv(3, 0)", "Conv"),
        ("Unknown(3)", "import the module that defines it"),
        ("__import__('os')", "unknown"),
        ("open('/etc/passwd')", "unknown"),
        ("Function(jax.numpy.load)", r"expected a function of jax\.nn, .*, got 'jax\.numpy\.load'"),
        ("Function(os.system)", r"got 'os\.system'"),
        ("Function(jax.nn.relu.__globals__)", "got"),
        ("Function(jaxcnn.cli.main)", r"got 'jaxcnn\.cli\.main'"),
        ("jax.nn.relu(1)", "expected calls, numbers"),
        ("[Conv(3, 8) for x in (1,)]", "expected calls, numbers"),
        ("Conv(3, 8) if 1 else 2", "expected calls, numbers"),
    ],
)
def test_what_is_no_text_of_a_value_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_value(text)


def test_functions_without_a_name_are_refused():
    with pytest.raises(
        ValueError, match=r"functions that a text can name, got '.*<lambda>', a lambda or a function wi"
    ):
        parse_value(repr(Sequential(act=Function(lambda x: x))))


def test_texts_differ_in_their_first_other_line():
    def square(x):
        return x * x

    square.__module__, square.__qualname__ = "__main__", "square"
    model = Sequential(conv=Conv(3, 200, 3), act=Function(square), pool=MaxPool(2), flatten=Flatten(), head=Dense(4, 3))
    text = repr(model)
    assert "\n    act=Function(__main__.square),\n" in text
    assert difference(text, model) is None
    # The same script, imported: either may be older.
    square.__module__ = "scripts.train"
    assert difference(text, model) is None
    imported = repr(model)
    square.__module__ = "__main__"
    assert difference(imported, model) is None
    other = model.replace({"head": Dense(4, 2)})
    assert difference(text, other) == ("head=Dense(4, 3),", "head=Dense(4, 2),")
    square.__qualname__ = "cube"
    assert difference(text, model) == ("act=Function(__main__.square),", "act=Function(__main__.cube),")
    assert difference("Dense(2, 3)", Sequential()) == ("Dense(2, 3)", "Sequential()")


def test_two_classes_of_one_name_are_refused():
    first, second = (type("Namesake", (Dense,), {"__module__": module}) for module in ("one", "two"))
    with pytest.raises(ValueError, match=r"'Namesake', which is that of one\.Namesake and two\.Namesake; rename one"):
        parse_value("Namesake(2, 3)")
    del first, second


def test_a_class_that_was_defined_again_is_the_newest():
    old, new = (type("Redefined", (Dense,), {"__module__": "notebook"}) for _ in range(2))
    assert type(parse_value("Redefined(2, 3)")) is new
    del old
