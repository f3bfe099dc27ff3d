"""Fetches the public files that a full reproduction needs: resumes, verifies, unpacks; completely or not at all."""

import gzip
import hashlib
import logging
import re
import shutil
import tarfile
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from deconvnet.support.errors import UserError
from deconvnet.support.locks import held
from deconvnet.support.progress import progress

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

ITEMS = ("voc2012", "sbd", "edges", "vgg16")
CHUNK = 1 << 16  # bytes read at a time; at most these are lost when a transfer is cut
TIMEOUT = (10, 60)  # seconds: to connect, and between two chunks
FRUITLESS = 3  # connections in a row without any data before we give up
PAUSE = 1.0  # seconds before the second attempt, doubled each time


@dataclass(frozen=True)
class Remote:
    """A file to fetch.

    path: where it goes, under the data folder. checksum: "md5:HEX" or "sha256:HEX", HEX may be a prefix; empty where
    none is published. size: for display, not checked. folder: for an archive, the folder to unpack from it, under the
    same name in the data folder.
    """

    url: str
    path: str
    checksum: str = ""
    size: str = "not published"
    folder: str = ""


def _vgg16(url: str) -> Remote:
    """A torchvision weights file: its name ends with the first digits of its sha256."""
    name = PurePosixPath(url).name
    digits = re.findall(r"-([0-9a-f]{8,})[.]pth$", name)[0]
    return Remote(url, name, f"sha256:{digits}", "about 553 MB")


@cache
def remotes() -> dict[str, tuple[Remote, ...]]:
    """The files of each of ITEMS.

    Addresses and checksums are torchvision's, so that they are kept up to date by its maintainers; it takes seconds to
    import, so that is done here.
    """
    from torchvision.datasets import SBDataset
    from torchvision.datasets.voc import DATASET_YEAR_DICT
    from torchvision.models import VGG16_Weights

    voc = DATASET_YEAR_DICT["2012"]
    files = (
        (Remote(voc["url"], voc["filename"], f"md5:{voc['md5']}", "1,999,639,040 bytes", "VOCdevkit/VOC2012"),),
        (Remote(SBDataset.url, SBDataset.filename, f"md5:{SBDataset.md5}", "1,419,539,633 bytes",
                "benchmark_RELEASE/dataset"),),
        # OpenCV publishes no checksum; a release tag never changes, and gzip's own CRC detects a damaged file.
        (Remote("https://raw.githubusercontent.com/opencv/opencv_extra/3.1.0/testdata/cv/ximgproc/model.yml.gz",
                "model.yml.gz"),),
        (_vgg16(VGG16_Weights.IMAGENET1K_V1.url),  # all layers
         _vgg16(VGG16_Weights.IMAGENET1K_FEATURES.url)),  # the original Caffe convolutions; its classifier is NaN
    )
    return dict(zip(ITEMS, files, strict=True))


def describe(remote: Remote, data: Path) -> str:
    """Instructions to fetch a file by hand: address, place, size, checksum, and where an archive is unpacked."""
    lines = [
        f"  from      {remote.url}",
        f"  to        {data / remote.path}",
        f"  size      {remote.size}",
        f"  checksum  {remote.checksum.replace(':', ' ', 1) or 'not published'}"
        + (" (the first digits)" if len(remote.checksum.partition(":")[2]) in range(1, 32) else ""),
    ]
    if remote.folder:
        lines.append(f"  unpacked  {data / remote.folder} (by this command, once the archive is in its place)")
    return "\n".join(lines)


def fetch(remote: Remote, data: Path) -> Path:
    """Fetches and unpacks a file, or finds it complete already; returns the file or the unpacked folder.

    Raises UserError: unreachable, refused, wrong checksum, hostile or damaged archive.
    """
    path, folder = data / remote.path, data / remote.folder
    with held(path):
        return _fetch(remote, path, folder, data)


def _fetch(remote: Remote, path: Path, folder: Path, data: Path) -> Path:
    if remote.folder and folder.is_dir() and any(folder.iterdir()):
        log.info("%s: already there", folder)
        return folder
    if path.is_file():
        wrong = checksum_error(remote, path)
        if wrong:
            aside = path.with_name(f"{path.name}.bad")
            path.replace(aside)
            log.warning("%s: %s; kept as %s", path, wrong, aside.name)
    if path.is_file():
        log.info("%s: already there", path)
    else:
        download(remote, path)
    if remote.folder:
        unpack(path, remote.folder, data)
        return folder
    return path


