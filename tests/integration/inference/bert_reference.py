"""all-MiniLM-L6-v2 written out in numpy: what the embedder's vectors are measured against."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
# numpy has no error function; between these points a line is right to seven digits.
GRID = np.linspace(-6, 6, 24_001)
ERROR_FUNCTION = np.array([math.erf(point) for point in GRID])


class Reference:
    """Embeds token ids, one text at a time, without padding."""

    def __init__(self, path: Path) -> None:
        self._weights = load_file(path)

    def embed(self, ids: Sequence[int]) -> NDArray[np.float32]:
        words = self._weights["embeddings.word_embeddings.weight"][list(ids)]
        positions = self._weights["embeddings.position_embeddings.weight"][: len(ids)]
        segment = self._weights["embeddings.token_type_embeddings.weight"][0]
        hidden = self._norm(words + positions + segment, "embeddings.LayerNorm")
        for layer in range(6):
            hidden = self._layer(hidden, f"encoder.layer.{layer}")
        mean = hidden.mean(axis=0)
        unit: NDArray[np.float32] = mean / np.linalg.norm(mean)
        return unit

    def _layer(self, hidden: Array, name: str) -> Array:
        query, key, value = (
            self._dense(hidden, f"{name}.attention.self.{part}").reshape(-1, 12, 32).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(32)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        attended = (weights @ value).transpose(1, 0, 2).reshape(-1, 384)
        hidden = self._norm(
            hidden + self._dense(attended, f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm"
        )
        inner = self._dense(hidden, f"{name}.intermediate.dense")
        inner *= (1 + np.interp(inner / math.sqrt(2), GRID, ERROR_FUNCTION)) / 2
        return self._norm(hidden + self._dense(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")

    def _dense(self, hidden: Array, name: str) -> Array:
        dense: Array = hidden @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return dense

    def _norm(self, hidden: Array, name: str) -> Array:
        centred = hidden - hidden.mean(axis=-1, keepdims=True)
        normal = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
        scaled: Array = normal * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return scaled
