"""Generates over native gRPC in a closed loop, with the stubs that users have, and prints one line of JSON as load.py does.

    python -m benchmarks.grpc_load 127.0.0.1:8080 --stream --connections 10 --seconds 5

grpc.aio takes part in what is measured: each call costs the client some 0.2 ms of one core, far more than load.py's HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import dataclass

import grpc.aio
import uvloop
from penstock.inference.v1 import generation_service_pb2, generation_service_pb2_grpc

from benchmarks.load import Tally, summary


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ask for, and for how long. Times are in seconds."""

    target: str
    model: str
    prompt: str
    stream: bool
    connections: int
    seconds: float
    warm_up: float


async def drive(plan: Plan) -> Tally:
    """Carries the plan out."""
    tally = Tally()
    begin = time.perf_counter() + plan.warm_up
    end = begin + plan.seconds
    call = _stream if plan.stream else _unary

    async def loop(channel: grpc.aio.Channel) -> None:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        while (sent := time.perf_counter()) < end:
            try:
                first, tokens = await call(stub, plan.model, plan.prompt)
            except grpc.aio.AioRpcError as error:
                tally.fail(f"{error.code().name}: {error.details()}")
                continue
            now = time.perf_counter()
            tally.answers += 1
            if sent >= begin and now <= end:
                tally.latencies.append(now - sent)
                tally.first_byte.append(first - sent)
                tally.first_token.append(first - sent)
                tally.tokens += tokens

    # A connection each: all on one would be served by one of Envoy's workers.
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(plan.target, options=options) for _ in range(plan.connections)]
    await asyncio.gather(*map(loop, channels))
    await asyncio.gather(*(channel.close() for channel in channels))
    return tally


async def _unary(stub: generation_service_pb2_grpc.GenerationServiceAsyncStub, model: str, prompt: str) -> tuple[float, int]:
    response = await stub.Generate(generation_service_pb2.GenerateRequest(model=model, prompt=prompt))
    return time.perf_counter(), response.usage.output_tokens


async def _stream(stub: generation_service_pb2_grpc.GenerationServiceAsyncStub, model: str, prompt: str) -> tuple[float, int]:
    """When the first text came, and how many tokens there were."""
    first, tokens = 0.0, 0
    async for event in stub.StreamGenerate(generation_service_pb2.StreamGenerateRequest(model=model, prompt=prompt)):
        if not first and event.HasField("delta"):
            first = time.perf_counter()
        if event.HasField("finished"):
            tokens = event.finished.usage.output_tokens
    return first, tokens


def main() -> None:
    """Reads the arguments, drives, and prints."""
    parser = argparse.ArgumentParser(description="A closed loop of gRPC calls.")
    parser.add_argument("target")
    parser.add_argument("--model", default="mock")
    parser.add_argument("--prompt", default="Say something.")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-up", type=float, default=0.5)
    given = parser.parse_args()
    plan = Plan(given.target, given.model, given.prompt, given.stream, given.connections, given.seconds, given.warm_up)
    print(json.dumps(summary(uvloop.run(drive(plan)), plan.seconds)))


if __name__ == "__main__":
    main()
