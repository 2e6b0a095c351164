"""What the pipeline is called on Kubeflow, and the container images of its tasks."""

from dataclasses import dataclass

NAME = "lissom-compression"


@dataclass(frozen=True)
class Images:
    """Container images; results are cached only for images with a digest (`registry/name@sha256:...`)."""

    train: str = "lissom-train:latest"
    """For the stages that train."""
    export: str = "lissom-export:latest"
    """For all others."""
