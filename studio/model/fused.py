"""The transformer's blocks in few large pieces, each of which a compiler turns into few kernels.

Between two attentions everything is one piece: a block's feed-forward and the next block's projections, for example.
Attention stays outside, with the back end that was chosen, and so does whoever listens to it: a listener hears the same
numbers and changes none. Keys and values are written straight into the cache's slots. Adapters beside the weights are
given to the pieces by hand and not left to the layers' hooks, of which a compiler would notice no change.

The pieces compute what `studio.model.layers` computes, in the same order; projections that read the same input are one
matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from studio.model.attention import CachedContext, Tap
from studio.model.backends import widened
from studio.model.compiling import compiled_anew
from studio.model.kernels import own_kernels
from studio.model.layers import Block, PromptKV, RMSNorm, gate, modulate
from studio.model.lora import Branch, Factors, added, beside
from studio.model.quantize import Fp8Linear, stacked
from studio.model.rope import Rotary, rotate

__all__ = ["Fused"]

# Compiled kernels are made for one shape each; the block's own comes first, others have to be worth it.
_SHAPES = 4
# Each kind of adapters beside a block and the next one is compiled apart; with more kinds in one pass none is.
_KINDS = 4
# The kind of device on which the kernel of a product can end with the GELU.
_GELU_ENDS = "cuda"

Written = tuple[Tensor, Tensor] | None
GeluRows = Callable[[Tensor], tuple[Tensor, Tensor]]
Pieces = tuple[Callable[..., Any], ...]


class Beside(NamedTuple):
    """Adapters beside the layers of a block that pieces run."""

    q: tuple[Factors, ...] = ()
    k: tuple[Factors, ...] = ()
    v: tuple[Factors, ...] = ()
    o: tuple[Factors, ...] = ()
    cross_q: tuple[Factors, ...] = ()
    cross_o: tuple[Factors, ...] = ()
    widens: tuple[Factors, ...] = ()
    narrows: tuple[Factors, ...] = ()

    @classmethod
    def of(cls, block: Block) -> Beside:
        """Those that are there now."""
        own, cross, (widens, _, narrows) = block.self_attn, block.cross_attn, block.ffn.children()
        return cls(*(beside(layer) for layer in (own.q, own.k, own.v, own.o, cross.q, cross.o, widens, narrows)))

    @property
    def kind(self) -> tuple[Any, ...]:
        """What a compiler makes other kernels for: how many there are, their ranks and types."""
        return tuple(tuple((down.shape[0], down.dtype) for down, *_ in factors) for factors in self)


class Fused:
    """Runs the blocks of a transformer; what it cannot run faster it leaves to the blocks themselves.

    Weights that are read together are laid side by side once, and the layers of the network become views of them: no
    memory is added, and changes in place reach both.

    Args:
        blocks: The transformer's blocks, already on their device and in their type.
        compiled: Whether `torch.compile` makes kernels of the pieces; else they run as they are written.

    Attributes:
        settled: Whether no further shape is worth compiling, as after warming up: it would hold up a video. Other
            shapes then run as they are written. Adapters of another kind are worth it, as all that follows has them.
    """

    def __init__(self, blocks: nn.ModuleList, *, compiled: bool = True) -> None:
        self._blocks = [cast(Block, block) for block in blocks]
        self._side_by_side = [stacked((b.self_attn.q, b.self_attn.k, b.self_attn.v)) for b in self._blocks]
        self._plain = (_enter, _middle, _joint, _leave, rotate)
        # Pieces compiled for a kind of adapters beside a block, and one beside the next.
        self._made: dict[Any, Pieces] = {}
        self._hooks = [
            hooks for module in blocks.modules() for hooks in (module._forward_hooks, module._forward_pre_hooks)
        ]
        self._shapes: set[tuple[int, ...]] = set()
        self.compiled, self.settled = compiled, False
        weight = self._blocks[0].modulation
        halves = weight.dtype in (torch.bfloat16, torch.float16)
        self._kernels: Any = own_kernels(weight.device) if compiled and halves else None

    def runs(self, context: Any) -> bool:
        """Whether it can run a pass: one over the cache, without gradients, in which no hook but adapters' listens."""
        return isinstance(context, CachedContext) and not torch.is_grad_enabled() and not self._overheard()

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
        # Once a pass, so that all of it sees the same adapters whatever another thread changes meanwhile.
        besides = [Beside.of(block) for block in self._blocks] if any(self._hooks) else [Beside()] * len(self._blocks)
        pieces = self._pieces((*x.shape, modulation.shape[1]), besides)
        kernels = None if pieces[0] is self._plain else self._kernels
        turn = call.query_turn
        # Window-relative keys are stored as they are, and turned when they are read.
        key_turn = turn if call.key_turn is None else None
        # The keys and values of a block go straight to its slots, those of a recache may not all be kept.
        straight = context.plain and x.shape[1] == context.cache.block * context.cache.tokens
        slots = [context.written(layer) if straight else None for layer in range(len(self._blocks))]
        # Where a kernel of our own takes them to the cache, the pieces leave the projections as they are.
        projections = [self._projection(layer, besides[layer]) for layer in range(len(self._blocks))]
        placing = straight and kernels is not None
        aside = [placing and self._placeable(layer, one) for layer, one in enumerate(projections)]
        gelu_rows = None if kernels is None else kernels.gelu_rows
        enter, first = pieces[0][0], (self._blocks[0], besides[0], projections[0])
        q, own = enter(*first, x, modulation, turn, key_turn, slots[0], aside[0])
        for layer, block in enumerate(self._blocks):
            _, middle, joint, leave, turned = pieces[layer]
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
            x, q = middle(block, besides[layer], x, y, modulation)
            if tap is not None:
                tap.cross_attention(layer, q, *prompt[layer])
            y = block.cross_attn.backend(q, *prompt[layer])
            if layer + 1 == len(self._blocks):
                return leave(block, besides[layer], x, y, modulation, gelu_rows)
            following = self._blocks[layer + 1], besides[layer + 1], projections[layer + 1]
            rest = slots[layer + 1], aside[layer + 1], gelu_rows
            x, q, own = joint(block, besides[layer], *following, x, y, modulation, turn, key_turn, *rest)
        raise AssertionError("unreachable: a transformer has blocks")

    def _overheard(self) -> bool:
        return any(not isinstance(hook, Branch) for hooks in self._hooks if hooks for hook in list(hooks.values()))

    def _placeable(self, layer: int, projection: nn.Module | None) -> bool:
        return isinstance(self._blocks[layer].self_attn.norm_q, RMSNorm) and projection is not None

    def _placed(
        self, layer: int, qkv: Tensor, turn: Rotary, key_turn: Rotary | None, slots: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Queries of a layer's projections, whose keys and values go into their slots."""
        norms = cast(RMSNorm, self._blocks[layer].self_attn.norm_q), cast(RMSNorm, self._blocks[layer].self_attn.norm_k)
        gains, eps = tuple(norm.weight for norm in norms), tuple(norm.eps for norm in norms)
        return self._kernels.attention_inputs(qkv, gains, eps, turn, slots, turn_keys=key_turn is not None)

    def _pieces(self, shape: tuple[int, ...], besides: list[Beside]) -> list[Pieces]:
        """The pieces of each block, those that lead over to the next included."""
        kinds = [one.kind for one in besides]
        pairs = list(zip(kinds, [*kinds[1:], kinds[-1]], strict=True))
        if not self.compiled or len(set(pairs)) > _KINDS:
            return [self._plain] * len(pairs)
        if shape not in self._shapes:
            if self.settled or len(self._shapes) == _SHAPES:
                return [self._plain] * len(pairs)
            self._shapes.add(shape)
        for pair in set(pairs) - self._made.keys():
            self._made[pair] = tuple(_compiled(piece) for piece in self._plain)
        return [self._made[pair] for pair in pairs]

    def _projection(self, layer: int, there: Beside) -> nn.Module | None:
        """The block's projections as one layer, unless an adapter is beside one of them."""
        return None if there.q or there.k or there.v else self._side_by_side[layer]


def _compiled(piece: Callable[..., Any]) -> Callable[..., Any]:
    return compiled_anew(piece)


def _linear(layer: nn.Module, x: Tensor, adapters: tuple[Factors, ...]) -> Tensor:
    """A linear layer and the adapters beside it; called as a module it would run their hooks as well."""
    y = layer.forward(x)
    for one in adapters:
        y = added(y, x, one)
    return y


def _factors(block: Block, modulation: Tensor, like: Tensor) -> tuple[Tensor, ...]:
    return (block.modulation.float() + modulation).type_as(like).unbind(2)


def _enter(
    block: Block,
    there: Beside,
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
    if projection is None:
        q, k, v = _linear(own.q, y, there.q), _linear(own.k, y, there.k), _linear(own.v, y, there.v)
    else:
        q, k, v = projection(y).chunk(3, dim=-1)
    q, k, v = (part.unflatten(-1, (own.heads, -1)) for part in (own.norm_q(q), own.norm_k(k), v))
    k = k if key_turn is None else rotate(k, key_turn)
    if slots is None:
        return rotate(q, turn), (k, v)
    slots[0].copy_(k)
    slots[1].copy_(v)
    return rotate(q, turn), None


def _middle(block: Block, there: Beside, x: Tensor, y: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor]:
    """From what self-attention gave to the queries of cross-attention."""
    _, _, factor, *_ = _factors(block, modulation, x)
    x = x + gate(_linear(block.self_attn.o, y.flatten(2), there.o), factor, modulation.shape[1])
    cross = block.cross_attn
    return x, cross.norm_q(_linear(cross.q, block.norm3(x), there.cross_q)).unflatten(-1, (cross.heads, -1))


def _leave(
    block: Block, there: Beside, x: Tensor, y: Tensor, modulation: Tensor, gelu_rows: GeluRows | None = None
) -> Tensor:
    """From what cross-attention gave to the end of the block."""
    *_, shift, scale, factor = _factors(block, modulation, x)
    x = x + _linear(block.cross_attn.o, y.flatten(2), there.cross_o)
    y = modulate(block.norm2(x), shift, scale, modulation.shape[1])
    return x + gate(_feed_forward(block.ffn, there, y, gelu_rows), factor, modulation.shape[1])


def _feed_forward(ffn: nn.Module, there: Beside, x: Tensor, gelu_rows: GeluRows | None) -> Tensor:
    """The feed-forward layers; the first product's kernel ends with the GELU where it has one that does."""
    first, gelu, second = ffn.children()
    quick = gelu_rows if isinstance(first, Fp8Linear) else None
    if quick is not None and isinstance(second, Fp8Linear) and not there.narrows:
        rows, scale = quick(_linear(first, x, there.widens).flatten(0, -2))
        return second.product(rows, scale, x.dtype).unflatten(0, x.shape[:-1])
    # Under autocast the layers' weights are wider than what reaches them, and only the layers themselves know it.
    alike = x.dtype == first.weight.dtype != torch.float32
    if type(first) is not nn.Linear or there.widens or x.device.type != _GELU_ENDS or not alike:
        return _linear(second, gelu(_linear(first, x, there.widens)), there.narrows)
    hidden = torch.ops.aten._addmm_activation(first.bias, x.flatten(0, -2), first.weight.t(), use_gelu=True)
    return _linear(second, hidden.unflatten(0, x.shape[:-1]), there.narrows)


def _joint(
    block: Block,
    there: Beside,
    following: Block,
    there_then: Beside,
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
    x = _leave(block, there, x, y, modulation, gelu_rows)
    return x, *_enter(following, there_then, projection, x, modulation, turn, key_turn, slots, aside)
