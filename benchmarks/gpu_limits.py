"""Images per second of a network's training steps alone, and of decoding alone by number of workers; for `gpu.py`.

    python benchmarks/gpu_limits.py '{"device": "cuda", "network": "resnet50", "data": "FOLDER", ...}'

Prints them as JSON. Worker processes import this file.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
import torchvision
from torch import nn

import ftkit
from ftkit.data.loading.loader import Samples, training_loader
from ftkit.data.loading.order import TrainingOrder
from ftkit.models.build import plan_accelerator
from ftkit.models.compute.devices import Compute, compute_of
from ftkit.models.compute.memory_format import choose_memory_format
from ftkit.planning.run_plan import Plan
from ftkit.transforms import pipeline

Options = dict[str, Any]


def main(o: Options) -> None:
    plan = ftkit.plan(
        dataset={"name": "folder", "root": o["data"]},
        backbone=o["network"],
        weights="none",
        batch_size=o["batch"],
        epochs=1,
        device=o["device"],
        preprocessing={"size": o["size"]},
    )
    network = torchvision.models.get_model(o["network"], weights=None, num_classes=2)
    accelerator, precision = plan_accelerator(plan)
    compute = choose_memory_format(network, compute_of(accelerator), 3, o["size"])
    found: dict[str, Any] = {"device": network_speed(o, network, compute), "precision": precision.training}
    for workers in o["workers"]:
        found[f"{workers} workers"] = decoding_speed(o, plan, compute, workers)
    print(json.dumps(found))


def network_speed(o: Options, network: nn.Module, compute: Compute) -> float:
    images = compute.to_device(torch.randn(o["batch"], 3, o["size"], o["size"]))
    labels = torch.zeros(o["batch"], dtype=torch.int64, device=compute.device)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    began = 0.0
    for number in range(o["warm_up"] + o["steps"]):
        if number == o["warm_up"]:
            wait(compute.device)
            began = time.perf_counter()
        with compute.autocast():
            loss = nn.functional.cross_entropy(network(images).float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    wait(compute.device)
    return float(o["steps"] * o["batch"] / (time.perf_counter() - began))


def decoding_speed(o: Options, plan: Plan, compute: Compute, workers: int) -> float:
    split = plan.splits.train
    assert split is not None, "the folder has training images"
    transform = pipeline.training(plan.preprocessing, plan.augmentation, plan.image_transforms)
    order = TrainingOrder(plan.batches, 0, 0, None, split.blocks)
    samples, pin = Samples(split, transform, 0, None, True), compute.device.type == "cuda"
    loader = training_loader(samples, order, workers, pin, (3, o["size"], o["size"]))
    began, seen = 0.0, 0
    for epoch in range(2):  # the workers start in the first
        order.start(epoch, 0)
        began, seen = time.perf_counter(), 0
        for batch in loader:
            seen += len(batch.to(compute))
        wait(compute.device)
    return seen / (time.perf_counter() - began)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
