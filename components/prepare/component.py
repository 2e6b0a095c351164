"""Interface of the stage `prepare` for Kubeflow."""

from kfp import dsl
from kfp.dsl import Dataset, Metrics, Output

from components.interface import stage_command


@dsl.container_component
def prepare(
    data: Output[Dataset],
    metrics: Output[Metrics],
    base_params: str,
    data_params: str,
    emissions_params: str,
    tracking_params: str,
) -> dsl.ContainerSpec:
    """Read, check and split the data."""
    return stage_command(
        "prepare",
        sections={"base": base_params, "data": data_params, "emissions": emissions_params, "tracking": tracking_params},
        outputs={"data": data, "metrics": metrics},
    )
