"""Resources of the tasks on the cluster, from the params."""

import kfp.kubernetes as kubernetes  # in this form, the error names the package where it is missing
from kfp import dsl

from lissom.cluster import CHECKPOINTS, CLUSTER_VARIABLE, IMAGE_VARIABLE, ClusterParams

_LONGEST_BACKOFF = "3600s"


def place(
    task: dsl.PipelineTask, cluster: ClusterParams, image: str, *, training: bool, cached: bool, nodes: int = 1
) -> dsl.PipelineTask:
    """Set a task's image, resources, retries, secrets and volumes; for training stages also nodes and checkpoints.

    Args:
        task: the task, changed in place and returned.
        cluster: params of the cluster.
        image: container image.
        training: whether the stage trains, so that it has more retries and resumes from checkpoints.
        cached: whether the result of the same task with the same params may be taken.
        nodes: number of nodes of the training; with several, the task itself only starts and watches the job.
    """
    request = cluster.training if training and nodes == 1 else cluster.other
    task.set_container_image(image)
    task.set_cpu_request(request.cpu).set_cpu_limit(request.cpu)
    task.set_memory_request(request.memory).set_memory_limit(request.memory)
    task.set_retry(
        cluster.retries if training else min(1, cluster.retries),
        backoff_duration=f"{cluster.backoff_seconds}s",
        backoff_factor=2.0,
        backoff_max_duration=_LONGEST_BACKOFF,
    )
    task.set_caching_options(cached)
    if request.gpus:
        task.set_accelerator_type(cluster.gpu_resource).set_accelerator_limit(request.gpus)
    if cluster.tracking_uri is not None:
        task.set_env_variable("MLFLOW_TRACKING_URI", cluster.tracking_uri)
    for secret in cluster.secrets:
        kubernetes.use_secret_as_env(task, secret.name, {secret.key: secret.variable})
    for volume in cluster.volumes:
        kubernetes.mount_pvc(task, volume.claim, volume.path)
    if training:
        task.set_env_variable(IMAGE_VARIABLE, image).set_env_variable(CLUSTER_VARIABLE, cluster.model_dump_json())
        _place_training(task, cluster)
    return task


def _place_training(task: dsl.PipelineTask, cluster: ClusterParams) -> None:
    if cluster.checkpoints is not None:
        kubernetes.mount_pvc(task, cluster.checkpoints, CHECKPOINTS)
    for label, value in cluster.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for toleration in cluster.tolerations:
        kubernetes.add_toleration(
            task,
            key=toleration.key,
            operator="Exists" if toleration.value is None else "Equal",
            value=toleration.value,
            effect=toleration.effect,
        )
