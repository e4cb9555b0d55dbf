"""Asking: one question, or a conversation."""

import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Annotated, TextIO

import typer

from penstock import errors
from penstock.cli.exits import CommandError, Exit
from penstock.cli.session import Session, as_dict, plain
from penstock.inference.v1 import generation_pb2
from penstock.requests import AnswerOptions
from penstock.retrieval.v1 import answer_service_pb2, search_pb2

# What one question may search.
_MOST_COLLECTIONS = 16
_HELP = "/new begins another conversation, /quit or Ctrl-D ends, Ctrl-C stops an answer."

Where = Annotated[
    list[str] | None, typer.Option("--collection", "-c", help="Where to look; may be repeated. All collections by default.")
]
Model = Annotated[str, typer.Option(help="Which model answers; chosen by the server by default.")]
TopK = Annotated[int | None, typer.Option(help="Most passages to use.", min=1, max=100)]
Mode = Annotated[str, typer.Option(help="How to find passages: hybrid, dense or sparse.")]
User = Annotated[str, typer.Option(help="Id of the end user, for experiments by user.")]


def ask(
    ctx: typer.Context,
    *,
    question: Annotated[str, typer.Argument(help="The question; - reads it from standard input.", show_default=False)],
    collection: Where = None,
    model: Model = "",
    top_k: TopK = None,
    mode: Mode = "hybrid",
    user: User = "",
    conversation: Annotated[str, typer.Option(help="Id of the conversation that the question continues.")] = "",
) -> None:
    """Ask one question, and read the answer as it comes."""
    session: Session = ctx.obj
    text = (sys.stdin.read() if question == "-" else question).strip()
    if not text:
        raise CommandError('the question is empty; ask like this: penstock ask "What is penstock?"')
    options = _options(model, top_k, mode, user, conversation)
    _answer(session, text, where(session, collection), options)


def chat(
    ctx: typer.Context,
    *,
    collection: Where = None,
    model: Model = "",
    top_k: TopK = None,
    mode: Mode = "hybrid",
    user: User = "",
    conversation: Annotated[str, typer.Option(help="Id of a conversation to go on with; a new one by default.")] = "",
) -> None:
    """Talk: every question knows what was said before.

    With --json each line of standard input is a question, and each line of standard output its answer.
    """
    session: Session = ctx.obj
    options = _options(model, top_k, mode, user, conversation or _new())
    places = where(session, collection)
    session.note(f"conversation {options['conversation']} · {', '.join(places)}\n{_HELP}")
    if conversation:
        _show_history(session, conversation)
    for question in _lines(session):
        if question == "/quit":
            return
        if question == "/new":
            options["conversation"] = _new()
            session.note(f"conversation {options['conversation']}")
        elif question.startswith("/"):
            session.note(_HELP)
        else:
            _turn(session, question, places, options)


def show(events: Iterator[answer_service_pb2.StreamAnswerResponse], out: TextIO) -> None:
    """Writes an answer as it comes, then its sources and who gave it.

    Raises:
        PenstockError: The answer ended with an error, or without an end; what came of it is written.
    """
    sources: Sequence[search_pb2.Hit] = ()
    cited: set[int] = set()
    finished: answer_service_pb2.AnswerFinished | None = None
    written = False
    try:
        for event in events:
            kind = event.WhichOneof("event")
            if kind == "sources":
                sources = event.sources.hits
            elif kind == "token":
                out.write(plain(event.token.text))
                out.flush()
                written = True
            elif kind == "citation":
                cited.add(event.citation.number)
            elif kind == "finished":
                finished = event.finished
    finally:
        if written:
            out.write("\n")
    if finished is not None:
        out.write(_end(finished, sources, cited))
        out.flush()


def where(session: Session, given: Sequence[str] | None) -> list[str]:
    """The collections to look in: those that were named, or all that one question may search.

    Raises:
        CommandError: There is none.
    """
    if given:
        return list(given)
    found = [one.collection for one in islice(session.client.list_collections(), _MOST_COLLECTIONS + 1)]
    if not found:
        raise CommandError(
            "there is no collection to look in yet; add documents: penstock ingest COLLECTION FOLDER", Exit.NOT_FOUND
        )
    if len(found) > _MOST_COLLECTIONS:
        session.note(f"there are more than {_MOST_COLLECTIONS} collections; this looks in the first ones. Name others with -c.")
    return found[:_MOST_COLLECTIONS]


def check_mode(mode: str) -> str:
    """A search mode that exists.

    Raises:
        CommandError: There is none of this name.
    """
    if mode not in {"hybrid", "dense", "sparse"}:
        raise CommandError(f"--mode is {mode!r}; it must be hybrid, dense or sparse")
    return mode


def _options(model: str, top_k: int | None, mode: str, user: str, conversation: str) -> AnswerOptions:
    options = AnswerOptions(model=model, mode=check_mode(mode), user=user, conversation=conversation)
    if top_k is not None:
        options["top_k"] = top_k
    return options


def _new() -> str:
    return f"chat-{uuid.uuid4()}"


def _answer(session: Session, question: str, places: list[str], options: AnswerOptions) -> None:
    if session.as_json:
        session.emit(as_dict(session.client.answer(question, places, **options)))
        return
    with session.client.stream_answer(question, places, **options) as stream:
        show(stream, sys.stdout)


def _turn(session: Session, question: str, places: list[str], options: AnswerOptions) -> None:
    """One answer of a conversation. A person reads on after a failure; a program wants to know of it."""
    try:
        _answer(session, question, places, options)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        session.note("stopped")
    except errors.PenstockError as error:
        if not sys.stdin.isatty():
            raise
        session.note(f"no answer: {error}")


def _lines(session: Session) -> Iterator[str]:
    """The questions: typed at a prompt, or read from a pipe."""
    prompt = ""
    if sys.stdin.isatty() and not session.as_json:
        prompt = "> "
        # It makes the line editable, where the platform has it.
        with suppress(ImportError):
            import readline  # noqa: F401, PLC0415 - to be imported is all it takes
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return
        if line:
            yield line


def _show_history(session: Session, conversation: str) -> None:
    if session.as_json:
        return
    try:
        kept = session.client.conversation(conversation)
    except errors.NotFoundError:
        return
    for turn in kept.turns:
        session.say(f"> {turn.query}\n{turn.text}\n")


def _end(finished: answer_service_pb2.AnswerFinished, sources: Sequence[search_pb2.Hit], cited: set[int]) -> str:
    """What stands below an answer."""
    lines = ["", "Sources" + (", * cited:" if cited else ":")] if sources else []
    for number, hit in enumerate(sources, start=1):
        mark = "*" if number in cited else " "
        title = f"{hit.title} · " if hit.title else ""
        lines.append(f" {mark}[{number}] {title}{hit.collection}/{hit.document}  relevance {hit.relevance:.2f}")
    seconds = finished.timings.total.ToTimedelta().total_seconds()
    reason = generation_pb2.FinishReason.Name(finished.finish_reason).removeprefix("FINISH_REASON_").lower()
    variant = f" · variant {finished.variant}" if finished.variant else ""
    lines += ["", f"{finished.model} by {finished.engine}{variant} · {reason} · {seconds:.2f} s", ""]
    return plain("\n".join(lines))
