import itertools
from pathlib import Path

import pytest

from lissom.errors import ParamsError
from lissom.overrides import apply_override
from lissom.params import check_params, load_params
from lissom.safe_yaml import parse

ROOT = Path(__file__).parents[2]
GOOD = {"base": {"model": "dir:x"}, "data": {"source": "files:y"}}


def test_every_mistake_is_told_at_once_with_key_value_and_what_is_allowed():
    wrong = {
        "base": {"model": "ftp:x", "modle": 1},
        "data": {"source": "files:y", "transfer_examples": 5},
        "distill": {"method": "logit"},
        "prune": {"method": "first_order", "heads": 2, "training": {"epoch": 1, "loss": {"alpha": -1}}},
        "quantize": {"method": "int8", "training": {"precision": "bfloat16"}},
        "quantise": {},
    }
    with pytest.raises(ParamsError) as error:
        check_params(wrong)
    message = str(error.value)
    for line in (
        "9 errors",
        "base.model: 'ftp:x'",
        "base.modle: unknown key; did you mean 'model'?",
        "data: transfer_examples is 5, but transfer names no file",
        "distill.method: 'logit' is not a method; allowed: 'none', 'logits'",
        "prune.heads: 2; input should be less than or equal to 1",
        "prune.training.epoch: unknown key; did you mean 'epochs'?",
        "prune.training.loss.alpha: -1",
        "quantize.training.precision: 'bfloat16'",
        "quantise: unknown key; did you mean 'quantize'?",
    ):
        assert line in message


def test_a_section_given_in_part_keeps_what_the_outer_default_says():
    tinybert = check_params(GOOD | {"distill": {"method": "tinybert", "training": {"epochs": 7}}}).distill
    assert tinybert.training.epochs == 7
    assert tinybert.training.learning_rate == 3e-5 and not tinybert.training.freeze_word_table
    patient = {"method": "patient", "blocks": [0], "training": {"loss": {"alpha": 0.9}}}
    training = check_params(GOOD | {"distill": patient}).distill.training
    assert training.loss.alpha == 0.9 and training.loss.temperature == 5.0


def test_a_method_has_only_its_own_fields():
    with pytest.raises(ParamsError, match=r"distill\.layer_map: unknown key; allowed here: attention, blocks"):
        check_params(GOOD | {"distill": {"method": "logits", "blocks": [0], "layer_map": [1]}})


def test_a_method_that_is_switched_off_may_keep_its_keys():
    """As `--set quantize.method=none` leaves them."""
    sections = {
        "distill": {"method": "none", "blocks": [0], "training": {"epochs": 1}},
        "prune": {"method": "none", "heads": 0.5},
        "quantize": [{"method": "none", "training": {"epochs": 1}}, {"method": "half"}],
    }
    params = check_params(GOOD | sections)
    assert (params.distill.method, params.prune, len(params.quantize)) == ("none", (), 1)


def test_all_sections_that_do_not_fit_each_other_are_told_at_once():
    wrong = GOOD | {
        "variants": ["teacher"], "distill": {"method": "sequence", "blocks": [0]}, "quantize": {"method": "gguf", "type": "q8_0"},
    }  # fmt: skip
    with pytest.raises(
        ParamsError, match=r"(?s)3 errors.*variants: teacher.*sequence learns texts.*set export.formats"
    ):
        check_params(wrong)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"parallel": {"schedule": "foo"}}, r"1 error\n  parallel\.schedule: 'foo'; input should be 'gpipe'"),
        ({"prune": "first_order"}, r"prune: 'first_order'; a list is expected, or a mapping with a method"),
        ({"prune[0]": {"method": "blocks"}}, r"prune\[0\]: unknown key; did you mean 'prune'"),
        ({"variants": "teacher"}, r"variants: 'teacher'; input should be a valid tuple"),
        ({"data": None}, r"data: None; a mapping of keys is expected$"),
        ({"teacher": None}, r"teacher: None; a mapping of keys is expected; remove the key"),
        ({"base": {"model": "bert-base-uncased"}}, r"base\.model: 'bert-base-uncased' .* is: `package:module/folder`"),
        ({"teacher": {"epochs": float("inf")}}, r"teacher\.epochs: inf; input should be a finite number"),
        ({"distill": {"method": "fastbert", "blocks": [0]}}, r"distill\.blocks: .*at least 2"),
        ({"quantize": {"method": "half", "keep": ["("]}}, r"quantize\.keep: '\(' is no regular expression"),
    ],
)
def test_mistakes_are_told_in_words(sections, message):
    with pytest.raises(ParamsError, match=message) as error:
        check_params(GOOD | sections)
    assert "function-after" not in str(error.value)


