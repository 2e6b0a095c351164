"""Pre-training a student as a language model against its teacher: DistilBERT's general recipe.

Sanh et al. 2019, arXiv:1910.01108, §2-3: T^2 KL over the vocabulary at all real tokens, the cross-entropy at masked
tokens (for a causal model: of the next token), and the cosine of the last hidden states. Masks are a function of the
seed, the step and the example, so that they do not depend on how a batch is split; padding and special tokens are never
masked nor scored. Changes the student's trunk in place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from lissom.data.batches import Batch, Members, collate
from lissom.data.encoding import Encoded
from lissom.distill.features import hidden_cosine
from lissom.distill.material import Material
from lissom.distill.offline_config import LanguageModelParams
from lissom.errors import InputError
from lissom.models.compressed import CompressedModel
from lissom.models.edits import KeepBlocks
from lissom.models.families import family_of
from lissom.models.signals import Signals, SignalSpec, signals_of
from lissom.models.sites import blocks_of
from lissom.parallel.sharding import sharded
from lissom.tasks.labels import soft_target_loss
from lissom.training.hooks import Hook
from lissom.training.loop import TrainingResult
from lissom.training.objective import Objective, Term, tokens

IGNORED = -100


def pretrain(
    student: CompressedModel, blocks: Sequence[int], params: LanguageModelParams, material: Material
) -> TrainingResult:
    """Train some blocks of the base's language model against the full model; copy them into the student.

    Raises:
        InputError: there is no language model, or a masked one lacks its mask token.
    """
    teacher, learner = material.load_language_model(), material.load_language_model()
    KeepBlocks(kept=tuple(blocks)).apply(learner)
    data = material.texts(student)
    masking = None if family_of(teacher).decoder else Masking(student, learner, data, params)
    with sharded(teacher, material.world) as module:
        result = material.train(
            "pretraining", learner, data, student.pad_id, language_loss(module, masking, params), params.training,
            identity=params.model_dump_json(), hooks=[] if masking is None else [masking],
        )  # fmt: skip
    trunk = student.network.base_model.state_dict()
    weights = {name: value for name, value in learner.base_model.state_dict().items() if name in trunk}
    student.network.base_model.load_state_dict({**trunk, **weights})
    return result


class Masking(Hook):
    """Masks the tokens of every step's batch (Devlin et al. 2019, §3.1).

    The masks of an example are a function of `params.training.seed`, the step and the example.

    Args:
        model: the student, whose tokenizer names the mask token and the special ones, which are never targets.
        network: the network in training, whose vocabulary replaced tokens are drawn from.
        data: the examples.
        params: share of targets, and seed.

    Raises:
        InputError: the tokenizer has no mask token.
    """

    def __init__(
        self, model: CompressedModel, network: PreTrainedModel, data: Encoded, params: LanguageModelParams
    ) -> None:
        self._mask, self._special = mask_token(model), special_tokens(model)
        self._vocabulary, self._pad, self._data = network.config.vocab_size, model.pad_id, data
        self._probability, self._seed = params.mask_probability, params.training.seed
        self._step = 0

    def before_step(self, step: int, total: int) -> None:  # noqa: ARG002  (the hook's signature)
        """Store the step."""
        self._step = step

    def __call__(self, batch: Batch) -> tuple[Batch, Tensor]:
        """Return the batch with masked tokens, and the targets `[batch, n]`, -100 at positions without a target."""
        draws = token_draws(self._seed, self._step, batch.indices.cpu().numpy(), batch.ids.shape[1])
        draws = draws.to(batch.ids.device)
        return mask_tokens(batch, self._mask, self._special, self._vocabulary, self._probability, draws)

    def count(self, members: Members) -> float:
        """Count the targets of examples in this step."""
        _, targets = self(collate(self._data, members.indices, self._pad))
        return int((targets != IGNORED).sum())


def next_tokens(members: Members) -> float:
    """Count the targets of causal language models: every real token but the first of a text."""
    return float((members.lengths - 1).sum())


def language_loss(teacher: PreTrainedModel, masking: Masking | None, params: LanguageModelParams) -> Objective:
    """Return the loss of a language model against a deeper one.

    Args:
        teacher: the deeper model, with its language-model head.
        masking: masks the batches; None for causal models, which predict the next token.
        params: weights and temperature.
    """
    depth = len(blocks_of(teacher))
    teacher.eval()

    def forward(network: nn.Module, batch: Batch) -> _Outputs:
        assert isinstance(network, PreTrainedModel)
        if masking is None:
            targets = batch.ids.masked_fill(~batch.mask.bool(), IGNORED).roll(-1, dims=1)
            targets[:, -1] = IGNORED
        else:
            batch, targets = masking(batch)
        student = signals_of(network, batch, SignalSpec(hidden=(len(blocks_of(network)),)))
        with torch.no_grad():
            target = signals_of(teacher, batch, SignalSpec(hidden=(depth,)))
        return _Outputs(student, target, targets)

    def soft(outputs: _Outputs, batch: Batch) -> Tensor:
        real = batch.mask.bool()
        return soft_target_loss(outputs.student.logits[real], outputs.target.logits[real], params.temperature)

    terms = (
        Term(
            lambda outputs, _: label_mean(outputs.student.logits, outputs.targets),
            over=next_tokens if masking is None else masking.count, weight=params.language_weight,
        ),
        Term(soft, over=tokens, weight=params.kl_weight),
        Term(
            lambda outputs, batch: hidden_cosine(_last(outputs.student), _last(outputs.target), batch.mask),
            over=tokens, weight=params.cosine_weight,
        ),
    )  # fmt: skip
    return Objective(forward, terms, needs_internals=True)


@dataclass(frozen=True)
class _Outputs:
    student: Signals
    target: Signals
    targets: Tensor


def label_mean(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy averaged over targets; 0 if a batch has none.

    Args:
        logits: `[batch, n, words]`.
        targets: `[batch, n]`, -100 at positions without a target.
    """
    total = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (targets != IGNORED).sum().clamp(min=1)


