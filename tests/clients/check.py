"""LangChain's ChatOpenAI and LlamaIndex's OpenAILike, unchanged, against a running suite.

Their releases want another major version of the `openai` package than the tests here, so they get an environment of their own:

    uv run --no-project --with langchain-openai==1.7.* --with llama-index-llms-openai-like==0.8.* \
        python tests/clients/check.py http://127.0.0.1:8080

Prints a line for each thing that works, and ends with 1 at the first that does not.
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request
import uuid
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

TEXT = "The penstock of Kirkwall is 412 metres long. Its steel is 18 millimetres thick. It was built in 1936."
QUESTION = "How long is the penstock of Kirkwall?"
FACT = "412 metres"


def ask(base: str, method: str, path: str, body: object = None) -> None:
    """One REST call."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310 - the suite's own address
        f"{base}{path}", data=data, method=method, headers={"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - as above
        answer.read()


def says(what: str, text: object) -> None:
    """Ends with 1 where the fact is not in what was answered."""
    if FACT not in str(text):
        sys.exit(f"{what}: {text!r} does not tell {FACT!r}")
    sys.stdout.write(f"{what}: ok\n")


def langchain(url: str, collection: str) -> None:
    """Chat, streams, history, sources, responses, completions."""
    chat = ChatOpenAI(base_url=url, api_key="none", model="extractive", temperature=0)
    messages = [SystemMessage("Answer from the text."), HumanMessage(f"{TEXT}\n\n{QUESTION}")]
    answer = chat.invoke(messages)
    says("ChatOpenAI.invoke", answer.content)
    if not (answer.usage_metadata and answer.usage_metadata["total_tokens"]):
        sys.exit("ChatOpenAI.invoke: no usage")
    says("ChatOpenAI.stream", "".join(str(chunk.content) for chunk in chat.stream(messages)))
    says("ChatOpenAI.ainvoke", asyncio.run(chat.ainvoke(messages)).content)
    says("ChatOpenAI.batch", chat.batch([messages, messages])[1].content)
    says(
        "OpenAI.invoke (completions)", OpenAI(base_url=url, api_key="none", model="extractive").invoke(f"{TEXT}\n\n{QUESTION}")
    )
    documents = ChatOpenAI(base_url=url, api_key="none", model=collection)
    says("ChatOpenAI over a collection", documents.invoke(QUESTION).content)
    says("ChatOpenAI over a collection, streamed", "".join(str(chunk.content) for chunk in documents.stream(QUESTION)))
    followed = documents.invoke([HumanMessage("Who built it?"), AIMessage("Nobody knows."), HumanMessage(QUESTION)])
    says("ChatOpenAI over a collection, continued", followed.content)
    responses: Any = ChatOpenAI(base_url=url, api_key="none", model=collection, use_responses_api=True)
    answer = responses.invoke(QUESTION)
    says("ChatOpenAI by responses", answer.content)
    if not answer.content[0]["annotations"]:
        sys.exit("ChatOpenAI by responses: no annotations")
    says("ChatOpenAI by responses, streamed", "".join(chunk.text for chunk in responses.stream(QUESTION)))


def llama_index(url: str, collection: str) -> None:
    """Chat, completion and their streams."""
    messages = [ChatMessage(role="user", content=f"{TEXT}\n\n{QUESTION}")]
    llm = OpenAILike(api_base=url, api_key="none", model="extractive", is_chat_model=True)
    says("OpenAILike.chat", llm.chat(messages).message.content)
    says("OpenAILike.stream_chat", "".join(chunk.delta or "" for chunk in llm.stream_chat(messages)))
    says("OpenAILike.complete", llm.complete(f"{TEXT}\n\n{QUESTION}").text)
    plain = OpenAILike(api_base=url, api_key="none", model="extractive", is_chat_model=False)
    says("OpenAILike.complete (completions)", plain.complete(f"{TEXT}\n\n{QUESTION}").text)
    streamed = "".join(chunk.delta or "" for chunk in plain.stream_complete(f"{TEXT}\n\n{QUESTION}"))
    says("OpenAILike.stream_complete (completions)", streamed)
    documents = OpenAILike(api_base=url, api_key="none", model=collection, is_chat_model=True)
    says("OpenAILike over a collection", documents.chat([ChatMessage(role="user", content=QUESTION)]).message.content)


def main() -> None:
    """Makes a collection, asks both, and deletes it."""
    base = sys.argv[1].rstrip("/") if len(sys.argv) > 1 else "http://127.0.0.1:8080"
    name = f"clients-{uuid.uuid4().hex[:8]}"
    ask(base, "POST", "/v1/collections", {"collection": name})
    try:
        ask(base, "POST", f"/v1/collections/{name}/documents", {"documents": [{"document": "kirkwall", "text": TEXT}]})
        langchain(f"{base}/openai/v1", f"penstock/{name}")
        llama_index(f"{base}/openai/v1", f"penstock/{name}")
    finally:
        ask(base, "DELETE", f"/v1/collections/{name}")


if __name__ == "__main__":
    main()