@pytest.mark.parametrize("method", ["lstm", "static"])
def test_a_student_without_blocks_is_not_pruned(method):
    student = {"distill": {"method": method}}
    with pytest.raises(ParamsError, match=f"distill.method: {method} makes a student without blocks; set prune.method"):
        check_params(GOOD | student | {"prune": {"method": "first_order"}})
    assert check_params(GOOD | student | {"quantize": {"method": "int8"}}).distill.method == method


def test_pieces_of_words_are_trimmed_and_whole_words_are_not():
    trimming = {"factorize": {"method": "word_table", "min_count": 1}}
    assert check_params(GOOD | {"distill": {"method": "static"}} | trimming).factorize[0].min_count == 1
    with pytest.raises(ParamsError, match=r"set factorize\.min_count: null"):
        check_params(GOOD | {"distill": {"method": "lstm"}} | trimming)


def test_stages_that_are_not_named_pass_their_model_on():
    params = check_params(GOOD)
    assert params.distill.method == "none" and params.prune == params.factorize == params.quantize == ()


def test_one_method_is_a_list_of_one_and_none_is_an_empty_list():
    item = {"method": "first_order", "heads": 0.25}
    single, several = (check_params(GOOD | {"prune": argument}).prune for argument in (item, [item, item]))
    assert several == (*single, *single) and len(single) == 1
    for nothing in ({"method": "none"}, [], [{"method": "none"}]):
        assert check_params(GOOD | {"prune": nothing}).prune == ()
    assert check_params(check_params(GOOD | {"prune": item}).model_dump(mode="json")).prune == single


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        ({"pattern": "window"}, "base.attention.pattern: 'window' is not a pattern; allowed: 'block_local'"),
        ({"pattern": "block_local", "sizes": 3}, "base.attention.sizes: unknown key; did you mean 'size'"),
        (
            [{"pattern": "block_local"}, {"pattern": "fixed_radius", "radius": -1}],
            "base.attention.1.radius: -1; input should be",
        ),
        ({"pattern": "longnet", "dilations": [2, 4]}, "base.attention: there are 5 segments and 2 dilations"),
        ({"pattern": "sparse_transformer", "form": "fixed", "stride": 4}, "summary is 8, more than the 4 tokens"),
    ],
)
def test_mistakes_in_patterns_are_told_by_the_keys_as_written(attention, message):
    values = GOOD | {"base": GOOD["base"] | {"attention": attention}}
    with pytest.raises(ParamsError) as error:
        check_params(values)
    assert message in str(error.value)


def test_mistakes_in_a_list_name_the_method_by_its_number():
    item = {"method": "first_order"}
    with pytest.raises(ParamsError, match=r"  prune\.heads: 7; "):
        check_params(GOOD | {"prune": item | {"heads": 7}})
    with pytest.raises(ParamsError, match=r"  prune\.1\.heads: 7; "):
        check_params(GOOD | {"prune": [item, item | {"heads": 7}]})
    with pytest.raises(ParamsError, match=r"prune\.method: 'magic' is not a method; allowed: 'first_order'"):
        check_params(GOOD | {"prune": {"method": "magic"}})


@pytest.mark.parametrize(
    "variants",
    [
        ["distill", "quantize"],
        ["teacher", "prune"],
        ["teacher", "quantize", "prune"],
        ["teacher", "teacher", "quantize"],
    ],
)
def test_variants_begin_with_the_teacher_and_end_with_what_is_registered(variants):
    with pytest.raises(ParamsError, match="teacher and quantize must be there"):
        check_params(GOOD | {"variants": variants})
    assert check_params(GOOD | {"variants": ["teacher", "prune", "quantize"]}).variants == (
        "teacher",
        "prune",
        "quantize",
    )


def test_a_section_keeps_its_own_defaults_when_one_key_is_given():
    quantize = check_params(GOOD | {"quantize": {"method": "int8", "training": {"epochs": 2}}}).quantize[0]
    assert quantize.training.precision == "float32" and quantize.training.learning_rate == 2e-5
    factorize = check_params(GOOD | {"factorize": {"method": "word_table", "training": {"epochs": 2}}}).factorize[0]
    assert not factorize.training.freeze_word_table


