"""How well groundedness tells supported from contradicted and unsupported sentences: benchmarks/data/grounding.jsonl.

`python -m benchmarks.grounding` judges by words alone; with `--target HOST:PORT` of the inference service also by meaning.
Groups of the set stand in turn for development (the formula was tuned on them) and held out (it never was).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc.aio
from penstock.inference.v1 import embedding_service_pb2, embedding_service_pb2_grpc

from services.retrieval.grounding.groundedness import Grounds, Verdict
from services.retrieval.languages import is_known
from services.retrieval.passages import Hit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

SET: Final = Path(__file__).parent / "data" / "grounding.jsonl"
VERDICTS: Final = (Verdict.SUPPORTED, Verdict.CONTRADICTED, Verdict.UNSUPPORTED)
# What the embedded embedder declares.
LANGUAGES: Final = ("en",)


async def outcomes(
    held_out: bool, embed: Callable[[Sequence[str]], Awaitable[Mapping[str, Sequence[float]]]] | None = None
) -> list[tuple[str, Verdict, Verdict, str, str]]:
    """Language, label, verdict, sentence and vetoes of every sentence of one half of the set."""
    found: list[tuple[str, Verdict, Verdict, str, str]] = []
    for place, line in enumerate(SET.read_text().splitlines()):
        if (place % 2 == 1) != held_out:
            continue
        group = json.loads(line)
        text = group["source"]
        grounds = Grounds([Hit("c", "d", "1", text, 1.0, 1.0, "", {}, 0, len(text))])
        for label in VERDICTS:
            for sentence in group[label]:
                claims = grounds.claims(sentence)
                wanted = grounds.wanted(claims, lambda one: is_known(one, LANGUAGES)) if embed else []
                judged = grounds.judge(claims, await embed(wanted) if embed and wanted else {}).sentences
                verdict = judged[0].verdict if len(judged) == 1 else Verdict.UNSCORED
                found.append((group["language"], label, verdict, sentence, ",".join(judged[0].vetoes)))
    return found


def measured(found: Sequence[tuple[str, Verdict, Verdict, str, str]]) -> dict[str, dict[Verdict, tuple[float, float]]]:
    """Precision and recall of each verdict, by language and over `all`."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for language, label, verdict, *_ in found:
        for group in (language, "all"):
            counts[group, "true", label] += label == verdict
            counts[group, "labelled", label] += 1
            counts[group, "told", verdict] += 1
    groups = dict.fromkeys(group for group, *_ in counts)
    return {
        group: {
            one: (
                counts[group, "true", one] / max(1, counts[group, "told", one]),
                counts[group, "true", one] / max(1, counts[group, "labelled", one]),
            )
            for one in VERDICTS
        }
        for group in groups
    }


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", help="host:port of inference's gRPC, to judge by meaning too")
    parser.add_argument("--wrong", action="store_true", help="print the development sentences that were judged wrongly")
    arguments = parser.parse_args()
    embed = _embedder(arguments.target) if arguments.target else None
    for held_out in (False, True):
        found = await outcomes(held_out, embed)
        print(f"\n{'held out' if held_out else 'development'}: {len(found)} sentences; precision / recall")
        print("| language | supported | contradicted | unsupported |\n|---|---|---|---|")
        for language, figures in sorted(measured(found).items()):
            print(f"| {language} | " + " | ".join(f"{p:.2f} / {r:.2f}" for p, r in figures.values()) + " |")
        if arguments.wrong and not held_out:
            for language, label, verdict, sentence, vetoes in found:
                if label != verdict:
                    print(f"  {language} {label} -> {verdict} [{vetoes}] {sentence}", file=sys.stderr)


def _embedder(target: str) -> Callable[[Sequence[str]], Awaitable[Mapping[str, Sequence[float]]]]:
    stub = embedding_service_pb2_grpc.EmbeddingServiceStub(grpc.aio.insecure_channel(target))

    async def embed(texts: Sequence[str]) -> Mapping[str, Sequence[float]]:
        response = await stub.Embed(embedding_service_pb2.EmbedRequest(model="auto", inputs=texts), timeout=60)
        return {text: list(one.values) for text, one in zip(texts, response.embeddings, strict=True)}

    return embed


if __name__ == "__main__":
    asyncio.run(_main())
