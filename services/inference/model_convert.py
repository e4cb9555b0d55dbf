"""Between the model service's messages and the types of the domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from google.protobuf import duration_pb2, timestamp_pb2
from penstock.inference.v1 import model_pb2, model_service_pb2, system_pb2

from services.chassis.status import to_status
from services.inference import convert
from services.inference.engine import Device, Files, Residence
from services.inference.lifecycle import CreateOptions, Finished, LoadOptions, Progress, Stage
from services.inference.models import Listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.rpc import status_pb2

    from services.inference.engine import Model
    from services.inference.lifecycle import Event, Optimized, Unloaded
    from services.inference.memory import Memory
    from services.inference.system import System

_DEVICES: Final = {
    model_pb2.DEVICE_UNSPECIFIED: Device.AUTO,
    model_pb2.DEVICE_AUTO: Device.AUTO,
    model_pb2.DEVICE_CPU: Device.CPU,
    model_pb2.DEVICE_CUDA: Device.CUDA,
}
_DEVICES_TOLD: Final = {Device.CPU: model_pb2.DEVICE_CPU, Device.CUDA: model_pb2.DEVICE_CUDA}
_STAGES: Final = {
    Stage.WAITING: model_pb2.MODEL_STAGE_WAITING,
    Stage.DOWNLOADING: model_pb2.MODEL_STAGE_DOWNLOADING,
    Stage.VERIFYING: model_pb2.MODEL_STAGE_VERIFYING,
    Stage.CONVERTING: model_pb2.MODEL_STAGE_CONVERTING,
    Stage.LOADING: model_pb2.MODEL_STAGE_LOADING,
}


def model_of(listed: Listed) -> model_pb2.Model:
    """Writes one model of the list, with its files and how it lies in memory."""
    message = convert.model_of(listed)
    model = listed.model
    files = model.files or Files()
    message.quantization, message.format, message.path = files.quantization, files.format, files.path
    _set_time(message.create_time, files.created)
    _set_time(message.update_time, files.updated)
    residence = model.residence or Residence()
    message.memory_bytes, message.running_requests = residence.memory_bytes, residence.running_requests
    if residence.device is not None:
        message.device = _DEVICES_TOLD[residence.device]
    _set_time(message.load_time, residence.loaded)
    _set_time(message.last_use_time, residence.last_used)
    return message


def options_of(request: model_service_pb2.LoadModelRequest) -> LoadOptions:
    """Reads how to load."""
    keep_alive = request.keep_alive.ToTimedelta().total_seconds() if request.HasField("keep_alive") else None
    return LoadOptions(_DEVICES[request.device], keep_alive, request.adapter_path)


def load_event_of(event: Event, request_id: str) -> model_service_pb2.LoadModelResponse:
    """Writes one event of a load."""
    if isinstance(event, Progress):
        return model_service_pb2.LoadModelResponse(progress=_progress(event))
    return model_service_pb2.LoadModelResponse(
        finished=model_service_pb2.LoadFinished(
            model=_model(event.model), elapsed=_duration(event.seconds), error=_error(event, request_id)
        )
    )


def pull_event_of(event: Event, request_id: str) -> model_service_pb2.PullModelResponse:
    """Writes one event of a pull."""
    if isinstance(event, Progress):
        return model_service_pb2.PullModelResponse(progress=_progress(event))
    return model_service_pb2.PullModelResponse(
        finished=model_service_pb2.PullFinished(
            model=_model(event.model), elapsed=_duration(event.seconds), error=_error(event, request_id)
        )
    )


def create_options_of(request: model_service_pb2.CreateModelRequest) -> CreateOptions:
    """Reads what to make a model of."""
    return CreateOptions(
        base=request.base,
        system_prompt=request.system_prompt,
        template=request.template,
        sampling=convert.sampling_of(request.sampling),
        context_tokens=request.context_tokens,
        max_tokens=request.max_tokens if request.HasField("max_tokens") else None,
        stop=tuple(request.stop),
        quantization=request.quantization,
    )


def create_event_of(event: Event, request_id: str) -> model_service_pb2.CreateModelResponse:
    """Writes one event of making a model."""
    if isinstance(event, Progress):
        return model_service_pb2.CreateModelResponse(progress=_progress(event))
    return model_service_pb2.CreateModelResponse(
        finished=model_service_pb2.CreateModelFinished(
            model=_model(event.model), elapsed=_duration(event.seconds), error=_error(event, request_id)
        )
    )


def unload_response_of(unloaded: Unloaded) -> model_service_pb2.UnloadModelResponse:
    """Writes what unloading brought."""
    return model_service_pb2.UnloadModelResponse(model=_model(unloaded.model), freed_bytes=unloaded.freed_bytes)


def optimize_response_of(optimized: Optimized) -> model_service_pb2.OptimizeMemoryResponse:
    """Writes what was freed."""
    return model_service_pb2.OptimizeMemoryResponse(
        unloaded_models=optimized.models,
        resident_bytes_before=optimized.before,
        resident_bytes_after=optimized.after,
    )


def system_of(system: System, memory: Memory, loaded: Sequence[Listed]) -> system_pb2.System:
    """Writes the system."""
    cpu, process = system.cpu, system.process
    return system_pb2.System(
        cpu=system_pb2.Cpu(
            logical_cores=cpu.logical_cores,
            physical_cores=cpu.physical_cores,
            usable_cores=cpu.usable_cores,
            used_percent=cpu.used_percent,
        ),
        memory=system_pb2.Memory(
            total_bytes=system.total_bytes,
            available_bytes=system.available_bytes,
            min_bytes=memory.least,
            max_bytes=memory.most,
            models_bytes=memory.expected_bytes,
        ),
        process=system_pb2.Process(
            resident_bytes=process.resident_bytes, virtual_bytes=process.virtual_bytes, threads=process.threads
        ),
        gpus=[
            system_pb2.Gpu(
                index=gpu.index,
                name=gpu.name,
                total_bytes=gpu.total_bytes,
                free_bytes=gpu.free_bytes,
                used_percent=gpu.used_percent,
            )
            for gpu in system.gpus
        ],
        loaded_models=[model_of(listed) for listed in loaded],
    )


def _model(model: Model | None) -> model_pb2.Model | None:
    return None if model is None else model_of(Listed(model, is_auto=False))


def _progress(progress: Progress) -> model_pb2.ModelProgress:
    return model_pb2.ModelProgress(
        stage=_STAGES[progress.stage], completed_bytes=progress.completed_bytes, total_bytes=progress.total_bytes
    )


def _error(finished: Finished, request_id: str) -> status_pb2.Status | None:
    return to_status(finished.failure, request_id) if finished.failure else None


def _set_time(field: timestamp_pb2.Timestamp, seconds: float | None) -> None:
    if seconds is not None:
        field.FromNanoseconds(int(seconds * 1e9))


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
