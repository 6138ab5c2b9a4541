"""Downloads over HTTP, complete or not at all."""

from __future__ import annotations

import hashlib
import os
import platform
from http.client import HTTPException, HTTPMessage
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from ftkit.api import FtkitError, RequestError
from ftkit.builtin.datasets.archive import SCHEMES

TIMEOUT = 30.0
"""Seconds without a response, or without another byte, until the download fails."""
CHUNK = 1 << 20


def download(url: str, target: Path, sha256: str | None = None) -> str:
    """Download `url` to the file `target`, which is created only when it is complete.

    Args:
        url: An http or https URL.
        sha256: Expected SHA-256, in lower case; None accepts any.

    Returns:
        The SHA-256, as 64 hex digits.

    Raises:
        FtkitError: The server can't be reached, returns an error, or closes the connection early.
        RequestError: The SHA-256 is wrong.
    """
    part = target.with_name(f".{target.name[:100]}.{os.urandom(8).hex()}.part")
    instead = f"save the archive as {target} yourself"
    try:
        with _opened(url, instead) as response, part.open("xb") as file:
            found = _copied(response, file, url, instead)
        if sha256 is not None and found != sha256:
            raise RequestError(f"{url} has the sha256 {found}, not {sha256}", "correct dataset.sha256 or the URL")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return found


class _Redirects(HTTPRedirectHandler):
    """Follows redirects only to http and https, and never from https to http."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        scheme = urlsplit(newurl).scheme.lower()
        if scheme not in SCHEMES or (req.type == "https" and scheme == "http"):
            raise URLError(f"it redirects to {newurl}, which is not safe")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opened(url: str, instead: str) -> Any:
    opener = OpenerDirector()
    handlers = (ProxyHandler, UnknownHandler, HTTPHandler, HTTPSHandler, HTTPDefaultErrorHandler, HTTPErrorProcessor)
    for handler in (*handlers, _Redirects):
        opener.add_handler(handler())
    try:
        return opener.open(Request(url, headers={"User-Agent": _user_agent()}), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        raise FtkitError(
            f"{url}: the server returned {error.code} {error.reason}", f"check the URL, or {instead}"
        ) from None
    except (OSError, HTTPException, ValueError) as error:
        raise _unreachable(url, error, instead) from None


def _copied(response: Any, file: IO[bytes], url: str, instead: str) -> str:
    """Write the response to the file and return its SHA-256; the length must be that of Content-Length."""
    announced = response.headers.get("Content-Length", "")
    digest, size = hashlib.sha256(), 0
    while chunk := _chunk(response, url, instead):
        digest.update(chunk)
        file.write(chunk)
        size += len(chunk)
    if announced.isdecimal() and size != int(announced):
        raise FtkitError(f"{url}: only {size:,} of {int(announced):,} bytes were received", f"try again, or {instead}")
    file.flush()
    os.fsync(file.fileno())
    return digest.hexdigest()


def _chunk(response: Any, url: str, instead: str) -> bytes:
    try:
        chunk: bytes = response.read(CHUNK)
    except (OSError, HTTPException) as error:
        raise _unreachable(url, error, instead) from None
    return chunk


def _unreachable(url: str, error: Exception, instead: str) -> FtkitError:
    reason = error.reason if isinstance(error, URLError) else error
    text = getattr(reason, "strerror", None) or " ".join(str(reason).split()) or type(error).__name__
    return FtkitError(f"{url}: can't be downloaded: {text}", f"check the connection, or {instead}")


def _user_agent() -> str:
    try:
        own = f"ftkit/{version('ftkit')}"
    except PackageNotFoundError:
        own = "ftkit"
    return f"{own} Python-urllib/{platform.python_version()}"
