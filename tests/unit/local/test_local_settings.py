from pathlib import Path

import pytest

from deploy.local.settings import ROOT, SettingError, read_settings


def test_nothing_set_gives_the_defaults() -> None:
    settings = read_settings({})
    assert (settings.port, settings.listen_host, settings.data_dir) == (8080, "127.0.0.1", ROOT / ".penstock")
    assert settings.base_url == "http://127.0.0.1:8080"


def test_an_empty_variable_counts_as_unset() -> None:
    assert read_settings({"PORT": " ", "DATABASE_URL": ""}) == read_settings({})


def test_the_data_folder_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_settings({"DATA_DIR": "here"}).data_dir == tmp_path / "here"


@pytest.mark.parametrize("port", ["0", "65536", "-1", "eighty", "8080.0", "²"])
def test_an_impossible_port_is_named(port: str) -> None:
    with pytest.raises(SettingError, match="PORT is"):
        read_settings({"PORT": port})


def test_a_gateway_on_all_addresses_is_reached_on_the_loopback_one() -> None:
    everywhere = "0.0.0.0"  # noqa: S104  (nothing is bound)
    assert read_settings({"LISTEN_HOST": everywhere, "PORT": "9000"}).base_url == "http://127.0.0.1:9000"


def test_a_database_that_is_no_postgres_is_refused_without_repeating_its_password() -> None:
    with pytest.raises(SettingError, match="DATABASE_URL") as caught:
        read_settings({"DATABASE_URL": "mysql://me:hidden@host/db"})
    assert "hidden" not in str(caught.value)


def test_an_unknown_log_level_is_refused_before_anything_starts() -> None:
    with pytest.raises(SettingError, match="LOG_LEVEL is 'loud': it must be DEBUG, INFO, WARNING or ERROR"):
        read_settings({"LOG_LEVEL": "loud"})
    read_settings({"LOG_LEVEL": "warning"})
