"""Params of a cluster, used on Kubeflow only."""

from typing import Literal

from pydantic import Field

from lissom.section import Section

CHECKPOINTS = "/checkpoints"
"""Mount path of the volume for checkpoints, if there is one."""
CLUSTER_VARIABLE, IMAGE_VARIABLE = "LISSOM_CLUSTER", "LISSOM_IMAGE"
"""Environment variables of training tasks: these params as JSON, and the task's own image."""


class ResourcesParams(Section):
    """Resources of one container, in Kubernetes' units."""

    cpu: str = Field(default="2", pattern=r"^\d+(\.\d+)?m?$")
    """Cores: `2`, `0.5` or `500m`."""

    memory: str = Field(default="8Gi", pattern=r"^\d+(\.\d+)?(Ki|Mi|Gi|Ti|K|M|G|T)?$")
    """Memory: `8Gi`."""

    gpus: int = Field(default=0, ge=0)
    """Number of accelerators."""


class TolerationParams(Section):
    """A taint that pods tolerate."""

    key: str
    """Key of the taint."""

    value: str | None = None
    """Its value; null tolerates any."""

    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Its effect; null tolerates all."""


class SecretParams(Section):
    """A key of a secret as an environment variable: `MLFLOW_TRACKING_TOKEN`, `HF_TOKEN`, `AWS_ACCESS_KEY_ID`."""

    name: str
    """Name of the secret."""

    key: str
    """Key in it."""

    variable: str
    """Environment variable."""


class VolumeParams(Section):
    """A persistent volume claim, mounted in every container."""

    claim: str
    """Name of the claim."""

    path: str = Field(pattern=r"^/")
    """Mount path."""


class ClusterParams(Section):
    """Resources, secrets and volumes of the stages on a cluster."""

    training: ResourcesParams = ResourcesParams(cpu="4", memory="16Gi")
    """Stages that train: teacher, distill, prune, factorize, quantize."""

    other: ResourcesParams = ResourcesParams()
    """All other stages."""

    gpu_resource: str = "nvidia.com/gpu"
    """Kubernetes' name of the accelerator."""

    tracking_uri: str | None = None
    """MLflow server that all containers log to, as they reach it (MLFLOW_TRACKING_URI)."""

    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes that training runs on."""

    tolerations: tuple[TolerationParams, ...] = ()
    """Taints of the nodes that training runs on."""

    secrets: tuple[SecretParams, ...] = ()
    """Secrets as environment variables, in every container."""

    volumes: tuple[VolumeParams, ...] = ()
    """Volumes with data and models: `data.source: files:/data` reads from one that is mounted there."""

    checkpoints: str | None = None
    """Claim for checkpoints, from which a retried stage resumes; null restarts it. Several nodes share their files on
    it (`ReadWriteMany`)."""

    runtime: str = "torch-distributed"
    """Runtime of Kubeflow Trainer for stages that need several nodes (`parallel.nodes`)."""

    retries: int = Field(default=3, ge=0)
    """Number of retries of a failed training stage; other stages are retried once."""

    backoff_seconds: int = Field(default=30, ge=0)
    """Wait before the first retry; it doubles with every retry, up to an hour."""
