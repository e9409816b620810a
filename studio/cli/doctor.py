"""What this machine has for the studio, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

State = Literal["ok", "optional", "missing"]
GIB = 2**30
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Args:
        group: what it belongs to.
        name: what it is.
        state: "ok"; "optional": the studio works without it; "missing": something does not work.
        detail: what was found.
        remedy: the command that mends it; empty where there is nothing to mend.
    """

    group: str
    name: str
    state: State
    detail: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Look at the machine.

    Returns:
        The findings, in the order of the groups.
    """
    looks = (_python, _memory, _torch, _devices, _attention, _modes, _films, _notebook, _package)
    findings: list[Finding] = []
    for look in looks:
        try:
            findings += look()
        except ImportError as error:
            name = look.__name__.strip("_")
            findings.append(_bad(name, name, str(error), f"pip install {error.name or 'longlive-studio'}"))
        except Exception as error:  # a doctor that dies of what it finds is no use
            name = look.__name__.strip("_")
            findings.append(
                _bad(name, name, f"{type(error).__name__}: {error}", "report this as a fault of the studio")
            )
    return findings


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """Turn findings into JSON-ready data: "healthy" and the findings by group."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for finding in findings:
        entry = asdict(finding)
        groups.setdefault(entry.pop("group"), []).append(entry)
    return {"healthy": all(finding.state != "missing" for finding in findings), "findings": groups}


def as_text(findings: list[Finding]) -> str:
    """Turn findings into lines for people."""
    signs = {"ok": "ok      ", "optional": "optional", "missing": "MISSING "}
    width = max(len(finding.name) for finding in findings)
    lines, group = [], ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            lines += ["", group]
        lines.append(f"  {signs[finding.state]}  {finding.name:<{width}}  {finding.detail}".rstrip())
        if finding.remedy:
            lines.append(f"  {'':8}  {'':{width}}  -> {finding.remedy}")
    bad = sum(finding.state == "missing" for finding in findings)
    end = "Everything needed is here." if not bad else f"{bad} {'thing is' if bad == 1 else 'things are'} missing."
    return "\n".join([*lines[1:], "", end])


def _good(group: str, name: str, detail: str) -> Finding:
    return Finding(group=group, name=name, state="ok", detail=detail)


def _bad(group: str, name: str, detail: str, remedy: str) -> Finding:
    return Finding(group=group, name=name, state="missing", detail=detail, remedy=remedy)


def _spare(group: str, name: str, detail: str, remedy: str = "") -> Finding:
    return Finding(group=group, name=name, state="optional", detail=detail, remedy=remedy)


