"""How a service says what is wrong with its settings."""

from __future__ import annotations

import pytest

from services.chassis.settings import ServerSettings, read


def test_wrong_settings_end_the_process_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRPC_ADDRESS", raising=False)
    monkeypatch.setenv("LOG_LEVEL", "loud")
    monkeypatch.setenv("DRAIN_SECONDS", "-1")
    with pytest.raises(SystemExit) as caught:
        read(ServerSettings, "inference")
    assert caught.value.code == (
        "inference: GRPC_ADDRESS: Field required; LOG_LEVEL is 'loud'; it must be DEBUG, INFO, WARNING or ERROR; "
        "DRAIN_SECONDS: Input should be greater than or equal to 0"
    )


def test_right_settings_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_ADDRESS", "127.0.0.1:0")
    assert read(ServerSettings, "inference").grpc_address == "127.0.0.1:0"
