"""Reads safetensors as numpy arrays that lie in the page cache, bfloat16 too, which numpy does not know."""

from __future__ import annotations

import json
import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# bfloat16 is the upper half of a float32.
_TYPES: Final[dict[str, np.dtype[Any]]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(np.uint16),
}
_LONGEST_HEADER: Final = 100 << 20


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor; `kind` is F32, F16 or BF16, whose numbers come as uint16."""

    mapping: mmap.mmap
    start: int
    size: int
    shape: tuple[int, ...]
    kind: str

    def raw(self) -> NDArray[Any]:
        """Its numbers as they stand in the file."""
        kind = _TYPES[self.kind]
        flat: NDArray[Any] = np.frombuffer(self.mapping, kind, self.size // kind.itemsize, self.start)
        return flat.reshape(self.shape)

    def as_float32(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Numbers of its kind as float32."""
        if self.kind == "BF16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float32)


class SafetensorsFolder:
    """The tensors of all *.safetensors files of a folder. Raises ValueError where one is damaged.

    Nothing needs closing: a file is let go of with the last array that lies in it.
    """

    def __init__(self, folder: Path) -> None:
        self._tensors: dict[str, Tensor] = {}
        for path in sorted(folder.glob("*.safetensors")):
            self._read(path)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def names(self) -> list[str]:
        """Names of all tensors."""
        return sorted(self._tensors)

    def _read(self, path: Path) -> None:
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        length = int.from_bytes(mapping[:8], "little")
        if not 0 < length <= min(_LONGEST_HEADER, len(mapping) - 8):
            raise ValueError(f"{path.name} is damaged")
        try:
            entries = json.loads(mapping[8 : 8 + length])
        except ValueError as error:
            raise ValueError(f"{path.name} is damaged") from error
        for name, entry in entries.items():
            if name != "__metadata__":
                self._tensors[name] = self._tensor(path.name, name, entry, mapping, 8 + length)

    @staticmethod
    def _tensor(file: str, name: str, entry: dict[str, Any], mapping: mmap.mmap, data: int) -> Tensor:
        kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if kind not in _TYPES:
            raise ValueError(f"the tensor {name} has the type {kind}; F32, F16 and BF16 can be read")
        if not 0 <= begin <= end <= len(mapping) - data or end - begin != int(np.prod(shape)) * _TYPES[kind].itemsize:
            raise ValueError(f"{file} is damaged at {name}")
        return Tensor(mapping, data + begin, end - begin, shape, kind)
