"""Table of all stages of the pipeline: their inputs, outputs and params.

The command line (`arguments`), the runner (`runner`), the Kubeflow components (`interface`) and dvc.yaml
(`lissom.pipelines.dvc`) are derived from it. Imports no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lissom.artifacts import FINAL, TEACHER

METRICS_FOLDER = "metrics"
"""The output that every stage has besides its own: metrics.json, emissions.json, history.json."""

OWN, EVERY = "<own>", "<every>"
"""In a source: the variant that the reading stage itself runs for, or all variants."""

COMMON_SECTIONS = ("base", "data", "variants", "emissions", "tracking")
"""Sections of the params that the runner reads for every stage; a change of them alone does not rerun a stage."""


@dataclass(frozen=True)
class Source:
    """Origin of an input."""

    stage: str
    """The stage that writes it; OWN for the stage that the reader's variant is named after."""
    output: str
    variant: str = ""
    """For a stage that runs once per variant: which one, OWN or EVERY."""


@dataclass(frozen=True)
class StageSpec:
    """One stage."""

    name: str
    help: str
    inputs: Mapping[str, Source] = field(default_factory=dict)
    """By the name of the option, `--NAME-input`."""
    outputs: Sequence[str] = ()
    """Besides the metrics; the first one lies in the folder that is called like the stage."""
    sections: Sequence[str] = ()
    """Sections of the params whose change reruns the stage."""
    trains: bool = False
    """Runs in as many processes as `parallel` says, and resumes from checkpoints."""
    per_variant: bool = False

    @property
    def own_section(self) -> str:
        """Return the section that holds the stage's own params."""
        return self.sections[0] if self.sections else ""


_DATA = Source("prepare", "data")
_FINAL_MODEL, _FINAL_EXPORT = Source(FINAL, "model"), Source("export", "export", FINAL)
_EVALUATIONS = Source("evaluate", METRICS_FOLDER, EVERY)


def _compressing(name: str, text: str, before: str, *sections: str) -> StageSpec:
    """Return the spec of a stage that takes the model of the stage before and trains it against the teacher."""
    inputs = {"data": _DATA, "model": Source(before, "model"), "logits": Source(TEACHER, "logits")}
    return StageSpec(name, text, inputs, ("model",), (name, *sections, "parallel"), trains=True)


STAGES = (
    StageSpec("prepare", "Read, check and split the data.", outputs=("data",), sections=("data",)),
    StageSpec(
        TEACHER, "Fine-tune the base model on the task, and compute its logits for every training example once.",
        {"data": _DATA}, ("model", "logits"), ("teacher", "base", "parallel"), trains=True,
    ),
    _compressing("distill", "Make a student of the teacher.", TEACHER, "base"),
    _compressing("prune", "Remove the structures that matter least, then let the model recover.", "distill"),
    _compressing("factorize", "Replace matrices by smaller ones, then let the model recover.", "prune"),
    _compressing("quantize", "Train with fake quantisation, so that the exported integers lose nothing.", "factorize"),
    StageSpec(
        "export", "Export one variant and compare the file with torch.",
        {"data": _DATA, "model": Source(OWN, "model")}, ("export",), ("export",), per_variant=True,
    ),
    StageSpec(
        "evaluate", "Measure one variant on its exported file, next to the teacher.",
        {
            "data": _DATA, "model": Source(OWN, "model"), "export": Source("export", "export", OWN),
            "teacher": Source(TEACHER, "model"), "teacher_export": Source("export", "export", TEACHER),
        },
        sections=("evaluate",), per_variant=True,
    ),
    StageSpec(
        "emissions", "Measure the energy of inference, and compute when compressing has paid for itself.",
        {
            "data": _DATA, "teacher": Source(TEACHER, "model"), "model": _FINAL_MODEL, "export": _FINAL_EXPORT,
            "evaluations": _EVALUATIONS,
        },
        sections=("emissions", "variants"),
    ),
    StageSpec(
        "report", "Write the ledger and the page.",
        {
            "data": _DATA, "model": _FINAL_MODEL, "evaluations": _EVALUATIONS,
            "emissions": Source("emissions", METRICS_FOLDER),
        },
        ("report",), ("variants", "emissions"),
    ),
    StageSpec(
        "register", "Register the final artefact, load it back, and move the aliases that it deserves.",
        {
            "data": _DATA, "model": _FINAL_MODEL, "export": _FINAL_EXPORT, "evaluations": _EVALUATIONS,
            "report": Source("report", "report"),
        },
        sections=("gates", "tracking", "variants", "evaluate"),
    ),
)  # fmt: skip
"""In the order in which they run."""


def spec_of(name: str) -> StageSpec:
    """Return the spec of a stage."""
    return next(spec for spec in STAGES if spec.name == name)


def place_of(stage: str, output: str, variant: str = "") -> str:
    """Return the folder that DVC keeps an output in, for example `artifacts/export/teacher`."""
    if output == METRICS_FOLDER:
        folder = f"metrics/{stage}"
    else:
        folder = f"artifacts/{stage}" if output == spec_of(stage).outputs[0] else f"artifacts/{stage}_{output}"
    return f"{folder}/{variant}" if variant else folder


def inputs_of(spec: StageSpec, variant: str) -> dict[str, str]:
    """Return the folder of every input by name; for inputs of all variants, the parent of their folders."""
    folders = {}
    for name, source in spec.inputs.items():
        if source.stage == OWN:
            folders[name] = f"artifacts/{variant}"
        else:
            chosen = {OWN: variant, EVERY: ""}.get(source.variant, source.variant)
            folders[name] = place_of(source.stage, source.output, chosen)
    return folders


def outputs_of(spec: StageSpec, variant: str) -> dict[str, str]:
    """Return the folder of every output by name."""
    return {name: place_of(spec.name, name, variant) for name in (*spec.outputs, METRICS_FOLDER)}


def folder_options(spec: StageSpec, variant: str) -> list[str]:
    """Return the options of a stage's command line that name its variant and its folders."""
    words = ["--variant", variant] if spec.per_variant else []
    for role, folders in (("input", inputs_of(spec, variant)), ("output", outputs_of(spec, variant))):
        for name, folder in folders.items():
            words += [option(name, role), folder]
    return words


def option(name: str, role: str) -> str:
    """Return the option of an input or an output, for example `--teacher-export-input`."""
    return f"--{name.replace('_', '-')}-{role}"
