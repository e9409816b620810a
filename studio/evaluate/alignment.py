"""How well frames show what a text says: by the probe of a model, or by any text-image model that is given.

Both are functions of frames and texts, as `Session.judge` wants one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studio.evaluate.reading import load_probe
from studio.model.probe import Probe
from studio.world import ATTRIBUTES, parse

__all__ = ["ProbeJudge", "TextImageJudge"]

# The probe needs about this much to tell one action from another.
FRAMES = 24


class ProbeJudge:
    """Judges by a probe: the mean of its probabilities for what the text names, shape, colour, action and place.

    Args:
        probe: The probe, or a function that loads it when it is needed first.

    Attributes:
        frames: Latest frames that it likes to look at together.
    """

    frames = FRAMES

    def __init__(self, probe: Probe | Callable[[], Probe]) -> None:
        self._probe = probe if isinstance(probe, Probe) else None
        self._load = probe

    def __repr__(self) -> str:
        return f"<ProbeJudge: {'its probe is read when needed' if self._probe is None else 'ready'}>"

    @classmethod
    def of(cls, model: str | Path, device: torch.device | str = "cpu") -> ProbeJudge:
        """The judge that is shipped with a model; its probe is read when it is needed first.

        Args:
            model: Name or folder of the model.
            device: Where it runs.
        """
        return cls(lambda: load_probe(model, device))

    @torch.no_grad()
    def __call__(self, frames: np.ndarray, texts: Sequence[str]) -> list[float]:
        """Judge frames.

        Args:
            frames: uint8 `[T, H, W, 3]`, square.
            texts: Texts.

        Returns:
            For each text a number from 0 to 1; NaN where it names nothing that the probe knows.

        Raises:
            ValueError: If the frames are no uint8 pictures, or of a size that the probe cannot read.
        """
        _check(frames)
        if self._probe is None:
            self._probe = self._load()  # type: ignore[operator]
        assert self._probe is not None
        like = next(self._probe.parameters())
        pixels = torch.from_numpy(np.array(frames)).to(like).permute(0, 3, 1, 2)[None] / 127.5 - 1
        shares = {name: logits[0].float().softmax(0).cpu() for name, logits in self._probe(pixels).items()}
        return [_share(shares, text) for text in texts]


class TextImageJudge:
    """Judges by a model of texts and images, as CLIP: the mean over frames of the cosine between frame and text.

    Args:
        model: Has `get_text_features` and `get_image_features`, as transformers' CLIP and SigLIP have them.
        processor: Turns `text=` and `images=` into the model's input, as transformers' `AutoProcessor` does.
        every: Only one frame of this many is looked at.

    Raises:
        ValueError: If `every` is below 1.
    """

    def __init__(self, model: Any, processor: Any, *, every: int = 4) -> None:
        if every < 1:
            raise ValueError(f"`every` must be at least 1 frame, got {every}")
        self._model, self._processor, self._every = model, processor, every
        self._texts: dict[str, Tensor] = {}

    def __repr__(self) -> str:
        return f"<TextImageJudge: {type(self._model).__name__}, one frame of {self._every}>"

    @torch.no_grad()
    def __call__(self, frames: np.ndarray, texts: Sequence[str]) -> list[float]:
        """Judge frames.

        Args:
            frames: uint8 `[T, H, W, 3]`.
            texts: Texts.

        Returns:
            For each text a cosine, -1 to 1.

        Raises:
            ValueError: If the frames are no uint8 pictures.
        """
        _check(frames)
        images = self._processor(images=list(frames[:: self._every]), return_tensors="pt")
        seen = _directions(self._model.get_image_features(**self._moved(images)))
        for text in texts:
            if text not in self._texts:
                tokens = self._processor(text=[text], return_tensors="pt", padding=True, truncation=True)
                self._texts[text] = _directions(self._model.get_text_features(**self._moved(tokens)))
        return [float((seen @ self._texts[text].T).mean()) for text in texts]

    def _moved(self, inputs: Any) -> dict[str, Tensor]:
        place = next(self._model.parameters()).device
        return {name: tensor.to(place) for name, tensor in dict(inputs).items()}


def _share(shares: dict[str, Tensor], text: str) -> float:
    named = [(name, value) for name, value in parse(text).items() if value is not None and name in shares]
    found = [float(shares[name][ATTRIBUTES[name].index(value)]) for name, value in named]
    return sum(found) / len(found) if found else float("nan")


def _directions(features: Any) -> Tensor:
    # Newer releases of transformers wrap the features.
    tensor = features if isinstance(features, Tensor) else features.pooler_output
    return torch.nn.functional.normalize(tensor.float(), dim=-1)


def _check(frames: np.ndarray) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"`frames` must be uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
