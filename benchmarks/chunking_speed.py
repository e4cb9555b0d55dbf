"""How fast documents of each kind are cut into chunks, in one process.

.venv/bin/python -m benchmarks.chunking_speed [--megabytes 2]

Prose, Markdown, Chinese and tables are made here; code is that of the services. Cutting exactly counts tokens by the words of a
vocabulary that is known already, as in the service after some documents; the estimate goes by the lengths of words.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Final

from benchmarks.table import render
from services.retrieval.chunking.chunks import chunk
from services.retrieval.chunking.tokens import ESTIMATE, WORD, ByWords
from services.retrieval.parsing import parse

_ENGLISH_TEXT: Final = (
    "the pump lifts water from a river and sluices hold it back until spring comes with rain over all the hills"
)
_RUSSIAN_TEXT: Final = "насос поднимает воду из реки а шлюзы удерживают её до весны когда над холмами идут дожди"
_ENGLISH: Final = _ENGLISH_TEXT.split()
_RUSSIAN: Final = _RUSSIAN_TEXT.split()
_ROOT: Final = Path(__file__).resolve().parents[1]


def prose(words: list[str], characters: int, seed: int) -> str:
    """Paragraphs of sentences of 6 to 24 words."""
    choice = random.Random(seed)  # noqa: S311 - no secret
    parts: list[str] = []
    size = 0
    while size < characters:
        sentence = " ".join(choice.choices(words, k=choice.randint(6, 24))).capitalize()
        parts.append(sentence + choice.choice([". ", ". ", "? ", ".\n\n"]))
        size += len(parts[-1])
    return "".join(parts)


def contents(megabytes: float) -> dict[str, tuple[str, str]]:
    """A name and a text of each kind, of about so many million characters."""
    size = int(megabytes * 1e6)
    english = prose(_ENGLISH, size, 1)
    sections = "\n\n".join(
        f"## Part {number}\n\n{english[start : start + 3000]}" for number, start in enumerate(range(0, size, 3000))
    )
    files = [path.read_text(encoding="utf-8") for path in sorted((_ROOT / "services").rglob("*.py"))]
    rows = "\n".join(
        f"{number},pump {number},{number * 1.5},{_ENGLISH[number % len(_ENGLISH)]}" for number in range(size // 30)
    )
    return {
        "English prose": ("a.txt", english),
        "Russian prose": ("b.txt", prose(_RUSSIAN, size, 2)),
        "Chinese prose": ("c.txt", "水泵提水，闸门挡水。春天来了！雨下在山上吗？" * (size // 22)),
        "Markdown": ("d.md", sections),
        "CSV": ("e.csv", f"id,name,price,word\n{rows}"),
        "Python": ("f.py", "\n\n".join(files)[:size]),
    }


def measure(megabytes: float) -> list[list[str]]:
    """A row for each kind: reading and cutting, in millions of characters a second."""
    rows = []
    for kind, (name, text) in contents(megabytes).items():
        started = time.perf_counter()
        media_type, reading = parse(text, document=name)
        seconds = [time.perf_counter() - started]
        count = 0
        exact = ByWords(dict.fromkeys(WORD.findall(reading.text), 1))
        for ruler in (ESTIMATE, exact):
            started = time.perf_counter()
            cut = chunk(reading.text, title="T", headings=reading.headings, media_type=media_type, measure=ruler)
            seconds.append(time.perf_counter() - started)
            count = count or len(cut)
        speeds = [f"{len(text) / 1e6 / one:.1f}" for one in seconds]
        rows.append([kind, f"{len(text) / 1e6:.1f}", str(count), *speeds])
    return rows


def main() -> None:
    """Prints the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--megabytes", type=float, default=2.0)
    rows = measure(arguments.parse_args().megabytes)
    columns = ["kind", "million characters", "chunks", "reading, M/s", "cutting by estimate, M/s", "cutting exactly, M/s"]
    print(render(columns, rows))


if __name__ == "__main__":
    main()
