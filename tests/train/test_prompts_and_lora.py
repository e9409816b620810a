"""Prompts by index, draws by counting, adapters under the public names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from studio.train import draws
from studio.train.lora import add_lora, load_lora, lora_state, merged_state
from studio.train.prompts import PromptList, WorldPrompts, checked_source, read_prompts
from tests.contracts import tiny
from tests.train import nets


def test_draws_are_told_apart_by_every_part():
    parts = [(0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1), (0, "a", 1, 0), (0, "a1", ""), (0, "a", "1")]
    assert len({draws.key(*part) for part in parts}) == len(parts)
    assert draws.key(0, "a", 1) == draws.key(0, "a", 1)
    assert {draws.choice(3, 0, step) for step in range(50)} == {0, 1, 2}
    assert draws.agreed(7) == 7
    with pytest.raises(ValueError, match="`count` must be at least 1"):
        draws.choice(0)


def test_each_pass_over_a_list_meets_every_prompt_once_in_another_order():
    prompts = PromptList([str(n) for n in range(20)], seed=3)
    passes = [[prompts(20 * turn + i)[0] for i in range(20)] for turn in range(2)]
    assert sorted(passes[0]) == sorted(passes[1]) and passes[0] != passes[1]
    assert all(first != second for first, second in map(prompts, range(20)))
    assert prompts(31) == PromptList([str(n) for n in range(20)], seed=3)(31)


def test_the_world_is_endless_and_repeatable_and_its_switches_change_the_scene():
    world = WorldPrompts(seed=1)
    pairs = [world(index) for index in (0, 1, 10**9)]
    assert pairs == [WorldPrompts(seed=1)(index) for index in (0, 1, 10**9)]
    assert len(set(pairs)) == 3 and all(first != second for first, second in pairs)


def test_files_of_prompts(tmp_path):
    (tmp_path / "a.txt").write_text("a fox\n\n a cat \n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('"x"\n["a", "b"]\n{"prompts": ["c", "d"]}\n{"prompt": "e"}\n', encoding="utf-8")
    assert sorted(read_prompts(tmp_path / "a.txt").pairs) == [("a cat", None), ("a fox", None)]
    assert set(read_prompts(tmp_path / "b.jsonl").pairs) == {("x", None), ("a", "b"), ("c", "d"), ("e", None)}


def test_files_as_editors_write_them(tmp_path):
    (tmp_path / "a.TXT").write_bytes("\ufeffa fox\r\na\x0bcat\u2028runs\r\n".encode())
    assert read_prompts(tmp_path / "a.TXT").pairs == [("a fox", None), ("a\x0bcat\u2028runs", None)]
    (tmp_path / "b.JSONL").write_text('\ufeff"a\u2028fox"\n{"prompts": ["a", "b"]}\n', encoding="utf-8")
    assert read_prompts(tmp_path / "b.JSONL").pairs == [("a\u2028fox", None), ("a", "b")]
    (tmp_path / "c.json").write_text('["a", "b"]', encoding="utf-8")
    with pytest.raises(ValueError, match=r"one prompt a line; name a \.txt or \.jsonl"):
        read_prompts(tmp_path / "c.json")
    assert PromptList([["a fox", "a red fox"], "rain"]).pairs == [("a fox", "a red fox"), ("rain", None)]


def test_prompts_and_what_they_switch_to_in_two_files(tmp_path):
    (tmp_path / "a.txt").write_text("a fox\n\na cat\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("a red fox\n\na blue cat\n", encoding="utf-8")
    pairs = read_prompts(tmp_path / "a.txt", after=tmp_path / "b.txt").pairs
    assert pairs == [("a fox", "a red fox"), ("a cat", "a blue cat")]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("a\nb\n", "c\n", r"a.jsonl, line 2: .*b.jsonl must have a prompt in the same line"),
        ("a\n\nb\n", "c\nd\ne\n", r"b.jsonl, line 2: .*a.jsonl must have"),
        ('a\n["b", "c"]\n', "d\ne\n", r"a.jsonl, line 2: one prompt is wanted"),
    ],
)
def test_prompts_without_a_partner_are_told_by_their_number(tmp_path, first, second, message):
    for name, text in (("a", first), ("b", second)):
        lines = [line if line.startswith("[") or not line else f'"{line}"' for line in text.splitlines()]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_prompts(tmp_path / "a.jsonl", after=tmp_path / "b.jsonl")


def test_one_text_is_no_list_of_prompts():
    with pytest.raises(ValueError, match="must be texts, got the one text 'a fox'"):
        PromptList("a fox")
    with pytest.raises(ValueError, match=r"the one text 'p\.txt'; .* name a file of prompts in the config"):
        PromptList(Path("p.txt"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"ok"\n{broken\n', "line 2"),
        ('["a", "b", "c"]\n', "line 1: prompt 1 must be a text or a pair"),
        ('"ok"\n\n[1, "b"]\n', "line 3: prompt 3 must be a text that is not empty"),
        ('{"text": "a"}\n', "line 1"),
        ('"  "\n', "must be a text that is not empty"),
        ("\n", "at least one prompt"),
    ],
)
def test_bad_lines_are_told_by_their_number(tmp_path, text, message):
    (tmp_path / "p.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_prompts(tmp_path / "p.jsonl")


def test_a_file_that_is_no_text_or_not_there(tmp_path):
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="must be UTF-8"):
        read_prompts(tmp_path / "p.txt")
    with pytest.raises(FileNotFoundError, match=r"name a \.txt or \.jsonl"):
        read_prompts(tmp_path / "q.txt")


def output(dit):
    with torch.no_grad():
        return dit(tiny.latents(3), torch.full((1,), 500.0), tiny.text())


def test_new_adapters_change_nothing_and_alone_can_learn():
    dit = add_lora(tiny.dit(), 2)
    assert torch.equal(output(dit), output(tiny.dit()))
    trained = [name for name, parameter in dit.named_parameters() if parameter.requires_grad]
    assert trained and all(".lora_" in name for name in trained)


def test_adapters_have_the_public_names_and_go_to_another_network():
    dit, other = add_lora(tiny.dit(), 2, seed=1), add_lora(tiny.dit(), 2, seed=2)
    for parameter in dit.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.1)
    state = lora_state(dit)
    assert len(state) == 2 * 10 * tiny.DIT.layers
    assert state["base_model.model.blocks.1.ffn.2.lora_A.weight"].shape == (2, tiny.DIT.ffn_dim)
    assert state["base_model.model.blocks.0.cross_attn.k.lora_B.weight"].shape == (tiny.DIT.dim, 2)
    load_lora(other, state)
    assert torch.equal(output(dit), output(other)) and not torch.equal(output(dit), output(tiny.dit()))


def test_misfitting_adapters_are_refused():
    dit = add_lora(tiny.dit(), 2)
    state = lora_state(dit)
    with pytest.raises(ValueError, match="1 missing and 0 unexpected"):
        load_lora(dit, dict(list(state.items())[1:]))
    with pytest.raises(ValueError, match="must have shape"):
        load_lora(dit, lora_state(add_lora(tiny.dit(), 3)))
    with pytest.raises(ValueError, match="has adapters already"):
        add_lora(dit, 2)
    with pytest.raises(ValueError, match="`rank` must be at least 1"):
        add_lora(tiny.dit(), 0)
    with pytest.raises(ValueError, match="call `add_lora` first"):
        lora_state(tiny.dit())


def test_small_updates_of_frozen_halves_are_not_lost_in_the_merge():
    dit = add_lora(tiny.dit().to(torch.bfloat16), 2)
    layer = dit.blocks[0].ffn[0]
    frozen = layer.base_layer.weight.float()
    with torch.no_grad():
        layer.lora_A["default"].weight.fill_(1e-3)
        layer.lora_B["default"].weight.fill_(1e-2)
    large = frozen[frozen.abs() > 0.1]
    assert torch.equal((large + 2e-5).bfloat16().float(), large), "halves would lose it"
    merged = merged_state(dit)
    assert merged.keys() == tiny.dit().state_dict().keys()
    change = merged["blocks.0.ffn.0.weight"] - frozen
    torch.testing.assert_close(change, torch.full_like(frozen, 2e-5), atol=1e-7, rtol=0)
    assert merged["patch_embedding.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("answer", ["ab", "a fox", ("a fox", None), ("", "b"), 3, None, ("a", "b", "c")])
def test_a_function_that_gives_no_pair_of_texts_is_told_so(answer):
    source = checked_source(lambda index: answer)
    with pytest.raises(ValueError, match="must be a"):
        source(2)
    assert checked_source(nets.PROMPTS)(1) == nets.PROMPTS(1)
