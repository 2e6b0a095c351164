"""A network in torch as a model that answers batches: its logits, or the texts that it writes, by transformers."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig, PreTrainedModel

from lissom.data.batches import Batch
from lissom.models.compressed import logits_of


class TorchModel:
    """Implements `lissom.tasks.task.Answering`.

    Args:
        network: the network.
        most: the most tokens of a written answer.
        beams: hypotheses of the beam search that writes; 1 takes the most likely token every time.
    """

    def __init__(self, network: PreTrainedModel, most: int, beams: int = 1) -> None:
        self.network, self._most, self._beams = network, most, beams
        writes_plainly(network)

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits of a batch's rows, `[rows, outputs]`."""
        return logits_of(self.network, batch)

    def generate(self, batch: Batch) -> list[list[int]]:
        """Return the tokens that an encoder-decoder writes for every text, without the first and the last one."""
        config = self.network.config
        ends = end_ids(self.network)
        settings = GenerationConfig(
            max_new_tokens=self._most, num_beams=self._beams, do_sample=False, length_penalty=1.0,
            decoder_start_token_id=config.decoder_start_token_id, eos_token_id=ends, pad_token_id=config.pad_token_id,
            suppress_tokens=None if config.pad_token_id in ends else [config.pad_token_id], use_cache=True,
        )  # fmt: skip
        # Of its own accord transformers makes a cache of as many layers as the encoder of a T5 has.
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        with torch.no_grad():
            written = self.network.generate(
                batch.ids, attention_mask=batch.mask, generation_config=settings, past_key_values=cache
            )
        return [_until_end(row, ends) for row in written[:, 1:].tolist()]


def settings_of_writing(network: PreTrainedModel) -> list[str]:
    """Return the names of the settings by which a model's authors let it write, besides those of its config."""
    settings = getattr(network, "generation_config", None)  # what writes nothing has none
    if settings is None:
        return []
    own, usual = settings.to_dict(), GenerationConfig.from_model_config(network.config).to_dict()
    default = GenerationConfig().to_dict()
    return sorted(name for name, value in own.items() if value not in (usual.get(name), default.get(name)))


def writes_plainly(network: PreTrainedModel) -> None:
    """Let a network write by the settings of a call alone: transformers would merge its own into them.

    An exported file and a model that was saved know nothing of those.
    """
    network.generation_config = GenerationConfig()


def take_ends(network: PreTrainedModel) -> None:
    """Let a network's config name all tokens that end a text, also those that its settings of writing alone name."""
    settings = getattr(network, "generation_config", None)
    ends = [*listed(network.config.eos_token_id), *listed(None if settings is None else settings.eos_token_id)]
    if distinct := list(dict.fromkeys(ends)):
        network.config.eos_token_id = distinct[0] if len(distinct) == 1 else distinct
        if settings is not None:
            settings.eos_token_id = network.config.eos_token_id


def end_ids(network: PreTrainedModel) -> list[int]:
    """Return the tokens that end a text."""
    return listed(network.config.eos_token_id)


def listed(token_ids: int | Sequence[int] | None) -> list[int]:
    """Return the tokens that an entry of a config names: none, one or several."""
    return [] if token_ids is None else [token_ids] if isinstance(token_ids, int) else list(token_ids)


def _until_end(tokens: list[int], ends: list[int]) -> list[int]:
    last = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[:last]
