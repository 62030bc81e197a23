"""The download script against a server on this machine: resume, checksums, no network, files by hand."""

import gzip
import hashlib
import importlib.util
import io
import sys
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from surgrad.datasets.events import EventDataset
from surgrad.datasets.sources.hdf5 import read_shd, write_shd

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "download_data.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("download_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "download_data", module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield module


class Server(ThreadingHTTPServer):
    """Serves ``files``; cuts a full answer after ``cut`` bytes; honours ranges unless ``ranges`` is off."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.ranges, self.requests = {}, None, True, []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/sets"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.requests.append((self.path, asked))
        body = server.files.get(Path(self.path).name)
        if body is None:
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start:] if server.cut is None else body[start : start + server.cut])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def make_archive(name, tmp_path):
    """A zip that holds a small file in the SHD format."""
    rng = np.random.default_rng(len(name))
    dataset = EventDataset(rng.random(600), rng.integers(0, 700, 600), [0, 200, 600], [3, 1], 700, 20)
    path = tmp_path / f"made_{name}.h5"
    write_shd(path, dataset)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.write(path, f"{name}.h5")
    return packed.getvalue()


@pytest.fixture
def shd(script, server, tmp_path, monkeypatch):
    """The script's entry ``shd``, pointed at small archives on the server; returns the command to run."""
    files = {f"{name}.h5.zip": make_archive(name, tmp_path) for name in ("shd_train", "shd_test")}
    server.files = files
    entry = script.DATA_SETS["shd"]
    archives = tuple(
        replace(a, md5=hashlib.md5(files[a.name]).hexdigest())  # the published sums belong to other files
        for a in entry.archives
    )
    monkeypatch.setitem(script.DATA_SETS, "shd", replace(entry, archives=archives))
    folder = tmp_path / "data"
    return folder, lambda: script.main(["shd", "--dest", str(folder), "--url", server.url])


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_fetches_unpacks_and_is_idempotent(shd, server):
    folder, run = shd
    assert run() == 0
    assert names(folder) == ["SHA256SUMS", "shd_test.h5", "shd_train.h5"]
    assert len(read_shd(folder / "shd_train.h5")) == 2
    asked = len(server.requests)
    assert run() == 0
    assert len(server.requests) == asked


def test_resumes_a_broken_download(shd, server, capsys):
    folder, run = shd
    whole = server.files["shd_train.h5.zip"]
    server.cut = len(whole) // 5
    assert run() == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "run again" in message
    kept = (folder / "shd_train.h5.zip.part").read_bytes()
    assert kept == whole[: len(kept)]
    assert 0 < len(kept) < len(whole)
    server.cut = None
    server.requests.clear()
    assert run() == 0
    assert server.requests[0][1] == f"bytes={len(kept)}-"
    assert names(folder) == ["SHA256SUMS", "shd_test.h5", "shd_train.h5"]


def test_a_complete_part_is_not_fetched_again(shd, server):
    folder, run = shd
    folder.mkdir()
    (folder / "shd_train.h5.zip.part").write_bytes(server.files["shd_train.h5.zip"])
    assert run() == 0
    assert len(server.requests) == 2


def test_a_part_longer_than_the_file_starts_again(shd, server):
    folder, run = shd
    folder.mkdir()
    (folder / "shd_train.h5.zip.part").write_bytes(server.files["shd_train.h5.zip"] + b"more")
    assert run() == 0


def test_a_server_without_ranges_starts_again(shd, server):
    folder, run = shd
    folder.mkdir()
    (folder / "shd_train.h5.zip.part").write_bytes(b"x" * 50)
    server.ranges = False
    assert run() == 0


def test_wrong_checksum_leaves_nothing_behind(shd, server, capsys):
    folder, run = shd
    body = bytearray(server.files["shd_train.h5.zip"])
    body[100] ^= 1
    server.files["shd_train.h5.zip"] = bytes(body)
    assert run() == 1
    assert "md5" in capsys.readouterr().err
    assert names(folder) == []


