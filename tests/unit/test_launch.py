"""How torchrun is called; what it does is tested in tests/distributed."""

import pytest

from lissom.errors import InputError
from lissom.parallel.config import ParallelParams
from lissom.parallel.launch import _torchrun


def test_one_machine_needs_no_address():
    command = _torchrun(ParallelParams(data=2, pipeline=2, microbatches=2, restarts=1), {})
    assert {"--nproc-per-node=4", "--max-restarts=1", "--standalone"} <= set(command)


def test_several_machines_meet_where_the_environment_says():
    environment = {"PET_NODE_RANK": "1", "PET_MASTER_ADDR": "node-0.job", "PET_MASTER_PORT": "29500"}
    command = _torchrun(ParallelParams(nodes=2, data=8, timeout_seconds=90), environment)
    assert {"--nproc-per-node=4", "--nnodes=2", "--node-rank=1", "--rdzv-endpoint=node-0.job:29500"} <= set(command)
    assert "--rdzv-conf=is_host=0,join_timeout=90" in command
    with pytest.raises(InputError, match="PET_MASTER_PORT must be set"):
        _torchrun(ParallelParams(nodes=2, data=8), {name: environment[name] for name in list(environment)[:2]})
