"""Modelfiles: written, read, and refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissom.errors import InputError
from lissom.gguf.modelfile import PARAMETERS, Modelfile, parse

TEXT = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=60).filter(
    lambda text: '"""' not in text
)
VALUES = {
    "int": st.integers(-1, 10**6),
    "float": st.floats(0, 100).map(lambda value: float(f"{value:g}")),
    "string": TEXT,
}


PAIRS = st.sampled_from(sorted(PARAMETERS)).flatmap(lambda name: st.tuples(st.just(name), VALUES[PARAMETERS[name]]))


@given(
    st.lists(PAIRS, max_size=5),
    TEXT,
    TEXT,
    TEXT,
    st.lists(st.tuples(st.sampled_from(["user", "assistant"]), TEXT), max_size=2),
)
def test_modelfiles_are_read_as_they_were_written(parameters, template, system, license_text, messages):
    modelfile = Modelfile("./m.gguf", tuple(parameters), template, system, license_text, tuple(messages), "0.12.0")
    assert parse(modelfile.text()) == modelfile


@pytest.mark.parametrize(("text", "message"), [
    ("PARAMETER stop x", "FROM is missing"),
    ("FROM x\nPARAMETER warmth 3", "PARAMETER warmth is not known"),
    ("FROM x\nPARAMETER num_ctx many", "must be of type int"),
    ("FROM x\nSHOUT loud", "'SHOUT' is no instruction"),
    ('FROM x\nSYSTEM """never ends', "has no closing"),
    ("FROM x\nMESSAGE robot hi", "allowed roles"),
])  # fmt: skip
def test_what_is_no_modelfile_is_told(text, message):
    with pytest.raises(InputError, match=message):
        parse(text)


def test_modelfiles_as_people_write_them():
    written = """# a comment
from ./model.gguf
parameter temperature 0.5
PARAMETER stop "<|end|>"

system \"""You are
kind.\"""
"""
    assert parse(written) == Modelfile(
        "./model.gguf", (("temperature", 0.5), ("stop", "<|end|>")), system="You are\nkind."
    )
    # As Ollama's parser reads them: no escapes, quotes inside a line, one quote over several lines.
    others = 'FROM ./model.gguf\r\nPARAMETER stop a"b\nPARAMETER stop "a\\"b"\nSYSTEM "one\ntwo"  \nLICENSE a\u2028b\n'
    assert parse(others) == Modelfile(
        "./model.gguf", (("stop", 'a"b'), ("stop", 'a\\"b')), system="one\ntwo", license="a\u2028b"
    )
