"""The transformer's blocks in few large pieces, each of which a compiler turns into few kernels.

Between two attentions everything is one piece: a block's feed-forward and the next block's projections, for example.
Attention stays outside, with the back end that was chosen, and so does whoever listens to it: a listener hears the same
numbers and changes none. Keys and values are written straight into the cache's slots.

The pieces compute what `studio.model.layers` computes, in the same order; projections that read the same input are one
matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from studio.model.attention import CachedContext, Tap
from studio.model.backends import widened
from studio.model.compiling import compiled_anew
from studio.model.kernels import own_kernels
from studio.model.layers import Block, PromptKV, RMSNorm, gate, modulate
from studio.model.quantize import Fp8Linear, stacked
from studio.model.rope import Rotary, rotate

__all__ = ["Fused"]

# Compiled kernels are made for one shape each; the block's own comes first, others have to be worth it.
_SHAPES = 4
# The kind of device on which the kernel of a product can end with the GELU.
_GELU_ENDS = "cuda"

Written = tuple[Tensor, Tensor] | None
GeluRows = Callable[[Tensor], tuple[Tensor, Tensor]]


class Fused:
    """Runs the blocks of a transformer; what it cannot run faster it leaves to the blocks themselves.

    Weights that are read together are laid side by side once, and the layers of the network become views of them: no
    memory is added, and changes in place reach both.

    Args:
        blocks: The transformer's blocks, already on their device and in their type.
        compiled: Whether `torch.compile` makes kernels of the pieces; else they run as they are written.

    Attributes:
        settled: Whether no further shape is worth compiling, as after warming up: it would hold up a video. Other
            shapes then run as they are written.
    """

    def __init__(self, blocks: nn.ModuleList, *, compiled: bool = True) -> None:
        self._blocks = [cast(Block, block) for block in blocks]
        self._side_by_side = [stacked((b.self_attn.q, b.self_attn.k, b.self_attn.v)) for b in self._blocks]
        self._plain = (_enter, _middle, _joint, _leave, rotate)
        self._made = tuple(_compiled(piece) if compiled else piece for piece in self._plain)
        self._shapes: set[tuple[int, ...]] = set()
        self.compiled, self.settled = compiled, False
        weight = self._blocks[0].modulation
        halves = weight.dtype in (torch.bfloat16, torch.float16)
        self._kernels: Any = own_kernels(weight.device) if compiled and halves else None

    def runs(self, context: Any) -> bool:
        """Whether it can run a pass: one over the cache, without gradients."""
        return isinstance(context, CachedContext) and not torch.is_grad_enabled()

    def __call__(
        self,
        x: Tensor,
        modulation: Tensor,
        prompt: tuple[PromptKV, ...],
        context: CachedContext,
        tap: Tap | None = None,
        flow: bool = True,
    ) -> Tensor:
        """Run all blocks.

        Args:
            x: Tokens `[B, L, dim]`.
            modulation: `[B, M, 6, dim]`, one entry a latent frame or one for all.
            prompt: Keys and values of the prompt for every block.
            context: The pass over the cache.
            tap: Listener to attention, or `None`.
            flow: Whether the last block is run to its end, past storing its keys and values.

        Returns:
            Tokens `[B, L, dim]`; without `flow` those that the last block began with.
        """
        call = context.call
        enter, middle, joint, leave, turned = self._pieces((*x.shape, modulation.shape[1]))
        turn = call.query_turn
        # Window-relative keys are stored as they are, and turned when they are read.
        key_turn = turn if call.key_turn is None else None
        # The keys and values of a block go straight to its slots, those of a recache may not all be kept.
        straight = context.plain and x.shape[1] == context.cache.block * context.cache.tokens
        slots = [context.written(layer) if straight else None for layer in range(len(self._blocks))]
        # Where a kernel of our own takes them to the cache, the pieces leave the projections as they are.
        placing = straight and middle is not _middle and self._kernels is not None
        aside = [placing and self._placeable(layer) for layer in range(len(self._blocks))]
        gelu_rows = None if self._kernels is None or middle is _middle else self._kernels.gelu_rows
        q, own = enter(self._blocks[0], self._projection(0), x, modulation, turn, key_turn, slots[0], aside[0])
        for layer, block in enumerate(self._blocks):
            if aside[layer]:
                q = self._placed(layer, q, turn, key_turn, cast(tuple[Tensor, Tensor], slots[layer]))
            keys, values = context.held(layer) if own is None else context.placed(layer, *own)
            if layer + 1 == len(self._blocks) and not flow:
                return x
            if call.key_turn is not None:
                # Until the cache is full every block sees more than the last: kernels are made for the full one.
                whole = keys.shape[1] == context.cache.keys[layer].shape[1]
                keys = turned(keys, call.key_turn) if whole else rotate(keys, call.key_turn)
            q = q.type_as(values)
            if tap is not None:
                tap.self_attention(layer, *widened(q, keys, values))
            y = block.self_attn.backend(q, keys, values, call.mask)
            x, q = middle(block, x, y, modulation)
            if tap is not None:
                tap.cross_attention(layer, q, *prompt[layer])
            y = block.cross_attn.backend(q, *prompt[layer])
            if layer + 1 == len(self._blocks):
                return leave(block, x, y, modulation, gelu_rows)
            following = self._blocks[layer + 1], self._projection(layer + 1)
            rest = slots[layer + 1], aside[layer + 1], gelu_rows
            x, q, own = joint(block, *following, x, y, modulation, turn, key_turn, *rest)
        raise AssertionError("unreachable: a transformer has blocks")

    def _placeable(self, layer: int) -> bool:
        return isinstance(self._blocks[layer].self_attn.norm_q, RMSNorm) and self._projection(layer) is not None

    def _placed(
        self, layer: int, qkv: Tensor, turn: Rotary, key_turn: Rotary | None, slots: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Queries of a layer's projections, whose keys and values go into their slots."""
        norms = cast(RMSNorm, self._blocks[layer].self_attn.norm_q), cast(RMSNorm, self._blocks[layer].self_attn.norm_k)
        gains, eps = tuple(norm.weight for norm in norms), tuple(norm.eps for norm in norms)
        return self._kernels.attention_inputs(qkv, gains, eps, turn, slots, turn_keys=key_turn is not None)

    def _pieces(self, shape: tuple[int, ...]) -> tuple[Callable[..., Any], ...]:
        if shape not in self._shapes:
            if self.settled or len(self._shapes) == _SHAPES:
                return self._plain
            self._shapes.add(shape)
        return self._made

    def _projection(self, layer: int) -> nn.Module | None:
        """The block's projections as one layer, unless an adapter listens to one of them."""
        own = self._blocks[layer].self_attn
        hooked = own.q._forward_hooks or own.k._forward_hooks or own.v._forward_hooks
        return None if hooked else self._side_by_side[layer]


