"""Linear layers with few bits: each row of the weight in a small type and one scale.

INT8: a row w becomes q = round(w / s) with s = max|w| / 127, so every weight is off by at most s / 2. Activations stay
as they are: halves hold whole numbers up to 127 exactly, so the product with q is that of the layer's own type.

FP8 (e4m3): a row becomes w / s with s = max|w| / 448, and each row of the input is scaled and rounded the same way, so
that the matrix product itself runs in FP8 where a GPU has it; elsewhere the same rounded numbers are multiplied.
With "fp8-kv" the KV cache is FP8 as well, as it is without a scale: keys are normed, and values are of their order.
FlashAttention-3 then computes self-attention in FP8; other back ends widen what they read.

Sources: absmax quantisation as in LLM.int8() (Dettmers et al., 2022, arXiv:2208.07339), weights only; FP8 formats of
Micikevicius et al. (2022, arXiv:2209.05433) with a scale a row.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, TypeVar, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studio.model.backends import FP8

__all__ = [
    "Fp8Linear",
    "Int8Linear",
    "Quantization",
    "RowLinear",
    "check_quantization",
    "fp8_rows",
    "quantize_rows",
    "quantized",
    "stacked",
    "stored_bytes",
]

Quantization = Literal["int8", "fp8", "fp8-kv"]
Network = TypeVar("Network", bound=nn.Module)

_LEVELS = 127
# The layers of the blocks hold nearly all weights; embeddings, modulation and head are few and sensitive.
_DIT_LAYERS = re.compile(r"blocks\.\d+\.(?:(?:self_attn|cross_attn)\.[qkvo]|ffn\.[02])")
_TEXT_LAYERS = re.compile(r".*\.(?:SelfAttention\.[qkvo]|DenseReluDense\.(?:wi_0|wi_1|wo))")
# FP8 pays for the large products; the small ones of cross-attention lose more to rounding their input than they gain.
_DIT_LARGE = re.compile(r"blocks\.\d+\.(?:self_attn\.[qkvo]|ffn\.[02])")
LAYERS = {
    "int8": {"WanDiT": _DIT_LAYERS, "TextEncoder": _TEXT_LAYERS},
    "fp8": {"WanDiT": _DIT_LARGE, "TextEncoder": _TEXT_LAYERS},
    "fp8-kv": {"WanDiT": _DIT_LARGE, "TextEncoder": _TEXT_LAYERS},
}
_LARGEST = torch.finfo(FP8).max


def check_quantization(quantization: str | None) -> Quantization | None:
    """Check the name of a quantisation.

    Args:
        quantization: "int8", "fp8", "fp8-kv", or None for none.

    Returns:
        The same.

    Raises:
        ValueError: If it is something else.
    """
    if quantization is not None and quantization not in get_args(Quantization):
        kinds = ", ".join(f'"{kind}"' for kind in get_args(Quantization))
        raise ValueError(f"`quantization` must be None or one of {kinds}, got {quantization!r}; leave it out for none")
    return quantization  # type: ignore[return-value]


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row of a matrix to whole numbers.

    Args:
        weight: `[out, in]`, floating point.

    Returns:
        (`[out, in]` int8 in [-127, 127], `[out]` float32 scales; a row of zeros has scale 1).
    """
    exact = weight.float()
    largest = exact.abs().amax(dim=1)
    scale = torch.where(largest > 0, largest / _LEVELS, 1.0)
    return (exact / scale.unsqueeze(1)).round_().clamp_(-_LEVELS, _LEVELS).to(torch.int8), scale


