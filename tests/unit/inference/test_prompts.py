from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from services.chassis.errors import Failure, Reason
from services.inference.engine import Message, Role
from services.inference.prompts.files import PromptFiles
from services.inference.prompts.use import PromptReference, PromptUse
from services.inference.prompts.versions import Content, Piece, Variable, VariableType, checked

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = Content(
    (
        Piece(Role.SYSTEM, "You help {{ company }}'s customers{% if formal %}, formally{% endif %}."),
        Piece(Role.USER, "{{ question }}"),
    ),
    (
        Variable("company"),
        Variable("formal", VariableType.BOOLEAN, default=False),
        Variable("question", description="What the customer wants to know."),
    ),
    "first",
)
GIVEN = (("company", "Penstock"), ("question", "Why?"))


@pytest.fixture
def prompts(tmp_path: Path) -> PromptFiles:
    return PromptFiles(tmp_path / "prompts")


async def test_versions_are_numbered_and_the_first_is_the_default_until_another_is_set(prompts: PromptFiles) -> None:
    first = await prompts.create("support", CONTENT)
    second = await prompts.create("support", replace(CONTENT, description="second"))
    assert (first.version, second.version) == (1, 2)
    prompt, version = prompts.get("support")
    assert (prompt.default, prompt.latest, version.content) == (1, 2, CONTENT)
    assert (await prompts.set_default("support", 2)).default == 2
    assert prompts.get("support")[1].content.description == "second"
    assert prompts.get("support", 1)[1] == first
    third = await prompts.create("support", CONTENT, set_default=True)
    assert prompts.get("support")[0].default == third.version == 3


async def test_rendering_puts_system_messages_first_and_then_the_conversation(prompts: PromptFiles) -> None:
    await prompts.create("support", CONTENT)
    turns = (Message(Role.ASSISTANT, "Hm?"), Message(Role.SYSTEM, "Be brief."), Message(Role.USER, "Tell me."))
    messages, reference = prompts.render(PromptUse("support", 0, (*GIVEN, ("formal", True)), turns))
    assert reference == PromptReference("support", 1)
    assert [(one.role, one.text) for one in messages] == [
        (Role.SYSTEM, "You help Penstock's customers, formally."),
        (Role.SYSTEM, "Be brief."),
        (Role.USER, "Why?"),
        (Role.ASSISTANT, "Hm?"),
        (Role.USER, "Tell me."),
    ]


async def test_other_processes_see_a_change_at_once(prompts: PromptFiles, tmp_path: Path) -> None:
    other = PromptFiles(tmp_path / "prompts")
    with pytest.raises(Failure) as caught:
        other.render(PromptUse("support", variables=GIVEN))
    assert caught.value.reason is Reason.PROMPT_NOT_FOUND
    await prompts.create("support", CONTENT)
    await prompts.create("support", replace(CONTENT, messages=(Piece(Role.USER, "{{ question }} {{ company }}"),)))
    assert other.render(PromptUse("support", variables=GIVEN))[1].version == 1
    await prompts.set_default("support", 2)
    assert other.render(PromptUse("support", variables=GIVEN)) == (
        (Message(Role.USER, "Why? Penstock"),),
        PromptReference("support", 2),
    )


async def test_versions_made_at_the_same_time_all_stay(tmp_path: Path) -> None:
    stores = [PromptFiles(tmp_path) for _ in range(4)]
    made = await asyncio.gather(
        *(store.create("p", replace(CONTENT, description=f"{n}")) for n, store in enumerate(stores * 3))
    )
    assert sorted(one.version for one in made) == list(range(1, 13))
    versions, following = stores[0].versions("p", 0, 250)
    assert ([one.version for one in versions], following) == (list(range(12, 0, -1)), 0)
    assert {one.content.description for one in versions} == {f"{n}" for n in range(12)}


async def test_a_creation_can_be_repeated(prompts: PromptFiles) -> None:
    first = await prompts.create("support", CONTENT, request_id="r1")
    assert await prompts.create("support", CONTENT, request_id="r1") == first
    with pytest.raises(Failure) as caught:
        await prompts.create("support", replace(CONTENT, description="other"), request_id="r1")
    assert caught.value.reason is Reason.REQUEST_ID_REUSED
    assert (await prompts.create("support", CONTENT, request_id="r2")).version == 2


