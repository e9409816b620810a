"""Names of tensors: from the layouts found in the wild to those of the official checkpoints.

Every function here maps one name; None means that the tensor belongs to nothing we load.

Source: Wan2.1's modules; diffusers' `WanTransformer3DModel` and `AutoencoderKLWan`; transformers' `UMT5EncoderModel`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

__all__ = ["dit_from_diffusers", "dit_to_diffusers", "plain", "vae_from_diffusers", "vae_to_diffusers"]

# What wrappers put in front of, or between, a network's own names.
_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
_PREFIXES = ("module.", "model.diffusion_model.", "diffusion_model.", "generator.", "base_model.model.", "model.")

# Official name -> diffusers name; whole dotted parts, the longest first.
_DIT_TOP = {
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
    "patch_embedding": "patch_embedding",
}
_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
# The norm before cross-attention is the third in Wan's list of parameters and the second in diffusers' order of use.
_DIT_BLOCK = {
    **{f"self_attn.{ours}": f"attn1.{theirs}" for ours, theirs in _ATTENTION.items()},
    **{f"cross_attn.{ours}": f"attn2.{theirs}" for ours, theirs in _ATTENTION.items()},
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "modulation": "scale_shift_table",
}

_VAE_TOP = {
    "conv1": "quant_conv",
    "conv2": "post_quant_conv",
    **{
        f"{half}.{ours}": f"{half}.{theirs}"
        for half in ("encoder", "decoder")
        for ours, theirs in {"conv1": "conv_in", "head.0": "norm_out", "head.2": "conv_out"}.items()
    },
}
_RESIDUAL = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}
_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}


def plain(name: str) -> str:
    """A transformer's name without what FSDP, compilation, DDP and pipeline wrappers put around it.

    Args:
        name: As in a file.
    """
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    changed = True
    while changed:
        changed = False
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                name, changed = name.removeprefix(prefix), True
    return name


def dit_from_diffusers(name: str) -> str | None:
    """The official name of a tensor of diffusers' Wan transformer."""
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if block:
        inner = _swap(block[2], {theirs: ours for ours, theirs in _DIT_BLOCK.items()})
        return f"blocks.{block[1]}.{inner}" if inner else name
    return _swap(name, {theirs: ours for ours, theirs in _DIT_TOP.items()}) or name


def dit_to_diffusers(name: str) -> str:
    """The inverse of `dit_from_diffusers`, for official names."""
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if block:
        return f"blocks.{block[1]}.{_swap(block[2], _DIT_BLOCK) or block[2]}"
    return _swap(name, _DIT_TOP) or name


def vae_from_diffusers(blocks: Sequence[int]) -> Callable[[str], str | None]:
    """Make the map from diffusers' VAE names to the official ones.

    Args:
        blocks: Residual blocks of each of the decoder's levels, shallow end last as in `up_blocks`.

    Returns:
        A function of one name. Upsampling follows each level's blocks, and the official list counts both.
    """
    starts = [sum(blocks[:level]) + level for level in range(len(blocks))]

    def rename(name: str) -> str | None:
        up = re.fullmatch(r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.(.+)", name)
        if up and int(up[1]) < len(starts):
            level, index = int(up[1]), int(up[3])
            place = starts[level] + (index if up[2] == "resnets" else blocks[level])
            return f"decoder.upsamples.{place}.{_residual_from(up[4])}"
        down = re.fullmatch(r"encoder\.down_blocks\.(\d+)\.(.+)", name)
        if down:
            return f"encoder.downsamples.{down[1]}.{_residual_from(down[2])}"
        middle = re.fullmatch(r"(encoder|decoder)\.mid_block\.(resnets\.[01]|attentions\.0)\.(.+)", name)
        if middle:
            place = {theirs: ours for ours, theirs in _MIDDLE.items()}[middle[2]]
            return f"{middle[1]}.middle.{place}.{_residual_from(middle[3])}"
        return _swap(name, {theirs: ours for ours, theirs in _VAE_TOP.items()}) or name

    return rename


def vae_to_diffusers(blocks: Sequence[int]) -> Callable[[str], str]:
    """Make the inverse of `vae_from_diffusers`.

    Args:
        blocks: Residual blocks of each of the decoder's levels.
    """

    def rename(name: str) -> str:
        up = re.fullmatch(r"decoder\.upsamples\.(\d+)\.(.+)", name)
        if up:
            level, index = _level_of(int(up[1]), blocks)
            kind = f"resnets.{index}" if index < blocks[level] else "upsamplers.0"
            return f"decoder.up_blocks.{level}.{kind}.{_swap(up[2], _RESIDUAL) or up[2]}"
        down = re.fullmatch(r"encoder\.downsamples\.(\d+)\.(.+)", name)
        if down:
            return f"encoder.down_blocks.{down[1]}.{_swap(down[2], _RESIDUAL) or down[2]}"
        middle = re.fullmatch(r"(encoder|decoder)\.middle\.([012])\.(.+)", name)
        if middle:
            inner = _swap(middle[3], _RESIDUAL) or middle[3]
            return f"{middle[1]}.mid_block.{_MIDDLE[middle[2]]}.{inner}"
        return _swap(name, _VAE_TOP) or name

    return rename


def _level_of(place: int, blocks: Sequence[int]) -> tuple[int, int]:
    for level, count in enumerate(blocks):
        if place <= count:
            return level, place
        place -= count + 1
    raise ValueError(f"`place` must lie within the decoder's {len(blocks)} levels, got {place} beyond them")


def _residual_from(name: str) -> str:
    return _swap(name, {theirs: ours for ours, theirs in _RESIDUAL.items()}) or name


def _swap(name: str, table: dict[str, str]) -> str | None:
    """The name with its leading dotted part replaced; None where the table has no such part."""
    for part in sorted(table, key=len, reverse=True):
        if name == part or name.startswith(part + "."):
            return table[part] + name[len(part) :]
    return None
