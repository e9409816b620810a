"""`studio replay`, and the logs that films and latents carry."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from studio import cli
from studio.live import Session, read_log
from studio.live.latents import save_latents
from studio.live.log import TakeLog
from studio.live.replay import replay
from studio.model.lora import Adapters, load_lora
from studio.timeline import Segment, Timeline, Transition
from tests.live.doubles import tiny_models, wait_for

pytestmark = pytest.mark.usefixtures("one_thread")

FOX, SEA = "a red fox", "the blue sea"
LINE = Timeline((Segment(FOX), Segment(SEA, 1, transition=Transition(1))), 3, 5)


def with_adapters(models):
    models.adapters = Adapters(models.dit)
    return models


@pytest.fixture
def tiny(monkeypatch):
    import studio.model.weights as weights

    def load(name, device=None, **options):
        models = with_adapters(tiny_models())
        if name == "other":
            with torch.no_grad():
                next(models.dit.parameters()).add_(0.01)
        return models

    monkeypatch.setattr(weights, "load", load)


@pytest.fixture
def taken(tmp_path):
    with Session(tiny_models(), timeline=LINE) as session:
        list(session.frames())
        session.log.save(tmp_path / "take.json")
        save_latents(tmp_path / "take.safetensors", session.latents, session.log, session.timeline)
        return session.log


def test_a_log_is_replayed(tiny, taken, tmp_path, capsys):
    out = tmp_path / "again.safetensors"
    assert cli.main(["replay", str(tmp_path / "take.json"), "--out", str(out), "--quiet"]) == 0
    assert capsys.readouterr().out == "the same, bit for bit: 3 blocks\n"
    with safe_open(str(out), "pt") as again, safe_open(str(tmp_path / "take.safetensors"), "pt") as first:
        assert torch.equal(again.get_tensor("latents"), first.get_tensor("latents"))
        assert Timeline.from_json(first.metadata()["timeline"]) == LINE
    assert cli.main(["replay", str(out), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["same"] is True
    assert cli.main(["replay", str(out), "--out", str(out)]) == 1
    assert "exists" in capsys.readouterr().err


def test_another_model_is_not_the_same_and_it_is_said(tiny, taken, tmp_path, capsys):
    assert cli.main(["replay", str(tmp_path / "take.json"), "--model", "other", "--quiet"]) == 1
    said = capsys.readouterr()
    assert said.out == "not the same: 3 of 3 blocks differ, the first is block 0\n"
    assert "another weights" in said.err


def style(name="style", seed=3):
    """An adapter of a tiny model's feed-forward layers, as a file has it."""
    draw, state = torch.Generator().manual_seed(seed), {}
    for path, layer in tiny_models().dit.named_modules():
        if path.endswith("ffn.0"):
            state[f"{path}.lora_A.weight"] = torch.randn(2, layer.in_features, generator=draw)
            state[f"{path}.lora_B.weight"] = torch.randn(layer.out_features, 2, generator=draw)
    return state


@pytest.fixture
def styled(tmp_path):
    """The log of a take under an adapter whose strength changes between two blocks, and the adapter's file."""
    save_file(style(), tmp_path / "style.safetensors")
    models = with_adapters(tiny_models())
    models.adapters.add(load_lora(tmp_path / "style.safetensors", name="look"), 0.5)
    with Session(models, timeline=LINE) as session:
        session.step()
        wait_for(lambda: len(session.log) == 1)
        models.adapters.set("look", 1.5)
        list(session.frames())
        session.log.save(tmp_path / "styled.json")
        assert [record.adapters[0][1] for record in session.log] == [0.5, 1.5, 1.5]
        assert session.log.origin.adapters[0].name == "look"
        assert TakeLog.from_json(session.log.to_json()) == session.log
    return tmp_path / "styled.json", tmp_path / "style.safetensors"


