"""Who may import whom, by the import statements themselves: those for the type checker and those inside functions count too."""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = sorted(path.parent.name for path in (ROOT / "services").glob("*/__main__.py"))

# What only the edge of a service may know. The stubs count as protobuf.
EDGE = ("grpc", "protobuf", "envoy", "asyncpg", "redis", "valkey", "qdrant_client", "aiohttp", "httptools")

# Modules that are an edge, what they may import of the above, and why.
ALLOWED: dict[str, tuple[set[str], str]] = {
    "services/chassis/channels.py": ({"grpc"}, "opens channels"),
    "services/chassis/interceptors.py": ({"grpc"}, "stands around every call"),
    "services/chassis/sealed.py": ({"grpc"}, "stands around calls, those that come in and those that go out"),
    "services/chassis/server.py": ({"grpc", "protobuf"}, "is the gRPC server, and serves grpc.health.v1"),
    "services/chassis/status.py": ({"grpc", "protobuf"}, "turns failures into statuses"),
    "services/chassis/validation.py": ({"protobuf"}, "checks requests by the rules in the protos"),
    "services/chassis/postgres.py": ({"asyncpg"}, "opens the pool"),
    "services/*/__main__.py": ({"protobuf"}, "wires the handlers to the generated services"),
    "services/*/*handlers.py": ({"protobuf", "grpc"}, "takes and gives messages; the type of a call's context"),
    "services/*/*convert*.py": ({"protobuf"}, "turns messages into the domain's values and back"),
    "services/*/stores/postgres*.py": ({"asyncpg"}, "the adapter of Postgres"),
    "services/retrieval/stores/qdrant.py": ({"qdrant_client", "grpc"}, "the adapter of Qdrant"),
    "services/retrieval/inference*.py": ({"grpc", "protobuf"}, "the adapter of the inference service"),
    "services/experiments/quality/inference_embedder.py": ({"grpc", "protobuf"}, "the adapter of the inference service"),
    "services/chassis/remote.py": ({"grpc", "protobuf"}, "what a failed call to another service means"),
    "services/inference/engines/httptools_connection.py": ({"httptools"}, "the HTTP client of engines that are servers"),
    "services/inference/openai/retrieval.py": ({"grpc", "protobuf"}, "the adapter of the retrieval service"),
    "services/inference/workers/borrowed.py": ({"grpc"}, "the adapter of an engine that runs in another process"),
    "services/inference/workers/house.py": ({"grpc"}, "the type of the channel to that process"),
    "services/chassis/cache/redis_cache.py": ({"valkey"}, "the adapter of Redis"),
    "services/gateway/authorizer/redis_counters.py": ({"valkey"}, "the adapter of Redis"),
    "services/experiments/optimization/suite_target.py": ({"grpc", "protobuf"}, "the adapter of retrieval and inference"),
    "services/gateway/*.py": ({"protobuf", "envoy"}, "the gateway's domain is the contract and Envoy's configuration"),
}


def sources(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.py")) if "_pb2" not in path.name]


def imported(path: Path) -> Iterator[str]:
    """The full dotted names that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def edge_of(name: str) -> str | None:
    if "_pb2" in name or name.startswith(("google.", "protovalidate")):
        return "protobuf"
    top = name.partition(".")[0]
    top = "grpc" if top.startswith("grpc_") else top
    return top if top in EDGE else None


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_knows_the_chassis_and_itself(service: str) -> None:
    strangers = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(ROOT / "services" / service)
        for name in imported(path)
        if name.partition(".")[0] in {"services", "deploy", "tests"}
        and not is_in(name, f"services.{service}")
        and not is_in(name, "services.chassis")
    ]
    assert not strangers


def test_the_chassis_knows_no_service_and_no_domain() -> None:
    strangers = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(ROOT / "services/chassis")
        for name in imported(path)
        if name.partition(".")[0] in {"services", "deploy", "tests", "penstock"}
        and not is_in(name, "services.chassis")
        and name != "penstock"  # whose packages reflection walks
    ]
    assert not strangers


def test_the_wheel_knows_nothing_of_the_repository() -> None:
    strangers = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(ROOT / "protos/python")
        for name in imported(path)
        if name.partition(".")[0] in {"services", "deploy", "tests", "benchmarks"}
    ]
    assert not strangers


def test_the_launcher_starts_services_and_imports_none() -> None:
    strangers = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(ROOT / "deploy")
        for name in imported(path)
        if name.partition(".")[0] in {"services", "tests", "benchmarks"}
        and not is_in(name, "services.gateway.keys")  # it calls the gateway with a key out of the same file
    ]
    assert not strangers


def test_only_the_edge_knows_transports_and_drivers() -> None:
    used: dict[str, set[str]] = {pattern: set() for pattern in ALLOWED}
    strangers = []
    for path in sources(ROOT / "services"):
        module = path.relative_to(ROOT).as_posix()
        rules = [pattern for pattern in ALLOWED if fnmatch(module, pattern)]
        for name in imported(path):
            edge = edge_of(name)
            if edge is None:
                continue
            allowing = [pattern for pattern in rules if edge in ALLOWED[pattern][0]]
            if not allowing:
                strangers.append(f"{module} imports {name}")
            for pattern in allowing:
                used[pattern].add(edge)
    assert not strangers
    assert used == {pattern: packages for pattern, (packages, _) in ALLOWED.items()}, "an allowance that nothing needs"
