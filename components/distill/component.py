"""Interface of the stage `distill` for Kubeflow."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from components.interface import stage_command


@dsl.container_component
def distill(
    data: Input[Dataset],
    model: Input[Model],
    logits: Input[Artifact],
    student: Output[Model],
    metrics: Output[Metrics],
    base_params: str,
    data_params: str,
    distill_params: str,
    parallel_params: str,
    emissions_params: str,
    tracking_params: str,
) -> dsl.ContainerSpec:
    """Make a student of the teacher."""
    return stage_command(
        "distill",
        sections={
            "base": base_params,
            "data": data_params,
            "distill": distill_params,
            "parallel": parallel_params,
            "emissions": emissions_params,
            "tracking": tracking_params,
        },
        inputs={"data": data, "model": model, "logits": logits},
        outputs={"model": student, "metrics": metrics},
    )
