"""Charts as inline SVG that keeps its text size at any width.

Positions across are percentages of the width, so a chart fits a telephone and a wide screen alike
without scaling its labels; curves sit in a nested viewport that stretches, with strokes that do
not. Colours come from the page's style sheet by class. Each arm also has its own shape and fill, so
that nothing depends on telling colours apart. All text goes through `Markup.format`, which escapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

__all__ = [
    "bars",
    "bins",
    "forest",
    "forest_axis",
    "forest_reach",
    "histogram",
    "loss_curves",
    "share_bar",
    "strip",
    "strip_axis",
]

_LEFT, _RIGHT = 2.5, 97.5  # percent of the width, so that end labels are not cut off


def _at(value: float, low: float = 1.0, high: float = 10.0) -> str:
    """Where `value` lies across the chart, in percent."""
    share = (min(max(value, low), high) - low) / (high - low)
    return f"{_LEFT + share * (_RIGHT - _LEFT):.2f}%"


def _figure(height: int, name: str, title: str, text: str, body: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg class="chart" role="img" width="100%" height="{0}" aria-labelledby="{1}-t {1}-d">'
        '<title id="{1}-t">{2}</title><desc id="{1}-d">{3}</desc>{4}</svg>'
    ).format(height, name, title, text, Markup("").join(body))


def strip_axis() -> Markup:
    """The scale above the strips; decoration, since each strip's row gives its numbers."""
    marks = [
        Markup('<text x="{}" y="12" class="tick" text-anchor="middle">{}</text>').format(_at(v), v)
        for v in range(1, 11)
    ]
    return Markup('<svg width="100%" height="16" aria-hidden="true">{}</svg>').format(
        Markup("").join(marks)
    )


def strip(
    label: str,
    base: float,
    tuned: float,
    base_ci: Sequence[float] | None,
    tuned_ci: Sequence[float] | None,
) -> Markup:
    """Both means with their intervals on one line of the scale 1 to 10."""
    parts = [
        Markup('<line x1="{0}" x2="{0}" y1="2" y2="34" class="grid"/>').format(_at(v))
        for v in range(1, 11)
    ]
    for arm, mean, ci, y in (("base", base, base_ci, 12), ("tuned", tuned, tuned_ci, 25)):
        if ci is not None:
            parts.append(
                Markup('<line x1="{}" x2="{}" y1="{y}" y2="{y}" class="whisker {arm}"/>').format(
                    _at(ci[0]), _at(ci[1]), y=y, arm=arm
                )
            )
        parts.append(
            Markup('<circle cx="{}" cy="{}" r="5" class="dot {}"/>').format(_at(mean), y, arm)
        )
    text = f"{label}: base {base:.2f}, tuned {tuned:.2f} on a scale of 1 to 10"
    return Markup('<svg role="img" aria-label="{}" width="100%" height="36">{}</svg>').format(
        text, Markup("").join(parts)
    )


def forest_reach(ends: Sequence[float]) -> float:
    """Half the width of the forest plot's scale: the next whole point beyond the farthest end."""
    return float(max(1, math.ceil(max((abs(end) for end in ends), default=0.0))))


def forest_axis(reach: float) -> Markup:
    """The scale above the differences: base better on the left, tuned better on the right."""
    anchors = {-reach: "start", reach: "end"}  # the outer ones would stick out of a narrow page
    marks = [
        Markup('<text x="{}" y="12" class="tick" text-anchor="{}">{}</text>').format(
            _at(value, -reach, reach),
            anchors.get(value, "middle"),
            f"{value:+g}".replace("-", "\u2212") if value else "0",
        )
        for value in (-reach, -reach / 2, 0.0, reach / 2, reach)
    ]
    return Markup('<svg width="100%" height="16" aria-hidden="true">{}</svg>').format(
        Markup("").join(marks)
    )


