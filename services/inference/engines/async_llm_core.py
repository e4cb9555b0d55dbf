"""The only place that imports `vllm`: starts its engine, and speaks to it."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import msgspec
import psutil

from services.chassis.errors import Failure, Reason, invalid_field
from services.inference.engine import Device, Role
from services.inference.engines import remote

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from services.inference.engine import Generation
    from services.inference.engines.async_llm import Options

NAME: Final = "vllm"
# Read when vLLM is imported. Its records go where ours go; its core begins anew, not as a copy of a process with threads.
_SETTINGS: Final = {
    "VLLM_CONFIGURE_LOGGING": "0",
    "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",
    "VLLM_NO_USAGE_STATS": "1",
}
# A shorter text is read into tokens at once; longer ones in a thread.
_SHORT: Final = 8192


@dataclass
class Core:
    """vLLM's engine, as it was started. `pids` are its processes."""

    llm: Any
    errors: tuple[type[Exception], ...]
    pids: tuple[int, ...]
    device: Device

    @property
    def context_tokens(self) -> int:
        """Most tokens of prompt and answer together."""
        return int(self.llm.model_config.max_model_len)

    @property
    def dimensions(self) -> int:
        """How long the vectors of a model are that embeds."""
        return int(self.llm.model_config.embedding_size)

    @cached_property
    def embeds(self) -> bool:
        """Whether the model embeds; one that does not writes."""
        return bool(self.llm.model_config.runner_type == "pooling")

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """How the model's own files say that tokens are to be chosen."""
        return dict(self.llm.model_config.get_diff_sampling_param())

    @cached_property
    def _tokenizer(self) -> Any:
        return self.llm.get_tokenizer()

    def room(self, tokens: list[int]) -> int:
        """How many tokens may follow a prompt. Raises CONTEXT_TOO_LONG where none may."""
        left = self.context_tokens - len(tokens)
        if left < 1:
            message = f"the prompt has {len(tokens)} tokens; the model takes {self.context_tokens} with the answer: shorten it"
            raise Failure(Reason.CONTEXT_TOO_LONG, message, metadata={"context_tokens": str(self.context_tokens)})
        return left

    async def prompt(self, generation: Generation) -> list[int]:
        """The tokens of a conversation, by the model's chat template."""
        if sum(len(message.text) for message in generation.messages) < _SHORT:
            return self._templated(generation)
        return await asyncio.to_thread(self._templated, generation)

    def tokens_of(self, text: str) -> list[int]:
        """The tokens of a text, and nothing around it."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def generate(self, tokens: list[int], chosen: dict[str, Any], request_id: str, adapter: Any) -> AsyncGenerator[Any, None]:
        """VLLM's outputs, each with what is new in it."""
        from vllm import SamplingParams  # noqa: PLC0415 - only where vLLM is installed
        from vllm.inputs import TokensPrompt  # noqa: PLC0415 - as above
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams  # noqa: PLC0415 - as above

        form = chosen.pop("structured_outputs", None)
        try:
            sampling = SamplingParams(
                **{**self.defaults, **chosen},
                output_kind=RequestOutputKind.DELTA,
                structured_outputs=StructuredOutputsParams(**form) if form else None,
            )
        except self.errors as error:
            raise told(error, is_dead=False, has_content=False) from error
        outputs: AsyncGenerator[Any, None] = self.llm.generate(
            TokensPrompt(prompt_token_ids=tokens), sampling, request_id, lora_request=adapter
        )
        return outputs

    async def embed(self, text: str, request_id: str) -> tuple[list[float], int]:
        """The vector of a text, and its tokens."""
        from vllm import PoolingParams  # noqa: PLC0415 - only where vLLM is installed
        from vllm.inputs import TokensPrompt  # noqa: PLC0415 - as above

        tokens = list(self._tokenizer.encode(text))
        self.room(tokens[1:])
        outputs = self.llm.encode(TokensPrompt(prompt_token_ids=tokens), PoolingParams(task="embed"), request_id)
        async with aclosing(outputs):
            async for output in outputs:
                if output.finished:
                    return output.outputs.data.tolist(), len(output.prompt_token_ids)
        raise failed("it ended without a vector")

    def _templated(self, generation: Generation) -> list[int]:
        turns = [
            {"role": message.role.value if message.role is not Role.TOOL else "user", "content": message.text}
            for message in generation.messages
        ]
        if not getattr(self._tokenizer, "chat_template", None):
            message = f"model: {generation.model} has no chat template, so it takes no messages; give its folder one"
            raise Failure(Reason.MODEL_CAPABILITY_MISSING, message, metadata={"model": generation.model})
        import jinja2  # noqa: PLC0415 - as the tokenizer does

        try:
            text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except jinja2.TemplateError as error:
            raise invalid_field("messages", f"the model's chat template refuses them: {str(error)[:200]}") from error
        return self.tokens_of(text)


class Opener:
    """Starts and ends vLLM's engine, in a thread."""

    def open(self, options: Options) -> Core:
        """Starts it; takes from half a minute to many minutes."""
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415 - only where vLLM is installed
        from vllm.exceptions import VLLMError  # noqa: PLC0415 - as above
        from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415 - as above

        wanted = {
            "model": options.model,
            "served_model_name": [options.served],
            "max_model_len": options.max_model_len or None,
            "gpu_memory_utilization": options.gpu_memory_utilization,
            "tensor_parallel_size": options.tensor_parallel_size,
            "quantization": options.quantization or None,
            **options.more,
        }
        before = _children()
        llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**wanted))
        return Core(llm, (VLLMError, ValueError, TypeError), tuple(_children() - before), device())

    def shut(self, opened: Core) -> None:
        """Ends it, whatever it is doing."""
        opened.llm.shutdown()
        for pid in opened.pids:
            try:
                psutil.Process(pid).wait(10)
            except psutil.NoSuchProcess:
                continue
            except psutil.TimeoutExpired:
                psutil.Process(pid).kill()


def device() -> Device:
    """What this build of vLLM runs on."""
    from vllm.platforms import current_platform  # noqa: PLC0415 - only where vLLM is installed

    return Device.CPU if current_platform.is_cpu() else Device.CUDA


def adapter(name: str, number: int, path: str) -> Any:
    """A LoRA adapter, as vLLM knows it."""
    from vllm.lora.request import LoRARequest  # noqa: PLC0415 - only where vLLM is installed

    return LoRARequest(lora_name=name, lora_int_id=number, lora_path=path)


def told(error: Exception, *, is_dead: bool, has_content: bool) -> Failure:
    """What an error of vLLM means to whoever asked."""
    if is_dead:
        return failed("its engine has died") if has_content else gone()
    name = type(error).__name__
    if name in {"QueueOverflowError", "MaxQueuedTokensError"}:
        message = "engine vllm takes no more requests for now; try again later"
        return Failure(Reason.ENGINE_OVERLOADED, message, metadata={"engine": NAME}, retry_after=1.0)
    if name in {"EngineGenerateError", "GenerationError"}:
        return failed("it could not go on")
    said = remote.told_by(msgspec.json.encode({"error": str(error)}))
    return Failure(Reason.INVALID_FIELD, f"engine vllm refuses the request: {said}", metadata={"engine": NAME})


def failed(why: str) -> Failure:
    """GENERATION_FAILED."""
    return remote.failed(NAME, why)


def gone() -> Failure:
    """ENGINE_UNAVAILABLE."""
    return remote.unavailable(NAME, "it was shut down")


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}
