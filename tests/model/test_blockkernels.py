"""The kernels of the transformer's blocks against the same in plain steps, on GPUs or in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch
import torch.nn.functional as F

from studio.model.kernels import own_kernels
from studio.model.layers import RMSNorm
from studio.model.quantize import FP8, fp8_rows
from studio.model.rope import rotary, rotate

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
kernel = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(
        not INTERPRETED and not torch.cuda.is_available(),
        reason="needs a GPU, or TRITON_INTERPRET=1 before Triton loads",
    ),
]
DEVICE = "cpu" if INTERPRETED else "cuda"
EXACT = {torch.float32: 2e-6, torch.bfloat16: 5e-3, FP8: 4e-2}


def off(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.float() - exact.float()).norm() / exact.float().norm())


def agree(found: torch.Tensor, exact: torch.Tensor) -> bool:
    """Whether results are the exact ones rounded once, all but a few that noise pushed over the edge of a step."""
    if found.dtype != FP8:
        return off(found, exact) < EXACT[found.dtype]
    from tests.model.rounding_kernel import converted

    # A GPU must round well; in the interpreter the numbers are the kernel's business and their rounding is not.
    wanted = converted(exact, FP8)
    same = (found.contiguous().view(torch.uint8) == wanted.view(torch.uint8)).float().mean()
    return bool(same > 0.99) and (INTERPRETED or off(found, exact) < EXACT[FP8])


class TestOnAKernel:
    pytestmark = kernel

    @pytest.mark.parametrize("turn_keys", [True, False])
    @pytest.mark.parametrize("held", [torch.float32, torch.bfloat16, FP8])
    @pytest.mark.parametrize(("heads", "head"), [(3, 16), (2, 64), (12, 128)])
    def test_queries_keys_and_values_are_where_and_what_they_should_be(self, heads, head, held, turn_keys):
        from studio.model import blockkernels

        torch.manual_seed(head)
        batch, rows, dim = 2, 6, heads * head
        given = torch.float32 if held == torch.float32 else torch.bfloat16
        qkv = torch.randn(batch, rows, 3 * dim).to(DEVICE, given)
        norms = [RMSNorm(dim, 1e-6).to(DEVICE, given) for _ in range(2)]
        for norm in norms:
            norm.weight.data.normal_()
        turn = rotary(torch.arange(2, device=DEVICE) + 5, 1, 3, head)
        keys, values = (torch.zeros(batch, 4 * rows, heads, head, device=DEVICE, dtype=held) for _ in range(2))
        slots = keys[:, rows : 2 * rows], values[:, rows : 2 * rows]
        gains = norms[0].weight.data, norms[1].weight.data
        found = blockkernels.attention_inputs(qkv, gains, (1e-6, 1e-6), turn, slots, turn_keys=turn_keys)
        q, k, v = (part.float().unflatten(-1, (heads, head)) for part in qkv.chunk(3, dim=-1))
        q, k = (
            (F.rms_norm(x.flatten(2), (dim,), eps=1e-6) * norm.weight.data.float()).unflatten(-1, (heads, head))
            for x, norm in ((q, norms[0]), (k, norms[1]))
        )
        assert found.dtype == held
        assert agree(found, rotate(q, turn))
        assert agree(slots[0], rotate(k, turn) if turn_keys else k)
        assert agree(slots[1], v)
        for tensor in (keys, values):
            assert not tensor[:, :rows].float().any()
            assert not tensor[:, 2 * rows :].float().any()

    @pytest.mark.parametrize("width", [16, 40, 1000])
    def test_gelu_and_rows_of_fp8(self, width):
        from studio.model import blockkernels

        x = torch.randn(5, width).to(DEVICE, torch.bfloat16)
        x[3] = 0
        rows, scales = torch.empty_like(x, dtype=FP8), torch.empty(5, device=DEVICE)
        if INTERPRETED:
            block = 1 << (width - 1).bit_length()
            blockkernels._gelu_rows[(5,)](x, rows, scales, D=width, BLOCK=block, LARGEST=448.0)
        else:
            rows, scales = blockkernels.gelu_rows(x)
        exact = F.gelu(x.float(), approximate="tanh")
        wanted = fp8_rows(exact)
        torch.testing.assert_close(scales, wanted[1], rtol=1e-5, atol=1e-8)
        assert scales[3] == 1
        assert agree(rows, exact / wanted[1][:, None])
        if not INTERPRETED:
            assert off(rows.float() * scales[:, None], exact) < EXACT[FP8]


def test_a_processor_has_none():
    assert own_kernels(torch.device("cpu")) is None
