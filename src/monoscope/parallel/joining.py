"""Joining: the processes of one try agree on a place of their own in the store through which they find each other.

    everyone   writes a name made for this try, and confirms the list of names that holds it
    the first  lists the names it reads, again where one changes; the list that all have confirmed is the place

``torchrun`` keeps its store when it starts processes anew, and what the lost ones had written in it: addresses at which
nobody listens any more. A name from an earlier try is confirmed by nobody, so no list that holds one is agreed on.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore, Store, default_pg_timeout
from torch.distributed.rendezvous import rendezvous

POLL = 0.01  # seconds
LIST = "monoscope/list"


def fresh_store() -> tuple[Store, int, int]:
    """A store in which the processes of this try are alone; the number of this one, and how many there are."""
    store, rank, ranks = next(rendezvous("env://"))
    return agreed(store, rank, ranks, default_pg_timeout), rank, ranks


def agreed(store: Store, rank: int, ranks: int, patience: timedelta) -> Store:
    """The part of a store on which the processes of this try agree. Raises TimeoutError where some do not come."""
    own, deadline = uuid.uuid4().hex, time.monotonic() + patience.total_seconds()
    store.set(_name_of(rank), own)
    while time.monotonic() < deadline:
        if rank == 0 and store.check([_name_of(each) for each in range(ranks)]):
            store.set(LIST, ".".join(store.get(_name_of(each)).decode() for each in range(ranks)))
        listed = store.get(LIST).decode() if store.check([LIST]) else ""
        if own in listed:
            store.set(f"{listed}/{rank}", "here")
            if rank == 0 and store.check([f"{listed}/{each}" for each in range(ranks)]):
                store.set(f"{listed}/all", "here")
            if store.check([f"{listed}/all"]):
                return PrefixStore(listed, store)
        time.sleep(POLL)
    raise TimeoutError(f"{ranks} processes were started, and some did not come within {patience}")


def _name_of(rank: int) -> str:
    return f"monoscope/name/{rank}"
