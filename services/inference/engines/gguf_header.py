"""The first facts of a GGUF file: what it is, read from its beginning without loading it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

if TYPE_CHECKING:
    from pathlib import Path

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
_STRING: Final = 8
_ARRAY: Final = 9
_SCALARS: Final = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
# No key or value that matters is longer; a longer one means that these are not the bytes of a GGUF file.
MOST_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What the file says of itself; numbers are 0 where it does not say.

    Attributes:
        architecture: Such as `llama`, `qwen3`, `bert`.
        context_tokens: What the model was trained for.
        dimensions: Width of its vectors.
        pooling: 0 for a model that writes; 1 mean, 2 first token, 3 last token for one that embeds; 4 ranks.
    """

    architecture: str
    context_tokens: int
    dimensions: int
    pooling: int


def read_header(path: Path) -> GgufHeader:
    """Reads up to the tokenizer, which is long and comes after all that matters here. Raises ValueError when it is no GGUF."""
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise ValueError("it is not a GGUF file")
        try:
            facts = _facts(file)
        except (struct.error, UnicodeDecodeError, KeyError) as error:
            raise ValueError("its beginning is damaged") from error
    architecture = str(facts.get("general.architecture", ""))
    if not architecture:
        raise ValueError("it names no architecture")
    return GgufHeader(
        architecture=architecture,
        context_tokens=int(facts.get(f"{architecture}.context_length", 0)),
        dimensions=int(facts.get(f"{architecture}.embedding_length", 0)),
        pooling=int(facts.get(f"{architecture}.pooling_type", 0)),
    )


def _facts(file: BinaryIO) -> dict[str, Any]:
    version, _tensors, count = struct.unpack("<IQQ", file.read(20))
    if version not in VERSIONS:
        raise ValueError(f"it has version {version} of GGUF; {VERSIONS[0]} and {VERSIONS[-1]} can be read")
    facts: dict[str, Any] = {}
    for _ in range(count):
        key = _string(file)
        (kind,) = struct.unpack("<I", file.read(4))
        if kind == _ARRAY:
            if key.startswith("tokenizer."):
                break
            _skip_array(file)
        else:
            facts[key] = _string(file) if kind == _STRING else _scalar(file, kind)
    return facts


def _string(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MOST_BYTES:
        raise struct.error
    return file.read(length).decode()


def _scalar(file: BinaryIO, kind: int) -> Any:
    form = _SCALARS[kind]
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def _skip_array(file: BinaryIO) -> None:
    kind, length = struct.unpack("<IQ", file.read(12))
    if length > MOST_BYTES:
        raise struct.error
    if kind == _STRING:
        for _ in range(length):
            _string(file)
    else:
        file.seek(length * struct.calcsize(_SCALARS[kind]), 1)
