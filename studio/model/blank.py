"""Models of random weights at any size: speed and memory can be measured where the real weights are not.

Pictures of such a model are noise; its arithmetic, its memory and its timing are those of the real one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from studio.config import ModelConfig, preset
from studio.model.dit import WanDiT
from studio.model.lora import Adapters
from studio.model.quantize import check_quantization, quantized
from studio.model.vae import VideoVAE
from studio.model.weights import Models

__all__ = ["BlankText", "blank_models"]

_SPREAD = 0.02


class BlankText(nn.Module):
    """Embeddings drawn by the prompt's letters, in place of a text encoder that would only fill memory.

    Args:
        config: Sizes of the embeddings; rows after the prompt's last word are zero, as a real encoder leaves them.
        device: Where embeddings go.
        dtype: Their type.
    """

    def __init__(self, config: ModelConfig, device: torch.device | str, dtype: torch.dtype) -> None:
        super().__init__()
        self.length, self.width = config.dit.text_len, config.dit.text_dim
        self.device, self.dtype = torch.device(device), dtype

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings `[B, text_len, text_dim]`, the same for the same prompt."""
        return torch.stack([self._one(prompt) for prompt in prompts]).to(self.device, self.dtype)

    def unknown_words(self, text: str) -> list[str]:
        """None: every word is as good as another."""
        return []

    def _one(self, prompt: str) -> Tensor:
        seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:7], "big")
        drawn = torch.randn(self.length, self.width, generator=torch.Generator().manual_seed(seed))
        drawn[len(prompt.split()) + 1 :] = 0
        return drawn


@torch.no_grad()
def blank_models(
    model: str | ModelConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    quantization: str | None = None,
    seed: int = 0,
) -> Models:
    """Make the networks of a model with random weights, straight on the device and in their type.

    Args:
        model: Name of a preset, or a configuration.
        device: Where the networks go.
        dtype: Type of their weights.
        quantization: As for `studio.load`.
        seed: Seed of the weights.

    Returns:
        The networks; their text encoder is a `BlankText`.

    Raises:
        ValueError: If there is no such preset or quantization.
    """
    config = preset(model) if isinstance(model, str) else model
    quantization = check_quantization(quantization)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.device("meta"):
        dit, vae = WanDiT(config.dit), VideoVAE(config.vae)
    for network in (dit, vae):
        network.to(dtype).to_empty(device=device)
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim == 1 or name.endswith("gamma"):
                parameter.fill_(1.0)  # the gain of a norm
            else:
                parameter.normal_(0, _SPREAD, generator=generator)
    vae.with_statistics().to(device)
    quantized(dit, quantization)
    for network in (dit, vae):
        network.eval().requires_grad_(False)
    text = BlankText(config, device, dtype)
    return Models(config=config, dit=dit, vae=vae, text=text, adapters=Adapters(dit))  # type: ignore[arg-type]