def fp8_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Scale each row of a matrix to the range of FP8 and round it.

    Args:
        weight: `[rows, in]`, floating point.

    Returns:
        (`[rows, in]` float8_e4m3fn, `[rows]` float32 scales; a row of zeros has scale 1).
    """
    exact = weight.float()
    largest = exact.abs().amax(dim=1)
    scale = torch.where(largest > 0, largest / _LARGEST, 1.0)
    return (exact / scale.unsqueeze(1)).clamp(-_LARGEST, _LARGEST).to(FP8), scale


class RowLinear(nn.Module):
    """A linear layer whose weight is stored as rows of a small type with a scale each.

    Args:
        inputs: Width of the input.
        outputs: Width of the output.
        bias: Whether it has a bias.
    """

    weight: Tensor
    scale: Tensor
    kept: ClassVar[torch.dtype]

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        self.register_buffer("weight", torch.zeros(outputs, inputs, dtype=torch.float32).to(self.kept))
        self.register_buffer("scale", torch.ones(outputs, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(outputs), requires_grad=False) if bias else None

    @classmethod
    def of(cls, linear: nn.Linear) -> Self:
        """Quantise a layer; one on the meta device becomes an empty one there, to be filled."""
        with torch.device(linear.weight.device):
            layer = cls(linear.in_features, linear.out_features, linear.bias is not None)
        if not linear.weight.is_meta:
            layer.take("weight", linear.weight.detach())
            if linear.bias is not None:
                layer.take("bias", linear.bias.detach())
        return layer

    @staticmethod
    def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
        """Rows in the small type, and their scales."""
        raise NotImplementedError

    def wants(self) -> dict[str, tuple[int, ...]]:
        """Name to shape of what `take` is to be given: those of a plain linear layer."""
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.in_features)}
        return shapes if self.bias is None else {**shapes, "bias": (self.out_features,)}

    def take(self, name: str, value: Tensor, dtype: torch.dtype | None = None) -> None:
        """Store one of the tensors of `wants`: the weight quantised, the bias in `dtype`."""
        if name == "weight":
            self.weight, self.scale = self.rounded(value)
        else:
            self.bias = nn.Parameter(value if dtype is None else value.to(dtype), requires_grad=False)

    def dequantized(self) -> Tensor:
        """The weight that the layer applies, `[out, in]` float32."""
        return self.weight.float() * self.scale.unsqueeze(1)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # A change of type is meant for what is computed with; scales of few bits would spoil whole rows.
        exact = {"weight": self.weight, "scale": self.scale}
        super()._apply(fn, recurse)
        for name, value in exact.items():
            moved = getattr(self, name)
            if moved.dtype != value.dtype:
                setattr(self, name, value.to(moved.device))
        return self

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Int8Linear(RowLinear):
    """A linear layer with an INT8 weight; the input stays as it is."""

    kept = torch.int8

    @staticmethod
    def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
        """See `quantize_rows`."""
        return quantize_rows(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` `[..., in]` to `[..., out]`, in the type of `x`."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if x.is_cuda:
            # One kernel writes the weight in the type of the product; a compiler is given no pattern to replace.
            return F.linear(x, (self.weight.float() * self.scale.unsqueeze(1)).to(x.dtype), bias)
        y = F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        return y if bias is None else y + bias


class Fp8Linear(RowLinear):
    """A linear layer whose weight and input are FP8, each row with its own scale."""

    kept = FP8

    @staticmethod
    def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
        """See `fp8_rows`."""
        return fp8_rows(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` `[..., in]` to `[..., out]`, in the type of `x`."""
        return self.product(*fp8_rows(x.flatten(0, -2)), x.dtype).unflatten(0, x.shape[:-1])

    def product(self, rows: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """Map an input that is in FP8 already.

        Args:
            rows: `[rows, in]` float8_e4m3fn.
            scale: `[rows]` float32.
            dtype: Type of the result.

        Returns:
            `[rows, out]`.
        """
        bias = None if self.bias is None else self.bias.to(dtype)
        if dtype == torch.bfloat16 and _multiplies_fp8(rows.device):
            return torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
                rows, self.weight.t(), scale.unsqueeze(1), self.scale.unsqueeze(0), bias=bias, out_dtype=dtype,
                use_fast_accum=True,
            )  # fmt: skip
        product = F.linear(rows.float(), self.weight.float()) * scale.unsqueeze(1) * self.scale
        return product.to(dtype) if bias is None else (product + bias.float()).to(dtype)


