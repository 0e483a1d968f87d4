"""Processes that are started anew do not read what lost ones left in the store."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.distributed_c10d import Store

from monoscope.parallel.joining import agreed

SOON = timedelta(seconds=60)


def joined(store: Store, late: dict[int, threading.Event], ranks: int = 3) -> list[Store]:
    """The part of a store that each process has, those that come late once they may."""

    def one(rank: int) -> Store:
        if rank in late:
            late[rank].wait()
        return agreed(store, rank, ranks, SOON)

    with ThreadPoolExecutor(ranks) as pool:
        waiting = [pool.submit(one, rank) for rank in range(ranks)]
        for event in late.values():
            time.sleep(0.1)
            assert not any(each.done() for each in waiting)
            event.set()
        return [each.result() for each in waiting]


@pytest.mark.parametrize("late", [[], [0], [1], [2, 0], [1, 2]])
def test_each_try_has_a_place_of_its_own_whoever_comes_last(late: list[int]) -> None:
    store = HashStore()
    for number in range(3):
        first, *others = joined(store, {rank: threading.Event() for rank in late})
        assert not first.check(["address"])  # of the try before
        first.set("address", str(number))
        assert [other.get("address") for other in others] == [str(number).encode()] * 2


def test_who_was_lost_before_joining_is_not_counted() -> None:
    store = HashStore()
    joined(store, {})
    with pytest.raises(TimeoutError, match="3 processes were started, and some did not come"):
        agreed(store, 1, 3, timedelta(seconds=0.1))
    first, *others = joined(store, {0: threading.Event()})
    first.set("address", "here")
    assert [other.get("address") for other in others] == [b"here"] * 2
