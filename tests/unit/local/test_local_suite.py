"""The list of processes, as data."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from deploy.local.settings import SettingError, read_settings
from deploy.local.suite import STAGES, Suite, compose, port_names
from deploy.local.supervisor import stopping_order

GIVEN = {
    "DATABASE_URL": "postgresql://user:pw-of-postgres@db:5432/x",
    "REDIS_URL": "redis://:pw-of-redis@cache:6379/0",
    "QDRANT_URL": "http://vectors:6334",
}


def make(folder: Path, environment: Mapping[str, str] | None = None, until: str = STAGES[-1]) -> Suite:
    environment = {"DATA_DIR": str(folder), "PORT": "8081", **(environment or {})}
    settings = read_settings(environment)
    ports = {name: 20000 + number for number, name in enumerate(port_names(settings))}
    return compose(settings, "suite", ports, environment, until)


def test_it_is_stopped_from_the_outside_in(tmp_path: Path) -> None:
    order = [sorted(process.name for process in group) for group in stopping_order(make(tmp_path).processes)]
    assert order == [
        ["sample"],
        ["gateway"],
        ["experiments", "inference", "retrieval"],
        ["migrations", "qdrant", "valkey"],
        ["postgres"],
        ["initdb"],
    ]


def test_every_need_is_met_by_a_process_of_the_suite(tmp_path: Path) -> None:
    processes = make(tmp_path).processes
    names = {process.name for process in processes}
    assert all(names.issuperset(process.after) for process in processes)


def test_each_worker_has_a_port_of_its_own_and_all_borrow_from_one(tmp_path: Path) -> None:
    processes = {process.name: process for process in make(tmp_path, {"INFERENCE_WORKERS": "3"}).processes}
    names = ["inference", "inference-2", "inference-3"]
    lender, workers = processes["inference-engines"], [processes[name] for name in names]
    addresses = [worker.environment["GRPC_ADDRESS"] for worker in workers]
    assert lender.environment["WORKER"] == "0"
    assert [worker.environment["WORKER"] for worker in workers] == ["1", "2", "3"]
    assert {worker.environment["WORKERS"] for worker in (lender, *workers)} == {"3"}
    assert {worker.environment["ENGINES_ADDRESS"] for worker in workers} == {lender.environment["GRPC_ADDRESS"]}
    assert processes["gateway"].environment["INFERENCE_ADDRESS"].split(",") == addresses
    assert set(names) < set(processes["gateway"].after)
    ports = [lender.environment["GRPC_ADDRESS"], *addresses]
    ports += [process.environment["METRICS_ADDRESS"] for process in (lender, *workers)]
    assert len(set(ports)) == 8


@pytest.mark.parametrize("number", ["0", "65", "two"])
def test_a_number_of_workers_that_makes_no_sense_is_refused(number: str) -> None:
    with pytest.raises(SettingError, match="INFERENCE_WORKERS"):
        read_settings({"INFERENCE_WORKERS": number})


@pytest.mark.parametrize("until", STAGES)
def test_a_stage_brings_those_before_it_and_none_after(tmp_path: Path, until: str) -> None:
    assert {process.stage for process in make(tmp_path, until=until).processes} == set(STAGES[: STAGES.index(until) + 1])


def test_services_get_every_address_and_servers_no_secret_of_theirs(tmp_path: Path) -> None:
    foreign = {"OPENAI_API_KEY": "sk-secret", "ANTHROPIC_API_KEY": "sk-ant", "PGPORT": "1", "LANG": "C.UTF-8"}
    for process in make(tmp_path, foreign).processes:
        assert process.environment["LANG"] == "C.UTF-8"
        assert process.environment["DATA_DIR"].startswith(str(tmp_path))
        if process.stage == "servers":
            assert not {"OPENAI_API_KEY", "ANTHROPIC_API_KEY", "PGPORT", "DATABASE_URL"} & process.environment.keys()
        else:
            expected = {
                "DATABASE_URL",
                "REDIS_URL",
                "QDRANT_URL",
                "INFERENCE_ADDRESS",
                "RETRIEVAL_ADDRESS",
                "EXPERIMENTS_ADDRESS",
            }
            assert expected <= process.environment.keys()
            assert process.environment["OPENAI_API_KEY"] == "sk-secret"


def test_no_two_processes_listen_on_the_same_address(tmp_path: Path) -> None:
    listening = ("GRPC_ADDRESS", "METRICS_ADDRESS", "ADMIN_ADDRESS")
    addresses = [
        process.environment[name] for process in make(tmp_path).processes for name in listening if name in process.environment
    ]
    assert len(addresses) == len(set(addresses)) == 9


def test_given_servers_replace_ours(tmp_path: Path) -> None:
    suite = make(tmp_path, GIVEN)
    assert not [process.name for process in suite.processes if process.stage == "servers"]
    assert [external.place for external in suite.externals] == [
        "db:5432 (DATABASE_URL)",
        "cache:6379 (REDIS_URL)",
        "vectors:6334 (QDRANT_URL)",
    ]
    migrations = next(process for process in suite.processes if process.name == "migrations")
    assert migrations.environment.items() >= GIVEN.items()
    assert list(tmp_path.iterdir()) == []


def test_engines_may_come_later_and_stores_may_not(tmp_path: Path) -> None:
    suite = make(tmp_path, {**GIVEN, "OLLAMA_BASE_URL": "http://gpu:11434", "VLLM_BASE_URL": "https://gpu/v1"})
    assert {external.variable: external.needed for external in suite.externals} == {
        **dict.fromkeys(GIVEN, True),
        "OLLAMA_BASE_URL": False,
        "VLLM_BASE_URL": False,
    }
    assert suite.externals[-1].place == "gpu:443 (VLLM_BASE_URL)"


def test_a_printed_suite_holds_no_password(tmp_path: Path) -> None:
    assert "pw-of" not in repr(make(tmp_path, GIVEN))
    ours = make(tmp_path)
    assert ours.shared["DATABASE_URL"].split(":")[2].split("@")[0] not in repr(ours)


def test_the_database_password_stays_and_the_cache_password_does_not(tmp_path: Path) -> None:
    first, second = make(tmp_path).shared, make(tmp_path).shared
    assert first["DATABASE_URL"] == second["DATABASE_URL"]
    assert first["REDIS_URL"] != second["REDIS_URL"]


def test_a_path_to_envoy_makes_its_package_needless(tmp_path: Path) -> None:
    assert make(tmp_path, {"ENVOY_PATH": "/opt/envoy"}).missing == ()
