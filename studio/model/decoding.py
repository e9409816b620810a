"""The VAE's decoder in few pieces, for streams that are under way.

Between two convolutions everything is one piece that a compiler turns into one kernel: the bias of the convolution
before, the residual sum, norm, SiLU, and the past put in front. Convolutions stay what the library is best at, each in
the way that is fastest here: as one 3-D convolution or as one 2-D convolution over the channels of all its frames, and
enlarging pictures as four convolutions of the small ones (each of the four pixels that come of one sees its neighbours
through a 2x2 kernel whose weights are sums of the 3x3 kernel's). All of it equals the decoder itself up to rounding,
and streams may go from one to the other at any chunk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studio.model import feeding
from studio.model.compiling import compiled_anew
from studio.model.tuning import Choices
from studio.model.vaelayers import (
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
from studio.model.workspaces import first_time, workspace_within

__all__ = ["QuickDecoder"]

CONVOLUTIONS = ("volume", "stacked")
# To a few colours: with channels of zeros that fill a kernel's width, or as one matrix product that is summed up after.
NARROW = (*CONVOLUTIONS, "padded", "product")
ENLARGEMENTS = ("enlarged", "phases")
WORKSPACE = 256 * 2**20
# Frames of 832x480 in groups of six: as fast as twelve at once on an H100, and 1.3 GiB less; smaller groups are slower.
MOST = 480 * 2**20
# Widths that matrix units are made for.
WIDTH = 8


@dataclasses.dataclass
class Sum:
    """An activation that is not summed up yet: skip + y + bias."""

    skip: Tensor | None
    y: Tensor | None
    bias: Tensor | None = None

    @property
    def parts(self) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """What is to be summed up."""
        assert self.y is not None
        return self.skip, self.y, self.bias

    def taken(self) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """The parts, which are held no longer: whoever takes them may free them, or write over them."""
        parts = self.parts
        self.skip = self.y = None
        return parts


class QuickDecoder:
    """Decodes what `Decoder` decodes, once every causal convolution has a past.

    Args:
        decoder: The decoder; its weights are laid out with the channels last, in place.
        compiled: Whether the pieces are compiled; else they run as they are written.
        choices: Which way is the fastest for each convolution.

    Attributes:
        tuning: Whether ways that were not timed yet are timed as they come by.
        kernels: Whether convolutions are fed by the kernel of `studio.model.feeding` where it can run.
        fault: Why the kernel is not used any more, where it failed.
        workspace: Bytes that the library may take for itself during a convolution; None: as much as it likes.
        most: Bytes that enlarged pictures may take at once: frames go on in groups from the layer where it would be
            more, one group after the other. None: all frames of a chunk together.
    """

    def __init__(self, decoder: Decoder, *, compiled: bool = True, choices: Choices | None = None) -> None:
        self._decoder, self._compiled, self._choices = decoder, compiled, choices or Choices()
        self._made: dict[Any, Callable[..., Any]] = {}
        self._weights: dict[tuple[int, str], Tensor] = {}
        self.tuning, self.kernels, self.fault = False, compiled, ""
        self.workspace: int | None = WORKSPACE
        self.most: int | None = MOST
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
        _, total = self._convolve(decoder.conv1, None, Sum(None, x), history)
        return self._through([*decoder.middle.children(), *decoder.upsamples.children()], total, history)

    def _through(self, layers: list[nn.Module], total: Sum, history: History) -> Tensor:
        """Pixels of what has come as far as before some layers."""
        for index, layer in enumerate(layers):
            if isinstance(layer, Upsample) and len(groups := self._groups(layer, total)) > 1:
                return torch.cat([self._through(layers[index:], group, history) for group in groups], dim=2)
            total = self._layer(layer, total, history)
        norm, _, last = self._decoder.head.children()
        _, total = self._convolve(cast(CausalConv3d, last), cast(RMSNorm, norm), total, history)
        return self._summed(total)

    def _groups(self, layer: Upsample, total: Sum) -> list[Sum]:
        """Frames that are enlarged together; each group's memory is free before the next one is."""
        skip, y, bias = total.parts
        frames, channels = y.shape[2], cast(nn.Conv2d, layer.resample[1]).out_channels
        large = y.numel() // y.shape[1] * channels * 4 * (1 if layer.time_conv is None else 2) * y.element_size()
        if self.most is None or large <= self.most:
            return [total]
        size = max(1, frames * self.most // large)
        parts = [None] * -(-frames // size) if skip is None else skip.split(size, dim=2)
        return [Sum(part, group, bias) for part, group in zip(parts, y.split(size, dim=2), strict=True)]

    def _layer(self, layer: nn.Module, total: Sum, history: History) -> Sum:
        if isinstance(layer, ResidualBlock):
            return self._residual(layer, total, history)
        if isinstance(layer, Upsample):
            return self._upsample(layer, total, history)
        if isinstance(layer, AttentionBlock):
            return Sum(None, layer(self._summed(total)))
        raise TypeError(f"a decoder has no {type(layer).__name__}")

    def _summed(self, total: Sum) -> Tensor:
        parts = total.taken()
        return self._piece(_summed, parts)(*parts)

    def _residual(self, block: ResidualBlock, total: Sum, history: History) -> Sum:
        norm1, _, conv1, norm2, _, _, conv2 = cast(Any, tuple(block.residual.children()))
        x, total = self._convolve(conv1, norm1, total, history, keep=True)
        _, total = self._convolve(conv2, norm2, total, history)
        assert x is not None
        if isinstance(block.shortcut, CausalConv3d):
            weight = block.shortcut.weight.flatten(1)
            x = F.linear(x.movedim(1, -1), weight, block.shortcut.bias).movedim(-1, 1)
        return dataclasses.replace(total, skip=x)

    def _upsample(self, layer: Upsample, total: Sum, history: History) -> Sum:
        conv = cast(nn.Conv2d, layer.resample[1])
        weave = layer.time_conv is not None
        if layer.time_conv is not None:
            _, total = self._convolve(layer.time_conv, None, total, history)
        parts = total.taken()
        batch = parts[1].shape[0]
        frames = self._piece(_frames, (*parts, weave))(*parts, weave)
        del parts
        way = self._way(conv, ENLARGEMENTS, lambda way: lambda: self._enlarge(conv, frames, batch, way), frames)
        return Sum(None, self._enlarge(conv, frames, batch, way))

    def _enlarge(self, conv: nn.Conv2d, frames: Tensor, batch: int, way: str) -> Tensor:
        """Frames `[B T, C, H, W]` to `[B, C', T, 2 H, 2 W]`, the bias included."""
        if way == "phases":
            y = self._library(F.conv2d, frames, self._weight(conv, way), None, 1, 1)
            return self._piece(_woven, (y, conv.bias, batch))(y, conv.bias, batch)
        large = self._piece(enlarged, (frames,))(frames)
        y = self._library(F.conv2d, large, conv.weight, conv.bias, 1, 1)
        return y.unflatten(0, (batch, -1)).transpose(1, 2)

    def _convolve(
        self, conv: CausalConv3d, norm: RMSNorm | None, total: Sum, history: History, keep: bool = False
    ) -> tuple[Tensor | None, Sum]:
        """The sum itself, if it is kept, and the convolution of what norm and SiLU make of it."""
        before = history[conv.slot]
        assert before is not None
        if len(before) == 1:
            # The stride over one video means nothing, but kernels are made for it.
            before = before.as_strided(before.shape, (before.numel(), *before.stride()[1:]))

        def run(way: str, last: bool = False) -> tuple[Tensor | None, Tensor, Tensor]:
            taps = 0 if way == "volume" else conv.kernel_size[0]
            x, fed, remembered = self._fed(total, norm, before, keep, taps, last)
            return x, self._convolved(conv, fed, way, len(before)), remembered

        ways = NARROW if conv.out_channels < WIDTH else CONVOLUTIONS
        like = total.parts[1]
        mark = ", by kernel" if self._by_kernel(like) else ""
        way = self._way(conv, ways, lambda way: lambda: run(way), like, mark)
        del like
        x, y, history[conv.slot] = run(way, last=True)
        return x, Sum(None, y, conv.bias)

    def _fed(
        self, total: Sum, norm: RMSNorm | None, before: Tensor, keep: bool, taps: int, last: bool
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """What `_feed` returns; the `last` run takes the sum's parts, so that they are freed when they were read."""
        if self._by_kernel(total.parts[1]):
            gain = None if norm is None else norm.gamma
            try:
                fed = feeding.feed(*total.parts, gain, before, keep, taps, overwrite=last)
            except Exception as fault:  # whatever a compiler may raise: there is another way
                self.kernels, self.fault = False, f"{type(fault).__name__}: {fault}"
            else:
                if last:
                    total.taken()
                return fed
        parts = total.taken() if last else total.parts
        return self._piece(_feed, (*parts, norm is None, before, keep, taps))(*parts, norm, before, keep, taps)

    def _by_kernel(self, y: Tensor) -> bool:
        return self.kernels and feeding.can_feed(y)

    def _convolved(self, conv: CausalConv3d, fed: Tensor, way: str, batch: int) -> Tensor:
        """Frames that were laid out for a way, convolved without the bias: `[B, C', T, H, W]`."""
        weight = self._weight(conv, way)
        if way == "volume":
            return self._library(F.conv3d, fed, weight, None, conv.stride, conv.padding)
        if way == "product":
            y = _product(fed.movedim(1, -1), weight)
            given = (y, *conv.kernel_size[1:], conv.out_channels, fed.dtype)
            y = self._piece(_gathered, given)(*given)
        else:
            y = self._library(F.conv2d, fed, weight, None, conv.stride[1:], conv.padding[1:])
        return y.unflatten(0, (batch, -1)).transpose(1, 2)[:, : conv.out_channels]

    def _library(self, convolve: Callable[..., Tensor], x: Tensor, weight: Tensor, *others: Any) -> Tensor:
        """A convolution; the library chooses its kernel when sizes come by for the first time, in each thread."""
        key = (convolve, x.shape, weight.shape, x.dtype, x.device)
        if self.workspace is None or not x.is_cuda or not first_time(key):
            return convolve(x, weight, *others)
        result = x.numel() // x.shape[1] * weight.shape[0] * x.element_size()
        return workspace_within(self.workspace, result, x.device, lambda: convolve(x, weight, *others))

    def _way(
        self,
        conv: nn.Module,
        ways: tuple[str, ...],
        of: Callable[[str], Callable[[], Any]],
        like: Tensor,
        mark: str = "",
    ) -> str:
        where = torch.cuda.get_device_name(like.device) if like.is_cuda else "cpu"
        kernel = "x".join(str(k) for k in cast(Any, conv).kernel_size)
        made = f"{conv.in_channels}->{conv.out_channels} {kernel} of {list(like.shape)}{mark}"
        what = f"{where}, torch {torch.__version__}, {str(like.dtype).removeprefix('torch.')}, {made}"
        if self.tuning:
            return self._choices.choose(what, {way: of(way) for way in ways})
        return self._choices.known(what, ways) or ways[0]

    def _weight(self, conv: CausalConv3d | nn.Conv2d, way: str) -> Tensor:
        if way == "volume":
            return conv.weight
        key = (id(conv), way)
        if key not in self._weights:
            self._weights[key] = _laid_out(conv.weight.detach(), way)
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


def _laid_out(weight: Tensor, way: str) -> Tensor:
    """A convolution's weights as a way other than "volume" reads them."""
    if way == "product":
        # [taps C, 9 C'], a column for each neighbour and colour, and columns of zeros.
        made = weight.permute(2, 1, 3, 4, 0).flatten(0, 1).flatten(1)
        return F.pad(made, (0, -made.shape[1] % WIDTH)).contiguous()
    made = _phases(weight) if way == "phases" else weight.transpose(1, 2).flatten(1, 2)
    if way == "padded":
        made = F.pad(made, (0, 0) * 3 + (0, -len(made) % WIDTH))
    return made.contiguous(memory_format=torch.channels_last)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight`, on GPUs without rounding what is summed up later."""
    if not x.is_cuda or x.dtype not in (torch.bfloat16, torch.float16):
        return x @ weight
    return torch.mm(x.flatten(0, -2), weight, out_dtype=torch.float32).unflatten(0, x.shape[:-1])


def _gathered(product: Tensor, rows: int, columns: int, outputs: int, dtype: torch.dtype) -> Tensor:
    """What each pixel gives its neighbours, `[N, H, W, rows columns C' or more]`, summed up: `[N, C', H, W]`."""
    total = None
    for number in range(rows * columns):
        down, right = number // columns - rows // 2, number % columns - columns // 2
        part = product[..., number * outputs : (number + 1) * outputs]
        part = part[:, max(down, 0) : part.shape[1] + min(down, 0), max(right, 0) : part.shape[2] + min(right, 0)]
        part = F.pad(part, (0, 0, max(-right, 0), max(right, 0), max(-down, 0), max(down, 0)))
        total = part if total is None else total + part
    assert total is not None
    return total.to(dtype).movedim(-1, 1)


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
