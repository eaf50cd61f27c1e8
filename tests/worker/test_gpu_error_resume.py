"""A training run that meets a GPU error resumes from its checkpoint in a new process, and ends with the same adapter."""

import os
from dataclasses import replace

import pytest
from in_process_workers import run_workers_here
from waiting import finish

from mlxtune.core.hashing import sha256_file
from mlxtune.recipe import load
from mlxtune.runs import events, launch, registry
from mlxtune.runs.registry import Run

pytestmark = pytest.mark.slow

FAULTY_WORKER = """
import os, sys
from mlxtune.training import worker

lead = worker.lead
def faulty_lead(process):
    from mlxtune.training import loop  # imports mlx, after the BLAS

    step = loop._TrainingRun._step
    def faulty_step(self, plan, batches, plans):
        if plan.step == 5 and "MLXTUNE_RESTARTED" not in os.environ:
            raise RuntimeError("[METAL] Command buffer execution failed: Impacting Interactivity "
                               "(0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity).")
        return step(self, plan, batches, plans)
    loop._TrainingRun._step = faulty_step
    return lead(process)
worker.lead = faulty_lead
sys.exit(worker.main())
"""


def trained(run: Run) -> str:
    """Wait for the end and return the hash of the adapter."""
    return sha256_file(finish(run).adapter / "adapters.safetensors")


@pytest.mark.exhaustive
def test_a_gpu_error_costs_only_the_steps_since_the_checkpoint(workspace, monkeypatch):
    recipe = load(workspace / "recipes" / "tiny.toml")
    with monkeypatch.context() as patch:
        run_workers_here(patch)
        expected = trained(launch.start(workspace, "train", recipe))
    (workspace / "faulty_worker.py").write_text(FAULTY_WORKER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(workspace), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setitem(registry.RUN_KINDS, "train", replace(registry.RUN_KINDS["train"], module="faulty_worker"))
    run = launch.start(workspace, "train", recipe)
    assert trained(run) == expected
    log = events.read_all(run.folder)
    restart = next(index for index, event in enumerate(log) if event["type"] == "run.restarting")
    assert [event["step"] for event in log[restart:] if event["type"] in ("run.resumed", "step")][:2] == [4, 5]
    assert [event["seq"] for event in log] == list(range(len(log)))
    assert run.state().warnings[0].code == "gpu_restart"
