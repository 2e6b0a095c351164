"""Interface of the stage `quantize` for Kubeflow."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from components.interface import stage_command


@dsl.container_component
def quantize(
    data: Input[Dataset],
    model: Input[Model],
    logits: Input[Artifact],
    student: Output[Model],
    metrics: Output[Metrics],
    base_params: str,
    data_params: str,
    quantize_params: str,
    parallel_params: str,
    emissions_params: str,
    tracking_params: str,
) -> dsl.ContainerSpec:
    """Train with simulated int8."""
    return stage_command(
        "quantize",
        sections={
            "base": base_params,
            "data": data_params,
            "quantize": quantize_params,
            "parallel": parallel_params,
            "emissions": emissions_params,
            "tracking": tracking_params,
        },
        inputs={"data": data, "model": model, "logits": logits},
        outputs={"model": student, "metrics": metrics},
    )
