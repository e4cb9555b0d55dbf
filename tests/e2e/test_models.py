"""Models are loaded, unloaded, deleted and told of, the same over gRPC and REST, in a suite with a folder of its own."""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import duration_pb2
from penstock.inference.v1 import generation_pb2, generation_service_pb2, model_pb2, model_service_pb2

from tests.contract.engines import tiny_llama, tiny_llama_hf
from tests.e2e.faces import Face, Grpc, Refused, Rest
from tests.support.suite import Suite, running_suite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READY, UNLOADED = model_pb2.MODEL_STATE_READY, model_pb2.MODEL_STATE_UNLOADED
MIB = 1 << 20


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_llama.build(folder, "tiny")
    tiny_llama.build(folder, "wide", tiny_llama.Shape(width=1024, layers=2))
    tiny_llama_hf.build(folder, "tiny-hf")
    return folder


@pytest.fixture(scope="module")
def models_suite(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    # Room for any one of the models, and not for two.
    with running_suite(tmp_path_factory.mktemp("suite"), MODELS_DIR=str(models_dir), MAX_MEMORY="200MiB") as suite:
        yield suite


@pytest.fixture(params=[Grpc, Rest], ids=["grpc", "rest"])
def face(request: pytest.FixtureRequest, models_suite: Suite) -> Iterator[Face]:
    face = request.param(models_suite.grpc if request.param is Grpc else models_suite.url)
    yield face
    face.call("OptimizeMemory", model_service_pb2.OptimizeMemoryRequest())
    face.close()


def models(face: Face) -> dict[str, Any]:
    return {model.model: model for model in face.call("ListModels", model_service_pb2.ListModelsRequest()).models}


def load(face: Face, model: str, **more: Any) -> list[Any]:
    return list(face.stream("LoadModel", model_service_pb2.LoadModelRequest(model=model, **more)))


def generate(face: Face, model: str, prompt: str = "") -> Any:
    # Each prompt is new: a repeated one is answered out of the cache, without the model.
    prompt = prompt or f"Where does the water of {uuid.uuid4()} go?"
    request = generation_service_pb2.GenerateRequest(
        model=model, prompt=prompt, max_tokens=8, sampling=generation_pb2.Sampling(temperature=0.0)
    )
    return face.call("Generate", request)


def system(face: Face) -> Any:
    return face.call("GetSystem", model_service_pb2.GetSystemRequest()).system


def loaded_here(face: Face) -> list[Any]:
    """The embedder, which is always there, left out."""
    loaded = {model.model: model for model in system(face).loaded_models}
    for _ in range(100):  # it loads beside the start, and is seen by the next look at its engine
        if "all-minilm-l6-v2" in loaded:
            break
        time.sleep(0.1)
        loaded = {model.model: model for model in system(face).loaded_models}
    assert loaded.pop("all-minilm-l6-v2").device == model_pb2.DEVICE_CPU
    return list(loaded.values())


def test_a_model_is_loaded_with_progress_told_of_and_unloaded(face: Face) -> None:
    before = models(face)["tiny"]
    assert before.state == UNLOADED
    assert (before.quantization, before.format, before.path) == ("F16", "gguf", "tiny.gguf")
    assert before.update_time.seconds > 0
    assert not before.HasField("load_time")
    *steps, finished = load(face, "tiny")
    assert {step.WhichOneof("event") for step in steps} == {"progress"}
    assert finished.finished.model.state == READY
    assert finished.finished.elapsed.ToNanoseconds() > 0
    assert not finished.finished.HasField("error")
    (loaded,) = loaded_here(face)
    assert (loaded.model, loaded.device) == ("tiny", model_pb2.DEVICE_CPU)
    assert loaded.memory_bytes > loaded.size_bytes > 0
    assert loaded.load_time.seconds > before.update_time.seconds - 60
    unloaded = face.call("UnloadModel", model_service_pb2.UnloadModelRequest(model="tiny"))
    assert unloaded.model.state == UNLOADED
    assert not loaded_here(face)


def test_memory_is_really_returned(face: Face) -> None:
    generate(face, "wide")  # loads it
    loaded = system(face).process.resident_bytes
    unloaded = face.call("UnloadModel", model_service_pb2.UnloadModelRequest(model="wide"))
    after = system(face).process.resident_bytes
    assert unloaded.freed_bytes > 20 * MIB
    assert loaded - after > 20 * MIB


def test_a_request_loads_a_model_and_the_idle_one_leaves_for_it(face: Face) -> None:
    assert generate(face, "tiny").model == "tiny"
    assert models(face)["tiny"].state == READY
    assert generate(face, "wide").model == "wide"
    states = models(face)
    assert (states["tiny"].state, states["wide"].state) == (UNLOADED, READY)
    assert states["wide"].last_use_time.ToNanoseconds() >= states["wide"].load_time.ToNanoseconds()


def test_safetensors_are_converted_on_load_and_answer_as_the_gguf(face: Face) -> None:
    assert models(face)["tiny-hf"].format == "safetensors"
    *steps, finished = load(face, "tiny-hf")
    assert steps
    assert finished.finished.model.state == READY
    prompt = f"Where does the water go, asks {face.name}?"
    assert generate(face, "tiny-hf", prompt).text == generate(face, "tiny", prompt).text != ""


def test_optimizing_unloads_what_is_idle_for_long_enough(face: Face) -> None:
    load(face, "tiny")
    request = model_service_pb2.OptimizeMemoryRequest(idle=duration_pb2.Duration(seconds=3600))
    assert list(face.call("OptimizeMemory", request).unloaded_models) == []
    optimized = face.call("OptimizeMemory", model_service_pb2.OptimizeMemoryRequest())
    assert list(optimized.unloaded_models) == ["tiny"]
    assert optimized.resident_bytes_after > 0
    assert models(face)["tiny"].state == UNLOADED


def test_the_system_is_told_of(face: Face) -> None:
    seen = system(face)
    assert 0 < seen.cpu.usable_cores <= seen.cpu.logical_cores
    assert 0 < seen.memory.available_bytes <= seen.memory.total_bytes
    assert seen.memory.max_bytes == 200 * MIB
    assert seen.memory.min_bytes == 256 * MIB
    assert 10 * MIB < seen.process.resident_bytes < seen.process.virtual_bytes
    assert seen.process.threads > 1


@pytest.mark.parametrize(
    ("method", "request_", "code", "reason"),
    [
        ("LoadModel", model_service_pb2.LoadModelRequest(), "INVALID_ARGUMENT", "INVALID_FIELD"),
        ("LoadModel", model_service_pb2.LoadModelRequest(model="missing"), "NOT_FOUND", "MODEL_NOT_FOUND"),
        (
            "LoadModel",
            model_service_pb2.LoadModelRequest(model="extractive"),
            "FAILED_PRECONDITION",
            "MODEL_CAPABILITY_MISSING",
        ),
        (
            "LoadModel",
            model_service_pb2.LoadModelRequest(model="tiny", device=model_pb2.DEVICE_CUDA),
            "FAILED_PRECONDITION",
            "DEVICE_UNAVAILABLE",
        ),
        ("PullModel", model_service_pb2.PullModelRequest(model="tiny"), "FAILED_PRECONDITION", "MODEL_CAPABILITY_MISSING"),
        ("UnloadModel", model_service_pb2.UnloadModelRequest(model="missing"), "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("UnloadModel", model_service_pb2.UnloadModelRequest(model="tiny"), "FAILED_PRECONDITION", "MODEL_NOT_LOADED"),
        ("DeleteModel", model_service_pb2.DeleteModelRequest(model="missing"), "NOT_FOUND", "MODEL_NOT_FOUND"),
        (
            "DeleteModel",
            model_service_pb2.DeleteModelRequest(model="extractive"),
            "FAILED_PRECONDITION",
            "MODEL_CAPABILITY_MISSING",
        ),
    ],
)
def test_what_cannot_be_is_refused(face: Face, method: str, request_: Any, code: str, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        list(face.stream(method, request_)) if method in {"LoadModel", "PullModel"} else face.call(method, request_)
    assert (caught.value.code, caught.value.reason) == (code, reason)


def test_a_model_beyond_the_limit_is_refused_with_the_figures(face: Face, models_dir: Path) -> None:
    huge = tiny_llama.build(models_dir, f"huge-{face.name}", tiny_llama.Shape(width=1024, layers=12))
    list(face.call("ListModels", model_service_pb2.ListModelsRequest()).models)
    with pytest.raises(Refused) as caught:
        load_until_known(face, huge.stem)
    assert (caught.value.code, caught.value.reason) == ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY")
    assert "200 MiB" in caught.value.message
    assert "MAX_MEMORY" in caught.value.message
    assert face.call("DeleteModel", model_service_pb2.DeleteModelRequest(model=huge.stem)).deleted_bytes > 100 * MIB
    assert not huge.exists()
    assert huge.stem not in models(face)


def load_until_known(face: Face, model: str) -> None:
    """Loads; a file that has just come is known a few seconds later."""
    deadline = time.monotonic() + 20
    while True:
        try:
            load(face, model)
        except Refused as refused:
            if refused.reason != "MODEL_NOT_FOUND" or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


@pytest.mark.parametrize(
    ("accept", "content_type"), [("text/event-stream", "text/event-stream"), ("application/x-ndjson", "application/x-ndjson")]
)
def test_the_framing_follows_accept(models_suite: Suite, accept: str, content_type: str) -> None:
    rest = Rest(models_suite.url)
    try:
        answer = rest.client.post("/v1/models:load", json={"model": "tiny"}, headers={"accept": accept})
        assert answer.headers["content-type"].startswith(content_type)
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.strip()]
        assert "finished" in json.loads(lines[-1])
    finally:
        rest.close()
