"""Where the names of points go so that none covers another name or a point, at every width that a chart may have.

Plotly keeps a label's distance from its point in px while the plot grows and shrinks with the window; so a place counts as free when it is free at all WIDTHS.
"""

from dataclasses import dataclass
from itertools import product

WIDTHS = (360, 480, 620, 760, 900, 1060)  # px of the plot inside its margins
CHAR, LINE = 7.4, 16  # px, of a 12 px font, generous
MARK = 7  # px from a marker's centre that stay free
DOWN = tuple(range(16, 300, 17))
FAR = 26  # px from which a line leads from the name to its point


@dataclass(frozen=True)
class Point:
    """text; x: share 0..1 of the plot's width; y, low, high: px from its upper edge (low, high: ends of its bar); above: prefers the upper left, else the lower right."""

    text: str
    x: float
    y: float
    low: float
    high: float
    above: bool = False

    @property
    def width(self):
        """px."""
        return CHAR * len(self.text) + 4


def place(points, height, lines=(), widths=WIDTHS):
    """Offsets of all names.

    Args: points: list of Point; height: of the plot, px; lines: level ones that a name should not stand on, as (x from, x to, y) in the units of a Point;
        widths: px at which nothing may collide.
    Returns: [(dx, dy)], px from each point to the centre of its name, right and down positive. Where nothing is free the least covered place is taken.
    """
    placed = {}
    for i in sorted(range(len(points)), key=lambda i: (not points[i].above, points[i].y, points[i].x)):
        best, least = (0, 0), float("inf")
        for at in _candidates(points[i]):
            cost = _cost(points, placed, i, at, height, lines, widths, least)
            if cost < least:
                best, least = at, cost
        placed[i] = best
    return [placed[i] for i in range(len(points))]


def _candidates(point):
    """Places around a point, those it prefers first."""
    near = point.width / 2 + MARK + 2
    around = [(near, 12), (-near, 12), (0, 18), (near, 0), (-near, 0), (near, -12), (-near, -12), (0, -18)]
    found = [(-dx, -dy) for dx, dy in around] if point.above else around
    return found + [(dx, sign * dy) for dy, sign, dx in product(DOWN, (1, -1), (near, -near, 0, 2 * near, -2 * near))]


def _cost(points, placed, i, at, height, lines, widths, enough):
    """px of distance, plus a lot for each collision at any width; counted no further than `enough`."""
    cost = (at[0] ** 2 / 4 + at[1] ** 2) ** 0.5
    for width in widths:
        if cost >= enough:
            break
        box, bad = box_of(points[i], at, width), 0
        bad += 4 * (box[0] < 0 or box[2] > width or box[1] < 0 or box[3] > height)
        bad += sum(overlap(box, box_of(points[j], placed[j], width)) for j in placed)
        bad += 0.5 * sum(overlap(box, (a * width, y - 2, b * width, y + 2)) for a, b, y in lines)
        for j, other in enumerate(points):
            x = other.x * width
            mark = (x - MARK, other.y - MARK, x + MARK, other.y + MARK)
            bad += overlap(box, mark) + 0.25 * (j != i and _crosses(points[i], at, mark, width)) + (0.5 if j != i else 0.1) * overlap(box, (x - 2, other.high, x + 2, other.low))
            bad += 0.25 * (j in placed and _crosses(points[j], placed[j], box, width))
        cost += 1000 * bad
    return cost


def box_of(point, at, width):
    """(left, top, right, bottom) of a name in px."""
    x, y = point.x * width + at[0], point.y + at[1]
    return x - point.width / 2, y - LINE / 2, x + point.width / 2, y + LINE / 2


def overlap(a, b):
    """Whether two boxes share more than an edge."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _crosses(point, at, box, width):
    """Whether the line from a point to its name runs through a box."""
    x, y = point.x * width, point.y
    return any(box[0] < x + k * at[0] / 8 < box[2] and box[1] < y + k * at[1] / 8 < box[3] for k in range(1, 8))
