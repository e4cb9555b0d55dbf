"""What an older version of the analyzer indexed is indexed anew, where that makes a difference."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg

from services.retrieval.analysis import ANALYZER, CHANGED_AFTER
from tests.support.retrieval import retrieval

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Postgres


async def editions(database: asyncpg.Connection[asyncpg.Record]) -> dict[str, int]:
    """Which edition of each document can be found."""
    rows = await database.fetch("SELECT document, indexed_edition FROM retrieval.documents")
    return {row["document"]: row["indexed_edition"] for row in rows}


async def test_documents_of_an_older_analyzer_are_indexed_anew(postgres: Postgres, tmp_path: Path) -> None:
    async with retrieval(tmp_path, postgres) as suite:
        await suite.create("docs")
        await suite.add({"document": "zh", "text": "電腦網絡連接圖書館。"}, {"document": "en", "text": "Whales dive."})
        await suite.add({"document": "title", "title": "電影", "text": "Seven samurai."})
        database = await asyncpg.connect(suite.environment["DATABASE_URL"])
        try:
            assert await editions(database) == {"zh": 1, "en": 1, "title": 1}
            await suite.service.terminate()
            await suite.service.start()
            await asyncio.sleep(1)
            assert await editions(database) == {"zh": 1, "en": 1, "title": 1}

            await suite.service.terminate()
            await database.execute("UPDATE retrieval.collections SET analyzer = 1")
            await suite.service.start()
            async with asyncio.timeout(20):
                while await editions(database) != {"zh": 2, "en": 1, "title": 2}:
                    assert (await suite.found("whales dive"))[0] == "en"
                    await asyncio.sleep(0.1)
            assert await database.fetchval("SELECT analyzer FROM retrieval.collections") == ANALYZER
        finally:
            await database.close()
        assert await suite.found("电脑") == ["zh"]


def test_each_older_version_says_what_changed_after_it() -> None:
    assert sorted(CHANGED_AFTER) == list(range(1, ANALYZER))
