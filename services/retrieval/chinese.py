"""Makes traditional Chinese characters simplified, so that either script finds the other.

Character by character, not phrase by phrase: a character must become the same whatever stands beside it, or a query of two
characters would miss the sentence they stand in. The price is a few words more in common, as where 乾 (dry) and 干 meet.
Lengths stay as they are.
"""

from __future__ import annotations

from typing import Final

import opencc

_converter: Final = opencc.OpenCC("t2s")


class _Simplified(dict[int, int]):
    """The table of `str.translate`, filled as characters are met; it can grow no larger than Unicode's CJK blocks."""

    def __missing__(self, character: int) -> int:
        one = chr(character)
        # Some simplified forms have a simpler one still.
        while len(simpler := _converter.convert(one)) == 1 and simpler != one:
            one = simpler
        self[character] = ord(one)
        return self[character]


_table: Final = _Simplified()


def simplified(text: str) -> str:
    """The text with each traditional character replaced by its simplified form. Takes Chinese characters alone."""
    return text.translate(_table)
