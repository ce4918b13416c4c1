"""Five hundred days of bad luck: no invariant breaks (security invariants 1 to 11)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from tools.simulate.many import live_all

from leasehold.testing.simulation.day import Report, live, plan, run
from leasehold.testing.simulation.trouble import REPLICA_TROUBLES, TROUBLES
from leasehold.testing.time import run_simulated

DAYS = range(1, 501)


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    """Lived on all cores."""
    return sorted(live_all(DAYS), key=lambda report: report.seed)


def test_no_invariant_breaks(reports: list[Report]) -> None:
    assert [report.seed for report in reports] == list(DAYS)
    assert [(report.seed, str(report.violation)) for report in reports if report.violation] == []


def test_the_days_were_bad_and_people_were_served_nevertheless(reports: list[Report]) -> None:
    events = sum((report.events for report in reports), Counter[str]())
    for name in (*TROUBLES, *REPLICA_TROUBLES):
        assert events[name] >= 20, name
    for name in ("announced", "stop came to drain", "stop came to full"):
        assert events[name] >= 20, name
    assert events["answer 200"] > 5_000
    assert sum(report.served for report in reports) > 100_000
    for code in ("loan_stopped", "insufficient_quota", "lease_lapsed", "invalid_api_key"):
        assert sum(count for name, count in events.items() if name.endswith(code)) > 50, code


def test_a_third_of_the_days_has_several_replicas() -> None:
    counts = Counter(plan(seed).replicas for seed in DAYS)
    assert counts.keys() == {1, 2, 3}
    assert counts[2] + counts[3] > len(DAYS) // 4


def test_a_seed_is_one_day_in_any_process(reports: list[Report]) -> None:
    replicated = next(seed for seed in DAYS if plan(seed).replicas > 1)
    for seed in (3, 4, 5, replicated):
        assert run(seed).digest == reports[seed - 1].digest
    assert len({report.digest for report in reports}) == len(reports)


def test_fifty_consumers_at_eight_enclaves() -> None:
    crowded = replace(plan(7), people=50, enclaves=8, minutes=0.3, cap=100_000)
    report = run_simulated(lambda: live(crowded))
    assert report.violation is None
    assert report.served > 1_000
