"""Tells cheaply whether a text is in a language that an embedder declares.

It looks at scripts alone: that tells Russian and Chinese from English for certain and in microseconds, which is what keeps
vectors without meaning out of the index. It cannot tell German from English: a text in Latin script counts as known to every
embedder that declares a language of Latin script.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

LATIN: Final = "latin"
CYRILLIC: Final = "cyrillic"
CJK: Final = "cjk"
OTHER: Final = "other"

# Languages by BCP 47 primary tag; one that is not here counts as Latin, as most are.
_SCRIPT_OF: Final = {
    **dict.fromkeys(("ru", "uk", "be", "bg", "sr", "mk", "kk", "ky", "mn", "tg"), CYRILLIC),
    **dict.fromkeys(("zh", "ja", "ko", "yue"), CJK),
    **dict.fromkeys(("ar", "fa", "ur", "he", "el", "hi", "bn", "ta", "te", "th", "ka", "hy", "am"), OTHER),
}
# For use between the brackets of a regular expression.
CJK_RANGES: Final = (
    "\u1100-\u11ff\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0002fa1f"
)
CJK_CHARACTER: Final = re.compile(f"[{CJK_RANGES}]")
_LETTERS: Final = {
    LATIN: re.compile("[A-Za-z\u00c0-\u024f\u1e00-\u1eff]"),
    CYRILLIC: re.compile("[\u0400-\u052f]"),
    CJK: CJK_CHARACTER,
    OTHER: re.compile("[\u0370-\u03ff\u0530-\u10ff]"),
}
# One Chinese character says about as much as three letters of an alphabet.
_WEIGHT: Final = {LATIN: 1, CYRILLIC: 1, CJK: 3, OTHER: 1}
# So much of a text must be in known scripts; names and terms in Latin letters stand in texts of every language.
_KNOWN_SHARE: Final = 2 / 3
# A sample is enough, and bounds the time.
_SAMPLE_CHARACTERS: Final = 4096


def is_known(text: str, languages: Collection[str]) -> bool:
    """Whether the text is in one of the languages, given as BCP 47 tags. No languages declared means all are known.

    A text without letters, such as a number, is known.
    """
    if not languages:
        return True
    scripts = {_SCRIPT_OF.get(language.split("-")[0].lower(), LATIN) for language in languages}
    sample = text[:_SAMPLE_CHARACTERS]
    weights = {script: _WEIGHT[script] * sum(1 for _ in letters.finditer(sample)) for script, letters in _LETTERS.items()}
    known = sum(weight for script, weight in weights.items() if script in scripts)
    return known >= _KNOWN_SHARE * sum(weights.values())


def script(text: str) -> str:
    """The script that most of the text is in: one of the names above; empty where it has no letters."""
    sample = text[:_SAMPLE_CHARACTERS]
    weights = {name: _WEIGHT[name] * sum(1 for _ in letters.finditer(sample)) for name, letters in _LETTERS.items()}
    most = max(weights, key=lambda name: weights[name])
    return most if weights[most] else ""
