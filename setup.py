"""Builds the C++ kernels into the package if there is a C++ compiler; pyproject.toml has everything else.

Without one, or without jax, whose headers they need, the package is installed all the same: it builds them at their
first use, as an editable install does.
"""

import importlib.util
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

_PACKAGE = Path("jaxcnn", "ops", "lowering", "native")


def _load_variants() -> ModuleType:
    """Imports the module by its file: `jaxcnn` itself needs packages that a build does not have."""
    spec = importlib.util.spec_from_file_location("variants", Path(__file__).parent / _PACKAGE / "variants.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


variants = _load_variants()


def _compiler() -> tuple[str, ...] | None:
    words = os.environ.get("CXX", "").split() or next(
        ([name] for name in ("c++", "g++", "clang++") if shutil.which(name)), []
    )
    path = shutil.which(words[0]) if words else None
    return (path, *words[1:]) if path else None


def _headers() -> Path | None:
    spec = importlib.util.find_spec("jaxlib")
    places = (spec.submodule_search_locations or ()) if spec else ()
    return next((Path(place, "include") for place in places if Path(place, "include").is_dir()), None)


class Binary(Distribution):
    """A package of libraries for this kind of machine; of Python alone where they cannot be built."""

    def has_ext_modules(self) -> bool:
        """Says whether the package is for one kind of machine."""
        return bool(variants.variants() and _compiler() and _headers())


class Wheel(bdist_wheel):
    """Names the wheel: the libraries are for a kind of machine, but not for a version of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """Returns the tags of Python, its ABI, and the machine."""
        return "py3", "none", super().get_tag()[2]


class Build(build_py):
    """Copies the modules, and builds the libraries beside them."""

    def run(self) -> None:
        """Builds all variants of all libraries; a failure is told, and leaves the library out."""
        super().run()
        if self.editable_mode or not self.distribution.has_ext_modules():
            return
        folder = Path(self.build_lib) / _PACKAGE / variants.BUILT.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        libraries = [(name, variant) for name in variants.OWN_FLAGS for variant in variants.variants()]
        with ThreadPoolExecutor(os.cpu_count()) as workers:
            list(workers.map(lambda library: self._build(folder, *library), libraries))

    def _build(self, folder: Path, name: str, variant: object) -> None:
        compiler, headers = _compiler(), _headers()
        version = variants.interface(headers)
        library = folder / variants.file_name(name, variant, version)
        done = subprocess.run(
            variants.package_command(compiler, name, variant, headers, library),
            capture_output=True,
            text=True,
            errors="backslashreplace",
            check=False,
        )
        if done.returncode:
            library.unlink(missing_ok=True)
            self.warn(f"{library.name} was not built, and will be built at its first use:\n{done.stderr[-2000:]}")
        else:
            content = library.read_bytes()
            library.write_bytes(variants.sealed(content, variants.key(library.name)))


setup(distclass=Binary, cmdclass={"build_py": Build, "bdist_wheel": Wheel})
