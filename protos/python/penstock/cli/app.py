"""The commands put together, and the one place where their failures become words and an exit status."""

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperGroup

import penstock
from penstock.cli import answers, documents, experiments, models
from penstock.cli.exits import CommandError, Exit, as_json, status_of, told
from penstock.cli.session import Session, plain
from penstock.connection import DEFAULT_ADDRESS

_FLAGS = {"--json"}
_VALUED = {"--url", "--api-key", "--timeout"}
_TIMEOUT_S = 300.0


def hoisted(arguments: Sequence[str]) -> list[str]:
    """The arguments with the options that all commands share first, wherever the user wrote them."""
    shared: list[str] = []
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            others += [argument, *rest]
        elif argument in _FLAGS or argument.partition("=")[0] in _VALUED:
            shared.append(argument)
            if argument in _VALUED:
                shared += [value for value in [next(rest, None)] if value is not None]
        else:
            others.append(argument)
    return shared + others


class _Commands(TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, hoisted(args))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (penstock.PenstockError, CommandError) as error:
            _report(error, ctx.obj)
            raise typer.Exit(status_of(error)) from error
        except UnicodeError as error:
            _report(CommandError(f"what was given is not UTF-8: {error}"), ctx.obj)
            raise typer.Exit(Exit.USAGE) from error
        except KeyboardInterrupt as interrupt:
            raise typer.Exit(Exit.INTERRUPTED) from interrupt


def _report(error: penstock.PenstockError | CommandError, session: Session) -> None:
    if session.as_json:
        sys.stderr.write(json.dumps({"error": as_json(error)}, ensure_ascii=False) + "\n")
        return
    first, *more = told(error, session.url)
    session.errors.print(Text(plain("\n".join([f"penstock: {first}", *more]))))


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"penstock {penstock.__version__}\n")
        raise typer.Exit


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # it would show the key among the local variables
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="--url, --api-key, --timeout and --json may stand anywhere. Exit status: 0 done, 1 failed, 2 wrong usage, 3 not "
    "found, 4 refused, 5 unavailable, 6 done in part, 130 interrupted.",
)
app.command("ask")(answers.ask)
app.command("chat")(answers.chat)
app.command("ingest")(documents.ingest)
app.command("search")(documents.search)
app.command("health")(models.health)
app.add_typer(documents.collections, name="collections")
app.add_typer(models.models, name="models")
app.add_typer(experiments.experiments, name="experiments")


@app.callback()
def penstock_(
    ctx: typer.Context,
    url: Annotated[
        str, typer.Option(envvar="PENSTOCK_URL", help="Where penstock is: a URL of the gateway, or host:port.")
    ] = DEFAULT_ADDRESS,
    api_key: Annotated[
        str, typer.Option(envvar="PENSTOCK_API_KEY", help="The key to show; safer in the variable.", show_default=False)
    ] = "",
    timeout: Annotated[float, typer.Option(help="Seconds that one call may take.")] = _TIMEOUT_S,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON, and nothing else, to standard output.")] = False,
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Ask, ingest, search and experiment with a running penstock."""
    ctx.obj = Session(url, api_key, timeout, as_json=as_json)
    ctx.call_on_close(ctx.obj.close)
