"""Weight drift: distance of the weights from the first ones, by layer group each epoch, by layer at the end.

The first weights are in the run folder: they take no memory there, and a resumed or extended run measures from the
same start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ftkit.files.durable import replace_file, replace_folder, save_tensors
from ftkit.files.json_text import dump_json
from ftkit.models.weights.drift import DriftCache, group_drift, layer_drift, relative_drift
from ftkit.runs.model_card import WEIGHTS
from ftkit.training.callbacks.trainer_callback import TrainerCallback
from ftkit.training.run_context import RunContext
from ftkit.training.session import Session

if TYPE_CHECKING:
    from ftkit.training.trainer import Trainer


def save_first_weights(session: Session) -> None:
    """Write the weights as they are now, as those that the run starts from; all processes wait for them."""
    if session.is_main:
        parameters = dict(session.network.named_parameters())
        replace_folder(session.run.first, lambda place: save_tensors(place / WEIGHTS, parameters))
    session.accelerator.wait_for_everyone()


class WeightDrift(TrainerCallback):
    """Records the relative distance of each layer group, exactly 0 where nothing changed.

    It is None for a group that began at zero and left it.
    """

    order = 200

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        self._known = DriftCache()

    def on_epoch_end(self, run: RunContext, record: Mapping[str, Any]) -> Mapping[str, Any]:
        session, network = self.trainer.session, self.trainer.network_to_save
        if not run.is_main:
            return {}
        # A copy that was gathered for this has its weights elsewhere in memory each time.
        known = self._known if network is session.network else None
        return {
            "weight_drift": group_drift(layer_drift(network, session.built.members, session.run.first / WEIGHTS, known))
        }

    def on_run_end(self, run: RunContext) -> None:
        """Write `weight_drift.json` into the run folder, for the last weights, each of them compared."""
        session = self.trainer.session
        if not run.is_main:
            return
        found = layer_drift(self.trainer.network_to_save, session.built.members, session.run.first / WEIGHTS)
        content = {
            "epoch": run.epoch,
            "groups": group_drift(found),
            "layers": [
                {
                    "layer": x.name,
                    "group": x.group,
                    "parameters": x.parameters,
                    "weight_drift": relative_drift(x.distance, x.first),
                }
                for x in found
            ],
        }
        replace_file(session.run.weight_drift, dump_json(content, indent=1).encode() + b"\n")
