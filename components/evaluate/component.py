"""Interface of the stage `evaluate` for Kubeflow."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components.interface import stage_command


@dsl.container_component
def evaluate(
    data: Input[Dataset],
    model: Input[Model],
    export: Input[Model],
    teacher: Input[Model],
    teacher_export: Input[Model],
    metrics: Output[Metrics],
    variant: str,
    base_params: str,
    data_params: str,
    evaluate_params: str,
    gates_params: str,
    emissions_params: str,
    tracking_params: str,
) -> dsl.ContainerSpec:
    """Measure one variant on its exported file, next to the teacher."""
    return stage_command(
        "evaluate",
        sections={
            "base": base_params,
            "data": data_params,
            "evaluate": evaluate_params,
            "gates": gates_params,
            "emissions": emissions_params,
            "tracking": tracking_params,
        },
        inputs={"data": data, "model": model, "export": export, "teacher": teacher, "teacher_export": teacher_export},
        outputs={"metrics": metrics},
        variant=variant,
    )
