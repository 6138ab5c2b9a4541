"""The format of `torch.export`: a graph that PyTorch runs without the code of the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftkit.api import Exporter, TrainedModel, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

FILE = "model.pt2"


@hookimpl
def ftkit_exporters() -> Mapping[str, type[Exporter]]:
    return {"torch-export": TorchExport}


@dataclass(frozen=True)
class TorchExport(Exporter):
    """A `.pt2` file by `torch.export`, for any batch size; `torch.export.load` reads it."""

    def export(self, model: TrainedModel, images: Tensor, folder: Path) -> Sequence[Path]:
        import torch

        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(model.network, (images,), dynamic_shapes=({0: batch},), strict=False)
        for part in program.graph_module.modules():
            for node in getattr(part, "graph", program.graph).nodes:
                node.meta.pop("stack_trace", None)  # it names files of this machine
        torch.export.save(program, folder / FILE)
        return (folder / FILE,)

    def load(self, folder: Path) -> Callable[[Tensor], Tensor]:
        import torch

        return torch.export.load(folder / FILE).module()
