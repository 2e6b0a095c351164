"""Comparison of llama.cpp with torch on the same tokens.

The measures are those of llama.cpp's own reports: the KL divergence of its distributions from torch's, the share of
equal most likely tokens, and the ratio of the perplexities.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from lissom.data.encoding import Encoded
from lissom.gguf.card import Agreement
from lissom.gguf.llama_cpp import LlamaCpp

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Window:
    """Tokens of a text with torch's logits."""

    tokens: list[int]
    logits: NDArray[np.float32]
    """Of the next token after every token, `[n, vocabulary]`."""


def windows_of(data: Encoded, tokens: int, longest: int) -> Iterator[list[int]]:
    """Yield windows of the texts' tokens in order, cut to `longest`, until there are `tokens` of them."""
    for start, end in zip(data.offsets[:-1], data.offsets[1:], strict=True):
        window = data.tokens[start:end][:longest].tolist()
        if len(window) < 2:
            continue
        yield window
        tokens -= len(window)
        if tokens <= 0:
            return


def torch_windows(network: PreTrainedModel, windows: Iterable[Sequence[int]]) -> Iterator[Window]:
    """Yield windows with the logits of a network in float32."""
    network = network.eval()
    device = next(network.parameters()).device
    with torch.inference_mode():
        for tokens in windows:
            ids = torch.tensor([list(tokens)], device=device)
            yield Window(list(tokens), network(input_ids=ids).logits[0].float().cpu().numpy())


def compare(paths: Mapping[Name, Path], windows: Iterable[Window], context: int, threads: int) -> dict[Name, Agreement]:
    """Run GGUF files on windows and compare them with torch.

    Args:
        paths: paths of the files, by name.
        windows: tokens with torch's logits; only one of them is in memory at a time.
        context: the longest window.
        threads: threads of llama.cpp.

    Raises:
        InputError: llama.cpp cannot load a file.
    """
    opened = {name: LlamaCpp(path, context, threads) for name, path in paths.items()}
    rows: dict[Name, list[NDArray[np.float64]]] = {name: [] for name in paths}
    largest = dict.fromkeys(paths, 0.0)
    for window in windows:
        for name, engine in opened.items():
            logits = engine.logits(window.tokens)
            difference = np.nan_to_num(np.abs(logits - window.logits), nan=np.inf).max()
            largest[name] = max(largest[name], float(difference))
            rows[name].append(_figures(window.logits[:-1], logits[:-1], np.asarray(window.tokens[1:])))
    return {name: _agreement(np.concatenate(rows[name], axis=1), largest[name]) for name in paths}


def _agreement(figures: NDArray[np.float64], largest: float) -> Agreement:
    kl, same, log_p, log_q = figures
    return Agreement(
        tokens=len(kl),
        max_logit_difference=largest,
        mean_kl_divergence=float(kl.mean()),
        kl_divergence_999=float(np.percentile(kl, 99.9)),
        same_top=float(same.mean()),
        perplexity=float(np.exp(-log_q.mean())),
        perplexity_ratio=float(np.exp((log_p - log_q).mean())),
        probability_rms=float(np.sqrt(((np.exp(log_q) - np.exp(log_p)) ** 2).mean())),
    )


def _figures(
    reference: NDArray[np.float32], logits: NDArray[np.float32], targets: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return KL divergence, equality of the top token, and both log-probabilities of the target, `[4, rows]`."""
    log_p, log_q = (torch.from_numpy(values).double().log_softmax(-1).numpy() for values in (reference, logits))
    places = np.arange(len(targets))
    return np.stack(
        [
            (np.exp(log_p) * (log_p - log_q)).sum(-1),
            log_p.argmax(-1) == log_q.argmax(-1),
            log_p[places, targets],
            log_q[places, targets],
        ]
    )
