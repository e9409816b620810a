"""Filling networks from files, one tensor at a time.

A network is built on the meta device, where it has shapes and no memory, and takes each tensor over as it comes. Beyond
the network itself, memory holds one tensor and the open file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from studio.model.sources import Source

__all__ = ["check_fit", "fill", "listed", "not_floating"]

Network = TypeVar("Network", bound=nn.Module)
Edit = Callable[[str, Tensor], Tensor]
Report = Callable[[str, Tensor], None]

_SHOWN = 5


def listed(fault: str, names: list[str]) -> str:
    """Count and name what is wrong: "7 missing: a, b, c, d, e and 2 more"; empty where nothing is."""
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {fault}: {', '.join(names[:_SHOWN])}{more}"


def not_floating(types: Mapping[str, torch.dtype]) -> list[str]:
    """Tensors that no layer can compute with, with their types: integers, mostly of a quantised checkpoint.

    Args:
        types: Name to type of tensors that must be floating-point.
    """
    return [f"{name} {dtype}".replace("torch.", "") for name, dtype in types.items() if not dtype.is_floating_point]


def check_fit(network: nn.Module, source: Source) -> None:
    """Compare names, shapes and types before anything is read.

    Args:
        network: The network, on any device.
        source: The tensors under the network's names.

    Raises:
        ValueError: Listing the tensors that are missing, unexpected, misshapen or of the wrong type.
    """
    expected = _expected(network)
    shapes = source.shapes
    misshapen = [
        f"{name} {list(shapes[name])} instead of {list(expected[name])}"
        for name in expected
        if name in shapes and shapes[name] != expected[name]
    ]
    integers = _integers(network)
    types = {name: source.entries[name].dtype for name in expected if name in shapes and name not in integers}
    _refuse(
        network,
        source,
        listed("missing", _missing(network, expected, shapes)),
        listed("unexpected", [name for name in shapes if name not in expected]),
        listed("misshapen", misshapen),
        listed("of the wrong type", not_floating(types)),
    )


def _integers(network: nn.Module) -> set[str]:
    """Names of what the network itself has as integers; a layer that rounds for itself is given unrounded numbers."""
    rounding = {path for path, module in network.named_modules() if hasattr(module, "take")}
    own = (name for name, value in network.state_dict().items() if not value.is_floating_point())
    return {name for name in own if name.rpartition(".")[0] not in rounding}


def fill(
    network: Network,
    source: Source,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    edit: Edit | None = None,
    report: Report | None = None,
) -> Network:
    """Fill a network, tensor by tensor.

    Args:
        network: On the meta device, or anywhere else if its values may be replaced. A layer with a method
            `take(name, value, dtype)` stores what it is given as it likes.
        source: The tensors under the network's names; the fit is checked before anything is read.
        device: Where the tensors go.
        dtype: Type of the floating-point ones in memory; None: as in the files.
        edit: Changes a value on its way, as merging a LoRA does; called with its name and the value on `device` in the
            file's type. What it returns may be of a wider type and is rounded here, once.
        report: Called after each tensor with its name and the value as it was read, for progress and accounting.

    Returns:
        The network, in evaluation mode and without gradients.

    Raises:
        ValueError: Listing the tensors that are missing, unexpected, misshapen, of the wrong type or not finite.
    """
    check_fit(network, source)
    ties = _ties(network)
    spoiled = []
    for name, value in source.tensors():
        value = value.to(device)
        if not _finite(value):
            spoiled.append(name)
        edited = value if edit is None else edit(name, value)
        _place(network, ties.get(name, (name,)), edited, dtype or value.dtype)
        if report is not None:
            report(name, value)
        del value, edited
    _refuse(network, source, listed("not finite", spoiled))
    for module in network.modules():
        for name, buffer in module._buffers.items():
            # What no file holds, as the latents' statistics, was made with the network.
            module._buffers[name] = None if buffer is None else buffer.to(device)
    return network.eval().requires_grad_(False)


def _refuse(network: nn.Module, source: Source, *faults: str) -> None:
    if any(faults):
        what = "; ".join(fault for fault in faults if fault)
        fit = f"{source.path} must fit the configuration of {type(network).__name__}"
        raise ValueError(f"{fit}, got {what}; use matching files")


def _expected(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name to shape as a file must have them; a layer that stores otherwise tells them by `wants`."""
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    for path, module in network.named_modules():
        wants = getattr(module, "wants", None)
        if wants is not None:
            prefix = f"{path}." if path else ""
            expected = {name: shape for name, shape in expected.items() if not name.startswith(prefix)}
            expected.update({f"{prefix}{name}": shape for name, shape in wants().items()})
    return expected


def _missing(network: nn.Module, expected: Mapping[str, Any], shapes: Mapping[str, Any]) -> list[str]:
    ties = _ties(network)
    return [name for name in expected if not any(other in shapes for other in ties.get(name, (name,)))]


def _ties(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """Names of one parameter that has several, each to all of them; a file needs only one."""
    names: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {name: tuple(group) for group in names.values() if len(group) > 1 for name in group}


def _place(network: nn.Module, names: Sequence[str], value: Tensor, dtype: torch.dtype | None) -> None:
    cast = value.to(dtype) if value.is_floating_point() and dtype is not None else value
    parameter = None
    for name in names:
        owner, _, last = name.rpartition(".")
        module = network.get_submodule(owner)
        take = getattr(module, "take", None)
        if take is not None:
            take(last, value, dtype)
        elif last in module._parameters:
            parameter = nn.Parameter(cast, requires_grad=False) if parameter is None else parameter
            module._parameters[last] = parameter
        else:
            module._buffers[last] = cast


def _finite(value: Tensor) -> bool:
    if not value.is_floating_point() or not value.numel():
        return True
    # Extremes pass on what is not a number and need no memory, unlike a test of every element.
    low, high = (value if value.element_size() > 1 else value.float()).aminmax()
    return bool(low.isfinite() and high.isfinite())
