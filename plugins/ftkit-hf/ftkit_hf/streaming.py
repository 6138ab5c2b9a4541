"""Streaming of remote Parquet files by row groups, here called blocks.

A file's footer lists its blocks, so labels can be read without images, and any row without the rest of the file.
ftkit chooses the order as for local data, so a run resumes exactly. Fetched blocks are cached on disk up to a limit and
shared by all processes of the machine, so each block is fetched once per epoch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from uuid import uuid4

from ftkit.api import RequestError, Split, UnreadableImage, decode_image, file_stamp, one_line
from ftkit_hf.disk_cache import place, trim, write_whole
from ftkit_hf.hub import hub_errors
from ftkit_hf.local import cache_of

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL.Image import Image

CONNECTIONS = 8
"""Files whose labels are read in parallel."""
OPEN_BLOCKS = 64
"""Memory-mapped blocks that a process keeps open; training mixes 16 at a time."""
_STAMPS = ("mtime", "blob_id", "xet_hash", "etag", "ETag", "LastModified", "last_modified")
"""Metadata of remote file systems that changes with a file's content."""


@dataclass(frozen=True)
class Index:
    """The rows of a file.

    Attributes:
        rows: Number of rows of each block.
        labels: The values of the label column, by row.
    """

    rows: list[int]
    labels: list[Any]


@dataclass(frozen=True)
class Block:
    """A row group of a file.

    Attributes:
        address: Path or URL of the file, for `fsspec`.
        stamp: Text that changes with the file.
    """

    address: str
    stamp: str
    number: int


class StreamedTable:
    """A streamed split.

    Args:
        addresses: Paths or URLs of its Parquet files, in order.
        features: The declared columns; by default those of the first file.
        limit: Limit of the disk cache in bytes.
    """

    def __init__(self, path: str, addresses: Sequence[str], features: Mapping[str, Any] | None, limit: int) -> None:
        import datasets

        self.path = path
        self.limit = limit
        self._known: dict[str, list[Index]] = {}
        with self._hub_errors(), ThreadPoolExecutor(CONNECTIONS) as pool:
            self.files: list[tuple[str, str]] = list(zip(addresses, pool.map(_stamp, addresses), strict=True))
            self.features = features or datasets.Features.from_arrow_schema(
                _end(self.files[0][0], self.files[0][1]).schema.to_arrow_schema()
            )

    def values(self, column: str) -> list[Any]:
        """The values of a column without images, by row."""
        return [value for index in self._indices(column) for value in index.labels]

    def split(self, names: Sequence[str], labels: Sequence[int], image: str, label: str) -> Split:
        """The images of a column, with names and labels by row."""
        blocks: list[Block] = []
        numbers: list[int] = []
        rows: list[int] = []
        for (address, stamp), index in zip(self.files, self._indices(label), strict=True):
            for number, count in enumerate(index.rows):
                numbers += [len(blocks)] * count
                rows += range(count)
                blocks.append(Block(address, stamp, number))
        opens = StreamedRows(self.path, tuple(blocks), image, self.limit, numbers, rows)
        return Split(names, labels, opens, numbers, json.dumps(self.files))

    def _indices(self, column: str) -> list[Index]:
        if column not in self._known:
            with self._hub_errors(), ThreadPoolExecutor(CONNECTIONS) as pool:
                self._known[column] = list(pool.map(lambda file: _index(file[0], file[1], column), self.files))
        return self._known[column]

    def _hub_errors(self) -> Any:
        return hub_errors(f"dataset.path: {self.path} can't be streamed", "try again when the hub can be reached")


@dataclass(frozen=True)
class StreamedRows:
    """Opens the image of a row, from its block.

    Attributes:
        limit: Limit of the disk cache in bytes.
        block, row: The number of the block of each sample, and its row in the block.
    """

    path: str
    blocks: tuple[Block, ...] = field(repr=False)
    column: str
    limit: int
    block: Sequence[int] = field(repr=False)
    row: Sequence[int] = field(repr=False)

    def __call__(self, index: int) -> Image:
        where = f"{self.path}, row {index}"
        try:
            value = _fetched(self.blocks[self.block[index]], self.column, self.limit)[self.row[index]].as_py()
        except Exception as error:  # whatever a disk, a network or a file can raise
            raise UnreadableImage(f"{where}: {one_line(str(error))}") from error
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise UnreadableImage(f"{where}: no image")
        return decode_image(content, where)


