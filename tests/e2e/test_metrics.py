"""What the dashboard and the rules ask for is what the services of a running suite really tell."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml
from penstock.inference.v1 import embedding_service_pb2, generation_pb2, generation_service_pb2
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.faces import Grpc, Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.suite import Suite

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/rules.yml"
DASHBOARD = ROOT / "deploy/grafana/penstock.json"
# Of Prometheus' own making.
OWN = {"up"}
WORDS = {"sum", "max", "min", "avg", "count", "by", "without", "and", "or", "unless", "on", "ignoring", "le", "bool"}


def names(expression: str) -> set[str]:
    """The metrics that an expression asks for."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"|\b(by|without|on|ignoring)\s*\([^)]*\)", " ", expression)
    found = re.findall(r"(?<![\w:.$])([a-zA-Z_:][\w:]*)(?!\w*\s*\()", bare)
    return {name for name in found if name not in WORDS}


def recorded() -> set[str]:
    return {
        rule["record"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"] if "record" in rule
    }


def expressions() -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def test_names_are_read_out_of_expressions() -> None:
    ratio = 'sum by (a) (rate(x_total{b=~"y|z"}[5m])) / on (a) histogram_quantile(0.95, sum by (le) (rate(w_bucket[1m]))) > 5'
    assert names(ratio) == {"x_total", "w_bucket"}
    assert names("penstock:error_ratio:rate5m > 0.05") == {"penstock:error_ratio:rate5m"}


@pytest.fixture
def addresses(suite: Suite) -> dict[str, str]:
    if suite.data_dir is None:
        pytest.skip("a suite that runs already does not tell where its metrics are")
    run: dict[str, Any] = json.loads((suite.data_dir / "run.json").read_text())
    return dict(run["metrics"])


def read(address: str) -> dict[str, Any]:
    text = httpx.get(f"http://{address}/metrics", timeout=10).text
    return {family.name: family for family in text_string_to_metric_families(text)}


def samples_of(families: dict[str, Any]) -> set[str]:
    """The names that Prometheus knows a service's metrics by, those too that have no series yet."""
    known = set()
    for family in families.values():
        known |= {sample.name for sample in family.samples}
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        known |= {f"{family.name}{suffix}" for suffix in suffixes}
    return known


def test_every_expression_asks_for_metrics_that_exist(addresses: dict[str, str]) -> None:
    assert set(addresses) == {"inference", "retrieval", "experiments", "gateway"}
    told = OWN | recorded()
    for name in ("inference", "retrieval", "experiments"):
        told |= samples_of(read(addresses[name]))
    asked = list(expressions())
    assert len(asked) > 20
    missing = {(title, name) for title, expression in asked for name in names(expression) if name not in told}
    assert not missing


def test_a_request_shows_in_the_metrics_of_its_service(suite: Suite, addresses: dict[str, str]) -> None:
    def value(name: str, **labels: str) -> float:
        samples = [sample for family in read(addresses["inference"]).values() for sample in family.samples]
        return float(sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items()))

    face = Grpc(suite.grpc)
    of_extractive = {"gen_ai_response_model": "extractive", "gen_ai_provider_name": "extractive"}
    before = [
        value("penstock_inference_requests_total", **of_extractive, finish_reason="stop"),
        value("penstock_inference_errors_total", reason="MODEL_NOT_FOUND", gen_ai_response_model="unknown"),
        value("gen_ai_server_request_duration_seconds_count", gen_ai_operation_name="embeddings"),
        value("penstock_inference_cache_lookups_total", cache="responses", outcome="memory"),
    ]
    request = generation_service_pb2.GenerateRequest(
        model="extractive", prompt="How long is it?", passages=[generation_pb2.Passage(text="The pipe is 7 metres long.")]
    )
    for _ in range(2):
        face.call("Generate", request)
    with pytest.raises(Refused):
        face.call("Generate", generation_service_pb2.GenerateRequest(model="made-up", prompt="x"))
    face.call("Embed", embedding_service_pb2.EmbedRequest(inputs=["x"]))
    face.close()
    after = [
        value("penstock_inference_requests_total", **of_extractive, finish_reason="stop"),
        value("penstock_inference_errors_total", reason="MODEL_NOT_FOUND", gen_ai_response_model="unknown"),
        value("gen_ai_server_request_duration_seconds_count", gen_ai_operation_name="embeddings"),
        value("penstock_inference_cache_lookups_total", cache="responses", outcome="memory"),
    ]
    assert [now - then for now, then in zip(after, before, strict=True)] == [2, 1, 1, 1]
    assert value("gen_ai_server_time_to_first_token_seconds_count", **of_extractive) >= 1
    assert value("penstock_inference_cache_bytes", cache="responses") > 0


def test_prometheus_takes_the_rules_and_the_configuration() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool, of Debian's package prometheus, is not here; the expressions are checked by name all the same")
    subprocess.run([promtool, "check", "rules", str(RULES)], check=True)
    subprocess.run([promtool, "check", "config", str(RULES.with_name("prometheus.yml"))], check=True)
