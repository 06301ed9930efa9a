import builtins
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from huggingface_hub import constants

from jaxcnn.interop.files.config import read_timm_config
from jaxcnn.interop.files.hub import download, verify_torchvision_name
from jaxcnn.interop.files.safetensors_file import read_safetensors, write_safetensors

HUB_ID = "timm/resnet50.a1_in1k"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LOCAL = r"pass local files: a folder with config.json and model.safetensors, a .safetensors, a .pth .*, or an .h5"


class Hub(http.server.ThreadingHTTPServer):
    """A hub on this machine, as huggingface_hub talks to it: HEAD for the checksum, GET for the bytes.

    Attributes:
      files: content by (revision, name); the first revision is that of the commit and of main.
      checksums: what is published instead of the right one, by name.
      break_after: bytes of model.safetensors after which the connection ends, None for none.
      requests: what was asked for, as (method, name).
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.checksums, self.break_after, self.requests = {}, {}, None, []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def refuse(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, body):
        repository, found, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        self.server.requests.append((self.command, name))
        if not found or repository not in (HUB_ID, "timm/gated"):
            return self.refuse(404 if found else 403, "RepoNotFound")
        if repository == "timm/gated":
            return self.refuse(403, "GatedRepo")
        if revision not in ("main", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        if name not in self.server.files:
            return self.refuse(404, "EntryNotFound")
        content = self.server.files[name]
        if name.endswith(".safetensors"):
            checksum = hashlib.sha256(content).hexdigest()
        else:
            checksum = hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{self.server.checksums.get(name, checksum)}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            cut = self.server.break_after if name.endswith(".safetensors") else None
            self.wfile.write(content[:cut])
            if cut is not None:
                self.close_connection = True

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    write_safetensors(path, {"fc.weight": np.arange(3000, dtype=np.float32)})
    return path.read_bytes()


@pytest.fixture
def hub(tmp_path, monkeypatch, weights):
    """Starts a hub and points huggingface_hub, which reads its environment once, to it and to an empty cache."""
    server = Hub()
    server.files = {
        "config.json": json.dumps({"architecture": "resnet50", "num_classes": 1000, "pretrained_cfg": {}}).encode(),
        "model.safetensors": weights,
    }
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    # It waits before it tries again.
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def content_of(cache):
    """Returns what the cache holds of blobs and of links to them."""
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and path.parent.name in ("blobs", COMMIT))


def test_a_model_is_downloaded_and_read(hub, tmp_path):
    folder = download(HUB_ID)
    assert folder.name == COMMIT
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    np.testing.assert_array_equal(np.asarray(read_safetensors(folder)["fc.weight"]), np.arange(3000))
    assert read_timm_config(folder).architecture == "resnet50"


def test_a_model_of_the_cache_is_not_downloaded_again(hub):
    folder = download(HUB_ID)
    hub.requests.clear()
    assert download(HUB_ID) == folder
    assert download(HUB_ID, revision=COMMIT) == folder
    assert "GET" not in [method for method, _ in hub.requests]


def test_the_cache_serves_when_the_hub_is_out_of_reach(hub, monkeypatch):
    folder = download(HUB_ID)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert download(HUB_ID) == folder
    assert hub.requests == []


def test_shards_are_downloaded_by_their_index(hub, weights):
    del hub.files["model.safetensors"]
    hub.files["model-00001-of-00001.safetensors"] = weights
    index = {"weight_map": {"fc.weight": "model-00001-of-00001.safetensors"}}
    hub.files["model.safetensors.index.json"] = json.dumps(index).encode()
    assert read_safetensors(download(HUB_ID)).keys() == {"fc.weight"}


@pytest.mark.parametrize(
    ("hub_id", "revision", "error", "message"),
    [
        ("timm/none", None, FileNotFoundError, f"there is no 'timm/none' on the hub, or it is private; .* {LOCAL}"),
        (HUB_ID, "v9", FileNotFoundError, "there is no 'timm/resnet50.a1_in1k' on the hub at revision 'v9'; check the"),
        ("timm/gated", None, PermissionError, f"'timm/gated' on the hub requires consent; .* {LOCAL}"),
        ("resnet50", None, ValueError, f"expected the id of a repository .*, got 'resnet50'; .* {LOCAL}"),
        ("../weights.pth", None, ValueError, "expected the id of a repository"),
        ("/tmp/weights.pth", None, ValueError, "expected the id of a repository"),
    ],
)
def test_what_the_hub_does_not_have_is_said_with_the_local_alternatives(hub, hub_id, revision, error, message):
    with pytest.raises(error, match=message):
        download(hub_id, revision=revision)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_repository_without_a_model_of_timm_is_refused(missing, hub):
    del hub.files[missing]
    with pytest.raises(
        FileNotFoundError, match=rf"has no {missing}.*; choose a model of timm in safetensors, or {LOCAL}"
    ):
        download(HUB_ID)


def test_an_interrupted_download_leaves_nothing_under_its_name_and_can_be_repeated(hub, tmp_path, weights):
    hub.break_after = 5000
    with pytest.raises(OSError, match=rf"the download of model.safetensors of .* failed: .*; try again, or {LOCAL}"):
        download(HUB_ID)
    names = content_of(tmp_path / "cache")
    assert "model.safetensors" not in names
    assert hashlib.sha256(weights).hexdigest() not in names
    hub.break_after = None
    np.testing.assert_array_equal(np.asarray(read_safetensors(download(HUB_ID))["fc.weight"]), np.arange(3000))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_corrupted_download_is_refused_and_removed(name, hub, tmp_path):
    right = hub.files[name]
    checksum = hashlib.sha256(right) if name.endswith("tensors") else hashlib.sha1(b"blob %d\0%b" % (len(right), right))
    hub.checksums[name] = checksum.hexdigest()
    hub.files[name] = right[:-1] + b"\x01"
    with pytest.raises(
        OSError, match=f"{name} of .* is damaged: expected checksum {checksum.hexdigest()}, got .* removed"
    ):
        download(HUB_ID)
    assert {name, checksum.hexdigest()}.isdisjoint(content_of(tmp_path / "cache"))
    hub.files[name] = right
    assert (download(HUB_ID) / name).read_bytes() == right


def test_a_file_damaged_in_the_cache_is_refused(hub):
    folder = download(HUB_ID)
    with open(folder / "model.safetensors", "r+b") as file:
        file.seek(3000)
        file.write(b"\xff")
    with pytest.raises(OSError, match=r"model.safetensors of .* is damaged: expected checksum"):
        download(HUB_ID, revision=COMMIT)


@pytest.mark.slow
def test_the_environment_names_the_hub_and_turns_it_off(hub, tmp_path):
    program = f"from jaxcnn.interop.files.hub import download; print(download({HUB_ID!r}))"

    def run(**env):
        env = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_CACHE": str(tmp_path / "home/hub"), **env}
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env)

    offline = run(HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1")
    assert (
        "FileNotFoundError: HF_HUB_OFFLINE is set, and the cache has no config.json of 'timm/resnet50" in offline.stderr
    )
    assert hub.requests == []
    online = run(HF_ENDPOINT=hub.url)
    assert online.returncode == 0, online.stderr
    assert read_safetensors(online.stdout.strip()).keys() == {"fc.weight"}


def test_a_hub_out_of_reach_is_said(hub, monkeypatch):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(
        FileNotFoundError, match=rf"the hub cannot be reached, and the cache has no config.json .* {LOCAL}"
    ):
        download(HUB_ID)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=rf"HF_HUB_OFFLINE is set, and the cache has no config.json .* {LOCAL}"):
        download(HUB_ID)


def test_a_missing_package_is_said(monkeypatch):
    real = builtins.__import__

    def fail(name, *args, **kwargs):
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(ImportError, match=rf"pip install 'jaxcnn\[weights\]', or {LOCAL}"):
        download(HUB_ID)


def test_the_checksum_in_a_name_of_torchvision_is_verified(tmp_path):
    digest = hashlib.sha256(b"weights").hexdigest()
    good, other, plain = (
        tmp_path / name for name in (f"resnet50-{digest[:8]}.pth", "resnet50-11ad3fa6.pth", "resnet50.pth")
    )
    for path in (good, other, plain):
        path.write_bytes(b"weights")
    assert verify_torchvision_name(good)
    assert not verify_torchvision_name(plain)
    with pytest.raises(ValueError, match=rf"expected sha256 11ad3fa6\.\.\., got {digest[:8]}\.\.\.; download it again"):
        verify_torchvision_name(other)
    (tmp_path / "resnet18-20240101.pth").write_bytes(b"weights")
    with pytest.raises(ValueError, match="or rename the file if 20240101 is not a checksum but, for example, a date"):
        verify_torchvision_name(tmp_path / "resnet18-20240101.pth")
    with pytest.raises(FileNotFoundError, match=r"expected a file of weights, got .*, which does not exist"):
        verify_torchvision_name(tmp_path / "none-11ad3fa6.pth")
