"""Documents of several kinds, from their bytes to what a search says of where a passage stands."""

import base64

import grpc.aio
import pytest
from penstock.retrieval.v1 import search_pb2

from tests.support.retrieval import Retrieval, info_of, reason_of
from tests.unit.retrieval.test_parsing import pdf

pytestmark = pytest.mark.asyncio(loop_scope="module")

SPARSE = search_pb2.SEARCH_MODE_SPARSE
BODY = " ".join(f"Sentence {number} says something of water and of stones." for number in range(60))


async def test_a_hit_says_where_it_stands_and_widens_to_its_section(suite: Retrieval) -> None:
    await suite.create("kinds")
    guide = f"# Guide\n\n## Pumps\n\n{BODY}\n\nThe capstan turns.\n\n{BODY}\n\n## Sluices\n\n{BODY}\n"
    rows = "\n".join(f"{number},gadget{number},{number * 2}" for number in range(200))
    code = (
        "class Mill:\n    def grind(self) -> int:\n        return wheelhouse\n\n\ndef other() -> None:\n    pass\n"
        + "# x\n" * 300
    )
    book = pdf(*(f"Page {number} says something of water, stones and sand." for number in range(1, 40)), "A windlass")
    await suite.add(
        {"document": "guide.md", "text": guide},
        {"document": "parts.csv", "text": f"id,name,price\n{rows}"},
        {"document": "mill.py", "text": code},
        {"document": "book", "data": base64.b64encode(book).decode()},
        collection="kinds",
    )
    text = (await suite.get("guide.md", "kinds")).text
    hit = (await suite.search("capstan", "kinds", mode=SPARSE, top_k=1)).hits[0]
    assert list(hit.headings) == ["Guide", "Pumps"]
    assert hit.text == text[hit.start : hit.end]
    whole = (await suite.search("capstan", "kinds", mode=SPARSE, top_k=1, section=True)).hits[0]
    assert whole.text.split() == text[: text.index("## Sluices")].split()
    assert len(whole.text) == whole.end - whole.start
    assert (whole.chunk, list(whole.headings)) == (hit.chunk, ["Guide", "Pumps"])
    row = (await suite.search("gadget150", "kinds", mode=SPARSE, top_k=1)).hits[0]
    assert list(row.headings) == ["id | name | price"]
    assert "150 | gadget150 | 300" in row.text.splitlines()
    method = (await suite.search("wheelhouse", "kinds", mode=SPARSE, top_k=1)).hits[0]
    assert method.document == "mill.py"
    assert method.text.startswith("class Mill")
    page = (await suite.search("windlass", "kinds", mode=SPARSE, top_k=1)).hits[0]
    assert page.document == "book"
    assert page.page > 20
    assert page.text.startswith(f"Page {page.page} says")


async def test_what_holds_many_documents_is_no_document(suite: Retrieval) -> None:
    await suite.create("many-in-one")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await suite.add({"document": "a", "text": '{"text": "x"}', "media_type": "application/jsonl"}, collection="many-in-one")
    assert reason_of(caught.value) == "UNSUPPORTED_MEDIA_TYPE"
    assert info_of(caught.value).metadata["media_type"] == "application/jsonl"
    assert "ingestion" in (caught.value.details() or "")
