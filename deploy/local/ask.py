"""`make ask Q="..."`: ask the suite that runs on this machine, over gRPC through its gateway, and read along."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import grpc
from penstock.inference.v1 import generation_pb2
from penstock.retrieval.v1 import (
    answer_service_pb2,
    answer_service_pb2_grpc,
    collection_service_pb2,
    collection_service_pb2_grpc,
    search_pb2,
)

from deploy.local.data_folder import read_run
from deploy.local.settings import SettingError, read_settings
from services.gateway.keys import KeysError, read_keys

# What one question may search.
_MOST_COLLECTIONS = 16
_LIST_LIMIT_S = 10
_ANSWER_LIMIT_S = 300


class AskError(Exception):
    """The question cannot be asked or answered; the message is for the user."""


def main() -> int:
    """Return the exit status: 0 after a whole answer, 1 without, 2 without a question, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.ask", description=__doc__)
    parser.add_argument("question")
    parser.add_argument("--collection", action="append", default=[], help="where to look; all collections by default")
    parser.add_argument("--model", default="", help="which model answers; chosen by the suite by default")
    given = parser.parse_args()
    if not given.question.strip():
        parser.error('the question is empty; ask like this: make ask Q="What is penstock?"')
    try:
        address, metadata = _gateway()
        with grpc.insecure_channel(address) as channel:
            collections = given.collection or _collections(channel, metadata)
            request = answer_service_pb2.StreamAnswerRequest(query=given.question, collections=collections, model=given.model)
            answers = answer_service_pb2_grpc.AnswerServiceStub(channel)
            show(answers.StreamAnswer(request, timeout=_ANSWER_LIMIT_S, metadata=metadata), sys.stdout)
    except (AskError, SettingError, KeysError) as error:
        print(error, file=sys.stderr)
        return 1
    except grpc.RpcError as error:
        print(f"no answer: {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
        return 130
    return 0


def show(events: Iterator[answer_service_pb2.StreamAnswerResponse], out: TextIO) -> None:
    """Write an answer as it comes, then its sources and who gave it.

    Raises:
        AskError: the answer ended with an error, or without an end.
    """
    sources: Sequence[search_pb2.Hit] = ()
    cited: set[int] = set()
    for event in events:
        match event.WhichOneof("event"):
            case "sources":
                sources = event.sources.hits
            case "token":
                out.write(event.token.text)
                out.flush()
            case "citation":
                cited.add(event.citation.number)
            case "finished":
                out.write("\n")
                _show_end(event.finished, sources, cited, out)
                return
    raise AskError("the answer was cut off: the stream ended without its last event")


def _show_end(
    finished: answer_service_pb2.AnswerFinished, sources: Sequence[search_pb2.Hit], cited: set[int], out: TextIO
) -> None:
    if finished.HasField("error"):
        raise AskError(f"the answer broke off: {finished.error.message}")
    if sources:
        out.write("\nSources" + (", * cited:\n" if cited else ":\n"))
    for number, hit in enumerate(sources, start=1):
        mark = "*" if number in cited else " "
        title = f"{hit.title} · " if hit.title else ""
        out.write(f" {mark}[{number}] {title}{hit.collection}/{hit.document}  relevance {hit.relevance:.2f}\n")
    seconds = finished.timings.total.ToTimedelta().total_seconds()
    reason = generation_pb2.FinishReason.Name(finished.finish_reason).removeprefix("FINISH_REASON_").lower()
    variant = f" · variant {finished.variant}" if finished.variant else ""
    out.write(f"\n{finished.model} by {finished.engine}{variant} · {reason} · {seconds:.2f} s\n")


def _gateway() -> tuple[str, tuple[tuple[str, str], ...]]:
    """Address of the running suite's gateway, and what to send with each call."""
    data_dir = read_settings(os.environ).data_dir
    run = read_run(data_dir)
    if run is None:
        raise AskError(
            f"penstock is not running with the data folder {data_dir}. "
            "Start it with `make run`, or name the folder of a running one: DATA_DIR=... make ask Q=..."
        )
    keys_file = run["api_keys_file"]
    key = read_keys(Path(keys_file))[0].key if keys_file else ""
    return run["grpc"], (("authorization", f"Bearer {key}"),) if key else ()


def _collections(channel: grpc.Channel, metadata: tuple[tuple[str, str], ...]) -> list[str]:
    stub = collection_service_pb2_grpc.CollectionServiceStub(channel)
    answer = stub.ListCollections(
        collection_service_pb2.ListCollectionsRequest(page_size=_MOST_COLLECTIONS), timeout=_LIST_LIMIT_S, metadata=metadata
    )
    if not answer.collections:
        raise AskError("there is no collection to look in yet; add documents in the console or over /v1/collections")
    return [collection.collection for collection in answer.collections]


if __name__ == "__main__":
    sys.exit(main())
