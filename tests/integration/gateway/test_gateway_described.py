"""What the gateway really answers fits what /openapi.json says of it, and /docs shows it all."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from openapi_schema_validator import OAS31Validator
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    import httpx

    from tests.integration.gateway.launched import Gateway

CALLS: list[tuple[str, str, str, dict[str, Any] | None]] = [
    ("post", "/v1/generate", "/v1/generate", {"prompt": "p"}),
    ("post", "/v1/generate", "/v1/generate", {"prompt": "p", "model": "missing"}),
    ("post", "/v1/generate:stream", "/v1/generate:stream", {"prompt": "a b"}),
    ("get", "/v1/models", "/v1/models", None),
    ("post", "/v1/search", "/v1/search", {"collections": ["c"], "query": "q"}),
    ("post", "/v1/search", "/v1/search", {"mode": "NO_SUCH_MODE"}),
    ("get", "/v1/collections/{collection}/documents/{document}", "/v1/collections/c/documents/d", None),
    ("post", "/v1/collections/{collection}/documents", "/v1/collections/c/documents", {"documents": [{"text": "t"}]}),
    ("get", "/v1/experiments/{experiment}/results", "/v1/experiments/e/results", None),
    ("post", "/v1/experiments/{experiment}:assign", "/v1/experiments/e:assign", {"unit_id": "u"}),
    ("get", "/v1/configuration:watch", "/v1/configuration:watch", None),
    ("get", "/openai/v1/models", "/openai/v1/models", None),
    ("post", "/openai/v1/chat/completions", "/openai/v1/chat/completions", {"model": "x", "messages": []}),
    ("post", "/openai/v1/chat/completions", "/openai/v1/chat/completions", {"model": "m", "messages": []}),
]


def described(document: Any, operation: Any, response: httpx.Response) -> Any:
    """The schema that the description gives for this response."""
    known = operation["responses"].get(str(response.status_code), operation["responses"]["default"])
    if "$ref" in known:
        known = document["components"]["responses"][known["$ref"].rpartition("/")[2]]
    return known["content"][response.headers["content-type"]]["schema"]


@pytest.mark.parametrize(("verb", "template", "path", "body"), CALLS)
def test_responses_fit_their_description(gateway: Gateway, verb: str, template: str, path: str, body: Any) -> None:
    document = gateway.http.get("/openapi.json").json()
    response = gateway.http.request(verb.upper(), path, json=body)
    schema = described(document, document["paths"][template][verb], response)
    OAS31Validator({**schema, "components": document["components"]}).validate(response.json())


def test_the_page_shows_every_operation(gateway: Gateway) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        reason = "no chromium on the PATH (Debian: apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    paths = gateway.http.get("/openapi.json").json()["paths"]
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        page = browser.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"http://{gateway.address}/docs")
        page.wait_for_selector("section.operation, #operations .failed")
        assert page.locator("#operations .failed").all_inner_texts() == []
        assert page.locator("section.operation").count() == sum(len(verbs) for verbs in paths.values())
        page.locator("#GenerationService_Generate summary").first.click()
        page.locator("#GenerationService_Generate .fields .fields").first.wait_for(state="visible", timeout=10_000)
        page.fill("#filter", "embed")
        assert page.locator("section.operation:visible").count() == 2
        browser.close()
    assert complaints == []
