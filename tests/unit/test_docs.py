"""What the documentation lists is what there is."""

import re
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from docs.generate import PAGE, page

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_of_settings_is_what_the_settings_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_the_resource_model_marks_what_is_served_and_nothing_else() -> None:
    contract = FileDescriptorSet.FromString((ROOT / "services/gateway/api.binpb").read_bytes())
    files = [file for file in contract.file if file.package.startswith("penstock.")]
    served = {method.name for file in files for service in file.service for method in service.method}
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    model = text[text.index("## Resource model") : text.index("### Errors")]
    marked = [name for names in re.findall(r"(?<!\*)\*([^*|\n]+)\*(?!\*)", model) for name in names.split(", ")]
    assert sorted(marked) == sorted(served)


def test_every_link_of_the_documentation_leads_somewhere() -> None:
    pages = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "deploy").rglob("*.md"),
        *(ROOT / "protos").rglob("*.md"),
    ]
    links = [(file, link) for file in pages for link in re.findall(r"\]\(([^)]+)\)", file.read_text(encoding="utf-8"))]
    local = [(file, link.partition("#")[0]) for file, link in links if "://" not in link and not link.startswith("#")]
    assert local
    assert not [f"{file.relative_to(ROOT)}: {link}" for file, link in local if not (file.parent / link).exists()]


def test_the_manifests_set_no_variable_that_nothing_reads() -> None:
    manifests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "deploy/k8s").rglob("*.yaml"))
    given = set(re.findall(r"name: ([A-Z][A-Z_]+)\b|^  ([A-Z][A-Z_]+):", manifests, re.MULTILINE))
    names = {one or other for one, other in given}
    assert {"DATABASE_URL", "OLLAMA_BASE_URL"} <= names
    assert names <= set(re.findall(r"^\| `([A-Z_]+)`", page(), re.MULTILINE))
