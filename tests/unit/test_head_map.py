"""The report's map of attention heads."""

import pytest

from lissom.models.edits import KeepHeads
from lissom.prune.config import FirstOrderPruning
from lissom.prune.plan import plan
from lissom.report.plots import heads
from lissom.training.lesson import Lesson
from tests.unit import tiny
from tests.unit.distill.recipes import tables_in


@pytest.mark.parametrize("criterion", ["gradient", "relevance", "confidence"])
def test_every_removed_head_is_crossed_out(criterion, tmp_path):
    lesson, model = Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path), tiny.model("bert")
    params = FirstOrderPruning(method="first_order", heads=0.5, neuron_multiple=8, head_criterion=criterion)
    recipe = plan(model, lesson, params)
    sites, scores, kept = (recipe.facts[name] for name in ("head_sites", "head_scores", "heads_kept"))
    (edit,) = (edit for edit in recipe.edits if isinstance(edit, KeepHeads))
    assert [tuple(site) for site in kept] == list(edit.kept)
    assert all(sum(map(abs, site)) == pytest.approx(1, abs=1e-3) and len(site) == 4 for site in scores)
    drawn = [heads(sites, scores, everything) for everything in ([[0, 1, 2, 3]] * 4, kept)]
    assert drawn[1].count("<use ") - drawn[0].count("<use ") == 16 - sum(map(len, kept)) == 8


def test_sites_that_were_not_pruned_are_left_out():
    sites = ["encoder block 0", "decoder block 0", "decoder block 0, cross-attention"]
    drawn = heads(sites, [[], [0.2, 0.8], [0.5, 0.3, 0.2]], [[0, 1], [1], [0, 1, 2]])
    assert drawn.startswith("<svg") and [f">{site}<" in drawn for site in sites] == [False, True, True]
