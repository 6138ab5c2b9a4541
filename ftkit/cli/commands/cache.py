"""`ftkit cache`: what is kept of frozen layers' activations and of decoded images, and getting rid of it."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from ftkit.cli.output import console
from ftkit.cli.output.descriptions import short_count
from ftkit.errors import plural

app = typer.Typer(no_args_is_help=True, help="List and clear cached activations and decoded images.")

Folder = Annotated[
    str | None, typer.Option("--cache-dir", metavar="FOLDER", help="The folder that was given to training.")
]


@app.command("list", epilog="Example: ftkit cache list")
def list_(
    folder: Folder = None, json: Annotated[bool, typer.Option("--json", help="As JSON on stdout.")] = False
) -> None:
    """List the tables of activations and decoded images, the one used last first."""
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
    for name in ("size", "last used", "what"):
        table.add_column(name, justify="right" if name == "size" else "left", overflow="fold")
    for entry in entries:
        used = "by a run now" if entry.in_use else time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_used))
        table.add_row(f"{short_count(entry.nbytes)}B", used, entry.description)
    if entries:
        console.out().print(table)
    total = sum(entry.nbytes for entry in entries)
    console.out().print(f"{plural(len(entries), 'table')}, {short_count(total)}B in {store.folder}", soft_wrap=True)


@app.command(epilog="Example: ftkit cache clear")
def clear(folder: Folder = None) -> None:
    """Remove all tables that no run uses; later runs compute them again."""
    from ftkit.files.cache_folder import CacheStore, activation_folder

    store = CacheStore(activation_folder(folder), 0)
    gone, busy = 0, 0
    for entry in list(store.entries()):
        if store.remove(entry):
            gone += entry.nbytes
        else:
            busy += 1
    left = f"; {busy} are in use, and stay" if busy else ""
    console.out().print(f"removed {short_count(gone)}B from {store.folder}{left}", soft_wrap=True)
