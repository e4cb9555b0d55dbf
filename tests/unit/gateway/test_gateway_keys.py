"""Keys, scopes and the signature, without Envoy."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from services.chassis.seal import SEAL_HEADER, TENANT_HEADER, Seal
from services.gateway.authorizer.calls import Calls, scope_of
from services.gateway.authorizer.keyring import (
    Keyring,
    Limits,
    digest_of,
    new_key,
    outlived,
    read_keyring,
    revoked,
    write_keyring,
)
from services.gateway.authorizer.scopes import _TABLE, ALL, SCOPES, Scope, parse_scopes
from services.gateway.bootstrap import DESCRIPTORS
from services.gateway.contract import Contract
from services.gateway.key import main
from services.gateway.keys import KeysError

if TYPE_CHECKING:
    from pathlib import Path

CONTRACT = Contract.read(DESCRIPTORS)
NOW = datetime(2026, 11, 21, tzinfo=UTC)


def test_every_rpc_has_one_scope_and_no_scope_is_for_nothing() -> None:
    declared = {
        f"/{file.package}.{service.name}/{method.name}"
        for file in CONTRACT.files.values()
        if file.package.startswith("penstock.")
        for service in file.service
        for method in service.method
    }
    assert declared == SCOPES.keys()
    listed = [method for services in _TABLE.values() for names in services.values() for method in names.split()]
    assert len(listed) == len(SCOPES)
    assert set(SCOPES.values()) == set(Scope)


@pytest.mark.parametrize("rpc", CONTRACT.rpcs, ids=lambda rpc: rpc.name)
def test_every_path_is_taken_for_its_rpc(rpc: object) -> None:
    calls = Calls(CONTRACT.rpcs)
    method = f"/{rpc.service}/{rpc.name}"  # type: ignore[attr-defined] # pytest's parameters are untyped
    path = rpc.template.replace("{", "some-").replace("}", "")  # type: ignore[attr-defined]  # of the contract
    assert calls.method(rpc.verb, f"{path}?page_size=3") == method  # type: ignore[attr-defined]  # as above
    assert calls.method("POST", method) == method
    assert calls.method("TRACE", path) == ""


@pytest.mark.parametrize("path", ["/penstock.x.v1.Y/Z", "/v1", "/v1/models/../policy", "/", "/v1/experiments/a/b/c"])
def test_what_is_no_path_is_open_to_no_key(path: str) -> None:
    found = Calls(CONTRACT.rpcs).method("GET", path)
    with pytest.raises(KeyError):
        scope_of(found)


def test_reflection_asks_for_no_scope_and_flagd_for_one() -> None:
    calls = Calls(CONTRACT.rpcs)
    assert scope_of(calls.method("POST", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")) is None
    assert scope_of(calls.method("POST", "/flagd.evaluation.v1.Service/ResolveAll")) is Scope.EXPERIMENTS


def test_a_keyring_survives_its_file(tmp_path: Path) -> None:
    key, secret = new_key("ann", "acme", ALL, now=NOW, lifetime=timedelta(days=1), limits=Limits(60, 2))
    keyring = Keyring((key,), {"acme": Limits(600)})
    file = tmp_path / "keys.json"
    write_keyring(file, keyring)
    assert read_keyring(file) == keyring
    assert file.stat().st_mode & 0o777 == 0o600
    assert secret not in file.read_text()
    assert digest_of(secret) == key.digest
    assert secret.startswith(key.key)


def test_a_key_ends_by_time_rotation_and_revocation() -> None:
    key, _ = new_key("ann", "acme", ALL, now=NOW, lifetime=timedelta(days=1))
    assert key.is_valid(NOW)
    assert not key.is_valid(NOW + timedelta(days=1))
    keyring = Keyring((key,))
    assert not revoked(keyring, key.key, NOW).keys[0].is_valid(NOW)
    assert outlived(keyring, key.key, NOW + timedelta(hours=1)).keys[0].expires == NOW + timedelta(hours=1)
    assert outlived(keyring, key.key, NOW + timedelta(days=9)).keys[0].expires == NOW + timedelta(days=1)
    with pytest.raises(KeysError, match="no key"):
        revoked(keyring, "psk_nobody", NOW)


def test_keys_in_clear_are_good_for_everything(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("alice: key-of-alice\n")
    (key,) = read_keyring(file).keys
    assert (key.tenant, key.scopes, key.digest) == ("alice", ALL, digest_of("key-of-alice"))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"version": 2, "keys": []}',
        '{"version": 1}',
        '{"version": 1, "keys": [{"key": "a", "name": "a", "tenant": "a", "scopes": ["root"], "sha256": "00"}]}',
        '{"version": 1, "keys": [], "tenants": {"a": {"requests": 1}}}',
        '{"version": 1, "keys": [], "tenants": {"a b": {}}}',
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(KeysError, match="malformed"):
        read_keyring(file)


def test_scopes_by_name() -> None:
    assert parse_scopes("inference, retrieval:read") == {Scope.INFERENCE, Scope.RETRIEVAL_READ}
    assert parse_scopes("all") == ALL
    for wrong in ("", "root", "all inference"):
        with pytest.raises(ValueError, match="scope"):
            parse_scopes(wrong)


def test_the_command_makes_and_ends_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.json"
    at = ["--file", str(file)]
    assert main([*at, "create", "--name", "ann", "--scopes", "inference"]) == 0
    secret = capsys.readouterr().out.splitlines()[0]
    (key,) = read_keyring(file).keys
    assert key.digest == digest_of(secret)
    assert main([*at, "limit", "ann", "--requests-per-minute", "5"]) == 0
    assert read_keyring(file).tenants == {"ann": Limits(5)}
    assert main([*at, "revoke", key.key]) == 0
    assert main([*at, "rotate", key.key]) == 1
    assert main([*at, "revoke", "psk_nobody"]) == 1
    assert main([*at, "create", "--name", "bob", "--scopes", "root"]) == 1
    assert main([*at, "list"]) == 0
    assert "revoked" in capsys.readouterr().out
    assert len((tmp_path / "keys.json.audit").read_text().splitlines()) == 3
    assert secret not in (tmp_path / "keys.json.audit").read_text()


def test_a_seal_holds_for_what_it_was_made_of() -> None:
    seal, told = Seal("a secret of more than thirty-two letters"), {TENANT_HEADER: "acme"}
    signed = {**told, SEAL_HEADER: seal.sign(told)}
    assert seal.holds(signed)
    assert not seal.holds(told)
    assert not seal.holds({**signed, TENANT_HEADER: "other"})
    assert not seal.holds({**signed, "x-penstock-user": "root"})
    assert not seal.holds(signed, now=time.time() + 301)
    assert not seal.holds(signed, now=time.time() - 301)
    assert not Seal("another secret of more than thirty-two").holds(signed)
    for wrong in ("", ".", "1", "x.y", f"{'9' * 40}.0", signed[SEAL_HEADER] + "0"):
        assert not seal.holds({**told, SEAL_HEADER: wrong})
