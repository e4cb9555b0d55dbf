"""Finds names in Chinese that a source does not know.

Nothing in the script marks a name. But what a claim says otherwise than its source stands out as a run of characters, none of
which has its neighbour in the source; where such a run stands before a word like 市, 湖 or 公司, in 《》, around a ·, or after
由 or 从, it names something else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from services.retrieval.chinese import simplified
from services.retrieval.languages import CJK_CHARACTER

if TYPE_CHECKING:
    from collections.abc import Iterator

_AFTER: Final = re.compile(
    "省|市|县|区|镇|村|国|州|江|河|湖|海|山|岛|港|湾|峡|大坝"
    "|公司|大学|医院|博物馆|图书馆|银行|集团|学校|经理|先生|女士|博士|教授"
)
_BEFORE: Final = re.compile("(?:由|从|是|在|到|叫)$")
_TITLE: Final = re.compile("《([^》]{1,40})》")
_DOTTED: Final = re.compile(r"[\u4e00-\u9fff]{1,6}[·•][\u4e00-\u9fff]{1,8}")
_LONGEST: Final = 6
# Words that a writer may add without naming anybody.
_PLAIN: Final = frozenset(
    "的了在是于为有和与及或也都就而之其这那个每该此需要须应可以能会需将已经进行使用共约"
    "大全很最更得到开放对公众位服务器系统用户员工公司时候后前内外"
)


def foreign_name(claim: str, source: str) -> bool:
    """Whether the claim names something in Chinese that the source does not."""
    if not CJK_CHARACTER.search(claim):
        return False
    claim, source = simplified(claim), simplified(source)
    named = [match[1] for match in _TITLE.finditer(claim)] + _DOTTED.findall(claim)
    if any(name not in source for name in named):
        return True
    return any(_is_name(claim, start, end) for start, end in _strange_runs(claim, source))


def _is_name(claim: str, start: int, end: int) -> bool:
    run = claim[start:end]
    if end - start > _LONGEST or all(character in _PLAIN for character in run):
        return False
    if _AFTER.match(claim, end):
        return True
    lead = _BEFORE.search(claim, 0, start)
    return end - start > 1 and lead is not None and lead[0] in {"由", "从", "到"} and _is_place(claim, start, lead[0])


def _is_place(claim: str, start: int, lead: str) -> bool:
    """到 leads a place only where 从 came before it; otherwise it mostly follows a verb."""
    return lead != "到" or "从" in claim[:start]


def _strange_runs(claim: str, source: str) -> Iterator[tuple[int, int]]:
    """Spans of characters that stand beside none of their neighbours in the source."""
    strange = [
        bool(CJK_CHARACTER.match(character))
        and claim[max(0, place - 1) : place + 1] not in source
        and claim[place : place + 2] not in source
        for place, character in enumerate(claim)
    ]
    for place, character in enumerate(claim):
        # At an edge one neighbour is missing: then the character itself must be missing in the source.
        at_edge = place in (0, len(claim) - 1)
        if strange[place] and at_edge and character in source:
            strange[place] = False
    place = 0
    while place < len(claim):
        end = place
        while end < len(claim) and strange[end]:
            end += 1
        if end > place:
            yield place, end
        place = end + 1
