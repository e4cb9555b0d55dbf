from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio
import penstock
import pytest
from google.protobuf import json_format, struct_pb2
from penstock.inference.v1 import (
    generation_pb2,
    generation_service_pb2,
    generation_service_pb2_grpc,
    prompt_pb2,
    prompt_service_pb2,
    prompt_service_pb2_grpc,
)

from tests.integration.inference.processes import Service, reason_of, status_of

if TYPE_CHECKING:
    from pathlib import Path

Create = prompt_service_pb2.CreatePromptVersionRequest


def creation(prompt: str, text: str) -> Create:
    default: Any = {
        "prompt": prompt,
        "messages": [{"role": "ROLE_SYSTEM", "template": text}, {"role": "ROLE_USER", "template": "{{ question }}"}],
        "variables": [
            {"variable": "question", "description": "What to ask"},
            {"variable": "words", "type": "VARIABLE_TYPE_INTEGER", "default": 20},
        ],
        "description": "as tested",
    }
    return json_format.ParseDict(default, Create())


async def test_a_prompt_from_its_creation_to_an_answer(channel: grpc.aio.Channel) -> None:
    stub: Any = prompt_service_pb2_grpc.PromptServiceStub(channel)
    generation: Any = generation_service_pb2_grpc.GenerationServiceStub(channel)
    made = (await stub.CreatePromptVersion(creation("support", "At most {{ words }} words."))).version
    await stub.CreatePromptVersion(creation("support", "No more than {{ words }} words."))
    assert (made.prompt, made.version, made.description) == ("support", 1, "as tested")
    assert made.variables[1].default.number_value == 20
    told = await stub.GetPrompt(prompt_service_pb2.GetPromptRequest(prompt="support"))
    assert (told.prompt.default_version, told.prompt.latest_version, told.version) == (1, 2, made)
    listed = await stub.ListPrompts(prompt_service_pb2.ListPromptsRequest())
    assert [one.prompt for one in listed.prompts] == ["support"]
    versions = await stub.ListPromptVersions(prompt_service_pb2.ListPromptVersionsRequest(prompt="support", page_size=1))
    assert [one.version for one in versions.versions] == [2]
    assert versions.next_page_token

    variables = struct_pb2.Struct()
    variables.update({"question": "Where to?"})
    await stub.SetDefaultPromptVersion(prompt_service_pb2.SetDefaultPromptVersionRequest(prompt="support", version=2))
    rendered = await stub.RenderPrompt(prompt_service_pb2.RenderPromptRequest(prompt="support", variables=variables))
    assert [one.parts[0].text for one in rendered.messages] == ["No more than 20 words.", "Where to?"]
    template = prompt_pb2.PromptTemplate(name="support", variables=variables)
    request = generation_service_pb2.GenerateRequest(
        model="tiny", prompt_template=template, max_tokens=4, sampling=generation_pb2.Sampling(temperature=0)
    )
    answer = await generation.Generate(request)
    assert (answer.prompt_version.name, answer.prompt_version.version) == ("support", 2)
    assert (await generation.Generate(request)).cached
    streamed = generation_service_pb2.StreamGenerateRequest(model="tiny", prompt_template=template, max_tokens=4)
    streamed.prompt_template.version = 1
    first = await anext(aiter(generation.StreamGenerate(streamed)))
    assert first.started.prompt_version.version == 1


