"""Several hosts as one: whose rows are whose, and sums over all of them.

Data parallel training: every host holds the same adapter and the same optimizer, computes its share of each step's rows, and adds
up gradients, loss and token count with the others. Gradients are sums and not means, so that shares may be of any size, and the
step is the one that a single host would have made. A wish to stop travels with the sum: all hosts stop after the same step.

The engine is MLX's own (``mx.distributed``): TCP in a ring, or RDMA over Thunderbolt (JACCL) between Macs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from mlxtune.core.errors import InputError, Interrupted, MachineError
from mlxtune.training.peers import Crew, Follower, PeerLost, Seat

Item = TypeVar("Item")

CONNECT = 60  # seconds that connecting may take once all hosts are ready
LOST = 10.0  # seconds in a sum after a peer is gone: the ring notices at once, JACCL never does
STALLED = 600.0  # seconds in a sum although all peers live: one of them hangs, or the network does


class Hosts:
    """This process among the hosts of a run. By itself, as made here, it is a single host, whose operations do nothing.

    ``rescue`` is called from a thread of the leader, with the reason, when a sum will never come back; then the process ends with
    the exit code of a stopped run. Adapter and optimizer are those of the last whole step at that time.
    """

    def __init__(self, seat: Seat = Seat(0, 1), group: Any = None, crew: Crew | Follower | None = None) -> None:
        self.rank, self.size = seat.rank, seat.size
        self.rescue: Callable[[str], None] = lambda reason: None
        self._group, self._crew = group, crew
        self._summing = threading.Lock()  # whoever holds it decides whether the sum came back in time
        self._since = 0.0  # when the sum under way began; 0.0 when there is none

    @property
    def leads(self) -> bool:
        """Whether this process writes events, checkpoints and the adapter."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """The part of ``items`` that this host computes; empty when there are fewer items than hosts."""
        return items[self.rank :: self.size]

    def total(self, tree: Any, *numbers: float) -> tuple[Any, list[float]]:
        """``tree``, whose leaves are arrays, and ``numbers``, added up over all hosts; the same bits on each.

        All hosts must call it in the same order with the same shapes. It is one sum of one float32 vector; leaves come back in
        their own dtypes. Raises ``PeerLost``.
        """
        if self.size == 1:
            return tree, [float(number) for number in numbers]
        leaves: list[tuple[str, mx.array]] = tree_flatten(tree)
        vector = [leaf.astype(mx.float32).reshape(-1) for _, leaf in leaves]
        summed = self._sum(mx.concatenate([*vector, mx.array([float(number) for number in numbers] or [0.0])]))
        ends = np.cumsum([leaf.size for _, leaf in leaves], dtype=int).tolist() or [0]
        *parts, tail = mx.split(summed, ends) if leaves else [summed]
        back = [(name, part.reshape(leaf.shape).astype(leaf.dtype)) for (name, leaf), part in zip(leaves, parts, strict=True)]
        return (tree_unflatten(back) if leaves else tree), np.array(tail).tolist()[: len(numbers)]

    def spread(self, tree: Any) -> Any:
        """The leader's values of ``tree`` on every host: they start equal, whatever made their own. Raises ``PeerLost``.

        Integers are exact up to 2^24.
        """
        return self.total(tree if self.leads else tree_map(mx.zeros_like, tree))[0]

    def agree(self, what: str, value: str) -> None:
        """Raise ``InputError``, which names the hosts, unless all have the same ``value`` of ``what``."""
        digest = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint16)  # 16 bits are exact in a float32
        table = np.zeros((self.size, digest.size))
        table[self.rank] = digest
        _, found = self.total({}, *table.reshape(-1).tolist())
        rows = np.array(found).reshape(table.shape)
        odd = [str(rank) for rank in range(1, self.size) if (rows[rank] != rows[0]).any()]
        if odd:
            raise InputError(
                f"Host {', '.join(odd)} does not have the same {what} as host 0.",
                mend="Every host needs the same version of mlxtune, the same run folder, data and model, at the same paths.",
            )

    def _sum(self, vector: mx.array) -> mx.array:
        mx.eval(vector)
        self._since = time.monotonic()
        try:
            # On the CPU's stream: a GPU kernel that waits for a slow peer would be ended by the system's watchdog.
            summed = mx.distributed.all_sum(vector, group=self._group, stream=mx.cpu)
            mx.eval(summed)
        except RuntimeError as error:
            lost = self._crew.lost(patience=2.0) if self._crew else None
            raise lost or PeerLost(f"The connection to another host was lost: {error}") from error
        finally:
            with self._summing:
                self._since = 0.0
        return summed

    def watch(self) -> None:
        """End this process, after ``rescue``, when a sum will never come back. Runs in a thread of the leader, for ever.

        The main thread waits inside MLX then, where no exception reaches it.
        """
        assert self._crew is not None
        while True:
            time.sleep(0.5)
            with self._summing:
                waited = time.monotonic() - self._since if self._since else 0.0
                lost = self._crew.lost()
                if waited < (LOST if lost else STALLED):
                    continue
                reason = lost.message if lost else f"No word from the other hosts for {waited:.0f} s"
                try:
                    self.rescue(reason)
                except Exception:
                    traceback.print_exc()
                    os._exit(MachineError.exit_code)
                os._exit(Interrupted.exit_code)


def join(crew: Crew | Follower, step: int = 0) -> Hosts:
    """Meet the other hosts of ``crew``; a single host returns at once. Must run in the main thread.

    Raises ``PeerLost`` when one ended before, ``Interrupted`` at ``step`` when the run is to stop meanwhile, ``MachineError`` when no
    connection comes about.
    """
    seat = crew.take_seat(step)
    if seat.size == 1:
        return Hosts()
    with tempfile.TemporaryDirectory() as folder, _time_limit(CONNECT):
        os.environ |= seat.env
        for name, content in seat.files.items():
            file = Path(folder, name)
            file.write_text(json.dumps(content))
            os.environ[name] = str(file)
        try:
            group = mx.distributed.init(strict=True, backend=seat.backend)
        except RuntimeError as error:
            if crew.stopping:
                raise Interrupted(step) from error  # the signal that asked for it ended the connecting, too
            raise crew.lost(patience=1.0) or MachineError(
                f"Host {seat.rank} could not connect to the others: {error}",
                mend=f"Its {seat.backend} is {json.dumps(seat.files)}; are these addresses right, and the ports free?",
            ) from error
    hosts = Hosts(seat, group, crew)
    if hosts.leads:
        threading.Thread(target=hosts.watch, name="watch", daemon=True).start()
    return hosts


@contextlib.contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    """Interrupt a system call that takes longer.

    MLX connects with the interpreter locked, so no thread could end it; a signal makes its ``accept`` fail.
    """
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
