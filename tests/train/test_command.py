"""The command line: presets, saved configurations, lists, and what is missing."""

from __future__ import annotations

import pytest

import studio.train
from studio.train.__main__ import RECIPES, main
from studio.train.distillation import DISTILL_PRESETS, distill_preset
from studio.train.longtune import LongTuneConfig, long_tune_preset
from studio.train.pretraining import PretrainConfig
from studio.train.training import TRAININGS, training


def printed(*words: str):
    return main([*words, "--print"])


def test_a_preset_with_options_over_it(capsys):
    mine = printed("distill", "--preset", "wan2.1-t2v-1.3b", "--out", "o", "--steps", "9", "--average", "none")
    assert mine == distill_preset("wan2.1-t2v-1.3b", out="o", steps=9, average=None)
    assert "    guidance=3.0,\n" in capsys.readouterr().out


def test_lists_are_written_with_commas():
    mine = printed("long_tune", "--preset", "miniature", "--out", "o", "--teacher", "t", "--switch-frames", "21,39",
                   "--trackers", "tensorboard,csv", "--no-recompute")  # fmt: skip
    assert mine == long_tune_preset("miniature", out="o", teacher="t", switch_frames=(21, 39), recompute=False,
                                    trackers=("tensorboard", "csv"))  # fmt: skip
    assert printed("long_tune", "--preset", "wan2.1-t2v-1.3b", "--out", "o", "--switch-frames", "").switches == ()


def test_a_file_of_something_else_and_a_list_of_nothing(tmp_path, capsys):
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(SystemExit):
        printed("distill", str(tmp_path / "list.json"))
    assert "must hold the fields of one configuration, got list" in capsys.readouterr().err
    assert (
        printed("distill", "--preset", "miniature", "--out", "o", "--teacher", "t", "--trackers", "none").trackers == ()
    )


def test_a_saved_configuration_with_options_over_it(tmp_path):
    mine = LongTuneConfig(out="o", generator="g", teacher="t", switch_frames=(21,))
    path = str(mine.save(tmp_path / "c.json"))
    assert printed("long_tune", "--config", path) == mine
    assert printed("long_tune", "--config", path, "--lora", "none").lora is None
    assert printed("long_tune", path, "--seconds", "500").seconds == 500.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["distill", "--preset", "miniature", "--out", "o"], "teacher"),
        (["distill", "--preset", "minature"], "invalid choice"),
        (["distill", "--preset", "miniature", "--config", "c.json"], "one of CONFIG, --preset and --config"),
        (["distill", "nowhere.json"], "nowhere.json"),
        (["distill", __file__], "test_command.py: "),
        (["distill", "--stepz", "3"], "unrecognized"),
        (["vae", "--out", "o", "--frames", "16"], "`frames`"),
        (["pretrain", "--preset", "miniature", "--out", "o", "--frames", "3"], "use 2"),
        (["long_tune", "--switch-frames", "a,b"], "invalid"),
        (["initialise", "--out", "o", "--generator", "g", "--teacher", "t", "--steps", "0"], "at least 1"),
    ],
)
def test_what_is_wrong_is_said(words, message, capsys):
    with pytest.raises(SystemExit):
        main(words)
    assert message in capsys.readouterr().err


def test_of_several_processes_the_first_one_speaks(capsys, monkeypatch):
    from studio.train.runtime import report

    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        report(f"rank {rank}")
    assert capsys.readouterr().out == "rank 0\n"


def test_every_recipe_of_a_run_has_presets_that_build():
    common = {"out": "o", "generator": "g", "teacher": "t"}
    for recipe in TRAININGS:
        words = [word for name, value in common.items() for word in (f"--{name}", value)]
        if recipe == "pretrain":
            words = words[:-2]
        assert printed(recipe, *words).out == "o"
    assert set(TRAININGS) < set(RECIPES)
    assert set(DISTILL_PRESETS) == {"miniature", "pocket", "wan2.1-t2v-1.3b"}


def test_the_public_names_are_there():
    for name in studio.train.__all__:
        found = getattr(studio.train, name)
        if name in TRAININGS:
            assert found is training(name) and repr(found).startswith(f"<studio.train.{name}: ")
        elif name.endswith("_preset"):
            assert found == training(name.removesuffix("_preset")).preset
        else:
            assert name == "POCKET" or found.__name__ == name
    assert studio.train.PretrainConfig is PretrainConfig and "distill" in dir(studio.train)


def test_a_training_refuses_what_is_not_its_own():
    mine = distill_preset("miniature", out="o", teacher="t")
    with pytest.raises(TypeError, match="must be a LongTuneConfig, got DistillConfig"):
        studio.train.long_tune(mine)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="clips"):
        studio.train.distill(mine, networks=object(), clips=[])  # type: ignore[arg-type]


def test_fresh_models_begin_a_training(tmp_path):
    from studio.train.networks import fresh_models
    from tests.model.tiny import tiny_models

    models = fresh_models(tiny_models().config, seed=3)
    again = fresh_models(tiny_models().config, seed=3)
    assert all((a == b).all() for a, b in zip(models.dit.parameters(), again.dit.parameters(), strict=True))
    assert models.text.unknown_words("a red fox runs in the snow") == []