def test_live_adapters_are_named_and_weighed_as_they_were(tiny, styled, tmp_path, capsys):
    log, file = styled
    assert cli.main(["replay", str(log), "--quiet"]) == 1
    assert "made with live adapters: look (strength 0.5); name them with --lora" in capsys.readouterr().err
    assert cli.main(["replay", str(log), "--lora", str(file), "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.out == "the same, bit for bit: 3 blocks\n"
    assert "adapters" not in said.err
    assert cli.main(["replay", str(log), "--lora", f"{file}=0.7", "--quiet"]) == 1
    capsys.readouterr()
    save_file(style(seed=4), tmp_path / "look.safetensors")
    assert cli.main(["replay", str(log), "--lora", str(tmp_path / "look.safetensors"), "--quiet"]) == 1
    assert "other factors of live adapters: look" in capsys.readouterr().err


def test_an_adapter_that_a_log_does_not_know_counts_in_full(tiny, taken, styled, tmp_path, capsys):
    assert cli.main(["replay", str(tmp_path / "take.json"), "--lora", str(styled[1]), "--quiet"]) == 1
    assert "adapters are live here that were not there: style" in capsys.readouterr().err
    assert cli.main(["replay", str(tmp_path / "take.json"), "--lora", f"{styled[1]}=0", "--quiet"]) == 0


def test_a_replay_leaves_adapters_as_they_were(styled):
    log, file = styled
    models = with_adapters(tiny_models())
    models.adapters.add(load_lora(file, name="look"), 0.25)
    models.adapters.add(load_lora(file, name="other"), 2.0)
    models.adapters.switch("look", False)
    found = replay(read_log(log), models)
    assert found.same and not found.differences
    assert models.adapters.strengths == {"look": 0.0, "other": 2.0}
    models.adapters.switch("look", True)
    assert models.adapters.strengths["look"] == 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda head: head["origin"].update(adapters=5), "`adapters` must be a list"),
        (lambda head: head["origin"].update(adapters=[{"name": 5}]), "names and finite strengths"),
        (lambda head: head["origin"]["adapters"][0].update(factors=5), "`factors` must be a string"),
        (lambda head: head["blocks"][1].update(adapters=[["look"]]), r"blocks\[1\]: `adapters` must hold names"),
        (lambda head: head["blocks"][1].update(adapters=[["look", float("nan")]]), "names and finite strengths"),
    ],
)
def test_damaged_adapters_of_a_log(styled, change, message):
    head = json.loads(styled[0].read_text())
    change(head)
    with pytest.raises(ValueError, match=message):
        TakeLog.from_json(json.dumps(head))


def test_a_rendered_film_carries_its_log(tiny, tmp_path, capsys):
    LINE.save(tmp_path / "line.json")
    out = tmp_path / "film.mp4"
    assert cli.main(["render", "--timeline", str(tmp_path / "line.json"), "--out", str(out), "--quiet"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "line.json"]
    log = read_log(out)
    assert [record.mix is not None for record in log] == [False, True, False]
    capsys.readouterr()
    assert cli.main(["replay", str(out), "--quiet"]) == 0
    assert "the same, bit for bit: 3 blocks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.json"], "there is no log"),
        (["bad.json"], "not a log"),
        (["take.json", "--out", "take.mp4"], "must end in .safetensors"),
        (["take.json", "--out", "none/a.safetensors"], "there is no folder"),
        (["take.json", "--device", "xyz"], "`device`"),
        (["take.json", "--lora", "none.safetensors"], "there is no LoRA"),
        (["take.json", "--lora", "none.safetensors=x"], "FILE=STRENGTH with a number"),
        (["damaged.json"], "does not have"),
        (["shifted.json"], "starts at frame"),
    ],
)
def test_bad_replays(tiny, taken, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text("[")
    head = json.loads((tmp_path / "take.json").read_text())
    (tmp_path / "damaged.json").write_text(json.dumps({**head, "origin": {**head["origin"], "dtype": "float99"}}))
    head["blocks"][1]["first_frame"] = 7
    (tmp_path / "shifted.json").write_text(json.dumps(head))
    assert cli.main(["replay", *words, "--quiet"]) == 1
    assert message in capsys.readouterr().err


def test_latents_need_a_block(tmp_path, taken):
    with pytest.raises(ValueError, match="at least one block"):
        save_latents(tmp_path / "a.safetensors", [], taken)