def _numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: "2.13.0+cpu" -> (2, 13, 0)."""
    found = []
    for part in text.split("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        found.append(int(digits))
    return tuple(found)


def _package_of(group: str, name: str, least: str, *, below: str = "", remedy: str = "") -> Finding:
    """Look for an installed package in a range of versions."""
    limits = f"{name}>={least}" + (f",<{below}" if below else "")
    remedy = remedy or f'pip install "{limits}"'
    try:
        found = version(name)
    except PackageNotFoundError:
        return _bad(group, name, "not installed", remedy)
    if _numbers(found) < _numbers(least) or (below and _numbers(found) >= _numbers(below)):
        return _bad(group, name, f"{found}, wanted {limits.removeprefix(name)}", remedy)
    return _good(group, name, found)


def _python() -> Iterator[Finding]:
    yield _good("machine", "Python", f"{platform.python_version()} at {sys.executable}")
    yield _good("machine", "system", f"{platform.system()} {platform.release()} {platform.machine()}")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if usable < 2:
        yield _spare("machine", "processors", f"{usable}: the miniature wants 2 to keep 16 frames/s")
    else:
        yield _good("machine", "processors", str(usable))


def _memory() -> Iterator[Finding]:
    try:
        import psutil
    except ImportError:
        yield _bad("machine", "memory", "cannot be measured without psutil", "pip install psutil")
    else:
        memory = psutil.virtual_memory()
        detail = f"{memory.available / GIB:.1f} GiB free of {memory.total / GIB:.1f} GiB"
        if memory.available < 2 * GIB:
            yield _spare("machine", "memory", f"{detail}: the miniature wants about 2 GiB", "close other programs")
        else:
            yield _good("machine", "memory", detail)
    free = shutil.disk_usage(Path.cwd()).free
    yield _good("machine", "disk", f"{free / GIB:.1f} GiB free here")


def _torch() -> Iterator[Finding]:
    finding = _package_of("engine", "torch", "2.8")
    yield finding
    if finding.detail != "not installed":
        import torch

        yield _good("engine", "threads", f"{torch.get_num_threads()} for one operation")
    for name, least in (("transformers", "4.56"), ("safetensors", "0.5"), ("einops", "0.8"), ("numpy", "1.26")):
        yield _package_of("engine", name, least)


def _devices() -> Iterator[Finding]:
    import torch

    yield _good("devices", "cpu", torch.backends.cpu.get_cpu_capability())
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            free, total = torch.cuda.mem_get_info(index)
            yield _good(
                "devices",
                f"cuda:{index}",
                f"{about.name}, compute capability {about.major}.{about.minor}, "
                f"{free / GIB:.1f} GiB free of {total / GIB:.1f} GiB",
            )
    elif torch.version.cuda is None and torch.version.hip is None:
        driver = shutil.which("nvidia-smi")
        remedy = "install a CUDA build of torch: https://pytorch.org/get-started/locally" if driver else ""
        yield _spare("devices", "cuda", "this torch is built without CUDA; the miniature needs none", remedy)
    else:
        yield _spare("devices", "cuda", "no GPU found; the miniature needs none")
    if torch.backends.mps.is_available():
        yield _good("devices", "mps", "Apple GPU, not used by default")


# What installs a back end that is a package of its own.
_KERNELS = {
    "flash3": "pip install fa3-fwd",
    "flash4": "pip install flash-attn-4",
    "flash2": "pip install flash-attn --no-build-isolation",
}


def _attention() -> Iterator[Finding]:
    """Every back end as a model finds it: a small attention is computed to know whether it serves."""
    import torch

    from studio.model.backends import available

    gpu = torch.cuda.is_available()
    found = available("cuda" if gpu else "cpu", torch.bfloat16 if gpu else torch.float32)
    best = next(name for name, reason in found.items() if not reason)
    for name, reason in found.items():
        if not reason:
            yield _good("attention", name, "serves; taken unless another is named" if name == best else "serves")
        else:
            yield _spare("attention", name, reason, _KERNELS.get(name, "") if gpu else "")


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:  # a build for another torch fails in many ways
        return error


def _modes() -> Iterator[Finding]:
    """Peaks by accounting, and the mode that the first card wants."""
    from studio.config import preset
    from studio.model.memory import MODES, mode_for, peak_bytes

    group, config = "memory modes", preset("longlive-1.3b")
    card = _card_bytes()
    chosen = None if card is None else mode_for(config, card)
    for mode in MODES:
        peak = peak_bytes(config, mode)["peak"] / GIB
        window, at_once = mode.applied(config).cache.window, mode.vae_frames or config.sampler.block
        detail = (
            f"{config.name}: about {peak:.1f} GiB; transformer in {mode.quantization or 'bf16'}, text encoder "
            f"{_where(mode.text)}, {at_once} latent frames decoded at once, window {window}"
        )
        if mode == chosen:
            yield _good(group, mode.name, f"{detail}; the one for this card")
        else:
            yield _spare(group, mode.name, detail)
    if card is not None and chosen is None:
        detail = f"{card / GIB:.1f} GiB are too few for {config.name}; the miniature needs none"
        yield _spare(group, "this card", detail)


def _where(text: str) -> str:
    return {"device": "on the card", "cpu": "on the CPU"}.get(text, "in INT8 on the card")


def _card_bytes() -> int | None:
    try:
        import torch
    except ImportError:
        return None
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def _films() -> Iterator[Finding]:
    group = "films and pictures"
    av = _import("av")
    if isinstance(av, Exception):
        yield _bad(group, "PyAV", f"{av}", "pip install av")
    else:
        yield _good(group, "PyAV", av.__version__)
        for label, names in (
            ("H.264", ("libx264", "libopenh264", "h264_videotoolbox")),
            ("AV1", ("libsvtav1", "libaom-av1")),
            ("VP9", ("libvpx-vp9",)),
            ("VP8", ("libvpx",)),
            ("MPEG-4", ("mpeg4",)),
            ("GIF", ("gif",)),
        ):
            found = [name for name in names if _encodes(av, name)]
            if found:
                yield _good(group, label, ", ".join(found))
            elif label == "H.264":
                yield _spare(group, label, "no encoder; films fall back to MPEG-4", "pip install --force-reinstall av")
            else:
                yield _spare(group, label, "no encoder in this build of PyAV")
    for name, least in (("simplejpeg", "1.7"), ("pillow", "10"), ("matplotlib", "3.9")):
        yield _package_of(group, name, least)


def _encodes(av: Any, name: str) -> bool:
    try:
        av.codec.Codec(name, "w")
    except Exception:  # PyAV has changed the class more than once
        return False
    return True


def _notebook() -> Iterator[Finding]:
    group = "notebook"
    for name, least in (("jupyterlab", "4.4"), ("ipywidgets", "8.1"), ("anywidget", "0.9.18")):
        yield _package_of(group, name, least)
    yield _ipykernel(group)
    yield _package_of(group, "ipyvolume", "0.6.3")
    for name in ("ipyvue", "ipyvuetify"):
        yield _package_of(group, name, "1", below="2")
    yield _package_of(group, "ipython_genutils", "0.2")
    bundle = ROOT / "studio" / "widgets" / "static" / "studio.js"
    if bundle.is_file():
        yield _good(group, "widget bundle", f"{bundle.stat().st_size / 1024:.0f} KiB; Node is not needed")
    else:
        yield _bad(group, "widget bundle", "not in this installation", "pip install --force-reinstall longlive-studio")


def _ipykernel(group: str) -> Finding:
    finding = _package_of(group, "ipykernel", "7.4")
    if (7,) <= _numbers(finding.detail) < (7, 4):
        detail = f"{finding.detail}: at times a message of the browser stays unread, and the page waits for ever"
        return _bad(group, "ipykernel", detail, finding.remedy)
    return finding


def _package() -> Iterator[Finding]:
    import studio

    yield _good("studio", "version", studio.__version__)
    for place in (ROOT / "assets" / "miniature", ROOT / "studio" / "assets" / "miniature"):
        if (place / "config.json").is_file():
            size = sum(file.stat().st_size for file in place.iterdir() if file.is_file())
            yield _good("studio", "miniature", f"{size / 2**20:.1f} MiB of weights in {place}")
            return
    yield _bad("studio", "miniature", "its weights are not in this installation", "git checkout -- assets/miniature")
