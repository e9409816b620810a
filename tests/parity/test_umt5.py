"""The text encoder against the reference: raw hidden states and zero-padded prompt embeddings."""

from __future__ import annotations

import pytest
import torch

from studio.config import TextConfig
from studio.model.text import TextEncoder, from_official_keys, to_official_keys
from tests.parity.fixtures import assert_close, load, manifest, variant_params, weights


def encoder_of(info: dict, tensors: dict[str, torch.Tensor]) -> TextEncoder:
    model = info["model"]
    config = TextConfig(
        vocab=model["vocab"],
        dim=model["dim"],
        attn_dim=model["dim_attn"],
        ffn_dim=model["dim_ffn"],
        heads=model["num_heads"],
        layers=model["num_layers"],
        buckets=model["num_buckets"],
    )
    encoder = TextEncoder(config)
    encoder.load_state_dict(from_official_keys(weights(tensors)), strict=True)
    return encoder.eval()


@torch.no_grad()
@pytest.mark.parametrize(("path", "name"), variant_params("umt5"))
def test_embeddings(path, name):
    info, tensors = load(path)
    encoder = encoder_of(info, tensors)
    ids, mask = tensors[f"in.{name}.ids"], tensors[f"in.{name}.mask"]
    raw = encoder.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    assert_close(raw, tensors[f"out.{name}.hidden"], "hidden states")
    assert_close(encoder(ids, mask), tensors[f"out.{name}.prompt_embeds_zero_padded"], "prompt embeddings")


@pytest.mark.parametrize(("path", "name"), variant_params("umt5"))
def test_official_keys_round_trip(path, name):
    _, tensors = load(path)
    official = weights(tensors)
    back = to_official_keys(from_official_keys(official))
    assert set(back) == set(official)
    assert all(torch.equal(back[key], official[key]) for key in official)


def test_full_size_keys_and_shapes_match_the_official_checkpoint():
    listing = manifest()
    if listing is None:
        pytest.skip("no checkpoint_manifest.json; name the fixtures' folder in STUDIO_FIXTURES")
    entry = next((entry for key, entry in listing["models"].items() if "umt5" in key.lower()), None)
    if entry is None:
        pytest.skip("the manifest lists no umt5 encoder")
    with torch.device("meta"):
        encoder = TextEncoder(TextConfig())
    ours = {key: list(value.shape) for key, value in to_official_keys(encoder.state_dict()).items()}
    assert ours == {key: value[0] for key, value in entry["tensors"].items()}


def test_foreign_keys_are_refused():
    with pytest.raises(ValueError, match="not a key of the official umt5"):
        from_official_keys({"blocks.0.attn.x.weight": torch.zeros(1)})
