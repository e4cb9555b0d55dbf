"""The gRPC service of the policy: convert, call the domain, convert back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from penstock.inference.v1 import generation_pb2, policy_pb2, policy_service_pb2, policy_service_pb2_grpc

from services.chassis.errors import invalid_field
from services.inference.policy import Alias, Policy, Routing, Strategy, checked

if TYPE_CHECKING:
    from services.chassis.interceptors import Context
    from services.inference.policy import WeightedModel
    from services.inference.policy_file import PolicyFile

_STRATEGIES: Final = {
    Strategy.COMPLEXITY: policy_pb2.STRATEGY_COMPLEXITY,
    Strategy.FEEDBACK: policy_pb2.STRATEGY_FEEDBACK,
}
_STRATEGIES_READ: Final = {value: name.value for name, value in _STRATEGIES.items()}


class PolicyService(policy_service_pb2_grpc.PolicyServiceServicer):
    """Reads and changes how requests are routed."""

    def __init__(self, file: PolicyFile) -> None:
        self._file = file

    async def GetPolicy(
        self,
        request: policy_service_pb2.GetPolicyRequest,
        context: Context,
    ) -> policy_service_pb2.GetPolicyResponse:
        """Tells the policy in force."""
        current = self._file.current
        return policy_service_pb2.GetPolicyResponse(
            policy=_written(current.policy), revision=current.revision, problem=current.problem
        )

    async def UpdatePolicy(
        self,
        request: policy_service_pb2.UpdatePolicyRequest,
        context: Context,
    ) -> policy_service_pb2.UpdatePolicyResponse:
        """Replaces the policy."""
        current = await self._file.update(_read(request.policy), request.revision)
        return policy_service_pb2.UpdatePolicyResponse(policy=_written(current.policy), revision=current.revision)


def _read(message: policy_pb2.Policy) -> Policy:
    aliases: dict[str, Any] = {}
    for index, alias in enumerate(message.aliases):
        if alias.alias in aliases:
            raise invalid_field(f"policy.aliases[{index}].alias", f"{alias.alias!r} stands there twice")
        aliases[alias.alias] = {
            "models": [_model_read(one) for one in alias.choices],
            "fallbacks": list(alias.fallbacks),
            "system_prompt": alias.system_prompt,
            "sampling": _sampling_read(alias.sampling),
            "max_tokens": alias.max_tokens if alias.HasField("max_tokens") else None,
            "routing": _routing_read(alias.routing) if alias.HasField("routing") else None,
        }
    return checked({"aliases": aliases})


def _sampling_read(message: generation_pb2.Sampling) -> dict[str, Any]:
    return {field.name: value for field, value in message.ListFields()}


def _model_read(message: policy_pb2.WeightedModel) -> dict[str, Any]:
    return {field.name: value for field, value in message.ListFields()}


def _routing_read(message: policy_pb2.Routing) -> dict[str, Any]:
    given = {field.name: value for field, value in message.ListFields()}
    return {**given, "strategy": _STRATEGIES_READ[message.strategy]}


def _written(policy: Policy) -> policy_pb2.Policy:
    return policy_pb2.Policy(aliases=[_alias(name, alias) for name, alias in policy.aliases.items()])


def _alias(name: str, alias: Alias) -> policy_pb2.Alias:
    defaults = msgspec.to_builtins(alias.sampling)
    return policy_pb2.Alias(
        alias=name,
        choices=map(_model, alias.models),
        fallbacks=alias.fallbacks,
        system_prompt=alias.system_prompt,
        sampling=generation_pb2.Sampling(**defaults) if defaults else None,
        max_tokens=alias.max_tokens,
        routing=_routing(alias.routing) if alias.routing else None,
    )


def _model(one: WeightedModel) -> policy_pb2.WeightedModel:
    # What costs nothing says nothing of its cost.
    return policy_pb2.WeightedModel(
        model=one.model,
        weight=one.weight,
        tier=one.tier or None,
        input_price=one.input_price or None,
        output_price=one.output_price or None,
    )


def _routing(routing: Routing) -> policy_pb2.Routing:
    return policy_pb2.Routing(
        strategy=_STRATEGIES[routing.strategy],
        target=routing.target,
        good=routing.good,
        explore=routing.explore,
        outcomes=routing.outcomes,
        holdout=routing.holdout,
        cost_weight=routing.cost_weight,
    )
