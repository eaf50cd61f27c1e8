"""Hosts: sharding, sums over real processes, every kind of peer failure, and hostfiles compared with mlx.launch."""

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from exhaustive import cases

from mlxtune.core.errors import InputError
from mlxtune.core.files import write_json, write_text
from mlxtune.recipe import dump, load
from mlxtune.training.distributed import launcher
from mlxtune.training.distributed.hosts import HostGroup
from mlxtune.training.distributed.launcher import RankConfig

pytestmark = pytest.mark.slow

# Leader and peers: `lead FOLDER SIZE CASE` starts the peers, which run the same file with --peer.
SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
import mlx.core as mx
import numpy as np
from mlxtune.core.errors import MlxtuneError
from mlxtune.training.distributed import hosts as module
from mlxtune.training.distributed.launcher import Launcher, run_peer

folder, size, case = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
module.LOST_TIMEOUT, module.STALL_TIMEOUT = 0.5, 1.5


def work(launcher):
    if case == "early" and not launcher.is_leader:
        print("the model is not here")
        sys.exit(7)
    hosts = module.init_group(launcher)
    tree = {"a": mx.full((3, 2), hosts.rank + 0.1), "b": [mx.array([hosts.rank, 7], mx.uint64)], "c": mx.array(0.5, mx.bfloat16)}
    results = {"rank": hosts.rank, "size": hosts.size}
    if case == "sums":
        summed, numbers = hosts.all_reduce(tree, 2.5, hosts.rank)
        spread = hosts.broadcast(tree)
        noise, _ = hosts.all_reduce(mx.random.normal((100_000,), key=mx.random.key(hosts.rank)))
        results |= {"numbers": numbers, "alone": hosts.all_reduce({}, hosts.rank)[1], "noise": np.array(noise).tobytes().hex()[:4000]}
        for name, sums in (("summed", summed), ("spread", spread)):
            kinds = [str(array.dtype) for array in (sums["a"], sums["b"][0], sums["c"])]
            results[name] = [sums["a"].tolist(), sums["b"][0].tolist(), sums["c"].item(), kinds]
        hosts.require_equal("data", "the same")
    elif case == "stall":
        module.STALL_TIMEOUT = 0.5
        hosts.rescue = lambda reason: (folder / "rescued").write_text(reason)
        if not hosts.is_leader:
            (folder / "hanging").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
        hosts.all_reduce({}, 1)
    elif case == "deaf":  # like JACCL: the sum never returns
        hosts.rescue = lambda reason: (folder / "rescued").write_text(reason)
        if not hosts.is_leader:
            sys.exit(9)
        mx.distributed.all_sum = lambda *_, **__: time.sleep(60)
        module.STALL_TIMEOUT = 60
        hosts.all_reduce({}, 1)
    elif case == "late":
        hosts.all_reduce({}, 1)
        if not hosts.is_leader:
            sys.exit(9)
        hosts.all_reduce({}, 1)
    (folder / f"{hosts.rank}.json").write_text(json.dumps(results))
    if size == 3:
        hosts.require_equal("data", f"version {hosts.rank}")
    hosts.all_reduce({})  # the leader terminates its peers on exit, so wait for all of them


if sys.argv[4:] == ["--peer"]:
    sys.exit(run_peer(folder, work))
try:
    with Launcher(folder, {"hosts": size}, lambda: False, [sys.executable, __file__, *sys.argv[1:4], "--peer"]) as launcher:
        work(launcher)
except MlxtuneError as error:
    print(f"{type(error).__name__}: {error.message}")
    sys.exit(error.exit_code)
"""


@pytest.fixture
def meet(tmp_path: Path, workspace: Path):
    """Run SCRIPT with ``size`` processes and return its exit code, output and folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_text(folder / "recipe.toml", dump(load(workspace / "recipes" / "tiny.toml", ())))
    write_json(folder / "launch.json", {"request": {}})
    script = tmp_path / "meeting.py"
    script.write_text(SCRIPT)

    def run(size: int, case: str) -> tuple[int, str, Path]:
        line = [sys.executable, str(script), str(folder), str(size), case]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})
        return done.returncode, done.stdout + done.stderr, folder

    return run


def test_single_host_handles_all_rows():
    hosts = HostGroup()
    tree = {"a": mx.ones((2,))}
    assert hosts.is_leader
    assert hosts.shard([1, 2, 3]) == [1, 2, 3]
    assert hosts.all_reduce(tree, 2, True) == (tree, [2.0, 1.0])
    assert hosts.broadcast(tree) is tree
    hosts.require_equal("data", "anything")


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 4, 11])
def test_each_row_belongs_to_one_host(size, count):
    shares = [HostGroup(RankConfig(rank, size)).shard(range(count)) for rank in range(size)]
    assert sorted(row for share in shares for row in share) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("size", cases([2, 3], "3"))
def test_sums_are_identical_on_all_hosts_and_mismatched_hosts_are_named(meet, size):
    code, output, folder = meet(size, "sums")
    assert code == (0 if size == 2 else 2), output
    assert ("InputError: The data on host 1, 2 differs from the data on host 0." in output) == (size == 3)
    first, *others = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]
    ranks = sum(range(size))
    kinds = ["mlx.core.float32", "mlx.core.uint64", "mlx.core.bfloat16"]
    rows, ints, half, got = first["summed"]
    assert np.allclose(rows, ranks + 0.1 * size)
    assert (ints, half, got) == ([ranks, 7 * size], 0.5 * size, kinds)
    assert first["spread"] == [mx.full((3, 2), 0.1).tolist(), [0, 7], 0.5, kinds]
    assert (first["numbers"], first["alone"]) == ([2.5 * size, ranks], [ranks])
    for other in others:
        assert other | {"rank": 0} == first


