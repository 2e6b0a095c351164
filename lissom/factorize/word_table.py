"""Shrink the word table: learn another vocabulary, drop unused tokens and unreachable positions, factorise the rest.

The table holds half of a small encoder's parameters, and a single domain uses few of its rows. Any text still
tokenises: dropped tokens are replaced by smaller pieces. A vocabulary of the domain's own needs fewer tokens per text.
"""

from dataclasses import replace

from lissom.errors import InputError
from lissom.factorize.config import WordTableFactorization
from lissom.models.capabilities import check_technique
from lissom.models.compressed import CompressedModel
from lissom.models.edits import Edit, FactorizeWordTable, KeepPositions, KeepVocabulary, NewVocabulary
from lissom.models.new_vocabulary import learn_pieces, old_pieces
from lissom.models.sites import fixed_tokens, position_vectors
from lissom.models.vocabulary import closed_vocabulary, count_tokens
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe


def plan(model: CompressedModel, lesson: Lesson, params: WordTableFactorization) -> Recipe:
    """Return the recipe that shrinks the tables.

    Args:
        model: the model; not changed.
        lesson: its train and transfer texts are the domain; dev and test are not used.
        params: vocabulary, counts and rank.

    Raises:
        InputError: the word table of the model's family cannot be edited, or its tokenizer cannot be trimmed or learnt
            anew.
    """
    network, tokenizer, length = model.network, model.tokenizer, model.manifest.task.max_length
    check_technique(network, "word_table", "factorize")
    edits: list[Edit] = []
    facts = {}
    if params.vocabulary is not None:
        edits.append(_new_vocabulary(model, lesson, params.vocabulary))
        tokenizer = edits[0].retokenize(tokenizer)
        facts["vocabulary"] = tokenizer.get_vocab_size()
    if params.min_count is not None:
        counts = count_tokens(lesson.texts(replace(model, tokenizer=tokenizer)).tokens, tokenizer.get_vocab_size())
        token_ids = closed_vocabulary(tokenizer, counts, params.min_count, range(fixed_tokens(network)))
        edits.append(KeepVocabulary(kept=token_ids))
        facts["vocabulary"] = len(token_ids)
    positions = position_vectors(network)
    if positions is not None and length < len(positions):
        edits.append(KeepPositions(length=length))
    if params.rank is not None:
        edits.append(FactorizeWordTable(rank=params.rank))
    return Recipe(edits=edits, facts=facts)


def _new_vocabulary(model: CompressedModel, lesson: Lesson, size: int) -> NewVocabulary:
    task = model.manifest.task
    if task.continues_texts or task.writes_texts:
        raise InputError(
            f"factorize.vocabulary: a model that writes ({task.describe()}) predicts its own tokens, and so does its "
            "teacher; set it to null"
        )
    texts = (part for name in ("train", "transfer") for pair in lesson.tables[name].texts() for part in pair if part)
    tokens, merges = learn_pieces(model.tokenizer, texts, size)
    pieces = old_pieces(model.tokenizer, tokens)
    return NewVocabulary(tokens=tuple(tokens), merges=tuple(merges), pieces=tuple(pieces))
