"""Interface of the stage `report` for Kubeflow."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Metrics, Model, Output

from components.interface import stage_command


@dsl.container_component
def report(
    model: Input[Model],
    prepare_metrics: Input[Metrics],
    teacher_metrics: Input[Metrics],
    distill_metrics: Input[Metrics],
    prune_metrics: Input[Metrics],
    factorize_metrics: Input[Metrics],
    quantize_metrics: Input[Metrics],
    export_teacher_metrics: Input[Metrics],
    export_distill_metrics: Input[Metrics],
    export_prune_metrics: Input[Metrics],
    export_factorize_metrics: Input[Metrics],
    export_quantize_metrics: Input[Metrics],
    evaluate_teacher_metrics: Input[Metrics],
    evaluate_distill_metrics: Input[Metrics],
    evaluate_prune_metrics: Input[Metrics],
    evaluate_factorize_metrics: Input[Metrics],
    evaluate_quantize_metrics: Input[Metrics],
    emissions_metrics: Input[Metrics],
    ledger: Output[Artifact],
    metrics: Output[Metrics],
    page: Output[HTML],
    base_params: str,
    data_params: str,
    emissions_params: str,
    tracking_params: str,
) -> dsl.ContainerSpec:
    """Write the ledger and the page."""
    return stage_command(
        "report",
        sections={"base": base_params, "data": data_params, "emissions": emissions_params, "tracking": tracking_params},
        inputs={"model": model},
        metrics={
            "prepare": prepare_metrics,
            "teacher": teacher_metrics,
            "distill": distill_metrics,
            "prune": prune_metrics,
            "factorize": factorize_metrics,
            "quantize": quantize_metrics,
            "export/teacher": export_teacher_metrics,
            "export/distill": export_distill_metrics,
            "export/prune": export_prune_metrics,
            "export/factorize": export_factorize_metrics,
            "export/quantize": export_quantize_metrics,
            "evaluate/teacher": evaluate_teacher_metrics,
            "evaluate/distill": evaluate_distill_metrics,
            "evaluate/prune": evaluate_prune_metrics,
            "evaluate/factorize": evaluate_factorize_metrics,
            "evaluate/quantize": evaluate_quantize_metrics,
            "emissions": emissions_metrics,
        },
        outputs={"report": ledger, "metrics": metrics},
        page=page,
    )
