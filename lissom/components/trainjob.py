"""Running a training stage on several nodes of a cluster: its task starts a TrainJob of Kubeflow Trainer and waits.

Inputs and outputs are copied through a shared volume. The job's log is printed by this task; if the job fails, the task
fails; if the task is cancelled, the job is deleted. Every node runs the stage's own command, which finds the other
nodes by the environment that Trainer sets (`lissom.parallel.launch`).
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lissom.artifacts import EMISSIONS, MANIFEST, METRICS, atomic_folder, read_json
from lissom.cluster import CHECKPOINTS, CLUSTER_VARIABLE, IMAGE_VARIABLE, ClusterParams
from lissom.components.executor import write_executor_output
from lissom.errors import InputError
from lissom.parallel.config import ParallelParams
from lissom.tracking.runs import flatten

_SECONDS_BETWEEN_LOOKS = float(os.environ.get("LISSOM_TRAINJOB_SECONDS", "2"))
_FOREVER = 10**8
"""Time-out in seconds, practically none; the task can be cancelled."""
_NODE = "node"
"""Name of the replicated job and of its container, in Trainer's runtimes."""


def needs_trainjob(layout: ParallelParams) -> bool:
    """Return whether this process is a cluster task whose stage needs several nodes, and not one of these nodes."""
    return layout.nodes > 1 and CLUSTER_VARIABLE in os.environ and "PET_NODE_RANK" not in os.environ


