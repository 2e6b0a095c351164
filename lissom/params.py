"""The params of a whole pipeline, composed of one section per stage."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, ValidationInfo, model_validator

from lissom.artifacts import STEPS, Step
from lissom.cluster import ClusterParams
from lissom.conflicts import conflicts
from lissom.data.config import DataParams
from lissom.distill.config import DistillParams, NoDistillation
from lissom.emissions.config import EmissionsParams
from lissom.errors import ParamsError
from lissom.evaluate.config import EvaluateParams
from lissom.explanation import explain
from lissom.export.config import ExportParams
from lissom.factorize.config import FactorizeParams
from lissom.models.config import BaseParams
from lissom.overrides import apply_override
from lissom.parallel.config import ParallelParams
from lissom.prune.config import PruneParams
from lissom.quantize.config import QuantizeParams
from lissom.safe_yaml import parse
from lissom.section import Section
from lissom.tracking.config import GatesParams, TrackingParams
from lissom.training.config import TeacherParams
from lissom.unusable_numbers import unusable_numbers

_OF_ONE_STAGE = "of_one_stage"


class Params(Section):
    """All sections of params.yaml. A compression stage without a section does not change its model."""

    base: BaseParams
    data: DataParams
    teacher: TeacherParams = TeacherParams()
    distill: DistillParams = Field(default=NoDistillation(method="none"))
    prune: PruneParams = ()
    factorize: FactorizeParams = ()
    quantize: QuantizeParams = ()
    variants: tuple[Step, ...] = STEPS
    """Stages whose model is exported and measured: `teacher` first, `quantize` last, and any others between."""
    export: ExportParams = ExportParams()
    evaluate: EvaluateParams = EvaluateParams()
    emissions: EmissionsParams = EmissionsParams()
    tracking: TrackingParams = TrackingParams()
    gates: GatesParams = GatesParams()
    parallel: ParallelParams | Literal["auto"] = ParallelParams()
    cluster: ClusterParams = ClusterParams()

    @model_validator(mode="after")
    def _sections_fit_each_other(self, info: ValidationInfo) -> "Params":
        of_one_stage = (info.context or {}).get(_OF_ONE_STAGE, False)
        if problems := [*unusable_numbers(self), *([] if of_one_stage else conflicts(self))]:
            raise ValueError("\n".join(problems))
        return self


def load_params(path: Path, overrides: Sequence[str] = ()) -> Params:
    """Read and check a params file; `overrides` are `section.key=value` with the value in YAML.

    Raises:
        ParamsError: the file is missing or no YAML mapping, keys are unknown, missing or out of range, or sections do
            not fit each other. All errors of keys are listed at once, each with its key, the value given and what is
            allowed; those of sections, if no key is wrong.
    """
    try:
        values = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such params file; `lissom init` writes one") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not a YAML file in UTF-8: {error}") from None
    except IsADirectoryError:
        raise ParamsError(f"{path}: a folder; name the params file in it") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: a mapping of sections is expected, found {type(values).__name__}")
    for override in overrides:
        apply_override(values, override)
    return check_params(values, str(path))


def check_params(values: Mapping[str, Any], origin: str = "params", *, of_one_stage: bool = False) -> Params:
    """Check params that are given as a mapping; raises `ParamsError` as `load_params` does.

    Args:
        values: the sections.
        origin: where they come from, for messages.
        of_one_stage: whether sections that are not given are left out because a stage does not read them, so that
            nothing is known of what sections do to each other.
    """
    try:
        return Params.model_validate(values, context={_OF_ONE_STAGE: of_one_stage})
    except ValidationError as error:
        lines = [line for detail in error.errors() for line in explain(dict(detail), values, Params).split("\n")]
    lines = list(dict.fromkeys(filter(None, lines)))
    raise ParamsError(f"{origin}: {len(lines)} error{'s'[: len(lines) != 1]}\n" + "\n".join(lines))
