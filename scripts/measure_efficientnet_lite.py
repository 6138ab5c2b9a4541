"""Writes `ftkit/builtin/backbones/efficientnet_lite.json`, the sizes of these networks. It needs no network."""

from __future__ import annotations

import json

from ftkit.builtin.backbones.efficientnet_lite import TABLE, VARIANTS, make_backbone
from ftkit.models.model_size import measure


def main() -> None:
    rows = []
    for name, variant in VARIANTS.items():
        summary = measure(make_backbone(name, variant))
        row = {
            "head_inputs": summary.head_inputs,
            "head_bias": summary.head_bias,
            "input_weights": summary.input_weights,
            "groups": {
                group: {**size.parameters, "activations": size.activations, "entering": size.entering}
                for group, size in summary.groups.items()
            },
        }
        rows.append(f"{json.dumps(name)}: {json.dumps(row)}")
    TABLE.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
