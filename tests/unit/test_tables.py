"""The folder of activations: what is written comes back, what is damaged is missing, and there is a limit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ftkit.activation_cache.table import DeviceTable, Table, open_table
from ftkit.files.cache_folder import CHUNK, CacheStore

ROWS = CHUNK + 5
PLENTY = 10**9


def opened(folder: Path, key: str = "aa", dtype: torch.dtype = torch.float32, limit: int = PLENTY) -> Table:
    return open_table(CacheStore(folder, limit), key, f"about {key}", ROWS, ((3, 2), dtype))


def values(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(ROWS, 3, 2, generator=torch.Generator().manual_seed(1)).to(dtype)


def fill(table: Table, rows: torch.Tensor) -> None:
    for chunk in table.missing():
        places = list(table.rows_of(chunk))
        table.put(chunk, places, rows[places])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rows_come_back_bit_for_bit_in_any_order(dtype: torch.dtype, tmp_path: Path) -> None:
    table, rows = opened(tmp_path, dtype=dtype), values(dtype)
    assert table.missing() == [0, 1]
    fill(table, rows)
    table.close()
    again = opened(tmp_path, dtype=dtype)
    assert again.missing() == []
    order = torch.randperm(ROWS)
    assert torch.equal(again.take(order), rows[order])


def test_rows_are_copies(tmp_path: Path) -> None:
    table, rows = opened(tmp_path), values()
    fill(table, rows)
    table.take(torch.tensor([0])).zero_()
    assert torch.equal(table.take(torch.tensor([0])), rows[:1])


def test_a_flipped_byte_makes_its_chunk_missing(tmp_path: Path) -> None:
    table = opened(tmp_path)
    fill(table, values())
    table.close()
    (data,) = tmp_path.glob("*/data")
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    assert opened(tmp_path).missing() == [1]


def test_a_chunk_with_rows_left_out_counts_as_missing_though_they_can_be_read(tmp_path: Path) -> None:
    table, rows = opened(tmp_path), values()
    table.put(0, [0, 2, 3], rows[[0, 2, 3]])
    assert table.missing() == [0, 1]
    assert torch.equal(table.take(torch.tensor([3])), rows[[3]])


def test_the_least_recently_used_tables_are_removed_and_those_in_use_stay(tmp_path: Path) -> None:
    for number, key in enumerate(("aa", "bb", "cc")):
        opened(tmp_path, key).close()
        about = tmp_path / f"v4-{key}" / "table.json"
        about.write_text(f'{{"description": "about {key}", "last_used": {number}}}')
    used = opened(tmp_path, "aa")
    size = sum(entry.nbytes for entry in CacheStore(tmp_path, 0).entries())
    opened(tmp_path, "dd", limit=size)
    left = {entry.description: entry.in_use for entry in CacheStore(tmp_path, 0).entries()}
    assert left.keys() == {"about aa", "about cc", "about dd"}
    assert left["about aa"]
    used.close()


def test_no_space_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no room") as caught:
        opened(tmp_path, limit=100)
    assert caught.value.filename == str(tmp_path)


def test_a_disk_that_is_nearly_full_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftkit.files.cache_folder.SPARE", 10**18)
    with pytest.raises(OSError, match="no room"):
        opened(tmp_path)


def test_the_rest_of_a_killed_removal_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".gone-1-v4-aa").mkdir(parents=True)
    opened(tmp_path).close()
    assert [path.name for path in tmp_path.iterdir()] == ["v4-aa"]


def test_a_path_that_is_not_a_folder_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        opened(tmp_path / "file")


@pytest.mark.parametrize("shape", [(3, 2, 4), (5,)])
def test_rows_in_the_memory_of_a_device_are_those_of_the_table(shape: tuple[int, ...], tmp_path: Path) -> None:
    """As on a GPU: the same bits in the same memory layout, for a batch and for a single row."""
    rows = torch.randn(ROWS, *shape)
    table = open_table(CacheStore(tmp_path, PLENTY), "aa", "rows", ROWS, (shape, torch.float32))
    fill(table, rows)
    kept = DeviceTable(table, torch.device("cpu"))
    for places in (torch.tensor([ROWS - 1, 0, 7, 7]), torch.tensor([], dtype=torch.int64), torch.tensor(3)):
        found, expected = kept.take(places), table.take(places)
        assert torch.equal(found, expected)
        assert torch.equal(found, rows[places])
        assert found.stride() == expected.stride()
    table.close()
    assert torch.equal(kept.take(torch.tensor([1])), rows[1:2]), "it doesn't need the table any more"