def streamed(path: str, config: str | None, revision: str | None, limit_gb: float) -> Mapping[str, StreamedTable]:
    """The splits of a repository or folder of Parquet files, by their names.

    Raises:
        RequestError: The data is in other files.
        Exception: The `datasets` library finds no data or no network; the type depends on its version.
    """
    import datasets

    local = Path(path).expanduser()
    if local.is_file():
        builder = datasets.load_dataset_builder("parquet", data_files=str(local), cache_dir=cache_of(local))
    elif local.is_dir():
        builder = datasets.load_dataset_builder(str(local), config, revision=revision, cache_dir=cache_of(local))
    else:
        builder = datasets.load_dataset_builder(path, config, revision=revision)
    files = builder.config.data_files
    if not files or not all(str(each).endswith(".parquet") for some in files.values() for each in some):
        raise RequestError(
            f"dataset.path: {path} isn't in Parquet files, so it can't be streamed",
            "try --set dataset.revision=refs/convert/parquet, where the hub has a copy in Parquet",
        )
    limit = int(limit_gb * 1e9)
    return {
        str(name): StreamedTable(path, [str(each) for each in some], builder.info.features, limit)
        for name, some in files.items()
    }


def _open(address: str) -> IO[bytes]:
    from fsspec.core import url_to_fs

    # No read-ahead: the Parquet reader requests only the bytes it needs, and joins adjacent ranges.
    system, path = url_to_fs(address)
    opened: IO[bytes] = system.open(path, "rb", cache_type="none")
    return opened


def _stamp(address: str) -> str:
    """Text that changes with a file's content; a new one each time if the server sends no such metadata."""
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    system, path = url_to_fs(address)
    if isinstance(system, LocalFileSystem):
        return file_stamp(path).text()
    facts = system.info(path)
    found = {key: str(facts[key]) for key in _STAMPS if facts.get(key) is not None}
    return json.dumps({**(found or {"once": uuid4().hex}), "size": facts.get("size")})


def _end(address: str, stamp: str) -> pq.FileMetaData:
    """The footer of a file, with its blocks and columns: from the cache, or from the file."""
    import pyarrow.parquet as pq
    from pyarrow import ArrowInvalid

    kept = place("end", address, stamp)
    with suppress(OSError, ArrowInvalid):
        return pq.read_metadata(kept)
    with _open(address) as file:
        end = pq.read_metadata(file)
    with suppress(OSError):  # it is read again the next time
        write_whole(kept, end.write_metadata_file)
    return end


def _index(address: str, stamp: str, column: str) -> Index:
    """The index of a file, from the cache or read from the file."""
    import pyarrow.parquet as pq

    kept = place("json", address, stamp, column)
    with suppress(OSError, ValueError, TypeError):
        return Index(**json.loads(kept.read_text(encoding="utf-8")))
    end = _end(address, stamp)
    rows = [end.row_group(number).num_rows for number in range(end.num_row_groups)]
    with _open(address) as file:
        labels = pq.ParquetFile(file, metadata=end, pre_buffer=True).read(columns=[column])[column].to_pylist()
    made = Index(rows, labels)
    with suppress(OSError, TypeError):  # as above; labels of other than JSON types, such as dates, are refused later
        write_whole(kept, lambda fresh: fresh.write_text(json.dumps(asdict(made)), encoding="utf-8"))
    return made


@lru_cache(maxsize=OPEN_BLOCKS)
def _fetched(block: Block, column: str, limit: int) -> pa.ChunkedArray:
    """A block's column of images, memory-mapped from its cache file."""
    import pyarrow as pa
    from filelock import FileLock

    kept = place("arrow", block.address, block.stamp, str(block.number), column)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError, pa.ArrowInvalid):
        return _mapped(kept, column)
    with FileLock(kept.with_suffix(".lock")):
        # Another process may have fetched it while this one waited for the lock.
        with suppress(OSError, pa.ArrowInvalid):
            return _mapped(kept, column)
        _fetch(block, column, kept)
        found = _mapped(kept, column)
    kept.with_suffix(".lock").unlink(missing_ok=True)
    trim(kept.parent, limit)
    return found


def _mapped(kept: Path, column: str) -> pa.ChunkedArray:
    import pyarrow as pa

    found = pa.ipc.open_file(pa.memory_map(str(kept))).read_all()[column]
    kept.touch()
    return found


def _fetch(block: Block, column: str, kept: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    end = _end(block.address, block.stamp)
    with _open(block.address) as file:
        parquet = pq.ParquetFile(file, metadata=end, pre_buffer=True)
        table = parquet.read_row_group(block.number, columns=[column])

    def write(fresh: Path) -> None:
        with pa.ipc.new_file(str(fresh), table.schema) as out:
            out.write_table(table)

    write_whole(kept, write)
