"""The VAE's decoder in few pieces, for streams that are under way.

Between two convolutions everything is one piece that a compiler turns into one kernel: the bias of the convolution
before, the residual sum, norm, SiLU, and the past put in front. Convolutions stay what the library is best at, each in
the way that is fastest here: as one 3-D convolution or as one 2-D convolution over the channels of all its frames, and
enlarging pictures as four convolutions of the small ones (each of the four pixels that come of one sees its neighbours
through a 2x2 kernel whose weights are sums of the 3x3 kernel's). All of it equals the decoder itself up to rounding,
and streams may go from one to the other at any chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studio.model.compiling import compiled_anew
from studio.model.tuning import Choices
from studio.model.vae import (
    AttentionBlock,
    CausalConv3d,
    Decoder,
    History,
    ResidualBlock,
    RMSNorm,
    Upsample,
    enlarged,
    interleaved,
    stacked_frames,
)

__all__ = ["QuickDecoder"]

# An activation that is not summed up yet: (skip or None, y, bias or None) stands for skip + y + bias.
Sum = tuple[Tensor | None, Tensor, Tensor | None]
CONVOLUTIONS = ("volume", "stacked")
ENLARGEMENTS = ("enlarged", "phases")


class QuickDecoder:
    """Decodes what `Decoder` decodes, once every causal convolution has a past.

    Args:
        decoder: The decoder; its weights are laid out with the channels last, in place.
        compiled: Whether the pieces are compiled; else they run as they are written.
        choices: Which way is the fastest for each convolution.

    Attributes:
        tuning: Whether ways that were not timed yet are timed as they come by.
    """

    def __init__(self, decoder: Decoder, *, compiled: bool = True, choices: Choices | None = None) -> None:
        self._decoder, self._compiled, self._choices = decoder, compiled, choices or Choices()
        self._made: dict[Any, Callable[..., Any]] = {}
        self._weights: dict[tuple[int, str], Tensor] = {}
        self.tuning = False
        for module in decoder.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                last = torch.channels_last if isinstance(module, nn.Conv2d) else torch.channels_last_3d
                module.weight.data = module.weight.data.contiguous(memory_format=last)

    def __call__(self, x: Tensor, history: History) -> Tensor:
        """Decode a chunk.

        Args:
            x: Latents `[B, z, F, h, w]`, channels last.
            history: What each convolution remembers, brought up to date; none of the decoder's may be missing.

        Returns:
            Pixels `[B, c, T, H, W]`.
        """
        library: Any = torch.backends.cudnn
        before = library.benchmark
        # The library's own choice among its kernels is timed as well, once for each size.
        library.benchmark = before or x.is_cuda
        try:
            return self._decode(x, history)
        finally:
            library.benchmark = before

    def _decode(self, x: Tensor, history: History) -> Tensor:
        decoder = self._decoder
        _, y = self._convolve(decoder.conv1, None, (None, x, None), history)
        total: Sum = (None, y, decoder.conv1.bias)
        for layer in (*decoder.middle.children(), *decoder.upsamples.children()):
            total = self._layer(layer, total, history)
        norm, _, last = decoder.head.children()
        _, y = self._convolve(cast(CausalConv3d, last), cast(RMSNorm, norm), total, history)
        return self._piece(_summed, (None, y, last.bias))(None, y, last.bias)

    def _layer(self, layer: nn.Module, total: Sum, history: History) -> Sum:
        if isinstance(layer, ResidualBlock):
            return self._residual(layer, total, history)
        if isinstance(layer, Upsample):
            return self._upsample(layer, total, history)
        if isinstance(layer, AttentionBlock):
            return None, layer(self._piece(_summed, total)(*total)), None
        raise TypeError(f"a decoder has no {type(layer).__name__}")

    def _residual(self, block: ResidualBlock, total: Sum, history: History) -> Sum:
        norm1, _, conv1, norm2, _, _, conv2 = cast(Any, tuple(block.residual.children()))
        x, y = self._convolve(conv1, norm1, total, history, keep=True)
        _, y = self._convolve(conv2, norm2, (None, y, conv1.bias), history)
        assert x is not None
        if isinstance(block.shortcut, CausalConv3d):
            weight = block.shortcut.weight.flatten(1)
            x = F.linear(x.movedim(1, -1), weight, block.shortcut.bias).movedim(-1, 1)
        return x, y, conv2.bias

    def _upsample(self, layer: Upsample, total: Sum, history: History) -> Sum:
        conv = cast(nn.Conv2d, layer.resample[1])
        if layer.time_conv is not None:
            _, y = self._convolve(layer.time_conv, None, total, history)
            total, weave = (None, y, layer.time_conv.bias), True
        else:
            weave = False
        frames = self._piece(_frames, (*total, weave))(*total, weave)
        batch = total[1].shape[0]
        way = self._way(conv, ENLARGEMENTS, lambda way: lambda: self._enlarge(conv, frames, batch, way), frames)
        return None, self._enlarge(conv, frames, batch, way), None

    def _enlarge(self, conv: nn.Conv2d, frames: Tensor, batch: int, way: str) -> Tensor:
        """Frames `[B T, C, H, W]` to `[B, C', T, 2 H, 2 W]`, the bias included."""
        if way == "phases":
            y = F.conv2d(frames, self._weight(conv, way), padding=1)
            return self._piece(_woven, (y, conv.bias, batch))(y, conv.bias, batch)
        large = self._piece(enlarged, (frames,))(frames)
        y = F.conv2d(large, conv.weight, conv.bias, padding=1)
        return y.unflatten(0, (batch, -1)).transpose(1, 2)

    def _convolve(
        self, conv: CausalConv3d, norm: RMSNorm | None, total: Sum, history: History, keep: bool = False
    ) -> tuple[Tensor | None, Tensor]:
        """The sum itself, if it is kept, and the convolution of what norm and SiLU make of it, without its bias."""
        before = history[conv.slot]
        assert before is not None
        if len(before) == 1:
            # The stride over one video means nothing, but kernels are made for it.
            before = before.as_strided(before.shape, (before.numel(), *before.stride()[1:]))

        def run(way: str) -> tuple[Tensor | None, Tensor, Tensor]:
            feed = self._piece(
                _feed, (*total, norm is None, before, keep, conv.kernel_size[0] if way == "stacked" else 0)
            )
            x, y, remembered = feed(*total, norm, before, keep, conv.kernel_size[0] if way == "stacked" else 0)
            weight = self._weight(conv, way)
            if way == "volume":
                return x, F.conv3d(y, weight, None, conv.stride, conv.padding), remembered
            y = F.conv2d(y, weight, None, conv.stride[1:], conv.padding[1:])
            return x, y.unflatten(0, (before.shape[0], -1)).transpose(1, 2), remembered

        way = self._way(conv, CONVOLUTIONS, lambda way: lambda: run(way), total[1])
        x, y, history[conv.slot] = run(way)
        return x, y

    def _way(self, conv: nn.Module, ways: tuple[str, ...], of: Callable[[str], Callable[[], Any]], like: Tensor) -> str:
        where = torch.cuda.get_device_name(like.device) if like.is_cuda else "cpu"
        kernel = "x".join(str(k) for k in cast(Any, conv).kernel_size)
        made = f"{conv.in_channels}->{conv.out_channels} {kernel} of {list(like.shape)}"
        what = f"{where}, torch {torch.__version__}, {str(like.dtype).removeprefix('torch.')}, {made}"
        if self.tuning:
            return self._choices.choose(what, {way: of(way) for way in ways})
        return self._choices.known(what, ways) or ways[0]

    def _weight(self, conv: CausalConv3d | nn.Conv2d, way: str) -> Tensor:
        if way == "volume":
            return conv.weight
        key = (id(conv), way)
        if key not in self._weights:
            made = _phases(conv.weight) if way == "phases" else conv.weight.transpose(1, 2).flatten(1, 2)
            self._weights[key] = made.detach().contiguous(memory_format=torch.channels_last)
        return self._weights[key]

    def _piece(self, function: Callable[..., Any], given: tuple[Any, ...]) -> Callable[..., Any]:
        """The function compiled for what it is given: sizes, and what is missing."""
        if not self._compiled:
            return function
        key = (function.__name__, *(tuple(x.shape) if isinstance(x, Tensor) else x for x in given))
        if key not in self._made:
            self._made[key] = compiled_anew(function)
        return self._made[key]


def _summed(skip: Tensor | None, y: Tensor, bias: Tensor | None) -> Tensor:
    y = y if bias is None else y + bias.view(-1, 1, 1, 1)
    return y if skip is None else skip + y


def _feed(
    skip: Tensor | None,
    y: Tensor,
    bias: Tensor | None,
    norm: nn.Module | None,
    before: Tensor,
    keep: bool,
    stacked: int,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """The sum, what a convolution reads (past and all, or the frames of its kernel side by side), what it remembers."""
    x = _summed(skip, y, bias)
    whole = torch.cat([before, x if norm is None else F.silu(norm(x))], dim=2)
    remembered = whole[:, :, -before.shape[2] :].clone()
    return (x if keep else None), (stacked_frames(whole, stacked) if stacked else whole), remembered


def _frames(skip: Tensor | None, y: Tensor, bias: Tensor | None, weave: bool) -> Tensor:
    """The sum as pictures `[B T, C, H, W]`; with `weave` its channels hold two frames each."""
    x = _summed(skip, y, bias)
    x = interleaved(x) if weave else x
    return x.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)


def _phases(weight: Tensor) -> Tensor:
    """Kernels `[4 C', C, 2, 2]` over small pictures, one a corner, of a 3x3 kernel over enlarged ones."""
    rows = weight.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], dtype=torch.float64)
    found = torch.einsum("ark,bcl,oikl->aboirc", rows, rows, weight.double())
    return found.flatten(0, 2).to(weight.dtype)


def _woven(y: Tensor, bias: Tensor | None, batch: int) -> Tensor:
    """Corners `[B T, 4 C', H + 1, W + 1]` to `[B, C', T, 2 H, 2 W]`."""
    height, width = y.shape[-2] - 1, y.shape[-1] - 1
    y = y.movedim(1, -1).unflatten(-1, (2, 2, -1))
    rows = [torch.stack([y[:, a : a + height, b : b + width, a, b] for b in (0, 1)], dim=3) for a in (0, 1)]
    whole = torch.stack(rows, dim=2).flatten(3, 4).flatten(1, 2)
    whole = whole if bias is None else whole + bias
    return whole.unflatten(0, (batch, -1)).movedim(-1, 1)
