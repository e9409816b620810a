"""What makes a model quick: chosen when it is loaded, the same numbers, nothing in silence."""

from __future__ import annotations

import pytest
import torch

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


def test_a_model_is_quick_when_it_was_asked_for(tmp_path, captured):
    save(tiny_models(), tmp_path)
    plain, quick = load(tmp_path), load(tmp_path, compiled=True, attention="pytorch")
    assert plain.dit.fused is None
    assert plain.vae.quick is None
    assert quick.dit.fused is not None
    assert quick.vae.quick is not None
    assert quick.dit.backend.name == plain.dit.backend.name == "pytorch"


@pytest.mark.parametrize("name", ["flash3", "cudnn", "fastest"])
def test_an_attention_back_end_that_cannot_serve_is_an_error_before_anything_is_read(tmp_path, name):
    save(tiny_models(), tmp_path)
    (tmp_path / "vae.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="attention"):
        load(tmp_path, attention=name)
