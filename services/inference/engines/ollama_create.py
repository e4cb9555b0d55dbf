"""Has an Ollama server make a model out of another one, as `ollama create` does from a Modelfile."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from services.chassis.errors import Failure, Reason, invalid_field
from services.inference.engines.ollama_format import NAME, Step, decode_step, decode_version
from services.inference.engines.remote import MALFORMED, Limits, RemoteServer, refused_in_stream, unavailable
from services.inference.lifecycle import CreateOptions, Progress, Stage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

# The server tells nothing while it writes a large model.
_PATIENT: Final = Limits(connect=2.0, first_token=600.0, inter_token=600.0)
# Releases from here on quantize no more: they take `quantize` and ignore it, so it is refused before it is sent.
_QUANTIZES_BELOW: Final = [0, 34]
_ABSENT: Final = re.compile(r"not found|does not exist|no such|pull model manifest", re.IGNORECASE)


async def create(server: RemoteServer, model: str, options: CreateOptions) -> AsyncGenerator[Progress, None]:
    """Makes a model, and tells how far it has come. Leaving early closes the connection, which stops it.

    Raises:
        Failure: MODEL_NOT_FOUND where there is no such base; MODEL_CAPABILITY_MISSING where this Ollama cannot quantize;
            INVALID_FIELD for what it refuses.
    """
    if options.quantization:
        await _check_quantizes(server, model)
    body = msgspec.json.encode(_request(model, options))
    async with server.stream("/api/create", body, limits=_PATIENT) as lines:
        while (batch := await lines.more()) is not None:
            lines.content_came()
            steps = [_step(line) for line in batch if line.strip()]
            for step in steps:
                if step.error is not None:
                    raise _refused(options, step.error)
            under_way = [step for step in steps if step.status != "success"]
            if under_way:
                yield _progress(under_way[-1])
            if len(under_way) < len(steps):
                return
    raise unavailable(NAME, f"it ended before {model} was made")


def _request(model: str, options: CreateOptions) -> dict[str, Any]:
    sampling = options.sampling
    parameters = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "seed": sampling.seed,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "num_ctx": options.context_tokens or None,
        "num_predict": options.max_tokens,
        "stop": list(options.stop) or None,
    }
    given = {name: value for name, value in parameters.items() if value is not None}
    wanted = {
        "model": model,
        "from": options.base,
        "system": options.system_prompt or None,
        "template": options.template or None,
        "quantize": options.quantization or None,
        "parameters": given or None,
        "stream": True,
    }
    return {name: value for name, value in wanted.items() if value is not None}


async def _check_quantizes(server: RemoteServer, model: str) -> None:
    try:
        version = decode_version(await server.get("/api/version")).version
    except MALFORMED as error:
        raise unavailable(NAME, "it does not tell its version in Ollama's format") from error
    numbers = [int(number) for number in re.findall(r"\d+", version)[:2]]
    if not numbers or numbers >= _QUANTIZES_BELOW:
        message = f"quantization: Ollama {version[:20]} does not quantize any more; pull a tag of {model} that is quantized"
        raise Failure(Reason.MODEL_CAPABILITY_MISSING, message, metadata={"model": model})


def _step(line: bytes) -> Step:
    try:
        return decode_step(line)
    except MALFORMED as error:
        raise unavailable(NAME, "it sent a malformed line while it made a model") from error


def _progress(step: Step) -> Progress:
    if step.status.startswith("pulling"):
        return Progress(Stage.DOWNLOADING, step.completed, step.total)
    if step.status.startswith(("verifying", "writing")):
        return Progress(Stage.VERIFYING)
    return Progress(Stage.CONVERTING, step.completed, step.total)


def _refused(options: CreateOptions, error: Any) -> Failure:
    failure = refused_in_stream(NAME, error)
    said = failure.message.partition(": ")[2]
    if "quantiz" in failure.message:
        return invalid_field("quantization", f"Ollama refuses {options.quantization} for {options.base}: {said}")
    if _ABSENT.search(failure.message):
        message = f"base: Ollama has no model {options.base}, and its registry has none either"
        return Failure(Reason.MODEL_NOT_FOUND, message, metadata={"model": options.base})
    return unavailable(NAME, f"it could not make the model: {said}")
