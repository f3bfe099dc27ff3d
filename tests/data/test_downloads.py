"""stages.download and deconvnet/data/downloads.py, against a real HTTP server on this machine."""

import gzip
import hashlib
import io
import re
import socket
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from deconvnet.data import downloads as fetching
from deconvnet.data.downloads import Remote, fetch, remotes, unpack
from deconvnet.support.errors import UserError
from stages import download
from stages.cli import run_command

CONTENT = np.random.default_rng(0).bytes(1_000_003)
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content` at every path; can cut the transfer, know no ranges, or answer with an error."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.cuts: list[int] = []  # bytes after which the next answers are cut
        self.ranges = True
        self.status = 200
        self.requests: list[str] = []  # the Range header of each request

    def url(self, name: str = "file.bin") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range", "")
        server.requests.append(wanted)
        if server.status != 200:
            self.send_error(server.status)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0
        whole = len(server.content)
        if start >= whole and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{whole}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if wanted and server.ranges else 200)
        if wanted and server.ranges:
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        self.send_header("Content-Length", str(whole - start))
        self.end_headers()
        end = start + server.cuts.pop(0) if server.cuts else whole
        self.wfile.write(server.content[start:end])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetching, "PAUSE", 0.01)
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def nobody_listens() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/file.bin"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_fetches_and_then_skips(server: Server, tmp_path: Path) -> None:
    remote = Remote(server.url(), "deep/file.bin", MD5)
    assert fetch(remote, tmp_path).read_bytes() == CONTENT
    assert names(tmp_path / "deep") == {"file.bin"}
    fetch(remote, tmp_path)
    assert server.requests == [""]


def test_goes_on_after_cuts_within_one_call(server: Server, tmp_path: Path) -> None:
    server.cuts = [300_000, 400_000]
    assert fetch(Remote(server.url(), "file.bin", MD5), tmp_path).read_bytes() == CONTENT
    first, second, third = server.requests
    assert first == ""
    # what was cut off inside a chunk is asked for again, nothing else is
    resumed = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in (second, third)]
    assert 300_000 - fetching.CHUNK < resumed[0] <= 300_000
    assert resumed[0] + 400_000 - fetching.CHUNK < resumed[1] <= resumed[0] + 400_000


def test_goes_on_from_an_earlier_run(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:123_457])
    assert fetch(Remote(server.url(), "file.bin", MD5), tmp_path).read_bytes() == CONTENT
    assert server.requests == ["bytes=123457-"]


def test_part_that_is_already_everything(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    assert fetch(Remote(server.url(), "file.bin", MD5), tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == {"file.bin"}


def test_part_longer_than_the_file_is_started_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT + b"more")
    assert fetch(Remote(server.url(), "file.bin", MD5), tmp_path).read_bytes() == CONTENT


def test_server_without_ranges(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.cuts = [500_000]
    assert fetch(Remote(server.url(), "file.bin", MD5), tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_gives_up_but_keeps_what_came(server: Server, tmp_path: Path) -> None:
    server.cuts = [300_000] + [0] * 20
    with pytest.raises(UserError, match="cannot be fetched.*bytes so far are kept"):
        fetch(Remote(server.url(), "file.bin", MD5), tmp_path)
    kept = (tmp_path / "file.bin.part").read_bytes()
    assert len(kept) > 200_000 and kept == CONTENT[: len(kept)]
    server.cuts = []
    assert fetch(Remote(server.url(), "file.bin", MD5), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("checksum", ["md5:" + "0" * 32, "sha256:00000000"])
def test_wrong_checksum(server: Server, tmp_path: Path, checksum: str) -> None:
    with pytest.raises(UserError, match=f"expected {checksum.partition(':')[2]}.*run again"):
        fetch(Remote(server.url(), "file.bin", checksum), tmp_path)
    assert names(tmp_path) == {"file.bin.bad"}


def test_checksum_may_be_a_prefix(server: Server, tmp_path: Path) -> None:
    fetch(Remote(server.url(), "file.bin", "sha256:" + hashlib.sha256(CONTENT).hexdigest()[:8]), tmp_path)
    assert names(tmp_path) == {"file.bin"}


def test_damaged_file_in_place_is_set_aside_and_fetched(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"put here by hand, wrongly")
    assert fetch(Remote(server.url(), "file.bin", MD5), tmp_path).read_bytes() == CONTENT
    assert (tmp_path / "file.bin.bad").read_bytes() == b"put here by hand, wrongly"


def test_without_published_checksum_the_hash_is_logged(server: Server, tmp_path: Path,
                                                       caplog: pytest.LogCaptureFixture) -> None:
    server.content = gzip.compress(b"a model" * 1000)
    with caplog.at_level("INFO"):
        fetch(Remote(server.url(), "model.yml.gz"), tmp_path)
    assert hashlib.sha256(server.content).hexdigest() in caplog.text
    server.content = b"<html>sign in first</html>"
    with pytest.raises(UserError, match="not a whole gzip file"):
        fetch(Remote(server.url(), "other.yml.gz"), tmp_path)
    assert names(tmp_path) == {"model.yml.gz", "other.yml.gz.bad"}


@pytest.mark.parametrize("status", [404, 503])
def test_server_refuses(server: Server, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(UserError, match=str(status)):
        fetch(Remote(server.url(), "file.bin", MD5), tmp_path)
    assert not names(tmp_path)
    assert len(server.requests) == (1 if status == 404 else 4)  # a busy server is asked again


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["archive.tar", "archive.tgz"])
def test_archive_is_unpacked_beside_what_is_there(server: Server, tmp_path: Path, name: str) -> None:
    source = make_tar(tmp_path / name, {"kit/set/a.txt": b"a", "kit/set/deep/b.txt": b"b", "kit/readme": b"r"})
    server.content = source.read_bytes()
    data = tmp_path / "data"
    (data / "kit" / "other").mkdir(parents=True)
    remote = Remote(server.url(), name, "md5:" + hashlib.md5(server.content).hexdigest(), folder="kit/set")
    assert fetch(remote, data) == data / "kit" / "set"
    assert (data / "kit" / "set" / "deep" / "b.txt").read_bytes() == b"b"
    assert names(data) == {name, "kit"} and names(data / "kit") == {"other", "set"}
    (data / name).unlink()  # the unpacked folder is enough
    fetch(remote, data)
    assert len(server.requests) == 1


@pytest.mark.parametrize("hostile", ["../x", "kit/set/../../../x"])
def test_hostile_member_is_refused(tmp_path: Path, hostile: str) -> None:
    data = tmp_path / "outer" / "data"
    data.mkdir(parents=True)
    archive = make_tar(data / "archive.tar", {"kit/set/a.txt": b"a", hostile: b"evil"})
    with pytest.raises(UserError, match="refused"):
        unpack(archive, "kit/set", data)
    assert names(data) == {"archive.tar"} and names(data.parent) == {"data"} and names(tmp_path) == {"outer"}


@pytest.mark.parametrize("keep", [0.5, 0.0])
def test_archive_cut_short(tmp_path: Path, keep: float) -> None:
    archive = make_tar(tmp_path / "archive.tgz", {f"kit/set/{i}": CONTENT[:100_000] for i in range(3)})
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * keep)])
    with pytest.raises(UserError, match="cut short or not a tar file"):
        unpack(archive, "kit/set", tmp_path)
    assert names(tmp_path) == {"archive.tgz"}


def test_archive_without_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no folder kit/set"):
        unpack(make_tar(tmp_path / "archive.tar", {"else/a": b"a"}), "kit/set", tmp_path)


def test_leftovers_of_a_killed_unpacking_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / ".set.part" / "kit" / "set").mkdir(parents=True)
    (tmp_path / ".set.part" / "kit" / "set" / "old").write_bytes(b"old")
    unpack(make_tar(tmp_path / "archive.tar", {"kit/set/a": b"a"}), "kit/set", tmp_path)
    assert names(tmp_path / "kit" / "set") == {"a"}


def test_an_empty_folder_is_not_there_already(server: Server, tmp_path: Path) -> None:
    """Somebody made VOCdevkit/VOC2012 to put something in; what is in it is never replaced."""
    make_tar(tmp_path / "archive.tar", {"kit/set/a": b"a"})
    (tmp_path / "kit" / "set").mkdir(parents=True)
    remote = Remote(server.url(), "archive.tar", folder="kit/set")
    assert names(fetch(remote, tmp_path)) == {"a"}
    (tmp_path / "kit" / "set" / "b").write_bytes(b"b")
    assert names(fetch(remote, tmp_path)) == {"a", "b"} and not server.requests


def test_without_a_network_the_command_says_what_to_put_where(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = nobody_listens()
    monkeypatch.setitem(remotes(), "voc2012", (Remote(url, "voc.tar", MD5, "5 bytes", "VOCdevkit/VOC2012"),))
    monkeypatch.setitem(remotes(), "edges", (Remote(server.url(), "here.bin", MD5),))
    assert run_command(download.parse(), download.main, ["voc2012", "edges", "--to", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    for wanted in (url, str(tmp_path / "voc.tar"), "5 bytes", MD5.replace(":", " "), "VOCdevkit/VOC2012"):
        assert wanted in err
    assert err.strip().splitlines()[-1].startswith("error: not fetched: voc.tar")
    assert out.strip() == str(tmp_path / "here.bin")  # the others are fetched all the same
    assert "Traceback" not in err


def test_list_names_every_file_without_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(download.parse(), download.main, ["--list", "--to", str(tmp_path / "data")]) == 0
    out = capsys.readouterr().out
    # the published sums, as the data sets' own mirrors and torchvision's documentation give them
    for wanted in ("VOCtrainval_11-May-2012.tar", "6cd6e144f989b92b3379bac3b3de84fd", "1,999,639,040",
                   "benchmark.tgz", "82b4d87ceb2ed10f6038a1cba92111cb", "1,419,539,633",
                   "ximgproc/model.yml.gz", "397923af", "88682ab5"):
        assert wanted in out
    assert not (tmp_path / "data").exists()


def test_unknown_item(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(download.parse(), download.main, ["voc2007"]) == 2
    assert "voc2007: not one of voc2012, sbd, edges, vgg16" in capsys.readouterr().err
