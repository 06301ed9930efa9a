import hashlib
import http.server
import threading
from http import HTTPStatus

import numpy as np
import pytest

from jaxcnn.data import download as module
from jaxcnn.data.download import DownloadError, PublishedFile, check_published, download

CONTENT = np.random.default_rng(0).bytes(100_000)


class Server(http.server.ThreadingHTTPServer):
    """Serves one file. `answers` says how, one for each connection; then it serves as it should."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.answers, self.ranges = CONTENT, [], []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        content, asked = self.server.content, self.headers.get("Range")
        self.server.ranges.append(asked)
        answer = self.server.answers.pop(0) if self.server.answers else ""
        if isinstance(answer, HTTPStatus):
            self.send_error(answer)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and answer != "no ranges" else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            shown = start + 1 if answer == "another range" else start
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = start + answer if isinstance(answer, int) else len(content)
        self.wfile.write(content[start:stop])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def published(server):
    return PublishedFile(
        f"http://127.0.0.1:{server.server_port}/some/file.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest()
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_whole_and_once(server, published, tmp_path):
    seen = []
    path = download(published, tmp_path, lambda *parts: seen.append(parts))
    assert path == tmp_path / "file.bin"
    assert path.read_bytes() == CONTENT
    assert seen == sorted(seen)
    assert seen[-1] == ("file.bin", 100_000, 100_000)
    assert download(published, tmp_path) == path
    assert server.ranges == [None]
    assert names(tmp_path) == ["file.bin"]


def test_a_connection_that_ends_early_is_resumed(server, published, tmp_path):
    server.answers = [30_000, 0, 20_000]
    assert download(published, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=30000-", "bytes=30000-", "bytes=50000-"]


def test_a_later_download_goes_on_where_the_first_stopped(server, published, tmp_path):
    server.answers = [25_000, 0, 0, 0]
    with pytest.raises(
        DownloadError, match=r"file.bin failed: .*; 25,000 of 100,000 bytes are kept in .*file.bin.part'"
    ):
        download(published, tmp_path)
    assert names(tmp_path) == ["file.bin.part"]
    assert download(published, tmp_path).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=25000-"
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("answer", ["no ranges", "another range"])
def test_a_server_without_ranges_sends_all_again(server, published, tmp_path, answer):
    server.answers = [25_000, answer]
    assert download(published, tmp_path).read_bytes() == CONTENT


def test_the_beginning_of_another_file_is_dropped(server, published, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(bytes(10_000))
    assert download(published, tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=10000-", None]
    (tmp_path / "file.bin").write_bytes(bytes(100_000))
    (tmp_path / "file.bin.part").write_bytes(bytes(100_000))
    assert download(published, tmp_path).read_bytes() == CONTENT
    (tmp_path / "file.bin").write_bytes(b"")
    (tmp_path / "file.bin.part").write_bytes(bytes(100_001))
    assert download(published, tmp_path).read_bytes() == CONTENT


def test_a_file_that_has_become_shorter_is_asked_for_again(server, published, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:60_000])
    server.content = CONTENT[:50_000]
    with pytest.raises(DownloadError, match="the connection ended early; 50,000 of 100,000 bytes are kept"):
        download(published, tmp_path)
    assert server.ranges[:2] == ["bytes=60000-", None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT[:-1] + b"x", f"expected sha256 {hashlib.sha256(CONTENT).hexdigest()}, got "),
        (CONTENT + b"x" * 5000, "expected 100,000 bytes, got 100,001"),
    ],
)
def test_another_file_is_refused_and_removed(server, published, tmp_path, content, message):
    server.content = content
    with pytest.raises(DownloadError, match=rf"file.bin is not the file that was published: {message}"):
        download(published, tmp_path)
    assert names(tmp_path) == []


def test_a_missing_file_is_asked_for_once(server, published, tmp_path):
    server.answers = [HTTPStatus.NOT_FOUND] * 9
    with pytest.raises(DownloadError, match=r"file.bin cannot be downloaded: 404 Not Found"):
        download(published, tmp_path)
    assert server.ranges == [None]
    server.answers = [HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.INTERNAL_SERVER_ERROR]
    assert download(published, tmp_path).read_bytes() == CONTENT


def test_without_a_server_the_download_fails(published, tmp_path):
    nowhere = published._replace(url="http://127.0.0.1:9/file.bin")
    with pytest.raises(
        DownloadError, match=r"the download of http://127.0.0.1:9/file.bin failed: .*refused; 0 of 100,000"
    ):
        download(nowhere, tmp_path)


def test_a_full_disk_is_no_failed_download(published, tmp_path, monkeypatch):
    def full(response, file, *others):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_copy", full)
    with pytest.raises(OSError, match=r"cannot write .*file.bin.part': No space left on device; check the") as refused:
        download(published, tmp_path)
    assert not isinstance(refused.value, DownloadError)


def test_a_file_is_compared_with_what_was_published(published, tmp_path):
    path = tmp_path / "mine.bin"
    with pytest.raises(FileNotFoundError, match=r"there is no file .*mine.bin'; expected file.bin, from http"):
        check_published(path, published)
    path.write_bytes(CONTENT)
    check_published(path, published)
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(ValueError, match=r"expected file.bin as http.* has it, got .*mine.bin': expected sha256 "):
        check_published(path, published)
