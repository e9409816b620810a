"""Weights: models read from and written to folders.

The studio writes safetensors and reads every layout of `studio.model.layouts`. Everything that does not fit is named:
damaged files, files of another kind or with code in them, and tensors that are missing, unexpected, misshapen or not
finite.
"""

from __future__ import annotations

import difflib
import itertools
import json
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from studio.config import ModelConfig, to_dict
from studio.model.backends import Backend, choose, use_backend
from studio.model.dit import WanDiT
from studio.model.embeddings import CachedText, EmbeddingStore, cache_folder, fingerprint
from studio.model.filling import fill, listed, not_floating
from studio.model.kinds import identify
from studio.model.layouts import TOKENIZERS, Layout, find
from studio.model.lora import Adapters, LoRA, load_lora, merging
from studio.model.memory import MemoryMode, mode_named
from studio.model.pickles import is_pickle
from studio.model.places import check_device, check_dtype
from studio.model.quantize import RowLinear, check_quantization, quantized
from studio.model.recipes import RECIPES, adapters_of, base_named, bases, called, recipe_layout
from studio.model.shards import write_shards
from studio.model.sources import open_source
from studio.model.text import (
    BringsCode,
    PieceTokenizer,
    TextEncoder,
    Tokenizer,
    WordTokenizer,
    from_official_name,
    to_official_keys,
)
from studio.model.trained import Found, Trained, find_trained
from studio.model.vae import VideoVAE
from studio.timeline import shorten
from studio.writing import written

__all__ = [
    "Models",
    "folder_of",
    "layout_of",
    "load",
    "load_checked",
    "read",
    "read_text",
    "save",
    "tokenizer_at",
    "write",
]


