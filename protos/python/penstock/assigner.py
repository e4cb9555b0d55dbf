"""Assignments without a call: evaluated in process from the configuration that the experiments service streams."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

import grpc
import grpc.aio

from penstock.assignment import HASH_VERSIONS, Arm, Plan, PromptVersion, RequestType, Settings, Treatment, Unit, combine
from penstock.audience import EVERYONE, Audience, Condition, Operator, held_out
from penstock.experiments.v1 import assignment_pb2, assignment_service_pb2, experiment_pb2
from penstock.experiments.v1.assignment_service_pb2_grpc import AssignmentServiceStub
from penstock.exposures import Execution, ExposureBuffer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from typing_extensions import Self  # noqa: UP035 - the wheel serves Python 3.10 too

_log = logging.getLogger(__name__)

_BACKOFF: Final = (0.1, 5.0)
_UNITS: Final = {
    experiment_pb2.UNIT_USER: Unit.USER,
    experiment_pb2.UNIT_CONVERSATION: Unit.CONVERSATION,
    experiment_pb2.UNIT_REQUEST: Unit.REQUEST,
}
_OPERATORS: Final = frozenset(operator.value for operator in Operator)
_VARIANT_SETTINGS: Final[tuple[Literal["model", "prompt", "top_k"], ...]] = ("model", "prompt", "top_k")
_SAMPLING_SETTINGS: Final[tuple[Literal["temperature", "top_p", "max_tokens"], ...]] = ("temperature", "top_p", "max_tokens")
_RETRIEVAL_SETTINGS: Final[tuple[Literal["reranker", "min_relevance"], ...]] = ("reranker", "min_relevance")
FUSIONS: Final = {
    experiment_pb2.FUSION_OVERRIDE_RRF: "RRF",
    experiment_pb2.FUSION_OVERRIDE_DBSF: "DBSF",
    experiment_pb2.FUSION_OVERRIDE_WEIGHTED: "WEIGHTED",
}
_PLAIN: Final = Execution()
_NO_ATTRIBUTES: Final[Mapping[str, str]] = MappingProxyType({})


class Assigner:
    """Evaluates the running experiments in this process, and records who met them.

    Use it as an async context manager: inside, it follows the configuration, keeps the last one while the service is away, and
    sends exposures in the background. Before the first configuration has come nobody takes part.

    Args:
        channel: To the experiments service; stays the caller's.
        watcher: Who asks, for the service's log, such as `inference`.
        most_items: Exposures to hold while the service is away.
        most_bytes: Bytes of exposures to hold.
        close_seconds: How long leaving the context may take to send what is held.

    Attributes:
        revision: Of the configuration in use; 0 before the first.
        exposures: The buffer, with its counters `dropped`, `refused` and `recorded`.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        watcher: str,
        *,
        most_items: int = 50_000,
        most_bytes: int = 16 * 1024 * 1024,
        close_seconds: float = 3.0,
    ) -> None:
        self.revision = 0
        self.exposures = ExposureBuffer(channel, most_items=most_items, most_bytes=most_bytes)
        self._stub = AssignmentServiceStub(channel)
        self._watcher = watcher
        self._close_seconds = close_seconds
        self._plans: dict[int, tuple[Plan, ...]] = {}
        self._promoted: dict[RequestType, Settings] = {}
        self._holdout = 0.0
        self._configured = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._sending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._watching = asyncio.create_task(self._watch(), name="penstock-configuration")
        self._sending = asyncio.create_task(self.exposures.run(), name="penstock-exposures")
        for task in (self._watching, self._sending):
            task.add_done_callback(_tell_defect)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stops following, and sends what is held for at most `close_seconds`; the rest is lost, and the log says how much."""
        self.exposures.close()
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=self._close_seconds)
        tasks = [task for task in (self._watching, self._sending) if task is not None]
        self._watching = self._sending = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.exposures:
            _log.warning("%d exposures lost: the experiments service did not acknowledge them in time", len(self.exposures))

    @property
    def running(self) -> frozenset[str]:
        """Ids of the experiments that are evaluated here."""
        return frozenset(plan.experiment for plans in self._plans.values() for plan in plans)

    async def configured(self, seconds: float) -> bool:
        """Waits up to so many seconds for the first configuration; returns whether there is one."""
        try:
            await asyncio.wait_for(self._configured.wait(), seconds)  # noqa: TID251 - asyncio.timeout came with Python 3.11
        except asyncio.TimeoutError:  # noqa: UP041 - the built-in one is another class before Python 3.11
            return False
        return True

    def assign(
        self,
        request_type: RequestType,
        *,
        user: str = "",
        conversation: str = "",
        request_id: str = "",
        attributes: Mapping[str, str] = _NO_ATTRIBUTES,
    ) -> Treatment | None:
        """What the request gets, or None where no experiment applies and nothing is promoted.

        In each layer, the common one without a name included, the experiment that was started first among those that match
        takes the request; one whose unit is empty here does not match. Units of the global holdout meet no experiment.
        """
        met: list[Treatment] = []
        layers: list[str] = []
        units = {Unit.USER: user, Unit.CONVERSATION: conversation, Unit.REQUEST: request_id}
        for plan in self._plans.get(request_type, ()):
            unit_id = units[plan.unit]
            if not unit_id or plan.audience.layer in layers:
                continue
            if plan.exclusion(unit_id, attributes) is None and not held_out(unit_id, self._holdout):
                met.append(plan.treat(unit_id))
                layers.append(plan.audience.layer)
        return combine(met, self._promoted.get(request_type))

    def expose(
        self,
        treatment: Treatment,
        *,
        request_id: str,
        model: str = "",
        engine: str = "",
        execution: Execution = _PLAIN,
    ) -> None:
        """Notes that the request has really met the treatment, with the model and engine that answered. Never blocks."""
        if not treatment.assignment:
            return
        for one in (treatment, *treatment.also):
            exposure = assignment_pb2.Exposure(
                exposure=str(uuid.uuid4()),
                assignment=assignment_pb2.Assignment(assignment=one.assignment, experiment=one.experiment, variant=one.variant),
                unit_id=one.unit_id,
                request_id=request_id,
                model=model,
                engine=engine,
                model_digest=execution.model_digest[:256],
                indexes=execution.indexes,
                cached=execution.cached,
                attempts=[assignment_pb2.ExecutedAttempt(**attempt._asdict()) for attempt in execution.attempts],
                fell_back=execution.fell_back,
            )
            exposure.event_time.FromNanoseconds(time.time_ns())
            self.exposures.add(exposure)

    async def _watch(self) -> None:
        delay = _BACKOFF[0]
        request = assignment_service_pb2.WatchConfigurationRequest(watcher=self._watcher)
        while True:
            call = self._stub.WatchConfiguration(request, wait_for_ready=True)
            try:
                async for configuration in call:
                    self._use(configuration)
                    delay = _BACKOFF[0]
            except grpc.aio.AioRpcError as error:
                _log.info("the configuration stream broke (%s); the last configuration stays in use", error.code().name)
            finally:
                call.cancel()
            await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - spreads retries, guards nothing
            delay = min(2 * delay, _BACKOFF[1])

    def _use(self, configuration: assignment_service_pb2.WatchConfigurationResponse) -> None:
        plans = compile_plans(configuration.experiments)
        self._plans = {kind: tuple(plan for plan in plans if kind in plan.request_types) for kind in RequestType}
        self._promoted = compile_promotions(configuration.promotions)
        self._holdout = configuration.holdout
        self.revision = configuration.revision
        self._configured.set()


def _tell_defect(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("%s ended by a defect", task.get_name(), exc_info=task.exception())


def compile_plans(experiments: Iterable[experiment_pb2.Experiment]) -> list[Plan]:
    """Makes running experiments ready to evaluate, in their order; leaves out those that this version cannot evaluate."""
    plans = []
    known = {kind.value for kind in RequestType}
    for experiment in experiments:
        # Empty means all; types that a newer service added concern no call of this version.
        types = [RequestType(kind) for kind in experiment.request_types or known if kind in known]
        audience = _audience(experiment)
        if not types or audience is None or experiment.hash_version not in HASH_VERSIONS or experiment.unit not in _UNITS:
            _log.warning("experiment %s needs a newer penstock; it is not evaluated here", experiment.experiment)
            continue
        plans.append(
            Plan(
                experiment=experiment.experiment,
                salt=experiment.salt,
                hash_version=experiment.hash_version,
                unit=_UNITS[experiment.unit],
                arms=[Arm(variant.variant, variant.weight, **settings_of(variant)) for variant in experiment.variants],
                request_types=types,
                audience=audience,
                paused=experiment.paused_variants,
            )
        )
    return plans


def compile_promotions(promotions: Iterable[experiment_pb2.Promotion]) -> dict[RequestType, Settings]:
    """What is promoted for each type of call; a later promotion changes what an earlier one set."""
    changes: dict[RequestType, dict[str, Any]] = {}
    known = {kind.value for kind in RequestType}
    for promotion in promotions:
        for kind in promotion.request_types or known:
            if kind in known:
                changes.setdefault(RequestType(kind), {}).update(settings_of(promotion.settings))
    return {kind: Settings(**settings) for kind, settings in changes.items()}


def _audience(experiment: experiment_pb2.Experiment) -> Audience | None:
    """None where a condition is of a kind that came after this version."""
    if any(one.operator not in _OPERATORS for one in experiment.targeting):
        return None
    targeting = tuple(
        Condition(condition.attribute, Operator(condition.operator), tuple(condition.values))
        for condition in experiment.targeting
    )
    traffic = experiment.traffic if experiment.HasField("traffic") else 1.0
    if not (targeting or experiment.layer or traffic < 1):
        return EVERYONE
    return Audience(targeting, experiment.layer, experiment.layer_start, experiment.layer_share or 1.0, traffic)


def settings_of(variant: experiment_pb2.Variant) -> dict[str, Any]:
    """What a variant changes, as arguments of `Settings`."""
    sampling = variant.sampling
    kept, retrieval = variant.prompt_version, variant.retrieval
    return {
        **({"prompt_version": PromptVersion(kept.name, kept.version)} if variant.HasField("prompt_version") else {}),
        **{name: getattr(variant, name) for name in _VARIANT_SETTINGS if variant.HasField(name)},
        **{name: getattr(sampling, name) for name in _SAMPLING_SETTINGS if sampling.HasField(name)},
        **({"fusion": FUSIONS[retrieval.fusion]} if retrieval.fusion in FUSIONS else {}),
        **{name: getattr(retrieval, name) for name in _RETRIEVAL_SETTINGS if retrieval.HasField(name)},
    }