def forest(
    label: str,
    difference: float,
    ci95: Sequence[float] | None,
    *,
    reach: float,
    margin: float,
    marked: bool,
) -> Markup:
    """A difference with its interval, the line of no difference and the margin around it."""

    def at(value: float) -> str:
        return _at(value, -reach, reach)

    left, right = (float(at(v).rstrip("%")) for v in (-margin, margin))
    parts = [
        Markup('<rect x="{:.2f}%" y="0" width="{:.2f}%" height="26" class="margin"/>').format(
            left, right - left
        ),
        Markup('<line x1="{0}" x2="{0}" y1="0" y2="26" class="axis"/>').format(at(0)),
    ]
    if ci95 is not None:
        parts.append(
            Markup('<line x1="{}" x2="{}" y1="13" y2="13" class="whisker effect"/>').format(
                at(ci95[0]), at(ci95[1])
            )
        )
    css = "dot effect marked" if marked else "dot effect"
    parts.append(Markup('<circle cx="{}" cy="13" r="5" class="{}"/>').format(at(difference), css))
    span = f", 95 % interval {ci95[0]:+.2f} to {ci95[1]:+.2f}" if ci95 is not None else ""
    text = f"{label}: difference {difference:+.2f}{span}" + (", marked" if marked else "")
    return Markup('<svg role="img" aria-label="{}" width="100%" height="26">{}</svg>').format(
        text, Markup("").join(parts)
    )


def bins(values: Sequence[float]) -> list[int]:
    """Counts of scores by the nearest whole number, 1 to 10 (halves go up)."""
    counts = [0] * 10
    for value in values:
        counts[min(10, max(1, math.floor(value + 0.5))) - 1] += 1
    return counts


def histogram(base: Sequence[float], tuned: Sequence[float]) -> Markup:
    """How often each score was given, both arms side by side."""
    counts = {"base": bins(base), "tuned": bins(tuned)}
    top = max(1, *counts["base"], *counts["tuned"])
    floor, room, slot = 168.0, 140.0, 10.0
    parts = [Markup('<line x1="0" x2="100%" y1="{0}" y2="{0}" class="axis"/>').format(floor)]
    for index in range(10):
        left = index * slot
        middle = f"{left + slot / 2:.2f}%"
        parts.append(
            Markup('<text x="{}" y="186" class="tick" text-anchor="middle">{}</text>').format(
                middle, index + 1
            )
        )
        for arm, offset in (("base", 1.2), ("tuned", 5.1)):
            count = counts[arm][index]
            if not count:
                continue
            height = max(2.0, room * count / top)
            parts.append(
                Markup(
                    '<rect x="{:.2f}%" y="{:.1f}" width="3.7%" height="{:.1f}" class="bar {}"/>'
                    '<text x="{:.2f}%" y="{:.1f}" class="tick" text-anchor="middle">{}</text>'
                ).format(
                    left + offset,
                    floor - height,
                    height,
                    arm,
                    left + offset + 1.85,
                    floor - height - 5,
                    count,
                )
            )
    text = "; ".join(
        f"{arm}: " + ", ".join(f"{n} x {i}" for i, n in enumerate(counts[arm], 1) if n)
        for arm in ("base", "tuned")
    )
    return _figure(192, "histogram", "How often each overall score was given", text, parts)


def bars(rows: Sequence[tuple[str, int]], title: str) -> Markup:
    """A horizontal bar for each (name, count)."""
    top = max(1, *(count for _, count in rows))
    parts: list[Markup] = []
    for index, (name, count) in enumerate(rows):
        y = 22 * index
        width = max(0.4 if count else 0.0, 68 * count / top)
        parts.append(
            Markup(
                '<text x="18%" y="{:d}" class="tick" text-anchor="end">{}</text>'
                '<rect x="20%" y="{:d}" width="{:.2f}%" height="14" class="bar tie"/>'
                '<text x="{:.2f}%" y="{:d}" dx="6" class="tick">{:d}</text>'
            ).format(y + 13, name, y + 2, width, 20 + width, y + 13, count)
        )
    text = ", ".join(f"{name}: {count}" for name, count in rows)
    return _figure(22 * len(rows), "lengths", title, text, parts)


