"""OpenFeature over gRPC: running experiments as the flags of flagd's evaluation protocol.

A flag's key is an experiment's id, `targetingKey` in the context names the unit, and all else in the context are attributes.
As a text a flag is the id of the variant, as a truth value whether that is another one than the control (of two), as an object
what the variant changes. A unit that takes no part gets no variant and the reason DEFAULT, for which providers give the
caller's default. A resolved flag is an exposure; `ResolveAll`, which prefetches, records none.
"""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from services.chassis.call import current_call
from services.chassis.errors import invalid_field
from services.experiments.convert import variant_to_proto
from services.experiments.outcomes import Asked, Assigned

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType

    from penstock.audience import Exclusion

    from services.chassis.interceptors import Context
    from services.experiments.configuration import ConfigurationFeed
    from services.experiments.experiments import Experiment
    from services.experiments.outcomes import Outcomes
    from services.experiments.store import Configuration

_TARGETING_KEY: Final = "targetingKey"
_MOST_ATTRIBUTES: Final = 50
_SPLIT: Final = "SPLIT"
_DEFAULT: Final = "DEFAULT"
_TWO: Final = 2


class OpenFeatureService:
    """Serves one version of the protocol; the versions differ in presence only.

    Args:
        messages: The generated module of that version.
        outcomes: Assigns and records.
        feed: Tells of changes.
    """

    def __init__(self, messages: ModuleType, outcomes: Outcomes, feed: ConfigurationFeed) -> None:
        self._messages = messages
        self._outcomes = outcomes
        self._feed = feed

    async def ResolveString(self, request: Any, context: Context) -> Any:
        """The id of the unit's variant."""
        assigned = await self._assign(request)
        value = assigned.arm.variant if isinstance(assigned, Assigned) else ""
        return self._messages.ResolveStringResponse(**_resolution(request.flag_key, assigned, value))

    async def ResolveBoolean(self, request: Any, context: Context) -> Any:
        """Whether the unit's variant is another one than the control."""
        experiment = await self._outcomes.existing(request.flag_key)
        if len(experiment.design.variants) != _TWO:
            raise _mistyped(
                request.flag_key, f"has {len(experiment.design.variants)} variants; a truth value tells only two apart"
            )
        assigned = await self._assign(request)
        value = isinstance(assigned, Assigned) and assigned.arm.variant != experiment.design.variants[0].variant
        return self._messages.ResolveBooleanResponse(**_resolution(request.flag_key, assigned, value))

    async def ResolveObject(self, request: Any, context: Context) -> Any:
        """What the unit's variant changes."""
        assigned = await self._assign(request)
        value = _settings(assigned) if isinstance(assigned, Assigned) else None
        return self._messages.ResolveObjectResponse(**_resolution(request.flag_key, assigned, value))

    async def ResolveFloat(self, request: Any, context: Context) -> Any:
        """Refused: a variant is no number."""
        raise _mistyped(request.flag_key, "is no number; resolve it as a string, boolean or object")

    async def ResolveInt(self, request: Any, context: Context) -> Any:
        """Refused: a variant is no number."""
        raise _mistyped(request.flag_key, "is no number; resolve it as a string, boolean or object")

    async def ResolveAll(self, request: Any, context: Context) -> Any:
        """The variants of the unit in all running experiments that it takes part in, as texts; records no exposure."""
        unit_id, attributes = _unit(request.context)
        response = self._messages.ResolveAllResponse()
        for assigned in await self._outcomes.preview(unit_id, attributes):
            experiment = assigned.experiment
            response.flags[experiment].reason = _SPLIT
            response.flags[experiment].variant = assigned.arm.variant
            response.flags[experiment].string_value = assigned.arm.variant
        return response

    async def EventStream(self, request: Any, context: Context) -> AsyncIterator[Any]:
        """Tells that the provider is ready, and then which flags have changed."""
        before: Configuration | None = None
        async with aclosing(self._feed.watch("openfeature")) as configurations:
            async for configuration in configurations:
                if before is None:
                    yield self._messages.EventStreamResponse(type="provider_ready")
                else:
                    data = Struct()
                    data.update({"flags": {name: {} for name in _changed(before, configuration)}})
                    yield self._messages.EventStreamResponse(type="configuration_change", data=data)
                before = configuration

    async def _assign(self, request: Any) -> Assigned | Exclusion:
        unit_id, attributes = _unit(request.context)
        [assigned] = await self._outcomes.assign([Asked(request.flag_key, unit_id, attributes)], current_call().request_id)
        return assigned


def _unit(context: Struct) -> tuple[str, dict[str, str]]:
    """The unit and its attributes, those that are no texts written as JSON."""
    given = json_format.MessageToDict(context)
    unit_id = given.pop(_TARGETING_KEY, "")
    if not isinstance(unit_id, str) or not 0 < len(unit_id) <= 256:  # noqa: PLR2004 - as AssignRequest.unit_id
        raise invalid_field(f"context.{_TARGETING_KEY}", "must name the unit: a text of 1 to 256 characters")
    if len(given) > _MOST_ATTRIBUTES:
        raise invalid_field("context", f"has {len(given)} attributes; the most is {_MOST_ATTRIBUTES}")
    return unit_id, {name: value if isinstance(value, str) else _written(value) for name, value in given.items()}


def _written(value: object) -> str:
    # Every number of a Struct is a float; whole ones are written as people write them.
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)


def _resolution(flag: str, assigned: Assigned | Exclusion, value: object) -> dict[str, Any]:
    if not isinstance(assigned, Assigned):
        return {"reason": _DEFAULT}
    metadata = Struct()
    metadata.update({"experiment": flag, "assignment": assigned.key})
    return {"value": value, "variant": assigned.arm.variant, "reason": _SPLIT, "metadata": metadata}


def _settings(assigned: Assigned) -> Struct:
    changes = json_format.MessageToDict(variant_to_proto(assigned.arm), preserving_proto_field_name=True)
    changes.pop("weight", None)
    settings = Struct()
    settings.update({**changes, "assignment": assigned.key})
    return settings


def _mistyped(flag: str, problem: str) -> Exception:
    return invalid_field("flag_key", f"{flag!r} {problem}")


def _changed(before: Configuration, after: Configuration) -> set[str]:
    """Experiments that began, ended or changed between two configurations; all of them where the holdout changed."""
    earlier: dict[str, Experiment] = {one.id: one for one in before.experiments}
    later = {one.id: one for one in after.experiments}
    names = earlier.keys() | later.keys()
    if before.holdout != after.holdout:
        return set(names)
    return {name for name in names if earlier.get(name) != later.get(name)}
