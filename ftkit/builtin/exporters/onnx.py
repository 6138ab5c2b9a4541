"""ONNX, by the exporter of PyTorch that traces with `torch.export`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ftkit.api import Exporter, RequestError, TrainedModel, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

FILE = "model.onnx"
INPUT, OUTPUT = "images", "logits"
OPSETS = range(18, 24)
LARGEST = 1_900_000_000
"""Bytes of weights that are kept inside the file: protobuf takes 2 GiB at most."""


@hookimpl
def ftkit_exporters() -> Mapping[str, type[Exporter]]:
    return {"onnx": Onnx}


@dataclass(frozen=True)
class Onnx(Exporter):
    """An ONNX file for any batch size, with the input `images` and the output `logits`.

    Weights of more than 1.9 GB are written to a second file, `model.onnx.data`.

    Attributes:
        opset: Version of the ONNX operators, 18 to 23.
    """

    packages: ClassVar[Sequence[str]] = ("onnx", "onnxscript", "onnxruntime")
    install: ClassVar[str] = "ftkit[onnx]"

    opset: int = 20

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise RequestError(f"opset is {self.opset}", f"give {OPSETS[0]} to {OPSETS[-1]}")

    def export(self, model: TrainedModel, images: Tensor, folder: Path) -> Sequence[Path]:
        import torch

        weights = sum(tensor.nbytes for tensor in model.network.state_dict().values())
        program = torch.onnx.export(
            model.network,
            (images,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=self.opset,
            verbose=False,
        )
        assert program is not None, "torch's exporter by tracing always returns a program"
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # it names files of this machine
        program.save(folder / FILE, external_data=weights > LARGEST)
        return tuple(sorted(folder.iterdir()))

    def load(self, folder: Path) -> Callable[[Tensor], Tensor]:
        import onnxruntime
        import torch

        session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])

        def logits(images: Tensor) -> Tensor:
            (found,) = session.run([OUTPUT], {INPUT: images.numpy()})
            return torch.from_numpy(found)

        return logits
