"""Whether a model's chat template has a place for tools. One without would leave them out, and nobody would notice."""

from __future__ import annotations

import mmap
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_KEY: Final = b"tokenizer.chat_template"
_STRING: Final = 8
# It follows the tokenizer, which takes some MiB.
_SEARCHED: Final = 64 << 20
_LONGEST: Final = 1 << 20
_WORD: Final = b"tools"


@lru_cache(maxsize=1024)
def has_tools(path: Path, changed: int) -> bool:  # noqa: ARG001 - a file that has changed is read again
    """Reads a GGUF file, or the tokenizer's files in a folder. False for what cannot be read."""
    try:
        if path.is_dir():
            files = (path / name for name in ("tokenizer_config.json", "chat_template.jinja"))
            return any(_WORD in file.read_bytes() for file in files if file.is_file())
        return _WORD in _template(path)
    except (OSError, ValueError, struct.error):
        return False


def _template(path: Path) -> bytes:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # Each key of the header stands behind its own length.
        key = struct.pack("<Q", len(_KEY)) + _KEY
        at = content.find(key, 0, _SEARCHED)
        if at < 0:
            return b""
        kind, length = struct.unpack_from("<IQ", content, at + len(key))
        start = at + len(key) + 12
        return content[start : start + min(length, _LONGEST)] if kind == _STRING else b""
