"""Models, and whether the services answer."""

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn

from penstock import errors
from penstock.cli.exits import CommandError, Exit, told
from penstock.cli.session import Session, as_dict
from penstock.client import Client
from penstock.inference.v1 import model_pb2
from penstock.streams import EventStream

_LIMIT_S = 10.0
_MEGABYTE = 1e6
_DEVICES = ("auto", "cpu", "cuda")

models = typer.Typer(no_args_is_help=True, help="The models of all engines in reach.")


@models.command("list")
def list_(ctx: typer.Context) -> None:
    """Show all models; * marks what `auto` means."""
    session: Session = ctx.obj
    found = session.client.models()
    if session.as_json:
        session.emit({"models": [as_dict(model) for model in found]})
        return
    session.table(["MODEL", "ENGINE", "STATE", "CAN", "#CONTEXT", "#MB"], [_row(model) for model in found])


Name = Annotated[str, typer.Argument(help="Name of the model.", show_default=False)]
Force = Annotated[bool, typer.Option("--force", help="End the requests that use it.")]


@models.command()
def load(
    ctx: typer.Context,
    model: Name,
    device: Annotated[str, typer.Option(help="Where to run it: auto, cpu or cuda.")] = "auto",
) -> None:
    """Bring a model into memory."""
    session: Session = ctx.obj
    if device not in _DEVICES:
        raise CommandError(f"--device is {device!r}; it must be one of {', '.join(_DEVICES)}")
    _follow(session, session.client.load_model(model, device=device), "loaded")


@models.command()
def pull(ctx: typer.Context, model: Name) -> None:
    """Fetch a model from its engine's registry; repeating an interrupted pull goes on with it."""
    session: Session = ctx.obj
    _follow(session, session.client.pull_model(model, timeout=math.inf), "pulled")


@models.command()
def unload(ctx: typer.Context, model: Name, force: Force = False) -> None:
    """Take a model out of memory."""
    session: Session = ctx.obj
    response = session.client.unload_model(model, force=force)
    if session.as_json:
        session.emit(as_dict(response))
    else:
        session.say(f"unloaded {model}, {response.freed_bytes / _MEGABYTE:.0f} MB freed")


@models.command()
def delete(
    ctx: typer.Context,
    model: Name,
    force: Force = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a model's files."""
    session: Session = ctx.obj
    session.confirm(f"Delete the files of {model}?", yes=yes)
    response = session.client.delete_model(model, force=force)
    if session.as_json:
        session.emit(as_dict(response))
    else:
        session.say(f"deleted {model}, {response.deleted_bytes / _MEGABYTE:.0f} MB")


def _follow(session: Session, events: EventStream[Any], done: str) -> None:
    """Shows how far a load or a pull has come, and then what came of it."""
    columns = [TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()]
    with events, session.progress(*columns) as progress:
        bar = progress.add_task("waiting", total=None)
        for event in events:
            if event.WhichOneof("event") == "progress":
                at = event.progress
                stage = model_pb2.ModelStage.Name(at.stage).removeprefix("MODEL_STAGE_").lower()
                progress.update(bar, description=stage, completed=at.completed_bytes, total=at.total_bytes or None)
    finished = events.finished
    if session.as_json:
        session.emit(as_dict(finished))
    else:
        session.say(f"{done} {finished.model.model} in {finished.elapsed.ToTimedelta().total_seconds():.1f} s")


def _row(model: model_pb2.Model) -> list[str]:
    can = [model_pb2.Capability.Name(capability).removeprefix("CAPABILITY_").lower() for capability in model.capabilities]
    return [
        ("* " if model.is_auto else "  ") + model.model,
        model.engine,
        model_pb2.ModelState.Name(model.state).removeprefix("MODEL_STATE_").lower(),
        " ".join(can),
        str(model.context_tokens or ""),
        f"{model.size_bytes / _MEGABYTE:.0f}" if model.size_bytes else "",
    ]


@dataclass(frozen=True)
class _Answered:
    """How a service answered one cheap call; `failure` is empty where it did."""

    service: str
    seconds: float
    failure: str


# A call that goes all the way to what the service stands on.
_CALLS: dict[str, Callable[[Client], object]] = {
    "inference": lambda client: client.models(timeout=_LIMIT_S),
    "retrieval": lambda client: next(client.list_collections(page_size=1, timeout=_LIMIT_S), None),
    "experiments": lambda client: next(client.list_experiments(page_size=1, timeout=_LIMIT_S), None),
}


def health(ctx: typer.Context) -> None:
    """Tell whether the services answer, by one cheap call to each; the exit status is 5 if one does not."""
    session: Session = ctx.obj

    def call(service: str) -> _Answered:
        began = time.monotonic()
        try:
            _CALLS[service](client)
        except errors.PenstockError as error:
            return _Answered(service, time.monotonic() - began, told(error, session.url)[0])
        return _Answered(service, time.monotonic() - began, "")

    client = session.client
    with ThreadPoolExecutor(len(_CALLS)) as threads:
        answered = list(threads.map(call, _CALLS))
    if session.as_json:
        session.emit({"services": [asdict(one) for one in answered]})
    else:
        rows = [[one.service, "fails" if one.failure else "answers", f"{one.seconds * 1000:.0f} ms"] for one in answered]
        session.table(["SERVICE", "STATE", "#TIME"], rows)
        for failure in sorted({one.failure for one in answered if one.failure}):
            session.note(f"penstock: {failure}")
    if any(one.failure for one in answered):
        raise typer.Exit(Exit.UNAVAILABLE)
