"""The two clients offer the same, in the same words."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from penstock.aio import AsyncClient
from penstock.client import Client

# What a client is closed and entered by, which differs as the languages of the two do.
OWN = {"close", "aclose"}
# Of the two, what stands in signatures and descriptions alike but for its name.
SAME = (("AsyncEventStream", "EventStream"), ("AsyncIterator", "Iterator"), ("AsyncIterable", "Iterable"))


def methods(client: type) -> dict[str, Any]:
    found = inspect.getmembers(client, inspect.isfunction)
    return {name: method for name, method in found if not name.startswith("_") and name not in OWN}


def told(text: str) -> str:
    for asynchronous, synchronous in SAME:
        text = text.replace(asynchronous, synchronous)
    return re.sub(r"\s+", " ", text)


def test_both_have_the_same_methods() -> None:
    assert set(methods(Client)) == set(methods(AsyncClient))


@pytest.mark.parametrize("name", sorted(methods(Client)))
def test_a_method_takes_gives_and_says_the_same_in_both(name: str) -> None:
    one, other = methods(Client)[name], methods(AsyncClient)[name]
    assert told(str(inspect.signature(one))) == told(str(inspect.signature(other)))
    assert told(one.__doc__ or "") == told(other.__doc__ or "")
    assert one.__doc__


def test_every_rpc_of_models_and_prompts_can_be_called() -> None:
    wanted = {"optimize_memory", "system", "create_model", "create_prompt_version", "prompts", "prompt_versions", "get_prompt"}
    assert wanted | {"set_default_prompt_version", "render_prompt"} <= set(methods(Client))
