from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock.inference.v1 import generation_pb2, policy_pb2

from services.chassis.errors import Failure, Reason
from services.inference import policy_handlers
from services.inference.engine import Generation, Message, Role, Sampling
from services.inference.policy import Alias, Policy, SamplingDefaults, WeightedModel, checked
from services.inference.policy_file import PolicyFile, parsed, written
from tests.unit.inference.test_models import until

if TYPE_CHECKING:
    from pathlib import Path

TEXT = b"""
aliases:
  fast:
    models: [{model: small, weight: 3}, {model: tiny}]
    fallbacks: [extractive]
    system_prompt: Be brief.
    sampling: {temperature: 0, top_k: 5}
    max_tokens: 9
"""
FAST = Alias(
    models=(WeightedModel("small", 3.0), WeightedModel("tiny")),
    fallbacks=("extractive",),
    system_prompt="Be brief.",
    sampling=SamplingDefaults(temperature=0.0, top_k=5),
    max_tokens=9,
)
QUESTION = Message(Role.USER, "Hello")

NAMES = st.text(min_size=1, max_size=12)
POLICIES = st.builds(
    Policy,
    st.dictionaries(
        NAMES,
        st.builds(
            Alias,
            models=st.lists(NAMES, min_size=1, max_size=3, unique=True).map(lambda names: tuple(map(WeightedModel, names))),
            fallbacks=st.lists(NAMES, max_size=2).map(tuple),
            system_prompt=st.text(max_size=40),
            sampling=st.builds(SamplingDefaults, temperature=st.none() | st.floats(0, 2), seed=st.none() | st.integers(-9, 9)),
            max_tokens=st.none() | st.integers(1, 131_072),
        ),
        max_size=3,
    ),
)


def test_a_file_is_read() -> None:
    assert parsed(TEXT) == Policy({"fast": FAST})
    assert parsed(b"") == Policy()


@given(POLICIES)
def test_what_is_written_reads_back_as_the_same(policy: Policy) -> None:
    assert parsed(written(policy)) == policy
    assert policy_handlers._read(policy_handlers._written(policy)) == policy


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"aliases: {a: {models: []}}", "aliases[...].models"),
        (b"aliases: {a: {}}", "missing required field `models`"),
        (b"aliases: {a: {models: [{model: m, weight: 0}]}}", "weight"),
        (b"aliases: {a: {models: [{model: m}], temperature: 1}}", "unknown field `temperature`"),
        (b"aliases: {a: {models: [{model: m}], sampling: {temperature: 3}}}", "sampling.temperature"),
        (b"aliases: {a: {models: [{model: m}, {model: m}]}}", "aliases.a.models: a model stands there twice"),
        (b"alias: {}", "unknown field `alias`"),
        (b"aliases:\n  a: {models: [{model: m}]}\n  a: {models: [{model: n}]}", "a key stands there twice"),
        (b"aliases:\n  a: [", "line 2"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"- 1", "object"),
        (b"!!python/object/apply:os.getcwd []", "line 1"),
    ],
)
def test_a_bad_file_is_refused_and_the_place_is_named(text: bytes, told: str) -> None:
    with pytest.raises(Failure) as caught:
        parsed(text)
    assert caught.value.reason is Reason.INVALID_FIELD
    assert told in caught.value.message


def test_weights_are_kept_and_the_same_key_draws_the_same() -> None:
    first = Counter(FAST.chain(f"session-{number}")[0] for number in range(4000))
    assert 0.71 < first["small"] / 4000 < 0.79
    assert {tuple(FAST.chain("session-1")) for _ in range(5)} == {tuple(FAST.chain("session-1"))}
    for number in range(20):
        assert sorted(FAST.chain(str(number))) == ["extractive", "small", "tiny"]
        assert FAST.chain(str(number))[-1] == "extractive"


def test_defaults_fill_only_what_is_open() -> None:
    open_ = FAST.completed(Generation("fast", (QUESTION,)))
    assert open_.messages == (Message(Role.SYSTEM, "Be brief."), QUESTION)
    assert (open_.sampling, open_.max_tokens) == (Sampling(temperature=0.0, top_k=5), 9)
    own = Generation("fast", (Message(Role.SYSTEM, "Be long."), QUESTION), (), Sampling(temperature=1.0, top_p=0.5), 100)
    given_ = FAST.completed(own)
    assert given_.messages == own.messages
    assert (given_.sampling, given_.max_tokens) == (Sampling(temperature=1.0, top_p=0.5, top_k=5), 100)


def test_an_alias_that_stands_twice_is_refused() -> None:
    alias = policy_pb2.Alias(alias="a", choices=[policy_pb2.WeightedModel(model="m")], sampling=generation_pb2.Sampling())
    with pytest.raises(Failure, match=r"policy.aliases\[1\].alias: 'a' stands there twice"):
        policy_handlers._read(policy_pb2.Policy(aliases=[alias, alias]))


async def test_a_change_is_taken_over_and_a_bad_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    async with PolicyFile(path, seconds=0.01) as file:
        assert (file.policy, file.current.revision) == (Policy(), "")
        path.write_bytes(TEXT)
        await until(lambda: "fast" in file.policy.aliases)
        before = file.current
        path.write_bytes(b"aliases: nonsense")
        await until(lambda: file.current.problem != "")
        assert (file.policy, file.current.revision) == (before.policy, before.revision)
        path.write_bytes(TEXT)
        await until(lambda: file.current == before)
        path.unlink()
        await until(lambda: file.policy == Policy())


async def test_an_update_is_written_and_survives(tmp_path: Path) -> None:
    path = tmp_path / "new" / "policy.yaml"
    async with PolicyFile(path, seconds=0.01) as file:
        current = await file.update(Policy({"fast": FAST}))
        assert current.revision
        assert file.policy == Policy({"fast": FAST})
    async with PolicyFile(path) as again:
        assert again.current == current
    assert [one.name for one in path.parent.iterdir() if not one.name.endswith(".lock")] == ["policy.yaml"]


async def test_an_update_to_something_else_than_what_is_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    async with PolicyFile(path, seconds=60) as file:
        empty = (await file.update(Policy())).revision
        first = await file.update(Policy({"fast": FAST}), empty)
        assert await file.update(Policy({"fast": FAST}), empty) == first
        path.write_bytes(TEXT)
        with pytest.raises(Failure) as caught:
            await file.update(Policy(), first.revision)
        assert caught.value.reason is Reason.POLICY_CHANGED
        assert path.read_bytes() == TEXT
        assert (await file.update(Policy())).policy == Policy()


async def test_updates_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    policies = [Policy({f"a{number}": FAST}) for number in range(8)]
    async with PolicyFile(path) as file, PolicyFile(path) as other:
        await asyncio.gather(*(each.update(one) for one in policies for each in (file, other)))
    assert parsed(path.read_bytes()) in policies


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "fixed"
    folder.mkdir()
    folder.chmod(0o500)
    async with PolicyFile(folder / "policy.yaml") as file:
        with pytest.raises(Failure) as caught:
            await file.update(Policy())
    assert caught.value.reason is Reason.POLICY_READ_ONLY


async def test_a_folder_in_the_files_place_is_told(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.mkdir()
    async with PolicyFile(path) as file:
        assert "cannot be read" in file.current.problem
        with pytest.raises(Failure) as caught:
            await file.update(Policy())
    assert caught.value.reason is Reason.POLICY_READ_ONLY
    assert checked({}) == Policy()
