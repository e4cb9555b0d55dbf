from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from penstock.assignment import PromptVersion, RequestType, Treatment
from penstock.exposures import Execution

from services.chassis.cache.tiers import Tiers
from services.chassis.errors import Failure, Reason
from services.inference.cached_vectors import CachedVectors
from services.inference.caching import CachedInference
from services.inference.engine import Message, Role, Sampling
from services.inference.generation import Request
from services.inference.inference import Inference, completed
from services.inference.models import Models
from services.inference.prompts.files import PromptFiles
from services.inference.prompts.use import PromptReference, PromptUse
from services.inference.prompts.versions import Content, Piece, Variable
from tests.unit.inference.scripted_engine import ScriptedEngine, writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

FIRST = Content((Piece(Role.SYSTEM, "Answer {{ whom }}."),), (Variable("whom", default="anyone"),))
SECOND = Content((Piece(Role.SYSTEM, "Please answer {{ whom }}."),), (Variable("whom", default="anyone"),))
QUESTION = (Message(Role.USER, "Why?"),)


PLAIN = Execution()


class Assigner:
    """Gives the users of the second version that one."""

    def assign(
        self,
        request_type: RequestType,  # noqa: ARG002 - of the protocol, as the next ones
        *,
        user: str = "",
        conversation: str = "",  # noqa: ARG002 - as above
        request_id: str = "",  # noqa: ARG002 - as above
        attributes: Mapping[str, str] | None = None,  # noqa: ARG002 - as above
    ) -> Treatment | None:
        version = PromptVersion("support", 2)
        return Treatment("key", "e", "b", user, prompt_version=version) if user == "second" else None

    def expose(
        self,
        treatment: Treatment,
        *,
        request_id: str,
        model: str = "",
        engine: str = "",
        execution: Execution = PLAIN,
    ) -> None:
        """Records nothing."""


class Bench:
    def __init__(self, engine: ScriptedEngine, models: Models, folder: Path) -> None:
        self.engine = engine
        self.prompts = PromptFiles(folder)
        inner = Inference(models, Assigner(), prompts=self.prompts)
        vectors = CachedVectors(inner, models, Tiers("embeddings", 1_000_000, 60))
        self.cached = CachedInference(
            inner,
            vectors,
            plan=inner.plan,
            shape=inner.shape,
            assigner=Assigner(),
            tiers=Tiers("responses", 1_000_000, 60),
        )

    async def ask(
        self, prompt: PromptUse | None = None, user: str = "", temperature: float | None = 0.0, text: str = ""
    ) -> tuple[PromptReference | None, bool, list[str]]:
        messages = (Message(Role.SYSTEM, "Mine."), Message(Role.USER, text)) if text else ()
        request = Request("r", "", messages, sampling=Sampling(temperature=temperature), user=user, prompt=prompt)
        started = (await completed(self.cached.stream(request), 1)).started
        return started.prompt, started.cached, [one.text for one in self.engine.asked[-1].messages]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    engine = ScriptedEngine("openai", writer("model", "openai"))
    async with Models([engine], probe_seconds=60) as models:
        bench = Bench(engine, models, tmp_path)
        await bench.prompts.create("support", FIRST)
        await bench.prompts.create("support", SECOND)
        yield bench


@pytest.mark.parametrize("temperature", [0.0, 0.7])
async def test_the_answer_tells_which_version_was_rendered(bench: Bench, temperature: float) -> None:
    default, pinned = PromptUse("support", messages=QUESTION), PromptUse("support", 2, (("whom", "me"),), QUESTION)
    assert await bench.ask(default, temperature=temperature) == (
        PromptReference("support", 1),
        False,
        ["Answer anyone.", "Why?"],
    )
    assert await bench.ask(pinned, temperature=temperature) == (
        PromptReference("support", 2),
        False,
        ["Please answer me.", "Why?"],
    )


async def test_versions_do_not_share_answers_and_a_cached_one_tells_its_version(bench: Bench) -> None:
    for version in (1, 2):
        use = PromptUse("support", version, (("whom", "x"),), QUESTION)
        assert (await bench.ask(use))[1] is False
        reference, cached, _ = await bench.ask(use)
        assert (reference, cached) == (PromptReference("support", version), True)
    # The same words by two versions of another prompt are two answers too.
    await bench.prompts.create("other", FIRST)
    await bench.prompts.create("other", FIRST)
    seen = [(await bench.ask(PromptUse("other", version, messages=QUESTION)))[1] for version in (1, 2, 1, 2)]
    assert seen == [False, False, True, True]


async def test_a_new_default_is_taken_at_once(bench: Bench) -> None:
    use = PromptUse("support", messages=QUESTION)
    assert (await bench.ask(use))[0] == PromptReference("support", 1)
    await bench.prompts.set_default("support", 2)
    assert (await bench.ask(use))[0] == PromptReference("support", 2)


async def test_a_variant_renders_its_version_in_place_of_the_requests(bench: Bench) -> None:
    use = PromptUse("support", 1, (("whom", "me"),), QUESTION)
    assert (await bench.ask(use, user="second"))[::2] == (PromptReference("support", 2), ["Please answer me.", "Why?"])


@pytest.mark.parametrize("temperature", [0.0, 0.7])
async def test_a_variant_renders_its_version_in_place_of_a_system_message(bench: Bench, temperature: float) -> None:
    reference, _, texts = await bench.ask(text="Why?", user="second", temperature=temperature)
    assert (reference, texts) == (PromptReference("support", 2), ["Please answer anyone.", "Why?"])
    assert (await bench.ask(text="Why?", temperature=temperature))[::2] == (None, ["Mine.", "Why?"])


@pytest.mark.parametrize("temperature", [0.0, 0.7])
async def test_a_prompt_that_is_not_there_or_a_wrong_variable_fails_before_any_engine_is_asked(
    bench: Bench, temperature: float
) -> None:
    for use, reason in (
        (PromptUse("nothing", messages=QUESTION), Reason.PROMPT_NOT_FOUND),
        (PromptUse("support", 1, (("who", "me"),), QUESTION), Reason.INVALID_FIELD),
    ):
        with pytest.raises(Failure) as caught:
            await bench.ask(use, temperature=temperature)
        assert caught.value.reason is reason
    assert bench.engine.asked == []
