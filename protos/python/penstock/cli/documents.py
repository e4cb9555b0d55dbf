"""Collections, what goes into them, and what is found in them."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from penstock import errors
from penstock.cli import ingestion
from penstock.cli.answers import Mode, TopK, Where, check_mode, where
from penstock.cli.exits import CommandError, Exit
from penstock.cli.session import Session, as_dict
from penstock.retrieval.v1 import document_pb2

_EXCERPT = 300

collections = typer.Typer(no_args_is_help=True, help="Sets of documents that are searched together.")

Name = Annotated[str, typer.Argument(help="Id of the collection.", show_default=False)]


def ingest(
    ctx: typer.Context,
    collection: Annotated[str, typer.Argument(help="Where they go; made if it does not exist.", show_default=False)],
    path: Annotated[Path, typer.Argument(help="A folder, or one file.", exists=True, show_default=False)],
    pattern: Annotated[
        list[str] | None,
        typer.Option(help=f"Files to take, such as '*.log'; may be repeated. By default {' '.join(ingestion.ENDINGS)}."),
    ] = None,
    parallel: Annotated[int, typer.Option(help="Calls at a time.", min=1, max=8)] = 2,
) -> None:
    """Add the files of a folder.

    A file's id is its path within the folder. Repeat the command to take up an interrupted run or to bring in changes: what
    is there already costs next to nothing. A file that cannot be read fails alone.
    """
    session: Session = ctx.obj
    try:
        files, passed = ingestion.find(path, pattern or ())
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror or error}") from error
    if not files:
        raise CommandError(f"{path} holds no file to add; name others with --pattern")
    _make(session, collection)
    run = _Run(session, collection, passed)
    with session.progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    ) as progress:
        bar = progress.add_task("adding", total=len(files))

        def tell(outcome: ingestion.Outcome) -> None:
            run.outcomes.append(outcome)
            progress.update(bar, advance=1, description=run.pace())

        try:
            ingestion.add(session.client, collection, files, parallel, tell)
        except (errors.PenstockError, KeyboardInterrupt):
            progress.stop()
            session.note(f"stopped after {len(run.outcomes)} of {len(files)} files; repeat the command to go on")
            raise
    run.show()
    if run.refused:
        raise typer.Exit(Exit.PARTLY if run.added else Exit.REFUSED)


class _Run:
    """What came of one ingestion."""

    def __init__(self, session: Session, collection: str, passed: list[str]) -> None:
        self.outcomes: list[ingestion.Outcome] = []
        self._session = session
        self._collection = collection
        self._passed = passed
        self._began = time.monotonic()

    def pace(self) -> str:
        """How fast it goes, in words for the progress bar."""
        chunks = sum(one.document.chunk_count for one in self.outcomes if isinstance(one, ingestion.Added))
        return f"adding, {chunks / max(time.monotonic() - self._began, 0.001):.0f} chunks/s"

    @property
    def added(self) -> list[document_pb2.Document]:
        found = [one.document for one in self.outcomes if isinstance(one, ingestion.Added)]
        return sorted(found, key=lambda document: document.document)

    @property
    def refused(self) -> list[ingestion.Refused]:
        found = [one for one in self.outcomes if isinstance(one, ingestion.Refused)]
        return sorted(found, key=lambda one: one.document)

    def show(self) -> None:
        session, added, refused = self._session, self.added, self.refused
        if session.as_json:
            session.emit(
                {
                    "collection": self._collection,
                    "documents": [as_dict(document) for document in added],
                    "refused": [vars(one) for one in refused],
                    "passed_over": self._passed,
                }
            )
            return
        for one in refused:
            session.say(f"not added: {one.document}: {one.message} ({one.reason})")
        chunks = sum(document.chunk_count for document in added)
        pending = sum(document.state != document_pb2.DOCUMENT_STATE_INDEXED for document in added)
        parts = [f"{len(added)} files are in {self._collection} ({chunks} chunks)"]
        parts += [f"{pending} of them not searchable yet"] if pending else []
        parts += [f"{len(refused)} not added"] if refused else []
        parts += [f"{len(self._passed)} passed over, of other kinds"] if self._passed else []
        session.say("; ".join(parts))


def search(
    ctx: typer.Context,
    query: Annotated[str, typer.Argument(help="What to find.", show_default=False)],
    collection: Where = None,
    top_k: TopK = None,
    mode: Mode = "hybrid",
) -> None:
    """Find passages."""
    session: Session = ctx.obj
    mode = check_mode(mode)
    response = session.client.search(query, where(session, collection), top_k=top_k, mode=mode)
    if session.as_json:
        session.emit(as_dict(response))
        return
    if response.mode_note:
        session.note(response.mode_note)
    if not response.hits:
        session.note("nothing was found")
    for number, hit in enumerate(response.hits, start=1):
        title = f"{hit.title} · " if hit.title else ""
        text = " ".join(hit.text.split())
        excerpt = text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}…"
        session.say(f"[{number}] {title}{hit.collection}/{hit.document}  relevance {hit.relevance:.2f}\n    {excerpt}")


@collections.command("list")
def list_(ctx: typer.Context) -> None:
    """Show all collections."""
    session: Session = ctx.obj
    found = list(session.client.list_collections(page_size=250))
    if session.as_json:
        session.emit({"collections": [as_dict(one) for one in found]})
        return
    session.table(
        ["COLLECTION", "#DOCUMENTS", "#CHUNKS", "EMBEDDER", "DESCRIPTION"],
        [[one.collection, str(one.document_count), str(one.chunk_count), one.embedder, one.description] for one in found],
    )


@collections.command()
def create(
    ctx: typer.Context,
    collection: Name,
    description: Annotated[str, typer.Option(help="What it holds, in plain words.")] = "",
    embedder: Annotated[str, typer.Option(help="The model that embeds; chosen by the server by default.")] = "",
) -> None:
    """Create an empty collection."""
    session: Session = ctx.obj
    made = session.client.create_collection(collection, description=description, embedder=embedder)
    if session.as_json:
        session.emit(as_dict(made))
    else:
        session.say(f"created {made.collection}, embedded by {made.embedder}")


@collections.command()
def delete(
    ctx: typer.Context,
    collection: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a collection with all its documents, for good."""
    session: Session = ctx.obj
    session.confirm(f"Delete {collection} with all its documents, for good?", yes=yes)
    session.client.delete_collection(collection)
    if session.as_json:
        session.emit({"collection": collection})
    else:
        session.say(f"deleted {collection}")


def _make(session: Session, collection: str) -> None:
    try:
        session.client.get_collection(collection)
    except errors.NotFoundError:
        session.client.create_collection(collection)
        session.note(f"created the collection {collection}")
