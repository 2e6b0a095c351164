"""Interface of the stage `register` for Kubeflow."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from components.interface import stage_command


@dsl.container_component
def register(
    data: Input[Dataset],
    model: Input[Model],
    export: Input[Model],
    report: Input[Artifact],
    prepare_metrics: Input[Metrics],
    evaluate_teacher_metrics: Input[Metrics],
    evaluate_distill_metrics: Input[Metrics],
    evaluate_prune_metrics: Input[Metrics],
    evaluate_factorize_metrics: Input[Metrics],
    evaluate_quantize_metrics: Input[Metrics],
    metrics: Output[Metrics],
    base_params: str,
    data_params: str,
    gates_params: str,
    emissions_params: str,
    tracking_params: str,
) -> dsl.ContainerSpec:
    """Register the final artefact, load it back, and move the aliases that it deserves."""
    return stage_command(
        "register",
        sections={
            "base": base_params,
            "data": data_params,
            "gates": gates_params,
            "emissions": emissions_params,
            "tracking": tracking_params,
        },
        inputs={"data": data, "model": model, "export": export, "report": report},
        metrics={
            "prepare": prepare_metrics,
            "evaluate/teacher": evaluate_teacher_metrics,
            "evaluate/distill": evaluate_distill_metrics,
            "evaluate/prune": evaluate_prune_metrics,
            "evaluate/factorize": evaluate_factorize_metrics,
            "evaluate/quantize": evaluate_quantize_metrics,
        },
        outputs={"metrics": metrics},
    )
