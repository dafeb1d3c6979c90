"""The places of the files of a data set, and downloads that go on where they were broken off."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
from tqdm import tqdm

from latentflow_experiments.data.factors import PublicFile
from latentflow_experiments.errors import DataError
from latentflow_experiments.locks import held_folder
from latentflow_experiments.reading import BROKEN, MARK_BYTES, open_regular, read_limited
from latentflow_experiments.records import write_text

VARIABLE = "LATENTFLOW_DATA"
_STAND_INS = "synthetic"


def variable_root() -> Path | None:
    """Return the folder that the environment variable ``LATENTFLOW_DATA`` names; None if it is unset or empty.

    Raises:
        DataError: If it names the home of a user that there is not.
    """
    value = os.environ.get(VARIABLE)
    try:
        return Path(value).expanduser() if value else None
    except RuntimeError as error:
        raise DataError(f"{VARIABLE}: expected a folder, got {value!r}: {error}") from error


def cache_root() -> Path:
    """Return the folder of this project in the user's cache."""
    return Path(pooch.os_cache("latentflow"))


def default_folder(name: str, *, synthetic: bool) -> Path:
    """Return the folder into which the files of a data set go if nothing else is said.

    Args:
        name: The data set.
        synthetic: Whether they are a synthetic stand-in for it.

    Returns:
        The folder ``NAME``, or ``synthetic/NAME``, in ``$LATENTFLOW_DATA`` if that is set, else in the user's cache.

    Example:
        >>> assert default_folder("dsprites", synthetic=True).parts[-2:] == ("synthetic", "dsprites")
    """
    return folder_in(variable_root() or cache_root(), name, synthetic=synthetic)


def locate(name: str, file: str, folder: Path | None, remedy: str) -> Path:
    """Find the folder that holds the images of a data set; nothing is downloaded.

    Args:
        name: The data set.
        file: The file, or the folder of PNG files, that holds the images.
        folder: The only place to look, itself or its subfolder ``name``. By default the places are ``name`` and
            ``synthetic/name`` in ``$LATENTFLOW_DATA``, if that is set, and then in the user's cache.
        remedy: How the files are to be had, for the message.

    Returns:
        The first of these places that has ``file``.

    Raises:
        DataError: If none has it; the message says how it is to be had.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "isaac3d", "images").mkdir(parents=True)
        ...     assert locate("isaac3d", "images", Path(folder), "get it") == Path(folder, "isaac3d")
    """
    places = _default_places(name) if folder is None else (folder, folder / name)
    for place in places:
        if (place / file).exists():
            return place
    raise DataError(
        f"{places[0] / file}: expected the images of {name}, got no such file or folder, and none in "
        f"{' or '.join(map(str, places[1:]))}; {remedy}"
    )


def folder_in(root: Path, name: str, *, synthetic: bool) -> Path:
    """Return the folder of a data set, or of the synthetic stand-in for it, in a folder of data sets."""
    return root / _STAND_INS / name if synthetic else root / name


def _default_places(name: str) -> tuple[Path, ...]:
    roots = [root for root in (variable_root(), cache_root()) if root is not None]
    return tuple(folder_in(root, name, synthetic=synthetic) for root in roots for synthetic in (False, True))


_TIMEOUT = (20.0, 60.0)  # seconds to connect, and between two pieces
_PIECE = 2**16
_OK, _PARTIAL, _OUTSIDE = 200, 206, 416  # HTTP status: all, the part that was asked for, nothing is there


class DownloadError(DataError):
    """No address gave the file; the message says why, one reason for each address."""


