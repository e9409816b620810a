"""What a researcher's disk looks like: odd containers, shards, parts elsewhere, and what only configurations tell."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from studio.config import PRESETS
from studio.model.layouts import find
from studio.model.lora import LoRA, load_lora
from studio.model.pickles import is_pickle
from studio.model.recipes import RECIPES, locate
from studio.model.shards import write_shards
from studio.model.sources import open_source
from studio.model.text import TextEncoder, WordTokenizer
from studio.model.weights import _told_apart, layout_of, load, save
from tests.model import official
from tests.model.official import DIT, dit_state, lora_state, text_state, vae_state, wrapped
from tests.model.tiny import tiny_models

NAME = "self-forcing-1.3b"
TWO_HEADS = {"_class_name": "WanModel", "dim": DIT.dim, "num_heads": 2, "text_len": 16, "eps": 1e-5}


@pytest.fixture(scope="module")
def wan(tmp_path_factory) -> Path:
    """A folder of Wan2.1 with a network of two heads, which no shape tells."""
    folder = tmp_path_factory.mktemp("wan") / "Wan2.1-T2V-1.3B"
    return official.write_official(folder, config=TWO_HEADS)


@pytest.fixture
def root(wan, tmp_path, monkeypatch) -> Path:
    """A folder whose base is named by STUDIO_MODELS."""
    monkeypatch.setenv("STUDIO_MODELS", str(wan.parent))
    return tmp_path


def is_whole(models, state=None) -> None:
    found, expected = models.dit.state_dict(), state or dit_state()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# What shapes do not tell


@pytest.mark.parametrize("place", ["file", "folder", "base of diffusers"])
def test_heads_text_length_and_epsilon_are_those_of_the_base(root, wan, place):
    path = root / "g.pt"
    torch.save({"generator": wrapped(dit_state())}, path)
    base = None
    if place == "folder":
        (root / "models").mkdir()
        path = path.rename(root / "models" / "g.pt").parent.parent
    if place == "base of diffusers":
        base = official.write_diffusers(root / "d")
        told = {"num_attention_heads": 2, "attention_head_dim": 64, "eps": 1e-5}
        (base / "transformer" / "config.json").write_text(json.dumps(told))
    models, exact = load(path, base=base), load(wan)
    assert (models.config.dit.heads, models.config.dit.eps) == (2, 1e-5)
    if base is not None:
        assert models.config.dit.text_len == 512
        return
    x, text = torch.randn(1, 3, 16, 4, 4), torch.randn(1, 16, 16)
    assert torch.equal(models.dit(x, torch.tensor([300.0]), text), exact.dit(x, torch.tensor([300.0]), text))
    assert models.text.encode(["a red fox"]).shape == (1, 16, 16)


def test_a_configuration_of_another_width_is_not_the_transformers(root, wan):
    small = dataclasses.replace(DIT, dim=256, heads=2)
    torch.save({"generator": wrapped(dit_state(small))}, root / "g.pt")
    config = json.loads((wan / "config.json").read_text())
    base = Path(shutil.copytree(wan, root / "base"))
    (base / "config.json").write_text(json.dumps({**config, "num_heads": 8}))
    assert load(root / "g.pt", base=base).config.dit.heads == 2


def test_a_name_with_dots_stays_whole(wan):
    assert layout_of(wan)[0].config.name == "Wan2.1-T2V-1.3B"


# Parts elsewhere


def test_a_folder_without_a_base_takes_one_elsewhere(root, wan, monkeypatch):
    folder = root / "mine"
    folder.mkdir()
    save_file(dit_state(), folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text('{"_class_name": "CausalWanModel", "num_heads": 2}')
    assert load(folder).config.causal
    assert load(folder / "diffusion_pytorch_model.safetensors").config.causal
    monkeypatch.delenv("STUDIO_MODELS")
    with pytest.raises(FileNotFoundError, match="holds the transformer only; put the Wan2"):
        load(folder)
    assert load(folder, base=str(wan)).config.dit.heads == 2
    shutil.copy(wan / "Wan2.1_VAE.pth", folder)
    with pytest.raises(FileNotFoundError, match="lacks models_t5_umt5-xxl-enc-bf16"):
        load(folder)


def test_the_base_that_is_named_comes_first(wan, tmp_path):
    other = Path(shutil.copytree(wan, tmp_path / "other"))
    torch.save({key: value + 1 for key, value in vae_state().items()}, other / "Wan2.1_VAE.pth")
    found = load(wan, base=other).vae.state_dict()
    assert torch.equal(found["conv1.bias"], vae_state()["conv1.bias"] + 1)


def test_a_base_by_the_name_of_a_model(root, wan, monkeypatch, tmp_path):
    torch.save({"generator": wrapped(dit_state())}, root / "g.pt")
    with pytest.raises(FileNotFoundError, match=r"files of 'wan2\.1-t2v-1\.3b' are not shipped"):
        load(root / "g.pt", base="wan2.1-t2v-1.3b")
    whole = Path(shutil.copytree(wan, tmp_path / "all" / "Wan2.1-T2V-1.3B"))
    for name in ("special_tokens_map.json", "spiece.model"):
        (whole / "google" / "umt5-xxl" / name).write_text("{}")
    monkeypatch.setenv("STUDIO_MODELS", str(whole.parent))
    assert load(root / "g.pt", base="wan2.1-t2v-1.3b").config.dit.heads == 2
    with pytest.raises(FileNotFoundError, match="one to download"):
        load(root / "g.pt", base="wan9")


def test_a_model_of_the_studio_is_a_base(tmp_path):
    models = tiny_models()
    save(models, tmp_path / "tiny", torch.float32)
    torch.save({"generator": wrapped(models.dit.state_dict())}, tmp_path / "g.pt")
    found = load(tmp_path / "g.pt", base=tmp_path / "tiny")
    assert dataclasses.replace(found.config, name="tiny") == models.config
    is_whole(found, models.dit.state_dict())


def test_a_base_for_another_width_of_text_is_refused(root):
    wide = dataclasses.replace(DIT, text_dim=32)
    torch.save({"generator": wrapped(dit_state(wide))}, root / "g.pt")
    with pytest.raises(ValueError, match=r"`dit\.text_dim` must equal `text\.dim` 16, got 32"):
        load(root / "g.pt")


# Containers and shards

CONTAINERS = {
    "two deep": lambda one: {"model": {"generator": one, "critic": one}, "step": 3},
    "two deep, averaged": lambda one: {"model": {"generator_ema": one}},
    "inside the generator": lambda one: {"generator": {"state_dict": one}},
    "a name of its own": lambda one: {"student": one, "optim": {"state": {0: torch.zeros(1)}}},
    "averaged": lambda one: {"model_ema": one},
    "with a teacher": lambda one: {"weights": one, "teacher": wrapped(dit_state(seed=9)), "critic": one},
    "merged by peft": lambda one: {"generator": {f"base_model.model.{name}": value for name, value in one.items()}},
    "with adapters": lambda one: {"generator": one, "generator_lora": lora_state()},
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_network_in_any_container(root, container):
    torch.save(CONTAINERS[container](wrapped(dit_state())), root / "g.pt")
    models = load(root / "g.pt")
    is_whole(models)
    assert models.config.causal


def test_averaged_weights_may_lie_deeper(root):
    both = {"generator": wrapped(dit_state(seed=3)), "generator_ema": wrapped(dit_state(seed=4))}
    torch.save({"model": both}, root / "g.pt")
    for ema, seed in ((None, 3), (False, 3), (True, 4)):
        is_whole(load(root / "g.pt", ema=ema), dit_state(seed=seed))
    torch.save({"model": {"generator": both["generator"]}}, root / "g.pt")
    with pytest.raises(ValueError, match="got plain ones only; use ema=False"):
        load(root / "g.pt", ema=True)


def test_several_networks_are_not_guessed_at(root):
    torch.save({"first": wrapped(dit_state()), "second": wrapped(dit_state())}, root / "g.pt")
    with pytest.raises(ValueError, match="holds several networks: first, second; save the one"):
        load(root / "g.pt")


@pytest.mark.parametrize("stem", ["diffusion_pytorch_model", "model"])
@pytest.mark.parametrize("named", ["index", "first", "last", "folder"])
def test_shards_by_any_of_their_names(root, stem, named):
    folder = root / "a folder with spaces"
    files = write_shards(folder, stem, wrapped(dit_state(), "generator."), limit=150_000)
    assert len(files) > 3
    path = {"index": files[-1], "first": files[0], "last": files[-2], "folder": folder}[named]
    models = load(path)
    is_whole(models)
    assert models.config.causal == (stem == "model")


def test_a_shard_without_its_index_is_no_model(root):
    files = write_shards(root, "model", dit_state(), limit=150_000)
    files[-1].unlink()
    with pytest.raises(ValueError, match="are missing, which tell the sizes"):
        load(files[0])


def test_pickled_shards_of_a_text_encoder(wan, tmp_path):
    folder = Path(shutil.copytree(wan, tmp_path / "m"))
    (folder / "models_t5_umt5-xxl-enc-bf16.pth").unlink()
    (folder / "text_encoder").mkdir()
    text = {name.removeprefix("encoder."): value for name, value in text_state().items() if "embed_tokens" not in name}
    halves = [dict(list(text.items())[:5]), dict(list(text.items())[5:])]
    names = [f"pytorch_model-{number:05d}-of-00002.bin" for number in (1, 2)]
    for name, half in zip(names, halves, strict=True):
        torch.save(half, folder / "text_encoder" / name)
    where = {key: name for name, half in zip(names, halves, strict=True) for key in half}
    index = folder / "text_encoder" / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    loaded = load(folder).text
    assert isinstance(loaded, TextEncoder)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in text_state().items())


def test_the_cache_of_a_hub_is_links_into_blobs(wan, tmp_path):
    snapshot, blobs = tmp_path / "models--x" / "snapshots" / "abc", tmp_path / "models--x" / "blobs"
    blobs.mkdir(parents=True)
    for number, file in enumerate(file for file in wan.rglob("*") if file.is_file()):
        link = snapshot / file.relative_to(wan)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blobs / str(number))
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    is_whole(load(snapshot))


# What first bytes and names look like


@pytest.mark.parametrize("start", [b"PK", b"\x80\x02", b"\x80\x04"])
def test_the_length_of_a_header_is_no_pickle(tmp_path, start):
    # The header is padded to whole words of eight bytes; a name of the right length makes its length what it should be.
    wanted = int.from_bytes(start, "little")
    path = tmp_path / "a.safetensors"
    for length in range(max(1, wanted - 100), wanted):
        save_file({"x" * length: torch.ones(2)}, path)
        if path.read_bytes()[:2] == start:
            break
    assert path.read_bytes()[:2] == start
    assert not is_pickle(path)
    assert [value.tolist() for _, value in open_source(path).tensors()] == [[1.0, 1.0]]


def test_safetensors_under_the_name_of_a_pickle(root):
    save_file(wrapped(dit_state()), root / "g.pt")
    is_whole(load(root / "g.pt"))


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_folder_with_nothing_but_code_says_why_it_was_not_opened(root, zipped):
    folder = root / "m"
    folder.mkdir()
    torch.save({"generator": Evil(root / "ran")}, folder / "g.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"no generator that can be opened: .*g\.pt must .* pickle"):
        load(folder)
    assert not (root / "ran").exists()


def test_a_folder_of_the_same_name_hides_no_shipped_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "miniature").mkdir()
    assert layout_of("miniature")[0].config.name == "miniature"


def test_a_home_folder_by_its_sign(root, monkeypatch):
    torch.save({"generator": wrapped(dit_state())}, root / "g.pt")
    monkeypatch.setenv("HOME", str(root))
    monkeypatch.setenv("USERPROFILE", str(root))
    assert find(layout_of("~/g.pt")[0].path, base=layout_of("~/g.pt")[0].vae.path.parent).container == "generator"


@pytest.mark.parametrize("damage", ["cut", "name", "instruction", "number"])
def test_a_torn_pickle_within_a_whole_archive_is_named(root, damage):
    torch.save({"generator": wrapped(dit_state())}, root / "whole.pt")
    with zipfile.ZipFile(root / "whole.pt") as archive, zipfile.ZipFile(root / "g.pt", "w") as torn:
        for name in archive.namelist():
            data = archive.read(name)
            if name.endswith("data.pkl"):
                data = {
                    "cut": data[: len(data) // 2],
                    "name": data.replace(b"generator", b"gener\xa6tor", 1),
                    "instruction": data[:2] + b"0" + data[2:],
                    "number": data[:2] + b"h\x75" + data[2:],
                }[damage]
            torn.writestr(name, data)
    with pytest.raises(ValueError, match=r"g\.pt must .* got"):
        load(root / "g.pt")


@pytest.mark.parametrize("names", ["shared", "both", "embed_tokens"])
def test_the_embedding_of_a_text_encoder_under_either_name(wan, tmp_path, names):
    folder = Path(shutil.copytree(wan, tmp_path / "m"))
    (folder / "models_t5_umt5-xxl-enc-bf16.pth").unlink()
    left_out = {"shared": "encoder.embed_tokens.weight", "both": "", "embed_tokens": "shared.weight"}[names]
    text = {name.removeprefix("encoder."): value for name, value in text_state().items()}
    text["encoder.embed_tokens.weight"] = text["shared.weight"].clone()
    write_shards(folder / "text_encoder", "model", {name: value for name, value in text.items() if name != left_out})
    loaded = load(folder).text
    assert isinstance(loaded, TextEncoder)
    assert torch.equal(loaded.encoder.get_input_embeddings().weight, text["shared.weight"])


# LongLive's own folder


@pytest.mark.parametrize("inside", [True, False])
def test_the_folder_of_longlive_brings_its_adapter(root, inside):
    folder = root / "LongLive-1.3B"
    place = folder / "models" if inside else folder
    place.mkdir(parents=True)
    torch.save({"generator": wrapped(dit_state())}, place / "longlive_base.pt")
    torch.save({"generator_lora": lora_state()}, place / "lora.pt")
    live = load(folder, merged=False)
    assert live.adapters is not None
    assert live.adapters.strengths == {"lora": 1.0}
    factors = [lora_state()[f"base_model.model.blocks.1.ffn.2.lora_{x}.weight"] for x in "BA"]
    key = "blocks.1.ffn.2.weight"
    torch.testing.assert_close(load(folder).dit.state_dict()[key], dit_state()[key] + factors[0] @ factors[1])
    is_whole(load(place / "longlive_base.pt"))
    (place / "longlive_base.pt").rename(place / "mine.pt")
    is_whole(load(folder))


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("checkpoints/self_forcing_dmd.pt", "self-forcing-1.3b"),
        ("self_forcing_dmd.pt", "self-forcing-1.3b"),
        ("autoregressive_checkpoint_warp_4step_cfg2/model.pt", "causvid-1.3b"),
        ("longlive_base.pt", "longlive-1.3b"),
        ("model.pt", "longlive-1.3b"),
    ],
)
@pytest.mark.parametrize("sizes", ["the preset's", "others"])
def test_a_public_file_has_the_cache_and_noise_of_its_model(root, monkeypatch, name, preset, sizes):
    if sizes == "the preset's":
        dit = dataclasses.replace(DIT, heads=2, text_len=16, eps=1e-5)
        text = dataclasses.replace(official.TEXT, text_len=16)
        for one in [one for one in PRESETS if PRESETS[one].causal and one != "miniature"]:
            tiny = dataclasses.replace(PRESETS[one], dit=dit, text=text, vae=official.VAE)
            monkeypatch.setitem(PRESETS, one, tiny)
    file = root / "m" / name
    file.parent.mkdir(parents=True)
    torch.save({"generator": wrapped(dit_state())}, file)
    for path in (file, root / "m"):
        config = layout_of(path)[0].config
        assert (config.cache, config.sampler) == (PRESETS[preset].cache, PRESETS[preset].sampler)
        assert (config.name == preset) == (sizes == "the preset's")


def test_a_generator_that_keeps_everything_plays_without_an_end(root, monkeypatch):
    import studio
    from studio.live.bench import bench

    monkeypatch.setitem(PRESETS, NAME, dataclasses.replace(
        PRESETS[NAME], height=16, width=24, dit=dataclasses.replace(DIT, heads=2, text_len=16, eps=1e-5),
        text=dataclasses.replace(official.TEXT, text_len=16), vae=official.VAE,
    ))  # fmt: skip
    torch.save({"generator_ema": wrapped(dit_state(), "model._fsdp_wrapped_module.")}, root / "self_forcing_dmd.pt")
    assert bench(root / "self_forcing_dmd.pt", blocks=2, device="cpu")["denoise_fps"] > 0
    seen, blocks = {}, 9
    for length in (None, blocks):
        timeline = studio.Timeline.of("a red fox").with_length(length)
        with studio.open(root / "self_forcing_dmd.pt", timeline=timeline, device="cpu") as session:
            assert session.name == NAME
            cache = session.models.config.cache
            assert (cache.window, cache.attend) == ((21, None) if length is None else (None, 21))
            with session.frames() as frames:
                seen[length] = [next(frames) for _ in range(blocks)]
    # More than what is looked at: 27 latent frames, of which each block sees 21.
    for endless, ended in zip(seen[None], seen[blocks], strict=True):
        assert abs(endless.astype(int) - ended.astype(int)).max() <= 1


# What loading is told


@pytest.mark.parametrize("dtype", ["bfloat16", "torch.float16", torch.float16])
def test_types_by_their_names(wan, dtype):
    wanted = torch.bfloat16 if dtype == "bfloat16" else torch.float16
    assert {value.dtype for value in load(wan, dtype=dtype).dit.parameters()} == {wanted}


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, "int4", "double", 3])
def test_types_that_no_weight_can_have(wan, dtype):
    with pytest.raises(ValueError, match='`dtype` must be "float32", "bfloat16" or "float16"'):
        load(wan, dtype=dtype)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", 3.5, "meta", "xpu", "hpu", "fpga", torch.device("meta")])
def test_devices_that_are_not_here(wan, device):
    with pytest.raises(ValueError, match="`device` must be"):
        load(wan, device=device)


def test_one_adapter_or_several_in_any_form(wan, tmp_path):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        torch.save(lora_state(), tmp_path / place / "lora.pt")
    first, second = (tmp_path / place / "lora.pt" for place in ("a", "b"))
    forms = {
        "a path": (first, {"lora": 1.0}),
        "a name": (str(first), {"lora": 1.0}),
        "a pair": ((first, 0.5), {"lora": 0.5}),
        "several": ([first, [second, -0.25]], {"lora": 1.0, "lora-2": -0.25}),
        "two in a tuple": ((first, second), {"lora": 1.0, "lora-2": 1.0}),
    }
    for form, (loras, strengths) in forms.items():
        adapters = load(wan, loras=loras, merged=False).adapters
        assert adapters is not None
        assert adapters.strengths == strengths, form


def test_strengths_come_by_a_mapping_or_any_number(wan, tmp_path):
    file = tmp_path / "style.safetensors"
    save_file(lora_state(), file)
    own = load_lora(file)
    forms = {
        "a mapping": ({file: 0.25, own: 0.5}, {"style": 0.25, "style-2": 0.5}),
        "an empty mapping": ({}, {}),
        "none": (None, {}),
        "a number of NumPy": ((file, np.float32(0.5)), {"style": 0.5}),
        "a pair in a list": ([str(file), 0.5], {"style": 0.5}),
        "a whole number": ([own, 2], {"style": 2.0}),
    }
    for form, (loras, strengths) in forms.items():
        adapters = load(wan, loras=loras, merged=False).adapters
        assert adapters is not None
        assert adapters.strengths == strengths, form


@pytest.mark.parametrize("given", [3, [3], [("a", "b", "c")], [("a", "b")], [None], (0.5, "style.safetensors")])
def test_adapters_that_are_none(wan, given):
    with pytest.raises(ValueError, match=r"`loras` must be files or adapters, .* as \('style\.safetensors', 0\.5\)"):
        load(wan, loras=given)


def test_a_strength_that_is_none(wan, tmp_path):
    save_file(lora_state(), tmp_path / "style.safetensors")
    with pytest.raises(ValueError, match="`strength` must be a finite number, got True"):
        load(wan, loras=(tmp_path / "style.safetensors", True))


@given(st.lists(st.sampled_from(["a", "a-2", "a-3", "a-2-2", "b"]), max_size=7))
def test_made_up_names_are_free_and_given_ones_stay(names):
    apart = [lora.name for lora, _ in _told_apart([(LoRA(name=name, layers={}), 1.0) for name in names])]
    assert len(set(apart)) == len(names)
    assert all(apart[names.index(name)] == name for name in names)
    assert all(found == name or found.startswith(f"{name}-") for found, name in zip(apart, names, strict=True))


# Bases that are named, and files that are none of ours


def test_a_base_is_taken_for_a_folder_of_the_studio_too(wan, tmp_path):
    models = tiny_models()
    save(models, tmp_path / "a", torch.float32)
    with torch.no_grad():
        for network in (models.vae, models.text):
            next(network.parameters()).add_(1)
    models.text.tokenizer = WordTokenizer(("a", "dog", "red", "barks"))
    save(models, tmp_path / "b", torch.float32)
    found, base, own = load(tmp_path / "a", base=tmp_path / "b"), load(tmp_path / "b"), load(tmp_path / "a")
    for part in ("vae", "text"):
        assert torch.equal(next(getattr(found, part).parameters()), next(getattr(base, part).parameters()))
    assert found.text.unknown_words("a red dog") == [] and own.text.unknown_words("a red dog") == ["dog"]
    is_whole(found, own.dit.state_dict())
    for name in ("text.safetensors", "vae.safetensors", "tokenizer.json"):
        (tmp_path / "a" / name).unlink()
    assert load(tmp_path / "a", base=tmp_path / "b").config == own.config
    with pytest.raises(ValueError, match=r"`base` must fit the transformer of .*a, got .*Wan2"):
        load(tmp_path / "a", base=wan)
    (tmp_path / "b" / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json is missing"):
        load(tmp_path / "a", base=tmp_path / "b")


@pytest.mark.parametrize("text", ["[1, 2]", "{ // a comment\n}", "\udcff", '{"dim": "wide"}'])
@pytest.mark.parametrize("place", [".", "..", "../wan_models/Wan2.1-T2V-1.3B"])
def test_a_configuration_of_somebody_else_stops_nothing(wan, tmp_path, place, text):
    checkpoints = tmp_path / "project" / "ckpt"
    checkpoints.mkdir(parents=True)
    torch.save({"generator": wrapped(dit_state())}, checkpoints / "g.pt")
    folder = (checkpoints / place).resolve()
    if folder.name.startswith("Wan"):
        # Damaged in one that is found on the way, told where it is named.
        shutil.copytree(wan, folder)
        (folder / "config.json").write_text(text, "utf-8", "surrogateescape")
        assert load(checkpoints / "g.pt").config.dit.heads == 1
        if "dim" not in text:
            with pytest.raises(ValueError, match=r"config\.json must be"):
                load(checkpoints / "g.pt", base=folder)
        return
    shutil.copytree(wan, tmp_path / "project" / "wan_models" / "Wan2.1-T2V-1.3B")
    (folder / "config.json").write_text(text, "utf-8", "surrogateescape")
    assert load(checkpoints / "g.pt").config.dit.heads == 2


# A repository is taken from one place


NEEDED = RECIPES["wan2.1-t2v-14b"]


def spread(root: Path, monkeypatch, parts: dict[str, list[str]]) -> None:
    """Put files of the 14b model, each with its place's name in it, into folders of models and the hub's cache."""
    snapshot = root / "cache" / "models--Wan-AI--Wan2.1-T2V-14B" / "snapshots" / ("0" * 40)
    (snapshot.parents[1] / "refs").mkdir(parents=True)
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root / "cache"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(root / "cache"))
    monkeypatch.setenv("STUDIO_MODELS", os.pathsep.join((str(root / "one"), str(root / "two"))))
    for place, files in parts.items():
        for file in files:
            path = snapshot / file if place == "cache" else root / place / "Wan2.1-T2V-14B" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(place)


FILES = [needed.file for needed in NEEDED.files]


@pytest.mark.parametrize(
    ("parts", "taken", "missing"),
    [
        ({"one": FILES[:3], "two": FILES, "cache": FILES}, "two", 0),
        ({"one": FILES[:3], "two": FILES[3:], "cache": FILES}, "cache", 0),
        ({"one": FILES[:-1], "cache": FILES[-1:]}, "one", 1),
        ({"one": FILES[:4], "cache": FILES[4:]}, "cache", 4),
        ({"two": FILES}, "two", 0),
        ({}, "", len(FILES)),
    ],
)
def test_a_repository_is_taken_from_the_place_that_has_all_of_it(tmp_path, monkeypatch, parts, taken, missing):
    spread(tmp_path, monkeypatch, parts)
    found = locate(NEEDED)
    assert {path.read_text() for path in found.values() if path is not None} == ({taken} if taken else set())
    assert sum(path is None for path in found.values()) == missing
    if not missing:
        return
    with pytest.raises(FileNotFoundError, match=f"{missing} of the {len(FILES)} files") as error:
        layout_of(NEEDED.name)
    # Put where the message says, the rest is found, in whatever place the others are.
    for line in str(error.value).splitlines()[1:]:
        path = Path(line.split("  ->  ")[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("by hand")
    assert None not in locate(NEEDED).values()


def test_shards_in_two_places_are_not_taken_for_a_whole_model(tmp_path, monkeypatch):
    spread(tmp_path, monkeypatch, {"one": FILES[:4] + FILES[7:], "cache": FILES[4:7]})
    lacking = [needed.file for needed, path in locate(NEEDED).items() if path is None]
    assert lacking == FILES[4:7]


def test_a_base_that_is_torn_hides_no_whole_one(tmp_path, monkeypatch):
    official.write_base(tmp_path / "two" / "Wan2.1-T2V-14B")
    spread(tmp_path, monkeypatch, {})
    (tmp_path / "one" / "Wan2.1-T2V-14B").mkdir(parents=True)
    (tmp_path / "one" / "Wan2.1-T2V-14B" / "Wan2.1_VAE.pth").write_bytes(b"torn")
    (tmp_path / "x").mkdir()
    torch.save({"generator": wrapped(dit_state())}, tmp_path / "x" / "g.pt")
    is_whole(load(tmp_path / "x" / "g.pt"))
