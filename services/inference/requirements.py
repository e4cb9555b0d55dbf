"""What a request needs of a model, checked before any work is done for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.chassis.errors import Failure, Reason
from services.inference.engine import Capability
from services.inference.form import JsonSchema, OneOf, Regex

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from services.inference.engine import Generation, Model

_OUTPUTS: Final = {JsonSchema: Capability.JSON_SCHEMA, Regex: Capability.REGEX, OneOf: Capability.CHOICE}
_MEANS: Final = {
    Capability.TOOLS: "ask to have tools called",
    Capability.IMAGES: "read images",
    Capability.JSON_SCHEMA: "be held to a JSON Schema",
    Capability.REGEX: "be held to a regular expression",
    Capability.CHOICE: "be held to one of several texts",
    Capability.LOGPROBS: "tell the probabilities of tokens",
    Capability.ALTERNATIVES: "generate several answers side by side",
}
_NAMED: Final = 5


def missing(model: Model, generation: Generation) -> Capability | None:
    """The first capability that the request needs and the model lacks; None where it has them all."""
    return next((one for one in needed(generation) if one not in model.capabilities), None)


def check(model: Model, generation: Generation, others: Iterable[Model]) -> None:
    """Raises MODEL_CAPABILITY_MISSING, with the names of those among `others` that can, unless the model can do all of it."""
    lacking = missing(model, generation)
    if lacking is None:
        return
    able = [f"{one.name} ({one.engine})" for one in others if missing(one, generation) is None]
    instead = f"choose one that can, such as {', '.join(able[:_NAMED])}" if able else "no model in reach can"
    raise Failure(
        Reason.MODEL_CAPABILITY_MISSING,
        f"model: {model.name} of engine {model.engine} cannot {_MEANS[lacking]}; {instead}",
        metadata={"model": model.name, "capability": lacking.name},
    )


def check_addresses(engine: str, generation: Generation) -> None:
    """Raises MODEL_CAPABILITY_MISSING for images by address: a server of one's own would fetch them from inside its network."""
    if any(image.url for message in generation.messages for image in message.images):
        raise Failure(
            Reason.MODEL_CAPABILITY_MISSING,
            f"model: {generation.model} of engine {engine} is given no addresses of images; send the image itself",
            metadata={"model": generation.model, "capability": Capability.IMAGES.name},
        )


def needed(generation: Generation) -> Iterator[Capability]:
    """What the request needs beside text."""
    form = generation.form
    if form.tools or any(message.tool_calls or message.tool_call for message in generation.messages):
        yield Capability.TOOLS
    if any(message.images for message in generation.messages):
        yield Capability.IMAGES
    if form.output is not None:
        yield _OUTPUTS[type(form.output)]
    if form.top_logprobs is not None:
        yield Capability.LOGPROBS
    if form.alternatives > 1:
        yield Capability.ALTERNATIVES
