"""Hosts: shares, sums over real processes, and how each kind of loss ends; hostfiles against what mlx.launch makes of them."""

from __future__ import annotations

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

from mlxtune.core.errors import InputError
from mlxtune.core.files import write_json, write_text
from mlxtune.recipe import dump, load
from mlxtune.training import peers
from mlxtune.training.hosts import Hosts
from mlxtune.training.peers import Seat

# Both sides of a meeting: `lead FOLDER SIZE CASE` starts the others, which run the same file with --peer.
SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
import mlx.core as mx
import numpy as np
from mlxtune.core.errors import MlxtuneError
from mlxtune.training import hosts as module
from mlxtune.training.peers import Crew, follow

folder, size, case = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
module.LOST, module.STALLED = 0.5, 1.5


def work(crew):
    if case == "early" and not crew.leads:
        print("the model is not here")
        sys.exit(7)
    hosts = module.join(crew)
    tree = {"a": mx.full((3, 2), hosts.rank + 0.1), "b": [mx.array([hosts.rank, 7], mx.uint64)], "c": mx.array(0.5, mx.bfloat16)}
    found = {"rank": hosts.rank, "size": hosts.size}
    if case == "sums":
        summed, numbers = hosts.total(tree, 2.5, hosts.rank)
        spread = hosts.spread(tree)
        noise, _ = hosts.total(mx.random.normal((100_000,), key=mx.random.key(hosts.rank)))
        found |= {"numbers": numbers, "alone": hosts.total({}, hosts.rank)[1], "noise": np.array(noise).tobytes().hex()[:4000]}
        for name, made in (("summed", summed), ("spread", spread)):
            kinds = [str(array.dtype) for array in (made["a"], made["b"][0], made["c"])]
            found[name] = [made["a"].tolist(), made["b"][0].tolist(), made["c"].item(), kinds]
        hosts.agree("data", "the same")
    elif case == "agree":
        hosts.agree("data", f"version {hosts.rank}")
    elif case == "stall":
        hosts.rescue = lambda reason: (folder / "rescued").write_text(reason)
        if not hosts.leads:
            (folder / "hanging").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
        hosts.total({}, 1)
    elif case == "deaf":  # as JACCL: the sum goes on for ever
        hosts.rescue = lambda reason: (folder / "rescued").write_text(reason)
        if not hosts.leads:
            sys.exit(9)
        mx.distributed.all_sum = lambda *_, **__: time.sleep(60)
        module.STALLED = 60
        hosts.total({}, 1)
    elif case == "late":
        hosts.total({}, 1)
        if not hosts.leads:
            sys.exit(9)
        hosts.total({}, 1)
    (folder / f"{hosts.rank}.json").write_text(json.dumps(found))
    hosts.total({})  # whoever leads ends the others, so it waits


if sys.argv[4:] == ["--peer"]:
    sys.exit(follow(folder, work))
try:
    with Crew(folder, {"hosts": size}, lambda: False, [sys.executable, __file__, *sys.argv[1:4], "--peer"]) as crew:
        work(crew)
except MlxtuneError as error:
    print(f"{type(error).__name__}: {error.message}")
    sys.exit(error.exit_code)
