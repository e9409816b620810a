"""INT8 weights: each row of a linear layer as whole numbers and one scale; activations stay as they are.

A row w becomes q = round(w / s) with s = max|w| / 127, so every weight is off by at most s / 2. Halves hold whole
numbers up to 127 exactly, so the product with q is that of the layer's own type; the scale is applied to the result.

Source: absmax quantisation as in LLM.int8() (Dettmers et al., 2022, arXiv:2208.07339), weights only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Int8Linear", "Quantization", "check_quantization", "quantize_rows", "quantized", "stacked", "stored_bytes"]

Quantization = Literal["int8"]
Network = TypeVar("Network", bound=nn.Module)

_LEVELS = 127
# The layers of the blocks hold nearly all weights; embeddings, modulation and head are few and sensitive.
_DIT_LAYERS = re.compile(r"blocks\.\d+\.(?:(?:self_attn|cross_attn)\.[qkvo]|ffn\.[02])")
_TEXT_LAYERS = re.compile(r".*\.(?:SelfAttention\.[qkvo]|DenseReluDense\.(?:wi_0|wi_1|wo))")
LAYERS = {"WanDiT": _DIT_LAYERS, "TextEncoder": _TEXT_LAYERS}


def check_quantization(quantization: str | None) -> Quantization | None:
    """Check the name of a quantisation.

    Args:
        quantization: "int8", or None for none.

    Returns:
        The same.

    Raises:
        ValueError: If it is something else.
    """
    if quantization is not None and quantization not in get_args(Quantization):
        raise ValueError(f'`quantization` must be None or "int8", got {quantization!r}; leave it out for none')
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


class Int8Linear(nn.Module):
    """A linear layer whose weight is stored as INT8 rows with a scale each.

    Args:
        inputs: Width of the input.
        outputs: Width of the output.
        bias: Whether it has a bias.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        self.register_buffer("weight", torch.zeros(outputs, inputs, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(outputs, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(outputs), requires_grad=False) if bias else None

    @classmethod
    def of(cls, linear: nn.Linear) -> Int8Linear:
        """Quantise a layer; one on the meta device becomes an empty one there, to be filled."""
        with torch.device(linear.weight.device):
            layer = cls(linear.in_features, linear.out_features, linear.bias is not None)
        if not linear.weight.is_meta:
            layer.take("weight", linear.weight.detach())
            if linear.bias is not None:
                layer.take("bias", linear.bias.detach())
        return layer

    def wants(self) -> dict[str, tuple[int, ...]]:
        """Name to shape of what `take` is to be given: those of a plain linear layer."""
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.in_features)}
        return shapes if self.bias is None else {**shapes, "bias": (self.out_features,)}

    def take(self, name: str, value: Tensor, dtype: torch.dtype | None = None) -> None:
        """Store one of the tensors of `wants`: the weight quantised, the bias in `dtype`."""
        if name == "weight":
            self.weight, self.scale = quantize_rows(value)
        else:
            self.bias = nn.Parameter(value if dtype is None else value.to(dtype), requires_grad=False)

    def dequantized(self) -> Tensor:
        """The weight that the layer applies, `[out, in]` float32."""
        return self.weight.float() * self.scale.unsqueeze(1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` `[..., in]` to `[..., out]`, in the type of `x`."""
        y = F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        return y if self.bias is None else y + self.bias.to(x.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> Int8Linear:
        # A change of type is meant for what is computed with; scales of few bits would spoil whole rows.
        exact = self.scale
        super()._apply(fn, recurse)
        if self.scale.dtype != exact.dtype:
            self.scale = exact.to(self.scale.device)
        return self

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


def quantized(network: Network, quantization: Quantization | None = "int8") -> Network:
    """Put INT8 layers in the place of the linear layers that hold nearly all of a network's weights.

    Args:
        network: A transformer or text encoder, changed in place; on the meta device it is quantised as it is filled.
        quantization: "int8", or None to leave it as it is.

    Returns:
        The network itself.

    Raises:
        ValueError: If the network is of another kind.
    """
    if check_quantization(quantization) is None:
        return network
    kind = type(network).__name__
    if kind not in LAYERS:
        raise ValueError(f"`network` must be one of {', '.join(LAYERS)} to be quantised, got {kind}; leave it as it is")
    for path, module in list(network.named_modules()):
        if isinstance(module, nn.Linear) and LAYERS[kind].fullmatch(path):
            owner, _, last = path.rpartition(".")
            setattr(network.get_submodule(owner), last, Int8Linear.of(module))
    return network


@torch.no_grad()
def stacked(layers: Sequence[nn.Module]) -> nn.Module | None:
    """Layers that read the same input as one layer whose output is theirs side by side.

    The layers' tensors become views of the new layer's, so that no memory is added.

    Args:
        layers: Linear layers, plain or INT8, of one kind, input width and type.

    Returns:
        The layer; `None` if they are not of one kind.
    """
    kind = {type(layer) for layer in layers}
    if kind not in ({nn.Linear}, {Int8Linear}) or len({layer.bias is None for layer in layers}) > 1:
        return None
    names = [name for name in ("weight", "scale", "bias") if getattr(layers[0], name, None) is not None]
    parts = {name: [getattr(layer, name) for layer in layers] for name in names}
    if any(len({(part.dtype, part.device, part.shape[1:]) for part in found}) > 1 for found in parts.values()):
        return None
    first = cast("nn.Linear | Int8Linear", layers[0])
    with torch.device("meta"):
        whole = type(first)(first.in_features, sum(len(layer.weight) for layer in layers), first.bias is not None)
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
    scales = {f"{path}.scale" for path, module in network.named_modules() if isinstance(module, Int8Linear)}
    seen: Mapping[int, Tensor] = {id(t): t for name, t in _tensors(network) if name not in scales}
    plain = sum(t.numel() * (dtype.itemsize if t.is_floating_point() else t.element_size()) for t in seen.values())
    return plain + sum(t.numel() * t.element_size() for name, t in network.named_buffers() if name in scales)


def _tensors(network: nn.Module) -> list[tuple[str, Tensor]]:
    return [*network.named_parameters(), *network.named_buffers()]
