"""Where networks can be cut, as a table in Markdown with a row each: `python scripts/cut_table.py NAME@SIZE ...`.

python scripts/cut_table.py resnet18@32 timm/tf_efficientnet_lite0@64
"""

from __future__ import annotations

import sys

from ftkit.errors import FtkitError
from ftkit.plugins.registry import Registry
from ftkit.testing.network_cuts import find_cuts


def main() -> None:
    backbones = Registry().backbones
    sys.stdout.write("| network | how | cut below |\n| --- | --- | --- |\n")
    for argument in sys.argv[1:]:
        name, _, size = argument.partition("@")
        try:
            places = list(find_cuts(backbones.get(name), int(size) if size else None))
        except FtkitError as error:
            sys.stdout.write(f"| {name} | {error} | |\n")
            continue
        ways = {"replayed" if place.replayed else "traced" for place in places if place.name}
        found = sum(bool(place.name) for place in places)
        sys.stdout.write(f"| {name} | {', '.join(sorted(ways))} | {found} of {len(places)} groups |\n")


if __name__ == "__main__":
    main()
