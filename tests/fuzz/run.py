"""`make fuzz`: sends what the OpenAPI description allows, and what it does not, to every REST path, then random messages to
every RPC. No answer may be a 5xx, UNKNOWN or INTERNAL.

It deletes, stops and unloads what it meets: name no suite by PENSTOCK_URL whose data you need. Options after
`python -m tests.fuzz.run` go to schemathesis, such as `--seed 1` or `--include-path /v1/search`.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import penstock

from tests.fuzz import messages
from tests.fuzz.names import NAME
from tests.support.suite import Suite, running_suite

SECONDS = int(os.environ.get("FUZZ_SECONDS", "180"))
# It ends only when the client goes away.
ENDLESS = "/v1/configuration:watch"


def main() -> int:
    """The exit status: 0 where nothing was found."""
    running = os.environ.get("PENSTOCK_URL")
    if running:
        return fuzz(Suite.at(running))
    with tempfile.TemporaryDirectory(prefix="penstock-fuzz-") as folder, running_suite(Path(folder)) as suite:
        return fuzz(suite)


def fuzz(suite: Suite) -> int:
    """Fuzzes one suite, after putting something into it that can be met."""
    with penstock.Client(suite.url) as client:
        with suppress(penstock.AlreadyExistsError):
            client.create_collection(NAME)
        client.add_documents(NAME, [{"document": NAME, "text": "A penstock brings water to a turbine."}])
        client.answer("What is a penstock?", NAME, conversation=NAME)
        with suppress(penstock.AlreadyExistsError):
            variants = [{"variant": name, "weight": 1} for name in ("a", "b")]
            client.create_experiment(NAME, variants=variants, metrics=["helpful"])
        with suppress(penstock.FailedPreconditionError):
            client.start_experiment(NAME)
    schemathesis = Path(sys.executable).with_name("schemathesis")
    command = [str(schemathesis), "run", f"{suite.url}/openapi.json", "--exclude-path", ENDLESS]
    command += ["--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing", "--continue-on-failure"]
    command += ["--max-time", str(SECONDS), "--max-examples", "200", "--request-timeout", "30"]
    command += ["--suppress-health-check", "all", "--warnings", "off", "--generation-database", "none"]
    command += sys.argv[1:]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks", "PYTHONPATH": "."}
    status = subprocess.run(command, env=environment, check=False).returncode
    defects = messages.fuzz(suite.grpc, SECONDS / 3, random.randrange(1 << 32))  # noqa: S311 - a seed, no secret
    sys.stdout.writelines(f"DEFECT {defect}\n" for defect in defects)
    return status or bool(defects)


if __name__ == "__main__":
    sys.exit(main())
