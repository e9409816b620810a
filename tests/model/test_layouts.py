"""Every layout that checkpoints come in, and everything that can be wrong with one."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from studio.config import PRESETS, DiTConfig
from studio.model.layouts import find
from studio.model.text import to_official_keys
from studio.model.weights import load, save
from tests.model import official
from tests.model.official import DIT, dit_state, lora_state, text_state, vae_state, wrapped
from tests.model.tiny import tiny_models


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("layouts")
    official.write_official(root / "official")
    official.write_official(root / "shards", shards=True)
    official.write_diffusers(root / "diffusers")
    official.write_base(root / "Wan2.1-T2V-1.3B")
    return root


@pytest.fixture
def folder(folders, tmp_path) -> Path:
    return Path(shutil.copytree(folders / "official", tmp_path / "official"))


@pytest.fixture
def near(folders, tmp_path) -> Path:
    """A folder with a base beside it, to put a generator into."""
    shutil.copytree(folders / "Wan2.1-T2V-1.3B", tmp_path / "Wan2.1-T2V-1.3B")
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def same(models, state=None) -> None:
    expected = {"dit": state or dit_state(), "vae": vae_state(), "text": text_state()}
    for name, tensors in expected.items():
        ours = getattr(models, name).state_dict()
        assert ours.keys() == tensors.keys()
        assert all(torch.equal(ours[key], tensors[key]) for key in tensors), name


# What opens


@pytest.mark.parametrize("name", ["official", "shards", "diffusers"])
def test_a_folder_of_each_layout(folders, name):
    models = load(folders / name)
    same(models)
    assert models.config.dit == DIT
    assert not models.config.causal
    assert models.config.name == name
    if name == "shards":
        assert len(list((folders / name).glob("diffusion_pytorch_model-*"))) > 1


def test_what_was_opened_runs(folders):
    models = load(folders / "diffusers")
    text = models.text.encode(["a red fox", "fox"])
    assert text.shape == (2, 512, 16)
    assert text[1, 2:].abs().max() == 0
    flow = models.dit(torch.zeros(1, 2, 16, 4, 4), torch.tensor([500.0]), text[:1])
    assert flow.shape == (1, 2, 16, 4, 4)
    assert torch.isfinite(flow).all()
    assert models.vae.decode(torch.zeros(1, 2, 16, 2, 2)).shape == (1, 3, 3, 4, 4)


def test_the_latents_statistics_of_a_configuration_count(folders):
    models = load(folders / "diffusers")
    assert models.config.vae.mean == (0.25,) * 16
    assert torch.equal(models.vae.std, torch.full((16,), 1.5))
    assert load(folders / "official").config.vae.mean == PRESETS["wan2.1-t2v-1.3b"].vae.mean


def test_safetensors_come_before_pickles(folder):
    other = {key: value + 1 for key, value in vae_state().items()}
    save_file(other, folder / "Wan2.1_VAE.safetensors")
    assert torch.equal(load(folder).vae.conv1.bias, other["conv1.bias"])


@pytest.mark.parametrize("container", ["generator", "generator_ema", "model"])
@pytest.mark.parametrize("prefix", ["model.", "model._fsdp_wrapped_module.", "_orig_mod.model.", "module.model.", ""])
def test_a_generator_in_its_wrappers(near, container, prefix):
    torch.save({container: OrderedDict(wrapped(dit_state(), prefix))}, near / "g.pt")
    models = load(near / "g.pt")
    same(models)
    assert models.config.causal
    assert find(near / "g.pt").container == container
    same(load(near))


def test_a_wrapper_within_the_names(near):
    state = {name.replace("blocks.0.", "blocks.0._fsdp_wrapped_module."): v for name, v in dit_state().items()}
    torch.save({"generator": wrapped(state)}, near / "g.pt")
    same(load(near / "g.pt"))


def test_a_whole_training_checkpoint(near):
    generator, averaged, critic = dit_state(seed=3), dit_state(seed=4), dit_state(seed=5)
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-5}]}
    whole = {"generator": wrapped(generator), "generator_ema": wrapped(averaged), "critic": wrapped(critic), "step": 7}
    torch.save({**whole, "generator_optimizer": optimizer}, near / "model.pt")
    same(load(near / "model.pt"), generator)
    same(load(near / "model.pt", ema=False), generator)
    same(load(near / "model.pt", ema=True), averaged)


def test_a_flat_file_and_converted_ones(near):
    torch.save(dit_state(), near / "flat.pth")
    same(load(near / "flat.pth"))
    save_file(wrapped(dit_state(), "model.diffusion_model."), near / "flat.safetensors")
    same(load(near / "flat.safetensors"))


def test_the_base_by_its_name(folders, tmp_path):
    torch.save({"generator": wrapped(dit_state())}, tmp_path / "g.pt")
    with pytest.raises(FileNotFoundError, match=r"the transformer only; put the Wan2\.1 folder beside it"):
        load(tmp_path / "g.pt")
    same(load(tmp_path / "g.pt", base=folders / "official"))
    same(load(tmp_path / "g.pt", base=folders / "diffusers"))


def test_what_a_trainer_left_out_comes_from_the_base(tmp_path):
    save(tiny_models(), tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "trained")
    (tmp_path / "trained" / "vae.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"vae\.safetensors is missing"):
        load(tmp_path / "trained")
    assert load(tmp_path / "trained", base=tmp_path / "whole").config.name == "tiny"


def test_sizes_are_read_off_the_shapes(tmp_path):
    config = dataclasses.replace(DIT, layers=3, ffn_dim=96, heads=2)
    base = official.write_base(tmp_path / "Wan2.1-T2V-1.3B")
    save_file(dit_state(config), base / "diffusion_pytorch_model.safetensors")
    (base / "config.json").write_text(json.dumps({"num_heads": 2, "_class_name": "CausalWanModel"}))
    models = load(base)
    assert models.config.dit == config
    assert models.config.causal


def test_a_preset_out_of_folders(folders, tmp_path, monkeypatch):
    for name, causal in (("longlive-1.3b", True), ("wan2.1-t2v-1.3b", False)):
        tiny = dataclasses.replace(
            PRESETS[name], dit=DIT, text=dataclasses.replace(official.TEXT), vae=official.VAE, causal=causal
        )
        monkeypatch.setitem(PRESETS, name, tiny)
    monkeypatch.setenv("STUDIO_MODELS", f"{tmp_path / 'nothing'}:{tmp_path}")
    with pytest.raises(FileNotFoundError) as error:
        load("longlive-1.3b")
    for part in ("models/longlive_base.pt", "models/lora.pt", "studio download longlive-1.3b", "Wan2.1_VAE.pth"):
        assert part in str(error.value)
    base = Path(shutil.copytree(folders / "official", tmp_path / "Wan2.1-T2V-1.3B"))
    for name in ("special_tokens_map.json", "spiece.model"):
        (base / "google" / "umt5-xxl" / name).write_text("{}")
    (tmp_path / "LongLive-1.3B" / "models").mkdir(parents=True)
    torch.save({"generator": wrapped(dit_state())}, tmp_path / "LongLive-1.3B" / "models" / "longlive_base.pt")
    torch.save({"generator_lora": lora_state(), "step": 3}, tmp_path / "LongLive-1.3B" / "models" / "lora.pt")
    merged, live = load("longlive-1.3b"), load("longlive-1.3b", merged=False)
    assert merged.config.name == "longlive-1.3b"
    assert live.adapters is not None
    assert live.adapters.strengths == {"lora": 1.0}
    same(live)
    key = "blocks.1.ffn.2.weight"
    factors = [lora_state()[f"base_model.model.blocks.1.ffn.2.lora_{x}.weight"] for x in "BA"]
    torch.testing.assert_close(merged.dit.state_dict()[key], dit_state()[key] + factors[0] @ factors[1])
    same(load("wan2.1-t2v-1.3b"))


def test_a_preset_plays(folders, tmp_path, monkeypatch):
    import studio

    small = dataclasses.replace(
        PRESETS["longlive-1.3b"], height=16, width=24, dit=DIT, text=official.TEXT, vae=official.VAE
    )
    monkeypatch.setitem(PRESETS, "longlive-1.3b", small)
    monkeypatch.setenv("STUDIO_MODELS", str(tmp_path))
    base = Path(shutil.copytree(folders / "Wan2.1-T2V-1.3B", tmp_path / "Wan2.1-T2V-1.3B"))
    for name in ("special_tokens_map.json", "spiece.model"):
        (base / "google" / "umt5-xxl" / name).write_text("{}")
    (tmp_path / "LongLive-1.3B" / "models").mkdir(parents=True)
    torch.save({"generator": wrapped(dit_state())}, tmp_path / "LongLive-1.3B" / "models" / "longlive_base.pt")
    torch.save({"generator_lora": lora_state()}, tmp_path / "LongLive-1.3B" / "models" / "lora.pt")
    with studio.open("longlive-1.3b", prompt="a red fox", device="cpu") as session, session.frames() as frames:
        first, second = next(frames), next(frames)
    # Three latent frames at a temporal factor of two: one frame, then two a latent frame.
    assert first.shape == (5, 16, 24, 3)
    assert second.shape == (6, 16, 24, 3)


@pytest.mark.parametrize("name", ["official", "diffusers"])
def test_changing_a_loaded_model_never_writes_its_files(folder, folders, name, tmp_path):
    place = folder if name == "official" else Path(shutil.copytree(folders / name, tmp_path / name))
    before = {file: file.read_bytes() for file in place.rglob("*") if file.is_file()}
    models = load(place)
    with torch.no_grad():
        for network in (models.dit, models.vae, models.text):
            for parameter in network.parameters():
                parameter.add_(1)
    assert all(file.read_bytes() == data for file, data in before.items())


def test_every_tensor_is_reported(folders):
    seen = []
    load(folders / "shards", report=lambda name, value: seen.append((name, value.numel())))
    assert len(seen) == len(dit_state()) + len(vae_state()) + len(to_official_keys(text_state()))
    assert ("blocks.1.ffn.2.weight", DIT.dim * DIT.ffn_dim) in seen


# What is refused


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("where", ["Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "g.pt", "renamed.safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_never_runs(near, where, zipped, tmp_path):
    ran = tmp_path / "ran"
    torch.save({"generator": wrapped(dit_state())}, near / "g.pt")
    place = near / where if where in ("g.pt", "renamed.safetensors") else tmp_path / "Wan2.1-T2V-1.3B" / where
    torch.save({"x": torch.zeros(1), "y": Evil(ran)}, place, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"pickle|safetensors") as error:
        load(near / where if where == "renamed.safetensors" else near / "g.pt")
    assert str(place) in str(error.value)
    if zipped and where != "renamed.safetensors":
        assert "code in it" in str(error.value)
    assert not ran.exists()


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_a_damaged_pickle_is_named(folder, damage):
    file = folder / "Wan2.1_VAE.pth"
    data = file.read_bytes()
    file.write_bytes({"cut": data[: len(data) // 2], "noise": b"\xff" * 1000, "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"Wan2.1_VAE.pth must be .* got"):
        load(folder)


@pytest.mark.parametrize("what", [[1, 2], {}, {"step": 3}, {"optimizer": {"state": {0: torch.zeros(1)}}}])
def test_a_checkpoint_without_named_tensors(near, what):
    torch.save(what, near / "g.pt")
    with pytest.raises(ValueError, match="must hold named tensors"):
        load(near / "g.pt")


KINDS = {
    "lora": (lambda: {"generator_lora": lora_state(), "critic_lora": lora_state()}, r"got a LoRA; load it on a base"),
    "peft": (lora_state, "got a LoRA; load it on a base"),
    "critic": (lambda: {"critic": wrapped(dit_state()), "step": 1}, "got a critic.* name the generator's checkpoint"),
    "vae": (vae_state, r"got a Wan video VAE; put it into the model's folder as Wan2.1_VAE\.pth"),
    "text": (lambda: to_official_keys(text_state()), "got a umt5 text encoder; put it into"),
    "image": (lambda: {**dit_state(), "img_emb.proj.1.weight": torch.zeros(2, 2)}, "got an image-to-video transformer"),
    "vace": (lambda: {**dit_state(), "vace_patch_embedding.weight": torch.zeros(2)}, "got a VACE transformer"),
    "clip": (lambda: {"visual.patch_embedding.weight": torch.zeros(2)}, "got a picture encoder"),
    "probe": (lambda: {"heads.shape.weight": torch.zeros(2)}, "got the miniature's probe"),
    "other": (lambda: {"a": torch.zeros(1), "b": torch.zeros(1)}, r"got something unknown \(tensors such as a, b\)"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_another_kind_says_what_it_is(near, kind):
    torch.save(KINDS[kind][0](), near / "g.pt")
    with pytest.raises(ValueError, match=KINDS[kind][1]):
        load(near / "g.pt")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("lora", "critic")])
def test_a_safetensors_file_of_another_kind_says_what_it_is(near, kind):
    save_file({key: value.clone() for key, value in KINDS[kind][0]().items()}, near / "g.safetensors")
    with pytest.raises(ValueError, match=KINDS[kind][1]):
        load(near / "g.safetensors")


def test_files_in_the_wrong_places(folder):
    torch.save(to_official_keys(text_state()), folder / "Wan2.1_VAE.pth")
    with pytest.raises(ValueError, match="must be a Wan video VAE, got a umt5 text encoder"):
        load(folder)


@pytest.mark.parametrize(("ema", "there"), [(True, "generator"), (False, "generator_ema")])
def test_weights_that_the_checkpoint_has_not(near, ema, there):
    torch.save({there: wrapped(dit_state())}, near / "g.pt")
    with pytest.raises(ValueError, match=f"use ema={not ema}"):
        load(near / "g.pt", ema=ema)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("Wan2.1_VAE.pth", r"lacks Wan2.1_VAE\.pth or vae/, needed"),
        ("models_t5_umt5-xxl-enc-bf16.pth", "lacks models_t5_umt5-xxl-enc-bf16.pth or text_encoder/"),
        ("google", "lacks google/umt5-xxl/ or tokenizer/"),
        ("diffusion_pytorch_model.safetensors", "which has no .*diffusion_pytorch_model"),
    ],
)
def test_a_missing_part_is_named(folder, missing, message):
    path = folder / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=message):
        load(folder)


def test_a_missing_shard_and_a_lying_index(folders, tmp_path):
    folder = Path(shutil.copytree(folders / "shards", tmp_path / "shards"))
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    data = json.loads(index.read_text())
    where = data["weight_map"]
    index.write_text(json.dumps({"weight_map": {**where, "blocks.9.x": where["head.modulation"]}}))
    with pytest.raises(ValueError, match=r"1 tensors in no shard: blocks\.9\.x"):
        load(folder)
    index.write_text(json.dumps(data))
    shard = sorted(folder.glob("*-of-*"))[-1]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=shard.name):
        load(folder)


def test_a_transformer_of_another_size(folders, near):
    like = PRESETS["longlive-1.3b"]
    torch.save({"generator": wrapped(dit_state())}, near / "g.pt")
    with pytest.raises(ValueError, match=r"transformer of 'longlive-1.3b', got one of other sizes: dim 128 instead of"):
        find(near / "g.pt", like=like)


def test_the_bidirectional_base_is_no_generator(folders, near):
    tiny = dataclasses.replace(PRESETS["longlive-1.3b"], dit=DIT, text=official.TEXT, vae=official.VAE)
    with pytest.raises(ValueError, match=r"a causal generator for 'longlive-1\.3b', got the bidirectional base"):
        find(folders / "official", like=tiny)
    torch.save({"generator": wrapped(dit_state())}, near / "g.pt")
    with pytest.raises(ValueError, match=r"the bidirectional base for 'longlive-1\.3b', got a causal generator"):
        find(near / "g.pt", like=dataclasses.replace(tiny, causal=False))


def test_several_generators_in_a_folder(near):
    for name in ("a.pt", "b.pt"):
        torch.save({"generator": wrapped(dit_state())}, near / name)
    torch.save(lora_state(), near / "lora.pt")
    with pytest.raises(ValueError, match=r"several generators: a\.pt, b\.pt; name one"):
        load(near)
    (near / "b.pt").unlink()
    same(load(near))


def test_tensors_that_do_not_fit_are_listed(folder):
    file = folder / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    del state["head.head.bias"]
    state["blocks.1.ffn.0.bias"] = torch.zeros(7)
    state["extra"] = torch.zeros(1)
    save_file(state, file)
    with pytest.raises(ValueError, match=r"1 missing: head\.head\.bias; 1 unexpected: extra; 1 misshapen: blocks\.1"):
        load(folder)


@pytest.mark.parametrize("name", ["patch_embedding.weight", "head.head.weight", "blocks.0.ffn.0.weight"])
def test_a_torn_file_is_named(folder, name):
    file = folder / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    del state[name]
    save_file(state, file)
    with pytest.raises(ValueError, match=r"is missing, which tells the sizes|got something unknown"):
        load(folder)


def test_one_tensor_under_two_names(near):
    state = dit_state()
    torch.save({"generator": {**wrapped(state), "head.head.bias": state["head.head.bias"]}}, near / "g.pt")
    with pytest.raises(ValueError, match=r"'head\.head\.bias' under two names"):
        load(near / "g.pt")


@pytest.mark.parametrize("text", ["{ not json", "[1]"])
def test_a_configuration_that_is_none(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json must be"):
        load(folder)


@pytest.mark.parametrize("quantization", ["int4", "", "INT8"])
def test_an_unknown_quantization(folders, quantization):
    with pytest.raises(ValueError, match="`quantization` must be None"):
        load(folders / "official", quantization=quantization)


def test_a_vae_with_unknown_statistics(folder):
    config = dataclasses.replace(official.VAE, z_dim=4, mean=(0.0,) * 4, std=(1.0,) * 4)
    from studio.model.vae import VideoVAE

    torch.save(VideoVAE(config).state_dict(), folder / "Wan2.1_VAE.pth")
    with pytest.raises(ValueError, match=r"16 latent channels of Wan2\.1 or bring their mean"):
        load(folder)


def test_full_size_defaults_are_the_presets():
    assert DiTConfig.text_len == official.TEXT.text_len


@pytest.mark.parametrize(
    ("file", "gone", "named"),
    [
        ("Wan2.1_VAE.pth", "encoder.downsamples.", r"`encoder\.downsamples\.0\.residual\.6\.weight` is missing"),
        ("Wan2.1_VAE.pth", "encoder.", r"`encoder\.conv1\.weight`, `encoder\.downsamples.*` are missing"),
        ("Wan2.1_VAE.pth", "decoder.upsamples.", r"`decoder\.upsamples\.0\.residual\.6\.weight` is missing"),
        ("models_t5_umt5-xxl-enc-bf16.pth", "blocks.0.", r"`blocks\.0\.pos_.*`, `blocks\.0\.attn.*`, .* are missing"),
    ],
)
def test_tensors_that_tell_the_sizes_are_listed_with_their_file(folder, file, gone, named):
    state = torch.load(folder / file, weights_only=True)
    torch.save({key: value for key, value in state.items() if not key.startswith(gone)}, folder / file)
    with pytest.raises(ValueError, match=rf"{file} does not tell its sizes: {named}"):
        load(folder)


def test_several_of_the_transformers_are_listed_with_its_file(folder):
    file = folder / "diffusion_pytorch_model.safetensors"
    state = {name: value for name, value in load_file(file).items() if not name.startswith("text_emb")}
    del state["head.head.weight"]
    save_file(state, file)
    named = r"`head\.head\.weight`, `text_embedding\.0\.weight` are missing, which tell the sizes"
    with pytest.raises(ValueError, match=rf"diffusion_pytorch_model\.safetensors does not tell its sizes: {named}"):
        load(folder)


@pytest.mark.parametrize(("name", "shape"), [("encoder.conv1.weight", (0, 3, 3, 3, 3)), ("conv2.weight", (16, 16, 1))])
def test_shapes_with_nothing_in_them(folder, name, shape):
    state = torch.load(folder / "Wan2.1_VAE.pth", weights_only=True)
    torch.save({**state, name: torch.zeros(shape)}, folder / "Wan2.1_VAE.pth")
    with pytest.raises(ValueError, match=rf"Wan2\.1_VAE\.pth does not .* `{name}` must have 5 axes with something in"):
        load(folder)


def test_levels_that_are_narrower_than_the_first_layer(folder):
    state = torch.load(folder / "Wan2.1_VAE.pth", weights_only=True)
    state["encoder.downsamples.0.residual.6.weight"] = torch.zeros(4, 8, 3, 3, 3)
    torch.save(state, folder / "Wan2.1_VAE.pth")
    with pytest.raises(ValueError, match=r"VAE\.pth does not .*: `encoder\.downsamples` must be levels at least as"):
        load(folder)


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_integer_weights_are_listed_before_anything_is_read(folder, quantization):
    file = folder / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["blocks.0.ffn.0.weight"] = state["blocks.0.ffn.0.weight"].to(torch.int32)
    state["patch_embedding.weight"] = state["patch_embedding.weight"].to(torch.int8)
    save_file(state, file)
    listed = r"2 of the wrong type: patch_embedding\.weight int8, blocks\.0\.ffn\.0\.weight int32"
    if quantization:
        listed = r"2 of the wrong type: .*int"
    with pytest.raises(ValueError, match=rf"diffusion_pytorch_model\.safetensors must fit .*{listed}"):
        load(folder, quantization=quantization)
