"""Launch a run on several hosts: start the other processes, assign their ranks, and monitor and stop them.

The run's worker is the leader (rank 0). It starts the peers, locally or through ssh, with the protocol of ``core.child_process``: a
peer answers ``ready`` when it can join, then receives its rank configuration with ``join``. If either side exits, the other notices
that the pipe is closed.

Imports no mlx, because the CLI uses it to read hostfiles.
"""

import contextlib
import os
import shlex
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlxtune.core.child_process import Channel, ChildProcess, python_command
from mlxtune.core.errors import InputError, Interrupted, MachineError, MlxtuneError
from mlxtune.core.files import Closeable, read_json
from mlxtune.core.text import one_line, plural
from mlxtune.recipe import Recipe
from mlxtune.runs import launch
from mlxtune.runs.registry import RUN_KINDS, Run

LOCALHOST = "127.0.0.1"
PORT = 32323  # first port for connections between machines, as in mlx.launch; processes on one machine use free ports
BACKENDS = ("ring", "jaccl", "jaccl-ring")
# A machine that loses power does not close its connection: ssh probes it and gives up after 15 s.
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")


class PeerLost(MachineError):
    """Another host of the run was lost. Checkpoints are not affected."""


@dataclass(frozen=True)
class Host:
    ssh: str = LOCALHOST  # address
    ips: tuple[str, ...] = (LOCALHOST,)  # for the ring
    rdma: tuple[Any, ...] = ()  # the device for each other host

    @property
    def local(self) -> bool:
        return self.ssh in (LOCALHOST, "localhost")


@dataclass(frozen=True)
class RankConfig:
    """The rank of a process, and the environment variables that MLX's ``backend`` reads."""

    rank: int
    size: int
    backend: str = "ring"
    env: dict[str, str] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)  # JSON content of files, by the variable that names each


def launch_request(hosts: int, hostfile: Path | None) -> dict[str, Any]:
    """Return the launch request for ``hosts`` local processes, or for the machines in ``hostfile``; ``{}`` for a single host.

    The hostfile has the format of ``mlx.launch`` and ``mlx.distributed_config``; its first host is the machine that starts the run.
    Raise ``InputError`` if it cannot be read or has no usable hosts.
    """
    if hosts < 1:
        raise InputError(f"--hosts must be at least 2, but is {hosts}.", hint="Use 2 or more, or omit --hosts.")
    if hostfile is None:
        return {"hosts": hosts} if hosts > 1 else {}
    content = read_json(hostfile)
    record = content if isinstance(content, dict) else {"hosts": content}
    backend, envs = record.get("backend") or "ring", record.get("envs", [])
    if not isinstance(envs, list) or not all(isinstance(pair, str) for pair in envs):
        raise InputError(f"{hostfile}: envs must be a list of strings.", hint='For example: "envs": ["NAME=VALUE"]')
    try:
        request = {"hosts": [*record.get("hosts", [])], "backend": backend, "envs": envs}
        team = parse_hosts(request)
    except (TypeError, KeyError, AttributeError) as error:
        hint = "Create one with: mlx.distributed_config"
        raise InputError(f"{hostfile} is not a hostfile: every host must have ssh and ips.", hint=hint) from error
    if backend not in BACKENDS:
        raise InputError(f"{hostfile} has the unknown backend {backend}.", hint=f"Use one of {', '.join(BACKENDS)}.")
    if len(team) < 2:
        raise InputError(f"{hostfile} must list at least two hosts, but lists {plural(len(team), 'host')}.")
    for index, host in enumerate(team):
        if not host.ips and (index == 0 or backend == "ring"):
            raise InputError(f"{hostfile}: host {index} ({host.ssh}) has no address in ips.")
        if backend != "ring" and len(host.rdma) != len(team):
            raise InputError(f"{hostfile}: host {index} ({host.ssh}) must have {len(team)} entries in rdma, one per host.")
    return request


def parse_hosts(request: Mapping[str, Any]) -> list[Host]:
    """Return the hosts of a launch request; the first one is the leader. Raise ``InputError`` if one has no valid address."""
    hosts = request.get("hosts", 1)
    if isinstance(hosts, int):
        return [Host()] * hosts
    for host in hosts:
        if host["ssh"].strip()[:1] in ("", "-") or not host["ssh"].isprintable():
            raise InputError(f"{one_line(host['ssh'], 80)} is not the address of a host.", hint="Correct ssh in the hostfile.")
    return [Host(host["ssh"], tuple(host.get("ips", ())), tuple(host.get("rdma", ()))) for host in hosts]


def limit_blas_threads(request: Mapping[str, Any]) -> None:
    """Divide this machine's cores among its processes, before a BLAS is loaded: steps were ten times slower when they competed."""
    local_count = sum(host.local for host in parse_hosts(request))
    if local_count > 1:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // local_count)))


