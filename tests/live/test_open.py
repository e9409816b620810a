"""Opening a session: which networks, in which type and mode, and what is refused before anything is loaded."""

from __future__ import annotations

import pytest
import torch

import studio
from studio.config import preset
from studio.model.memory import MODES, mode_named
from studio.model.quantize import Int8Linear
from studio.model.weights import load, save
from tests.model.tiny import tiny_models


@pytest.fixture
def folder(tmp_path):
    save(tiny_models(), tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_folder_opens_in_the_type_and_quantization_asked_for(folder):
    with studio.open(folder, prompt="a red fox", device="cpu", dtype="bfloat16", quantization="int8") as session:
        dit = session.models.dit
        assert any(isinstance(module, Int8Linear) for module in dit.modules())
        assert dit.patch_embedding.weight.dtype == torch.bfloat16
        session.play()
        frames = next(iter(session.frames()))
        assert frames.shape[1:] == (16, 16, 3) and frames.dtype.name == "uint8"


def test_the_type_is_the_devices_own(folder):
    with studio.open(folder, prompt="a red fox", device="cpu") as session:
        assert session.models.dit.patch_embedding.weight.dtype == torch.float32
    with pytest.raises(RuntimeError, match="closed"):
        _ = session.models


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, '`dtype` must be "float32"'),
        ({"dtype": torch.int64}, "`dtype` must be"),
        ({"dtype": "softmax"}, "`dtype` must be"),
        ({"speed": "fast"}, "`speed` is no option of a model"),
        ({"mode": "6 GB"}, '`mode` must be "auto" or one of 80 GB'),
        ({"quantization": "int3"}, "int3"),
    ],
)
def test_options_that_make_no_sense(folder, options, message):
    with pytest.raises(ValueError, match=message):
        studio.open(folder, prompt="a red fox", device="cpu", **options)


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"quantization": "int8"}])
def test_networks_that_are_loaded_stay_as_they_are(options):
    with pytest.raises(ValueError, match=r"give it to `studio\.load`"):
        studio.open(tiny_models(), prompt="a red fox", **options)


def test_a_mode_reaches_the_networks(folder):
    models = load(folder, mode="8 GB")
    assert any(isinstance(module, Int8Linear) for module in models.dit.modules())
    assert models.vae.frames_at_once == 1
    assert models.config.cache.window == min(tiny_models().config.cache.window or 3, 3)
    plain = load(folder)
    assert plain.vae.frames_at_once is None and plain.config == tiny_models().config


@torch.no_grad()
@pytest.mark.parametrize("at_once", [1, 2])
def test_decoding_in_pieces_gives_the_same_pictures(at_once):
    vae = tiny_models().vae.eval()
    latents = torch.randn(1, 6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    stream, pieces = vae.stream(), vae.stream()
    whole = [vae.decode(part, stream) for part in latents.split(3, dim=1)]
    vae.frames_at_once = at_once
    parts = [vae.decode(part, pieces) for part in latents.split(3, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), torch.cat(whole, 1), atol=1e-5, rtol=1e-4)
    assert stream.decoded == pieces.decoded == 6


def test_auto_is_what_fits_the_card():
    config = preset("longlive-1.3b")
    assert mode_named("auto", config, None) is None
    assert mode_named(None, config, 80 * 2**30) is None
    assert mode_named(MODES[1], config, None) is MODES[1]
    chosen = [mode_named("auto", config, gib * 2**30) for gib in (80, 24, 12, 8)]
    assert chosen == list(MODES)
    with pytest.raises(ValueError, match="thriftiest mode"):
        mode_named("auto", config, 2 * 2**30)