async def test_lists_go_page_by_page(prompts: PromptFiles) -> None:
    assert prompts.prompts("", 5) == ([], "")
    for name in ("c", "a", "b"):
        await prompts.create(name, CONTENT)
    page, token = prompts.prompts("", 2)
    assert [one.name for one in page] == ["a", "b"]
    rest, end = prompts.prompts(token, 2)
    assert ([one.name for one in rest], end) == (["c"], "")
    for _ in range(3):
        await prompts.create("a", CONTENT)
    versions, below = prompts.versions("a", 0, 3)
    assert [one.version for one in versions] == [4, 3, 2]
    rest_of_them, end_of_them = prompts.versions("a", below, 3)
    assert ([one.version for one in rest_of_them], end_of_them) == ([1], 0)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"company": "x"}, "question"),
        ({"question": "x"}, "company"),
        ({"company": "x", "question": "y", "planet": "z"}, "planet"),
        ({"company": 7.0, "question": "y"}, "company"),
        ({"company": "x", "question": "y", "formal": "yes"}, "formal"),
    ],
)
async def test_a_variable_that_is_missing_unknown_or_wrong_is_named(
    prompts: PromptFiles, given: dict[str, Any], field: str
) -> None:
    await prompts.create("support", CONTENT)
    with pytest.raises(Failure) as caught:
        prompts.render(PromptUse("support", variables=tuple(given.items())))
    assert caught.value.reason is Reason.INVALID_FIELD
    assert caught.value.metadata["field"] == f"prompt_template.variables.{field}"


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (VariableType.STRING, ["", "水"], [1.0, True, None, []]),
        (VariableType.INTEGER, [3.0, -(2.0**53)], [3.5, 2.0**54, True, "3", float("inf")]),
        (VariableType.NUMBER, [3.5, 0.0], ["3", True, float("nan")]),
        (VariableType.BOOLEAN, [True, False], ["true", 1.0]),
        (VariableType.LIST, [[], [1.0, "a"]], ["a", {}]),
        (VariableType.OBJECT, [{}, {"a": [1.0]}], [[], "a"]),
    ],
)
async def test_types_are_held(prompts: PromptFiles, kind: VariableType, good: list[Any], bad: list[Any]) -> None:
    content = Content((Piece(Role.USER, "-{{ x|tojson }}"),), (Variable("x", kind),))
    await prompts.create("p", content)
    for value in good:
        assert prompts.render(PromptUse("p", variables=(("x", value),)))[0]
    for value in bad:
        with pytest.raises(Failure) as caught:
            prompts.render(PromptUse("p", variables=(("x", value),)))
        assert caught.value.reason is Reason.INVALID_FIELD


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (Content(()), "messages"),
        (Content((Piece(Role.TOOL, "x"),)), "messages[0].role"),
        (Content((Piece(Role.USER, "x"), Piece(Role.USER, "{{ y }}"))), "messages[1].template"),
        (Content((Piece(Role.USER, "{{"),)), "messages[0].template"),
        (Content((Piece(Role.USER, "x" * 65_537),)), "messages[0].template"),
        (Content((Piece(Role.USER, "x"),), (Variable("1"),)), "variables[0].variable"),
        (Content((Piece(Role.USER, "x"),), (Variable("loop"),)), "variables[0].variable"),
        (Content((Piece(Role.USER, "x"),), (Variable("a"), Variable("a"))), "variables[1].variable"),
        (Content((Piece(Role.USER, "x"),), (Variable("a", VariableType.LIST, "x"),)), "variables[0].default"),
    ],
)
def test_a_version_that_is_wrong_is_never_kept(content: Content, field: str) -> None:
    with pytest.raises(Failure) as caught:
        checked(content)
    assert (caught.value.reason, caught.value.metadata["field"]) == (Reason.INVALID_FIELD, field)


async def test_what_does_not_exist_is_not_found(prompts: PromptFiles) -> None:
    await prompts.create("support", CONTENT)
    for name, version in (("other", 0), ("support", 9), ("../support", 1), ("", 0), (".", 1)):
        with pytest.raises(Failure) as caught:
            prompts.render(PromptUse(name, version, GIVEN))
        assert caught.value.reason is Reason.PROMPT_NOT_FOUND
    with pytest.raises(Failure) as caught:
        await prompts.set_default("support", 9)
    assert caught.value.reason is Reason.PROMPT_NOT_FOUND


async def test_a_prompt_that_renders_nothing_is_refused(prompts: PromptFiles) -> None:
    await prompts.create("p", Content((Piece(Role.USER, "{% if false %}x{% endif %}"),)))
    with pytest.raises(Failure) as caught:
        prompts.render(PromptUse("p"))
    assert caught.value.reason is Reason.INVALID_FIELD


async def test_a_broken_file_takes_no_other_version_along(prompts: PromptFiles, tmp_path: Path) -> None:
    await prompts.create("p", CONTENT)
    folder = tmp_path / "prompts" / "p"
    (folder / "2.json").write_text("{")
    (folder / "notes.json").write_text("{}")
    made_by_hand = json.loads((folder / "1.json").read_text())
    (folder / "3.json").write_text(json.dumps(made_by_hand))
    with pytest.raises(Failure) as caught:
        prompts.render(PromptUse("p", 2, GIVEN))
    assert caught.value.reason is Reason.PROMPT_NOT_FOUND
    assert prompts.render(PromptUse("p", 3, GIVEN))[1] == PromptReference("p", 3)
    (folder / "default").unlink()
    assert prompts.render(PromptUse("p", variables=GIVEN))[1].version == 3


async def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "prompts").write_text("a file where the folder should be")
    with pytest.raises(Failure) as caught:
        await PromptFiles(tmp_path / "prompts").create("p", CONTENT)
    assert caught.value.reason is Reason.PROMPTS_READ_ONLY
