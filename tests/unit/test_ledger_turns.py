"""Turns at a chain: first come, first served."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from nas_gateway.ledger.turns import Turns


class Watched(Turns):
    """Says when somebody has joined the queue."""

    def __init__(self) -> None:
        super().__init__()
        self.joined = threading.Semaphore(0)
        deque = self._waiting
        watched = self

        class Queue(type(deque)):  # type: ignore[misc]
            def append(self, turn: threading.Lock) -> None:
                super().append(turn)
                watched.joined.release()

        self._waiting = Queue()


def test_who_waited_longest_is_next() -> None:
    turns, order = Watched(), list[int]()

    def take(number: int) -> None:
        assert turns.acquire(20)
        order.append(number)
        turns.release()

    assert turns.acquire(20)
    with ThreadPoolExecutor(5) as pool:
        for number in range(5):
            pool.submit(take, number)
            assert turns.joined.acquire(timeout=20)
        turns.release()
    assert order == [0, 1, 2, 3, 4]


def test_a_turn_is_not_free_between_two_holders() -> None:
    turns, got = Watched(), threading.Event()
    release = threading.Event()

    def hold() -> None:
        assert turns.acquire(20)
        got.set()
        assert release.wait(20)
        turns.release()

    assert turns.acquire(20)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(hold)
        assert turns.joined.acquire(timeout=20)
        turns.release()
        assert not turns.acquire(0)  # whether the other thread runs already or not
        release.set()
    assert got.is_set()
    assert turns.acquire(0)


def test_who_gave_up_is_not_handed_the_turn() -> None:
    turns = Turns()
    assert turns.acquire(0)
    assert not turns.acquire(0.01)
    turns.release()
    assert turns.acquire(0)
    turns.release()
    assert turns.acquire(0)
