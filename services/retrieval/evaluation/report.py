"""The scores of several settings side by side: as a table in Markdown, and as a plot in SVG."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from services.retrieval.evaluation.measures import Measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.retrieval.evaluation.evaluator import Score
    from services.retrieval.evaluation.measures import Interval

_TITLES: Final = {Measure.NDCG: "nDCG@10", Measure.RECALL: "recall@10", Measure.MRR: "MRR@10", Measure.HIT: "hit@1"}
_COLORS: Final = ("#3b6ea8", "#c8553d", "#4f8a4c", "#8a5fa8", "#b08a2e", "#3f9a9a", "#a84f7a", "#6b6b6b")
_LEFT: Final = 90
_WIDTH: Final = 560
_BAR: Final = 16
_GAP: Final = 22
_TOP: Final = 40


def table(scores: Sequence[Score]) -> str:
    """A row a setting: means with their intervals, what nDCG differs from the first setting's, and times."""
    head = ["setting", *_TITLES.values(), "nDCG@10 less the first's", "p50 ms", "p95 ms"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for one in scores:
        difference = one.differences.get(Measure.NDCG)
        cells = [
            one.name.replace("|", "\\|"),
            *(_told(one.measures[measure]) for measure in _TITLES),
            _told(difference, sign="+") if difference else "",
            f"{one.p50_ms:.1f}",
            f"{one.p95_ms:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _told(interval: Interval, sign: str = "") -> str:
    return f"{interval.mean:{sign}.4f} ({interval.low:{sign}.4f} to {interval.high:{sign}.4f})"


def plot(scores: Sequence[Score], title: str) -> str:
    """Bars from 0 to 1 by measure, a color a setting, with whiskers for the intervals; dark on white."""
    group = _BAR * len(scores) + _GAP
    height = _TOP + group * len(_TITLES) + 24 + 18 * len(scores)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 70}" height="{height}" font-family="sans-serif" ',
        f'font-size="12" role="img"><title>{escape(title)}</title><rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="10" y="20" font-size="14">{escape(title)}</text>',
    ]
    bottom = _TOP + group * len(_TITLES) - _GAP
    for tick in range(0, 11, 2):
        x = _LEFT + _WIDTH * tick / 10
        parts.append(f'<line x1="{x}" x2="{x}" y1="{_TOP - 6}" y2="{bottom + 4}" stroke="#dddddd"/>')
        parts.append(f'<text x="{x}" y="{bottom + 18}" text-anchor="middle">{tick / 10:.1f}</text>')
    for place, (measure, name) in enumerate(_TITLES.items()):
        top = _TOP + place * group
        parts.append(f'<text x="10" y="{top + _BAR * len(scores) / 2 + 4}">{name}</text>')
        parts += [_bar(one.measures[measure], top + number * _BAR, number) for number, one in enumerate(scores)]
    for number, one in enumerate(scores):
        y = bottom + 42 + 18 * number
        parts.append(f'<rect x="{_LEFT}" y="{y - 10}" width="12" height="12" fill="{_COLORS[number % len(_COLORS)]}"/>')
        parts.append(f'<text x="{_LEFT + 18}" y="{y}">{escape(one.name)}</text>')
    return "".join([*parts, "</svg>\n"])


def _bar(interval: Interval, y: float, number: int) -> str:
    middle, color = y + _BAR / 2, _COLORS[number % len(_COLORS)]
    low, mean, high = (_LEFT + _WIDTH * value for value in (interval.low, interval.mean, interval.high))
    return (
        f'<rect x="{_LEFT}" y="{y + 2}" width="{mean - _LEFT:.1f}" height="{_BAR - 4}" fill="{color}"/>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="#222222"/>'
        f'<text x="{high + 6:.1f}" y="{middle + 4}">{interval.mean:.3f}</text>'
    )
