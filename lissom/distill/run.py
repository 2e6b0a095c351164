"""Distillation: dispatch to the method."""

from lissom.distill import (
    born_again,
    deep_to_shallow,
    distilbert,
    ema,
    fastbert,
    joint,
    logits,
    lstm,
    mobilebert,
    mutual,
    patient,
    sequence,
    static,
    tinybert,
)
from lissom.distill.blockless_config import LstmDistillation, StaticDistillation
from lissom.distill.config import DistillParams
from lissom.distill.material import DistillationResult, Material
from lissom.distill.offline_config import (
    DistilBertDistillation,
    LogitsDistillation,
    MobileBertDistillation,
    NoDistillation,
    PatientDistillation,
    TinyBertDistillation,
)
from lissom.distill.online_config import JointDistillation, MutualDistillation
from lissom.distill.self_config import (
    BornAgainDistillation,
    DeepToShallowDistillation,
    EmaDistillation,
    FastBertDistillation,
)
from lissom.distill.sequence_config import SequenceDistillation


def distill(params: DistillParams, material: Material) -> DistillationResult:
    """Build and train a student with the method of `params`; the teacher is not changed.

    Raises:
        InputError: the teacher lacks signals that the method needs, or student and teacher are incompatible.
    """
    match params:
        case NoDistillation():
            return DistillationResult(material.teacher, {})
        case LogitsDistillation():
            return logits.distill(params, material)
        case SequenceDistillation():
            return sequence.distill(params, material)
        case DistilBertDistillation():
            return distilbert.distill(params, material)
        case PatientDistillation():
            return patient.distill(params, material)
        case TinyBertDistillation():
            return tinybert.distill(params, material)
        case MobileBertDistillation():
            return mobilebert.distill(params, material)
        case LstmDistillation():
            return lstm.distill(params, material)
        case StaticDistillation():
            return static.distill(params, material)
        case MutualDistillation():
            return mutual.distill(params, material)
        case JointDistillation():
            return joint.distill(params, material)
        case FastBertDistillation():
            return fastbert.distill(params, material)
        case DeepToShallowDistillation():
            return deep_to_shallow.distill(params, material)
        case BornAgainDistillation():
            return born_again.distill(params, material)
        case EmaDistillation():
            return ema.distill(params, material)
