"""Writes `ftkit/builtin/backbones/efficientnet_lite.json`, the sizes of these networks. It needs no network."""

from __future__ import annotations

import json

from ftkit.builtin.backbones.efficientnet_lite import TABLE, VARIANTS, make_backbone
from ftkit.builtin.backbones.size_table import row_of
from ftkit.models.model_size import measure


def main() -> None:
    rows = []
    for name, variant in VARIANTS.items():
        row = row_of(measure(make_backbone(name, variant)))
        rows.append(f"{json.dumps(name)}: {json.dumps(row)}")
    TABLE.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
