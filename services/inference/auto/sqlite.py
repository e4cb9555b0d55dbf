"""Keeps records in one SQLite file, which all processes of the service on a machine share.

One thread a process does all the work, one statement batch after another. Writers of several processes take turns by the file's
own lock (write-ahead log), so that what one has committed all see, and a kill loses nothing that was.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from array import array
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import uuid4

import msgspec

from services.chassis.errors import Failure, Reason
from services.inference.auto.features import VERSION
from services.inference.auto.fitting import Fitted
from services.inference.auto.records import Outcome, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from services.inference.auto.records import Feedback, Record

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

# Seconds that one process waits for another's turn to end.
_BUSY_SECONDS: Final = 5.0
# Rows are counted, and the oldest ones deleted, once so many have been added.
_TRIM_EVERY: Final = 500
_SCHEMA: Final = """
create table if not exists records (
    id integer primary key autoincrement, key blob not null unique, alias text not null, model text not null, why text not null,
    propensity real not null, version integer not null, vector blob not null, ending text not null,
    output_tokens integer not null, time real not null
);
create index if not exists records_of_a_model on records (alias, model, id);
create table if not exists feedback (
    id integer primary key autoincrement, key blob not null, source text not null, reward real not null, time real not null,
    unique (key, source)
);
create table if not exists fits (alias text primary key, revision text not null, body blob not null);
create table if not exists leases (name text primary key, holder text not null, until real not null);
"""

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Fitted).decode


class SqliteRecords:
    """`Records` in a file.

    Args:
        path: The file; made where it is missing. One that cannot be used is told in the log, and each call then fails.
        most_of_a_model: Records kept of each model of an alias; the oldest ones go first.
        most: Records kept in all, and as many rewards.
    """

    def __init__(self, path: Path, *, most_of_a_model: int = 5000, most: int = 100_000) -> None:
        self._path = path
        self._most_of_a_model = most_of_a_model
        self._most = most
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="records")
        self._connection: sqlite3.Connection | None = None
        self._holder = uuid4().hex
        self._added = _TRIM_EVERY
        self._fits: dict[str, tuple[str, Fitted]] = {}

    async def add(self, records: Sequence[Record]) -> None:
        """As `Records.add`."""
        await self._run(partial(self._add, records))

    async def add_feedback(self, feedback: Sequence[Feedback]) -> list[bool]:
        """As `Records.add_feedback`."""
        return await self._run(partial(self._add_feedback, feedback))

    async def changes(self) -> int:
        """As `Records.changes`."""
        return await self._run(_changes, "deferred")

    async def outcomes(self, alias: str) -> list[Outcome]:
        """As `Records.outcomes`."""
        return await self._run(partial(_outcomes, alias), "deferred")

    async def fits(self) -> dict[str, Fitted]:
        """As `Records.fits`."""
        return await self._run(self._read_fits, "deferred")

    async def keep(self, alias: str, fitted: Fitted) -> None:
        """As `Records.keep`."""
        body = _encode(fitted)

        def keep(connection: sqlite3.Connection) -> None:
            connection.execute(
                "insert or replace into fits (alias, revision, body) values (?, ?, ?)", (alias, fitted.revision, body)
            )

        await self._run(keep)

    async def lease(self, seconds: float) -> bool:
        """As `Records.lease`."""

        def lease(connection: sqlite3.Connection) -> bool:
            now = time.time()
            taken = connection.execute(
                "insert into leases (name, holder, until) values ('fit', ?, ?) on conflict (name) do update "
                "set holder = excluded.holder, until = excluded.until where holder = excluded.holder or until < ?",
                (self._holder, now + seconds, now),
            )
            return taken.rowcount > 0

        return await self._run(lease)

    async def close(self) -> None:
        """As `Records.close`."""

        def close() -> None:
            if self._connection is not None:
                self._connection.close()

        await asyncio.get_running_loop().run_in_executor(self._thread, close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[sqlite3.Connection], _T], kind: str = "immediate") -> _T:
        def transaction() -> _T:
            connection = self._opened()
            connection.execute(f"begin {kind}")
            try:
                result = work(connection)
            except BaseException:
                connection.execute("rollback")
                raise
            connection.execute("commit")
            return result

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, transaction)
        except (sqlite3.Error, OSError) as error:
            _log.warning("the records of routing cannot be used: %s", error)
            message = "the records of routing cannot be read or written at the moment; try again"
            raise Failure(Reason.DATABASE_UNAVAILABLE, message) from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
            try:
                connection.execute("pragma journal_mode = wal")
                # What is acknowledged is on the disk, also when the machine dies.
                connection.execute("pragma synchronous = full")
                connection.execute("pragma journal_size_limit = 4194304")
                connection.executescript(_SCHEMA)
            except sqlite3.Error:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _add(self, records: Sequence[Record], connection: sqlite3.Connection) -> None:
        connection.executemany(
            "insert or replace into records (key, alias, model, why, propensity, version, vector, ending, output_tokens, time) "
            "values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    one.key,
                    one.alias,
                    one.model,
                    one.why.value,
                    one.propensity,
                    VERSION,
                    array("d", one.vector).tobytes(),
                    one.ending.value,
                    one.output_tokens,
                    one.time,
                )
                for one in records
            ],
        )
        self._trim(len(records), connection)

    def _add_feedback(self, feedback: Sequence[Feedback], connection: sqlite3.Connection) -> list[bool]:
        connection.executemany(
            "insert or replace into feedback (key, source, reward, time) values (?, ?, ?, ?)",
            [(one.key, one.source.value, one.reward, one.time) for one in feedback],
        )
        self._trim(len(feedback), connection)
        return [
            connection.execute("select 1 from records where key = ?", (one.key,)).fetchone() is not None for one in feedback
        ]

    def _read_fits(self, connection: sqlite3.Connection) -> dict[str, Fitted]:
        known, self._fits = self._fits, {}
        for alias, revision in connection.execute("select alias, revision from fits").fetchall():
            if alias in known and known[alias][0] == revision:
                self._fits[alias] = known[alias]
                continue
            (body,) = connection.execute("select body from fits where alias = ?", (alias,)).fetchone()
            try:
                self._fits[alias] = (revision, _decode(body))
            except msgspec.DecodeError:
                # Kept by another version of this service; it is made again from the records.
                continue
        return {alias: fitted for alias, (_, fitted) in self._fits.items()}

    def _trim(self, added: int, connection: sqlite3.Connection) -> None:
        """Deletes the oldest ones. The file's pages are used again, so that it stops growing."""
        self._added += added
        if self._added < _TRIM_EVERY:
            return
        self._added = 0
        for alias, model in connection.execute("select distinct alias, model from records").fetchall():
            connection.execute(
                "delete from records where alias = ?1 and model = ?2 and id <= (select id from records where alias = ?1 and "
                "model = ?2 order by id desc limit 1 offset ?3)",
                (alias, model, self._most_of_a_model),
            )
        for table in ("records", "feedback"):
            connection.execute(
                f"delete from {table} where id <= (select id from {table} order by id desc limit 1 offset ?)",  # noqa: S608 - our own names
                (self._most,),
            )


def _changes(connection: sqlite3.Connection) -> int:
    # AUTOINCREMENT keeps the highest number ever given, also of what has been deleted since.
    count: int = connection.execute("select coalesce(sum(seq), 0) from sqlite_sequence").fetchone()[0]
    return count


def _outcomes(alias: str, connection: sqlite3.Connection) -> list[Outcome]:
    rows = connection.execute(
        "select model, why, propensity, vector, ending, output_tokens, coalesce(theirs.reward, ours.reward) from records "
        "left join feedback theirs on theirs.key = records.key and theirs.source = ? "
        "left join feedback ours on ours.key = records.key and ours.source = ? "
        "where alias = ? and version = ? order by records.id",
        (Source.USER.value, Source.EVALUATOR.value, alias, VERSION),
    )
    outcomes = []
    for model, why, propensity, vector, ending, output_tokens, reward in rows:
        numbers = array("d")
        numbers.frombytes(vector)
        outcomes.append(Outcome(model, why, propensity, tuple(numbers), ending, output_tokens, reward))
    return outcomes