def test_a_wrong_part_is_thrown_away(shd, server):
    folder, run = shd
    folder.mkdir()
    (folder / "shd_train.h5.zip.part").write_bytes(b"x" * 50)
    assert run() == 1
    assert run() == 0


def test_no_network_is_one_line_with_the_way_out(shd, script, capsys):
    folder, _ = shd
    assert script.main(["shd", "--dest", str(folder), "--url", "http://127.0.0.1:1/x"]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    for part in ("shd_train.h5.zip", "md5", str(folder), "run the command again"):
        assert part in lines[0]


def test_missing_file_on_the_server_is_named(shd, server, capsys):
    _, run = shd
    del server.files["shd_test.h5.zip"]
    assert run() == 1
    assert "404" in capsys.readouterr().err


@pytest.mark.parametrize("packed", [True, False])
def test_files_placed_by_hand_need_no_network(shd, script, server, packed):
    folder, _ = shd
    folder.mkdir()
    for name, body in server.files.items():
        if packed:
            (folder / name).write_bytes(body)
        else:
            zipfile.ZipFile(io.BytesIO(body)).extractall(folder)
    assert script.main(["shd", "--dest", str(folder), "--url", "http://127.0.0.1:1/x"]) == 0
    assert len(read_shd(folder / "shd_test.h5")) == 2
    assert (folder / "shd_train.h5.zip").exists() == packed  # a user's own archive is kept


@pytest.mark.parametrize("name", ["shd_train.h5", "shd_train.h5.zip"])
def test_damaged_file_by_hand_is_named(shd, name, capsys):
    folder, run = shd
    folder.mkdir()
    (folder / name).write_bytes(b"not what it says")
    assert run() == 1
    assert str(folder / name) in capsys.readouterr().err
    assert names(folder) == [name]


@pytest.mark.parametrize("fetched", [True, False])
def test_an_unpacked_file_that_has_changed_since_is_found(shd, server, fetched, capsys):
    folder, run = shd
    if not fetched:
        folder.mkdir()
        for body in server.files.values():
            zipfile.ZipFile(io.BytesIO(body)).extractall(folder)
    assert run() == 0
    said = capsys.readouterr().out
    assert ("nobody publishes its checksum" in said) != fetched
    path = folder / "shd_test.h5"
    assert f"{hashlib.sha256(path.read_bytes()).hexdigest()}  shd_test.h5" in (folder / "SHA256SUMS").read_text()
    assert run() == 0
    assert "is there, unchanged" in capsys.readouterr().out
    write_shd(path, EventDataset([0.1], [0], [0, 1], [0], 700, 20))
    assert run() == 1
    assert f"{path}: sha256 is" in capsys.readouterr().err


def test_every_address_is_encrypted(script):
    assert all(data_set.url.startswith("https://") for data_set in script.DATA_SETS.values())


def test_idx_files_over_a_file_address(script, tmp_path, monkeypatch):
    mirror, folder = tmp_path / "mirror", tmp_path / "data"
    mirror.mkdir()
    entry = script.DATA_SETS["mnist"]
    archives = []
    for archive in entry.archives:
        body = archive.name.encode() * 100
        (mirror / archive.name).write_bytes(gzip.compress(body))
        archives.append(replace(archive, sha256=hashlib.sha256(body).hexdigest()))
    monkeypatch.setitem(script.DATA_SETS, "mnist", replace(entry, archives=tuple(archives)))
    command = ["mnist", "--dest", str(folder), "--url", mirror.as_uri()]
    assert script.main(command) == 0
    assert names(folder) == sorted(["SHA256SUMS", *(a.content for a in archives)])
    (folder / archives[0].content).write_bytes(b"changed")
    assert script.main(command) == 1


def test_damaged_gzip_leaves_nothing_behind(script, tmp_path, capsys):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(5000))[:-20])
    assert script.main(["mnist", "--dest", str(tmp_path)]) == 1
    assert "damaged archive" in capsys.readouterr().err
    assert names(tmp_path) == ["train-images-idx3-ubyte.gz"]


def test_unknown_name_lists_the_known_ones(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["shdd"])
    error = capsys.readouterr().err
    assert all(name in error for name in script.DATA_SETS)
