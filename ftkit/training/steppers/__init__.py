"""Optimizer steps for one device, FSDP2 and DeepSpeed ZeRO."""
