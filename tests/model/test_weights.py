"""Saving and loading models, and everything that can be wrong with a model's folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from studio.config import to_dict
from studio.model.shards import read_shards, write_shards
from studio.model.sources import open_stem
from studio.model.text import PieceTokenizer, WordTokenizer
from studio.model.weights import load, load_checked, read, save, write
from tests.model import official
from tests.model.tiny import WORDS, tiny_models


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save(tiny_models(), folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def change(file: Path, change_state) -> None:
    state = load_file(file)
    change_state(state)
    save_file(state, file)


def test_what_is_saved_is_loaded(saved):
    models, back = tiny_models(), load(saved)
    assert back.config == models.config
    for name in ("dit", "vae", "text"):
        ours, theirs = getattr(models, name).state_dict(), getattr(back, name).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key].half().float(), theirs[key]) for key in ours)
    assert isinstance(back.text.tokenizer, WordTokenizer)
    assert back.text.tokenizer.words == WORDS
    assert not any(p.requires_grad for p in back.dit.parameters())
    assert not back.vae.training


def test_loaded_networks_run(saved):
    models = load(str(saved))
    text = models.text.encode(["a red fox", "\0 unseen 🦊"])
    latents = models.vae.encode(torch.zeros(1, 3, 3, 16, 16))
    assert text.shape == (2, 8, 16)
    assert models.vae.decode(latents).shape == (1, 3, 3, 16, 16)
    assert torch.equal(models.vae.mean, torch.full((4,), 0.5))


def test_large_networks_are_split(tmp_path, monkeypatch):
    monkeypatch.setattr("studio.model.shards.write_shards.__kwdefaults__", {"limit": 20_000, "metadata": None})
    save(tiny_models(), tmp_path)
    assert len(list(tmp_path.glob("dit-*-of-*.safetensors"))) > 1
    assert load(tmp_path).config.name == "tiny"


def test_a_missing_shard_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("studio.model.shards.write_shards.__kwdefaults__", {"limit": 20_000, "metadata": None})
    save(tiny_models(), tmp_path)
    shard = sorted(tmp_path.glob("dit-*-of-*.safetensors"))[-1]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=shard.name):
        load(tmp_path)


def test_half_precision_in_memory(saved):
    assert {p.dtype for p in load(saved, dtype=torch.bfloat16).dit.parameters()} == {torch.bfloat16}


def test_official_and_own_names_of_the_text_encoder(folder):
    state = tiny_models().text.state_dict()
    (folder / "text.safetensors").unlink()
    save_file({key: value.clone() for key, value in state.items()}, folder / "text.safetensors")
    assert torch.equal(load(folder).text.state_dict()["encoder.shared.weight"], state["encoder.shared.weight"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minature", "minature"),
        ("longlve-1.3b", "did you mean 'longlive-1.3b'"),
        ("", "must be a shipped model"),
        ("a\0b", "must be a shipped model"),
        ("longlive-1.3b", "not shipped"),
        ("no/such/folder", "no/such/folder"),
        ("\N{FOX FACE}" * 1000, "must be a shipped model"),
    ],
)
def test_no_such_model(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        load(name)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load(tmp_path)


def test_a_file_instead_of_a_folder(saved):
    with pytest.raises(ValueError, match=r"must be a Wan transformer, got a Wan video VAE; put it into the model's"):
        load(saved / "vae.safetensors")


@pytest.mark.parametrize("name", ["dit.safetensors", "vae.safetensors", "text.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load(folder)


@pytest.mark.parametrize("name", ["dit.safetensors", "vae.safetensors", "text.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_a_damaged_file_is_named(folder, name, damage):
    file = folder / name
    data = file.read_bytes()
    file.write_bytes({"cut": data[: len(data) // 2], "noise": b"\xff" * 1000, "empty": b""}[damage])
    with pytest.raises(ValueError, match=rf"{name} must be a safetensors file"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_damaged_text_file_is_named(folder, name):
    (folder / name).write_text("{ not json")
    with pytest.raises(ValueError, match=name):
        load(folder)


def test_a_file_of_another_kind(folder):
    shutil.copy(folder / "vae.safetensors", folder / "dit.safetensors")
    with pytest.raises(ValueError, match="must hold 'dit' weights, got 'vae'"):
        load(folder)


def test_a_file_of_another_kind_without_a_header(folder):
    save_file(load_file(folder / "text.safetensors"), folder / "vae.safetensors")
    with pytest.raises(ValueError, match="must hold 'vae' weights, got 'text'"):
        load(folder)


def test_a_pickle_is_refused_and_never_opened(folder, tmp_path):
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (ran.touch, ())

    (folder / "vae.safetensors").unlink()
    torch.save({"x": Evil()}, folder / "vae.pth")
    with pytest.raises(ValueError, match="pickle"):
        load(folder)
    shutil.move(folder / "vae.pth", folder / "vae.safetensors")
    with pytest.raises(ValueError, match="pickle"):
        load(folder)
    assert not ran.exists()


def test_missing_unexpected_and_misshapen_tensors_are_named(folder):
    def spoil(state):
        del state["conv2.bias"]
        state["extra.weight"] = torch.zeros(1)
        state["conv1.bias"] = torch.zeros(3)

    change(folder / "vae.safetensors", spoil)
    with pytest.raises(
        ValueError, match=r"1 missing: conv2\.bias; 1 unexpected: extra\.weight; 1 misshapen: conv1\.bias"
    ):
        load(folder)


def test_tensors_that_are_not_finite_are_named(folder):
    change(folder / "vae.safetensors", lambda state: state["conv1.bias"].fill_(float("nan")))
    with pytest.raises(ValueError, match=r"not finite: conv1\.bias"):
        load(folder)


def test_a_configuration_of_other_sizes(folder):
    data = json.loads((folder / "config.json").read_text())
    data["dit"]["layers"] = 3
    (folder / "config.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"dit\.safetensors must fit the configuration of WanDiT.* missing: blocks\.2"):
        load(folder)


@pytest.mark.parametrize(
    ("key", "message"), [("layerz", "did you mean `layers`"), ("layers", "whole number"), ("vae", "not a key")]
)
def test_a_wrong_configuration_key_or_value(folder, key, message):
    data = json.loads((folder / "config.json").read_text())
    data["dit"][key] = "many"
    (folder / "config.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_an_index_that_points_outside(folder):
    (folder / "dit.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../../secret.safetensors"}}))
    with pytest.raises(ValueError, match="files of its own folder"):
        load(folder)


def test_an_index_that_is_none(folder):
    (folder / "dit.safetensors.index.json").write_text("[]")
    with pytest.raises(ValueError, match="index of shards"):
        load(folder)


def test_one_file_with_its_configuration(tmp_path):
    config = to_dict(tiny_models().config.vae)
    write(tmp_path / "vae.safetensors", tiny_models().vae.state_dict(), kind="vae", config=config)
    back, state = read(tmp_path / "vae.safetensors", kind="vae")
    assert back == json.loads(json.dumps(config))
    assert state.keys() == tiny_models().vae.state_dict().keys()
    with pytest.raises(ValueError, match="must hold 'probe' weights"):
        read(tmp_path / "vae.safetensors", kind="probe")


def test_a_text_encoder_elsewhere_sends_its_embeddings(saved):
    models = load(saved, text_device="cpu")
    assert models.text.output == torch.device("cpu")
    models.text.output = torch.device("meta")
    assert models.text.encode(["a fox"]).is_meta
    models.to("cpu")
    assert not models.text.encode(["a fox"]).is_meta
    assert load(saved).text.output is None


def test_one_file_that_is_a_pickle(tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "probe.safetensors")
    with pytest.raises(ValueError, match=r"must be a safetensors file, got a pickle"):
        read(tmp_path / "probe.safetensors", kind="probe")
    with pytest.raises(FileNotFoundError, match=r"vae\.safetensors is missing"):
        read(tmp_path / "vae.safetensors")


def test_models_say_their_sizes_and_not_their_layers():
    models = tiny_models()
    said = repr(models)
    assert said.startswith("<Models tiny: transformer ") and said.endswith("parameters, float32, cpu>")
    assert "VAE" in said and "text encoder" in said and "\n" not in said


def test_a_model_with_sentence_pieces_is_saved_whole(tmp_path):
    models = load(official.write_official(tmp_path / "m"))
    files = save(models, tmp_path / "out", dtype=torch.float32)
    assert all(file.is_file() for file in files)
    shutil.rmtree(tmp_path / "m")
    back = load(tmp_path / "out")
    assert back.config == models.config
    assert torch.equal(back.text.encode(["a red fox"]), models.text.encode(["a red fox"]))
    # Over a model of words, whose file would be found first.
    tiny = tmp_path / "tiny"
    save(tiny_models(), tiny)
    save(back, tiny)
    assert isinstance(load(tiny).text.tokenizer, PieceTokenizer)
    save(tiny_models(), tiny)
    assert isinstance(load(tiny).text.tokenizer, WordTokenizer)
    # Where the tokenizer's folder is gone nothing is written.
    with pytest.raises(FileNotFoundError, match="with the tokenizer's files is gone; put it back"):
        save(models, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_could_not_be_opened_as_it_plays_is_not_saved(tmp_path):
    folder = official.write_official(tmp_path / "m")
    save_file(official.lora_state(), tmp_path / "style.safetensors")
    live = load(folder, loras=tmp_path / "style.safetensors", merged=False)
    assert live.adapters is not None
    with pytest.raises(ValueError, match="in its weights to be saved, got style beside them; load it with merged"):
        save(live, tmp_path / "out")
    models = tiny_models()
    models.text.tokenizer = None
    with pytest.raises(ValueError, match="must have a tokenizer of the studio's to be saved, got none"):
        save(models, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    live.adapters.remove("style")
    save(live, tmp_path / "out")
    merged = load(folder, loras=tmp_path / "style.safetensors")
    save(merged, tmp_path / "merged", torch.float32)
    ours, theirs = merged.dit.state_dict(), load(tmp_path / "merged").dit.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_integers_are_no_weights(folder):
    def spoil(state):
        state["conv1.bias"] = torch.zeros_like(state["conv1.bias"], dtype=torch.int8)
        state["conv2.bias"] = torch.zeros_like(state["conv2.bias"], dtype=torch.int32)

    change(folder / "vae.safetensors", spoil)
    with pytest.raises(ValueError, match=r"vae\.safetensors .* 2 of the wrong type: .*conv[12]\.bias int"):
        load(folder)
    state = {**tiny_models().vae.state_dict(), "conv1.bias": torch.zeros(8, dtype=torch.int8)}
    with pytest.raises(ValueError, match=r"1 of the wrong type: conv1\.bias int8"):
        load_checked(tiny_models().vae, state, "here")


def numbers(folder: Path) -> dict[str, torch.Tensor]:
    return read_shards(folder, "net")


def tensors(fill: float, count: int = 4) -> dict[str, torch.Tensor]:
    return {f"t{number}": torch.full((100,), fill) for number in range(count)}


@pytest.mark.parametrize(("before", "after"), [(400, 400), (400, 10**6), (10**6, 400), (800, 400)])
def test_a_write_that_fails_leaves_what_was_there(before, after, tmp_path, monkeypatch):
    write_shards(tmp_path, "net", tensors(1.0), limit=before)
    there = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    failing = 1 if after == 10**6 else 3
    calls = []

    def full(state, path, **more):
        calls.append(path)
        if len(calls) == failing:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save_file(state, path, **more)

    monkeypatch.setattr("studio.model.shards.save_file", full)
    with pytest.raises(OSError, match="No space"):
        write_shards(tmp_path, "net", tensors(2.0), limit=after)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == there
    monkeypatch.undo()
    paths = write_shards(tmp_path, "net", tensors(2.0), limit=after)
    assert sorted(paths) == sorted(tmp_path.iterdir())
    assert all((value == 2).all() for value in numbers(tmp_path).values())
    assert all((value == 2).all() for _, value in open_stem(tmp_path, "net").tensors())


def test_the_index_takes_its_place_after_the_shards_and_old_ones_go_last(tmp_path, monkeypatch):
    write_shards(tmp_path, "net", tensors(1.0, 6), limit=400)
    old = {path.name for path in tmp_path.glob("net-*-of-00006.safetensors")}
    order, replace = [], os.replace

    def watched(source, target):
        assert all((tmp_path / name).exists() for name in old)
        order.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr("os.replace", watched)
    write_shards(tmp_path, "net", tensors(2.0, 3), limit=400)
    assert order[-1] == "net.safetensors.index.json" and len(order) == 4
    assert not any((tmp_path / name).exists() for name in old)
