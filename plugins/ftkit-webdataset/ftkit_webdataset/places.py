"""Read local files and URLs: as a stream, or a byte range."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from ftkit.api import FtkitError, RequestError, file_stamp, one_line

SECONDS = 30.0
"""Timeout of a request in seconds."""
TRIES = 4
"""Attempts to read a byte range; a server may be busy for a moment during a long run."""

ShardStamp = tuple[int, str]
"""Size of a shard in bytes, and a text that changes with its content; empty where a server sends none."""


def is_address(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def stamp(place: str) -> ShardStamp:
    """What tells one content of a shard from another.

    Raises:
        RequestError: There is no such file.
    """
    if not is_address(place):
        try:
            facts = file_stamp(place)
        except OSError as error:
            raise RequestError(f"dataset: shard {place}: {error.strerror or error}", "check the path") from None
        return facts.size, facts.text()
    with _request(Request(place, method="HEAD"), place) as response:
        return int(response.headers["Content-Length"] or 0), response.headers["ETag"] or response.headers[
            "Last-Modified"
        ] or ""


@contextmanager
def stream(place: str) -> Iterator[IO[bytes]]:
    """Open a file or URL for reading from its start."""
    if is_address(place):
        with _request(Request(place), place) as response:
            yield response
    else:
        with Path(place).open("rb") as file:
            yield file


def part(place: str, offset: int, size: int) -> bytes:
    """Read `size` bytes starting at `offset`.

    Raises:
        OSError: They can't be read; over a network, after `TRIES` attempts.
    """
    if not is_address(place):
        with Path(place).open("rb") as file:
            file.seek(offset)
            return file.read(size)
    wanted = Request(place, headers={"Range": f"bytes={offset}-{offset + size - 1}"})
    for attempt in range(TRIES):
        try:
            with urlopen(wanted, timeout=SECONDS) as response:
                if response.status != 206:
                    raise FtkitError(
                        f"{place}: the server doesn't support range requests", "copy the shards, or use another server"
                    )
                content: bytes = response.read()
                if len(content) == size:
                    return content
        except HTTPError as error:
            if error.code < 500 or attempt == TRIES - 1:
                raise
        except (OSError, HTTPException) as error:
            if attempt == TRIES - 1:
                raise OSError(f"{place}: {error}") from error
        time.sleep(0.5 * 2**attempt)
    raise OSError(f"{place}: the server sent fewer bytes than requested")


@contextmanager
def _request(request: Request, place: str) -> Iterator[HTTPResponse]:
    try:
        with urlopen(request, timeout=SECONDS) as response:
            yield response
    except (OSError, HTTPException) as error:
        raise RequestError(f"dataset: shard {place}: {one_line(str(error))}", "check the address") from None
