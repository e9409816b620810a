"""Adapters: exact arithmetic, merged and live, every naming, and everything that can be wrong with one."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from studio.model.dit import WanDiT
from studio.model.filling import fill
from studio.model.lora import Adapters, LoRA, Pair, beside, check_targets, load_lora, merge, merging
from studio.model.quantize import quantized
from studio.model.renames import dit_to_diffusers
from studio.model.sources import open_source
from tests.model.official import DIT, dit_state, linears, lora_state


def network(seed: int = 0) -> WanDiT:
    dit = WanDiT(DIT)
    dit.load_state_dict(dit_state(seed=seed))
    return dit.eval().requires_grad_(False)


def flow(dit: WanDiT) -> torch.Tensor:
    draw = torch.Generator().manual_seed(9)
    x, text = torch.randn(1, 2, 16, 4, 4, generator=draw), torch.randn(1, 512, 16, generator=draw)
    with torch.no_grad():
        return dit(x, torch.tensor([400.0]), text)


def stored(tmp_path, state, name="a.safetensors"):
    path = tmp_path / name
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


def by_hand(state, strength, seed=0) -> WanDiT:
    dit = network(seed)
    weights = dit.state_dict()
    for name in linears():
        if f"base_model.model.{name}.lora_A.weight" in state:
            down, up = (state[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
            weights[f"{name}.weight"] += strength * (up @ down)
    dit.load_state_dict(weights)
    return dit


@pytest.mark.parametrize("rank", [1, 3, 256])
@pytest.mark.parametrize(("alpha", "strength"), [(None, 1.0), (8.0, 0.5), (1.0, -2.0)])
def test_merged_and_live_are_one_sum(tmp_path, rank, alpha, strength):
    state = lora_state(rank)
    lora = load_lora(stored(tmp_path, state), alpha=alpha)
    expected = flow(by_hand(state, strength * (1.0 if alpha is None else alpha / rank)))
    merged, live = network(), network()
    merge(merged, [(lora, strength)])
    Adapters(live).add(lora, strength)
    torch.testing.assert_close(flow(merged), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(flow(live), expected, atol=1e-4, rtol=1e-3)
    assert (expected - flow(network())).abs().max() > 1e-3
    assert live.state_dict().keys() == network().state_dict().keys()


def test_several_at_once(tmp_path):
    states = [lora_state(2, seed=5), lora_state(4, seed=6, names=linears()[3:7])]
    loras = [load_lora(stored(tmp_path, state, f"{index}.safetensors")) for index, state in enumerate(states)]
    merged, live = network(), network()
    merge(merged, [(loras[0], 0.7), (loras[1], -1.5)])
    adapters = Adapters(live)
    adapters.add(loras[0], 0.7)
    adapters.add(loras[1], -1.5)
    assert adapters.strengths == {"0": 0.7, "1": -1.5}
    torch.testing.assert_close(flow(live), flow(merged), atol=1e-4, rtol=1e-3)


def test_on_off_weighed_and_taken_away(tmp_path):
    dit = network()
    plain, adapters = flow(dit), Adapters(dit)
    adapters.add(load_lora(stored(tmp_path, lora_state()), name="style"))
    on = flow(dit)
    adapters.switch("style", False)
    assert torch.equal(flow(dit), plain)
    assert adapters.strengths == {"style": 0.0}
    adapters.set("style", 1.0)
    assert torch.equal(flow(dit), plain)
    adapters.switch("style", True)
    assert torch.equal(flow(dit), on)
    adapters.set("style", 0.5)
    assert not torch.equal(flow(dit), on)
    adapters.remove("style")
    assert torch.equal(flow(dit), plain)
    assert not adapters.strengths
    assert not list(dit.named_buffers())
    adapters.add(load_lora(tmp_path / "a.safetensors", name="style"))
    assert torch.equal(flow(dit), on)


def test_strengths_change_under_inference_mode(tmp_path):
    dit = network()
    adapters = Adapters(dit)
    adapters.add(load_lora(stored(tmp_path, lora_state())))
    with torch.inference_mode():
        before = dit.blocks[0].ffn[0](torch.ones(1, DIT.dim))
        adapters.set("a", 0.0)
        assert not torch.equal(dit.blocks[0].ffn[0](torch.ones(1, DIT.dim)), before)


def test_every_change_counts_up_the_revision_after_it_is_made(tmp_path):
    dit, lora = network(), load_lora(stored(tmp_path, lora_state()))
    adapters, seen = Adapters(dit), [dit.revision]
    for change in (
        lambda: adapters.add(lora),
        lambda: adapters.set("a", 0.5),
        lambda: adapters.switch("a", False),
        lambda: adapters.remove("a"),
        lambda: merge(dit, [(lora, 1.0)]),
    ):
        change()
        seen.append(dit.revision)
    assert seen == sorted(set(seen))


def test_an_adapter_may_be_taken_away_in_the_middle_of_a_layer(tmp_path):
    """A hook that comes first stands for the other thread: torch has listed all hooks when it runs."""
    dit, lora = network(), load_lora(stored(tmp_path, lora_state()))
    layer, x, adapters = dit.blocks[0].ffn[0], torch.ones(1, DIT.dim), Adapters(dit)
    plain = layer(x)
    adapters.add(lora)
    once = layer(x)
    adapters.remove("a")
    handle = layer.register_forward_hook(lambda *_: adapters.remove("b"))
    adapters.add(lora)
    adapters.add(LoRA(name="b", layers=lora.layers))
    assert torch.equal(layer(x), once)
    handle.remove()
    assert torch.equal(layer(x), once)
    adapters.remove("a")
    assert torch.equal(layer(x), plain)
    assert not beside(layer)


def test_an_adapter_takes_the_place_of_another():
    dit = network()
    names, adapters = [name for name, _ in dit.named_modules()], Adapters(dit)
    pair = Pair(down=torch.ones(2, DIT.dim), up=torch.ones(DIT.ffn_dim, 2), scale=1.0)
    for name in "abcab":
        adapters.add(LoRA(name=name, layers={"blocks.0.ffn.0": pair}))
        added = {name for name, _ in dit.named_modules()} - set(names)
        assert added == {f"blocks.0.ffn.0.lora_{slot}" for slot in range(len(added))}
        if len(added) > 1:
            adapters.remove(next(iter(adapters.strengths)))
    for name in list(adapters.strengths):
        adapters.remove(name)
    assert [name for name, _ in dit.named_modules()] == names


def test_a_fingerprint_tells_factors_and_scales_and_no_names(tmp_path):
    state = lora_state()
    one = load_lora(stored(tmp_path, state))
    assert one.fingerprint == load_lora(stored(tmp_path, state, "b.safetensors")).fingerprint
    assert one.fingerprint != load_lora(tmp_path / "b.safetensors", alpha=1).fingerprint
    state["base_model.model.blocks.0.ffn.0.lora_A.weight"][0, 0] += 1
    assert one.fingerprint != load_lora(stored(tmp_path, state, "c.safetensors")).fingerprint
    adapters = Adapters(network())
    adapters.add(one)
    assert adapters.fingerprints == {"a": one.fingerprint}


def test_a_live_adapter_follows_the_network_and_sits_on_int8(tmp_path):
    lora = load_lora(stored(tmp_path, lora_state()))
    dit = quantized(network())
    plain, adapters = flow(dit), Adapters(dit)
    adapters.add(lora)
    assert not torch.equal(flow(dit), plain)
    with pytest.raises(ValueError, match="not quantised"):
        merge(dit, [(lora, 1.0)])
    half = network().to(torch.bfloat16)
    Adapters(half).add(lora)
    assert {buffer.dtype for name, buffer in half.named_buffers() if "down" in name} == {torch.bfloat16}


def test_halves_are_merged_with_one_rounding(tmp_path):
    state = lora_state()
    dit, exact = network().to(torch.bfloat16), network()
    exact.load_state_dict({name: value.bfloat16().float() for name, value in dit_state().items()})
    lora = load_lora(stored(tmp_path, state))
    for net in (dit, exact):
        merge(net, [(lora, 1.0), (lora, 1.0)])
    key = "blocks.0.ffn.0.weight"
    assert torch.equal(dit.state_dict()[key], exact.state_dict()[key].bfloat16())


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.bfloat16])
def test_a_file_of_few_bits_does_not_round_what_is_merged_into_it(tmp_path, kind):
    """The merged weights are rounded to the type in memory alone."""
    name, state = "blocks.0.ffn.0.weight", {key: value / 100 for key, value in lora_state().items()}
    coarse = {key: value.to(kind) if value.dim() == 2 else value for key, value in dit_state().items()}
    lora, source = load_lora(stored(tmp_path, state)), open_source(stored(tmp_path, coarse, "b.safetensors"))
    expected = coarse[name].float() + lora.layers["blocks.0.ffn.0"].delta()
    assert (expected - coarse[name].float()).norm() > 0
    for dtype in (torch.float32, torch.bfloat16, None):
        dit = WanDiT(DIT)
        fill(dit, source, dtype=dtype, edit=merging([(lora, 1.0)], dit))
        wanted = kind if dtype is None else dtype
        assert torch.equal(dit.state_dict()[name], expected.to(wanted))


# Names


def pairs(lora: LoRA) -> dict[str, torch.Tensor]:
    return {name: pair.delta() for name, pair in check_targets(lora, network()).layers.items()}


def renamed(make) -> dict[str, torch.Tensor]:
    state = {}
    for key, value in lora_state().items():
        layer, half = key.removeprefix("base_model.model.").removesuffix(".weight").rsplit(".", 1)
        state[make(layer, half[-1])] = value
    return state


def diffusers(layer: str) -> str:
    return dit_to_diffusers(f"{layer}.weight").removesuffix(".weight")


NAMES = {
    "peft with another adapter's name": lambda layer, half: f"base_model.model.{layer}.lora_{half}.my-style.weight",
    "diffsynth": lambda layer, half: f"pipe.dit.{layer}.lora_{half}.default.weight",
    "peft with an adapter's name": lambda layer, half: f"base_model.model.{layer}.lora_{half}.default.weight",
    "bare": lambda layer, half: f"{layer}.lora_{half}.weight",
    "comfy": lambda layer, half: f"diffusion_model.{layer}.lora_{half}.weight",
    "wrapper": lambda layer, half: f"model.{layer}.lora_{half}.weight",
    "fsdp": lambda layer, half: f"base_model.model.{layer}._fsdp_wrapped_module.lora_{half}.weight",
    "down and up": lambda layer, half: f"diffusion_model.{layer}.{'lora_down' if half == 'A' else 'lora_up'}.weight",
    "kohya": lambda layer, half: (
        f"lora_unet_{layer.replace('.', '_')}.{'lora_down' if half == 'A' else 'lora_up'}.weight"
    ),
    "diffusers": lambda layer, half: f"transformer.{diffusers(layer)}.lora_{half}.weight",
}


@pytest.mark.parametrize("names", NAMES)
def test_every_naming_is_read(tmp_path, names):
    expected = pairs(load_lora(stored(tmp_path, lora_state())))
    got = pairs(load_lora(stored(tmp_path, renamed(NAMES[names]), "b.safetensors")))
    assert got.keys() == expected.keys() == set(linears())
    assert all(torch.equal(got[name], expected[name]) for name in got)


@pytest.mark.parametrize("content", ["bare", "generator_lora", "with critic"])
def test_checkpoints_of_trainers(tmp_path, content):
    state = lora_state()
    whole = {"generator_lora": state, "critic_lora": lora_state(seed=8), "step": 4}
    content = {"bare": state, "generator_lora": {"generator_lora": state}, "with critic": whole}[content]
    torch.save(content, tmp_path / "lora.pt")
    expected = pairs(load_lora(stored(tmp_path, state)))
    got = pairs(load_lora(tmp_path / "lora.pt"))
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_alpha_comes_from_the_file_then_its_neighbour_then_the_rank(tmp_path):
    state = lora_state(4, names=["blocks.0.ffn.0"])
    file = stored(tmp_path, state)
    scale = lambda **options: load_lora(file, **options).layers["blocks.0.ffn.0"].scale  # noqa: E731
    assert scale() == 1.0
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "r": 4}))
    assert scale() == 2.0
    stored(tmp_path, {**state, "base_model.model.blocks.0.ffn.0.alpha": torch.tensor(1.0)})
    assert scale() == 0.25
    assert scale(alpha=6) == 1.5


def test_rank_stabilised_adapters(tmp_path):
    file = stored(tmp_path, lora_state(4, names=["blocks.0.ffn.0"]))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "use_rslora": True}))
    assert load_lora(file).layers["blocks.0.ffn.0"].scale == 4.0


def test_each_layer_may_have_its_own_alpha(tmp_path):
    file = stored(tmp_path, lora_state(4, names=["blocks.0.ffn.0", "blocks.1.ffn.0", "blocks.1.self_attn.q"]))
    patterns = {"blocks.0.ffn.0": 16, r"blocks\.\d+\.self_attn\.q": 2, "0.ffn": 1}
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "r": 9, "alpha_pattern": patterns}))
    scales = {name: pair.scale for name, pair in load_lora(file).layers.items()}
    assert scales == {"blocks.0.ffn.0": 4.0, "blocks.1.ffn.0": 2.0, "blocks.1.self_attn.q": 0.5}
    assert {pair.scale for pair in load_lora(file, alpha=4).layers.values()} == {1.0}


def test_the_header_of_diffusers_tells_alpha(tmp_path):
    state = {key.replace("base_model.model", "transformer"): value for key, value in lora_state(4).items()}
    told = {"transformer.lora_alpha": 8, "transformer.r": 4, "transformer.alpha_pattern": {"blocks.0.attn1.to_q": 2}}
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(state, file, {"format": "pt", "lora_adapter_metadata": json.dumps(told)})
    layers = load_lora(tmp_path).layers
    assert layers["blocks.0.self_attn.q"].scale == 0.5
    assert layers["blocks.0.ffn.0"].scale == 2.0
    save_file(state, file, {"lora_adapter_metadata": "[1]"})
    with pytest.raises(ValueError, match="must be PEFT's configuration"):
        load_lora(file)


def test_an_alpha_of_zero_is_off(tmp_path):
    name = "blocks.0.ffn.0"
    file = stored(tmp_path, {**lora_state(4, names=[name]), f"base_model.model.{name}.alpha": torch.tensor(0.0)})
    assert load_lora(file).layers[name].scale == 0.0


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), float("-inf")])
def test_an_alpha_that_is_no_number_is_refused_wherever_it_comes_from(tmp_path, alpha):
    name = "blocks.0.ffn.0"
    state = lora_state(4, names=[name])
    file = stored(tmp_path, {**state, f"base_model.model.{name}.alpha": torch.tensor(alpha)})
    with pytest.raises(ValueError, match=rf"a finite alpha of each layer, got 1 others: {alpha:g} for {name}"):
        load_lora(file)
    assert load_lora(file, alpha=4).layers[name].scale == 1.0
    file = stored(tmp_path, state)
    for told in ({"lora_alpha": alpha}, {"lora_alpha": 4, "alpha_pattern": {name: alpha}}):
        (tmp_path / "adapter_config.json").write_text(json.dumps(told))
        with pytest.raises(ValueError, match=r"adapter_config\.json must be .*finite") as found:
            load_lora(file)
        assert f"is {alpha:g}" in str(found.value)


def test_a_pattern_that_is_none_is_named_with_its_file(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 4, "alpha_pattern": {"blocks.(": 3}}))
    with pytest.raises(
        ValueError, match=r"adapter_config\.json must be .*'blocks\.\(', which is no regular expression"
    ):
        load_lora(stored(tmp_path, lora_state()))


def test_an_adapter_beside_a_whole_network(tmp_path):
    torch.save({"generator": dit_state(), "generator_lora": lora_state()}, tmp_path / "both.pt")
    assert load_lora(tmp_path / "both.pt").layers.keys() == set(linears())


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "pytorch_lora_weights.safetensors"])
def test_a_folder_of_peft_or_diffusers(tmp_path, name):
    stored(tmp_path, lora_state(), name)
    assert load_lora(tmp_path).layers.keys() == set(linears())


def test_an_adapter_beside_fp8_keeps_its_bits(tmp_path):
    state = {name: value / 100 for name, value in lora_state().items()}
    dit = quantized(network(), "fp8")
    before = dit.blocks[0].ffn[0](torch.ones(1, DIT.dim))
    Adapters(dit).add(load_lora(stored(tmp_path, state)))
    factors = [state[f"base_model.model.blocks.0.ffn.0.lora_{half}.weight"] for half in "BA"]
    added = (factors[0] @ factors[1]).sum(1)
    torch.testing.assert_close((dit.blocks[0].ffn[0](torch.ones(1, DIT.dim)) - before)[0], added, atol=1e-5, rtol=1e-3)


# What is refused


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no LoRA"):
        load_lora(tmp_path / "x.safetensors")
    with pytest.raises(FileNotFoundError, match="holds no adapter_model"):
        load_lora(tmp_path)


def test_a_file_that_is_no_adapter(tmp_path):
    with pytest.raises(ValueError, match="must be a LoRA, got a Wan transformer; name it as the model"):
        load_lora(stored(tmp_path, dit_state()))


@pytest.mark.parametrize("content", [{"critic_lora": lora_state()}, {"critic": dit_state(), "step": 3}])
def test_a_critic_is_no_adapter(tmp_path, content):
    torch.save(content, tmp_path / "lora.pt")
    with pytest.raises(
        ValueError, match="must be a LoRA, got a critic, which only training uses; name the generator's"
    ):
        load_lora(tmp_path / "lora.pt")


def test_half_a_pair(tmp_path):
    state = lora_state()
    del state["base_model.model.blocks.0.ffn.0.lora_B.weight"]
    with pytest.raises(ValueError, match=r"1 half: blocks\.0\.ffn\.0"):
        load_lora(stored(tmp_path, state))


def test_factors_that_do_not_fit_each_other(tmp_path):
    state = lora_state()
    state["base_model.model.blocks.0.ffn.0.lora_B.weight"] = torch.zeros(48, 5)
    with pytest.raises(ValueError, match=r"\[rank, in\] and \[out, rank\], got \[3, 128\] and \[48, 5\]"):
        load_lora(stored(tmp_path, state))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(tmp_path, bad):
    state = lora_state()
    state["base_model.model.blocks.0.ffn.0.lora_B.weight"][0, 0] = bad
    with pytest.raises(ValueError, match=r"finite numbers, got others in blocks\.0\.ffn\.0"):
        load_lora(stored(tmp_path, state))


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("base_model.model.blocks.0.ffn.0.lora_magnitude_vector", "DoRA"),
        ("diffusion_model.blocks.0.ffn.0.diff", "whole differences"),
        ("diffusion_model.blocks.0.ffn.0.diff_b", "whole differences"),
        ("blocks.0.ffn.0.lokr_w1", "LoKr"),
        ("blocks.0.ffn.0.something", "1 others"),
    ],
)
def test_other_kinds_of_adapters_are_named(tmp_path, key, kind):
    with pytest.raises(ValueError, match=kind):
        load_lora(stored(tmp_path, {**lora_state(), key: torch.zeros(3)}))


def test_an_adapter_for_another_model(tmp_path):
    pair = Pair(down=torch.zeros(2, 64), up=torch.zeros(64, 2), scale=1.0)
    lora = LoRA(name="big", layers={"blocks.0.ffn.0": pair, "blocks.77.ffn.0": pair})
    message = r"1 unknown: blocks\.77\.ffn\.0; 1 misshapen: blocks\.0\.ffn\.0 \[64, 64\] instead of \[48, 128\]"
    with pytest.raises(ValueError, match=message):
        Adapters(network()).add(lora)
    with pytest.raises(ValueError, match="is it for another base model"):
        merge(network(), [(lora, 1.0)])


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), "much", None, True])
def test_strengths_must_be_finite(tmp_path, strength):
    lora = load_lora(stored(tmp_path, lora_state()))
    adapters = Adapters(network())
    with pytest.raises(ValueError, match="finite number"):
        adapters.add(lora, strength)
    with pytest.raises(ValueError, match="finite number"):
        merge(network(), [(lora, strength)])
    adapters.add(lora)
    with pytest.raises(ValueError, match="finite number"):
        adapters.set("a", strength)


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan"), float("inf")])
def test_alpha_must_be_positive(tmp_path, alpha):
    with pytest.raises(ValueError, match="`alpha` must be positive"):
        load_lora(stored(tmp_path, lora_state()), alpha=alpha)


@pytest.mark.parametrize("config", ["{ not json", "[1]", '{"lora_alpha": "much"}'])
def test_a_neighbour_that_is_no_configuration(tmp_path, config):
    (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(ValueError, match=r"adapter_config\.json must be"):
        load_lora(stored(tmp_path, lora_state()))


def test_names_of_adapters(tmp_path):
    lora = load_lora(stored(tmp_path, lora_state()), name="style")
    adapters = Adapters(network())
    adapters.add(lora)
    with pytest.raises(ValueError, match="a name of its own, got 'style' again"):
        adapters.add(lora)
    with pytest.raises(ValueError, match="did you mean 'style'"):
        adapters.set("styel", 1.0)
    with pytest.raises(ValueError, match="there are: style"):
        adapters.remove("x")
