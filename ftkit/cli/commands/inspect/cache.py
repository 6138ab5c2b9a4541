"""`ftkit cache`: list and clear cached activations and decoded images."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from ftkit.cli.options import Json
from ftkit.cli.output import console
from ftkit.cli.output.descriptions import short_count
from ftkit.errors import plural

app = typer.Typer(no_args_is_help=True, help="List and clear cached activations and decoded images.")

Folder = Annotated[
    str | None, typer.Option("--cache-dir", metavar="FOLDER", help="Cache folder, as given to training.")
]


@app.command("list", epilog="Example: ftkit cache list")
def list_(folder: Folder = None, json: Json = False) -> None:
    """List cached tables, the last used first."""
    from ftkit.files.cache_folder import CacheStore, activation_folder

    store = CacheStore(activation_folder(folder), 0)
    entries = sorted(store.entries(), key=lambda entry: -entry.last_used)
    if json:
        rows = [
            {
                "path": str(e.path),
                "description": e.description,
                "bytes": e.nbytes,
                "last_used": round(e.last_used),
                "in_use": e.in_use,
            }
            for e in entries
        ]
        console.print_json(rows)
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("size", "last used", "contents"):
        table.add_column(name, justify="right" if name == "size" else "left", overflow="fold")
    for entry in entries:
        used = "in use" if entry.in_use else time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_used))
        table.add_row(f"{short_count(entry.nbytes)}B", used, entry.description)
    if entries:
        console.out().print(table)
    total = sum(entry.nbytes for entry in entries)
    console.out().print(f"{plural(len(entries), 'table')}, {short_count(total)}B in {store.folder}", soft_wrap=True)


@app.command(epilog="Example: ftkit cache clear")
def clear(folder: Folder = None) -> None:
    """Remove all tables that no run is using; later runs compute them again."""
    from ftkit.files.cache_folder import CacheStore, activation_folder

    store = CacheStore(activation_folder(folder), 0)
    removed, busy = 0, 0
    for entry in list(store.entries()):
        if store.remove(entry):
            removed += entry.nbytes
        else:
            busy += 1
    kept = f"; kept {plural(busy, 'table')} in use" if busy else ""
    console.out().print(f"removed {short_count(removed)}B from {store.folder}{kept}", soft_wrap=True)
