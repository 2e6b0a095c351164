"""Interface of the stage `teacher` for Kubeflow."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from components.interface import stage_command


@dsl.container_component
def teacher(
    data: Input[Dataset],
    model: Output[Model],
    logits: Output[Artifact],
    metrics: Output[Metrics],
    base_params: str,
    data_params: str,
    teacher_params: str,
    parallel_params: str,
    emissions_params: str,
    tracking_params: str,
) -> dsl.ContainerSpec:
    """Fine-tune the base model, and compute its logits of every training example."""
    return stage_command(
        "teacher",
        sections={
            "base": base_params,
            "data": data_params,
            "teacher": teacher_params,
            "parallel": parallel_params,
            "emissions": emissions_params,
            "tracking": tracking_params,
        },
        inputs={"data": data},
        outputs={"model": model, "logits": logits, "metrics": metrics},
    )
