"""The other processes of a run that uses several hosts: who they are, started, watched and ended.

The worker that everyone knows leads (rank 0). It starts the peers itself, here or through ssh, and talks to each through two
pipes: a peer says on its stdout when it is ready to join and hears on its stdin which seat it has. The pipes are also how either
side notices that the other is gone, because a process that ends, however it ends, closes them.

Nothing here imports mlx: the command line reads hostfiles with it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from mlxtune.core.errors import InputError, Interrupted, MachineError, MlxtuneError
from mlxtune.core.files import read_json
from mlxtune.core.text import one_line, plural
from mlxtune.recipe import Recipe, load
from mlxtune.runs import launch

HERE = "127.0.0.1"
PORT = 32323  # the first port between machines, as with mlx.launch; between processes of one machine free ones are taken
READY = b"mlxtune: ready to join\n"
BACKENDS = ("ring", "jaccl", "jaccl-ring")
# A machine that lost its power says nothing: ssh asks, and gives up after 15 s.
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")


class PeerLost(MachineError):
    """Another host of the run is gone; what was trained so far is whole."""


@dataclass(frozen=True)
class Host:
    """One host: how ssh reaches it, its addresses for the ring, and for each host its RDMA device towards it."""

    ssh: str = HERE
    ips: tuple[str, ...] = (HERE,)
    rdma: tuple[Any, ...] = ()

    @property
    def local(self) -> bool:
        """Whether it is a process on this machine."""
        return self.ssh in (HERE, "localhost")


@dataclass(frozen=True)
class Seat:
    """What a process needs to join: its place, and the environment MLX's ``backend`` reads.

    ``files`` are variables that name a file, with the file's JSON.
    """

    rank: int
    size: int
    backend: str = "ring"
    env: dict[str, str] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)


def request(hosts: int, hostfile: Path | None) -> dict[str, Any]:
    """The launch request for ``hosts`` processes on this machine, or for the machines in ``hostfile``; ``{}`` for one.

    A hostfile is the one of ``mlx.launch`` and ``mlx.distributed_config``; the first host is the machine the run is started on.
    Raises ``InputError`` when it cannot be read or names no usable hosts.
    """
    if hostfile is None:
        if hosts < 1:
            raise InputError(f"{hosts} hosts cannot train anything.", mend="Give --hosts 2, or leave it out.")
        return {"hosts": hosts} if hosts > 1 else {}
    found = read_json(hostfile)
    record = found if isinstance(found, dict) else {"hosts": found}
    asked = {
        "hosts": record.get("hosts", []),
        "backend": record.get("backend") or "ring",
        "envs": record.get("envs", []),
    }
    try:
        team = hosts_of(asked)
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{hostfile} is no hostfile: each host needs ssh and ips.", mend="Make one with: mlx.distributed_config"
        ) from error
    if asked["backend"] not in BACKENDS:
        raise InputError(f"{hostfile} asks for the backend {asked['backend']}.", mend=f"Use one of {', '.join(BACKENDS)}.")
    if len(team) < 2:
        raise InputError(f"{hostfile} names {plural(len(team), 'host')}; several hosts are at least two.")
    for at, host in enumerate(team):
        if not host.ips and (at == 0 or asked["backend"] == "ring"):
            raise InputError(f"{hostfile}: host {at} ({host.ssh}) has no address in ips.")
        if asked["backend"] != "ring" and len(host.rdma) != len(team):
            raise InputError(f"{hostfile}: host {at} ({host.ssh}) needs {len(team)} entries in rdma, one for each host.")
    return asked


def hosts_of(request: Mapping[str, Any]) -> list[Host]:
    """The hosts a launch request asks for; the first leads."""
    asked = request.get("hosts", 1)
    if isinstance(asked, int):
        return [Host()] * asked
    return [Host(host["ssh"], tuple(host.get("ips", ())), tuple(host.get("rdma", ()))) for host in asked]


def share_cores(request: Mapping[str, Any]) -> None:
    """Give each of several processes on this machine its part of the cores. Must run before a BLAS is loaded.

    Threads of one that wait for a core held by the other cost more than they bring: steps took ten times as long.
    """
    local = sum(host.local for host in hosts_of(request))
    if local > 1:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // local)))


def seats(hosts: Sequence[Host], backend: str = "ring", envs: Sequence[str] = ()) -> list[Seat]:
    """What each of ``hosts`` has to know; the variables are those that ``mlx.launch`` sets. ``envs`` are ``NAME=VALUE``."""
    common = dict(pair.split("=", 1) for pair in envs if "=" in pair)
    files: dict[str, Any]
    if backend == "ring":
        count = sum(len(host.ips) for host in hosts)
        ports = iter(_free_ports(count) if all(host.local for host in hosts) else range(PORT, PORT + count))
        files = {"MLX_HOSTFILE": [[f"{ip}:{next(ports)}" for ip in host.ips] for host in hosts]}
    else:
        files = {"MLX_IBV_DEVICES": [list(host.rdma) for host in hosts]}
        common["MLX_JACCL_COORDINATOR"] = f"{hosts[0].ips[0]}:{PORT}"
        if backend == "jaccl-ring":
            common["MLX_JACCL_RING"] = "1"
    name = backend.removesuffix("-ring")
    return [Seat(rank, len(hosts), name, common | {"MLX_RANK": str(rank)}, files) for rank in range(len(hosts))]


class Peer:
    """A peer as the leader sees it: a process, here or behind ssh, and what it said last."""

    def __init__(self, rank: int, host: Host, command: Sequence[str], log: Path) -> None:
        self.rank, self.host, self.log = rank, host, log
        self.ready, self.gone = threading.Event(), threading.Event()
        self._last = ""
        line = list(command) if host.local else [*SSH, host.ssh, f"cd {shlex.quote(os.getcwd())} && exec {shlex.join(command)}"]
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        threading.Thread(target=self._read, name=f"peer-{rank}", daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.log.open("ab", buffering=0) as log:
            for line in self.process.stdout:
                if line == READY:
                    self.ready.set()
                else:
                    log.write(line)
                    self._last = one_line(line.decode("utf-8", "replace"), 200) or self._last
        self.process.wait()
        self.gone.set()
        self.ready.set()  # nobody needs to wait for it any more

    def seat(self, seat: Seat) -> None:
        """Tell it where it sits. A peer that is gone hears nothing, and is noticed by its silence."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(asdict(seat)).encode() + b"\n")
            self.process.stdin.flush()

    def obituary(self) -> PeerLost:
        """How it ended, as the user should read it."""
        code = self.process.returncode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}{f': {self._last}' if self._last else ''}"
        return PeerLost(f"Host {self.rank} ({self.host.ssh}) {how}", mend=f"Its log: {self.log}")

    def hang_up(self) -> None:
        """Close its stdin, which ends it."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def end(self, patience: float = 5.0) -> None:
        """Make sure that it ended."""
        if not self.gone.wait(patience):
            self.process.kill()
            self.gone.wait(patience)


class Crew:
    """The leader's side: all peers of a run, from their start to their end. Without peers it is a run on one host."""

    leads = True

    def __init__(self, folder: Path, request: Mapping[str, Any], stopping: Callable[[], bool], command: Sequence[str] = ()) -> None:
        hosts = hosts_of(request)
        command = command or [sys.executable, "-m", launch.MODULES["train"], str(folder), "--peer"]
        self._hosts, self._backend, self._envs = hosts, request.get("backend", "ring"), request.get("envs", ())
        self._asked_to_stop = stopping
        self._peers = [Peer(at, host, command, folder / f"worker-{at}.log") for at, host in enumerate(hosts) if at > 0]

    @property
    def stopping(self) -> bool:
        return self._asked_to_stop()

    def take_seat(self, step: int = 0) -> Seat:
        """Wait until every peer is ready, give each its seat and return the leader's.

        Raises ``PeerLost`` when one ended before, ``Interrupted`` at ``step`` when the run is to stop.
        """
        for peer in self._peers:
            while not peer.ready.wait(0.2):
                if self.stopping:
                    raise Interrupted(step)
            if peer.gone.is_set():
                raise peer.obituary()
        first, *others = seats(self._hosts, self._backend, self._envs) if self._peers else [Seat(0, 1)]
        for peer, seat in zip(self._peers, others, strict=True):
            peer.seat(seat)
        return first

    def lost(self, patience: float = 0.0) -> PeerLost | None:
        """The first peer that is gone, if one goes within ``patience`` seconds."""
        give_up = time.monotonic() + patience
        while True:
            for peer in self._peers:
                if peer.gone.is_set():
                    return peer.obituary()
            if time.monotonic() >= give_up:
                return None
            time.sleep(0.05)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self._peers:
            peer.hang_up()
        for peer in self._peers:
            peer.end()


