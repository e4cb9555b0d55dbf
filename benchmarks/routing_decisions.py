"""What a decision costs a request: `python -m benchmarks.routing_decisions`. In one process, without a server."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING

from services.inference.auto.chooser import Candidate, Chooser
from services.inference.auto.decision import Why
from services.inference.auto.features import features_of
from services.inference.auto.learning import fit
from services.inference.auto.records import Ending, Outcome
from services.inference.engine import Capability, Generation, Message, Model, Role
from services.inference.policy import Routing, Strategy, WeightedModel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

QUESTIONS = {
    "short, English": "What is a penstock?",
    "steps, Russian": "Сначала объясни, почему водовод лопается, затем сравни клапаны пошагово. " * 3,
    "steps, Chinese": "首先解释压力管道为什么会破裂，然后比较阀门，分步说明。" * 3,
    "a page, English": "The penstock carries water down to the turbine, and bursts when a valve closes too fast. " * 30,
    "1 MB, Russian": "Вода течёт по водоводу вниз, к турбине. " * 13_000,
}
MODELS = [f"model-{number}" for number in range(4)]


def microseconds(work: Callable[[], object], times: int) -> tuple[float, float]:
    """Median and 99th percentile of one call."""
    taken = []
    for _ in range(times):
        began = time.perf_counter_ns()
        work()
        taken.append((time.perf_counter_ns() - began) / 1000)
    return statistics.median(taken), sorted(taken)[int(len(taken) * 0.99)]


def records(count: int) -> list[Outcome]:
    """Of requests that look like the questions above."""
    dice = random.Random(1)  # noqa: S311 - to be repeatable
    made = []
    for _ in range(count):
        question = dice.choice(list(QUESTIONS.values())[:4]) * dice.randint(1, 4)
        features = features_of(asked(question))
        reward = float(dice.randint(1, 10) <= len(question) % 10)
        made.append(Outcome(dice.choice(MODELS), Why.EXPLORED, 0.25, features.vector(), Ending.WELL, 100, reward))
    return made


def asked(text: str) -> Generation:
    """A request."""
    return Generation("auto", (Message(Role.SYSTEM, "Answer briefly."), Message(Role.USER, text)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and prints a table; with --json a line of JSON too."""
    parser = argparse.ArgumentParser(description="What a routing decision costs.")
    parser.add_argument("--times", type=int, default=5000, help="how often each is done")
    parser.add_argument("--records", type=int, default=20_000, help="how many records to fit to")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON too")
    given = parser.parse_args(arguments)
    candidates = [
        Candidate(WeightedModel(name, output_price=1.0 + place), Model(name, "openai", (Capability.GENERATION,)))
        for place, name in enumerate(MODELS)
    ]
    outcomes = records(given.records)
    began = time.perf_counter()
    fitted = fit(outcomes, Routing(Strategy.COMPLEXITY, target=0.8), 1)
    figures: dict[str, float] = {"fit_seconds": time.perf_counter() - began}
    print(
        f"a fit to {given.records} records of {len(MODELS)} models: {figures['fit_seconds']:.2f} s, off the way of requests\n"
    )
    print("| request | features p50 | complexity p50 | p99 | feedback p50 | p99 |\n|---|---|---|---|---|---|")
    chooser = Chooser(lambda _: fitted)
    for name, question in QUESTIONS.items():
        generation = asked(question)
        looking, _ = microseconds(partial(features_of, generation), given.times)
        row = [f"{looking:.0f} us"]
        for routing in (Routing(Strategy.COMPLEXITY, target=0.8), Routing(Strategy.FEEDBACK)):

            def decide(generation: Generation = generation, routing: Routing = routing) -> object:
                return chooser.choose("auto", routing, candidates, features_of(generation))

            median, high = microseconds(decide, given.times)
            row += [f"{median:.0f} us", f"{high:.0f} us"]
            figures[f"{name}, {routing.strategy}"] = median
        print(f"| {name} | {' | '.join(row)} |")
    if given.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
