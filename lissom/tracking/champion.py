"""Whether a new version replaces the champion: both are run again, on the present dev set and machine.

Figures that were stored with a version are of other data, another machine or another load, and are not compared. The
comparison is on dev; the test set only describes a version, since a choice between many versions by the test set would
select those that are lucky on it.
"""

import hashlib
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from lissom.artifacts import TOKENIZER
from lissom.data.tables import Table
from lissom.evaluate.conditions import Conditions
from lissom.evaluate.paired import Paired, compare_scores
from lissom.interval import Interval
from lissom.section import Section
from lissom.tasks.metric import Metric
from lissom.tracking.config import GatesParams

if TYPE_CHECKING:
    from lissom.data.encoding import Encoded
    from lissom.tasks.task import Task

_CLEAR = 1.05
"""A version is clearly faster or smaller than another by this factor."""
_SAME_QUESTION = ("kind", "task", "pair", "labels")
"""Entries of serving.json in which versions that compete agree."""


class Duel(Section):
    """A new version and the champion, run in the same process."""

    scores: Paired
    """Of the new version on dev, with the champion's in the place of the teacher's."""
    on_test: Paired
    """The same on test: a description, which decides nothing."""
    speedup: Interval
    """Median latency of the champion over the new version's, one text on one pinned thread."""
    conditions: Conditions
    times_smaller: float
    """The champion's size over the new version's."""


def obstacle(new: dict[str, Any], champion: dict[str, Any]) -> str | None:
    """Return why two versions cannot be compared, given the contents of their serving.json; None if they can."""
    for key in _SAME_QUESTION:
        if new.get(key) != champion.get(key):
            return (
                f"the champion answers another question: its {key} is {champion.get(key)!r}, here it is "
                f"{new.get(key)!r}; set tracking.registered_model to a name of its own, or "
                "delete the alias champion if that question is of no interest any more"
            )
    return None


def source_digest(source: str) -> str:
    """Return a digest of the params' `data.source`: models whose data have one name and two sources do not compete.

    The source itself may tell how this machine's folders are called, which a shared registry must not.
    """
    kind, _, place = source.partition(":")
    # A revision is another state of the same data, and a path may be written in several ways.
    place = place.partition("@")[0] if kind == "hub" else PurePath(place).as_posix()
    return hashlib.sha256(f"{kind}:{place}".encode()).hexdigest()[:16]


def run_duel(new: Path, champion: Path, dev: Table, test: Table, task: "Task", scratch: Path, seconds: float) -> Duel:
    """Run two exported folders on dev and test, each with its own tokenizer.

    Args:
        new: exported folder of the new version.
        champion: exported folder of the champion, for the same task.
        dev: the dev set, on which they are compared and timed.
        test: the test set.
        task: the task of both.
        scratch: folder for the tokenised texts.
        seconds: time of the latency measurement.
    """
    from tokenizers import Tokenizer

    from lissom.evaluate.latency import measure_latency
    from lissom.evaluate.variant import timed_together
    from lissom.export.exported import model_bytes, open_exported, split_answers

    exports = {"new": open_exported(new), "champion": open_exported(champion)}

    def compare(split: str, table: Table) -> tuple[Paired, dict[str, "Encoded"]]:
        encoded = {
            name: task.encode(
                [table], Tokenizer.from_file(str(exported.folder / TOKENIZER)), scratch / f"{split}-{name}"
            )
            for name, exported in exports.items()
        }
        logits = {name: split_answers(exported, encoded[name], task) for name, exported in exports.items()}
        scores = compare_scores(
            task, logits["new"], logits["champion"], encoded["new"].judged, encoded["champion"].judged
        )
        return scores, encoded

    on_test, _ = compare("test", test)
    on_dev, encoded = compare("dev", dev)
    sides = [(encoded[name], exported.serving["pad_id"]) for name, exported in exports.items()]
    batches = dict(zip(exports, timed_together(sides, 1), strict=True))
    runners = {name: exported.runner(batches[name], threads=1) for name, exported in exports.items()}
    timing = measure_latency(runners, [1] * len(batches["new"]), threads=1, seconds=seconds)
    sizes = {name: model_bytes(exported.files) for name, exported in exports.items()}
    return Duel(
        scores=on_dev,
        on_test=on_test,
        speedup=timing.ratio("champion", "new"),
        conditions=timing.conditions,
        times_smaller=sizes["champion"] / sizes["new"],
    )


def describe(duel: Duel, metric: Metric) -> str:
    """Return how the new version's score on test compares with the champion's, in words."""
    drop = duel.on_test.drop
    return (
        f"on test, which decides nothing: {metric.show_drop(drop.value)} "
        f"(95 % interval {metric.show_drops(drop.low, drop.high)})"
    )


def decide(duel: Duel, metric: Metric, gates: GatesParams) -> tuple[bool, str]:
    """Return whether the new version replaces the champion, and why.

    It does if its score is better beyond the interval; or if its score is not worse beyond the interval, nor by more
    than `gates.champion_margin`, and it is clearly faster or smaller and not clearly slower or bigger, of
    which a disturbed measurement tells nothing.
    """
    drop, speedup, smaller = duel.scores.drop, duel.speedup, duel.times_smaller
    on_dev = f"{metric.name} on dev is {metric.show_drop(drop.value)} against the champion's"
    bounds = f"95 % interval {metric.show_drops(drop.low, drop.high)}"
    if drop.high < 0:
        return True, f"{on_dev} ({bounds}): an improvement"
    if drop.low > 0:
        return False, f"{on_dev} ({bounds}): worse"
    if drop.value > gates.champion_margin:
        return False, f"{on_dev}, gates.champion_margin is {gates.champion_margin}"
    disturbed = duel.conditions.disturbed
    faster, slower = speedup.low > _CLEAR, speedup.high < 1 / _CLEAR
    if disturbed is None and slower:
        return False, f"{on_dev} ({bounds}): no difference, and it is {1 / speedup.value:.2f} times slower"
    if smaller < 1 / _CLEAR:
        return False, f"{on_dev} ({bounds}): no difference, and it is {1 / smaller:.2f} times bigger"
    better = [f"{smaller:.2f} times smaller"] if smaller > _CLEAR else []
    better += [f"{speedup.value:.2f} times faster"] if disturbed is None and faster else []
    if better and disturbed is not None:
        return False, (
            f"{on_dev} ({bounds}): no difference; it is {' and '.join(better)}, but whether it is slower is uncertain: "
            f"{disturbed}"
        )
    if better:
        return True, f"{' and '.join(better)}, and {on_dev} ({bounds}): no difference"
    unsure = "" if disturbed is None else f"; whether it is faster is uncertain: {disturbed}"
    return False, f"{on_dev} ({bounds}): no difference, and neither clearly faster nor smaller{unsure}"
