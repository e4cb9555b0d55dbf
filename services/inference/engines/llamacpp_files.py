"""The models of a folder: GGUF files, and folders in Hugging Face's format that can be written as GGUF."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.inference.engine import Files
from services.inference.engines import hf_folder
from services.inference.engines.gguf_header import GgufHeader, read_header

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)

_RANKS: Final = 4
# A model in pieces is loaded by its first.
_PIECE: Final = re.compile(r"-(\d{5})-of-(\d{5})$")
_QUANTIZATION: Final = re.compile(r"(?:^|[-._])(I?Q\d\w*|B?F16|F32)$", re.IGNORECASE)
_CACHE_VALUE_BYTES: Final = 2
# What llama.cpp takes for its graphs and tokenizer, whatever the model.
_OVERHEAD_BYTES: Final = 48 << 20


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model's file, or its folder, as it stood when it was last looked at.

    Attributes:
        path: The GGUF file, or the folder of safetensors.
        changed: When it was last changed, in nanoseconds since the epoch.
        created: When it came here, in seconds since the epoch.
        size: Bytes of its weights.
        header: What it says of itself.
        format: `gguf` or `safetensors`.
    """

    path: Path
    changed: int
    created: float
    size: int
    header: GgufHeader
    format: str

    @property
    def name(self) -> str:
        """What the model is called."""
        return self.path.name if self.is_converted else self.path.stem

    @property
    def is_converted(self) -> bool:
        """Whether it has to be written as GGUF before it is loaded."""
        return self.format == hf_folder.FORMAT

    def told(self) -> Files:
        """What is listed of it."""
        named = _QUANTIZATION.search(_PIECE.sub("", self.path.stem))
        quantization = self.header.quantization or (named[1].upper() if named else "")
        return Files(quantization, self.format, self.path.name, min(self.created, self.changed / 1e9), self.changed / 1e9)

    def expected_bytes(self, context_tokens: int, parallel: int) -> int:
        """Memory that it takes once it is loaded: weights, the cache of its context, and llama.cpp's own."""
        return self.size + self.header.cache_values * context_tokens * parallel * _CACHE_VALUE_BYTES + _OVERHEAD_BYTES

    def parts(self) -> list[Path]:
        """All files that belong to it, for deleting them. Of a folder only those that a model's format consists of."""
        if self.is_converted:
            return hf_folder.parts(self.path)
        piece = _PIECE.search(self.path.stem)
        if piece is None:
            return [self.path]
        stem = self.path.stem[: piece.start()]
        return sorted(self.path.parent.glob(f"{_literal(stem)}-?????-of-{piece[2]}.gguf"))


def scan(folder: Path, known: dict[str, ModelFile], refused: dict[Path, str]) -> dict[str, ModelFile]:
    """The models of a folder by name; headers are read again only where a file has changed.

    What looks like a model and cannot be served is kept in `refused` with the reason, and logged when that is news.
    """
    found: dict[str, ModelFile] = {}
    if not folder.is_dir():
        return found
    for path in sorted(folder.iterdir()):
        try:
            file = _folder(path, known) if path.is_dir() else _file(path, known)
        except FileNotFoundError:
            continue  # gone meanwhile
        except (OSError, ValueError) as error:
            if refused.get(path) != str(error):
                _log.warning("%s in MODELS_DIR is not served: %s", path.name, error)
            refused[path] = str(error)
            continue
        refused.pop(path, None)
        if file is not None and file.header.pooling != _RANKS:
            found.setdefault(file.name, file)
    return found


def _file(path: Path, known: dict[str, ModelFile]) -> ModelFile | None:
    piece = _PIECE.search(path.stem)
    if path.suffix != ".gguf" or (piece is not None and int(piece[1]) != 1):
        return None
    status = path.stat()
    size = status.st_size
    if piece is not None:
        stem = path.stem[: piece.start()]
        size = sum(part.stat().st_size for part in path.parent.glob(f"{_literal(stem)}-?????-of-{piece[2]}.gguf"))
    before = known.get(path.stem)
    if before is not None and (before.path, before.changed, before.size) == (path, status.st_mtime_ns, size):
        return before
    return ModelFile(path, status.st_mtime_ns, status.st_ctime, size, read_header(path), "gguf")


def _folder(path: Path, known: dict[str, ModelFile]) -> ModelFile | None:
    config = path / "config.json"
    weights = list(path.glob("*.safetensors"))
    if not weights or not config.is_file():
        return None
    stands = [file.stat() for file in (config, *weights)]
    changed, size = max(one.st_mtime_ns for one in stands), sum(one.st_size for one in stands[1:])
    before = known.get(path.name)
    if before is not None and (before.path, before.changed, before.size) == (path, changed, size):
        return before
    created = path.stat().st_ctime
    return ModelFile(path, changed, created, size, hf_folder.read_config(path), hf_folder.FORMAT)


def _literal(stem: str) -> str:
    """The stem as a pattern that matches itself."""
    return re.sub(r"([*?\[])", r"[\1]", stem)
