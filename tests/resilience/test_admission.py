"""Admission: never more than the limit, everybody in turn, nobody lost."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.errors import Overloaded
from gateway.profile import Profile
from gateway.resilience.admission import MAX_WAITING, Admission, busy
from gateway.routing import Provider, Target


def target(limit: int | None, model: str = "m", queue_timeout: float = 10.0) -> Target:
    profile = Profile(max_concurrency=limit, queue_timeout=queue_timeout)
    return Target(Provider("lab", "openai-chat", "http://h"), model, profile, "http://h")


def test_without_a_limit_everybody_is_admitted_and_nothing_kept() -> None:
    admission = Admission()
    assert {admission.enter(target(None), "c", number) for number in range(1000)} == {"admitted"}
    assert admission.leave(target(None)) == []
    assert admission.size == 0


def test_who_is_too_many_waits_for_one_who_leaves() -> None:
    admission, lab = Admission(), target(2)
    assert [admission.enter(lab, "c", ticket) for ticket in "abcd"] == ["admitted", "admitted", "queued", "queued"]
    assert admission.waiting(lab) == 2
    assert [admission.leave(lab) for _ in range(4)] == [["c"], ["d"], [], []]
    assert admission.size == 0


def test_clients_take_turns() -> None:
    """A client that waits with many delays another by one."""
    admission, lab = Admission(), target(1)
    admission.enter(lab, "greedy", "now")
    for number in range(50):
        admission.enter(lab, "greedy", f"greedy-{number}")
    for name in ("small", "other"):
        for number in range(2):
            admission.enter(lab, name, f"{name}-{number}")
    turns = [admission.leave(lab)[0] for _ in range(7)]
    assert turns == ["greedy-0", "small-0", "other-0", "greedy-1", "small-1", "other-1", "greedy-2"]


def test_nobody_overtakes_the_line() -> None:
    """A free place belongs to those who wait, also to those who enter just now."""
    admission = Admission()
    admission.enter(target(1), "a", "first")
    admission.enter(target(1), "a", "waits")
    assert admission.enter(target(2), "b", "new") == "queued"
    assert admission.leave(target(2)) == ["waits", "new"]


def test_the_queue_is_bounded_and_no_client_has_it_all() -> None:
    admission, lab = Admission(), target(1)
    admission.enter(lab, "greedy", "now")
    entries = [admission.enter(lab, "greedy", number) for number in range(MAX_WAITING)]
    assert entries == ["queued"] * (MAX_WAITING // 2) + ["full"] * (MAX_WAITING // 2)
    entries = [admission.enter(lab, f"client-{number}", -number) for number in range(1, MAX_WAITING // 2 + 2)]
    assert entries == ["queued"] * (MAX_WAITING // 2) + ["full"]
    assert admission.waiting(lab) == MAX_WAITING


def test_who_gives_up_is_not_called() -> None:
    admission, lab = Admission(), target(1)
    for ticket in "abc":
        admission.enter(lab, "c", ticket)
    assert admission.withdraw(lab, "c", "b")
    assert not admission.withdraw(lab, "c", "b")
    assert not admission.withdraw(lab, "c", "a"), "it was admitted, and must leave"
    assert not admission.withdraw(target(1, "unknown"), "c", "a")
    assert admission.leave(lab) == ["c"]


def test_a_client_that_gave_up_has_no_turn() -> None:
    admission, lab = Admission[str](), target(1)
    for ticket in "abc":
        admission.enter(lab, f"client-{ticket}", ticket)
    assert admission.withdraw(lab, "client-b", "b")
    assert [admission.leave(lab) for _ in range(2)] == [["c"], []]


def test_a_limit_that_grows_admits_several() -> None:
    admission = Admission()
    for ticket in "abcd":
        admission.enter(target(1), "c", ticket)
    assert admission.enter(target(3), "c", "e") == "queued"
    assert admission.leave(target(1)) == ["b", "c", "d"]


def test_a_limit_that_shrinks_takes_nobodys_place() -> None:
    admission = Admission()
    for ticket in "abc":
        admission.enter(target(3), "c", ticket)
    assert admission.enter(target(1), "c", "d") == "queued"
    assert [admission.leave(target(3)) for _ in range(3)] == [[], [], ["d"]]


def test_who_entered_without_a_limit_frees_no_place() -> None:
    """A reload between coming and going: each request keeps its own configuration."""
    admission = Admission()
    admission.enter(target(1), "c", "a")
    admission.enter(target(1), "c", "b")
    assert admission.leave(target(None)) == []
    assert admission.waiting(target(1)) == 1


def test_models_have_places_of_their_own() -> None:
    admission = Admission()
    assert [admission.enter(target(1, model), "c", model) for model in "xy"] == ["admitted", "admitted"]
    assert admission.size == 2


@pytest.mark.parametrize(("timeout", "after"), [(10.0, 10), (0.2, 1), (500.0, 30)])
def test_the_error_says_when_to_come_back(timeout: float, after: int) -> None:
    error = busy(target(3, queue_timeout=timeout))
    assert isinstance(error, Overloaded)
    assert (error.status, error.retry_after) == (529, after)
    assert str(error) == "lab/m is busy: it takes 3 requests at a time"


class Crowd(RuleBasedStateMachine):
    """Clients come, go and give up in any order, while the limit changes."""

    def __init__(self) -> None:
        super().__init__()
        self.admission: Admission[int] = Admission()
        self.limit = 2
        self.next = 0
        self.inside: list[int] = []
        self.waiting: dict[int, str] = {}

    @rule(client=st.sampled_from("abc"))
    def enter(self, client: str) -> None:
        self.next += 1
        entry = self.admission.enter(target(self.limit), client, self.next)
        if entry == "admitted":
            assert len(self.inside) < self.limit
            assert not self.waiting
            self.inside.append(self.next)
        else:
            assert entry == "queued"
            self.waiting[self.next] = client

    @rule()
    def leave(self) -> None:
        if not self.inside:
            return
        self.inside.pop()
        for ticket in self.admission.leave(target(self.limit)):
            del self.waiting[ticket]
            self.inside.append(ticket)

    @rule()
    def withdraw(self) -> None:
        if self.waiting:
            ticket, client = self.waiting.popitem()
            assert self.admission.withdraw(target(self.limit), client, ticket)

    @rule(limit=st.integers(1, 4))
    def reload(self, limit: int) -> None:
        self.limit = limit

    @invariant()
    def nobody_is_lost(self) -> None:
        assert self.admission.waiting(target(1)) == len(self.waiting)
        assert self.admission.size == (1 if self.inside else 0)
        assert not self.waiting or self.inside, "somebody waits and nobody is inside"


TestCrowd = Crowd.TestCase
TestCrowd.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
