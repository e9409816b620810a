"""Models of random weights: the sizes of the real ones, finite numbers, the same again for the same seed."""

from __future__ import annotations

import pytest
import torch

import studio
from studio.model.blank import blank_models
from studio.model.memory import dit_parameters
from studio.model.quantize import Int8Linear
from tests.live.doubles import tiny_config


@torch.no_grad()
def test_a_blank_model_plays():
    models = blank_models(tiny_config())
    with studio.open(models, prompt="a red fox") as session:
        session.play()
        frames = next(iter(session.frames()))
    assert frames.std() > 0


def test_weights_are_the_seeds():
    one, same, other = (blank_models(tiny_config(), seed=seed) for seed in (1, 1, 2))
    for a, b in zip(one.dit.state_dict().values(), same.dit.state_dict().values(), strict=True):
        assert torch.equal(a, b) and torch.isfinite(a).all()
    assert not torch.equal(one.dit.patch_embedding.weight, other.dit.patch_embedding.weight)
    assert sum(p.numel() for p in one.dit.parameters()) == dit_parameters(tiny_config().dit)


@torch.no_grad()
def test_statistics_of_latents_survive():
    config = tiny_config()
    vae = blank_models(config, dtype=torch.bfloat16).vae
    assert torch.allclose(vae.std.float().cpu(), torch.tensor(config.vae.std))
    assert next(vae.parameters()).dtype == torch.bfloat16


def test_embeddings_are_the_prompts():
    text = blank_models(tiny_config()).text
    one, same, other = text.encode(["a red fox", "a red fox", "a blue fox"])
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one[4:].abs().max() == 0 < one[3].abs().max()


def test_quantized():
    assert any(isinstance(m, Int8Linear) for m in blank_models(tiny_config(), quantization="int8").dit.modules())
    with pytest.raises(ValueError, match="int3"):
        blank_models(tiny_config(), quantization="int3")
    with pytest.raises(ValueError, match="not a known model"):
        blank_models("wan3")
