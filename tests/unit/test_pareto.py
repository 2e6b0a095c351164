"""The names of the Pareto plot cover neither each other nor a point, wherever the points are."""

from itertools import combinations

import matplotlib
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from matplotlib.transforms import Bbox

from lissom.artifacts import STEPS
from lissom.report import plots
from lissom.report.labels import _crosses
from lissom.tasks.metric import ACCURACY, PEARSON, Metric

BASELINES = ("teacher, eager torch", "teacher, plain int8")
NAMES = {*STEPS, *BASELINES, "floor: static embeddings"}

# Latency in ms and score of teacher, four steps, eager teacher and int8 teacher, and the score of the floor.
LAYOUTS = {
    "usual": ([(4.2, 0.74), (1.3, 0.77), (0.75, 0.78), (0.74, 0.79), (0.42, 0.799), (5.1, 0.74), (2.2, 0.735)], 0.73),
    "floor at the teacher": ([(4.2, 0.74), (1.3, 0.74), (0.7, 0.74), (0.6, 0.74), (0.4, 0.74), (4.4, 0.74), (2.2, 0.74)], 0.74),
    "steps on one spot": ([(4.0, 0.9), (0.5, 0.91), (0.5, 0.91), (0.5, 0.91), (0.5, 0.91), (9.0, 0.9), (2.0, 0.5)], 0.91),
    "all on one spot": ([(1.0, 0.9)] * 7, 0.9),
    "everything perfect": ([(0.1, 1.0), (0.06, 1.0), (0.05, 1.0), (0.052, 1.0), (0.058, 1.0), (1.5, 1.0), (0.2, 1.0)], 1.0),
}  # fmt: skip


def figure(points, floor, metric=ACCURACY):
    with matplotlib.rc_context(plots._STYLE):
        rows = [(name, *point) for name, point in zip((*STEPS, *BASELINES), points, strict=True)]
        drawn = plots.pareto_figure(rows[: len(STEPS)], rows[len(STEPS) :], ("static embeddings", floor), metric)
        drawn.canvas.draw()
    return drawn


def look(drawn) -> None:
    """Compare all boxes, as matplotlib's renderer draws them."""
    (axes,) = drawn.axes
    renderer, inside = drawn.canvas.get_renderer(), axes.get_window_extent()
    texts = [text for text in axes.texts if text.get_text()]
    boxes = {text.get_text(): Bbox(text.get_window_extent(renderer)) for text in texts}
    assert set(boxes) == NAMES and len(texts) == len(NAMES)
    markers = [
        place
        for line in axes.lines
        if line.get_marker() != "None"
        for place in axes.transData.transform(line.get_xydata())
    ]
    assert len(markers) == len(NAMES) - 1
    for (first, box), (second, other) in combinations(boxes.items(), 2):
        assert not box.overlaps(other), f"{first} covers {second}"
    for name, box in boxes.items():
        assert box.x0 >= inside.x0 and box.x1 <= inside.x1 and box.y0 >= inside.y0 and box.y1 <= inside.y1, name
        for x, y in markers:
            assert not box.overlaps(Bbox.from_extents(x - 4, y - 4, x + 4, y + 4)), f"{name} covers a point"


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(
    "metric", [ACCURACY, PEARSON, Metric(name="perplexity", higher_is_better=False)], ids=lambda metric: metric.name
)
def test_names_cover_nothing(name, metric):
    look(figure(*LAYOUTS[name], metric))


POINT = st.tuples(st.floats(-2.0, 2.5).map(lambda exponent: 10**exponent), st.floats(0.3, 1.0))


@settings(max_examples=12, phases=[Phase.explicit, Phase.generate])
@given(points=st.lists(POINT, min_size=7, max_size=7), floor=st.floats(0.3, 1.0), crowd=st.floats(0.0, 1.0))
def test_names_cover_nothing_wherever_the_points_are(points, floor, crowd):
    """From all over the plot to all near the first point."""
    (x, y), *_ = points
    near = [(x * (other / x) ** crowd, y + (score - y) * crowd) for other, score in points]
    look(figure(near, y + (floor - y) * crowd))


def test_a_plot_is_large_enough_on_a_phone():
    """The page gives the figure 326 of a phone's 390 pixels: its names have at least nine of them."""
    width = figure(*LAYOUTS["usual"]).get_figwidth() * 72
    sizes = [text.get_fontsize() for text in figure(*LAYOUTS["usual"]).axes[0].texts if text.get_text()]
    assert min(sizes) * 326 / width >= 8.9


@pytest.mark.parametrize(
    ("segment", "crosses"),
    [
        (((0, 5), (10, 5)), True),
        (((5, 0), (5, 10)), True),
        (((0, 0), (10, 10)), True),
        (((0, 0), (3, 3)), False),
        (((0, 9), (10, 9)), False),
        (((0, 7), (7, 0)), False),
        (((5, 5), (5, 5)), True),
    ],
)
def test_segments_cross_boxes(segment, crosses):
    assert _crosses(segment, (4, 4, 6, 6)) == crosses
