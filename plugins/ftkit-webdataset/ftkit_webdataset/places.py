"""Bytes of files here and elsewhere: whole, in part, or as a stream."""

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
"""After so long a server that says nothing is given up."""
TRIES = 4
"""How often a part is asked for; a server may be busy for a moment in a run of days."""


def is_address(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def stamp(place: str) -> tuple[int, str]:
    """Size in bytes, and what changes when the content does; empty where a server doesn't tell.

    Raises:
        RequestError: There is no such file.
    """
    if not is_address(place):
        try:
            facts = file_stamp(place)
        except OSError as error:
            raise RequestError(f"dataset: shard {place}: {error.strerror or error}", "check the path") from None
        return facts.size, facts.text()
    with _asked(Request(place, method="HEAD"), place) as answer:
        return int(answer.headers["Content-Length"] or 0), answer.headers["ETag"] or answer.headers[
            "Last-Modified"
        ] or ""


@contextmanager
def stream(place: str) -> Iterator[IO[bytes]]:
    """The whole of a file, from its beginning."""
    if is_address(place):
        with _asked(Request(place), place) as answer:
            yield answer
    else:
        with Path(place).open("rb") as file:
            yield file


def part(place: str, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` on.

    Raises:
        OSError: They can't be had, after some tries where a network is between.
    """
    if not is_address(place):
        with Path(place).open("rb") as file:
            file.seek(offset)
            return file.read(size)
    wanted = Request(place, headers={"Range": f"bytes={offset}-{offset + size - 1}"})
    for attempt in range(TRIES):
        try:
            with urlopen(wanted, timeout=SECONDS) as answer:
                if answer.status != 206:
                    raise FtkitError(f"{place}: the server sends no parts of files", "copy the shards, or serve them")
                content: bytes = answer.read()
                if len(content) == size:
                    return content
        except HTTPError as error:
            if error.code < 500 or attempt == TRIES - 1:
                raise
        except (OSError, HTTPException) as error:
            if attempt == TRIES - 1:
                raise OSError(f"{place}: {error}") from error
        time.sleep(0.5 * 2**attempt)
    raise OSError(f"{place}: fewer bytes came than were asked for")


@contextmanager
def _asked(request: Request, place: str) -> Iterator[HTTPResponse]:
    try:
        with urlopen(request, timeout=SECONDS) as answer:
            yield answer
    except (OSError, HTTPException) as error:
        raise RequestError(f"dataset: shard {place}: {one_line(str(error))}", "check the address") from None
