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
from lissom.models.families import family_of
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
    if params.vocabulary is not None or params.rank is not None:
        check_technique(network, "word_table", "factorize")
    edits: list[Edit] = []
    facts = {}
    if params.vocabulary is not None:
        edits.append(_new_vocabulary(model, lesson, params.vocabulary))
        tokenizer = edits[0].retokenize(tokenizer)
        facts["vocabulary"] = tokenizer.get_vocab_size()
    if params.min_count is not None:
        check_technique(network, "vocabulary", "factorize.min_count")
        token_ids = _used(replace(model, tokenizer=tokenizer), lesson, params.min_count)
        edits.append(KeepVocabulary(kept=token_ids))
        facts["vocabulary"] = len(token_ids)
    positions = None if family_of(network).has_encoder_and_decoder else position_vectors(network)
    if positions is not None and length < len(positions):
        edits.append(KeepPositions(length=length))
    if params.rank is not None:
        edits.append(FactorizeWordTable(rank=params.rank))
    return Recipe(edits=edits, facts=facts)


def _used(model: CompressedModel, lesson: Lesson, least: int) -> tuple[int, ...]:
    """Return the tokens that texts, and what is written of them, have at least so often, and those that must stay."""
    texts, size = lesson.texts(model), model.tokenizer.get_vocab_size()
    counts = count_tokens(texts.tokens, size)
    if model.manifest.task.writes_texts:
        counts = counts + count_tokens(texts.targets, size)
    tokenizers = (model.tokenizer, *([] if model.target_tokenizer is None else [model.target_tokenizer]))
    fixed = range(fixed_tokens(model.network))
    return tuple(sorted(set().union(*(closed_vocabulary(each, counts, least, fixed) for each in tokenizers))))


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
