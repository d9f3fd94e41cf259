"""The verdict of a family's own CLIP: which of some names fits a picture best."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image as Pil
from torch import Tensor

from msbd_dist.errors import ModelError
from msbd_dist.models.loading import hermetic
from msbd_dist.tiny.evaluate.cases import KINDS, NAMES, Kind
from msbd_dist.tiny.scenes import Image


class Judge:
    """CLIP from an open_clip folder, in float32, with its own preprocessing.

    It sees what `models.rerank` sees, but compares a picture with many names at once.
    """

    def __init__(self, folder: str, device: torch.device) -> None:
        if not Path(folder).is_dir():
            raise ModelError(f"clip: {folder}: no such folder: give a family with a CLIP folder")
        with hermetic():
            model, self._preprocess = open_clip.create_model_from_pretrained(
                f"local-dir:{folder}", precision="fp32", weights_only=True
            )
            self._tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        self._device = device
        self.model = model.to(device).eval().requires_grad_(False)
        self._texts = lru_cache(maxsize=8)(self._embed)

    def kinds(self, pictures: Sequence[Image]) -> list[Kind]:
        """What each picture shows, of the 56 kinds. Pictures: uint8 RGB (H, W, 3)."""
        return [KINDS[index] for index in self.best(pictures, NAMES)]

    def best(self, pictures: Sequence[Image], names: tuple[str, ...]) -> list[int]:
        """The index of the name that is nearest to each picture."""
        return [int(index) for index in self.scores(pictures, names).argmax(1)]

    @torch.no_grad()
    def scores(self, pictures: Sequence[Image], names: tuple[str, ...]) -> np.ndarray:
        """Cosine similarities times 100, (pictures, names)."""
        batch = torch.stack([self._preprocess(Pil.fromarray(picture)) for picture in pictures])
        images = self.model.encode_image(batch.to(self._device), normalize=True)
        return np.asarray(100 * (images @ self._texts(names).T).cpu())

    @torch.no_grad()
    def _embed(self, names: tuple[str, ...]) -> Tensor:
        texts: Tensor = self.model.encode_text(
            self._tokenizer(list(names)).to(self._device), normalize=True
        )
        return texts