def checksum_error(remote: Remote, path: Path) -> str:
    """How a file's checksum differs from the published one; empty if it matches.

    Where none is published: the sha256 is logged, and a .gz file must at least be readable to its end.
    """
    algorithm, _, expected = (remote.checksum or "sha256:").partition(":")
    digest = hashlib.new(algorithm)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    found = digest.hexdigest()
    if not expected:
        if remote.path.endswith(".gz"):  # `path` may still be the part
            try:
                with gzip.open(path) as file:
                    while file.read(CHUNK):
                        pass
            except (OSError, EOFError, zlib.error) as error:
                return f"no checksum is published, but the file is not a whole gzip file ({error})"
        log.info("%s: no checksum is published; this file's sha256 is %s", remote.path, found)
        return ""
    return "" if found.startswith(expected) else f"{algorithm} is {found}; expected {expected}"


def download(remote: Remote, path: Path) -> None:
    """Downloads to `path` through `path`.part, which a later call resumes. Raises UserError."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util.retry import Retry

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    passing = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    fruitless = 0
    furthest = part.stat().st_size if part.is_file() else 0
    # Refused connections and busy servers are retried in here, transfers cut in the middle by the loop below.
    retry = Retry(total=3, backoff_factor=PAUSE / 2, status_forcelist=(429, 500, 502, 503, 504))
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=retry))
        session.mount("https://", HTTPAdapter(max_retries=retry))
        while True:
            try:
                if _transfer(session, remote, part):
                    break
                raise requests.ConnectionError("the transfer was cut")
            except requests.RequestException as error:
                after = part.stat().st_size if part.is_file() else 0
                fruitless = fruitless + 1 if after <= furthest else 0
                furthest = max(furthest, after)
                unreachable = isinstance(error, requests.ConnectionError) and not after
                if fruitless == FRUITLESS or unreachable or not isinstance(error, passing):
                    kept = f"; the {after:,} bytes so far are kept in {part}" if after else ""
                    raise UserError(f"{remote.url}: cannot be fetched ({_cause(error)}){kept}") from None
                log.warning("%s: %s; resuming at byte %s", remote.url, _cause(error), f"{after:,}")
                time.sleep(PAUSE * 2**fruitless if fruitless else 0)
    wrong = checksum_error(remote, part)
    if wrong:
        aside = path.with_name(f"{path.name}.bad")
        part.replace(aside)
        raise UserError(f"{remote.url}: {wrong}; the download is kept as {aside}; run again to fetch it again")
    part.replace(path)


def _transfer(session: "requests.Session", remote: Remote, part: Path) -> bool:
    """One request for what is still missing from `part`; True when it is complete. Raises requests.RequestException."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with session.get(remote.url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        whole = re.search(r"/(\d+)$", answer.headers.get("Content-Range", ""))
        if answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            if whole and int(whole[1]) == have:
                return True  # the download was complete, only the check was missing
            part.unlink()  # longer than the file on the server: not its beginning
            return _transfer(session, remote, part)
        answer.raise_for_status()
        if not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            have = 0  # a server without range requests sends the whole file
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        bar = progress(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem)
        with bar, part.open("ab" if have else "wb") as file:
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    return total is None or part.stat().st_size >= total


def _cause(error: Exception) -> str:
    """The readable part of requests' nested exceptions."""
    text = " ".join(str(error).split())
    inner = re.findall(r"(?:\[Errno -?\d+\] |: )([^:<>()\[\]'\"]+)['\")]*$", text)
    return inner[-1].strip() if inner else text


def unpack(archive: Path, folder: str, data: Path) -> None:
    """Unpacks the folder `folder` of a tar file to data/folder. Raises UserError for a damaged or hostile archive.

    data/folder appears only once it is complete.
    """
    if not hasattr(tarfile, "data_filter"):
        raise UserError("this Python's tarfile cannot refuse hostile archives: use Python 3.10.12, 3.11.4 or later")
    temporary = data / f".{PurePosixPath(folder).name}.part"
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process
    try:
        with tarfile.open(archive) as tar:
            members: Iterable[tarfile.TarInfo] = progress(tar, unit="file", desc=f"unpacking {archive.name}")
            tar.extractall(temporary, members=members, filter="data")
        if not (temporary / folder).is_dir():
            raise UserError(f"{archive}: has no folder {folder}")
        (data / folder).parent.mkdir(parents=True, exist_ok=True)
        (temporary / folder).replace(data / folder)
    except tarfile.FilterError as error:
        raise UserError(f"{archive}: refused, a member would be written outside the folder: {error}") from None
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{archive}: cut short or not a tar file ({error}): remove it and fetch it again") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
