"""Distilling a Transformer's logits into a BiLSTM; architectures and tokenisers may differ.

Tang et al. 2019, arXiv:1903.12136: (1 - alpha) times the squared error of the logits plus alpha times the cross-entropy
of the labels, on training texts and many synthetic ones; an unlabelled text has the teacher's prediction for its label.
Word vectors are initialised from the teacher's word table; one half of their columns stays fixed. Returns the student.
"""

from collections import Counter

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn

from lissom.data.batches import Batch
from lissom.data.labels import UNLABELLED
from lissom.distill.blockless_config import LstmDistillation
from lissom.distill.material import DistillationResult, Material
from lissom.distill.words import more_texts
from lissom.errors import InputError
from lissom.models.bilstm import BiLstmConfig
from lissom.models.compressed import CompressedModel, logits_of
from lissom.models.edits.word_table import truncated_svd
from lissom.models.families import family_of
from lissom.models.students import config_values, reshaped
from lissom.parallel.gradients import local_tensor
from lissom.tasks.task import Task
from lissom.training.hooks import Hook
from lissom.training.objective import Objective, objective
from lissom.training.teacher import Teacher

_PAD, _UNKNOWN = "[PAD]", "[UNK]"


def distill(params: LstmDistillation, material: Material) -> DistillationResult:
    """Build the student, generate texts, label them with the teacher, and train.

    Raises:
        InputError: words are to be masked, and the teacher's tokenizer has no mask token.
    """
    mask, more = material.teacher.tokenizer_config.get("mask_token"), None
    if params.augmentation is not None and params.augmentation.mask_probability and mask is None:
        raise InputError(
            f"distill.augmentation.mask_probability: {params.augmentation.mask_probability:g} given, and the teacher's "
            "tokenizer has no mask token to replace words by; set it to 0"
        )
    student = make_student(params, material)
    if params.augmentation is not None:
        more = more_texts(params.augmentation, material.tables["train"], mask or "", material.scratch)
    answers = material.teacher_logits(params.training, more)
    data = material.texts(student, more)
    result = material.train(
        "training", student.network, data, student.pad_id,
        squared_error_loss(answers, params.alpha, material.task), params.training,
        identity=params.model_dump_json(), score=material.scorer(student, params.training),
        hooks=[FixedChannel(params.embedding_size)],
    )  # fmt: skip
    metrics = {"augmented_texts": 0 if more is None else len(more), "vocabulary": student.network.config.vocab_size}
    return DistillationResult(student, {"training": result}, metrics)


def squared_error_loss(teacher: Teacher, alpha: float, task: Task) -> Objective:
    """Return alpha CE + (1 - alpha) ||z_t - z_s||^2, averaged over examples (eq. 3)."""

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        logits, goal = logits_of(network, batch).float(), teacher.signals(batch).logits.float()
        error = (logits - goal).square().sum(-1).mean()
        if alpha == 0:
            return error
        targets = with_predictions(batch.targets, goal, task)
        return alpha * task.loss(logits, targets) + (1 - alpha) * error

    return objective(loss)


def with_predictions(targets: Tensor, teacher: Tensor, task: Task) -> Tensor:
    """Return targets `[batch]` in which those that are missing are the teacher's predictions (§3.2).

    Args:
        targets: `[batch]`.
        teacher: the teacher's logits, `[batch, outputs]`: the largest is the label, in regression the only one.
        task: the task.
    """
    predictions = teacher.argmax(-1) if task.is_distribution else teacher[:, 0]
    missing = targets.isnan() if targets.is_floating_point() else targets == UNLABELLED
    return torch.where(missing, predictions.to(targets.dtype), targets)


def make_student(params: LstmDistillation, material: Material) -> CompressedModel:
    """Return a BiLSTM with its tokenizer and with word vectors from the teacher's table; other weights are random."""
    teacher = material.teacher
    pair = teacher.manifest.task.pair
    word_level, mask = params.tokenizer == "words", teacher.tokenizer_config.get("mask_token")
    tokenizer = word_tokenizer(material, params.min_count, mask, pair) if word_level else teacher.tokenizer
    config = BiLstmConfig(
        vocab_size=tokenizer.get_vocab_size(), embedding_size=2 * params.embedding_size,
        hidden_size=params.hidden_size, classifier_size=params.classifier_size, dropout=params.dropout, pair=pair,
    )  # fmt: skip
    student = reshaped(teacher, config, params.training.seed)
    if word_level:
        student.tokenizer = tokenizer
        student.tokenizer_config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": teacher.manifest.task.max_length,
            "pad_token": _PAD, "unk_token": _UNKNOWN, **({} if mask is None else {"mask_token": mask}),
        }  # fmt: skip
        student.network.config.pad_token_id = student.tokenizer.token_to_id(_PAD)
    student.manifest = student.manifest.model_copy(update={"base_config": config_values(student.network.config)})
    vectors = word_vectors(student.tokenizer, teacher, params.embedding_size)
    with torch.no_grad():
        student.network.embeddings.word_embeddings.weight.copy_(torch.cat([vectors, vectors], dim=1))
    return student


