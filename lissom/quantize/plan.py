"""Quantisation: which layers get how many bits."""

from lissom.models.edits import Edit, FakeQuantize
from lissom.quantize.config import Int8Training, NoQuantization, QuantizeParams


def plan(params: QuantizeParams) -> list[Edit]:
    """Return the edits that a quantisation method decides on."""
    match params:
        case NoQuantization():
            return []
        case Int8Training(weight_bits=bits):
            return [FakeQuantize(weight_bits=bits)]