@pytest.mark.parametrize(
    "path", [ROOT / "params.yaml", *sorted((ROOT / "benchmarks/params").glob("*.yaml"))], ids=lambda p: p.name
)
def test_every_shipped_file_loads(path):
    load_params(path)


def test_overrides(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("base: {model: 'dir:x'}\ndata: {source: 'files:y'}\n")
    params = load_params(path, ["teacher.epochs=0.5", "data.label=target", "distill.method=none"])
    assert params.teacher.epochs == 0.5 and params.data.label == "target"
    with pytest.raises(ParamsError, match=r"section\.key=value"):
        load_params(path, ["teacher"])
    with pytest.raises(ParamsError, match="source is a value, not a section"):
        load_params(path, ["data.source.deep=1"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- 1", "a mapping of sections"),
        ("a: [", "not a YAML file"),
        (None, "no such params file; `lissom init` writes one"),
    ],
)
def test_files_that_are_no_params(tmp_path, content, message):
    path = tmp_path / "params.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ParamsError, match=message):
        load_params(path)


def test_a_layout_that_cannot_hold_is_told_with_every_factor():
    layout = {"nodes": 3, "data": 4, "pipeline": 2, "schedule": "interleaved_1f1b", "microbatches": 3, "shard": True}
    with pytest.raises(ParamsError) as error:
        check_params(GOOD | {"parallel": layout})
    message = str(error.value)
    for part in ("data 4 x tensor 1 x pipeline 2 = 8 processes", "3 nodes", "no multiple of pipeline 2", "shard"):
        assert part in message
    with pytest.raises(ParamsError, match="tensor 4 would cross machines"):
        check_params(GOOD | {"parallel": {"nodes": 2, "tensor": 4}})


def test_a_layout_must_fit_batches_and_blocks():
    with pytest.raises(ParamsError, match=r"teacher\.batch_size 4: data 2 x microbatches 4 = 8 parts"):
        check_params(GOOD | {"teacher": {"batch_size": 4}, "parallel": {"data": 2, "microbatches": 4}})
    with pytest.raises(ParamsError, match=r"distill\.blocks: 1 blocks cannot be cut into the 2 stages"):
        check_params(
            GOOD | {"distill": {"method": "logits", "blocks": [0]}, "parallel": {"pipeline": 2, "microbatches": 2}}
        )


_ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in itertools.pairwise("abcdefghij")
)
_MERGES = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 9)}]}}\n" for old, new in itertools.pairwise("abcdefghij")
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (_ALIASES, "aliases"),
        (_MERGES, "aliases"),
        ("data: &a [*a]", "holds itself"),
        ("[" * 1000, "nested deeper"),
        ("a: " * 1000, "mapping values"),
        ("- " * 5000, "nested deeper"),
        ("a: " + "x" * 2_000_000, "longer than"),
        ("a: 2024-13-45", "month"),
        ("a: " + "9" * 5000, "cannot be read"),
        ("!!timestamp x", "cannot be read"),
        ("!!python/object:os.system x", "could not determine a constructor"),
    ],
    ids=range(11),
)
def test_yaml_that_would_grow_or_cannot_be_read_is_refused(tmp_path, text, says):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError, match=says):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    "override", ["data.source=[", "data.source={", "data.source=\x00", "data.source=*a", "prune.\u00b2=1"]
)
def test_an_override_that_is_no_yaml_is_told_in_one_line(override):
    with pytest.raises(ParamsError) as error:
        apply_override({"prune": []}, override)
    assert "\n" not in str(error.value) and "override" in str(error.value)


def test_a_key_that_is_given_twice_is_refused(tmp_path):
    """PyYAML drops the first one without a word."""
    (tmp_path / "p.yaml").write_text(
        "base: {model: 'dir:x'}\ndata: {source: 'files:y'}\nprune: {method: none}\ndata: {source: 'files:z'}\n"
    )
    with pytest.raises(ParamsError, match="line 4: the key data is given twice; keep one"):
        load_params(tmp_path / "p.yaml")


def test_plain_aliases_still_work(tmp_path):
    assert parse("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]")["b"] == {"x": 1, "y": 2}
