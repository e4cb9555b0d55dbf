"""How far groundedness without a language model agrees with people: Cohen's kappa on a small labelled set, by language.

The set (`data/quality_labels.jsonl`) is written by us, half of it supported: among others paraphrases without a common
word, other numbers, denials, and the same words in other roles. It is too small for fine differences; it shows what the
measure is blind to.
"""

from __future__ import annotations

import json
from pathlib import Path

from services.experiments.quality.agreement import cohens_kappa
from services.experiments.quality.assessment import Subject
from services.experiments.quality.support import groundedness

_LABELS = Path(__file__).parent / "data" / "quality_labels.jsonl"
_SUPPORTED = 0.5


def main() -> None:
    """Prints a line a language, and the claims on which it errs."""
    items = [json.loads(line) for line in _LABELS.read_text(encoding="utf-8").splitlines()]
    scores = [groundedness(Subject(item["claim"], contexts=(item["context"],))).score or 0.0 for item in items]
    judged = [score >= _SUPPORTED for score in scores]
    for language in ("en", "ru", "zh", ""):
        places = [place for place, item in enumerate(items) if language in {"", item["language"]}]
        ours, labels = [judged[place] for place in places], [bool(items[place]["supported"]) for place in places]
        kappa = cohens_kappa(ours, labels)
        agreed = sum(a == b for a, b in zip(ours, labels, strict=True))
        told = "undefined" if kappa is None else f"{kappa:.2f}"
        print(f"{language or 'all':4} {agreed}/{len(places)} agree, Cohen's kappa {told}")
    for item, score, verdict in zip(items, scores, judged, strict=True):
        if verdict != item["supported"]:
            print(f"  {'missed' if item['supported'] else 'let pass'} ({score:.2f}): {item['claim']}")


if __name__ == "__main__":
    main()