def retrieve(file: PublicFile, folder: Path) -> Path:
    """Download a file unless it is there, and check its SHA-256.

    What has arrived is kept in ``NAME.part`` when the connection breaks or the user presses Ctrl-C, and the next call
    asks for the rest only. The addresses are tried in turn, and all of them again as long as that brings more of the
    file. A file with another SHA-256 is deleted when it was downloaded, and replaced when it was there before.

    Args:
        file: The file.
        folder: Where to put it.

    Returns:
        The file.

    Raises:
        DownloadError: If no address gives the file.
        DataError: If the folder cannot be written to.

    References:
        R. Fielding, M. Nottingham and J. Reschke, HTTP Semantics, RFC 9110, 2022, sections 13 and 14.
    """
    part = _Part(folder / f"{file.name}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with held_folder(folder):
            for path in (folder / file.name, part.path):
                if path.exists():
                    open_regular(path).close()
            return _from_any(file, folder, part)
    except OSError as error:
        raise DataError(f"{folder}: expected a folder that can be written to, got {error}") from error


def _from_any(file: PublicFile, folder: Path, part: _Part) -> Path:
    """Take the file from the first address that gives it."""
    while True:
        before, failures = part.size, []
        for address in file.addresses:
            try:
                return _from_one(address, file, folder, part)
            except requests.RequestException as error:
                reason = str(error) if type(error) is requests.RequestException else type(error).__name__
                failures.append(f"{address}: {reason}")
        if part.size <= before:
            kept = f"; {part.size:,} bytes are kept in {part.path} for the next time" if part.size else ""
            raise DownloadError(f"could not download {file.name} ({'; '.join(failures)}{kept})")


def _from_one(address: str, file: PublicFile, folder: Path, part: _Part) -> Path:
    """Take the file from one address, or raise a ``RequestException``."""
    downloader = _Resuming(part, file.size)
    try:
        path = pooch.retrieve(address, known_hash=file.sha256, fname=file.name, path=folder, downloader=downloader)
    except requests.RequestException:
        raise
    except ValueError as error:
        got = pooch.file_hash(str(part.path))
        part.clear()
        raise requests.RequestException(f"wrong SHA-256, expected {file.sha256}, got {got}, deleted") from error
    part.clear()
    return Path(path)


@dataclass(frozen=True)
class _Part:
    """The part of a file that has arrived, and beside it a note of which version at which address it is from."""

    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def _origin(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def version(self, address: str) -> str | None:
        try:
            version = json.loads(read_limited(self._origin, MARK_BYTES)).get(address)
        except (DataError, *BROKEN):  # a note is a hint: without it all is loaded again
            return None
        return version if isinstance(version, str) else None

    def note(self, address: str, version: str | None) -> None:
        write_text(self._origin, json.dumps({address: version}))

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)
        self._origin.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Resuming:
    """A downloader for pooch; its part stays until pooch has checked the whole file."""

    part: _Part
    size: int | None

    def __call__(self, address: str, output: str, _: object) -> None:
        if self.size is not None and self.part.size > self.size:
            self.part.clear()
        if self.part.size != self.size:
            self._load(address)
        Path(output).unlink()
        try:
            os.link(self.part.path, output)
        except OSError:  # a file system without links
            shutil.copyfile(self.part.path, output)

    def _load(self, address: str) -> None:
        start = self.part.size
        headers = self._headers(address, start)
        with requests.get(address, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            if response.status_code not in (_OK, _PARTIAL, _OUTSIDE):
                raise requests.RequestException(f"HTTP status {response.status_code}")
            first, whole = _extent(response)
            if self.size is not None and whole not in (None, self.size):
                raise requests.RequestException(f"expected a file of {self.size} bytes, got one of {whole}")
            if first in (0, start):
                self._append(address, response, first, self.size if whole is None else whole)
            if first in (0, start) or (first is None and whole == start):
                return
        if start == 0:
            raise requests.RequestException("expected the file from its start, got another part")
        self.part.clear()
        self._load(address)

    def _headers(self, address: str, start: int) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity"}
        if start > 0:
            headers["Range"] = f"bytes={start}-"
            version = self.part.version(address)
            if version is not None:
                headers["If-Range"] = version
        return headers

    def _append(self, address: str, response: requests.Response, first: int, whole: int | None) -> None:
        etag = response.headers.get("ETag", "W/")
        self.part.note(address, response.headers.get("Last-Modified") if etag.startswith("W/") else etag)
        with (
            self.part.path.open("ab" if first else "wb") as file,
            tqdm(
                desc=self.part.path.stem,
                total=whole,
                initial=first,
                unit="B",
                unit_scale=True,
                dynamic_ncols=True,
                disable=None,
            ) as bar,
        ):
            try:
                for piece in response.iter_content(_PIECE):
                    file.write(piece)
                    bar.update(len(piece))
                    if self.size is not None and file.tell() > self.size:
                        raise requests.RequestException(f"expected a file of {self.size} bytes, got more")
            except requests.RequestException as error:
                if file.tell() > (self.size or file.tell()):
                    raise
                raise requests.RequestException("the connection broke") from error
        if whole is not None and self.part.size < whole:
            raise requests.RequestException(f"the connection ended after {self.part.size} of {whole} bytes")


def _extent(response: requests.Response) -> tuple[int | None, int | None]:
    """Read where the content of an answer begins, None if there is none, and how long the whole file is, if it says."""
    if response.status_code == _OK:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", response.headers.get("Content-Range", "").strip())
    first, whole = found.groups() if found else (None, None)
    return None if first is None else int(first), None if whole is None else int(whole)
