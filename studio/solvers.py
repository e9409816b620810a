"""Loop: solvers of the probability-flow ODE, for many-step teachers: Euler and UniPC, with one signature.

A solver holds a falling table of sigmas that ends at 0 and walks down it, one network call a step. It keeps what its
order needs of the past, so one solver serves one trajectory at a time; `reset` begins another.

Source: Euler as in flow matching (Lipman et al., 2023, arXiv:2210.02747); UniPC (Zhao et al., 2023, arXiv:2302.04867)
in the flow form of Wan2.1 (Wan Team, 2025, arXiv:2503.20314).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from studio.schedule import TRAIN_STEPS, shift_sigma

__all__ = ["SOLVERS", "EulerSolver", "FlowSolver", "UniPCSolver", "solve"]

Flow = Callable[[Tensor, Tensor], Tensor]


class FlowSolver(ABC):
    """A walk from noise to a clean latent along predicted flows.

    Args:
        steps: Network calls of a trajectory, at least 1.
        shift: Flow shift of the noise levels, positive.

    Raises:
        ValueError: If a value is out of range.

    Attributes:
        sigmas: `[steps + 1]` float32, falling to 0.
        timesteps: `[steps]` timesteps for the network, in the type the solver gives them.
    """

    def __init__(self, steps: int, *, shift: float = 5.0) -> None:
        if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= TRAIN_STEPS:
            raise ValueError(f"`steps` must be a whole number in 1..{TRAIN_STEPS}, got {steps!r}; use 50")
        if not 0 < shift < float("inf"):
            raise ValueError(f"`shift` must be positive and finite, got {shift}; use 5.0")
        self.steps, self.shift = steps, shift
        self.sigmas, self.timesteps = self._table()
        self.reset()

    def reset(self) -> None:
        """Forget the past; the next step is the first of a new trajectory."""
        self.done = 0

    def step(self, flow: Tensor, x: Tensor) -> Tensor:
        """Take one step down the table.

        Args:
            flow: The network's flow at `x` and `timesteps[done]`, any shape.
            x: Noisy latents at `sigmas[done]`, same shape.

        Returns:
            Latents at the next sigma, in `x`'s type.

        Raises:
            ValueError: If the shapes differ.
            RuntimeError: If the trajectory has ended.
        """
        if flow.shape != x.shape:
            raise ValueError(f"`flow` must have the shape of `x` {list(x.shape)}, got {list(flow.shape)}")
        if self.done == self.steps:
            raise RuntimeError(f"the trajectory has ended after its {self.steps} steps; call `reset()` for another")
        following = self._advance(flow, x)
        self.done += 1
        return following.to(x.dtype)

    @abstractmethod
    def _table(self) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def _advance(self, flow: Tensor, x: Tensor) -> Tensor: ...


class EulerSolver(FlowSolver):
    """First-order steps along the flow, from pure noise."""

    def _table(self) -> tuple[Tensor, Tensor]:
        sigmas = shift_sigma(torch.linspace(1, 0, self.steps + 1, dtype=torch.float64), self.shift).float()
        return sigmas, TRAIN_STEPS * sigmas[:-1]

    def _advance(self, flow: Tensor, x: Tensor) -> Tensor:
        return x + (self.sigmas[self.done + 1] - self.sigmas[self.done]).item() * flow


class UniPCSolver(FlowSolver):
    """Second-order predictor-corrector steps on the predicted clean latent, with the B(h) = e^h - 1 variant.

    The noise levels are Wan2.1's: the line begins at 0.999, the network gets whole timesteps, and the last step is of
    first order.
    """

    # In float32, as the official table has it: at some steps the last bit decides on the whole timestep.
    FIRST_SIGMA = torch.tensor(1 - 1 / TRAIN_STEPS).item()
    ORDER = 2

    def reset(self) -> None:
        """Forget the past; the next step is the first of a new trajectory."""
        super().reset()
        # Clean latents predicted at the steps before, newest first; where the last step began, and its order.
        self._clean: list[Tensor] = []
        self._before: Tensor | None = None
        self._order = 0

    def _table(self) -> tuple[Tensor, Tensor]:
        line = torch.linspace(self.FIRST_SIGMA, 0, self.steps + 1, dtype=torch.float64)[:-1]
        sigmas = shift_sigma(line, self.shift)
        timesteps = (TRAIN_STEPS * sigmas).long()
        return torch.cat([sigmas, sigmas.new_zeros(1)]).float(), timesteps

    def _advance(self, flow: Tensor, x: Tensor) -> Tensor:
        clean = x - self.sigmas[self.done].item() * flow
        if self._before is not None:
            x = self._correct(clean, self._before)
        self._clean = [clean, *self._clean][: self.ORDER]
        self._before = x
        self._order = min(self.ORDER, self.done + 1, self.steps - self.done)
        return self._predict(x)

    def _predict(self, x: Tensor) -> Tensor:
        start, stop = self.done, self.done + 1
        newest, *older = self._clean
        following = self._carried(x, newest, start, stop)
        if self._order == 1:
            return following
        # The optimal weight of a single difference is one half, whatever the step sizes.
        change = 0.5 * (older[0] - newest) / self._ratio(start, stop)
        return following - self._gain(start, stop) * change

    def _correct(self, clean: Tensor, x: Tensor) -> Tensor:
        start, stop = self.done - 1, self.done
        newest, *older = self._clean
        differences = [clean - newest]
        if self._order == 1:
            weights = [0.5]
        else:
            ratio = self._ratio(start, stop)
            differences = [(older[0] - newest) / ratio, *differences]
            weights = self._corrector_weights(-self._reach(start, stop), ratio)
        change = sum(weight * difference for weight, difference in zip(weights, differences, strict=True))
        return self._carried(x, newest, start, stop) - self._gain(start, stop) * change

    @staticmethod
    def _corrector_weights(reach: Tensor, ratio: float) -> list[float]:
        """Weights that make the corrector exact for clean latents linear and quadratic in log-SNR."""
        gain = torch.expm1(reach)
        first = gain / reach - 1
        second = first / reach - 0.5
        powers = torch.tensor([[1.0, 1.0], [ratio, 1.0]], dtype=reach.dtype)
        wanted = torch.stack([first / gain, 2 * second / gain])
        return torch.linalg.solve(powers, wanted).tolist()

    def _carried(self, x: Tensor, clean: Tensor, start: int, stop: int) -> Tensor:
        """The first-order step: exact if the clean latent stayed as it is."""
        shrink = (self.sigmas[stop] / self.sigmas[start]).item()
        return shrink * x - self._gain(start, stop) * clean

    def _gain(self, start: int, stop: int) -> float:
        return ((1 - self.sigmas[stop]) * torch.expm1(-self._reach(start, stop))).item()

    def _log_snr(self, index: int) -> Tensor:
        sigma = self.sigmas[index].double()
        return torch.log1p(-sigma) - sigma.log()

    def _reach(self, start: int, stop: int) -> Tensor:
        return self._log_snr(stop) - self._log_snr(start)

    def _ratio(self, start: int, stop: int) -> float:
        """Where the step before began, in steps of this one: negative."""
        return (self._reach(start, start - 1) / self._reach(start, stop)).item()


SOLVERS: dict[str, type[FlowSolver]] = {"euler": EulerSolver, "unipc": UniPCSolver}


@torch.no_grad()
def solve(solver: FlowSolver, flow: Flow, noise: Tensor) -> Tensor:
    """Walk a whole trajectory.

    Args:
        solver: The solver; it is reset first.
        flow: Takes latents `[B, ...]` and timesteps `[B]`, gives the flow `[B, ...]`.
        noise: Standard normal latents `[B, ...]`, where the trajectory begins.

    Returns:
        Clean latents, same shape.
    """
    solver.reset()
    x = noise
    for timestep in solver.timesteps.to(noise.device):
        x = solver.step(flow(x, timestep.expand(len(x))), x)
    return x