"""


@pytest.fixture
def meet(tmp_path: Path, workspace: Path):
    """Runs SCRIPT with as many processes; returns its exit code, its output and the folder."""
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


def test_a_single_host_does_everything_itself() -> None:
    hosts = Hosts()
    tree = {"a": mx.ones((2,))}
    assert hosts.leads
    assert hosts.share([1, 2, 3]) == [1, 2, 3]
    assert hosts.total(tree, 2, True) == (tree, [2.0, 1.0])
    assert hosts.spread(tree) is tree
    hosts.agree("data", "anything")


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 4, 11])
def test_each_row_has_one_host(size: int, count: int) -> None:
    shares = [Hosts(Seat(rank, size)).share(range(count)) for rank in range(size)]
    assert sorted(row for share in shares for row in share) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("size", [2, 3])
def test_sums_are_right_and_the_same_bits_everywhere(meet, size: int) -> None:
    code, output, folder = meet(size, "sums")
    assert code == 0, output
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


def test_hosts_that_do_not_have_the_same_are_named(meet) -> None:
    code, output, _ = meet(3, "agree")
    assert code == 2
    assert "InputError: Host 1, 2 does not have the same data as host 0." in output


def test_a_peer_that_ends_before_the_meeting_is_quoted(meet) -> None:
    code, output, folder = meet(2, "early")
    assert code == 4
    assert "PeerLost: Host 1 (127.0.0.1) ended with code 7: the model is not here" in output
    assert (folder / "worker-1.log").read_text() == "the model is not here\n"


def test_a_peer_that_ends_during_a_sum_is_named(meet) -> None:
    code, output, _ = meet(2, "late")
    assert code == 4
    assert "PeerLost: Host 1 (127.0.0.1) ended with code 9" in output


def test_a_peer_that_hangs_does_not_hang_the_leader(meet) -> None:
    code, output, folder = meet(2, "stall")
    os.kill(int((folder / "hanging").read_text()), signal.SIGKILL)
    assert code == 3, output
    assert "No word from the other hosts for" in (folder / "rescued").read_text()


def test_a_lost_peer_ends_a_sum_that_does_not_notice(meet) -> None:
    code, output, folder = meet(2, "deaf")
    assert code == 3, output
    assert (folder / "rescued").read_text() == "Host 1 (127.0.0.1) ended with code 9"


def test_one_host_needs_no_request() -> None:
    assert peers.request(1, None) == {}
    assert peers.request(2, None) == {"hosts": 2}
    with pytest.raises(InputError, match="0 hosts cannot train"):
        peers.request(0, None)


PAIR = [{"ssh": "mac1", "ips": ["10.0.0.1"]}, {"ssh": "mac2", "ips": ["10.0.0.2"]}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "names 0 hosts"),
        (json.dumps(PAIR[:1]), "names 1 host;"),
        (json.dumps([1, 2]), "is no hostfile"),
        (json.dumps([{"ips": []}, {"ips": []}]), "is no hostfile"),
        (json.dumps({"hosts": PAIR, "backend": "mpi"}), "asks for the backend mpi"),
        (json.dumps([PAIR[0], {"ssh": "mac2"}]), r"host 1 \(mac2\) has no address in ips"),
        (json.dumps({"hosts": PAIR, "backend": "jaccl"}), "needs 2 entries in rdma"),
    ],
)
def test_a_hostfile_that_cannot_work_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "hosts.json").write_text(content)
    with pytest.raises(InputError, match=message):
        peers.request(1, tmp_path / "hosts.json")


@pytest.mark.parametrize("backend", ["ring", "jaccl", "jaccl-ring"])
def test_seats_are_those_of_mlx_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
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
        backend=backend, starting_port=peers.PORT, connections_per_ip=1, env=list(theirs.envs), verbose=False, cwd=None, python=None
    )
    (launch.launch_ring if backend == "ring" else launch.launch_jaccl)(argparse.ArgumentParser(), theirs.hosts, args, ["train"])
    asked = peers.request(1, file)
    seats = peers.seats(peers.hosts_of(asked), asked["backend"], asked["envs"])
    assert len(seats) == len(launched) == 3
    for seat, (rank, env, files) in zip(seats, launched, strict=True):
        assert seat.env == dict(pair.split("=", 1) for pair in env) | {"MLX_RANK": str(rank)}
        assert seat.files == {name: json.loads(content) for name, content in files.items()}
        assert (seat.rank, seat.size) == (rank, 3)


def test_processes_of_one_machine_get_free_ports_and_their_part_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    seats = peers.seats(peers.hosts_of({"hosts": 3}))
    addresses = [address for host in seats[0].files["MLX_HOSTFILE"] for address in host]
    assert len(set(addresses)) == 3
    assert all(address.startswith("127.0.0.1:") for address in addresses)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for request, cores in (({}, None), ({"hosts": 2}, "4"), ({"hosts": PAIR}, None)):
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
        peers.share_cores(request)
        assert os.environ.get("OPENBLAS_NUM_THREADS") == cores
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
