"""How well intents of conversation turns are told: benchmarks/data/intents.jsonl, written before the rules.

`python -m benchmarks.intents`; with `--target HOST:PORT` of the inference service also by likeness in meaning, for languages
that its embedder knows. Contexts of the set stand in turn for development and held out; the rules never saw the latter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc.aio
from penstock.inference.v1 import embedding_service_pb2, embedding_service_pb2_grpc

from services.retrieval.intent.intents import Before, judged
from services.retrieval.intent.kinds import Intent
from services.retrieval.languages import is_known

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Embed = Callable[[Sequence[str]], Awaitable[list[list[float]]]]

SET: Final = Path(__file__).parent / "data" / "intents.jsonl"
LANGUAGES: Final = ("en",)
# Of the normal distribution, for intervals of 95 %.
_Z: Final = 1.96


@dataclass(frozen=True, slots=True)
class Told:
    """A turn of the set, and what was told of it."""

    language: str
    label: Intent
    told: Intent
    confidence: float
    query: str


async def outcomes(held_out: bool, embed: Embed | None = None) -> list[Told]:
    """What is told of each turn of one half of the set."""
    found: list[Told] = []
    for place, line in enumerate(SET.read_text().splitlines()):
        if (place % 2 == 1) != held_out:
            continue
        context = json.loads(line)
        before = Before(context["query"], context["answer"])
        for label, query in context["turns"]:
            likeness = None
            if embed is not None and is_known(query, LANGUAGES):
                one, other = await embed([query, f"{before.query} {before.text}"])
                likeness = sum(x * y for x, y in zip(one, other, strict=True))
            judgement = judged(query, before, likeness)
            found.append(Told(context["language"], Intent(label), judgement.intent, judgement.confidence, query))
    return found


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson's score interval)."""
    share, square = right / count, _Z * _Z
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = _Z / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return middle - half, middle + half


def f1(found: Sequence[Told]) -> dict[Intent, float]:
    """The F1 of each intent."""
    told, labelled = Counter(one.told for one in found), Counter(one.label for one in found)
    right = Counter(one.label for one in found if one.label == one.told)
    return {intent: 2 * right[intent] / max(1, told[intent] + labelled[intent]) for intent in Intent}


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", help="host:port of inference's gRPC, to compare by meaning too")
    parser.add_argument("--wrong", action="store_true", help="print the development turns that were told wrongly")
    arguments = parser.parse_args()
    embed = _embedder(arguments.target) if arguments.target else None
    for held_out in (False, True):
        began = time.perf_counter()
        found = await outcomes(held_out, embed)
        each = (time.perf_counter() - began) / len(found)
        print(f"\n{'held out' if held_out else 'development'}: {len(found)} turns, {1e6 * each:.0f} us each\n")
        print(f"| language | accuracy (95 %) | {' | '.join(Intent)} |\n|---|---|{'---|' * len(Intent)}")
        for language in ("all", "en", "ru", "zh"):
            some = [one for one in found if language in {"all", one.language}]
            right = sum(one.label == one.told for one in some)
            low, high = wilson(right, len(some))
            cells = " | ".join(f"{value:.2f}" for value in f1(some).values())
            print(f"| {language} | {right / len(some):.2f} ({low:.2f} to {high:.2f}) | {cells} |")
        if arguments.wrong and not held_out:
            for one in found:
                if one.label != one.told:
                    print(f"  {one.language} {one.label} -> {one.told} {one.confidence:.2f} {one.query}", file=sys.stderr)


def _embedder(target: str) -> Embed:
    stub = embedding_service_pb2_grpc.EmbeddingServiceStub(grpc.aio.insecure_channel(target))

    async def embed(texts: Sequence[str]) -> list[list[float]]:
        response = await stub.Embed(embedding_service_pb2.EmbedRequest(model="auto", inputs=texts), timeout=60)
        return [list(one.values) for one in response.embeddings]

    return embed


if __name__ == "__main__":
    asyncio.run(_main())