def _compiled(piece: Callable[..., Any]) -> Callable[..., Any]:
    return compiled_anew(piece)


def _factors(block: Block, modulation: Tensor, like: Tensor) -> tuple[Tensor, ...]:
    return (block.modulation.float() + modulation).type_as(like).unbind(2)


def _enter(
    block: Block,
    projection: nn.Module | None,
    x: Tensor,
    modulation: Tensor,
    turn: Rotary,
    key_turn: Rotary | None,
    slots: Written,
    aside: bool = False,
) -> tuple[Tensor, Written]:
    """Norm, projections and rotary turn. Keys and values go into their slots, or come back with the queries.

    With `aside` the projections come back side by side, as they are.
    """
    own = block.self_attn
    shift, scale, *_ = _factors(block, modulation, x)
    y = modulate(block.norm1(x), shift, scale, modulation.shape[1])
    if aside and projection is not None:
        return projection(y), None
    q, k, v = (own.q(y), own.k(y), own.v(y)) if projection is None else projection(y).chunk(3, dim=-1)
    q, k, v = (part.unflatten(-1, (own.heads, -1)) for part in (own.norm_q(q), own.norm_k(k), v))
    k = k if key_turn is None else rotate(k, key_turn)
    if slots is None:
        return rotate(q, turn), (k, v)
    slots[0].copy_(k)
    slots[1].copy_(v)
    return rotate(q, turn), None


def _middle(block: Block, x: Tensor, y: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor]:
    """From what self-attention gave to the queries of cross-attention."""
    _, _, factor, *_ = _factors(block, modulation, x)
    x = x + gate(block.self_attn.o(y.flatten(2)), factor, modulation.shape[1])
    cross = block.cross_attn
    return x, cross.norm_q(cross.q(block.norm3(x))).unflatten(-1, (cross.heads, -1))


def _leave(block: Block, x: Tensor, y: Tensor, modulation: Tensor, gelu_rows: GeluRows | None = None) -> Tensor:
    """From what cross-attention gave to the end of the block."""
    *_, shift, scale, factor = _factors(block, modulation, x)
    x = x + block.cross_attn.o(y.flatten(2))
    y = modulate(block.norm2(x), shift, scale, modulation.shape[1])
    return x + gate(_feed_forward(block.ffn, y, gelu_rows), factor, modulation.shape[1])


def _feed_forward(ffn: nn.Module, x: Tensor, gelu_rows: GeluRows | None) -> Tensor:
    """The feed-forward layers; the first product's kernel ends with the GELU where it has one that does."""
    first, _, second = ffn.children()
    quick = gelu_rows if isinstance(first, Fp8Linear) else None
    if quick is not None and isinstance(second, Fp8Linear) and not second._forward_hooks:
        rows, scale = quick(first(x).flatten(0, -2))
        return second.product(rows, scale, x.dtype).unflatten(0, x.shape[:-1])
    # Under autocast the layers' weights are wider than what reaches them, and only the layers themselves know it.
    alike = x.dtype == first.weight.dtype != torch.float32
    if type(first) is not nn.Linear or first._forward_hooks or x.device.type != _GELU_ENDS or not alike:
        return ffn(x)
    hidden = torch.ops.aten._addmm_activation(first.bias, x.flatten(0, -2), first.weight.t(), use_gelu=True)
    return second(hidden.unflatten(0, x.shape[:-1]))


def _joint(
    block: Block,
    following: Block,
    projection: nn.Module | None,
    x: Tensor,
    y: Tensor,
    modulation: Tensor,
    turn: Rotary,
    key_turn: Rotary | None,
    slots: Written,
    aside: bool = False,
    gelu_rows: GeluRows | None = None,
) -> tuple[Tensor, Tensor, Written]:
    """The end of a block and the beginning of the next."""
    x = _leave(block, x, y, modulation, gelu_rows)
    return x, *_enter(following, projection, x, modulation, turn, key_turn, slots, aside)