def word_tokenizer(material: Material, min_count: int, mask: str | None, pair: bool) -> Tokenizer:
    """Return a tokenizer of whole lower-case words that occur at least `min_count` times in train and transfer.

    Args:
        material: the texts.
        min_count: words with fewer occurrences are unknown.
        mask: the teacher's mask token, which the student reads in the same texts; None if it has none.
        pair: whether the texts are pairs.
    """
    specials = [_PAD, _UNKNOWN, *([] if mask is None else [mask])]
    tokenizer = Tokenizer(models.WordLevel({}, unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for name in ("train", "transfer"):
        for text in (text for texts in material.tables[name].texts() for text in texts if text is not None):
            words = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
            counts.update(word for word, _ in words)
    frequent = sorted(word for word, count in counts.items() if count >= min_count)
    vocabulary = {word: number for number, word in enumerate([*specials, *frequent])}
    tokenizer.model = models.WordLevel(vocabulary, unk_token=_UNKNOWN)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A", pair="$A $B:1" if pair else "$A $B", special_tokens=[]
    )
    tokenizer.add_special_tokens(specials)
    return tokenizer


def word_vectors(tokenizer: Tokenizer, teacher: CompressedModel, size: int) -> Tensor:
    """Return a vector for every token, `[vocabulary, size]`: the mean of the teacher's vectors of its pieces.

    The means are reduced to `size` dimensions by SVD.

    Args:
        tokenizer: the student's tokenizer; may be the teacher's.
        teacher: the teacher.
        size: width of the vectors.
    """
    table = teacher.network.get_submodule(family_of(teacher.network).word_table)
    vocabulary = tokenizer.get_vocab()
    words = sorted(vocabulary, key=vocabulary.__getitem__)
    config = teacher.tokenizer_config
    tokens = {_PAD: config.get("pad_token", _PAD), _UNKNOWN: config.get("unk_token", _UNKNOWN)}
    if (mask := config.get("mask_token")) is not None:
        tokens[mask] = mask
    is_shared = vocabulary == teacher.tokenizer.get_vocab()
    teacher.tokenizer.no_padding()
    vectors = []
    with torch.no_grad():
        for word in words:
            if is_shared or word in tokens:
                direct = teacher.tokenizer.token_to_id(tokens.get(word, word))
                pieces = [] if direct is None else [direct]
            else:
                pieces = pieces_of(word, teacher.tokenizer)
            ids = torch.tensor(pieces or [teacher.pad_id], device=next(table.parameters()).device)
            vectors.append(table(ids).mean(0).float().cpu())
    matrix = torch.stack(vectors)
    if size < matrix.shape[1]:
        thin, directions = truncated_svd(matrix, size)
        lengths: Tensor = directions.norm(dim=0)
        return thin * lengths  # coordinates in an orthonormal basis, which preserves distances
    return nn.functional.pad(matrix, (0, size - matrix.shape[1]))


def pieces_of(word: str, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a word's pieces within a text; byte-level tokenizers cut the first word of a text otherwise."""
    encoding = tokenizer.encode(f"{word} {word}", add_special_tokens=False)
    return [number for number, (start, _) in zip(encoding.ids, encoding.offsets, strict=True) if start >= len(word)]


class FixedChannel(Hook):
    """Freezes the first columns of the word table (weight decay must be 0, see the params).

    Args:
        size: number of columns.
    """

    def __init__(self, size: int) -> None:
        self._size = size

    def begin(self, network: nn.Module) -> None:
        """Store the word table."""
        table = network.get_submodule("embeddings.word_embeddings")
        assert isinstance(table, nn.Embedding)
        self._table: Tensor = table.weight

    def on_gradients(self) -> None:
        """Zero the columns' gradients; for a sharded table, those of this process's rows."""
        if self._table.grad is not None:
            local_tensor(self._table.grad)[:, : self._size] = 0
