"""A variant may name a version of a prompt, and it stays so on its way through the contract, the store and the assignment."""

from __future__ import annotations

import json

from penstock.assigner import settings_of
from penstock.assignment import Arm, PromptVersion
from penstock.experiments.v1 import experiment_pb2

from services.experiments.convert import design_from_proto, variant_to_proto
from services.experiments.stores.postgres_rows import arm_of, arm_to_json

VARIANT = experiment_pb2.Variant(
    variant="b", weight=0.5, prompt_version=experiment_pb2.PromptVersionOverride(name="support", version=2)
)


def test_a_prompt_version_comes_through() -> None:
    message = experiment_pb2.Experiment(experiment="e", unit=experiment_pb2.UNIT_USER, variants=[VARIANT])
    (arm,) = design_from_proto(message).variants
    assert arm == Arm(variant="b", weight=0.5, prompt_version=PromptVersion("support", 2))
    assert variant_to_proto(arm) == VARIANT
    assert arm_of(json.loads(json.dumps(arm_to_json(arm)))) == arm
    assert settings_of(VARIANT) == arm.changes()
    assert arm.changes() == {"prompt_version": PromptVersion("support", 2)}
