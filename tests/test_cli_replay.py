"""`studio replay`, and the logs that films and latents carry."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

from studio import cli
from studio.live import Session, read_log
from studio.live.latents import save_latents
from studio.timeline import Segment, Timeline, Transition
from tests.live.doubles import tiny_models

pytestmark = pytest.mark.usefixtures("one_thread")

FOX, SEA = "a red fox", "the blue sea"
LINE = Timeline((Segment(FOX), Segment(SEA, 1, transition=Transition(1))), 3, 5)


@pytest.fixture
def tiny(monkeypatch):
    import studio.model.weights as weights

    def load(name, device=None, **options):
        models = tiny_models()
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
