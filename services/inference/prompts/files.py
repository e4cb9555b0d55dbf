"""The folder that holds the prompts: a file a version, written once, and a file that names the default.

    PROMPTS_DIR/support/1.json
    PROMPTS_DIR/support/2.json
    PROMPTS_DIR/support/default        holds: 1

Whatever uses a prompt looks at its files again, which costs some microseconds, so that all processes that share the folder
agree at once; what has been read and parsed is kept for as long as its file is the same.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec
from cachetools import LRUCache

from services.chassis.errors import Failure, Reason, invalid_field
from services.inference.prompts.use import PromptReference
from services.inference.prompts.versions import Version, checked, is_name, joined, not_found, rendered
from services.inference.whole_files import locked, write

if TYPE_CHECKING:
    from pathlib import Path

    from services.inference.engine import Message
    from services.inference.prompts.templates import Template
    from services.inference.prompts.use import PromptUse
    from services.inference.prompts.versions import Content

_log = logging.getLogger(__name__)

_MOST_PROMPTS: Final = 10_000
_MOST_VERSIONS: Final = 1_000
# Versions kept parsed.
_KEPT: Final = 256
_DEFAULT: Final = "default"
_decode: Final = msgspec.json.Decoder(Version).decode

_Signature = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as it stands."""

    name: str
    default: int
    latest: int
    updated: datetime


