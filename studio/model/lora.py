"""Low-rank adapters: read from every common layout, merged into the weights or live beside them.

An adapter adds `strength * alpha / rank * B @ A` to a linear layer's weight. Merged, it costs nothing while playing and
is there for good; live, it costs two small products a layer and its strength can change between two blocks. After a
change, K/V in the cache are those of the old strength until they leave the window or a recache renews them.

Source: LoRA (Hu et al., 2022, arXiv:2106.09685); names of PEFT, kohya and ComfyUI.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from studio.model.filling import listed
from studio.model.kinds import identify, require
from studio.model.quantize import RowLinear
from studio.model.renames import dit_from_diffusers, plain
from studio.model.sources import Source, open_source

__all__ = [
    "Adapters",
    "Branch",
    "Factors",
    "LoRA",
    "Pair",
    "added",
    "beside",
    "check_targets",
    "load_lora",
    "lora_of",
    "merge",
    "merging",
]

Strengths = Sequence[tuple["LoRA", float]]
# Down `[rank, in]`, up `[out, rank]`, and what their product is multiplied by, a single number on their device.
Factors = tuple[Tensor, Tensor, Tensor]

# Of larger factors as many numbers, evenly spread, enter a fingerprint.
_SAMPLE = 2**12

_DOWN = re.compile(r"(.+)\.(?:lora_A(?:\.[^.]+)?|lora_down|lora\.down)\.weight")
_UP = re.compile(r"(.+)\.(?:lora_B(?:\.[^.]+)?|lora_up|lora\.up)\.weight")
_ALPHA = re.compile(r"(.+)\.alpha")
# In front of a layer's own name, besides what every transformer may carry.
_PREFIXES = ("base_model.model.", "transformer.", "pipe.dit.", "lora_unet__", "lora_unet_")
_UNKNOWN = {
    "lora_magnitude_vector": "DoRA",
    "dora_scale": "DoRA",
    "lokr_": "LoKr",
    "hada_": "LoHa",
    ".diff": "whole differences of weights",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """The two factors for one layer.

    Args:
        down: `[rank, in]`, usually called A.
        up: `[out, rank]`, usually called B.
        scale: Alpha over rank.
    """

    down: Tensor
    up: Tensor
    scale: float

    @property
    def rank(self) -> int:
        """Width between the factors."""
        return self.down.shape[0]

    def delta(self) -> Tensor:
        """What the adapter adds to the weight at strength 1, `[out, in]` float32."""
        return self.scale * (self.up.float() @ self.down.float())


@dataclass(frozen=True, kw_only=True, eq=False)
class LoRA:
    """An adapter.

    Args:
        name: What to call it, the file's stem by default.
        layers: Name of a linear layer to its pair.
    """

    name: str
    layers: Mapping[str, Pair]

    @functools.cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that tell its factors and scales; its name plays no part, those of the layers do."""
        digest = hashlib.sha256()
        for path, pair in sorted(self.layers.items()):
            digest.update(f"{path} {pair.scale!r}".encode())
            for factor in (pair.down, pair.up):
                flat = factor.detach().reshape(-1)
                shown = flat[:: max(1, flat.numel() // _SAMPLE)].contiguous().cpu()
                digest.update(f" {tuple(factor.shape)} {factor.dtype} ".encode())
                digest.update(shown.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:32]


def load_lora(path: Path | str, *, alpha: float | None = None, name: str | None = None) -> LoRA:
    """Read an adapter: PEFT, LongLive's `generator_lora`, kohya, ComfyUI or diffusers names; any rank.

    Args:
        path: A file, or a folder with PEFT's `adapter_model.safetensors` or diffusers'
            `pytorch_lora_weights.safetensors`.
        alpha: Overrides what the file says; None: the file's, else that of `adapter_config.json` beside it, of each
            layer where it tells them apart, else the rank, which makes the scale 1. Positive and finite.
        name: What to call it.

    Returns:
        The adapter, with layers under the transformer's names; kohya's names are resolved by `check_targets`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no LoRA, holds half a pair, pairs that do not fit, an alpha that is no finite number,
            or another kind of adapter.
    """
    path = _file_of(Path(path).expanduser())
    if alpha is not None and not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"`alpha` must be positive and finite, got {alpha}; leave it out for the file's own")
    part = require(identify(open_source(path), lora=True), "lora")
    told = _header(part.source) or _neighbour(path)
    return LoRA(name=name or path.stem, layers=_pairs(part.source, alpha, told))


def lora_of(source: Source, name: str) -> LoRA:
    """Read an adapter whose scale is 1 where its tensors say nothing else.

    Args:
        source: Its tensors under any of the names that `load_lora` knows.
        name: What to call it.

    Raises:
        ValueError: As `load_lora`.
    """
    return LoRA(name=name, layers=_pairs(source, None, _Told()))


def check_targets(lora: LoRA, network: nn.Module) -> LoRA:
    """Match an adapter's layers with a network's.

    Args:
        lora: The adapter.
        network: The transformer, on any device.

    Returns:
        The adapter with exactly the network's names.

    Raises:
        ValueError: Listing layers that the network does not have or that have other sizes.
    """
    linears = {path: module for path, module in network.named_modules() if _is_linear(module)}
    flat = {path.replace(".", "_"): path for path in linears}
    layers, unknown, misshapen = {}, [], []
    for name, pair in lora.layers.items():
        path = name if name in linears else flat.get(name)
        if path is None:
            unknown.append(name)
            continue
        size = (linears[path].out_features, linears[path].in_features)
        if (pair.up.shape[0], pair.down.shape[1]) != size:
            misshapen.append(f"{path} {[pair.up.shape[0], pair.down.shape[1]]} instead of {list(size)}")
        layers[path] = pair
    faults = [fault for fault in (listed("unknown", unknown), listed("misshapen", misshapen)) if fault]
    if faults:
        raise ValueError(
            f"the LoRA {lora.name!r} must fit {type(network).__name__}, got layers {'; '.join(faults)}; is it for "
            "another base model?"
        )
    return LoRA(name=lora.name, layers=layers)


def merging(loras: Strengths, network: nn.Module) -> Callable[[str, Tensor], Tensor]:
    """Make the edit that merges adapters into weights as they are read.

    Args:
        loras: Adapters with their strengths.
        network: Whose weights they are.

    Returns:
        A function of a weight's name and value. A weight that an adapter changes comes back in float32 with all of them
        summed up, whatever its type was; who puts it in its place rounds it, once and to the type that is wanted there.

    Raises:
        ValueError: If an adapter does not fit, or a strength is not finite.
    """
    checked = [(check_targets(lora, network), _strength(weight)) for lora, weight in loras]

    def edit(name: str, value: Tensor) -> Tensor:
        path = name.removesuffix(".weight")
        found = [(lora.layers[path], weight) for lora, weight in checked if name != path and path in lora.layers]
        if not any(weight for _, weight in found):
            return value
        total = value.float()
        for pair, weight in found:
            total = total + weight * _moved(pair, value.device).delta()
        return total

    return edit


@torch.no_grad()
def merge(network: nn.Module, loras: Strengths) -> None:
    """Merge adapters into a network's weights for good.

    Args:
        network: The transformer, changed in place, its linear layers not quantised.
        loras: Adapters with their strengths.

    Raises:
        ValueError: If an adapter does not fit, or a layer is quantised.
    """
    edit = merging(loras, network)
    targets = {path for lora, _ in loras for path in check_targets(lora, network).layers}
    layers = {path: network.get_submodule(path) for path in sorted(targets)}
    stiff = [path for path, layer in layers.items() if not isinstance(layer, nn.Linear)]
    if stiff:
        raise ValueError(
            f"merging needs weights that are not quantised, got {listed('quantised', stiff)}; merge while loading, "
            "or use the adapter live"
        )
    for path, layer in layers.items():
        weight = layer.weight
        assert isinstance(weight, Tensor)
        weight.copy_(edit(f"{path}.weight", weight.detach()))
    _revise(network)


class Adapters:
    """Adapters beside a network's weights: several at once, each with a strength that may change while playing.

    The strengths are tensors on the network's device, so that a change reaches a compiled piece as well. A strength of
    0 leaves the result exactly as it is without the adapter; `remove` also takes its cost away.

    Everything may be called while the network plays in another thread. Each change counts up the network's `revision`,
    by which a rollout sees that a prompt's keys and values are to be computed anew, from its next block on.

    Args:
        network: The transformer.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._strengths: dict[str, float] = {}
        self._on: dict[str, bool] = {}
        self._fingerprints: dict[str, str] = {}
        self._branches: dict[str, list[tuple[nn.Module, Branch]]] = {}

    @property
    def strengths(self) -> dict[str, float]:
        """Name to the strength that is in force, 0 for what is switched off."""
        return {name: value * self._on.get(name, False) for name, value in list(self._strengths.items())}

    @property
    def fingerprints(self) -> dict[str, str]:
        """Name to `LoRA.fingerprint`, by which a log tells two adapters of one name apart."""
        return dict(self._fingerprints)

    def add(self, lora: LoRA, strength: float = 1.0) -> None:
        """Put an adapter beside the weights.

        A compiled network compiles once more when it next runs, which may take a minute, unless adapters of the same
        ranks were on the same layers before.

        Args:
            lora: The adapter.
            strength: What its change is multiplied by; any finite number.

        Raises:
            ValueError: If it does not fit, or there is one of that name.
        """
        if lora.name in self._branches:
            raise ValueError(f"`lora` must have a name of its own, got {lora.name!r} again; give another name")
        strength, lora = _strength(strength), check_targets(lora, self._network)
        layers = ((self._network.get_submodule(path), pair) for path, pair in lora.layers.items())
        # All memory is asked for before the first layer is touched.
        branches = [(layer, Branch(layer, pair, strength)) for layer, pair in layers]
        self._on[lora.name], self._fingerprints[lora.name] = True, lora.fingerprint
        self._strengths[lora.name], self._branches[lora.name] = strength, branches
        for layer, branch in branches:
            branch.attach(layer)
        _revise(self._network)

    def set(self, name: str, strength: float) -> None:
        """Change an adapter's strength, from the next call of the network on; for a prompt's keys and values, from the
        next block on.

        Raises:
            ValueError: If there is no such adapter, or the strength is not finite.
        """
        self._strengths[self._known(name)] = _strength(strength)
        self._apply(name)

    def switch(self, name: str, on: bool) -> None:
        """Switch an adapter on or off; its strength is kept.

        Raises:
            ValueError: If there is no such adapter.
        """
        self._on[self._known(name)] = bool(on)
        self._apply(name)

    def remove(self, name: str) -> None:
        """Take an adapter away.

        Raises:
            ValueError: If there is no such adapter.
        """
        for layer, branch in self._branches.pop(self._known(name)):
            branch.detach(layer)
        del self._strengths[name], self._on[name], self._fingerprints[name]
        _revise(self._network)

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Put strengths and switches back as they were, when this ends, of the adapters that are there by then."""
        strengths, on = dict(self._strengths), dict(self._on)
        try:
            yield
        finally:
            for name in [name for name in self._branches if name in strengths]:
                self._strengths[name], self._on[name] = strengths[name], on[name]
                self._apply(name)

    def _known(self, name: str) -> str:
        if name not in self._branches:
            near = difflib.get_close_matches(str(name), self._branches, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(self._branches) or 'none'}"
            raise ValueError(f"`name` must be an adapter's, got {name!r}; {hint}")
        return name

    def _apply(self, name: str) -> None:
        for _, branch in self._branches[name]:
            branch.set(self._strengths[name] * self._on[name])
        _revise(self._network)


class Branch(nn.Module):
    """One layer's adapter, a hook on the layer.

    It becomes a part of the layer, so that its tensors move with it; they stay out of its state. Its name there is the
    first that is free, so that an adapter in another's place is no other network to a compiler.

    Args:
        layer: The layer.
        pair: The factors.
        strength: What they are multiplied by.
    """

    down: Tensor
    up: Tensor
    strength: Tensor

    def __init__(self, layer: nn.Module, pair: Pair, strength: float) -> None:
        super().__init__()
        weight = layer.weight
        assert isinstance(weight, Tensor)
        # A quantised layer's weight is in a type too small for factors, FP8 included; its bias is in that of the
        # network.
        kept = layer.bias if isinstance(layer, RowLinear) else weight
        dtype = pair.down.dtype if kept is None else kept.dtype
        for part, value in (("down", pair.down), ("up", pair.up)):
            moved = value.detach().to(weight.device, dtype).contiguous()
            self.register_buffer(part, moved, persistent=False)
        self.register_buffer("strength", torch.zeros((), device=weight.device), persistent=False)
        self._scale, self._name = pair.scale, ""
        self._handle: RemovableHandle | None = None
        self.set(strength)

    @property
    def factors(self) -> Factors:
        """What `added` takes."""
        return self.down, self.up, self.strength

    def forward(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The layer's output and what the adapter adds to it: a forward hook.

        Torch takes a list of the hooks before it calls the first, so one that is detached meanwhile is called still.
        """
        return output if self._handle is None else added(output, inputs[0], self.factors)

    def set(self, strength: float) -> None:
        """Change the strength in place."""
        self.strength.fill_(strength * self._scale)

    def attach(self, layer: nn.Module) -> None:
        """Become a part of a layer and be heard with its next call."""
        taken = set(layer._modules)
        self._name = next(name for slot in itertools.count() if (name := f"lora_{slot}") not in taken)
        layer.add_module(self._name, self)
        self._handle = layer.register_forward_hook(self)

    def detach(self, layer: nn.Module) -> None:
        """Leave the layer as it was before."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
            delattr(layer, self._name)


def beside(layer: nn.Module) -> tuple[Factors, ...]:
    """Factors of the adapters that are on a layer now, in the order in which they came."""
    parts = list(layer._modules.values())  # In one go: another thread may change them.
    return tuple(part.factors for part in parts if isinstance(part, Branch))


def added(output: Tensor, x: Tensor, factors: Factors) -> Tensor:
    """A layer's output and what an adapter adds to it.

    Args:
        output: `[..., out]`.
        x: What the layer was given, `[..., in]`.
        factors: The adapter's.

    Returns:
        `[..., out]`.
    """
    down, up, strength = factors
    return output + F.linear(F.linear(x, down.to(x.dtype)), up.to(x.dtype)) * strength.to(x.dtype)


def _revise(network: nn.Module) -> None:
    """Say that what was computed from the weights may be another now; after the change, for who looks meanwhile."""
    setattr(network, "revision", getattr(network, "revision", 0) + 1)  # noqa: B010 - a transformer's


class _Told(NamedTuple):
    alpha: float | None = None
    # Rank-stabilised: the scale is alpha over the root of the rank.
    stabilised: bool = False
    # Pattern of layers' names to their own alpha.
    patterns: Mapping[re.Pattern[str], float] = {}

    def of(self, layer: str) -> float | None:
        """Alpha of a layer."""
        return next((alpha for pattern, alpha in self.patterns.items() if pattern.fullmatch(layer)), self.alpha)


def _pairs(source: Source, alpha: float | None, told: _Told) -> dict[str, Pair]:
    downs: dict[str, Tensor] = {}
    ups: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    strange = []
    for key, value in source.renamed(plain).tensors():
        for pattern, into in ((_DOWN, downs), (_UP, ups)):
            if found := pattern.fullmatch(key):
                into[_layer(found[1])] = value
                break
        else:
            if (found := _ALPHA.fullmatch(key)) and value.numel() == 1:
                alphas[_layer(found[1])] = float(value)
            else:
                strange.append(key)
    _refuse_strange(source, strange)
    halves = sorted(downs.keys() ^ ups.keys())
    if halves:
        raise ValueError(f"{source.path} must hold both factors of each layer, got {listed('half', halves)}")
    found = {name: alphas.get(name, told.of(name)) if alpha is None else alpha for name in downs}
    if bad := [
        f"{value:g} for {name}" for name, value in found.items() if value is not None and not math.isfinite(value)
    ]:
        raise ValueError(
            f"{source.path} must hold a finite alpha of each layer, got {listed('others', bad)}; copy it "
            "anew, or give `alpha` to `load_lora`"
        )
    return {name: _pair(source, name, downs[name], ups[name], found[name], told.stabilised) for name in downs}


def _pair(source: Source, name: str, down: Tensor, up: Tensor, alpha: float | None, stabilised: bool) -> Pair:
    if down.dim() != 2 or up.dim() != 2 or down.shape[0] != up.shape[1]:
        raise ValueError(
            f"{source.path} must hold factors [rank, in] and [out, rank], got {list(down.shape)} and {list(up.shape)} "
            f"for {name}"
        )
    if not (down.isfinite().all() and up.isfinite().all()):
        raise ValueError(f"{source.path} must hold finite numbers, got others in {name}; copy it anew")
    rank = down.shape[0] ** 0.5 if stabilised else down.shape[0]
    return Pair(down=down, up=up, scale=1.0 if alpha is None else alpha / rank)


def _refuse_strange(source: Source, names: Iterable[str]) -> None:
    names = list(names)
    if not names:
        return
    kind = next((kind for mark, kind in _UNKNOWN.items() if any(mark in name for name in names)), None)
    what = f"{kind}: " if kind else ""
    raise ValueError(
        f"{source.path} must hold low-rank pairs only, got {what}{listed('others', names)}; merge it into a checkpoint "
        "with the program that made it"
    )


def _layer(name: str) -> str:
    changed = True
    while changed:
        before = name
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        name = plain(name)
        changed = name != before
    # Only these parts of names are diffusers'; both layouts share all the others.
    if re.search(r"\battn[12]\b|\bffn\.net\b|\bcondition_embedder\b|\bproj_out\b", name):
        return (dit_from_diffusers(f"{name}.weight") or name).removesuffix(".weight")
    return name


def _neighbour(path: Path) -> _Told:
    """What PEFT's configuration beside a file says, if there is one."""
    beside = path.parent / "adapter_config.json"
    return _told(beside, beside.read_text(encoding="utf-8")) if beside.is_file() else _Told()


def _header(source: Source) -> _Told | None:
    """What diffusers writes into the file itself: PEFT's configuration, each key behind the network's name."""
    text = source.header.get("lora_adapter_metadata")
    return None if text is None else _told(source.path, text, "transformer.")


def _told(path: Path, text: str, prefix: str = "") -> _Told:
    try:
        data = {key.removeprefix(prefix): value for key, value in json.loads(text).items()}
        alpha, patterns = data.get("lora_alpha"), data.get("alpha_pattern") or {}
        alphas = {pattern: float(value) for pattern, value in patterns.items()}
        told = _Told(
            None if alpha is None else float(alpha),
            bool(data.get("use_rslora", False)),
            {_pattern(pattern): value for pattern, value in alphas.items()},
        )
        if told.alpha is not None and not math.isfinite(told.alpha):
            raise ValueError(f"`lora_alpha` is {told.alpha:g} and must be finite")
        if bad := [f"{pattern!r} is {value:g}" for pattern, value in alphas.items() if not math.isfinite(value)]:
            raise ValueError(f"`alpha_pattern` must hold finite numbers, but {', '.join(bad)}")
        return told
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} must be PEFT's configuration, got another ({error}); copy it anew") from error


def _pattern(text: str) -> re.Pattern[str]:
    """A pattern of layers' names as PEFT reads it, which looks at the end of a name."""
    name = _layer(re.sub(r"\\(?=\.)", "", text))
    try:
        return re.compile(rf"(?:.*\.)?(?:{name})")
    except re.error as error:
        raise ValueError(f"`alpha_pattern` holds {text!r}, which is no regular expression: {error}") from None


def _file_of(path: Path) -> Path:
    if path.is_dir():
        for name in ("adapter_model.safetensors", "adapter_model.bin", "pytorch_lora_weights.safetensors"):
            if (path / name).is_file():
                return path / name
        raise FileNotFoundError(f"{path} holds no adapter_model.safetensors; name the LoRA's file")
    if not path.is_file():
        raise FileNotFoundError(f"there is no LoRA {str(path)!r}; check the path")
    return path


def _is_linear(module: nn.Module) -> bool:
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def _moved(pair: Pair, device: torch.device) -> Pair:
    return Pair(down=pair.down.to(device), up=pair.up.to(device), scale=pair.scale)


def _strength(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"`strength` must be a finite number, got {value!r}; 1 is as trained, 0 is off")
    return float(value)
