"""Shrink the word table: drop tokens that the domain does not use, positions that are never reached, and rank.

The table is half of a small encoder's parameters, and almost all of its rows are never read in one domain. Any text
still tokenises: what is dropped is spelt with smaller pieces. Returns a recipe.
"""

from lissom.factorize.config import WordTableFactorization
from lissom.models.compressed import CompressedModel
from lissom.models.edits import Edit, FactorizeWordTable, KeepPositions, KeepVocabulary
from lissom.models.families import family_of
from lissom.models.vocabulary import closed_vocabulary, count_tokens
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe


def plan(model: CompressedModel, lesson: Lesson, params: WordTableFactorization) -> Recipe:
    """Return the recipe that shrinks the tables.

    Args:
        model: the model; not changed.
        lesson: the domain's texts: train and transfer, never dev or test.
        params: counts and rank.
    """
    network, tokenizer, length = model.network, model.tokenizer, model.manifest.task.max_length
    edits: list[Edit] = []
    facts = {}
    if params.min_count is not None:
        counts = count_tokens(lesson.texts(model).tokens, tokenizer.get_vocab_size())
        kept = closed_vocabulary(tokenizer, counts, params.min_count)
        edits.append(KeepVocabulary(kept=kept))
        facts["vocabulary"] = len(kept)
    position_table = family_of(network).position_table
    if position_table is not None and length < network.get_submodule(position_table).num_embeddings:
        edits.append(KeepPositions(length=length))
    if params.rank is not None:
        edits.append(FactorizeWordTable(rank=params.rank))
    return Recipe(edits=edits, facts=facts)
