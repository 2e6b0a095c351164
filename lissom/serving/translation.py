"""Translation of texts by two graphs, of which the second writes a token at a time: greedily, or with a beam.

Depends on numpy, onnxruntime and tokenizers only, as the rest of `lissom.serving`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Step = Callable[[NDArray[np.int64], NDArray[np.int64] | None], NDArray[np.float32]]
"""Reads the next token of every hypothesis, `[hypotheses]`, and returns the logits of the one after it,
`[hypotheses, vocabulary]`. The second argument tells first which of the hypotheses before each of them continues; None
for the first token."""


class Decoder:
    """The graph that writes, with what it knows of a batch of texts.

    Args:
        run: runs the graph on inputs by name, and returns its outputs: the logits, then the present keys and values.
        shapes: shape of every input whose name starts with `past_`, `[batch, heads, past, d_h]`.
        mask: attention mask of the texts, `[batch, n]`.
        cross: keys and values of the texts by name, each `[batch, heads, n, d_h]`.
    """

    def __init__(
        self,
        run: Callable[[Mapping[str, NDArray[Any]]], list[NDArray[Any]]],
        shapes: Mapping[str, Sequence[Any]],
        mask: NDArray[np.int64],
        cross: Mapping[str, NDArray[Any]],
    ) -> None:
        self._run, self._shapes = run, shapes
        self._texts = {"attention_mask": mask, **cross}
        self._past: dict[str, NDArray[Any]] = {
            name: np.empty((len(mask), shape[1], 0, shape[3]), dtype=np.float32) for name, shape in shapes.items()
        }
        self._origins = np.arange(len(mask))

    def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the logits of all positions, `[batch, m, vocabulary]`, given the tokens before them, `[batch, m]`."""
        logits: NDArray[np.float32] = self._run({"decoder_input_ids": tokens, **self._texts, **self._past})[0]
        return logits

    def step(self, tokens: NDArray[np.int64], origins: NDArray[np.int64] | None) -> NDArray[np.float32]:
        """Implement `Step`; the first call is for one hypothesis of every text."""
        if origins is not None:
            texts = self._origins[origins]
            if not np.array_equal(texts, self._origins):  # the texts of hypotheses change only as some are done
                self._texts = {name: array[origins] for name, array in self._texts.items()}
            self._origins = texts
            self._past = {name: array[origins] for name, array in self._past.items()}
        logits, *present = self._run({"decoder_input_ids": tokens[:, None], **self._texts, **self._past})
        self._past = dict(zip(self._shapes, present, strict=True))
        last: NDArray[np.float32] = logits[:, -1]
        return last


class Hypothesis(NamedTuple):
    """The beginning of an answer."""

    tokens: tuple[int, ...] = ()
    score: float = 0.0
    """Sum of the log-probabilities."""
    origin: int = 0
    """Which of the hypotheses of the step before it continues."""


def search(step: Step, texts: int, serving: Mapping[str, Any]) -> list[list[int]]:
    """Return the tokens of the best answer to every text, without the first and the last one.

    The beam keeps the `beams` most likely beginnings of every text. A finished answer is judged by its mean
    log-probability; a text is done when as many are finished, and the best beginning could not become better if it
    ended now. `transformers` searches in the same way (`length_penalty` 1, `early_stopping` false).

    Args:
        step: runs the decoder.
        texts: number of texts.
        serving: `beams`, `max_length` (the most tokens of an answer), `start_id`, `end_ids` and `pad_id`.
    """
    beams, most, ends = serving["beams"], serving["max_length"], frozenset(serving["end_ids"])
    finished: list[list[Hypothesis]] = [[] for _ in range(texts)]  # with their mean log-probability as score
    running = {text: [Hypothesis()] for text in range(texts)}
    tokens, origins = np.full(texts, serving["start_id"], dtype=np.int64), None
    for length in range(1, most + 1):
        logits = step(tokens, origins)
        if serving["pad_id"] not in ends:
            logits[:, serving["pad_id"]] = -np.inf
        sums = _log_softmax(logits) + _scores(running)
        going: dict[int, list[Hypothesis]] = {}
        first = 0
        for text, hypotheses in running.items():
            part = sums[first : first + len(hypotheses)]
            nexts: list[Hypothesis] = []
            for rank, (beam, token, score) in enumerate(_best(part, max(2, 1 + len(ends)) * beams)):
                written = hypotheses[beam].tokens
                if token in ends or length == most:
                    if rank < beams:
                        answer = written if token in ends else (*written, token)
                        finished[text].append(Hypothesis(answer, score / length))
                elif len(nexts) < beams:
                    nexts.append(Hypothesis((*written, token), score, first + beam))
            first += len(hypotheses)
            finished[text] = sorted(finished[text], key=lambda answer: -answer.score)[:beams]
            if nexts and not _is_done(finished[text], nexts[0].score / length, beams):
                going[text] = nexts
        running = going
        if not running:
            break
        chosen = [hypothesis for hypotheses in running.values() for hypothesis in hypotheses]
        tokens = np.asarray([hypothesis.tokens[-1] for hypothesis in chosen], dtype=np.int64)
        origins = np.asarray([hypothesis.origin for hypothesis in chosen], dtype=np.int64)
    return [list(answers[0].tokens) for answers in finished]


def _is_done(finished: Sequence[Hypothesis], possible: float, beams: int) -> bool:
    """Return whether no better answer is expected, given the mean log-probability of the best beginning."""
    return len(finished) == beams and (beams == 1 or possible <= finished[-1].score)


def _scores(running: Mapping[int, Sequence[Hypothesis]]) -> NDArray[np.float32]:
    """Return the scores of all hypotheses, `[hypotheses, 1]`."""
    scores = [hypothesis.score for hypotheses in running.values() for hypothesis in hypotheses]
    return np.asarray(scores, dtype=np.float32)[:, None]


def _best(sums: NDArray[np.float32], count: int) -> list[tuple[int, int, float]]:
    """Return row, column and value of the `count` largest values, the largest first."""
    flat = sums.reshape(-1)
    count = min(count, len(flat))
    places = np.argpartition(-flat, count - 1)[:count]
    places = places[np.argsort(-flat[places], kind="stable")]
    return [(*divmod(int(place), sums.shape[1]), float(flat[place])) for place in places]


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
