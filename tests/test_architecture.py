"""The house: who may import whom, what is documented, and what `import jaxcnn` must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jaxcnn

ROOT = Path(jaxcnn.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

# A unit imports itself and the units of lower floors: nothing upward, nothing sideways.
FLOORS = {
    "lazy": -2,
    "files": -1,
    "types": 0,
    "values": 0,
    "tables": 0,
    "trees": 0,
    "meshes": 0,
    "ops": 0,
    "tracing": 0,
    "layers": 1,
    "text": 1.5,
    "compilation": 2,
    "environment": 2,
    "tasks": 2,
    "models": 3,
    "data": 3,
    "evaluation": 3.5,
    "training": 4,
    "interop": 4,
    "inspection": 4,
    "plots": 4,
    "benchmark": 4,
    "network": 5,
    "cli": 6,
}

# What the package itself loads. It offers the higher floors, and imports them when they are first used.
ROOT_FLOOR = -2

HEAVY = (
    "PIL",
    "dp_accounting",
    "equinox",
    "faster_coco_eval",
    "flax",
    "grain",
    "h5py",
    "huggingface_hub",
    "keras",
    "matplotlib",
    "orbax",
    "rich",
    "safetensors",
    "sklearn",
    "tensorboardX",
    "tensorflow_datasets",
    "torch",
    "tyro",
    "wandb",
)


def name_of(path):
    parts = ("jaxcnn", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit_of(module):
    """Returns the part of the house that a module belongs to: "ops" for "jaxcnn.ops.conv", "" for "jaxcnn"."""
    return module.partition(".")[2].partition(".")[0]


def imported(tree, module, is_package):
    """Returns the dotted names that a module imports, wherever in it, a name imported from the package included."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parents = module.split(".")
                base = parents[: len(parents) - node.level + is_package]
                source = ".".join([*base, *([source] if source else [])])
            names |= {f"jaxcnn.{alias.name}" for alias in node.names} if source == "jaxcnn" else {source}
    return names


class WithoutTypes(ast.NodeTransformer):
    """Removes what only type checkers import."""

    def visit_If(self, node):
        return None if ast.unparse(node.test) == "TYPE_CHECKING" and not node.orelse else self.generic_visit(node)


def forbidden(source, module, is_package=False):
    """Returns what a module imports of jaxcnn, or of what lies around it, and should not."""
    unit = unit_of(module)
    tree = ast.parse(source)
    if module == "jaxcnn":
        tree = WithoutTypes().visit(tree)
    allowed = {name for name, floor in FLOORS.items() if floor < FLOORS.get(unit, ROOT_FLOOR + 1)} | {unit}
    return {
        name
        for name in imported(tree, module, is_package)
        if name.split(".")[0] in ("experiments", "tests")
        or name == "jaxcnn"
        or (name.startswith("jaxcnn.") and unit_of(name) not in allowed)
    }


def public_definitions(tree):
    """Yields the public functions, classes and methods of a module with their names."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner


def prints(tree):
    """Returns the lines that print, or write to the terminal by another way."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print")
        or (isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout", "sys.stderr"))
    ]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_downward(path):
    assert forbidden(path.read_text(), name_of(path), path.name == "__init__.py") == set()


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("jaxcnn.ops.conv", "from jaxcnn.layers import Conv", {"jaxcnn.layers"}),
        ("jaxcnn.ops.conv", "from jaxcnn import layers", {"jaxcnn.layers"}),
        ("jaxcnn.ops.conv", "import jaxcnn.layers.conv as c", {"jaxcnn.layers.conv"}),
        ("jaxcnn.ops.conv", "from ..layers.conv import Conv", {"jaxcnn.layers.conv"}),
        ("jaxcnn.ops.conv", "from .. import layers", {"jaxcnn.layers"}),
        ("jaxcnn.ops.conv", "def f():\n    import jaxcnn.cli", {"jaxcnn.cli"}),
        ("jaxcnn.ops.conv", "from jaxcnn import trees", {"jaxcnn.trees"}),
        ("jaxcnn.ops.conv", "import jaxcnn", {"jaxcnn"}),
        ("jaxcnn.types", "import jaxcnn.values", {"jaxcnn.values"}),
        ("jaxcnn.models.resnet", "from jaxcnn.data import digits", {"jaxcnn.data"}),
        ("jaxcnn.training.loop", "from jaxcnn import batched", {"jaxcnn.batched"}),
        ("jaxcnn.cli.train", "from experiments import digits_lenet5", {"experiments"}),
        ("jaxcnn", "from jaxcnn import lazy, models", {"jaxcnn.models"}),
        ("jaxcnn", "if TYPE_CHECKING:\n    from jaxcnn import models\nfrom jaxcnn import data", {"jaxcnn.data"}),
        ("jaxcnn", "if TYPE_CHECKING:\n    import os\nelse:\n    from jaxcnn import models", {"jaxcnn.models"}),
        ("jaxcnn", "if TYPE_CHECKING or 1:\n    from jaxcnn import models", {"jaxcnn.models"}),
        ("jaxcnn.ops.conv", "if TYPE_CHECKING:\n    from jaxcnn import models", {"jaxcnn.models"}),
        ("jaxcnn.models.resnet", "from jaxcnn import Network", {"jaxcnn.Network"}),
        ("jaxcnn.ops.conv", "from jaxcnn.ops import lowering\nimport jax\nfrom . import check", set()),
        ("jaxcnn.training.loop", "from jaxcnn import layers, trees\nfrom jaxcnn.models import resnet18", set()),
    ],
)
def test_the_rule_knows_every_form_of_import(module, source, expected):
    assert forbidden(source, module) == expected


