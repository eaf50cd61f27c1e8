"""Data-parallel training: shard rows, and all-reduce gradients across hosts.

Every host has the same adapter and optimizer. It computes its shard of each step's rows and all-reduces gradients, loss and token
counts with the others. Gradients are sums, not means, so shards can have any size, and a step equals the same step on a single
host. Stop requests are part of the all-reduce, so all hosts stop after the same step.

The transport is MLX's own (``mx.distributed``): TCP in a ring, or RDMA over Thunderbolt (JACCL) between Macs.
"""

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
from mlxtune.training.distributed.launcher import Launcher, PeerLost, PeerWorker, RankConfig

Item = TypeVar("Item")

CONNECT_TIMEOUT = 60  # seconds to connect after all hosts are ready
LOST_TIMEOUT = 10.0  # seconds in an all-reduce after a peer ended: the ring notices immediately, JACCL never does
STALL_TIMEOUT = 600.0  # seconds in an all-reduce while all peers are running: a peer or the network hangs


class HostGroup:
    """This process as one of a run's hosts. By default there is a single host, and all operations do nothing.

    If an all-reduce will never return, a thread of the leader calls ``rescue`` with the reason; then the process exits with the
    exit code of a stopped run. At that time, the adapter and optimizer have the state of the last complete step.
    """

    def __init__(
        self, config: RankConfig = RankConfig(0, 1), group: Any = None, launcher: Launcher | PeerWorker | None = None
    ) -> None:
        self.rank, self.size = config.rank, config.size
        self.rescue: Callable[[str], None] = lambda reason: None
        self._group, self._launcher = group, launcher
        self._summing = threading.Lock()  # held by the thread that checks whether the all-reduce returned in time
        self._since = 0.0  # start time of the current all-reduce; 0.0 if there is none

    @property
    def is_leader(self) -> bool:
        """Whether this process writes events, checkpoints and the adapter."""
        return self.rank == 0

    def shard(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the items that this host computes. It may be empty if there are fewer items than hosts."""
        return items[self.rank :: self.size]

    def all_reduce(self, tree: Any, *numbers: float) -> tuple[Any, list[float]]:
        """Return ``tree`` (of arrays) and ``numbers``, summed over all hosts and bit-identical on each.

        All hosts must call it in the same order with the same shapes. Everything is summed as one float32 vector; leaves keep their
        dtypes. Raise ``PeerLost`` if a host is lost.
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

    def broadcast(self, tree: Any) -> Any:
        """Return the leader's ``tree`` on every host. Integers are exact up to 2^24. Raise ``PeerLost`` if a host is lost."""
        return self.all_reduce(tree if self.is_leader else tree_map(mx.zeros_like, tree))[0]

    def require_equal(self, name: str, value: str) -> None:
        """Raise ``InputError`` unless ``value``, named ``name`` in the message, is identical on all hosts."""
        digest = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint16)  # 16 bits are exact in a float32
        table = np.zeros((self.size, digest.size))
        table[self.rank] = digest
        _, digests = self.all_reduce({}, *table.reshape(-1).tolist())
        rows = np.array(digests).reshape(table.shape)
        different = [str(rank) for rank in range(1, self.size) if (rows[rank] != rows[0]).any()]
        if different:
            hint = "Use the same mlxtune version, run folder, data and model on every host, at the same paths."
            raise InputError(f"The {name} on host {', '.join(different)} differs from the {name} on host 0.", hint=hint)

    def _sum(self, vector: mx.array) -> mx.array:
        mx.eval(vector)
        self._since = time.monotonic()
        try:
            # Use a CPU stream, because the system's watchdog would kill a GPU kernel that waits for a slow peer.
            summed = mx.distributed.all_sum(vector, group=self._group, stream=mx.cpu)
            mx.eval(summed)
        except RuntimeError as error:
            lost = self._launcher.find_lost(timeout=2.0) if self._launcher else None
            raise lost or PeerLost(f"The connection to another host was lost: {error}") from error
        finally:
            with self._summing:
                self._since = 0.0
        return summed

    def watch(self) -> None:
        """Call ``rescue`` and exit this process if an all-reduce will never return. Runs indefinitely in a thread of the leader.

        The main thread is then waiting inside MLX, where no exception can reach it.
        """
        assert self._launcher is not None
        while True:
            time.sleep(0.5)
            with self._summing:
                waited = time.monotonic() - self._since if self._since else 0.0
                lost = self._launcher.find_lost()
                if waited < (LOST_TIMEOUT if lost else STALL_TIMEOUT):
                    continue
                reason = lost.message if lost else f"The other hosts did not respond for {waited:.0f} s"
                try:
                    self.rescue(reason)
                except Exception:
                    traceback.print_exc()
                    os._exit(MachineError.exit_code)
                os._exit(Interrupted.exit_code)


def init_group(launcher: Launcher | PeerWorker, step: int = 0) -> HostGroup:
    """Connect to the run's other hosts. Returns immediately if there are none. Must be called from the main thread.

    Raise ``PeerLost`` if one of them exited, ``Interrupted`` at ``step`` if the run is asked to stop in the meantime, and
    ``MachineError`` if the connection fails.
    """
    config = launcher.join(step)
    if config.size == 1:
        return HostGroup()
    with tempfile.TemporaryDirectory() as folder, _time_limit(CONNECT_TIMEOUT):
        os.environ |= config.env
        for name, content in config.files.items():
            file = Path(folder, name)
            file.write_text(json.dumps(content))
            os.environ[name] = str(file)
        try:
            group = mx.distributed.init(strict=True, backend=config.backend)
        except RuntimeError as error:
            if launcher.stopping:
                raise Interrupted(step) from error  # the signal also interrupted the connection attempt
            raise launcher.find_lost(timeout=1.0) or MachineError(
                f"Host {config.rank} could not connect to the others: {error}",
                hint=f"Check that these addresses are correct and their ports are free ({config.backend}): {json.dumps(config.files)}",
            ) from error
    hosts = HostGroup(config, group, launcher)
    if hosts.is_leader:
        threading.Thread(target=hosts.watch, name="watch", daemon=True).start()
    return hosts


@contextlib.contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    """Interrupt a system call that takes more than ``seconds``.

    MLX holds the GIL while it connects, so no other thread could interrupt it; a signal makes its ``accept`` call fail.
    """
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