def rank_configs(hosts: Sequence[Host], backend: str = "ring", envs: Sequence[str] = ()) -> list[RankConfig]:
    """Return each host's configuration, with the variables that ``mlx.launch`` sets. ``envs`` have the form ``NAME=VALUE``."""
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
    return [RankConfig(rank, len(hosts), name, common | {"MLX_RANK": str(rank)}, files) for rank in range(len(hosts))]


class Peer:
    """The leader's handle to another process of the run, local or through ssh."""

    def __init__(self, rank: int, host: Host, command: Sequence[str], log: Path) -> None:
        remote = [*SSH, "--", host.ssh, f"cd {shlex.quote(os.getcwd())} && exec {shlex.join(command)}"]
        self.ready = threading.Event()  # also set when the process ended
        self.child = ChildProcess(
            "peer", name=f"Host {rank} ({host.ssh})", hint=f"See its log: {log}", log=log, command=command if host.local else remote
        )
        self.child.request("ready", {}, lambda reply: self.ready.set())

    @property
    def error(self) -> PeerLost | None:
        """The error with which the process ended; ``None`` while it is running."""
        error = self.child.exit_error
        return PeerLost(error.message, hint=error.hint) if error else None


class Launcher(Closeable):
    """Manages all peers of a run for the leader. There are none if the run uses a single host."""

    is_leader = True

    def __init__(self, folder: Path, request: Mapping[str, Any], stopping: Callable[[], bool], command: Sequence[str] = ()) -> None:
        hosts = parse_hosts(request)
        command = command or python_command(RUN_KINDS["train"].module, str(folder), "--peer")
        self._hosts, self._backend, self._envs = hosts, request.get("backend", "ring"), request.get("envs", ())
        self._stopping = stopping
        self._peers = [Peer(rank, host, command, folder / f"worker-{rank}.log") for rank, host in enumerate(hosts) if rank > 0]

    @property
    def stopping(self) -> bool:
        return self._stopping()

    def join(self, step: int = 0) -> RankConfig:
        """Wait for all peers, and return the leader's configuration. Raise ``PeerLost``, or ``Interrupted`` at ``step``."""
        for peer in self._peers:
            while not peer.ready.wait(0.2):
                if self.stopping:
                    raise Interrupted(step)
            if error := peer.error:
                raise error
        first, *others = rank_configs(self._hosts, self._backend, self._envs) if self._peers else [RankConfig(0, 1)]
        for peer, config in zip(self._peers, others, strict=True):
            peer.child.notify("join", asdict(config))
        return first

    def find_lost(self, timeout: float = 0.0) -> PeerLost | None:
        """Return the error of the first peer that ended, or ``None`` if none ends within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            if error := next((error for peer in self._peers if (error := peer.error)), None):
                return error
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.05)

    def close(self) -> None:
        for peer in self._peers:
            peer.child.close()


class PeerWorker:
    """The worker of a peer, used in place of ``runs.worker.Worker``. Only the leader writes events.

    The process exits as soon as the leader does. SIGTERM and SIGINT set ``stopping``, which reaches the leader in the next
    all-reduce.
    """

    is_leader = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe: Recipe = Run(folder).recipe()
        self.request = launch.read_request(folder)
        self.stopping = False
        # The main thread may be waiting inside MLX, where no exception can reach it.
        self._channel = Channel(on_close=lambda: os._exit(Interrupted.exit_code))

    def stop(self, *_: object) -> None:
        self.stopping = True

    def report_start(self, kind: str, **_: Any) -> None:
        print(f"{kind} {self.folder.name}: process {os.getpid()} on {socket.gethostname()}", flush=True)

    def emit(self, type: str, **_: Any) -> None:
        """Do nothing, because the leader writes the events."""

    def warn(self, code: str, **values: Any) -> None:
        print(f"warning {code}: {values}", flush=True)

    def join(self, step: int = 0) -> RankConfig:
        """Tell the leader that this process is ready, and wait for its configuration."""
        if ready := self._channel.receive():
            ready.result(None)
            if join := self._channel.receive():
                return RankConfig(**join.params)
        raise Interrupted(step)

    def find_lost(self, timeout: float = 0.0) -> PeerLost | None:
        """Return ``None``: a peer is connected only to the leader, and exits when the leader does."""


def run_peer(folder: Path, work: Callable[[PeerWorker], object]) -> int:
    """Run ``work`` as a peer of the run in ``folder`` and return the exit code. Errors are written to this peer's log."""
    worker = PeerWorker(folder)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, worker.stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        work(worker)
        return 0
    except MlxtuneError as error:
        print(f"{error.message} {error.hint}".strip(), flush=True)
        return error.exit_code
    except Exception:
        traceback.print_exc()
        return MlxtuneError.exit_code


def _free_ports(count: int) -> Iterator[int]:
    """Yield ports that are free on this machine. They are reserved together so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((LOCALHOST, 0))) for _ in range(count)]
        return iter([item.getsockname()[1] for item in sockets])
