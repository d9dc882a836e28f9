"""The values that runtimes exchange."""

from app.engine.runtimes.runtime import Contract, Running, Settled, Wanted
from app.engine.runtimes.session import CPU
from tests.runtimes import Machine

SESSION = Machine(threads=2)


def running(single: Machine) -> Running:
    return Running(SESSION, single, runs=2, provider=CPU, threads=4, max_batch_tokens=64)


def test_how_a_network_runs_tells_the_next_whether_to_open_another_session() -> None:
    assert running(SESSION).settled == Settled(runs=2, own_single=False)
    assert running(Machine(threads=4)).settled == Settled(runs=2, own_single=True)


def test_another_session_is_another_however_alike() -> None:
    assert Machine(threads=2) == SESSION
    assert running(Machine(threads=2)).settled == Settled(runs=2, own_single=True)


def test_nothing_is_settled_unless_somebody_says_so() -> None:
    assert Wanted(threads=4).settled == Settled(runs=0, own_single=None)


def test_the_inputs_of_a_contract_have_no_order() -> None:
    assert Contract(frozenset(["a", "b"]), "logits", 64) == Contract(frozenset(["b", "a"]), "logits", 64)
