"""Interface of the stage `emissions` for Kubeflow."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components.interface import stage_command


@dsl.container_component
def emissions(
    data: Input[Dataset],
    teacher: Input[Model],
    model: Input[Model],
    export: Input[Model],
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
    metrics: Output[Metrics],
    base_params: str,
    data_params: str,
    emissions_params: str,
    tracking_params: str,
) -> dsl.ContainerSpec:
    """Measure the energy of inference, and tell when compressing has paid for itself."""
    return stage_command(
        "emissions",
        sections={"base": base_params, "data": data_params, "emissions": emissions_params, "tracking": tracking_params},
        inputs={"data": data, "teacher": teacher, "model": model, "export": export},
        metrics={
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
        },
        outputs={"metrics": metrics},
    )
