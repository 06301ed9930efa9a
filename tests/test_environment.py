import platform
import subprocess

import numpy as np

from jaxcnn import environment


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_the_commit_is_that_of_the_sources_and_tells_of_changes(tmp_path, monkeypatch):
    sources = tmp_path / "jaxcnn"
    sources.mkdir()
    (sources / "__init__.py").write_text("")
    monkeypatch.setattr("jaxcnn.__file__", str(sources / "__init__.py"))
    assert environment.commit() is None
    git(tmp_path, "init")
    assert environment.commit() is None
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    assert environment.commit() == commit
    (tmp_path / "notes.txt").write_text("beside the sources")
    assert environment.commit() == commit
    (sources / "new.py").write_text("")
    assert environment.commit() == f"{commit}+changes"


def test_without_git_there_is_no_commit(monkeypatch):
    def no_git(*arguments, **options):
        raise FileNotFoundError("git")

    monkeypatch.setattr(environment.subprocess, "run", no_git)
    assert environment.commit() is None


def test_versions_are_those_of_the_installed_packages():
    assert environment.versions("numpy", "no-such-package") == {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "no-such-package": "not installed",
    }


def test_the_memory_is_that_of_this_machine_or_the_limit_of_a_container(tmp_path, monkeypatch):
    assert 10**8 < environment.memory_bytes() < 10**15
    limits = tmp_path / "memory.max", tmp_path / "limit"
    monkeypatch.setattr(environment, "_MEMORY_LIMITS", limits)
    whole = environment.memory_bytes()
    for text, expected in (("max\n", whole), ("12345678\n", 12345678), (f"{2**63 - 4096}\n", whole)):
        limits[0].write_text(text)
        assert environment.memory_bytes() == expected
    limits[1].write_text("1000\n")
    assert environment.memory_bytes() == 1000
    monkeypatch.delattr(environment.os, "sysconf")
    assert environment.memory_bytes() == 8 * 10**9
