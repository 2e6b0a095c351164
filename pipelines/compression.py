"""The pipeline for Kubeflow: the graph of dvc.yaml, stage by stage and artefact by artefact; a test compares them."""

import json
from dataclasses import dataclass

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.distill.component import distill as distill_stage
from components.emissions.component import emissions as emissions_stage
from components.evaluate.component import evaluate as evaluate_stage
from components.export.component import export as export_stage
from components.factorize.component import factorize as factorize_stage
from components.prepare.component import prepare as prepare_stage
from components.prune.component import prune as prune_stage
from components.quantize.component import quantize as quantize_stage
from components.register.component import register as register_stage
from components.report.component import report as report_stage
from components.teacher.component import teacher as teacher_stage
from lissom.artifacts import VARIANTS
from lissom.params import Params
from pipelines.resources import place

NAME = "lissom-compression"


@dataclass(frozen=True)
class Images:
    """Container images, each best named with its digest (`registry/name@sha256:...`): others are not cached."""

    train: str = "lissom-train:latest"
    """For the stages that train."""
    export: str = "lissom-export:latest"
    """For all others."""


def compression(params: Params, images: Images) -> BaseComponent:
    """Return the pipeline with these params as defaults of its runs: one parameter for every section, as JSON."""
    # As JSON: Kubeflow's own dictionaries know no null, and turn whole numbers into fractions.
    given = {name: json.dumps(section) for name, section in params.model_dump(mode="json", exclude={"cluster"}).items()}

    nodes = 1 if isinstance(params.parallel, str) else params.parallel.nodes

    def put(task: dsl.PipelineTask, name: str, *, training: bool = False) -> dsl.PipelineTask:
        task.set_display_name(name)
        image = images.train if training else images.export
        return place(task, params.cluster, image, training=training, nodes=nodes)

    @dsl.pipeline(name=NAME, description="Teacher, distil, prune, factorise, quantise, export, measure, register.")
    def pipeline(
        base: str = given["base"],
        data: str = given["data"],
        teacher: str = given["teacher"],
        distill: str = given["distill"],
        prune: str = given["prune"],
        factorize: str = given["factorize"],
        quantize: str = given["quantize"],
        parallel: str = given["parallel"],
        export: str = given["export"],
        evaluate: str = given["evaluate"],
        emissions: str = given["emissions"],
        tracking: str = given["tracking"],
        gates: str = given["gates"],
    ) -> None:
        common = {"base_params": base, "data_params": data, "emissions_params": emissions, "tracking_params": tracking}
        prepared = put(prepare_stage(**common), "prepare")
        dataset = prepared.outputs["data"]
        training = {**common, "parallel_params": parallel}
        taught = put(teacher_stage(data=dataset, teacher_params=teacher, **training), "teacher", training=True)
        known = {"data": dataset, "logits": taught.outputs["logits"], **training}
        models, metrics = {"teacher": taught.outputs["model"]}, {"teacher": taught.outputs["metrics"]}
        for name, stage, section in (
            ("distill", distill_stage, distill),
            ("prune", prune_stage, prune),
            ("factorize", factorize_stage, factorize),
            ("quantize", quantize_stage, quantize),
        ):
            before = list(models.values())[-1]
            task = put(stage(model=before, **known, **{f"{name}_params": section}), name, training=True)
            models[name], metrics[name] = task.outputs["student"], task.outputs["metrics"]
        exported, evaluated = {}, {}
        for variant in VARIANTS:
            task = export_stage(data=dataset, model=models[variant], variant=variant, export_params=export, **common)
            exported[variant] = put(task, f"export@{variant}")
        files = {variant: task.outputs["onnx"] for variant, task in exported.items()}
        for variant in VARIANTS:
            task = evaluate_stage(
                data=dataset, model=models[variant], export=files[variant], variant=variant,
                teacher=models["teacher"], teacher_export=files["teacher"],
                evaluate_params=evaluate, gates_params=gates, **common,
            )  # fmt: skip
            evaluated[variant] = put(task, f"evaluate@{variant}")
        last = VARIANTS[-1]
        evaluations = {f"evaluate_{variant}_metrics": task.outputs["metrics"] for variant, task in evaluated.items()}
        figures = {f"{stage}_metrics": found for stage, found in metrics.items()} | evaluations
        figures |= {f"export_{variant}_metrics": task.outputs["metrics"] for variant, task in exported.items()}
        ends = {"teacher": models["teacher"], "model": models[last], "export": files[last]}
        spent = put(emissions_stage(data=dataset, **ends, **figures, **common), "emissions")
        prepare_metrics = prepared.outputs["metrics"]
        told = put(
            report_stage(
                model=models[last], prepare_metrics=prepare_metrics, emissions_metrics=spent.outputs["metrics"],
                **figures, **common,
            ),
            "report",
        )  # fmt: skip
        put(
            register_stage(
                data=dataset, model=models[last], export=files[last], report=told.outputs["ledger"],
                prepare_metrics=prepare_metrics, gates_params=gates, **evaluations, **common,
            ),
            "register",
        )  # fmt: skip

    return pipeline