def test_a_relative_import_of_a_package_starts_at_the_package():
    assert forbidden("from . import conv\nfrom .conv import conv", "jaxcnn.ops", is_package=True) == set()
    assert forbidden("from .. import cli", "jaxcnn.ops", is_package=True) == {"jaxcnn.cli"}


def test_every_part_of_the_house_has_a_floor():
    assert {unit_of(name_of(path)) for path in MODULES} - {""} == set(FLOORS)


@pytest.mark.parametrize("path", [path for path in MODULES if unit_of(name_of(path)) != "cli"], ids=name_of)
def test_only_the_command_line_prints(path):
    assert prints(ast.parse(path.read_text())) == []


def test_printing_is_seen():
    source = 'import sys\n"print(1)"\n\ndef f():\n    print(1)\n    sys.stderr.write("2")\n    jax.debug.print("3")'
    assert prints(ast.parse(source)) == [5, 6]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_everything_public_is_documented(path):
    tree = ast.parse(path.read_text())
    assert [name for name, node in public_definitions(tree) if not ast.get_docstring(node)] == []
    assert ast.get_docstring(tree)


def test_a_missing_docstring_is_seen():
    source = "class A:\n    'Is.'\n    def b(self): ...\n    def _c(self): ...\n\ndef d(): ...\n\ndef _e(): ..."
    assert [name for name, node in public_definitions(ast.parse(source)) if not ast.get_docstring(node)] == ["A.b", "d"]


def test_the_package_offers_what_it_imports_later():
    program = """
import sys, jaxcnn
offered = set(dir(jaxcnn))
assert set(jaxcnn.__all__) <= offered, set(jaxcnn.__all__) - offered
assert "jaxcnn.models" not in sys.modules
assert jaxcnn.models.resnet18.__module__ == "jaxcnn.models.resnet"
assert callable(jaxcnn.interop.weights.load_weights)
for name in jaxcnn.__all__:
    value = getattr(jaxcnn, name)
try:
    jaxcnn.modles
except AttributeError as error:
    assert str(error) == "module 'jaxcnn' has no attribute 'modles'"
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def shadowed(source, package, modules):
    """Returns the names of modules of a package that it also gives to something else: one would hide the other."""
    tree = ast.parse(source)
    bound = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module != package:
            bound |= {alias.asname or alias.name for alias in node.names}
        # The objects of `lazy_attributes`.
        if isinstance(node, ast.Dict):
            bound |= {ast.literal_eval(key) for key in node.keys if isinstance(key, ast.Constant)}
    return bound & set(modules)


@pytest.mark.parametrize("path", [path for path in MODULES if path.name == "__init__.py"], ids=name_of)
def test_no_module_has_the_name_of_something_else_in_its_package(path):
    modules = {one.stem for one in path.parent.iterdir() if one.suffix == ".py" or (one / "__init__.py").exists()}
    assert shadowed(path.read_text(), name_of(path), modules) == set()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from jaxcnn.ops.conv import conv, pad", {"conv"}),
        ("from jaxcnn.layers import Conv as conv", {"conv"}),
        ("def conv(): ...", {"conv"}),
        ("class pool: ...", {"pool"}),
        ("__getattr__, __dir__ = lazy_attributes(__name__, ['pool'], {'conv': 'convolution'})", {"conv"}),
        ("from jaxcnn.ops import conv", set()),
        ("from jaxcnn.ops.conv import conv_transpose", set()),
    ],
)
def test_shadowing_is_seen(source, expected):
    assert shadowed(source, "jaxcnn.ops", {"conv", "pool"}) == expected


def test_type_checkers_see_what_the_package_offers():
    for path in (ROOT / "__init__.py", ROOT / "interop" / "__init__.py"):
        tree = ast.parse(path.read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        bound = {alias.asname or alias.name for node in imports for alias in node.names}
        (offered,) = (
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        )
        assert set(offered) <= bound


def test_importing_is_light_and_starts_no_device():
    units = [unit for unit in FLOORS if (ROOT / unit).is_dir()]
    program = f"""
import importlib, sys
for name in ["jaxcnn", *(f"jaxcnn.{{unit}}" for unit in {units})]:
    importlib.import_module(name)
    loaded = sorted(set({HEAVY}) & set(sys.modules))
    assert not loaded, f"import {{name}} loads {{loaded}}"
    if name == "jaxcnn":
        parts = {{module.split(".")[1] for module in sys.modules if module.startswith("jaxcnn.")}}
        assert parts == {set(unit for unit, floor in FLOORS.items() if floor <= ROOT_FLOOR)}, parts
        assert "jax" not in sys.modules

# jax refuses to set the number of devices once it has started them.
import jax
jax.config.update("jax_num_cpu_devices", 3)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
