"""What makes a model quick: chosen when it is loaded, the same numbers, nothing in silence."""

from __future__ import annotations

import pytest
import torch

from studio.model.vae import VideoVAE
from studio.model.weights import load, save
from tests.model.tiny import tiny_models


@pytest.fixture
def captured(monkeypatch):
    """`torch.compile` captures whole graphs and leaves them as they are, so that no compiler is needed."""
    made = []
    real = torch.compile

    def capture(function, **options):
        assert options["fullgraph"]
        assert options["dynamic"] is False

        def backend(graph, inputs):
            made.append(function)
            return graph.forward

        return real(function, **options, backend=backend)

    monkeypatch.setattr(torch, "compile", capture)
    torch._dynamo.reset()
    yield made
    torch._dynamo.reset()


def test_a_compiled_decoder_decodes_the_same_stream(captured):
    vae = tiny_models().vae.eval().requires_grad_(False)
    quick = VideoVAE(vae.config).eval().requires_grad_(False)
    quick.load_state_dict(vae.state_dict())
    quick.fuse()
    latents = torch.randn(1, 12, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    one, other = vae.stream(), quick.stream()
    with torch.no_grad():
        for number, chunk in enumerate(latents.split(3, dim=1)):
            cut = number == 2
            torch.testing.assert_close(quick.decode(chunk, other, cut=cut), vae.decode(chunk, one, cut=cut))
        assert torch.equal(quick.decode(latents), vae.decode(latents))
    # One graph, however many chunks: what the stream remembers is no reason for another.
    assert len(captured) == 1


def test_a_model_is_quick_when_it_was_asked_for(tmp_path, captured):
    save(tiny_models(), tmp_path)
    plain, quick = load(tmp_path), load(tmp_path, compiled=True, attention="pytorch")
    assert plain.dit.fused is None
    assert plain.vae.compiled is None
    assert quick.dit.fused is not None
    assert quick.vae.compiled is not None
    assert quick.dit.backend.name == plain.dit.backend.name == "pytorch"


@pytest.mark.parametrize("name", ["flash3", "cudnn", "fastest"])
def test_an_attention_back_end_that_cannot_serve_is_an_error_before_anything_is_read(tmp_path, name):
    save(tiny_models(), tmp_path)
    (tmp_path / "vae.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="attention"):
        load(tmp_path, attention=name)