Named = str | Path | LoRA
Weighed = tuple[Named, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Models:
    """The networks of one model.

    Args:
        config: sizes of everything.
        dit: the diffusion transformer.
        vae: the video VAE.
        text: the text encoder with its tokenizer, or embeddings on disk before it.
        adapters: adapters beside the transformer's weights, to be added, weighed and switched while playing.
    """

    config: ModelConfig
    dit: WanDiT
    vae: VideoVAE
    text: TextEncoder | CachedText
    adapters: Adapters | None = None

    def __repr__(self) -> str:
        networks = {"transformer": self.dit, "VAE": self.vae, "text encoder": self.text}
        sizes = ", ".join(
            f"{name} {sum(one.numel() for one in network.parameters()) / 1e6:,.1f} M"
            for name, network in networks.items()
            if isinstance(network, torch.nn.Module)
        )
        first = next(self.dit.parameters())
        return f"<Models {self.config.name}: {sizes} parameters, {first.dtype}, {first.device}>".replace("torch.", "")

    def to(self, device: torch.device | str) -> Models:
        """The same networks, moved to a device; a text encoder that was put elsewhere stays and sends there."""
        for network in (self.dit, self.vae):
            network.to(device)
        if isinstance(self.text, TextEncoder) and self.text.output is not None:
            self.text.output = torch.device(device)
        else:
            self.text.to(device)
        return self

    def quickened(
        self, backend: Backend | None = None, *, compiled: bool = False, recorded: bool | None = None
    ) -> Models:
        """The same networks, computing attention by a back end, and compiled if asked for.

        Args:
            backend: The back end; None for the one they have.
            compiled: Whether the transformer's blocks and the VAE's decoder are compiled.
            recorded: Whether the transformer's passes are recorded as CUDA graphs; None: if compiled, and on a GPU.
        """
        if backend is not None:
            use_backend(self.dit, backend)
        gpu = next(self.dit.parameters()).device.type == "cuda"
        if compiled or recorded:
            self.dit.fuse(compiled=compiled, recorded=gpu if recorded is None else recorded)
        if compiled:
            self.vae.fuse()
        return self


def load(
    name: str | Path = "miniature",
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
    *,
    quantization: str | None = None,
    loras: Named | Weighed | Sequence[Named | Weighed] | Mapping[Named, float] | None = (),
    merged: bool = True,
    base: str | Path | None = None,
    ema: bool | None = None,
    text_device: torch.device | str | None = None,
    text_quantization: str | None = None,
    text_cache: bool = False,
    mode: str | MemoryMode | None = None,
    attention: str | None = None,
    compiled: bool = False,
    recorded: bool | None = None,
    report: Callable[[str, Tensor], None] | None = None,
) -> Models:
    """Load a model, ready to generate: in evaluation mode and without gradients.

    Tensors are read one at a time; beyond the networks themselves, memory holds one tensor and the open file.

    Args:
        name: Name of a shipped model or of a preset whose files are here, a folder, or a generator's checkpoint.
        device: Where the networks go.
        dtype: Type of the weights in memory, as `torch.bfloat16` or "bfloat16".
        quantization: "int8" or "fp8" for the transformer's linear layers, "fp8-kv" for its KV cache as well; None.
        loras: Files or adapters, one or several, each alone or with its strength, or a mapping of them to their
            strengths, besides those that the model brings.
        merged: Whether adapters go into the weights for good; else they are live, see `Models.adapters`.
        base: Folder or name of a model whose text encoder and VAE are taken; None: the model's own, or for a checkpoint
            that has none, those found beside it, in STUDIO_MODELS or in the hub's cache.
        ema: Averaged weights or plain ones, where a checkpoint has both; None: plain ones first.
        text_device: Where the text encoder computes; its embeddings are sent to `device`. None: `device`.
        text_quantization: "int8" or "fp8" for the text encoder's linear layers; None for none.
        text_cache: Whether prompt embeddings are kept on disk; the text encoder is then loaded for new prompts only
            and let go after them.
        mode: Memory mode, a name of `studio.model.memory.MODES` or "auto" for what fits the card; what is named
            besides goes before it. None: everything on the device as it is.
        attention: Back end of attention, one of `studio.model.backends.BACKENDS`; None: the best that serves here.
        compiled: Whether the blocks and the decoder are compiled, which takes a minute when they first run and makes
            each block of a large model faster. They are compiled for what is loaded: no moving afterwards.
        recorded: Whether passes that come by again are replayed as CUDA graphs; None: if compiled, and on a GPU.
        report: Called after each tensor with its name and the value as it was read, for progress.

    Returns:
        The networks.

    Raises:
        FileNotFoundError: If there is no such model, or one of its files is missing.
        ValueError: If a file is damaged, of another kind, holds code, or does not fit; or if an option makes no sense
            here, as an attention back end that cannot serve.
    """
    check_quantization(quantization)
    check_quantization(text_quantization)
    device, dtype = check_device(device), check_dtype(dtype) or torch.float32
    layout, own = layout_of(name, base=base, ema=ema)
    backend = choose(attention, device, dtype, layout.config.dit.head_dim)
    fitted = mode_named(mode, layout.config, _card_bytes(device))
    if fitted is not None:
        options = fitted.options()
        quantization = quantization or options.get("quantization")
        text_device = text_device or options.get("text_device")
        text_quantization = text_quantization or options.get("text_quantization")
        layout = replace(layout, config=fitted.applied(layout.config))
    strengths = _told_apart([_with_strength(lora) for lora in (*own, *_several(loras))])
    with torch.device("meta"):
        dit, vae = WanDiT(layout.config.dit), VideoVAE(layout.config.vae)
    tokenizer = tokenizer_at(layout.tokenizer)
    edit = merging(strengths, dit) if strengths and merged else None
    quantized(dit, check_quantization(quantization))
    fill(dit, layout.dit, device=device, dtype=dtype, edit=edit, report=report)
    fill(vae.with_statistics(), layout.vae, device=device, dtype=dtype, report=report)
    vae.frames_at_once = None if fitted is None else fitted.vae_frames

    def encoder() -> TextEncoder:
        where = text_device or device
        text = read_text(layout, tokenizer, where, dtype, quantization=text_quantization, report=report)
        text.output = None if text_device is None else torch.device(device)
        return text

    text = _cached(layout, tokenizer, encoder, device, dtype, text_quantization) if text_cache else encoder()
    adapters = Adapters(dit)
    for lora, strength in () if merged else strengths:
        adapters.add(lora, strength)
    models = Models(config=layout.config, dit=dit, vae=vae, text=text, adapters=adapters)
    return models.quickened(backend, compiled=compiled, recorded=recorded)


def _card_bytes(device: torch.device | str) -> int | None:
    device = torch.device(device)
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def read_text(
    layout: Layout,
    tokenizer: Tokenizer,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    quantization: str | None = None,
    report: Callable[[str, Tensor], None] | None = None,
) -> TextEncoder:
    """Load the text encoder alone.

    Args:
        layout: Where it is.
        tokenizer: Its tokenizer.
        device: Where it goes.
        dtype: Type of its weights in memory.
        quantization: "int8", "fp8", or None for none.
        report: As for `load`.

    Raises:
        ValueError: If its file is damaged or does not fit.
    """
    with torch.device("meta"):
        text = TextEncoder(layout.config.text, tokenizer)
    quantized(text, check_quantization(quantization))
    return fill(text, layout.text.renamed(from_official_name), device=device, dtype=dtype, report=report)


def layout_of(name: str | Path, *, base: str | Path | None = None, ema: bool | None = None) -> Found:
    """Find a model on disk.

    Args:
        name: As for `load`.
        base: As for `load`.
        ema: As for `load`.

    Returns:
        (where its networks are; the adapters that belong to it, with their strengths).

    Raises:
        FileNotFoundError: If there is no such model, naming what there is.
        ValueError: If a file is of another kind or damaged.
    """
    path, base = _existing(name), _base_folder(base)
    if path is None or (path.is_dir() and not (path / "config.json").exists()):
        if str(name) in RECIPES:
            return recipe_layout(str(name), ema=ema, base=base)
        if path is None or str(name) in {folder.name for folder in _shipped()}:
            path = folder_of(name)
    run = find_trained(path)
    if isinstance(run, Trained):
        return run.open(layout_of, base=base, ema=ema)
    layout = find(run or path, base=base, ema=ema, elsewhere=bases, called=called)
    return layout, adapters_of(path, layout.dit.path)


def save(models: Models, folder: str | Path, dtype: torch.dtype = torch.float16) -> list[Path]:
    """Write a model's folder; files beyond 15 MB are split.

    Args:
        models: the networks.
        folder: where to; made if it is missing.
        dtype: type of the weights in the files.

    Returns:
        The files written.

    Raises:
        ValueError: If weights are quantised, the text encoder is not in memory or has no tokenizer, or if adapters are
            beside the weights and not in them.
        FileNotFoundError: If the tokenizer's own folder is gone.
    """
    tokenizer = _require_whole(models)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    states = {
        "dit": models.dit.state_dict(),
        "vae": models.vae.state_dict(),
        # The official names hold the embedding once; the module's own ones name it twice.
        "text": to_official_keys(cast(TextEncoder, models.text).state_dict()),
    }
    files = []
    for kind, state in states.items():
        stored = {key: _stored(value, dtype) for key, value in state.items()}
        files += write_shards(folder, kind, stored, metadata={"kind": kind})
    files.append(_write_text(folder / "config.json", json.dumps(to_dict(models.config), indent=1) + "\n"))
    return files + _write_tokenizer(tokenizer, folder)


def _write_tokenizer(tokenizer: WordTokenizer | PieceTokenizer, folder: Path) -> list[Path]:
    """Write it where `studio.model.layouts` looks for it first."""
    words = folder / "tokenizer.json"
    if isinstance(tokenizer, PieceTokenizer):
        there = [folder / name for name in TOKENIZERS if (folder / name).is_dir()]
        copied = tokenizer.save(there[0] if there else folder / TOKENIZERS[-1])
        words.unlink(missing_ok=True)
        return copied
    with written(words) as aside:
        tokenizer.save(aside)
    return [words]


def folder_of(name: str | Path) -> Path:
    """The folder of a shipped model, the given folder, or the whole model that a run of a training wrote into it.

    Args:
        name: name of a shipped model, or a path.

    Returns:
        An existing folder.

    Raises:
        FileNotFoundError: if there is none, naming what there is.
        ValueError: if the path is a file.
    """
    path = _existing(name)
    there = path is not None
    if path is not None and path.is_file():
        raise ValueError(f"`name` must be a model's name or folder, got the file {path}; name the folder it lies in")
    if path is not None and (path / "config.json").exists():
        written = find_trained(path)
        return written if isinstance(written, Path) else path
    shipped = {folder.name: folder for folder in _shipped()}
    if str(name) in shipped:
        return shipped[str(name)]
    if there and str(name):
        raise FileNotFoundError(f"`name` must be a model's folder, got {path}, which has no config.json")
    known = ", ".join(sorted(shipped)) or "none"
    near = difflib.get_close_matches(str(name), [*shipped, *RECIPES], n=1)
    hint = f"did you mean {near[0]!r}?" if near else "use one of those or a folder"
    raise FileNotFoundError(
        f"`name` must be a shipped model ({known}), one to download ({', '.join(RECIPES)}) or a folder, "
        f"got {str(name)[:200]!r}; {hint}"
    )


def write(
    path: Path, tensors: Mapping[str, Tensor], *, kind: str, config: Mapping[str, Any], dtype: torch.dtype | None = None
) -> None:
    """Write one safetensors file aside and rename it, with its kind and configuration in the header.

    Args:
        path: the file.
        tensors: a state dict.
        kind: what it holds: "dit", "vae", "text" or "probe".
        config: the JSON-ready configuration that the tensors belong to.
        dtype: type of the floating-point tensors in the file; None leaves them.
    """
    stored = {key: _stored(value, dtype) for key, value in tensors.items()}
    with written(path) as aside:
        save_file(stored, aside, metadata={"format": "pt", "kind": kind, "config": json.dumps(dict(config))})


def read(path: Path | str, *, kind: str | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read one safetensors file.

    Args:
        path: the file.
        kind: what it must hold: "dit", "vae", "text" or "probe"; None: anything.

    Returns:
        (configuration out of the header, empty where it has none; state dict on the CPU).

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is a pickle, damaged, or holds something else.
    """
    path = Path(path)
    if path.is_file() and is_pickle(path):
        raise ValueError(
            f"{path} must be a safetensors file, got a pickle, which can run code when it is read; convert it where "
            "you trust it: safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'FILE.safetensors')"
        )
    source = open_source(path)
    found = source.header.get("kind") or identify(source).kind
    if kind is not None and found not in (kind, "other"):
        raise ValueError(f"{path} must hold {kind!r} weights, got {found!r}; name another file")
    return json.loads(source.header.get("config", "{}")), dict(source.tensors())


def load_checked(network: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Put tensors into a network after checking that they fit; a network on the meta device takes them over.

    Args:
        network: the network, changed in place.
        state: the tensors under the network's names.
        source: where they come from, for the message.

    Raises:
        ValueError: naming the tensors that are missing, unexpected, misshapen, of the wrong type or not finite.
    """
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    shared = expected.keys() & state.keys()
    integers = {key for key, value in network.state_dict().items() if not value.is_floating_point()}
    misshapen = [
        f"{key} {list(state[key].shape)} instead of {list(expected[key])}"
        for key in sorted(shared)
        if tuple(state[key].shape) != expected[key]
    ]
    faults = [
        listed("missing", sorted(expected.keys() - state.keys())),
        listed("unexpected", sorted(state.keys() - expected.keys())),
        listed("misshapen", misshapen),
        listed("of the wrong type", not_floating({key: state[key].dtype for key in sorted(shared - integers)})),
        listed("not finite", [key for key in sorted(shared) if not _finite(state[key])]),
    ]
    if any(faults):
        what = "; ".join(fault for fault in faults if fault)
        fit = f"{source} must fit the configuration of {type(network).__name__}"
        raise ValueError(f"{fit}, got {what}; use matching files")
    on_meta = any(parameter.is_meta for parameter in network.parameters())
    network.load_state_dict(dict(state), strict=True, assign=on_meta)


def tokenizer_at(path: Path) -> Tokenizer:
    """Read a tokenizer.

    Args:
        path: The studio's `tokenizer.json`, or the folder of a sentencepiece tokenizer.

    Raises:
        ValueError: If it is none, or names code of its own.
    """
    make: Callable[[Path], Tokenizer] = PieceTokenizer if path.is_dir() else WordTokenizer.load
    try:
        return make(path)
    except BringsCode:
        raise
    except Exception as error:  # The tokenizer library raises plain exceptions of its own.
        what = "a tokenizer's folder" if path.is_dir() else "a tokenizer"
        raise ValueError(f"{path} must be {what}, got something else ({error}); copy it anew") from error


def _require_whole(models: Models) -> WordTokenizer | PieceTokenizer:
    """The tokenizer of a model that can be saved."""
    if isinstance(models.text, CachedText):
        raise ValueError(
            "`models` must hold its text encoder to be saved, got embeddings on disk; load it without them"
        )
    for network in (models.dit, models.text):
        if any(isinstance(module, RowLinear) for module in network.modules()):
            what = type(network).__name__
            raise ValueError(
                f"`models` must hold exact weights to be saved, got quantised ones in {what}; load it as it is"
            )
    beside = [] if models.adapters is None else list(models.adapters.strengths)
    if beside:
        raise ValueError(
            f"`models` must hold its adapters in its weights to be saved, got {', '.join(beside)} beside them; load it "
            "with merged=True, or take them away by `models.adapters.remove(NAME)`"
        )
    tokenizer = models.text.tokenizer
    if not isinstance(tokenizer, (WordTokenizer, PieceTokenizer)):
        what = "none" if tokenizer is None else type(tokenizer).__name__
        raise ValueError(
            f"`models` must have a tokenizer of the studio's to be saved, got {what}; without one the folder could not "
            "be opened"
        )
    if isinstance(tokenizer, PieceTokenizer):
        tokenizer.require_files()
    return tokenizer


def _cached(
    layout: Layout,
    tokenizer: Tokenizer,
    encoder: Callable[[], TextEncoder],
    device: torch.device | str,
    dtype: torch.dtype,
    quantization: str | None,
) -> CachedText:
    key = fingerprint(layout.config.text, layout.text, layout.tokenizer, f"{dtype} {quantization}")
    store = EmbeddingStore(cache_folder() / "prompts", key)
    return CachedText(layout.config.text, tokenizer, store, encoder, device=device, dtype=dtype)


def _several(loras: Any) -> list[Named | Weighed]:
    """One adapter, alone or with its strength, as a list of one; a mapping as pairs, and None as nothing."""
    if loras is None:
        return []
    if isinstance(loras, Mapping):
        return list(loras.items())
    if isinstance(loras, (str, Path, LoRA)) or _is_weighed(loras):
        return [cast(Weighed, loras)]
    if not isinstance(loras, Iterable):
        raise _no_adapters(loras)
    return list(loras)


def _is_weighed(lora: Any) -> bool:
    """Whether it is an adapter with its strength."""
    return (
        isinstance(lora, (tuple, list))
        and len(lora) == 2
        and isinstance(lora[0], (str, Path, LoRA))
        and isinstance(lora[1], numbers.Real)
    )


def _no_adapters(given: Any) -> ValueError:
    return ValueError(
        "`loras` must be files or adapters, each alone or with its strength as ('style.safetensors', 0.5), got "
        f"{shorten(given)}; None is none"
    )


def _with_strength(lora: Named | Weighed) -> tuple[LoRA, float]:
    if not (isinstance(lora, (str, Path, LoRA)) or _is_weighed(lora)):
        raise _no_adapters(lora)
    what, strength = (lora, 1.0) if isinstance(lora, (str, Path, LoRA)) else lora
    # A number of NumPy is as good as Python's own; True is none.
    strength = strength if isinstance(strength, bool) else float(strength)
    return (what if isinstance(what, LoRA) else load_lora(what)), strength


def _told_apart(strengths: list[tuple[LoRA, float]]) -> list[tuple[LoRA, float]]:
    """Files of one name in several folders are numbered, past the names that others have of their own."""
    own = {lora.name for lora, _ in strengths}
    apart: dict[str, tuple[LoRA, float]] = {}
    for lora, strength in strengths:
        numbered = (f"{lora.name}-{number}" for number in itertools.count(2))
        free = (name for name in numbered if name not in own and name not in apart)
        name = lora.name if lora.name not in apart else next(free)
        apart[name] = (replace(lora, name=name), strength)
    return list(apart.values())


def _existing(name: str | Path) -> Path | None:
    try:
        path = Path(name).expanduser()
        return path if str(name) and path.exists() else None
    except (OSError, ValueError, RuntimeError):  # A name no file system takes: too long, or with a NUL in it.
        return None


def _base_folder(base: str | Path | None) -> Path | None:
    """The folder of a base, by its path or by the name of a model that has one."""
    if base is None or _existing(base) is not None:
        return base if base is None else _existing(base)
    return base_named(str(base)) if str(base) in RECIPES else folder_of(base)


def _shipped() -> Iterable[Path]:
    # In a wheel the models lie inside the package, in a checkout beside it.
    inside = Path(str(resources.files("studio"))) / "assets"
    beside = Path(__file__).resolve().parents[2] / "assets"
    seen = set()
    for root in (inside, beside):
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            if (folder / "config.json").exists() and folder.name not in seen:
                seen.add(folder.name)
                yield folder


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(value.isfinite().all())


def _stored(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    kind = dtype if dtype is not None and value.is_floating_point() else value.dtype
    return value.detach().to("cpu", kind).contiguous()


def _write_text(path: Path, text: str) -> Path:
    with written(path) as aside:
        aside.write_text(text, encoding="utf-8")
    return path
