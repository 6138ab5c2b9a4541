"""Attention matrices of a network's forward pass, and the relevance of tokens that follows from them.

Chefer, Gur and Wolf, "Generic attention-model explainability for interpreting bi-modal and encoder-decoder
transformers" (2021): the attention of each block is weighted by its gradient, and the blocks are multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

SOFTMAX = (torch.softmax, Tensor.softmax, functional.softmax)
UNKNOWN = ("is_causal", "enable_gqa")
"""Switches of fused attention with which it isn't recorded."""


class AttentionRecorder(TorchFunctionMode):
    """Records the attention matrices of a pass in this thread, with gradients from the first one on.

    Attention of torch, timm and transformers is recognised: fused attention, which is computed in its parts, torch's
    `MultiheadAttention`, and softmax over square matrices.

    Attributes:
        matrices: `(b, heads, n, n)`, or `(b * heads, n, n)`, in the order of the blocks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.matrices: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention and not any(kwargs.get(name) for name in UNKNOWN):
            return self._fused(*args, **kwargs)
        if func is functional.multi_head_attention_forward:
            return self._torchs(func, args, kwargs)
        if func in SOFTMAX and args[0].ndim == 4 and args[0].shape[2] == args[0].shape[3]:
            scores, *rest = args
            return self._keep(func(self._begun(scores), *rest, **kwargs))
        return func(*args, **kwargs)

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        scale: float | None = None,
        **off: bool,
    ) -> Tensor:
        scores = self._begun(query) @ key.transpose(-2, -1) * (scale or 1 / math.sqrt(query.shape[-1]))
        if attn_mask is not None:
            hidden = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -math.inf) if hidden else scores + attn_mask
        weights = scores.softmax(dim=-1).to(value.dtype)
        return (self._keep(weights) if weights.ndim == 4 else weights) @ value

    def _torchs(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        query, *rest = args
        begun = self._begun(query)
        # In self-attention query, key and value are one tensor, for which torch has a quicker way.
        rest = [begun if one is query else one for one in rest]
        output, weights = func(begun, *rest, **{**kwargs, "need_weights": True, "average_attn_weights": False})
        # What is returned is a view, and the output depends on the tensor below it.
        self._keep(weights if weights._base is None else weights._base)
        return output, weights

    def _begun(self, values: Tensor) -> Tensor:
        """The values, which from the first ones on have gradients."""
        if self.matrices or values.requires_grad:
            return values
        # Ends with the context of the caller's pass.
        torch.set_grad_enabled(True)
        return values.detach().requires_grad_()

    def _keep(self, matrix: Tensor) -> Tensor:
        self.matrices.append(matrix)
        return matrix


def of_tokens(matrices: Sequence[Tensor], images: int, tokens: int) -> list[Tensor]:
    """Those matrices that are attention between all tokens of each image.

    Attention within windows, or with fewer keys, isn't.
    """
    square = [one for one in matrices if tuple(one.shape[-2:]) == (tokens, tokens)]
    return [one for one in square if len(one) == images or (one.ndim == 3 and len(one) % images == 0)]


def relevance(attention: Sequence[tuple[Tensor, Tensor]], tokens: Tensor) -> Tensor:
    """How much each token of the first block contributes, float32 `(b, n)`.

    Args:
        attention: The matrix of each block, with its gradient.
        tokens: How much the output depends on each token after the last block, `(b, n)`, 0 or more.
    """
    images, count = tokens.shape
    found = tokens.float()
    for matrix, gradient in reversed(attention):
        weighted = (matrix.detach().float() * gradient.float()).relu().reshape(images, -1, count, count).mean(dim=1)
        found = found + (found[:, None] @ weighted)[:, 0]
    return found
