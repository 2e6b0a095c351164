"""Interface of the stage `export` for Kubeflow."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components.interface import stage_command


@dsl.container_component
def export(
    data: Input[Dataset],
    model: Input[Model],
    onnx: Output[Model],
    metrics: Output[Metrics],
    variant: str,
    base_params: str,
    data_params: str,
    export_params: str,
    emissions_params: str,
    tracking_params: str,
) -> dsl.ContainerSpec:
    """Export one variant to ONNX and hold it to torch."""
    return stage_command(
        "export",
        sections={
            "base": base_params,
            "data": data_params,
            "export": export_params,
            "emissions": emissions_params,
            "tracking": tracking_params,
        },
        inputs={"data": data, "model": model},
        outputs={"export": onnx, "metrics": metrics},
        variant=variant,
    )
