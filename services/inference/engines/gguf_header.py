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

# `general.file_type`: how most of the weights are written.
QUANTIZATIONS: Final = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
}


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What the file says of itself; numbers are 0 where it does not say.

    Attributes:
        architecture: Such as `llama`, `qwen3`, `bert`.
        context_tokens: What the model was trained for.
        dimensions: Width of its vectors.
        pooling: 0 for a model that writes; 1 mean, 2 first token, 3 last token for one that embeds; 4 ranks.
        quantization: Such as `Q4_K_M`; empty where it does not say before its tokenizer.
        cache_values: Numbers that it keeps in memory for each token of context.
    """

    architecture: str
    context_tokens: int
    dimensions: int
    pooling: int
    quantization: str = ""
    cache_values: int = 0


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

    def number(key: str, default: int = 0) -> int:
        return int(facts.get(f"{architecture}.{key}", default))

    dimensions, heads = number("embedding_length"), number("attention.head_count")
    head = dimensions // heads if heads else 0
    lengths = number("attention.key_length", head) + number("attention.value_length", head)
    return GgufHeader(
        architecture=architecture,
        context_tokens=number("context_length"),
        dimensions=dimensions,
        pooling=number("pooling_type"),
        quantization=QUANTIZATIONS.get(int(facts.get("general.file_type", -1)), ""),
        cache_values=number("block_count") * number("attention.head_count_kv", heads) * lengths,
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
