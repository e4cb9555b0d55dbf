from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import Failure, Reason
from services.inference.resilience import (
    Breaker,
    BreakerLimits,
    BreakerState,
    Patience,
    Verdict,
    shows_illness,
    verdict_on,
)

LIMITS = BreakerLimits(in_a_row=3, window=6, pause=2.0, longest_pause=8.0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(LIMITS, clock)


def state_of(breaker: Breaker) -> BreakerState:
    """Read anew each time: mypy takes a property for a fact that stays."""
    return breaker.state


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.failed(breaker.enter())


@pytest.mark.parametrize(
    ("reason", "verdict", "is_illness"),
    [
        (Reason.ENGINE_UNAVAILABLE, Verdict.AGAIN, True),
        (Reason.GENERATION_FAILED, Verdict.AGAIN, True),
        (Reason.ENGINE_OVERLOADED, Verdict.AGAIN, False),
        (Reason.CONTEXT_TOO_LONG, Verdict.ELSEWHERE, False),
        (Reason.CONTENT_POLICY, Verdict.ELSEWHERE, False),
        (Reason.MODEL_NOT_FOUND, Verdict.ELSEWHERE, False),
        (Reason.ENGINE_REFUSED_CREDENTIALS, Verdict.ELSEWHERE, True),
        (Reason.OVERLOADED, Verdict.ELSEWHERE, False),
        (Reason.INVALID_FIELD, Verdict.NOWHERE, False),
        (Reason.DEADLINE_EXCEEDED, Verdict.NOWHERE, False),
    ],
)
def test_where_a_failed_request_may_go(reason: Reason, verdict: Verdict, is_illness: bool) -> None:
    failure = Failure(reason, "x")
    assert verdict_on(failure) is verdict
    assert shows_illness(failure) is is_illness


@given(st.integers(1, 10_000), st.floats(0, 1), st.none() | st.floats(0, 100))
def test_pauses_are_bounded_and_never_shorter_than_the_engine_asks(failed: int, drawn: float, asked: float | None) -> None:
    patience = Patience(longest_pause=2.0)
    pause = patience.pause(failed, asked, lambda: drawn)
    if asked is not None and asked > 2.0:
        assert pause is None
        return
    assert pause is not None
    assert (asked or 0) <= pause <= (asked or 0) + 2.0


def test_pauses_double_and_are_spread() -> None:
    patience = Patience(first_pause=0.1)
    assert [patience.pause(number, None, lambda: 1.0) for number in (1, 2, 3)] == [0.1, 0.2, 0.4]
    assert patience.pause(3, None, lambda: 0.0) == 0


def test_failures_in_a_row_open_and_a_success_between_does_not(breaker: Breaker) -> None:
    fail(breaker, 2)
    breaker.succeeded(breaker.enter())
    fail(breaker, 2)
    assert state_of(breaker) is BreakerState.CLOSED
    fail(breaker)
    assert state_of(breaker) is BreakerState.OPEN
    assert not breaker.lets_through()


def test_half_of_the_window_opens(breaker: Breaker) -> None:
    for _ in range(3):
        breaker.succeeded(breaker.enter())
        fail(breaker)
    assert state_of(breaker) is BreakerState.OPEN


def test_one_probe_at_a_time_and_its_success_closes(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 2
    assert state_of(breaker) is BreakerState.HALF_OPEN
    assert breaker.lets_through()
    probe = breaker.enter()
    assert not breaker.lets_through()
    breaker.succeeded(probe)
    assert state_of(breaker) is BreakerState.CLOSED
    assert breaker.lets_through()


def test_a_probe_that_is_left_makes_way_for_another(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 2
    breaker.left(breaker.enter())
    assert breaker.lets_through()


def test_failed_probes_lengthen_the_pause_up_to_its_limit(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    pauses = []
    for _ in range(4):
        pauses.append(breaker.opens_in())
        clock.now += breaker.opens_in()
        fail(breaker)
    assert pauses == [2, 4, 8, 8]


def test_requests_from_before_the_change_tell_nothing(breaker: Breaker, clock: Clock) -> None:
    old = [breaker.enter() for _ in range(2)]
    fail(breaker, 3)
    breaker.succeeded(old[0])
    assert state_of(breaker) is BreakerState.OPEN
    clock.now += 2
    probe = breaker.enter()
    breaker.failed(old[1])
    assert state_of(breaker) is BreakerState.HALF_OPEN
    breaker.succeeded(probe)
    assert state_of(breaker) is BreakerState.CLOSED


@given(st.lists(st.tuples(st.sampled_from(["send", "succeed", "fail", "leave", "pass"]), st.integers(0, 9)), max_size=80))
def test_whatever_happens_it_can_always_close_again(steps: list[tuple[str, int]]) -> None:
    clock = Clock()
    breaker = Breaker(LIMITS, clock)
    out: list[int] = []
    for what, number in steps:
        if what == "pass":
            clock.now += number
        elif what == "send":
            if breaker.lets_through():
                was_open = state_of(breaker) is not BreakerState.CLOSED
                out.append(breaker.enter())
                assert not was_open or not breaker.lets_through(), "two probes at once"
        elif out:
            ticket = out.pop(number % len(out))
            {"succeed": breaker.succeeded, "fail": breaker.failed, "leave": breaker.left}[what](ticket)
        assert 0 <= breaker.opens_in() <= LIMITS.longest_pause
        assert state_of(breaker) is not BreakerState.OPEN or not breaker.lets_through()
    for ticket in out:
        breaker.left(ticket)
    clock.now += LIMITS.longest_pause
    assert breaker.lets_through()
    breaker.succeeded(breaker.enter())
    assert state_of(breaker) is BreakerState.CLOSED
