"""Room for visits: who waits long does not count, and nobody takes all of it."""

from __future__ import annotations

import threading

import pytest

from workers.room import MOST_TIMES, Room


def _full(visits: int, taken: int) -> Room:
    room = Room(visits)
    for _ in range(taken):
        room.take()
    return room


def test_no_more_visits_begin_than_there_is_room_for() -> None:
    """Each one that ends makes room for another."""
    room = _full(4, 3)
    assert room.free(critical=False) == 1

    room.take()
    assert room.free(critical=False) == 0
    room.give()

    assert room.free(critical=False) == 1


def test_criticals_find_room_in_a_full_process() -> None:
    """A part is theirs alone."""
    room = _full(8, 8)

    assert room.free(critical=False) == 0
    assert room.free(critical=True) == 2


def test_visits_that_wait_long_do_not_count() -> None:
    """Whatever number of slow servers there is, the others have all of the room."""
    room = _full(4, 4)

    room.set_waiting(4)

    assert room.free(critical=False) == 4


def test_all_visits_together_are_bounded() -> None:
    """Even of those that wait a process keeps only so many."""
    room = _full(4, 4 * MOST_TIMES)
    room.set_waiting(4 * MOST_TIMES)

    assert room.free(critical=False) == 0


@pytest.mark.parametrize("change", [Room.give, lambda room: room.set_waiting(1)])
def test_who_listens_hears_of_room(change: object) -> None:
    """A consumer that waits for room need not look again and again."""
    room = _full(1, 1)
    heard = threading.Event()
    room.listen(heard)

    change(room)  # type: ignore[operator]

    assert heard.is_set()
    assert room.free(critical=False) == 1