def token_draws(seed: int, step: int, indices: NDArray[np.int64], length: int) -> Tensor:
    """Return three uniform numbers in [0, 1) for every token, `[batch, length, 3]`.

    Those of an example are a function of the seed, the step and its index, and do not depend on `length`.
    """
    return torch.from_numpy(
        np.stack([np.random.default_rng((seed, step, int(index))).random((length, 3)) for index in indices])
    )


def mask_tokens(
    batch: Batch, mask: int, special: Tensor, vocabulary: int, probability: float, draws: Tensor
) -> tuple[Batch, Tensor]:
    """Return a batch with masked tokens, and the targets `[batch, n]`, -100 at positions without a target.

    Of the target tokens, 80 % are masked, 10 % replaced at random and 10 % unchanged (Devlin et al. 2019, §3.1).

    Args:
        batch: the texts.
        mask: id of the mask token.
        special: ids that are never targets.
        vocabulary: number of tokens.
        probability: share of targets among the real, non-special tokens.
        draws: uniform numbers in [0, 1), `[batch, n, 3]`: which tokens are targets, what becomes of them, and the
            random token.
    """
    ids = batch.ids
    eligible = batch.mask.bool() & ~torch.isin(ids, special.to(ids.device))
    choice, draw, word = draws.unbind(-1)
    is_target = (choice < probability) & eligible
    targets = ids.masked_fill(~is_target, IGNORED)
    new_ids = torch.where(is_target & (draw < 0.8), mask, ids)
    random = (word * vocabulary).long()
    new_ids = torch.where(is_target & (draw >= 0.8) & (draw < 0.9), random, new_ids)
    return batch.reading(new_ids), targets


def mask_token(model: CompressedModel) -> int:
    """Return the id of the mask token; raises `InputError` if the tokenizer has none."""
    token = model.tokenizer_config.get("mask_token")
    number = None if token is None else model.tokenizer.token_to_id(token)
    if number is None:
        raise InputError("the tokenizer has no mask token: a masked language model cannot be trained on it")
    return int(number)


def special_tokens(model: CompressedModel) -> Tensor:
    """Return the ids of the special tokens, `[count]`."""
    tokens = model.tokenizer.get_added_tokens_decoder()
    return torch.tensor(sorted(number for number, token in tokens.items() if token.special), dtype=torch.int64)


def _last(signals: Signals) -> Tensor:
    return signals.hidden[max(signals.hidden)]