def test_peer_that_exits_before_connecting_is_quoted(meet):
    code, output, folder = meet(2, "early")
    assert code == 4
    assert "PeerLost: Host 1 (127.0.0.1) ended with code 7: the model is not here" in output
    assert (folder / "worker-1.log").read_text() == "the model is not here\n"


def test_peer_that_exits_during_sum_is_named(meet):
    code, output, _ = meet(2, "late")
    assert code == 4
    assert "PeerLost: Host 1 (127.0.0.1) ended with code 9" in output


def test_hanging_peer_does_not_hang_leader(meet):
    code, output, folder = meet(2, "stall")
    os.kill(int((folder / "hanging").read_text()), signal.SIGKILL)
    assert code == 3, output
    assert "The other hosts did not respond for" in (folder / "rescued").read_text()


def test_lost_peer_interrupts_blocked_sum(meet):
    code, output, folder = meet(2, "deaf")
    assert code == 3, output
    assert (folder / "rescued").read_text() == "Host 1 (127.0.0.1) ended with code 9."


def test_single_host_needs_no_launch_request():
    assert launcher.launch_request(1, None) == {}
    assert launcher.launch_request(2, None) == {"hosts": 2}
    with pytest.raises(InputError, match="--hosts must be at least 2, but is 0"):
        launcher.launch_request(0, None)


PAIR = [{"ssh": "mac1", "ips": ["10.0.0.1"]}, {"ssh": "mac2", "ips": ["10.0.0.2"]}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "lists 0 hosts"),
        (json.dumps(PAIR[:1]), "lists 1 host"),
        (json.dumps([1, 2]), "is not a hostfile"),
        (json.dumps([{"ips": []}, {"ips": []}]), "is not a hostfile"),
        *(
            (json.dumps({"hosts": [{"ssh": "a", "ips": ["1"]}] * 2, "envs": envs}), "envs must be a list")
            for envs in ("A=1", {"A": "1"}, None, [1])
        ),
        (json.dumps({"hosts": PAIR, "backend": "mpi"}), "unknown backend mpi"),
        (json.dumps([PAIR[0], {"ssh": "mac2"}]), r"host 1 \(mac2\) has no address in ips"),
        (json.dumps({"hosts": PAIR, "backend": "jaccl"}), "must have 2 entries in rdma"),
    ],
)
def test_invalid_hostfile_is_refused(tmp_path, content, message):
    (tmp_path / "hosts.json").write_text(content)
    with pytest.raises(InputError, match=message):
        launcher.launch_request(1, tmp_path / "hosts.json")


@pytest.mark.parametrize("backend", ["ring", "jaccl", "jaccl-ring"])
def test_rank_configs_match_mlx_launch(tmp_path, monkeypatch, backend):
    from mlx._distributed_utils import launch
    from mlx._distributed_utils.common import Hostfile

    hosts = [
        {"ssh": f"mac{at}", "ips": [f"10.0.{at}.1", f"10.0.{at}.2"], "rdma": [None if at == other else f"rdma_en{other}" for other in range(3)]}
        for at in range(3)
    ]  # fmt: skip
    file = tmp_path / "hosts.json"
    file.write_text(json.dumps({"backend": backend, "envs": ["MLX_METAL_FAST_SYNCH=1"], "hosts": hosts}))
    launched: list[tuple[int, list[str], dict[str, str]]] = []
    monkeypatch.setattr(
        launch, "_launch_with_io",
        lambda _, arguments, verbose: launched.extend((rank, env, files) for (rank, _, _, _, files, env, _), _ in arguments),
    )  # fmt: skip
    theirs = Hostfile.from_file(file)
    args = argparse.Namespace(
        backend=backend,
        starting_port=launcher.PORT,
        connections_per_ip=1,
        env=list(theirs.envs),
        verbose=False,
        cwd=None,
        python=None,
    )
    (launch.launch_ring if backend == "ring" else launch.launch_jaccl)(argparse.ArgumentParser(), theirs.hosts, args, ["train"])
    request = launcher.launch_request(1, file)
    seats = launcher.rank_configs(launcher.parse_hosts(request), request["backend"], request["envs"])
    assert len(seats) == len(launched) == 3
    for seat, (rank, env, files) in zip(seats, launched, strict=True):
        assert seat.env == dict(pair.split("=", 1) for pair in env) | {"MLX_RANK": str(rank)}
        assert seat.files == {name: json.loads(content) for name, content in files.items()}
        assert (seat.rank, seat.size) == (rank, 3)


def test_local_processes_get_free_ports_and_split_cores(monkeypatch):
    seats = launcher.rank_configs(launcher.parse_hosts({"hosts": 3}))
    addresses = [address for host in seats[0].files["MLX_HOSTFILE"] for address in host]
    assert len(set(addresses)) == 3
    assert all(address.startswith("127.0.0.1:") for address in addresses)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for request, cores in (({}, None), ({"hosts": 2}, "4"), ({"hosts": PAIR}, None)):
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
        launcher.limit_blas_threads(request)
        assert os.environ.get("OPENBLAS_NUM_THREADS") == cores
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
