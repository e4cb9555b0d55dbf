"""The gRPC service of prompts: convert, call the domain, convert back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.inference.v1 import prompt_pb2, prompt_service_pb2, prompt_service_pb2_grpc

from services.chassis.errors import invalid_field
from services.inference.form_convert import ROLES
from services.inference.prompt_convert import (
    message_message,
    plain,
    plain_value,
    reference_message,
    role_message,
    timestamp,
    value_message,
)
from services.inference.prompts.use import PromptUse
from services.inference.prompts.versions import Content, Piece, Variable, VariableType

if TYPE_CHECKING:
    from services.chassis.interceptors import Context
    from services.inference.prompts.files import Prompt, PromptFiles
    from services.inference.prompts.versions import Version

_PAGE: Final = 50
_TYPES: Final = {
    prompt_pb2.VARIABLE_TYPE_UNSPECIFIED: VariableType.STRING,
    prompt_pb2.VARIABLE_TYPE_STRING: VariableType.STRING,
    prompt_pb2.VARIABLE_TYPE_INTEGER: VariableType.INTEGER,
    prompt_pb2.VARIABLE_TYPE_NUMBER: VariableType.NUMBER,
    prompt_pb2.VARIABLE_TYPE_BOOLEAN: VariableType.BOOLEAN,
    prompt_pb2.VARIABLE_TYPE_LIST: VariableType.LIST,
    prompt_pb2.VARIABLE_TYPE_OBJECT: VariableType.OBJECT,
}
_NUMBERS: Final = {kind: number for number, kind in _TYPES.items() if number}


class PromptService(prompt_service_pb2_grpc.PromptServiceServicer):
    """Keeps prompts with their versions."""

    def __init__(self, prompts: PromptFiles) -> None:
        self._prompts = prompts

    async def CreatePromptVersion(
        self,
        request: prompt_service_pb2.CreatePromptVersionRequest,
        context: Context,
    ) -> prompt_service_pb2.CreatePromptVersionResponse:
        """Adds a version."""
        version = await self._prompts.create(
            request.prompt, _content(request), request_id=request.request_id, set_default=request.set_default
        )
        return prompt_service_pb2.CreatePromptVersionResponse(version=_version(version))

    async def ListPrompts(
        self,
        request: prompt_service_pb2.ListPromptsRequest,
        context: Context,
    ) -> prompt_service_pb2.ListPromptsResponse:
        """Lists the prompts."""
        prompts, following = self._prompts.prompts(request.page_token, request.page_size or _PAGE)
        return prompt_service_pb2.ListPromptsResponse(prompts=map(_prompt, prompts), next_page_token=following)

    async def ListPromptVersions(
        self,
        request: prompt_service_pb2.ListPromptVersionsRequest,
        context: Context,
    ) -> prompt_service_pb2.ListPromptVersionsResponse:
        """Lists the versions of a prompt."""
        token = request.page_token
        if token and not (token.isascii() and token.isdigit()):
            raise invalid_field("page_token", "it is none that was given here")
        versions, following = self._prompts.versions(request.prompt, int(token or "0"), request.page_size or _PAGE)
        return prompt_service_pb2.ListPromptVersionsResponse(
            versions=map(_version, versions), next_page_token=str(following) if following else ""
        )

    async def GetPrompt(
        self,
        request: prompt_service_pb2.GetPromptRequest,
        context: Context,
    ) -> prompt_service_pb2.GetPromptResponse:
        """Tells a prompt and one of its versions."""
        prompt, version = self._prompts.get(request.prompt, request.version)
        return prompt_service_pb2.GetPromptResponse(prompt=_prompt(prompt), version=_version(version))

    async def SetDefaultPromptVersion(
        self,
        request: prompt_service_pb2.SetDefaultPromptVersionRequest,
        context: Context,
    ) -> prompt_service_pb2.SetDefaultPromptVersionResponse:
        """Makes a version the default."""
        prompt = await self._prompts.set_default(request.prompt, request.version)
        return prompt_service_pb2.SetDefaultPromptVersionResponse(prompt=_prompt(prompt))

    async def RenderPrompt(
        self,
        request: prompt_service_pb2.RenderPromptRequest,
        context: Context,
    ) -> prompt_service_pb2.RenderPromptResponse:
        """Renders a version."""
        variables = tuple(plain(request.variables, "variables").items())
        messages, reference = self._prompts.render(PromptUse(request.prompt, request.version, variables), field="variables")
        return prompt_service_pb2.RenderPromptResponse(
            messages=map(message_message, messages), prompt=reference_message(reference)
        )


def _content(request: prompt_service_pb2.CreatePromptVersionRequest) -> Content:
    return Content(
        messages=tuple(Piece(ROLES[piece.role], piece.template) for piece in request.messages),
        variables=tuple(
            Variable(
                variable.variable,
                _TYPES[variable.type],
                plain_value(variable.default, f"variables[{index}].default") if variable.HasField("default") else None,
                variable.description,
            )
            for index, variable in enumerate(request.variables)
        ),
        description=request.description,
    )


def _prompt(prompt: Prompt) -> prompt_pb2.Prompt:
    return prompt_pb2.Prompt(
        prompt=prompt.name,
        default_version=prompt.default,
        latest_version=prompt.latest,
        update_time=timestamp(prompt.updated.timestamp()),
    )


def _version(version: Version) -> prompt_pb2.PromptVersion:
    content = version.content
    return prompt_pb2.PromptVersion(
        prompt=version.prompt,
        version=version.version,
        messages=[prompt_pb2.PromptMessage(role=role_message(one.role), template=one.template) for one in content.messages],
        variables=[
            prompt_pb2.PromptVariable(
                variable=variable.name,
                type=_NUMBERS[variable.type],
                default=None if variable.default is None else value_message(variable.default),
                description=variable.description,
            )
            for variable in content.variables
        ],
        description=content.description,
        create_time=timestamp(version.created.timestamp()),
    )
