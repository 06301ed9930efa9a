"""The Python in README.md and docs/ runs as it stands, and their links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcnn.cli.options import Train

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = "<!-- not run:"


def blocks(page):
    """Returns the Python of a page, without the blocks after a comment that says why they are not run."""
    text = page.read_text()
    return [
        block.group(1)
        for block in re.finditer(r"```python\n(.*?)```", text, re.DOTALL)
        if not text[: block.start()].rstrip().splitlines()[-1].startswith(NOT_RUN)
    ]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[] if page.name == "README.md" else [pytest.mark.slow])
        for page in PAGES
        if blocks(page)
    ],
    ids=lambda page: page.name,
)
def test_the_python_of_a_page_runs(page, tmp_path):
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks(page)))
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []


def scripts(language):
    text = (ROOT / "docs" / "scale.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_job_of_kubernetes_is_a_job_set_of_indexed_pods():
    yaml = pytest.importorskip("yaml")
    (text,) = scripts("yaml")
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (workers,) = job["spec"]["replicatedJobs"]
    spec = workers["template"]["spec"]
    assert (spec["completionMode"], spec["parallelism"], spec["completions"]) == ("Indexed", 4, 4)
    (container,) = spec["template"]["spec"]["containers"]
    *shell, script = container["command"]
    assert shell == ["bash", "-c"]
    # The first pod's name in the network, as JobSet makes it.
    name = f"{job['metadata']['name']}-{workers['name']}-0-0.{job['metadata']['name']}"
    port = container["ports"][0]["containerPort"]
    assert f"--coordinator {name}:{port} --processes {spec['completions']} " in script
    check_shell(script)


def test_the_shell_scripts_of_the_page_are_bash():
    found = scripts("bash")
    assert any("#SBATCH" in script for script in found)
    for script in found:
        check_shell(script)


def check_shell(script):
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    # The command has all options that the page uses.
    for option in re.findall(r" --([a-z-]+)", " ".join(re.findall(r"jaxcnn train (?:.*\\\n)*.*", script))):
        assert hasattr(Train, option.replace("-", "_")) or hasattr(Train().recipe, option.replace("-", "_")), option
