"""all-MiniLM-L6-v2 as an OpenVINO graph, built straight from its safetensors: BERT, mean pooling and L2 norm in one.

The weights stay where they lie, in the page cache behind a private mapping of the file: the graph's constants point into it and
word vectors are looked up there, row by row, outside the graph. What a process adds for itself is OpenVINO's packed copies.
"""

from __future__ import annotations

import json
import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import openvino as ov  # type: ignore[import-untyped] # ships no types
import openvino.opset13 as op  # type: ignore[import-untyped] # ships no types

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

LAYERS: Final = 6
HEADS: Final = 12
DIMENSIONS: Final = 384
MAX_TOKENS: Final = 256
NORM_EPSILON: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors by name, all float32, and the mapping of the file that they are views of."""

    tensors: Mapping[str, NDArray[np.float32]]
    mapping: mmap.mmap

    @classmethod
    def of(cls, path: Path) -> Weights:
        """Maps a safetensors file. Copy-on-write, as OpenVINO shares writable memory only; nothing is ever written."""
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        length = int.from_bytes(mapping[:8], "little")
        tensors = {}
        for name, entry in json.loads(mapping[8 : 8 + length]).items():
            if name == "__metadata__" or entry["dtype"] != "F32":
                continue
            begin, end = entry["data_offsets"]
            flat = np.frombuffer(mapping, np.float32, (end - begin) // 4, 8 + length + begin)
            tensors[name] = flat.reshape(entry["shape"])
        return cls(tensors, mapping)

    def let_go(self) -> None:
        """Drops the pages read so far from this process; they come back from the page cache when they are read again."""
        self.mapping.madvise(mmap.MADV_DONTNEED)

    def words(self) -> NDArray[np.float32]:
        """The vector of each token, [vocabulary, 384]."""
        return self.tensors["embeddings.word_embeddings.weight"]

    def positions(self) -> NDArray[np.float32]:
        """What is added at each place, [256, 384]: its position and the one segment there is."""
        segment = self.tensors["embeddings.token_type_embeddings.weight"][0]
        positions: NDArray[np.float32] = self.tensors["embeddings.position_embeddings.weight"][:MAX_TOKENS] + segment
        return positions


def graph(weights: Weights) -> ov.Model:
    """The network for one text: `tokens` [1, n, 384] and `mask` [1, n], 1 for text and 0 for padding, give a unit vector."""
    tokens = op.parameter(ov.PartialShape([1, -1, DIMENSIONS]), np.float32, "tokens")
    mask = op.parameter(ov.PartialShape([1, -1]), np.float32, "mask")
    # Padding is worth minus a billion before the softmax, so exactly nothing after it.
    bias = op.unsqueeze(op.multiply(op.subtract(mask, _number(1)), _number(1e9)), _axes(1, 2))
    hidden = _norm(weights, "embeddings.LayerNorm", tokens)
    for layer in range(LAYERS):
        hidden = _layer(weights, f"encoder.layer.{layer}", hidden, bias)
    # The sum is as good as the mean: the norm that follows divides by its length either way.
    pooled = op.squeeze(op.matmul(op.unsqueeze(mask, _axes(1)), hidden, False, False), _axes(1))
    unit = op.normalize_l2(pooled, _axes(1), NORM_EPSILON, "max")
    return ov.Model([unit], [tokens, mask], "all-minilm-l6-v2")


# OpenVINO types its nodes loosely: an operation is a Node or an Output, and both are operands.
def _layer(weights: Weights, name: str, hidden: Any, bias: Any) -> Any:
    def heads(part: str) -> Any:
        projected = _dense(weights, f"{name}.attention.self.{part}", hidden)
        split = op.reshape(projected, _axes(0, 0, HEADS, DIMENSIONS // HEADS), True)
        return op.transpose(split, _axes(0, 2, 1, 3))

    attended = op.scaled_dot_product_attention(heads("query"), heads("key"), heads("value"), bias)
    joined = op.reshape(op.transpose(attended, _axes(0, 2, 1, 3)), _axes(0, 0, DIMENSIONS), True)
    seen = _dense(weights, f"{name}.attention.output.dense", joined)
    hidden = _norm(weights, f"{name}.attention.output.LayerNorm", op.add(hidden, seen))
    inner = op.gelu(_dense(weights, f"{name}.intermediate.dense", hidden), "erf")
    return _norm(weights, f"{name}.output.LayerNorm", op.add(hidden, _dense(weights, f"{name}.output.dense", inner)))


def _dense(weights: Weights, name: str, hidden: Any) -> Any:
    matrix = op.constant(weights.tensors[f"{name}.weight"], shared_memory=True)
    return op.add(op.matmul(hidden, matrix, False, True), op.constant(weights.tensors[f"{name}.bias"]))


def _norm(weights: Weights, name: str, hidden: Any) -> Any:
    normal = op.mvn(hidden, _axes(-1), True, NORM_EPSILON, "inside_sqrt")
    scaled = op.multiply(normal, op.constant(weights.tensors[f"{name}.weight"]))
    return op.add(scaled, op.constant(weights.tensors[f"{name}.bias"]))


def _axes(*values: int) -> Any:
    return op.constant(np.array(values, np.int32))


def _number(value: float) -> Any:
    return op.constant(np.float32(value))
