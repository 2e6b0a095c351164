import pytest

from lissom.evaluate.conditions import Conditions
from lissom.evaluate.paired import Paired
from lissom.interval import Interval
from lissom.report.ledger import Headline, Ledger, Row
from lissom.report.tables import kept_in_words
from lissom.tasks.metric import ACCURACY, Metric
from lissom.tracking import registry
from lissom.tracking.champion import Duel, decide, obstacle, source_digest
from lissom.tracking.config import GatesParams
from lissom.tracking.registry import description_of, failed_gates

PERPLEXITY = Metric(name="perplexity", higher_is_better=False)
GATES = GatesParams(max_score_drop=0.02, min_speedup={"eager": 10, "int8": 1.5}, max_megabytes=5)
QUIET = Conditions(rounds=9, discarded=0, foreign_cpus=0.0, disturbed=None)
BUSY = Conditions(rounds=9, discarded=0, foreign_cpus=1.0, disturbed="threads waited")


def around(value: float, width: float = 0.0) -> Interval:
    return Interval(value=value, low=value - width, high=value + width)


def ledger(score=0.89, eager=12.0, megabytes=4.0, metric=ACCURACY, teacher=0.9, width=0.5, conditions=QUIET) -> Ledger:
    def row(step: str, **figures: float) -> Row:
        return Row.model_construct(step=step, **figures)

    speedups = {"eager": around(eager, width), "onnx": around(6.0), "int8": around(2.0)}
    return Ledger.model_construct(
        metric=metric, floors=(), headline=Headline.model_construct(
            speedups=speedups, conditions=conditions, drop=around(metric.drop(teacher, score), 0.005)
        ),
        rows=(row("teacher", score=teacher, megabytes=90.0), row("quantize", score=score, megabytes=megabytes)),
    )  # fmt: skip


def test_gates_that_are_passed_are_silent():
    assert failed_gates(ledger(), GATES) == []
    assert failed_gates(ledger(score=0.95), GATES) == []


def test_every_failed_gate_is_named_with_figure_and_bar():
    failures = failed_gates(ledger(0.87, 9.5, 5.5), GATES)
    assert [failure.split(",")[0] for failure in failures] == [
        "accuracy is worse than the teacher's by 0.0300",
        "9.50x faster than the teacher's baseline eager (95 % interval 9.00 to 10.00)", "5.50 MB",
    ]  # fmt: skip
    assert all("gates." in failure for failure in failures)


def test_a_speed_must_pass_with_the_lower_bound_of_its_interval():
    assert failed_gates(ledger(eager=10.4, width=0.3), GATES) == []
    assert "gates.min_speedup.eager is 10" in failed_gates(ledger(eager=10.4, width=0.6), GATES)[0]


def test_a_disturbed_speed_passes_no_gate_however_high_it_is():
    (failure,) = failed_gates(ledger(eager=155.0, conditions=BUSY), GATES)
    assert "is uncertain" in failure and "threads waited" in failure and "metrics/evaluate/quantize" in failure
    assert failed_gates(ledger(eager=155.0, conditions=BUSY), GATES.model_copy(update={"min_speedup": {}})) == []


def test_gates_know_the_direction_of_the_metric():
    worse, better = (ledger(score, metric=PERPLEXITY, teacher=20.0) for score in (21.0, 19.0))
    assert failed_gates(better, GATES) == [] and len(failed_gates(worse, GATES)) == 1
    assert "perplexity is worse than the teacher's by 0.0500" in failed_gates(worse, GATES)[0]


def test_a_perplexity_of_other_tokens_passes_by_what_was_compared_text_by_text():
    """A trimmed vocabulary has a lower perplexity per token of its own, and a higher one per token of the teacher."""
    other = ledger(18.0, metric=PERPLEXITY, teacher=20.0)
    paired = other.headline.model_copy(update={"drop": around(0.3, 0.05)})
    (failure,) = failed_gates(other.model_copy(update={"headline": paired}), GATES)
    assert "perplexity is worse than the teacher's by 0.3000" in failure


def duel(drop=0.0, width=0.01, speedup=1.0, smaller=1.0, conditions=QUIET) -> Duel:
    scores = Paired(drop=around(drop, width), kept=None)
    return Duel(
        scores=scores, on_test=scores, speedup=around(speedup, 0.02), conditions=conditions, times_smaller=smaller
    )


@pytest.mark.parametrize(
    ("outcome", "wins", "words"),
    [
        (duel(), False, "neither clearly faster nor smaller"),
        (duel(drop=-0.02), True, "improvement"),
        (duel(drop=-0.005), False, "no difference"),  # inside the interval
        (duel(drop=0.02), False, "worse"),
        (duel(drop=0.02, smaller=10.0, speedup=10.0), False, "worse"),
        (duel(drop=0.008, speedup=2.0), False, "champion_margin"),
        (duel(drop=0.004, speedup=2.0), True, "2.00 times faster"),
        (duel(speedup=1.06), False, "neither"),  # two timings differ by as much
        (duel(smaller=2.0), True, "2.00 times smaller"),
        (duel(smaller=2.0, speedup=0.5), False, "2.00 times slower"),
        (duel(speedup=2.0, smaller=0.5), False, "2.00 times bigger"),
        (duel(speedup=2.0, conditions=BUSY), False, "is uncertain: threads waited"),
        (duel(drop=-0.02, speedup=0.5, conditions=BUSY), True, "improvement"),
        (duel(speedup=0.2, smaller=1.06, conditions=BUSY), False, "whether it is slower is uncertain: threads waited"),
    ],
)
def test_a_champion_is_replaced_by_what_is_clearly_better(outcome, wins, words):
    better, reason = decide(outcome, ACCURACY, GATES)
    assert better == wins and words in reason


