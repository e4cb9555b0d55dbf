"""The file that holds the policy, in YAML: read at start and whenever it changes, written as a whole or not at all."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from services.chassis.errors import Failure, Reason, invalid_field
from services.inference.policy import Policy, checked
from services.inference.repetition import repeat
from services.inference.whole_files import locked, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log = logging.getLogger(__name__)

_MOST_BYTES: Final = 1024 * 1024
_HEADING: Final = "# Written by UpdatePolicy. May be edited by hand; a change is taken over within a second or two.\n"


@dataclass(frozen=True, slots=True)
class Current:
    """The policy in force, the revision of its file, and what is wrong with the file since then; empty if nothing is."""

    policy: Policy
    revision: str
    problem: str = ""


class PolicyFile:
    """Keeps the policy in force, and the file in step with it.

    Args:
        path: The file; it need not exist.
        seconds: How often to look whether it has changed.
        changed: Told when `update` has changed it.
    """

    def __init__(self, path: Path, seconds: float = 1.0, changed: Callable[[], None] = lambda: None) -> None:
        self._path = path
        self._seconds = seconds
        self._changed = changed
        self._due = asyncio.Event()
        self._current = Current(Policy(), "")
        self._seen: tuple[int, int, int] | None = None
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Reads the file, and goes on watching it. A bad one is told in the log and by `current`; the policy is empty then."""
        await self._look()
        self._task = asyncio.create_task(repeat("watching the policy", self._watch, self._seconds))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops watching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def current(self) -> Current:
        """The policy in force."""
        return self._current

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._current.policy

    async def update(self, policy: Policy, revision: str = "") -> Current:
        """Writes the policy to the file, and puts it in force.

        Args:
            policy: A checked policy.
            revision: What the change was made to; empty replaces whatever is there.

        Raises:
            Failure: POLICY_CHANGED, where the file has another revision; POLICY_READ_ONLY, where it cannot be written.
        """
        async with self._turn:
            text = await asyncio.to_thread(self._replace, policy, revision)
            self._current = Current(policy, _revision(text))
            self._changed()
            return self._current

    def look(self) -> None:
        """Looks at the file at once instead of in its turn."""
        self._due.set()

    async def _watch(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                await self._due.wait()
        self._due.clear()
        async with self._turn:
            await self._look()

    async def _look(self) -> None:
        seen = _signature(self._path)
        if seen == self._seen:
            return
        try:
            text = await asyncio.to_thread(_read, self._path)
        except (OSError, Failure) as error:
            self._tell(error.message if isinstance(error, Failure) else f"it cannot be read: {error.strerror}")
            self._seen = seen
            return
        self._seen = seen
        if _revision(text) == self._current.revision:
            self._current = Current(self._current.policy, self._current.revision)
            return
        try:
            policy = await asyncio.to_thread(parsed, text)
        except Failure as failure:
            self._tell(failure.message)
            return
        self._current = Current(policy, _revision(text))
        _log.info("the policy has been read: %s", ", ".join(policy.aliases) or "no aliases")

    def _tell(self, problem: str) -> None:
        self._current = Current(self._current.policy, self._current.revision, problem)
        _log.error("the file of the policy is not taken over, and the policy before it stays in force: %s", problem)

    def _replace(self, policy: Policy, revision: str) -> bytes:
        text = _HEADING.encode() + written(policy)
        if len(text) > _MOST_BYTES:
            raise invalid_field("policy", f"its file would have {len(text)} bytes; {_MOST_BYTES} are allowed")
        # A link stays one: what it points at is replaced.
        path = self._path.resolve()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path):
                there = _revision(_read(path))
                # Repeating an update that has come through does no harm.
                if revision and there not in {revision, _revision(text)}:
                    message = "revision: the policy has changed since it was read; read it again and repeat the change"
                    raise Failure(Reason.POLICY_CHANGED, message, metadata={"revision": there})
                write(path, text)
        except OSError as error:
            message = "the file of the policy cannot be written here; change it where it comes from"
            raise Failure(Reason.POLICY_READ_ONLY, message) from error
        return text


def parsed(text: bytes) -> Policy:
    """Reads YAML. Raises INVALID_FIELD, naming the place and what is wrong there."""
    import yaml  # noqa: PLC0415 - most suites have no policy, and need not pay for its reader

    class Loader(yaml.SafeLoader):
        """Refuses a key that stands twice, instead of taking the last one."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            mapping = super().construct_mapping(node, deep)
            if len(mapping) < len(node.value):
                raise yaml.constructor.ConstructorError(None, None, "a key stands there twice", node.start_mark)
            return mapping

    try:
        document = yaml.load(text, Loader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise Failure(Reason.INVALID_FIELD, f"policy{place}: {error.problem or 'it is not YAML'}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise Failure(Reason.INVALID_FIELD, "policy: it is not YAML in UTF-8") from error
    return checked({} if document is None else document)


def written(policy: Policy) -> bytes:
    """Writes YAML that `parsed` reads back as the same policy."""
    import yaml  # noqa: PLC0415 - as above

    class Dumper(yaml.SafeDumper):
        """Escapes what is not printable: some of it would read back as a line break."""

        def represent_str(self, data: str) -> yaml.ScalarNode:
            is_plain = data.replace("\n", "").isprintable()
            return self.represent_scalar("tag:yaml.org,2002:str", data, None if is_plain else '"')

    Dumper.add_representer(str, Dumper.represent_str)
    document = msgspec.to_builtins(policy)
    for alias in document.get("aliases", {}).values():
        if not alias.get("sampling"):
            alias.pop("sampling", None)
    text: bytes = yaml.dump(document, Dumper=Dumper, sort_keys=False, allow_unicode=True, encoding="utf-8", width=120)
    return text


def _revision(text: bytes) -> str:
    return sha256(text).hexdigest()[:16] if text else ""


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path) -> bytes:
    """The file's bytes; none where there is no file."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return b""
    if len(text) > _MOST_BYTES:
        raise Failure(Reason.INVALID_FIELD, f"policy: the file is larger than {_MOST_BYTES} bytes")
    return text
