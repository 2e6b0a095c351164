"""Placing the names of points in a plot, so that no name covers another name, a point or an edge of the axes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

_FONT_SIZE = 9.5
_MARKER_POINTS = 5.0
"""Half the side of the square that a point's marker takes, points (1/72 inch)."""
_GAP_POINTS = 2.5
"""Least distance between a name and anything else."""
_STEP_POINTS = 3.0
"""By how much the distance grows while no place is free."""
_LONGEST_PLAIN = 9.0
"""A name farther from its point than this gets a line to it, points."""
_ANGLES = (90, 270, 0, 180, 45, 135, 315, 225, 60, 120, 300, 240, 20, 160, 340, 200)
"""Directions in the order of preference, degrees: above, below, right, left, and between."""

Label = tuple[float, float, str, str]
"""x, y, name, color."""
Segment = tuple[tuple[float, float], tuple[float, float]]
Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in pixels."""


def place_labels(axes: Any, labels: Sequence[Label], lines: Sequence[Sequence[tuple[float, float]]]) -> None:
    """Write the names of points next to them.

    Every name takes the nearest free place: one that no line crosses, else one that only lines of the plot cross, else
    any. The limits of the axes and the layout of the figure must be final.

    Args:
        axes: matplotlib's axes, linear or logarithmic.
        labels: the names with their points in data coordinates.
        lines: polylines of the plot in data coordinates, each a sequence of points.
    """
    renderer, unit = axes.figure.canvas.get_renderer(), axes.figure.dpi / 72
    positions = axes.transData.transform([(x, y) for x, y, _, _ in labels]).tolist()
    half = _MARKER_POINTS * unit
    taken = _Taken(
        axes.get_window_extent(renderer).extents,
        _GAP_POINTS * unit,
        markers=[_around(x, y, half, half) for x, y in positions],
        lines=[segment for line in lines for segment in pairwise(axes.transData.transform(line).tolist())],
    )
    for (x, y), (data_x, data_y, name, color) in zip(positions, labels, strict=True):
        style = {"ha": "center", "va": "center", "fontsize": _FONT_SIZE, "color": color}
        text = axes.annotate(name, (data_x, data_y), textcoords="offset points", xytext=(0, 0), **style)
        size = text.get_window_extent(renderer)
        box, leader = taken.place(x, y, size.width / 2, size.height / 2, unit)
        text.set_position((((box[0] + box[2]) / 2 - x) / unit, ((box[1] + box[3]) / 2 - y) / unit))
        text.set_in_layout(False)
        if leader is not None:
            arrow = {"arrowstyle": "-", "color": color, "linewidth": 0.6, "shrinkA": 4, "shrinkB": 0}
            end = axes.transData.inverted().transform(leader[1])
            axes.annotate("", end, xytext=(data_x, data_y), arrowprops=arrow).set_in_layout(False)


@dataclass
class _Taken:
    """The places in the axes that are taken, in pixels."""

    inside: Box
    gap: float
    markers: list[Box]
    lines: list[Segment]
    names: list[Box] = field(default_factory=list)
    leaders: list[Segment] = field(default_factory=list)

    def place(
        self, x: float, y: float, half_width: float, half_height: float, unit: float
    ) -> tuple[Box, Segment | None]:
        """Take the nearest free place for a name of a point; return it, with a line to the point if it is not close.

        If no place is free, the name lies on its point.
        """
        left, bottom, right, top = self.inside
        reach = math.hypot(right - left, top - bottom)
        free = (
            (box, distance)
            for crossing, crossed in (([*self.leaders, *self.lines], self.names), (self.leaders, self.names), ([], []))
            for box, distance in _places(x, y, half_width, half_height, unit, reach)
            if self._fits(box)
            and not any(_crosses(segment, _padded(box, self.gap)) for segment in crossing)
            and not any(_crosses(((x, y), _nearest(box, x, y)), name) for name in crossed)
        )
        box, distance = next(free, (_around(x, y, half_width, half_height), 0.0))
        self.names.append(box)
        if distance <= _LONGEST_PLAIN * unit:
            return box, None
        self.leaders.append(((x, y), _nearest(box, x, y)))
        return box, self.leaders[-1]

    def _fits(self, box: Box) -> bool:
        left, bottom, right, top = _padded(box, self.gap)
        edges = self.inside
        if left < edges[0] or bottom < edges[1] or right > edges[2] or top > edges[3]:
            return False
        return not any(
            left < other[2] and other[0] < right and bottom < other[3] and other[1] < top
            for other in (*self.names, *self.markers)
        )


def _places(
    x: float, y: float, half_width: float, half_height: float, unit: float, reach: float
) -> Iterator[tuple[Box, float]]:
    """Yield boxes around a point with their distance from it, from the nearest to the farthest."""
    distance = (_MARKER_POINTS + _GAP_POINTS + 1) * unit
    while distance < reach:
        for angle in _ANGLES:
            across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            center = (x + across * (half_width + distance), y + up * (half_height + distance))
            yield _around(*center, half_width, half_height), distance
        distance += _STEP_POINTS * unit


def _around(x: float, y: float, half_width: float, half_height: float) -> Box:
    return x - half_width, y - half_height, x + half_width, y + half_height


def _padded(box: Box, gap: float) -> Box:
    return box[0] - gap, box[1] - gap, box[2] + gap, box[3] + gap


def _nearest(box: Box, x: float, y: float) -> tuple[float, float]:
    """Return the point of a box that is nearest to a point."""
    return min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])


def _crosses(segment: Segment, box: Box) -> bool:
    """Return whether a segment has points in a box: Liang and Barsky's clipping."""
    (x0, y0), (x1, y1) = segment
    first, last = 0.0, 1.0
    for start, change, low, high in ((x0, x1 - x0, box[0], box[2]), (y0, y1 - y0, box[1], box[3])):
        if change == 0:
            if not low < start < high:
                return False
            continue
        enter, leave = sorted(((low - start) / change, (high - start) / change))
        first, last = max(first, enter), min(last, leave)
    return first < last
