"""The bidirectional transformer against the reference: embeddings, every block and the flow."""

from __future__ import annotations

import pytest
import torch

from studio.config import preset
from studio.model.dit import WanDiT
from studio.model.layers import sinusoid
from tests.parity.fixtures import assert_close, case_params, load, manifest
from tests.parity.models import dit_config, dit_of


def padded_text(tensors: dict[str, torch.Tensor], batch: int, text_len: int) -> torch.Tensor:
    rows = [tensors[f"in.context.{i}"] for i in range(batch)]
    return torch.stack([torch.nn.functional.pad(row, (0, 0, 0, text_len - len(row))) for row in rows])


@pytest.mark.parametrize("path", case_params("wan_dit"))
def test_forward(path):
    info, tensors = load(path)
    dit = dit_of(info, tensors)
    x, t = tensors["in.x"], tensors["in.t"]
    text = padded_text(tensors, len(x), dit.config.text_len)
    tokens = {}
    for i, block in enumerate(dit.blocks):
        block.register_forward_hook(lambda _m, _a, out, i=i: tokens.__setitem__(i, out))
    flow = dit(x.transpose(1, 2), t, text).transpose(1, 2)
    for i in tokens:
        assert_close(tokens[i], tensors[f"out.block{i}"], f"block {i}")
    assert_close(flow, tensors["out.flow"], "flow")
    if "out.flow_longer_seq_len" in tensors:
        assert_close(flow, tensors["out.flow_longer_seq_len"], "flow against the padded call")
    assert_close(dit.text_embedding(text), tensors["out.text_embedding"], "text embedding")
    assert_close(dit.time_embedding(sinusoid(t, dit.config.freq_dim)), tensors["out.time_embedding"], "time embedding")
    patches = dit.patch_embedding(x)
    assert_close(patches, tensors["out.patch_embedding"], "patch embedding")
    assert_close(dit._patchify(x.transpose(1, 2)), patches.flatten(2).transpose(1, 2), "patches as a linear map")


@pytest.mark.parametrize("name", ["wan2.1-t2v-1.3b", "wan2.1-t2v-14b"])
def test_full_size_keys_and_shapes_match_the_official_checkpoint(name):
    listing = manifest()
    if listing is None:
        pytest.skip("no checkpoint_manifest.json; name the fixtures' folder in STUDIO_FIXTURES")
    size = name.rsplit("-", 1)[1].upper()
    entry = next((entry for key, entry in listing["models"].items() if size in key.upper()), None)
    if entry is None:
        pytest.skip(f"the manifest lists no {size} model")
    with torch.device("meta"):
        dit = WanDiT(preset(name).dit)
    ours = {key: list(value.shape) for key, value in dit.state_dict().items()}
    assert ours == {key: value[0] for key, value in entry["tensors"].items()}


def test_config_of_a_fixture_is_read_whole():
    model = {"patch_size": [1, 2, 2], "in_dim": 16, "out_dim": 16, "qk_norm": True, "cross_attn_norm": True}
    model |= {"eps": 1e-6, "dim": 128, "num_heads": 2, "num_layers": 2, "ffn_dim": 256, "text_dim": 64}
    model |= {"text_len": 16, "freq_dim": 64}
    assert dit_config(model).head_dim == 64
