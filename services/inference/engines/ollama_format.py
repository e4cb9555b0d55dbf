"""What an Ollama server says of its models, and what that means."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final

import msgspec

from services.inference import dimensions
from services.inference.engine import Capability, Device, Files, Model, ModelState, Residence

NAME: Final = "ollama"
_CAPABILITIES: Final = {
    "completion": Capability.GENERATION,
    "embedding": Capability.EMBEDDING,
    "tools": Capability.TOOLS,
    "vision": Capability.IMAGES,
}


class _Details(msgspec.Struct):
    format: str = ""
    family: str = ""
    parameter_size: str = ""
    quantization_level: str = ""


class Tag(msgspec.Struct):
    """One model of `/api/tags`."""

    name: str
    digest: str = ""
    size: int = 0
    modified_at: str = ""
    details: _Details = msgspec.field(default_factory=_Details)


class Tags(msgspec.Struct):
    """The answer of `/api/tags`."""

    models: list[Tag] = []


class Shown(msgspec.Struct):
    """The answer of `/api/show`."""

    capabilities: list[str] | None = None
    model_info: dict[str, Any] | None = None


class Version(msgspec.Struct):
    """The answer of `/api/version`."""

    version: str = ""


class Running(msgspec.Struct):
    """One model of `/api/ps`."""

    name: str
    size: int = 0
    size_vram: int = 0


class RunningAll(msgspec.Struct):
    """The answer of `/api/ps`."""

    models: list[Running] = []


class Step(msgspec.Struct):
    """One line of `/api/pull`."""

    status: str = ""
    digest: str = ""
    total: int = 0
    completed: int = 0
    error: Any = None


decode_version = msgspec.json.Decoder(Version).decode
decode_tags = msgspec.json.Decoder(Tags).decode
decode_shown = msgspec.json.Decoder(Shown).decode
decode_running = msgspec.json.Decoder(RunningAll).decode
decode_step = msgspec.json.Decoder(Step).decode


def model_of(tag: Tag, shown: Shown, running: dict[str, Running] | None, *, tells_logprobs: bool) -> Model:
    """A model as it is listed; `running` is None where the server does not tell what is loaded."""
    told = shown.capabilities if shown.capabilities is not None else _guessed(tag)
    capabilities = tuple(capability for name, capability in _CAPABILITIES.items() if name in told)
    if Capability.EMBEDDING in capabilities:
        capabilities += dimensions.more(tag.name)
    if Capability.GENERATION in capabilities:
        capabilities += (Capability.JSON_SCHEMA, Capability.ALTERNATIVES)
        if tells_logprobs:
            capabilities += (Capability.LOGPROBS,)
    info = shown.model_info or {}
    embeds = Capability.EMBEDDING in capabilities
    details = " ".join(part for part in (tag.details.parameter_size, tag.details.quantization_level) if part)
    there = running.get(tag.name) if running is not None else None
    residence = None
    if there is not None:
        # Of memory beside the CPU's it tells how much, not whose.
        residence = Residence(None if there.size_vram else Device.CPU, there.size)
    return Model(
        name=tag.name,
        engine=NAME,
        capabilities=capabilities,
        state=ModelState.UNLOADED if running is not None and there is None else ModelState.READY,
        context_tokens=_number(info, ".context_length"),
        dimensions=_number(info, ".embedding_length") if embeds else 0,
        size_bytes=tag.size,
        description=f"A model of Ollama ({details})." if details else "A model of Ollama.",
        fingerprint=f"{NAME}:{tag.digest or tag.name}" if embeds else "",
        residence=residence,
        files=Files(tag.details.quantization_level, tag.details.format, updated=_seconds(tag.modified_at)),
    )


def _guessed(tag: Tag) -> list[str]:
    """What a model can do where Ollama is too old to say."""
    return ["embedding"] if "bert" in tag.details.family or "embed" in tag.name else ["completion"]


def _number(info: dict[str, Any], suffix: str) -> int:
    """A number out of the model's metadata, whose keys begin with the architecture."""
    found = next((value for key, value in info.items() if key.endswith(suffix)), 0)
    return found if isinstance(found, int) else 0


def _seconds(time_told: str) -> float | None:
    """Seconds since the epoch; Go writes up to nine digits of a second."""
    try:
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", time_told)).timestamp()
    except ValueError:
        return None