def test_a_worse_perplexity_is_told_as_worse():
    better, reason = decide(duel(drop=0.30), PERPLEXITY, GATES)
    assert not better and "perplexity on dev is +30.0%" in reason and "+29.0% to +31.0%" in reason


class Client:
    """A registry whose champion is version 1, made from some data."""

    def __init__(self, source: str | None) -> None:
        self.aliases = {"champion": "1"}
        self.tags = {} if source is None else {"lissom.source": source_digest(source)}

    def get_registered_model(self, name):
        return type("Model", (), {"aliases": dict(self.aliases)})()

    def get_model_version(self, name, version):
        return type("Version", (), {"tags": self.tags})()

    def set_registered_model_alias(self, name, alias, version):
        self.aliases[alias] = version


@pytest.mark.parametrize(
    ("before", "now", "moves"),
    [
        ("hub:a/intents", "hub:a/intents@v2", True),
        ("hub:a/intents", "hub:b/intents", False),
        ("files:/home/b/toxic/data", "files:reviews/data", False),
        ("files:/home/b/toxic/data", None, True),  # the model's name was chosen
        ("files:data", "files:./data/", True),
        ("files:/data@a/x", "files:/data@b/x", False),
        (None, "files:data", True),  # registered before sources were told apart
    ],
)
def test_data_of_the_same_name_from_elsewhere_does_not_compete(monkeypatch, before, now, moves):
    import mlflow

    client = Client(before)
    monkeypatch.setattr(mlflow, "MlflowClient", lambda: client)
    outcome = registry.move_aliases(
        "lissom-data", "2", ledger(), GATES, now, lambda champion: None, lambda champion: (True, "better")
    )
    assert (outcome.aliases != ()) == moves == (client.aliases["champion"] == "2")
    if not moves:
        assert (
            now in outcome.reason and "tracking.registered_model" in outcome.reason and "/home/b" not in outcome.reason
        )


def test_a_champion_of_another_question_stays():
    here = {"kind": "classification", "task": "data", "pair": False, "labels": ["neg", "pos"]}
    assert obstacle(here, here | {"max_length": 512}) is None
    for change in ({"labels": ["neg", "neutral", "pos"]}, {"kind": "regression"}, {"task": "other"}, {"pair": True}):
        reason = obstacle(here, here | change)
        assert reason is not None and str(next(iter(change.values()))) in reason


def test_a_description_fits_the_registrys_column_and_says_where_the_rest_is():
    card = "---\nlibrary_name: lissom\n---\n\n# name\n\n- a - - - b\n"
    assert description_of(card) == "# name\n\n- a - - - b\n"
    long = card + "".join(f"line {number}\n" for number in range(2000))
    text = description_of(long)
    assert len(text) <= 5000 and text.startswith("# name") and text.endswith("model_card.md of this version's run)\n")
    assert all(line in long.splitlines() for line in text.splitlines()[:-2])


def test_tags_do_not_tell_where_the_base_model_lies(monkeypatch, tmp_path):
    record = type("Record", (), {"files": {"model.onnx": 1}})()
    monkeypatch.setattr(registry, "read_record", lambda folder: record)
    (tmp_path / "model.onnx").write_bytes(b"x")
    (tmp_path / "serving.json").write_text("{}")
    described = ledger()
    described = described.model_copy(update={"task": "t"})
    assert (
        registry.version_tags(described, tmp_path, "dir:/home/me/secret/base", "files:/home/me/x")["base"] == "dir:base"
    )
    assert "home" not in str(registry.version_tags(described, tmp_path, "hub:a/b", "files:/home/me/x"))
    assert registry.version_tags(described, tmp_path, "hub:owner/base@v1", "hub:a/b")["base"] == "hub:owner/base@v1"


def test_another_file_for_ollama_is_another_version(tmp_path):
    (tmp_path / "ollama").mkdir()
    (tmp_path / "model.onnx").write_bytes(b"x")
    (tmp_path / "ollama/model-q8_0.gguf").write_bytes(b"y")
    digests = [registry._files_digest(tmp_path)]
    for name, content in (("export.json", b"times"), ("ollama/Modelfile", b"SYSTEM"), ("ollama/model-q4_0.gguf", b"z")):
        (tmp_path / name).write_bytes(content)
        digests.append(registry._files_digest(tmp_path))
    assert digests[0] == digests[1] and len(set(digests)) == 3


@pytest.mark.parametrize(
    "low, value, high, says",
    [
        (0.97, 0.99, 1.01, ")"),
        (0.99, 1.01, 1.03, "the difference to the teacher is within its interval"),
        (1.02, 1.08, 1.11, "the teacher is undertrained, not that compressing improves models"),
    ],
)
def test_more_than_the_teacher_s_is_explained(low, value, high, says):
    share, label = kept_in_words(Interval(value=value, low=low, high=high), "accuracy")
    assert share == f"{value:.1%}" and label.endswith(says)
