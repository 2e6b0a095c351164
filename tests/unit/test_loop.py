import numpy as np
import pytest
import torch

from lissom.data.batches import collate, shuffled_batches, sorted_batches
from lissom.data.encoding import Encoded
from lissom.errors import DivergenceError
from lissom.storage import remove_folder
from lissom.tasks.metric import ACCURACY, Metric
from lissom.training.checkpoint import Checkpoints
from lissom.training.config import TrainingParams
from lissom.training.hooks import Hook
from lissom.training.loop import fit
from lissom.training.objective import objective
from lissom.training.optimizer import learning_rate
from lissom.training.predicting import Scorer
from tests.unit import tiny

PARAMS = TrainingParams(epochs=3, batch_size=8, learning_rate=1e-2, precision="float32", seed=3)


def examples(count: int = 40, seed: int = 0) -> Encoded:
    """Label 1 if the sentence has the word `good`, else 0."""
    rng = np.random.default_rng(seed)
    good = tiny.VOCABULARY.index("good")
    rows = [np.concatenate([[1], rng.integers(60, tiny.SIZE, rng.integers(2, 9)), [2]]) for _ in range(count)]
    rows = [np.where(row == good, good + 1, row) for row in rows]
    labels = rng.integers(0, 2, count)
    rows = [np.insert(row, 1, good) if label else row for row, label in zip(rows, labels, strict=True)]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    tokens = np.concatenate(rows).astype(np.int32)
    return Encoded(tokens, np.zeros(len(tokens), dtype=np.uint8), offsets, labels)


def weights(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def test_every_example_once_per_epoch_in_a_new_order():
    lengths = np.random.default_rng(0).integers(3, 50, 1003)
    first, again, second = (shuffled_batches(lengths, 8, 5, epoch) for epoch in (0, 0, 1))
    for batches in (first, second):
        assert sorted(np.concatenate(batches)) == list(range(1003))
    assert all((left == right).all() for left, right in zip(first, again, strict=True))
    assert not all(len(a) == len(b) and (a == b).all() for a, b in zip(first, second, strict=True))


def test_buckets_save_padding():
    lengths = np.random.default_rng(0).integers(3, 50, 4000)
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in shuffled_batches(lengths, 32, 0, 0))
    assert padded < 1.1 * lengths.sum()


def test_collate_pads_and_masks():
    data = examples()
    batch = collate(data, np.array([3, 0]), pad=0)
    for row, index in enumerate((3, 0)):
        length = int(data.lengths[index])
        assert batch.mask[row].tolist() == [1] * length + [0] * (batch.ids.shape[1] - length)
        assert batch.ids[row, :length].tolist() == data.tokens[data.offsets[index] : data.offsets[index + 1]].tolist()
    assert sorted(int(i) for b in sorted_batches(data, 7, 0) for i in b.indices) == list(range(40))


def test_labelled_examples_are_spread_over_the_file():
    data = examples()
    data.targets[20:] = -1
    chosen = data.labelled(5)
    assert chosen[0] == 0 and chosen[-1] == 19 and len(set(chosen)) == 5
    assert len(data.labelled(100)) == 20


@pytest.mark.parametrize("epochs", [0.2, 1, 1.4, 3])
def test_throughput_counts_examples(epochs):
    """The last batch of an epoch is smaller than the others: 27 examples in batches of 8."""

    def loss(network, batch):
        counted.append(len(batch))
        return tiny.LOSS(network, batch)

    counted: list[int] = []
    params = PARAMS.model_copy(update={"epochs": epochs})
    data = examples(27)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lissom.training.loop.time.monotonic", iter(range(1000)).__next__)  # a second from call to call
        fitted = fit(tiny.model("bert").network, data, 0, objective(loss), params)
    assert fitted.steps == len(counted)
    assert fitted.examples_per_second == pytest.approx(sum(counted) / fitted.steps)


def test_it_learns_and_is_deterministic():
    runs = []
    for _ in range(2):
        network = tiny.model("bert").network
        fitted = fit(network, examples(), 0, tiny.LOSS, PARAMS)
        runs.append(weights(network))
        losses = [record["loss"] for record in fitted.records]
        assert losses[-1] < losses[0]
        assert not network.training
    assert same(*runs)


class Killed(Exception):
    pass


class KillAt(Hook):
    def __init__(self, step: int) -> None:
        self.step = step

    def before_step(self, step: int, total: int) -> None:
        if step == self.step:
            raise Killed


@pytest.mark.parametrize("step", [1, 5, 7, 14])
@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_killed_training_resumes_to_the_same_weights(step, keep, tmp_path):
    params = PARAMS.model_copy(update={"keep": keep})

    def run(hooks=()):
        network = tiny.model("bert").network  # has dropout, so that the state of the generator matters
        scores = Scorer(ACCURACY, lambda: -float(network.classifier.weight.detach().sum()))
        checkpoints = Checkpoints(tmp_path / "checkpoint", every_seconds=0)
        fitted = fit(network, examples(), 0, tiny.LOSS, params, score=scores, hooks=hooks, checkpoints=checkpoints)
        remove_folder(tmp_path / "checkpoint")
        return weights(network), fitted

    expected, undisturbed = run()
    with pytest.raises(Killed):
        run([KillAt(step)])
    actual, resumed = run([KillAt(0)])  # step 0 does not come again
    assert same(expected, actual)
    assert resumed.records == undisturbed.records and resumed.best_score == undisturbed.best_score


