"""What vLLM is asked for, and what it answers, in the terms of the domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from services.inference.engine import Delta, End, FinishReason, Usage, UsageSource
from services.inference.engines.async_llm_core import failed, gone
from services.inference.form import JsonSchema, OneOf, Regex, TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from services.inference.engine import Generation
    from services.inference.form import Form, Output

_REASONS: Final = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


def parameters(generation: Generation, room: int) -> dict[str, Any]:
    """How tokens are to be chosen: what the request says, and nothing where it says nothing.

    Args:
        generation: What to generate from.
        room: How many tokens may follow the prompt.
    """
    sampling, form = generation.sampling, generation.form
    chosen = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "seed": sampling.seed,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "stop": list(generation.stop) or None,
        "logprobs": form.top_logprobs,
        "n": form.alternatives if form.alternatives > 1 else None,
        "structured_outputs": _structured(form.output),
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    return {**given, "max_tokens": min(room, generation.max_tokens or room)}


class Answer:
    """Reads vLLM's outputs for one request."""

    def __init__(self, form: Form) -> None:
        self.has_content = False
        self._top = form.top_logprobs
        self._alternatives = form.alternatives
        self._tokens = 0
        self._reasons: dict[int, str] = {}
        # What has no text yet: a part of a character, or what may become a stop sequence.
        self._waiting: dict[int, tuple[int, tuple[TokenLogprob, ...]]] = {}

    def take(self, output: Any) -> Iterator[Delta]:
        """The deltas of one output. Raises Failure where vLLM has given the request up."""
        for part in output.outputs:
            tokens, logprobs = self._waiting.pop(part.index, (0, ()))
            tokens += len(part.token_ids)
            self._tokens += len(part.token_ids)
            if self._top is not None and part.logprobs:
                logprobs += tuple(_logprobs(part.token_ids, part.logprobs, self._top))
            if part.text:
                self.has_content = True
                yield Delta(part.text, tokens, part.index, logprobs=logprobs)
            else:
                self._waiting[part.index] = (tokens, logprobs)
            if part.finish_reason is not None:
                self._reasons[part.index] = part.finish_reason
                if part.finish_reason not in _REASONS:
                    raise self._given_up(part.finish_reason)

    def end(self, output: Any) -> End:
        """The end, after the last output."""
        reasons = tuple(_REASONS[self._reasons.get(place, "stop")] for place in range(self._alternatives))
        usage = Usage(len(output.prompt_token_ids or ()), self._tokens, UsageSource.REPORTED)
        return End(reasons[0], usage, reasons if self._alternatives > 1 else ())

    def _given_up(self, reason: str) -> Exception:
        if reason == "abort" and not self.has_content:
            return gone()
        return failed("it was shut down" if reason == "abort" else "it could not go on")


def _structured(output: Output | None) -> dict[str, Any] | None:
    if isinstance(output, JsonSchema):
        return {"json_object": True} if output.schema.strip() in {"", "{}"} else {"json": output.schema}
    if isinstance(output, Regex):
        return {"regex": output.pattern}
    if isinstance(output, OneOf):
        return {"choice": list(output.texts)}
    return None


def _logprobs(token_ids: Sequence[int], places: Sequence[dict[int, Any]], top: int) -> Iterator[TokenLogprob]:
    for token_id, place in zip(token_ids, places, strict=False):
        ranked = sorted(place.values(), key=lambda one: -one.logprob)[:top]
        likeliest = tuple(TokenLogprob(one.decoded_token or "", one.logprob) for one in ranked)
        chosen = place[token_id]
        yield TokenLogprob(chosen.decoded_token or "", chosen.logprob, likeliest)
