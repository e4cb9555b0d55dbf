"""Models, and whether the services answer."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import typer

from penstock import errors
from penstock.cli.exits import Exit, told
from penstock.cli.session import Session, as_dict
from penstock.client import Client
from penstock.inference.v1 import model_pb2

_LIMIT_S = 10.0
_MEGABYTE = 1e6

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
