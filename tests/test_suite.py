"""What conftest.py does to the tests themselves."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest


@pytest.fixture
def conftest(request):
    """The module conftest.py of this folder."""
    return request.config.pluginmanager.get_plugin(str(Path(__file__).with_name("conftest.py")))


def item(name, path, *marks):
    """What a share asks a test for."""
    markers = {mark.name: mark for mark in marks}
    return SimpleNamespace(nodeid=f"{path}::{name}", path=path, get_closest_marker=markers.get)


ITEMS = [
    item("a", "one.py"),
    item("b", "one.py", pytest.mark.heavy("deep").mark),
    item("c", "two.py", pytest.mark.heavy.mark),
    item("d", "two.py", pytest.mark.heavy("deep").mark),
    item("e", "three.py", pytest.mark.heavy.mark),
    item("f", "four.py"),
]


@pytest.mark.parametrize(
    ("option", "expected"), [("share", ["abdef", "acf"]), ("modules", ["abe", "cdf"])], ids=["share", "modules"]
)
def test_shares_keep_groups_together_and_hold_every_test(conftest, option, expected):
    group = {"share": conftest.heavy_group, "modules": lambda item: item.path}[option]
    for which, names in enumerate(expected):
        left_out, chosen = [], list(ITEMS)
        config = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda items, to=left_out: to.extend(items)))
        conftest.Share(which, 2, group).pytest_collection_modifyitems(config, chosen)
        assert "".join(one.nodeid[-1] for one in chosen) == names
        assert sorted(one.nodeid for one in chosen + left_out) == sorted(one.nodeid for one in ITEMS)


def test_the_programs_of_a_thread_share_a_context():
    def context(number):
        return jax.jit(lambda x: x + number).lower(1.0).compiler_ir().context

    # One of three may be the first of a new context.
    contexts = [context(number) for number in range(3)]
    assert len({id(one) for one in contexts}) < 3
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(context, 3).result()
    assert all(other is not one for one in contexts)