def test_a_checkpoint_of_another_training_is_ignored(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoint", every_seconds=0)
    with pytest.raises(Killed):
        fit(tiny.model("bert").network, examples(), 0, tiny.LOSS, PARAMS, hooks=[KillAt(5)], checkpoints=checkpoints)
    other = PARAMS.model_copy(update={"learning_rate": 1e-3})
    fresh, resumed = tiny.model("bert").network, tiny.model("bert").network
    fit(fresh, examples(), 0, tiny.LOSS, other)
    fit(resumed, examples(), 0, tiny.LOSS, other, checkpoints=checkpoints)
    assert same(weights(fresh), weights(resumed))


def test_frozen_table_keeps_its_values_and_everything_else_learns():
    network = tiny.model("bert").network
    before = weights(network)
    fit(network, examples(), 0, tiny.LOSS, PARAMS)
    table = "bert.embeddings.word_embeddings.weight"
    changed = {name for name, tensor in weights(network).items() if not torch.equal(tensor, before[name])}
    assert table not in changed
    assert set(before) - changed == {table}
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_best_weights_are_kept():
    network = tiny.model("bert").network
    recorded: list[tuple[float, dict[str, torch.Tensor]]] = []

    def score() -> float:
        value = {0: 0.5, 1: 0.9, 2: 0.7}[len(recorded)]
        recorded.append((value, weights(network)))
        return value

    fitted = fit(network, examples(), 0, tiny.LOSS, PARAMS, score=Scorer(ACCURACY, score))
    assert fitted.best_score == 0.9
    assert same(recorded[1][1], weights(network))


def test_best_is_lowest_where_lower_is_better():
    network, values = tiny.model("bert").network, iter([30.0, 20.0, 25.0])
    perplexity = Metric(name="perplexity", higher_is_better=False)
    fitted = fit(network, examples(), 0, tiny.LOSS, PARAMS, score=Scorer(perplexity, lambda: next(values)))
    assert fitted.best_score == 20.0


def test_a_training_ends_when_dev_no_longer_improves():
    params = PARAMS.model_copy(update={"epochs": 9, "patience": 2})
    values = [0.6, 0.8, 0.7, 0.9, 0.9, 0.85, 0.95, 1.0, 1.0]  # nothing better in the two epochs after the fourth
    network, seen, states = tiny.model("bert").network, [], []

    def score():
        states.append(weights(network))
        seen.append(values[len(seen)])
        return seen[-1]

    fitted = fit(network, examples(), 0, tiny.LOSS, params, score=Scorer(ACCURACY, score))
    assert seen == values[:6] and fitted.best_score == 0.9 and fitted.steps == 6 * 5
    assert same(network.state_dict(), states[3])


def test_a_training_that_converged_is_not_continued(tmp_path):
    """A stage that is killed after its training has ended, and started again, must end with the same weights."""
    params = PARAMS.model_copy(update={"epochs": 9, "patience": 1})
    results = []
    for _ in range(2):
        network, values = tiny.model("bert").network, iter([0.6, 0.5, 0.9, 1.0])
        checkpoints = Checkpoints(tmp_path, 0.0, keep_result=True)
        scorer = Scorer(ACCURACY, lambda values=values: next(values))
        fitted = fit(network, examples(), 0, tiny.LOSS, params, score=scorer, checkpoints=checkpoints)
        results.append((fitted.steps, weights(network)))
    assert results[0][0] == results[1][0] == 10 and same(results[0][1], results[1][1])


def test_learning_rate_rises_and_falls():
    params = TrainingParams(learning_rate=1.0, warmup=0.2)
    rates = [learning_rate(step, 10, params) for step in range(10)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:] == pytest.approx([1 - step / 8 for step in range(8)])
    cosine = [learning_rate(step, 10, params.model_copy(update={"schedule": "cosine"})) for step in range(10)]
    assert cosine[2] == pytest.approx(1.0) and cosine[6] == pytest.approx(0.5)
    assert learning_rate(9, 10, params.model_copy(update={"schedule": "constant"})) == 1.0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_divergence_is_an_error_and_no_checkpoint(checkpointing, tmp_path):
    kept = Checkpoints(tmp_path / "checkpoint", every_seconds=0) if checkpointing else None

    def loss(network, batch):
        return tiny.LOSS(network, batch) * float("nan")

    with pytest.raises(DivergenceError, match="lower the learning rate"):
        fit(tiny.model("bert").network, examples(), 0, objective(loss), PARAMS, checkpoints=kept)
    assert not (tmp_path / "checkpoint" / "state.json").exists()


def test_decoders_keep_no_cache_while_they_train_and_their_config_afterwards():
    network, recorded = tiny.model("llama").network, []

    def loss(net, batch):
        recorded.append(net.config.use_cache)
        return tiny.LOSS(net, batch)

    fit(network, examples(), 0, objective(loss), PARAMS)
    assert set(recorded) == {False} and network.config.use_cache is True
