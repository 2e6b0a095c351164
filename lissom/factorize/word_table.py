"""Shrink the word table: drop unused tokens and unreachable positions, and factorise the rest.

The table holds half of a small encoder's parameters, and a single domain uses few of its rows. Any text still
tokenises: dropped tokens are replaced by smaller pieces.
"""

from lissom.factorize.config import WordTableFactorization
from lissom.models.capabilities import check_technique
from lissom.models.compressed import CompressedModel
from lissom.models.edits import Edit, FactorizeWordTable, KeepPositions, KeepVocabulary
from lissom.models.sites import fixed_tokens, position_vectors
from lissom.models.vocabulary import closed_vocabulary, count_tokens
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe


def plan(model: CompressedModel, lesson: Lesson, params: WordTableFactorization) -> Recipe:
    """Return the recipe that shrinks the tables.

    Args:
        model: the model; not changed.
        lesson: its train and transfer texts are the domain; dev and test are not used.
        params: counts and rank.

    Raises:
        InputError: the word table of the model's family cannot be edited, or its tokenizer cannot be trimmed.
    """
    network, tokenizer, length = model.network, model.tokenizer, model.manifest.task.max_length
    check_technique(network, "word_table", "factorize")
    edits: list[Edit] = []
    facts = {}
    if params.min_count is not None:
        counts = count_tokens(lesson.texts(model).tokens, tokenizer.get_vocab_size())
        token_ids = closed_vocabulary(tokenizer, counts, params.min_count, range(fixed_tokens(network)))
        edits.append(KeepVocabulary(kept=token_ids))
        facts["vocabulary"] = len(token_ids)
    positions = position_vectors(network)
    if positions is not None and length < len(positions):
        edits.append(KeepPositions(length=length))
    if params.rank is not None:
        edits.append(FactorizeWordTable(rank=params.rank))
    return Recipe(edits=edits, facts=facts)