class Follower:
    """A peer's own side, and what the work sees there in place of a worker: the same run, and nobody who listens.

    Ends the process as soon as the leader is gone. SIGTERM and SIGINT are a wish to stop, which the leader hears with the next sum.
    """

    leads = False

    def __init__(self, folder: Path, stdin: BinaryIO) -> None:
        self.folder = folder
        self.recipe: Recipe = load(folder / "recipe.toml")
        self.request = launch.request(folder)
        self._stop = threading.Event()
        self._seats: queue.SimpleQueue[Seat] = queue.SimpleQueue()
        threading.Thread(target=self._listen, args=(stdin,), name="leader", daemon=True).start()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def stop(self, *_: object) -> None:
        self._stop.set()

    def begin(self, kind: str, **_: Any) -> None:
        print(f"{kind} {self.folder.name}: process {os.getpid()} on {socket.gethostname()}", flush=True)

    def emit(self, type: str, **_: Any) -> None:
        """The leader says it."""

    def warn(self, text: str) -> None:
        print(text, flush=True)

    def take_seat(self, step: int = 0) -> Seat:
        """Say that this process is ready, and wait for the leader's word."""
        sys.stdout.buffer.write(READY)
        sys.stdout.flush()
        return self._seats.get()

    def lost(self, patience: float = 0.0) -> PeerLost | None:
        """Nothing: a follower knows only its leader, and does not outlive it."""

    def _listen(self, stdin: BinaryIO) -> None:
        for line in stdin:
            self._seats.put(Seat(**json.loads(line)))
        os._exit(Interrupted.exit_code)  # the main thread may be waiting inside MLX, where no exception reaches it


def follow(folder: Path, work: Callable[[Follower], object]) -> int:
    """Run ``work`` as a peer of the run in ``folder``; returns the exit code. What goes wrong is printed for the leader's log."""
    # Without a buffer: its lock, held by the thread that waits for the leader, would abort the interpreter's exit.
    follower = Follower(folder, io.FileIO(0, closefd=False))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, follower.stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        work(follower)
        return 0
    except MlxtuneError as error:
        print(f"{error.message} {error.mend}".strip(), flush=True)
        return error.exit_code
    except Exception:
        traceback.print_exc()
        return MlxtuneError.exit_code


def _free_ports(count: int) -> Iterator[int]:
    """Ports nobody on this machine listens at; they are taken at once, before another process can."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for at in sockets:
            at.bind((HERE, 0))
        return iter([at.getsockname()[1] for at in sockets])