class PromptFiles:
    """Keeps prompts in a folder, which need not exist.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: LRUCache[Path, tuple[_Signature, Version, list[Template]]] = LRUCache(maxsize=_KEPT)

    def render(
        self, use: PromptUse, *, field: str = "prompt_template.variables"
    ) -> tuple[tuple[Message, ...], PromptReference]:
        """The messages of a version followed by those of `use`, and which version it was.

        Raises:
            Failure: PROMPT_NOT_FOUND; INVALID_FIELD as `versions.rendered` says, or where nothing is left to answer.
        """
        version, templates = self._version(use.name, use.version or self._default(use.name))
        messages = joined(rendered(version.content, templates, dict(use.variables), field=field), use.messages)
        if not messages:
            raise invalid_field(field, "all that it renders is empty")
        return messages, PromptReference(use.name, version.version)

    def get(self, name: str, version: int = 0) -> tuple[Prompt, Version]:
        """A prompt, and a version of it: the default where 0 is asked for. Raises PROMPT_NOT_FOUND."""
        prompt = self._prompt(name)
        return prompt, self._version(name, version or prompt.default)[0]

    def prompts(self, after: str, most: int) -> tuple[list[Prompt], str]:
        """So many prompts behind the id `after`, in their order, and behind which to go on; empty at the end."""
        try:
            names = sorted(entry.name for entry in self._folder.iterdir() if is_name(entry.name) and entry.name > after)
        except OSError:
            return [], ""
        found = []
        for name in names[:most]:
            with suppress(Failure):
                found.append(self._prompt(name))
        return found, names[most - 1] if len(names) > most else ""

    def versions(self, name: str, before: int, most: int) -> tuple[list[Version], int]:
        """So many versions of a prompt below `before` (0 for all), latest first, and below which to go on; 0 at the end."""
        numbers = self._numbers(name)
        if not numbers:
            raise not_found(name)
        left = [number for number in reversed(numbers) if not before or number < before]
        return [self._version(name, number)[0] for number in left[:most]], left[most - 1] if len(left) > most else 0

    async def create(self, name: str, content: Content, *, request_id: str = "", set_default: bool = False) -> Version:
        """Keeps a new version; returns once it is on the disk.

        Raises:
            Failure: INVALID_FIELD as `versions.checked` says; REQUEST_ID_REUSED; PROMPTS_READ_ONLY.
        """
        checked(content)
        return await asyncio.to_thread(self._create, name, content, request_id, set_default)

    async def set_default(self, name: str, version: int) -> Prompt:
        """Makes a version the default. Raises PROMPT_NOT_FOUND, PROMPTS_READ_ONLY."""
        self._version(name, version)
        await asyncio.to_thread(self._set_default, name, version)
        return self._prompt(name)

    def _create(self, name: str, content: Content, request_id: str, set_default: bool) -> Version:
        folder = self._folder / name
        try:
            if not folder.is_dir() and self._folder.is_dir() and sum(1 for _ in self._folder.iterdir()) >= _MOST_PROMPTS:
                raise invalid_field("prompt", f"there are {_MOST_PROMPTS} prompts, which is the most")
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / "prompt"):
                numbers = self._numbers(name)
                if request_id and (made := self._made_by(name, numbers, request_id)):
                    if made.content != content:
                        message = f"request_id: {request_id!r} has made another version of {name!r}; take a new one"
                        raise Failure(Reason.REQUEST_ID_REUSED, message, metadata={"request_id": request_id})
                    return made
                if len(numbers) >= _MOST_VERSIONS:
                    raise invalid_field("prompt", f"it has {_MOST_VERSIONS} versions, which is the most; begin another prompt")
                number = (numbers[-1] if numbers else 0) + 1
                version = Version(name, number, content, datetime.now(UTC), request_id)
                write(folder / f"{number}.json", msgspec.json.format(msgspec.json.encode(version), indent=2))
                if set_default or not numbers:
                    write(folder / _DEFAULT, f"{number}\n".encode())
        except OSError as error:
            raise _read_only() from error
        return version

    def _set_default(self, name: str, version: int) -> None:
        folder = self._folder / name
        try:
            with locked(folder / "prompt"):
                write(folder / _DEFAULT, f"{version}\n".encode())
        except OSError as error:
            raise _read_only() from error

    def _made_by(self, name: str, numbers: list[int], request_id: str) -> Version | None:
        versions = (self._version(name, number)[0] for number in reversed(numbers))
        return next((version for version in versions if version.request_id == request_id), None)

    def _prompt(self, name: str) -> Prompt:
        numbers = self._numbers(name)
        if not numbers:
            raise not_found(name)
        latest = self._version(name, numbers[-1])[0]
        return Prompt(name, self._default(name), numbers[-1], latest.created)

    def _numbers(self, name: str) -> list[int]:
        """The versions that there are, from the first."""
        if not is_name(name):
            return []
        try:
            files = [file.name for file in (self._folder / name).iterdir()]
        except OSError:
            return []
        stems = (file.removesuffix(".json") for file in files if file.endswith(".json"))
        return sorted(int(stem) for stem in stems if stem.isascii() and stem.isdigit() and stem == str(int(stem)) != "0")

    def _default(self, name: str) -> int:
        """What the file says; the latest version where there is no such file, as in a folder made by hand."""
        if not is_name(name):
            raise not_found(name)
        with suppress(OSError, ValueError):
            return int((self._folder / name / _DEFAULT).read_bytes()[:16])
        numbers = self._numbers(name)
        if not numbers:
            raise not_found(name)
        return numbers[-1]

    def _version(self, name: str, number: int) -> tuple[Version, list[Template]]:
        if not is_name(name):
            raise not_found(name)
        path = self._folder / name / f"{number}.json"
        try:
            status = path.stat()
        except OSError:
            raise not_found(name, number) from None
        signature = (status.st_mtime_ns, status.st_size, status.st_ino)
        kept = self._read.get(path)
        if kept is None or kept[0] != signature:
            kept = (signature, *self._opened(path, name, number))
            self._read[path] = kept
        return kept[1], kept[2]

    def _opened(self, path: Path, name: str, number: int) -> tuple[Version, list[Template]]:
        try:
            version = replace(_decode(path.read_bytes()), prompt=name, version=number)
            return version, checked(version.content)
        except (OSError, msgspec.DecodeError, Failure) as error:
            why = error.message if isinstance(error, Failure) else str(error)
            _log.error("version %d of the prompt %s cannot be used: %s", number, name, why)
            raise not_found(name, number) from error


def _read_only() -> Failure:
    return Failure(Reason.PROMPTS_READ_ONLY, "the folder of the prompts cannot be written here; change it where it comes from")
