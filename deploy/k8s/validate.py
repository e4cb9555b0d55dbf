"""Validates the manifests offline: against Kubernetes' own schema, and against what we promise of every workload.

`make manifests` runs it. It reads each kustomization's resources itself, so that it needs no cluster and no kubectl.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from kubernetes_validate import utils as kubernetes

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parents[2]
BASE: Final = Path(__file__).resolve().parent / "base"
VERSION: Final = "1.33"


def documents(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every document that the kustomization names, with the file it stands in."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    for resource in kustomization["resources"]:
        for document in yaml.safe_load_all((folder / resource).read_text()):
            document["metadata"].setdefault("namespace", kustomization["namespace"])
            yield resource, document


def faults(document: dict[str, Any]) -> Iterator[str]:
    """What is wrong with one document."""
    try:
        kubernetes.validate(document, VERSION, strict=True)
    except kubernetes.ValidationError as error:
        yield f"{'.'.join(str(part) for part in error.path)}: {error.message}"
    if document["kind"] == "Deployment":
        yield from workload_faults(document)


def workload_faults(deployment: dict[str, Any]) -> Iterator[str]:
    """Where a workload breaks our promises: non-root, read-only, bounded, probed, and built from an image we make."""
    name = deployment["metadata"]["name"]
    pod = deployment["spec"]["template"]["spec"]
    if not pod["securityContext"].get("runAsNonRoot"):
        yield "runs as root"
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        locked = container.get("securityContext", {})
        if not locked.get("readOnlyRootFilesystem") or locked.get("allowPrivilegeEscalation", True):
            yield f"{container['name']}: the root file system or privileges are not locked"
        if not container["resources"].get("requests") or "memory" not in container["resources"].get("limits", {}):
            yield f"{container['name']}: no requests, or no limit of memory"
        image = container["image"].removeprefix("penstock/")
        if not (ROOT / "deploy" / "images" / f"{image}.Dockerfile").is_file():
            yield f"{container['name']}: no Dockerfile for {container['image']}"
    for container in pod["containers"]:
        probes = [container.get(probe) for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
        if not all(probes):
            yield f"{container['name']}: a probe is missing"
        if name != "gateway" and not all("grpc" in probe for probe in probes if probe):
            yield f"{container['name']}: a probe is not a gRPC probe"


def main() -> None:
    """Prints each fault with its file, and exits with 1 if there is any."""
    count = failed = 0
    for resource, document in documents(BASE):
        count += 1
        for fault in faults(document):
            failed += 1
            print(f"{resource}: {document['kind']} {document['metadata']['name']}: {fault}")
    if not count or failed:
        sys.exit(1)
    print(f"{count} manifests are valid for Kubernetes {VERSION}")


if __name__ == "__main__":
    main()