def run_as_trainjob(
    stage: str,
    layout: ParallelParams,
    arguments: Mapping[str, Any],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> None:
    """Run a stage on `layout.nodes` nodes, wait for it, and copy its outputs to this task's output folders.

    Raises:
        InputError: there is no shared volume, or the job fails or cannot be created.
        SystemExit: the task was cancelled; the job is deleted.
    """
    cluster = ClusterParams.model_validate_json(os.environ[CLUSTER_VARIABLE])
    if cluster.checkpoints is None:
        raise InputError(
            f"parallel.nodes is {layout.nodes}: nodes share files through the claim that cluster.checkpoints names, "
            "and none is named"
        )
    exchange: Path = arguments["checkpoints"] / "exchange" / stage
    command = [*_command(stage, arguments), "--checkpoints", str(arguments["checkpoints"])]
    for name in inputs:
        copy = exchange / "inputs" / name
        with atomic_folder(copy) as folder:
            shutil.copytree(arguments[f"{name}_input"], folder, dirs_exist_ok=True)
        command += [f"--{name.replace('_', '-')}-input", str(copy)]
    for name in outputs:
        command += [f"--{name.replace('_', '-')}-output", str(exchange / "outputs" / name)]
    name = job_name(stage, arguments["pipeline_run"])
    try:
        _run(name, command, layout, cluster)
    except (RuntimeError, TimeoutError) as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        raise InputError(f"TrainJob {name}: {error}{cause}"[:600]) from None
    for output in outputs:
        with atomic_folder(arguments[f"{output}_output"]) as folder:
            shutil.copytree(exchange / "outputs" / output, folder, dirs_exist_ok=True)
    shutil.rmtree(exchange)
    if arguments["executor_input"]:
        _report(stage, arguments)


def job_name(stage: str, run: str) -> str:
    """Return the name of a stage's job, the same for every retry, so that a retry finds the previous job."""
    letters = "".join(letter for letter in run.lower() if letter.isalnum())
    return f"lissom-{stage}-{letters[:20] or 'run'}"


def _command(stage: str, arguments: Mapping[str, Any]) -> list[str]:
    command = ["python", "-m", f"lissom.components.{stage}"]
    for name, text in arguments["section"]:
        command += ["--section", name, text]
    command += ["--checkpoint-seconds", str(arguments["checkpoint_seconds"])]
    return [*command, "--pipeline-run", arguments["pipeline_run"]]


def _run(name: str, command: Sequence[str], layout: ParallelParams, cluster: ClusterParams) -> None:
    from kubeflow.trainer import TrainerClient

    client = TrainerClient()
    _remove(client, name)
    with _cancelling(client, name):
        _create(client, name, command, layout, cluster)
        for line in _logs(client, name):
            print(line, flush=True)
        job = client.wait_for_job_status(name, {"Complete", "Failed"}, _FOREVER, _SECONDS_BETWEEN_LOOKS)
    if job.status == "Failed":
        raise InputError(
            f"TrainJob {name} failed; its log is above. It is kept until the next try: kubectl describe trainjob {name}"
        )
    _remove(client, name)


def _create(client: Any, name: str, command: Sequence[str], layout: ParallelParams, cluster: ClusterParams) -> None:
    from kubeflow.trainer import CustomTrainerContainer
    from kubeflow.trainer.options import Name, TrainerCommand

    request = cluster.training
    resources: dict[str, Any] = {"cpu": request.cpu, "memory": request.memory}
    if request.gpus:
        resources[cluster.gpu_resource] = request.gpus
    env = {"MLFLOW_TRACKING_URI": cluster.tracking_uri} if cluster.tracking_uri else {}
    trainer = CustomTrainerContainer(os.environ[IMAGE_VARIABLE], layout.nodes, resources, env)
    client.train(cluster.runtime, trainer=trainer, options=[Name(name), TrainerCommand(list(command)), _pods(cluster)])


def _pods(cluster: ClusterParams) -> Any:
    """Return the patch of the nodes' pods: volumes, secrets, node selector and tolerations."""
    from kubeflow.trainer.options import (
        ContainerPatch,
        JobSetSpecPatch,
        JobSetTemplatePatch,
        JobSpecPatch,
        JobTemplatePatch,
        PodSpecPatch,
        PodTemplatePatch,
        ReplicatedJobPatch,
        RuntimePatch,
        TrainingRuntimeSpecPatch,
    )

    claims = [(cluster.checkpoints, CHECKPOINTS), *((volume.claim, volume.path) for volume in cluster.volumes)]
    volumes = [
        {"name": f"volume-{number}", "persistentVolumeClaim": {"claimName": claim}}
        for number, (claim, _) in enumerate(claims)
    ]
    mounts = [{"name": f"volume-{number}", "mountPath": path} for number, (_, path) in enumerate(claims)]
    secrets = [
        {"name": item.variable, "valueFrom": {"secretKeyRef": {"name": item.name, "key": item.key}}}
        for item in cluster.secrets
    ]
    tolerations = [
        item.model_dump(exclude_none=True) | {"operator": "Exists" if item.value is None else "Equal"}
        for item in cluster.tolerations
    ]
    pod = PodSpecPatch(
        volumes=volumes,
        containers=[ContainerPatch(_NODE, env=secrets or None, volume_mounts=mounts)],
        node_selector=cluster.node_selector or None,
        tolerations=tolerations or None,
    )
    job = JobTemplatePatch(spec=JobSpecPatch(template=PodTemplatePatch(spec=pod)))
    jobs = JobSetSpecPatch(replicated_jobs=[ReplicatedJobPatch(_NODE, job)])
    return RuntimePatch(TrainingRuntimeSpecPatch(JobSetTemplatePatch(spec=jobs)))


def _logs(client: Any, name: str) -> Iterator[str]:
    """Wait for the first node's log and yield its lines until its end."""
    while True:
        job = client.get_job(name)
        if any(step.name == f"{_NODE}-0" and step.status != "Pending" for step in job.steps):
            yield from client.get_job_logs(name, step=f"{_NODE}-0", follow=True)
            return
        if job.status in ("Complete", "Failed"):
            return
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _remove(client: Any, name: str) -> None:
    """Delete the job of this name, if there is one, and wait until it is deleted."""
    from kubernetes.client import ApiException

    def there() -> bool:
        try:
            client.get_job(name)
        except RuntimeError as error:
            if isinstance(error.__cause__, ApiException) and error.__cause__.status == 404:
                return False
            raise
        return True

    if not there():
        return
    try:
        client.delete_job(name)
    except RuntimeError as error:
        if there():  # else it has gone by itself
            raise InputError(f"TrainJob {name} of an earlier attempt cannot be deleted: {error}") from None
    while there():
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _report(name: str, arguments: Mapping[str, Any]) -> None:
    """Write the executor output from the files of the nodes."""
    metrics = arguments["metrics_output"]
    cost = read_json(metrics / EMISSIONS)
    costs = {key: cost[key] for key in ("energy_kwh", "co2e_g", "seconds")}
    costs["energy_measured"] = float(cost["method"] == "measured")
    step = read_json(arguments["model_output"] / MANIFEST)["steps"][-1]
    facts = {"stage": name, "method": step["method"], "mlflow_run": step["run_id"]}
    write_executor_output(arguments["executor_input"], dict(flatten(read_json(metrics / METRICS))) | costs, facts)


@contextmanager
def _cancelling(client: Any, name: str) -> Iterator[None]:
    """Delete the job if this task receives SIGTERM or SIGINT."""

    def cancel(number: int, _: FrameType | None) -> None:
        try:
            client.delete_job(name)
            print(f"cancelled: TrainJob {name} is deleted", file=sys.stderr, flush=True)
        except (RuntimeError, TimeoutError) as error:
            advice = f"it may still run: kubectl delete trainjob {name}"
            print(f"cancelled, but TrainJob {name} is not deleted ({error}); {advice}", file=sys.stderr, flush=True)
        sys.exit(128 + number)

    before = {signum: signal.signal(signum, cancel) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