@functools.cache
def _multiplies_fp8(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


_KINDS: dict[str, type[RowLinear]] = {"int8": Int8Linear, "fp8": Fp8Linear, "fp8-kv": Fp8Linear}


def quantized(network: Network, quantization: Quantization | None = "int8") -> Network:
    """Put layers of few bits in the place of the linear layers that hold nearly all of a network's weights.

    Args:
        network: A transformer or text encoder, changed in place; on the meta device it is quantised as it is filled.
        quantization: "int8", "fp8", "fp8-kv" (the cache of a transformer as well), or None to leave it as it is.

    Returns:
        The network itself.

    Raises:
        ValueError: If the network is of another kind.
    """
    if check_quantization(quantization) is None:
        return network
    kind, layers = type(network).__name__, LAYERS[quantization or "int8"]
    if kind not in layers:
        raise ValueError(f"`network` must be one of {', '.join(layers)} to be quantised, got {kind}; leave it as it is")
    for path, module in list(network.named_modules()):
        if isinstance(module, nn.Linear) and layers[kind].fullmatch(path):
            owner, _, last = path.rpartition(".")
            setattr(network.get_submodule(owner), last, _KINDS[quantization or "int8"].of(module))
    if quantization == "fp8-kv" and hasattr(network, "held"):
        setattr(network, "held", FP8)  # noqa: B010 - a transformer's, which imports this room
    return network


@torch.no_grad()
def stacked(layers: Sequence[nn.Module]) -> nn.Module | None:
    """Layers that read the same input as one layer whose output is theirs side by side.

    The layers' tensors become views of the new layer's, so that no memory is added.

    Args:
        layers: Linear layers, plain or quantised, of one kind, input width and type.

    Returns:
        The layer; `None` if they are not of one kind.
    """
    kind = {type(layer) for layer in layers}
    if kind not in ({nn.Linear}, {Int8Linear}, {Fp8Linear}) or len({layer.bias is None for layer in layers}) > 1:
        return None
    names = [name for name in ("weight", "scale", "bias") if getattr(layers[0], name, None) is not None]
    parts = {name: [getattr(layer, name) for layer in layers] for name in names}
    if any(len({(part.dtype, part.device, part.shape[1:]) for part in found}) > 1 for found in parts.values()):
        return None
    first = cast("nn.Linear | RowLinear", layers[0])
    with torch.device("meta"):
        whole = type(first)(first.in_features, sum(len(part) for part in parts["weight"]), first.bias is not None)
    for name, found in parts.items():
        joined = torch.cat([part.detach() for part in found])
        for layer, view in zip(layers, joined.split([len(part) for part in found]), strict=True):
            _put(layer, name, view)
        _put(whole, name, joined)
    return whole


def _put(layer: nn.Module, name: str, value: Tensor) -> None:
    old = layer._parameters.get(name)
    if old is None:
        layer._buffers[name] = value
    else:
        layer._parameters[name] = nn.Parameter(value, requires_grad=old.requires_grad)


def stored_bytes(network: nn.Module, dtype: torch.dtype = torch.bfloat16) -> int:
    """Bytes of a network's weights with the floating-point ones in a type, exactly; scales stay float32.

    Args:
        network: On any device, the meta device included.
        dtype: Type of the floating-point weights that are not quantised.
    """
    scales = {f"{path}.scale" for path, module in network.named_modules() if isinstance(module, RowLinear)}
    seen: Mapping[int, Tensor] = {id(t): t for name, t in _tensors(network) if name not in scales}
    own = [t.dtype == FP8 or not t.is_floating_point() for t in seen.values()]
    plain = sum(
        t.numel() * (t.element_size() if small else dtype.itemsize) for t, small in zip(seen.values(), own, strict=True)
    )
    return plain + sum(t.numel() * t.element_size() for name, t in network.named_buffers() if name in scales)


def _tensors(network: nn.Module) -> list[tuple[str, Tensor]]:
    return [*network.named_parameters(), *network.named_buffers()]
