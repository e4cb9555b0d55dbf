"""Tells the charset of a text from its bytes."""

from __future__ import annotations

import codecs
import re
from typing import Final

from charset_normalizer import from_bytes

from services.retrieval.reading import UnreadableError

_BOMS: Final = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Those in which a text has bytes of zero.
WIDE: Final = frozenset({"utf-16", "utf-16-le", "utf-16-be", "utf-32"})
_SAMPLE: Final = 64 * 1024
_LEAST_ZEROS: Final = 0.1
_CONTROL: Final = re.compile("[\x00-\x08\x0e-\x1f\ufffe\uffff]")
# Half of all letters of a Russian text are these; a wrong table of Cyrillic letters makes others, or capitals, out of them.
_RUSSIAN: Final = re.compile("[оеаинтсрвл]")
_CYRILLIC: Final = re.compile("[\u0400-\u04ff]")
_CYRILLIC_CHARSETS: Final = ("cp1251", "koi8-r", "iso8859-5", "cp866")
_LEAST_RUSSIAN: Final = 0.4
_CHINESE_CHARSETS: Final = ("gb18030", "big5", "utf-16-le", "utf-16-be")
_JAPANESE_CHARSETS: Final = ("shift_jis", "euc_jp")
_KANA: Final = re.compile("[\u3041-\u30ff]")
_LEAST_KANA: Final = 0.2
# The longest character of any charset, in bytes.
_LONGEST: Final = 4
# The commonest characters of Chinese texts in either script, and its marks.
_CHINESE: Final = re.compile(
    "[的一是不了在人有我他这這个個们們中来來上大为為和国國地到以说說时時要就出会會可也你对對生能而子那得于於，。、！？：；]"
)
_WIDE_CHARACTER: Final = re.compile("[\u3000-\u30ff\u4e00-\u9fff\uff00-\uffef]")
_LEAST_CHINESE: Final = 0.1


def decoded(content: bytes, *, cut: bool = False, said: str = "") -> str:
    """Text from bytes: by its byte order mark, as its sender says, as UTF-8, or as its letters make most likely.

    Args:
        content: The bytes.
        cut: Whether they may end in the middle of a character.
        said: The charset that the sender names; empty for none. One that does not fit is taken for a mistake.

    Raises:
        UnreadableError: no charset fits.
    """
    charset = charset_of(content, cut=cut, said=said)
    return content.decode(charset, errors="ignore" if cut else "replace")


def charset_of(content: bytes, *, cut: bool = False, said: str = "") -> str:
    """The charset of these bytes, by Python's name. Raises UnreadableError where none fits."""
    for mark, charset in _BOMS.items():
        if content.startswith(mark):
            return charset
    if said and _fits(content, said, cut=cut):
        return said
    if wide := _wide(content[:_SAMPLE]):
        return wide
    if _fits(content, "utf-8", cut=cut):
        return "utf-8"
    sample = content[:_SAMPLE]
    known = _by_letters(sample)
    if known:
        return known
    # A sample that ends within a character fits nothing.
    tries = range(_LONGEST if cut or len(content) > _SAMPLE else 1)
    best = next(filter(None, (from_bytes(sample[: len(sample) - less]).best() for less in tries)), None)
    if best is None:
        raise UnreadableError("is no text in any known charset; send it in UTF-8")
    return best.encoding


def _fits(content: bytes, charset: str, *, cut: bool) -> bool:
    try:
        decoder = codecs.getincrementaldecoder(charset)()
        decoder.decode(content, final=not cut)
    except (LookupError, ValueError):
        return False
    return True


def _wide(sample: bytes) -> str:
    """UTF-16 without a mark: every other byte of what is below U+0100 is zero, spaces and marks at least."""
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    half = len(sample) // 2
    if max(even, odd) < max(1, _LEAST_ZEROS * half) or min(even, odd) > max(even, odd) / 10:
        return ""
    charset = "utf-16-le" if odd > even else "utf-16-be"
    if not _fits(sample[: 2 * half], charset, cut=True):
        return ""
    return "" if _CONTROL.search(sample[: 2 * half].decode(charset, errors="ignore")) else charset


def _by_letters(sample: bytes) -> str:
    """A charset of Russian or Chinese, which a general guess takes for one another in short texts; empty if none is clear."""
    best, best_share = "", 0.0
    for charset in _CYRILLIC_CHARSETS:
        text = sample.decode(charset, errors="replace")
        share = len(_RUSSIAN.findall(text)) / max(1, len(_CYRILLIC.findall(text)))
        if share > max(best_share, _LEAST_RUSSIAN) and len(_CYRILLIC.findall(text)) * 2 > _high(sample):
            best, best_share = charset, share
    if best:
        return best
    # Japanese first: its letters stand in the Chinese tables too.
    for charsets, letters, least in (
        (_JAPANESE_CHARSETS, _KANA, _LEAST_KANA),
        (_CHINESE_CHARSETS, _CHINESE, _LEAST_CHINESE),
    ):
        for charset in charsets:
            if not _fits(sample, charset, cut=True):
                continue
            text = sample.decode(charset, errors="ignore")
            share = len(letters.findall(text)) / max(1, len(_WIDE_CHARACTER.findall(text)))
            if share > max(best_share, least) and 3 * len(_WIDE_CHARACTER.findall(text)) > _high(sample):
                best, best_share = charset, share
        if best:
            break
    return best


def _high(sample: bytes) -> int:
    return sum(byte > 0x7F for byte in sample)  # noqa: PLR2004 - the end of ASCII
