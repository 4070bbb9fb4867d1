"""Exact order, a bound on admission, and no job lost or taken twice, whatever is cancelled."""

from __future__ import annotations

import random

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from trio.testing import MockClock, wait_all_tasks_blocked

from qbm_trio.core.errors import QueueFull
from qbm_trio.core.model import Job, JobId
from qbm_trio.tasks.queue import JobQueue


def a_job(seq: int, *, priority: int = 0, head: bool = False) -> Job:
    return Job(
        id=JobId(f"j{seq}"),
        seq=seq,
        hash=f"{seq:040x}",
        priority=priority,
        head=head,
        accepted_at=float(seq * 7 % 5),  # a wall clock may be set back; two may come at once
    )


def in_order(jobs: list[Job]) -> list[JobId]:
    """The order of the specification, in words: interrupted, higher priority, older."""
    return [
        j.id
        for head in (True, False)
        for priority in sorted({j.priority for j in jobs}, reverse=True)
        for j in sorted(jobs, key=lambda j: j.seq)
        if j.head is head and j.priority == priority
    ]


class QueueAgainstModel(RuleBasedStateMachine):
    """A dictionary and the sentence above, against the queue, step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.capacity = 3
        self.queue = JobQueue(self.capacity)
        self.model: dict[JobId, Job] = {}
        self.reserved = 0
        self.seq = 0

    @rule(priority=st.integers(-2, 2), head=st.booleans())
    def put(self, priority: int, head: bool) -> None:
        self.seq += 1
        job = a_job(self.seq, priority=priority, head=head)
        self.queue.put(job)  # never refused, also beyond the bound
        self.model[job.id] = job

    @precondition(lambda self: self.model)
    @rule(data=st.data(), priority=st.integers(-2, 2))
    def put_again(self, data: st.DataObject, priority: int) -> None:
        old = data.draw(st.sampled_from(list(self.model.values())))
        job = a_job(old.seq, priority=priority, head=old.head)
        self.queue.put(job)
        self.model[job.id] = job

    @rule(seq=st.integers(1, 20))
    def discard(self, seq: int) -> None:
        was_there = self.model.pop(JobId(f"j{seq}"), None) is not None
        assert self.queue.discard(JobId(f"j{seq}")) is was_there

    @rule()
    def reserve(self) -> None:
        if len(self.model) + self.reserved >= self.capacity:
            with pytest.raises(QueueFull, match="QUEUE_CAPACITY"):
                self.queue.reserve()
        else:
            self.queue.reserve()
            self.reserved += 1

    @precondition(lambda self: self.reserved)
    @rule()
    def release(self) -> None:
        self.queue.release()
        self.reserved -= 1

    @rule(patient=st.booleans())
    def take(self, patient: bool) -> None:
        async def attempt() -> JobId | None:
            with trio.move_on_after(5 if patient else 0):
                return await self.queue.take()
            return None

        if not self.model and patient:
            return
        # The virtual clock jumps as soon as nothing else can happen.
        taken = trio.run(attempt, clock=MockClock(autojump_threshold=0))
        if taken is not None:
            assert taken == in_order(list(self.model.values()))[0]
            del self.model[taken]
        else:
            assert not patient, "take() did not return though there are jobs"

    @invariant()
    def it_shows_what_the_model_has(self) -> None:
        order = in_order(list(self.model.values()))
        assert len(self.queue) == len(order)
        assert self.queue.first(100) == order
        assert self.queue.first(2) == order[:2]
        assert [self.queue.position(job_id) for job_id in order] == list(range(1, len(order) + 1))
        assert self.queue.position(JobId("nobody")) == 0
        assert self.queue.capacity == self.capacity
        ages = [job.accepted_at for job in self.model.values()]
        assert self.queue.oldest_at == min(ages, default=None)


QueueAgainstModel.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
test_the_queue_does_what_its_model_says = QueueAgainstModel.TestCase


@pytest.mark.parametrize("capacity", [1, 7, 1000])
async def test_500_jobs_with_takers_cancelled_at_random_are_each_taken_once(capacity: int) -> None:
    dice = random.Random(capacity)
    queue = JobQueue(capacity)
    taken: list[JobId] = []
    total, discarded = 500, set[JobId]()

    async def taker() -> None:
        while True:
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel_soon, scope)
                taken.append(await queue.take())
            for _ in range(dice.randrange(3)):
                await trio.lowlevel.checkpoint()

    async def cancel_soon(scope: trio.CancelScope) -> None:
        for _ in range(dice.randrange(6)):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(taker)
            for seq in range(1, total + 1):
                queue.put(a_job(seq, priority=dice.randrange(3)))
                if dice.random() < 0.1 and (waiting := queue.first(100)):
                    victim = dice.choice(waiting)
                    assert queue.discard(victim)
                    discarded.add(victim)
                if dice.random() < 0.5:
                    await trio.lowlevel.checkpoint()
            while len(taken) + len(discarded) < total:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert len(taken) == len(set(taken)), "a job was taken twice"
    assert set(taken) | discarded == {f"j{seq}" for seq in range(1, total + 1)}
    assert not set(taken) & discarded


async def test_a_waiting_taker_gets_the_job_that_is_first_when_it_wakes() -> None:
    queue = JobQueue(5)
    taken: list[JobId] = []

    async def taker() -> None:
        taken.append(await queue.take())

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(taker)
            await wait_all_tasks_blocked()
            queue.put(a_job(1))
            queue.put(a_job(2, priority=9))
        assert taken == ["j2"]
        assert await queue.take() == "j1"


async def test_a_journal_with_more_jobs_than_places_is_worked_off_before_anyone_is_admitted() -> (
    None
):
    queue = JobQueue(2)
    for seq in range(1, 8):
        queue.put(a_job(seq))
    taken = []
    with trio.fail_after(5):
        for left in range(7, 0, -1):
            if left >= 2:
                with pytest.raises(QueueFull):
                    queue.reserve()
            taken.append(await queue.take())
    assert taken == [f"j{seq}" for seq in range(1, 8)]
    queue.reserve()


async def test_lining_up_asks_the_channel_for_no_statistics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten thousand jobs at a start: each costs a step in a list and no more."""
    queue = JobQueue(2)
    monkeypatch.delattr(type(queue._tickets_in), "statistics")
    for seq in range(1, 5):
        queue.put(a_job(seq))
    with pytest.raises(QueueFull):
        queue.reserve()
    with trio.fail_after(5):
        assert [await queue.take() for _ in range(4)] == ["j1", "j2", "j3", "j4"]
