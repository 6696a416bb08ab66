"""A run can be repeated: its seed decides everything that chance decides."""

from __future__ import annotations

from .schedule import KINDS, Plan


def test_a_seed_gives_the_same_schedule_again() -> None:
    assert Plan(7).orders() == Plan(7).orders()
    assert Plan(7).blows() == Plan(7).blows()


def test_another_seed_gives_another_schedule() -> None:
    assert Plan(7).orders() != Plan(8).orders()
    assert Plan(7).blows() != Plan(8).blows()


def test_the_whole_run_has_every_kind_of_task_and_of_death() -> None:
    """With any seed: 10,000 tasks, and each server is restarted once."""
    for seed in range(20):
        plan = Plan(seed)
        orders, targets = plan.orders(), [blow.target for blow in plan.blows()]

        assert {order.kind for order in orders} == KINDS.keys()
        assert plan.tasks <= sum(len(order.ids) for order in orders) < plan.tasks + 10
        assert set(targets) == {"worker", "main", "child", "capture", "broker", "database"}
        assert targets.count("broker") == targets.count("database") == 1