def share_bar(win: int, tie: int, loss: int) -> Markup:
    """Wins, ties and losses as parts of one bar."""
    total = max(1, win + tie + loss)
    parts: list[Markup] = []
    left = 0.0
    for count, css in ((win, "tuned"), (tie, "tie"), (loss, "base")):
        width = 100 * count / total
        if count:
            parts.append(
                Markup(
                    '<rect x="{:.2f}%" y="0" width="{:.2f}%" height="22" class="bar {}"/>'
                ).format(left, width, css)
            )
        left += width
    text = f"tuned better {win}, equal {tie}, tuned worse {loss}"
    return _figure(22, "tally", "Wins, ties and losses of the tuned model", text, parts)


def loss_curves(
    training: Sequence[tuple[int, float]],
    validation: Sequence[tuple[int, float]],
    best_step: int | None,
) -> Markup:
    """Training and validation loss over steps; the kept checkpoint is marked."""
    points = [*training, *validation]
    last = max(max(step for step, _ in points), 1)
    low, high = min(v for _, v in points), max(v for _, v in points)
    ticks = _round_ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    top, floor = 14.0, 196.0

    def down(value: float) -> float:
        return floor - (value - low) / (high - low) * (floor - top)

    parts: list[Markup] = []
    for tick in ticks:
        parts.append(
            Markup(
                '<line x1="0" x2="100%" y1="{0:.1f}" y2="{0:.1f}" class="grid"/>'
                '<text x="2" y="{1:.1f}" class="tick halo">{2:g}</text>'
            ).format(down(tick), down(tick) - 3, tick)
        )
    curve = Markup('<polyline points="{}" class="curve {}" vector-effect="non-scaling-stroke"/>')
    for series, css in ((training, "train"), (validation, "validation")):
        line = " ".join(f"{_across(s, last):.2f},{down(v):.2f}" for s, v in series)
        parts.append(
            Markup(
                '<svg x="0" y="0" width="100%" height="210" viewBox="0 0 100 210" '
                'preserveAspectRatio="none">{}</svg>'
            ).format(curve.format(line, css))
        )
    for step, value in validation:
        parts.append(
            Markup('<circle cx="{:.2f}%" cy="{:.1f}" r="3" class="dot validation"/>').format(
                _across(step, last), down(value)
            )
        )
    if best_step is not None and best_step <= last:
        x = _across(best_step, last)
        anchor, shift = ("end", -6) if x > 50 else ("start", 6)
        parts.append(
            Markup(
                '<line x1="{0:.2f}%" x2="{0:.2f}%" y1="8" y2="{1}" class="mark"/>'
                '<text x="{0:.2f}%" dx="{2}" y="18" class="tick halo strong" text-anchor="{3}">'
                "kept: step {4}</text>"
            ).format(x, floor, shift, anchor, best_step)
        )
    parts.append(
        Markup(
            '<line x1="0" x2="100%" y1="{0}" y2="{0}" class="axis"/>'
            '<text x="{1}%" y="214" class="tick">0</text>'
            '<text x="50%" y="214" class="tick" text-anchor="middle">step</text>'
            '<text x="{2}%" y="214" class="tick" text-anchor="end">{3}</text>'
        ).format(floor, 6, 99, last)
    )
    text = "; ".join(
        f"{name} loss from {series[0][1]:.3f} to {series[-1][1]:.3f}"
        for name, series in (("training", training), ("validation", validation))
        if series
    )
    return _figure(220, "loss", "Loss during training", text, parts)


def _across(step: float, last: int) -> float:
    return 6 + 93 * step / last


def _round_ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers that span the values."""
    span = max(high - low, 1e-6)
    raw = span / 4
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw)
    first = math.floor(low / step)
    count = math.ceil(high / step) - first
    return [round((first + i) * step, 10) for i in range(max(count, 1) + 1)]
