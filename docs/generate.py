"""Writes docs/how-to/configure.md out of the settings' own descriptions: `python -m docs.generate`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr

from deploy.local.settings import Settings
from services.chassis.migrate import MigrationSettings
from services.chassis.settings import ServerSettings
from services.experiments.settings import ExperimentsSettings
from services.gateway.settings import GatewaySettings
from services.inference.settings import InferenceSettings
from services.retrieval.settings import RetrievalSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo
    from pydantic_settings import BaseSettings

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "how-to" / "configure.md"
_MIB = 1024 * 1024
_BOUNDS = {Ge: "at least {}", Gt: "above {}", Le: "at most {}", Lt: "below {}"}

_HEAD = """# Configure

Every process is told what it needs by environment variables, the same on one machine and on Kubernetes. A value that cannot be
used ends the process at its start, with a message that names the variable. `make docs` writes this page out of the descriptions
beside the settings.
"""
_LAUNCHER = """`make run` reads these and hands its whole environment on, so that the variables below work too. The addresses of
its own processes it chooses itself. An empty variable counts as unset."""
_GATEWAY = "An empty variable counts as unset. `--drain` is what a container runs before it is stopped."
_INFERENCE = """How engines are connected stands in [connect-a-model](connect-a-model.md), what the limits do in
[route-requests](route-requests.md)."""

_SECTIONS: tuple[tuple[str, str, type[BaseSettings] | None], ...] = (
    ("The suite on one machine", _LAUNCHER, None),
    ("The gateway", _GATEWAY, GatewaySettings),
    ("Every service", "inference, retrieval and experiments all read these.", ServerSettings),
    ("inference", _INFERENCE, InferenceSettings),
    ("retrieval", "", RetrievalSettings),
    ("experiments", "", ExperimentsSettings),
    ("Migrations", "`python -m services.chassis.migrate` runs before the services.", MigrationSettings),
)


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for title, text, settings in _SECTIONS:
        rows = _launcher() if settings is None else _fields(settings)
        table = "\n".join(("| variable | default | what it is |", "|---|---|---|", *rows))
        parts.append("\n\n".join(filter(None, (f"## {title}", text, table))) + "\n")
    return "\n".join(parts)


def _launcher() -> Iterator[str]:
    for field in dataclasses.fields(Settings):
        yield _row(field.name, _shown(field.name, field.default), field.metadata["description"])


def _fields(settings: type[BaseSettings]) -> Iterator[str]:
    """A row for each field that is not described for every service already."""
    common = {} if settings is ServerSettings else ServerSettings.model_fields
    for name, field in settings.model_fields.items():
        if issubclass(settings, ServerSettings) and name in common and _default(name, field) == _default(name, common[name]):
            continue
        described = "; ".join(filter(None, (field.description, _bounds(field))))
        yield _row(name, _default(name, field), described)


def _row(name: str, default: str, description: str) -> str:
    return f"| `{name.upper()}` | {default} | {description} |"


def _default(name: str, field: FieldInfo) -> str:
    return "needed" if field.is_required() else _shown(name, field.default)


def _shown(name: str, value: Any) -> str:
    match value:
        case SecretStr() | None | () | "":
            return ""
        case bool():
            return f"`{str(value).lower()}`"
        case Path():
            return f"`{value.relative_to(ROOT) if value.is_absolute() else value}`"
        case int() if name.endswith(("bytes", "memory")) and value:
            return f"`{value}` ({value // _MIB} MiB)"
        case _:
            return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _bounds(field: FieldInfo) -> str:
    """What a number may be; that it is not negative goes without saying."""
    limits = [(type(one), next(iter(dataclasses.asdict(one).values()))) for one in field.metadata if type(one) in _BOUNDS]
    return ", ".join(_BOUNDS[kind].format(f"{limit:g}") for kind, limit in limits if (kind, limit) != (Ge, 0))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
