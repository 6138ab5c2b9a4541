"""How far the weights are from the first ones of the run: by layer group each epoch, by layer at its end.

The first weights lie in the run folder: there they take no memory, and a resumed or extended run measures from the
same start.
"""

from __future__ import annotations

from torch import nn

from ftkit.files.durable import replace_file, replace_folder, save_tensors
from ftkit.files.json_text import dump_json
from ftkit.models.weights.drift import by_group, layers, relative
from ftkit.runs.model_card import WEIGHTS
from ftkit.training.session import Session


def keep_first(session: Session) -> None:
    """Write down the weights as they are now, as those that the run starts from."""
    if session.is_main:
        parameters = dict(session.network.named_parameters())
        replace_folder(session.run.first, lambda place: save_tensors(place / WEIGHTS, parameters))


def group_drift(session: Session, network: nn.Module) -> dict[str, float | None]:
    """Relative distance of a network from the first weights by layer group, exactly 0 where nothing moved.

    None for a group that began at zero and left it. Empty in all processes but the main one.
    """
    if not session.is_main:
        return {}
    # One that was put together for this has its weights elsewhere each time.
    known = session.known if network is session.network else None
    return by_group(layers(network, session.built.members, session.run.first / WEIGHTS, known))


def write_weight_drift(session: Session, network: nn.Module) -> None:
    """Leave `weight_drift.json` in the run folder, for the weights as they are now, each of them compared."""
    found = layers(network, session.built.members, session.run.first / WEIGHTS)
    content = {
        "epoch": session.progress.epoch,
        "groups": by_group(found),
        "layers": [
            {
                "layer": x.name,
                "group": x.group,
                "parameters": x.parameters,
                "weight_drift": relative(x.distance, x.first),
            }
            for x in found
        ],
    }
    replace_file(session.run.weight_drift, dump_json(content, indent=1).encode() + b"\n")
