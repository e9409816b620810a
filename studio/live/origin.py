"""What makes a take: versions, device, configuration, a fingerprint of the weights and the adapters beside them."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from studio.config import to_dict
from studio.live.engine import Models
from studio.live.log import LiveAdapter, Origin

SAMPLE = 2**14


def origin_of(models: Models) -> Origin:
    """Describe what makes takes of some networks here and now.

    Args:
        models: the networks.

    Returns:
        The description; equal ones make equal takes of equal logs, bit for bit.
    """
    import studio

    parameter = next(models.dit.parameters())
    return Origin(
        studio=studio.__version__,
        torch=torch.__version__,
        device=_device(parameter.device),
        dtype=str(parameter.dtype).removeprefix("torch."),
        model=models.config.name,
        config=to_dict(models.config),
        weights=fingerprint(models),
        adapters=adapters_of(models),
    )


def adapters_of(models: Models) -> tuple[LiveAdapter, ...]:
    """The adapters beside the weights of some networks, as they are now; those that were merged are in the weights.

    Args:
        models: the networks.
    """
    adapters = getattr(models, "adapters", None)
    if adapters is None:
        return ()
    strengths = adapters.strengths
    known = adapters.fingerprints
    return tuple(LiveAdapter(name=n, factors=known.get(n, ""), strength=s) for n, s in strengths.items())


def seen_again(origin: Origin, models: Models) -> Origin:
    """What makes takes, with the adapters that came since it was described; those that went are in earlier blocks.

    Args:
        origin: as it was described.
        models: the same networks.
    """
    known = {adapter.name: adapter for adapter in (*origin.adapters, *adapters_of(models))}
    return replace(origin, adapters=tuple(known.values()))


def fingerprint(models: Models) -> str:
    """A fingerprint of the weights, quick to take even of large ones.

    Small tensors enter whole; of larger ones, an even sample of 16384 values.

    Args:
        models: the networks.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for part in ("dit", "vae", "text"):
        module = getattr(models, part, None)
        tensors = module.state_dict() if isinstance(module, nn.Module) else {}
        for name, tensor in sorted(tensors.items()):
            if isinstance(tensor, Tensor):
                digest.update(f"{part}.{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(_sample(tensor))
    return digest.hexdigest()[:32]


def _sample(tensor: Tensor) -> bytes:
    flat = tensor.detach().reshape(-1)
    step = max(1, flat.numel() // SAMPLE)
    return flat[::step].contiguous().cpu().view(torch.uint8).numpy().tobytes()


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        version: Any = torch.version.cuda
        return f"{torch.cuda.get_device_name(device)}, CUDA {version}"
    if device.type == "cpu":
        kind = torch.backends.cpu.get_cpu_capability()
        return f"CPU, {platform.machine()} {kind}, {torch.get_num_threads()} threads"
    return device.type
