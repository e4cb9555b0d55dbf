"""Tells which language a text is in, by its script and its most frequent words; no model, no chance."""

from __future__ import annotations

import re
from typing import Final

_LATIN: Final = re.compile("[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")
_CYRILLIC: Final = re.compile("[\u0400-\u052f]")
_HAN: Final = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]")
_KANA: Final = re.compile("[\u3040-\u30ff\u31f0-\u31ff]")
_HANGUL: Final = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")
_WORD: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
# A character of Chinese says about as much as three letters of an alphabet.
_WIDE: Final = 3
# A sample is enough, and bounds the time.
_SAMPLE: Final = 8192
# So many letters must there be for a verdict.
_FEWEST_LETTERS: Final = 2

# The most frequent words of languages of Latin script, those that they share left out.
_FUNCTION_WORDS: Final = {
    "en": "the of and to is that it was for are with as his they be at this have from or had by but what were we when your "
    "can said there use an each which she do how their if will about many then them would "
    "like so these her has him who does why",
    "de": "der die und das den ist nicht ein zu dem mit sich des auf für im eine als auch "
    "es an werden aus er hat dass sie nach "
    "wird bei einer um am sind noch wie einem über einen so zum war haben nur oder  aber vor zur bis mehr durch kann"
    " warum welche",
    "fr": "le la les et des est en du une que dans qui pour au par sur pas plus avec ce il sont ne se ou son cette mais comme "
    "aux ses elle être nous vous leur où quel quelle pourquoi ces était",
    "es": "el los las y del que es una por con para su al lo como más pero sus le ya o "
    "este sí porque esta entre cuando muy sin "
    "sobre también me hasta hay donde qué cuál está son",
    "it": "il di che è per un con non del si da della le dei gli al nel alla più sono come anche lo ha questo ma delle nella "
    "perché quale dove cosa",
    "pt": "o os as do da em um para é com não uma no na por mais dos como mas foi ao ele das tem à seu sua ou ser quando muito "
    "há nos já está eu também pelo pela até isso qual você",
}
_LANGUAGES_OF: Final[dict[str, set[str]]] = {}
for _language, _words in _FUNCTION_WORDS.items():
    for _one in _words.split():
        _LANGUAGES_OF.setdefault(_one, set()).add(_language)
_UKRAINIAN: Final = re.compile("[іїєґІЇЄҐ]")
_RUSSIAN: Final = re.compile("[ыэъёЫЭЪЁ]")


def language_of(text: str) -> str:
    """The primary tag of BCP 47: ru, uk, zh, ja, ko, en, de, fr, es, it or pt; empty where that cannot be told.

    A text in Latin script without any frequent word, such as a single name, is in no language that can be told.
    """
    sample = text[:_SAMPLE]
    latin, cyrillic = len(_LATIN.findall(sample)), len(_CYRILLIC.findall(sample))
    han, kana, hangul = (len(one.findall(sample)) * _WIDE for one in (_HAN, _KANA, _HANGUL))
    most = max(latin, cyrillic, han + kana, hangul)
    if most < _FEWEST_LETTERS:
        return ""
    if most == han + kana:
        # Japanese cannot be written without kana; a Chinese text may quote some.
        return "ja" if kana * 10 > han + kana else "zh"
    if most == hangul:
        return "ko"
    if most == cyrillic:
        return "uk" if len(_UKRAINIAN.findall(sample)) > len(_RUSSIAN.findall(sample)) else "ru"
    return _latin(sample)


def _latin(sample: str) -> str:
    votes = dict.fromkeys(_FUNCTION_WORDS, 0.0)
    for word in _WORD.findall(sample.lower()):
        known = _LANGUAGES_OF.get(word, ())
        for language in known:
            votes[language] += 1 / len(known)
    ranked = sorted(votes.items(), key=lambda item: -item[1])
    return ranked[0][0] if ranked[0][1] > ranked[1][1] else ""


def expected_language(tag: str, question: str) -> str:
    """The primary tag of the language that was asked for, else that of the question; empty where neither tells."""
    return tag.partition("-")[0].lower() or language_of(question)


TOLD: Final = frozenset({*_FUNCTION_WORDS, "ru", "uk", "zh", "ja", "ko"})
"""The languages that `language_of` tells."""
