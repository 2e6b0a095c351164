"""A technique that a family does not support is refused before the teacher is trained."""

import pytest

from lissom.attention.config import FixedRadius
from lissom.components.teacher.work import check_later_stages
from lissom.errors import InputError, ParamsError
from lissom.models.edits import UseAttention
from lissom.params import check_params
from tests.unit import tiny
from tests.unit.test_language_modeling import TASK as LANGUAGE


def params_with(**sections):
    base = {"model": "dir:base", "max_length": 16}
    return check_params({"base": base, "data": {"source": "files:x"}, "prune": {"method": "none"}, **sections})


@pytest.mark.parametrize(
    ("distill", "message"),
    [
        ({"method": "fastbert"}, "distill.method: fastbert: not possible with a deberta-v2 .*cannot run apart"),
        ({"method": "deep_to_shallow"}, "distill.method: deep_to_shallow: not possible"),
        ({"method": "tinybert"}, "distill.method: tinybert: not possible with a deberta-v2 .*cannot be captured"),
    ],
    ids=["fastbert", "deep_to_shallow", "tinybert"],
)
def test_distillation(distill, message):
    with pytest.raises(InputError, match=message):
        check_later_stages(params_with(distill=distill), tiny.model("deberta-v2"))


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_factors_leave_a_scaled_word_table_alone(family):
    model = tiny.model(family)
    check_later_stages(params_with(factorize={"method": "low_rank"}), model)
    with pytest.raises(InputError, match=r"factorize\.method: kronecker, which changes the word table"):
        check_later_stages(params_with(factorize={"method": "kronecker"}), model)


def test_heads_that_the_kernel_of_language_models_cannot_have():
    params = params_with(data={"source": "files:x", "task": "language_modeling"}, factorize={"method": "none"})
    check_later_stages(params, tiny.model("llama", task=LANGUAGE))
    with pytest.raises(InputError, match="its heads are 12 wide, 4 more than a multiple of 8"):
        check_later_stages(params, tiny.model("llama", task=LANGUAGE, hidden_size=48, head_dim=12))


PATTERNED = UseAttention(patterns=(FixedRadius(pattern="fixed_radius", radius=2),))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"distill": {"method": "tinybert"}}, "tinybert compares the scores of all pairs"),
        ({"prune": {"method": "first_order", "heads": 0.5, "head_criterion": "confidence"}}, "confidence needs the"),
        (
            {"distill": {"method": "logits", "blocks": [0, 2], "attention": {"pattern": "block_local", "blocks": [2]}}},
            "block_local is for block 2; the model has blocks 0 to 1",
        ),
    ],
    ids=["tinybert", "confidence", "blocks"],
)
def test_patterns_of_attention(sections, message):
    model = tiny.model("bert")
    model.edit([PATTERNED])
    with pytest.raises(InputError, match=message):
        check_later_stages(params_with(**sections), model)


def test_a_gguf_file_for_a_student_with_patterns():
    attention = {"pattern": "fixed_radius", "radius": 2}
    params = params_with(
        data={"source": "files:x", "task": "language_modeling"}, factorize={"method": "none"},
        quantize={"method": "none"}, export={"formats": ["gguf"]},
        distill={"method": "logits", "blocks": [0], "attention": attention, "training": {"loss": {"temperature": 1.0}}},
    )  # fmt: skip
    with pytest.raises(InputError, match=r"distill\.attention: a GGUF file cannot express patterns"):
        check_later_stages(params, tiny.model("llama", task=LANGUAGE))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"distill": {"method": "fastbert"}, "prune": {"method": "gates", "units": ["channels"]}}, "gates on channels"),
        (
            {
                "data": {"source": "files:x", "task": "language_modeling"},
                "factorize": {"method": "word_table", "vocabulary": 500, "training": None},
            },
            "predicts its own tokens",
        ),
        (
            {
                "prune": [
                    {"method": "unstructured"},
                    {"method": "blocks", "blocks": 2, "training": {"lora": {"rank": 2}}},
                ]
            },
            "adapters would fill the zeros",
        ),
        (
            {
                "prune": {"method": "lottery_ticket", "rewind": "base"},
                "base": {"model": "dir:base", "max_length": 2048, "longer_positions": "copy"},
            },
            "which base.longer_positions does not have",
        ),
        (
            {"prune": {"method": "movement"}, "distill": {"method": "tinybert"}},
            r"base \(movement\) .* tinybert with a shape of its own does not have; take rewind: none",
        ),
        (
            {"factorize": [{"method": "low_rank", "targets": ["ffn"]}, {"method": "kronecker", "table": None}]},
            "kronecker factorises projections of feed-forward networks, which method: low_rank does before",
        ),
        (
            {"factorize": [{"method": "word_table", "rank": 8}, {"method": "tensor_train"}]},
            "tensor_train factorises the word table, which method: word_table does before",
        ),
        (
            {"factorize": [{"method": "kronecker", "ffn": None}, {"method": "word_table"}]},
            "changes the rows of a table that method: kronecker has made a product",
        ),
    ],
    ids=[
        "channels and exits",
        "vocabulary",
        "adapters on zeros",
        "rewinding",
        "rewinding a shape",
        "two products of a projection",
        "two products of the table",
        "rows of a product",
    ],
)
def test_params_that_contradict_each_other_are_refused_at_once(sections, message):
    with pytest.raises(ParamsError, match=message):
        params_with(**sections)


def test_different_matrices_may_be_factorised_by_different_methods():
    params_with(
        factorize=[
            {"method": "word_table", "rank": 8},  # trims the vocabulary first
            {"method": "low_rank", "targets": ["attention"]},
            {"method": "kronecker", "table": None},
        ]
    )
    params_with(factorize=[{"method": "word_table", "min_count": 2}, {"method": "tensor_train"}])
