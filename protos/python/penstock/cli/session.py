"""What all commands share: the client, and where their words go."""

from __future__ import annotations

import json
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from penstock.cli.exits import CommandError
from penstock.client import Client

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from google.protobuf.message import Message
    from rich.progress import ProgressColumn

# A pipe has no width; a table for it must not be folded.
_PIPE_COLUMNS = 400
# Documents and models may hold anything; none of it must reach the terminal as a command.
_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def plain(text: str) -> str:
    """Text without the characters that command a terminal."""
    return text.translate(_CONTROLS).encode(errors="replace").decode()


def as_dict(message: Message) -> dict[str, Any]:
    """A message as REST gives it: names as in the protos, fields without presence always there."""
    fields: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return fields


class Session:
    """One run of the command line. Standard output carries what was asked for; everything else goes to standard error.

    Attributes:
        url: Where penstock is.
        as_json: Whether standard output is for a program.
    """

    def __init__(self, url: str, api_key: str, timeout: float, *, as_json: bool) -> None:
        self.url = url
        self.as_json = as_json
        self._api_key = api_key
        self._timeout = timeout

    @cached_property
    def client(self) -> Client:
        """The connection.

        Raises:
            CommandError: The address or the timeout makes no sense.
        """
        try:
            return Client(self.url, api_key=self._api_key, timeout=self._timeout)
        except ValueError as error:
            raise CommandError(str(error)) from error

    def close(self) -> None:
        """Ends the connection, and the calls that still run."""
        if "client" in self.__dict__:
            self.client.close()

    @property
    def errors(self) -> Console:
        """Standard error, where progress and failures are shown."""
        return Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str = "", end: str = "\n") -> None:
        """Writes for people what was asked for."""
        sys.stdout.write(plain(text) + end)
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Tells people something beside what was asked for."""
        if not self.as_json:
            self.errors.print(Text(plain(text)))

    def progress(self, *columns: ProgressColumn) -> Progress:
        """Bars on standard error, where a person sees them."""
        console = self.errors
        return Progress(*columns, console=console, transient=True, disable=self.as_json or not console.is_terminal)

    def confirm(self, question: str, *, yes: bool) -> None:
        """Goes on if the user agrees, or has agreed beforehand.

        Raises:
            CommandError: Nobody can be asked.
        """
        if yes:
            return
        if self.as_json:
            raise CommandError("with --json nobody can be asked; give --yes too")
        typer.confirm(question, abort=True, err=True)

    def emit(self, value: Mapping[str, Any]) -> None:
        """Writes for programs what was asked for: JSON on one line."""
        sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Writes a table; columns whose name begins with `#` hold figures."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column.removeprefix("#"), justify="right" if column.startswith("#") else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(plain(cell)) for cell in row))
        Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_COLUMNS).print(table)