@pytest.mark.parametrize(
    ("template", "reason", "named"),
    [
        ({"name": "nothing"}, "PROMPT_NOT_FOUND", "nothing"),
        ({"name": "errors", "version": 9}, "PROMPT_NOT_FOUND", "9"),
        ({"name": "errors"}, "INVALID_FIELD", "prompt_template.variables.question"),
        ({"name": "errors", "variables": {"question": "x", "words": 2.5}}, "INVALID_FIELD", "prompt_template.variables.words"),
        ({"name": "errors", "variables": {"question": "x", "more": 1}}, "INVALID_FIELD", "prompt_template.variables.more"),
        ({"name": "NOT A NAME"}, "INVALID_FIELD", "prompt_template.name"),
    ],
)
async def test_what_is_wrong_is_named(channel: grpc.aio.Channel, template: dict[str, Any], reason: str, named: str) -> None:
    stub: Any = prompt_service_pb2_grpc.PromptServiceStub(channel)
    generation: Any = generation_service_pb2_grpc.GenerationServiceStub(channel)
    creating = creation("errors", "{{ words }}")
    creating.request_id = "once"
    await stub.CreatePromptVersion(creating)
    message = json_format.ParseDict(template, prompt_pb2.PromptTemplate())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generation.Generate(generation_service_pb2.GenerateRequest(model="tiny", prompt_template=message))
    status: Any = caught.value
    assert reason_of(status_of(status)) == reason
    assert named in (status.details() or "")


async def test_a_template_that_is_no_template_is_refused(channel: grpc.aio.Channel) -> None:
    stub: Any = prompt_service_pb2_grpc.PromptServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CreatePromptVersion(creation("bad", "{{ ''.__class__.__mro__() }}"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "messages[0].template" in (caught.value.details() or "")


async def test_two_processes_of_the_service_agree_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    homes = [tmp_path / name for name in ("a", "b")]
    for home in homes:
        home.mkdir()
    services = [Service(home, PROMPTS_DIR=str(folder)) for home in homes]
    try:
        async with (
            grpc.aio.insecure_channel(services[0].address) as one,
            grpc.aio.insecure_channel(services[1].address) as other,
        ):
            here: Any = prompt_service_pb2_grpc.PromptServiceStub(one)
            there: Any = prompt_service_pb2_grpc.PromptServiceStub(other)
            for number in range(1, 4):
                await here.CreatePromptVersion(creation("shared", f"{number}"))
                await here.SetDefaultPromptVersion(
                    prompt_service_pb2.SetDefaultPromptVersionRequest(prompt="shared", version=number)
                )
                told = await there.GetPrompt(prompt_service_pb2.GetPromptRequest(prompt="shared"))
                assert (told.prompt.default_version, told.version.messages[0].template) == (number, f"{number}")
    finally:
        assert [service.stop() for service in services] == [0, 0]


async def test_the_wheels_clients_speak_of_prompts_and_the_machine(service: Service) -> None:
    messages = [{"role": "system", "template": "At most {{ words }} words."}, {"role": "user", "template": "{{ question }}"}]
    variables: list[dict[str, Any]] = [{"variable": "words", "type": "integer", "default": 20}, {"variable": "question"}]
    async with penstock.AsyncClient(service.address) as client:
        made = await client.create_prompt_version("wheel", messages, variables=variables, description="by the wheel")
        assert (made.version, made.variables[0].default.number_value) == (1, 20)
        await client.create_prompt_version("wheel", messages, variables=variables)
        assert (await client.set_default_prompt_version("wheel", 2)).default_version == 2
        assert "wheel" in [one.prompt async for one in client.prompts(page_size=1)]
        assert [one.version async for one in client.prompt_versions("wheel", page_size=1)] == [2, 1]
        assert (await client.get_prompt("wheel", version=1)).version == made
        rendered = await client.render_prompt("wheel", {"question": "Why?"}, version=1)
        assert [one.parts[0].text for one in rendered.messages] == ["At most 20 words.", "Why?"]
        template = {"name": "wheel", "variables": {"question": "Why?", "words": 3}}
        answer = await client.generate(model="tiny", prompt_template=template, max_tokens=3, cache="exact")
        assert answer.prompt_version.version == 2
        assert (await client.system()).memory.total_bytes > 0
        assert (await client.optimize_memory(idle=3600)).resident_bytes_before > 0
        with pytest.raises(penstock.FailedPreconditionError):
            async for _ in client.create_model("helper", "llama3.2", temperature=0.0, stop=["END"]):
                pass
