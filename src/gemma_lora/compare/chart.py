"""Quality against cost as inline SVG: the tuned model's mean with its interval over training time.

Made as the charts of the report: positions in percent of the width, so that it fits any screen without
scaling its labels; colours from the page's style sheet. Runs of different groups, whose numbers do not
mean the same, differ in shape and fill.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

__all__ = ["clock", "quality_against_cost"]

_LEFT, _RIGHT, _TOP, _FLOOR = 9.0, 95.0, 16.0, 236.0
_WIDE = 8.0
"""From this ratio of the longest to the shortest time on, the scale is logarithmic."""


def clock(seconds: float | None) -> str:
    """`45 s`, `12 min`, `3.4 h`; a dash where it is not known."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def quality_against_cost(
    runs: Sequence[Mapping[str, Any]], groups: Sequence[Sequence[str]]
) -> Markup:
    """A dot with its interval for each run whose training time is known; the text names them all."""
    drawn = [run for run in runs if run["training_seconds"]]
    if not drawn:
        return Markup("")
    times = [float(run["training_seconds"]) for run in drawn]
    log = max(times) / min(times) >= _WIDE
    across = _scale(times, log)
    ends = [end for run in drawn for end in (*(run["tuned_ci95"] or ()), run["tuned_mean"])]
    low = max(1, math.floor(min(ends) - 0.2))
    high = min(10, max(low + 1, math.ceil(max(ends) + 0.2)))

    def down(value: float) -> float:
        value = min(high, max(low, value))  # an interval may leave the scale of scores
        return _FLOOR - (value - low) / (high - low) * (_FLOOR - _TOP)

    parts: list[Markup] = []
    for tick in range(low, high + 1):
        parts.append(
            Markup(
                '<line x1="{0}%" x2="100%" y1="{1:.1f}" y2="{1:.1f}" class="grid"/>'
                '<text x="{2}%" y="{3:.1f}" class="tick" text-anchor="end">{4}</text>'
            ).format(_LEFT - 3, down(tick), _LEFT - 4, down(tick) + 4, tick)
        )
    for value in _ticks(times, log):
        parts.append(
            Markup('<text x="{:.2f}%" y="256" class="tick" text-anchor="middle">{}</text>').format(
                across(value), clock(value)
            )
        )
    parts.append(
        Markup('<line x1="{}%" x2="100%" y1="{y}" y2="{y}" class="axis"/>').format(
            _LEFT - 3, y=_FLOOR
        )
    )
    place = {label: number for number, group in enumerate(groups) for label in group}
    for run, seconds in zip(drawn, times, strict=True):
        parts.append(_point(run, across(seconds), down, place[run["label"]]))
    scale = " (logarithmic)" if log else ""
    parts.append(
        Markup('<text x="50%" y="276" class="tick" text-anchor="middle">{}</text>').format(
            f"training time{scale}"
        )
    )
    text = "; ".join(
        f"{run['label']}: {run['tuned_mean']:.2f} after {clock(run['training_seconds'])}"
        for run in drawn
    )
    return Markup(
        '<svg class="chart" role="img" width="100%" height="282" aria-labelledby="qc-t qc-d">'
        '<title id="qc-t">Tuned mean overall against training time</title><desc id="qc-d">{}</desc>{}</svg>'
    ).format(text, Markup("").join(parts))


def _point(run: Mapping[str, Any], x: float, down: Any, group: int) -> Markup:
    y, ci95 = down(run["tuned_mean"]), run["tuned_ci95"]
    parts: list[Markup] = []
    if ci95 is not None:
        parts.append(
            Markup(
                '<line x1="{0:.2f}%" x2="{0:.2f}%" y1="{1:.1f}" y2="{2:.1f}" class="whisker effect"/>'
            ).format(x, down(ci95[0]), down(ci95[1]))
        )
    css = "dot effect marked" if group == 0 else "dot effect"
    if group % 2 == 0:
        shape = Markup('<circle cx="{:.2f}%" cy="{:.1f}" r="6" class="{}"/>').format(x, y, css)
    else:  # a nested viewport, since a square cannot be centred on a percentage
        shape = Markup(
            '<svg x="{:.2f}%" y="{:.1f}" width="1" height="1" overflow="visible">'
            '<rect x="-5.5" y="-5.5" width="11" height="11" class="{}"/></svg>'
        ).format(x, y, css)
    top = y - 8 if ci95 is None else min(y - 8, down(ci95[1]) - 5)
    label = Markup(
        '<text x="{:.2f}%" y="{:.1f}" class="tick halo strong" text-anchor="middle">{}</text>'
    ).format(x, top, run["label"])
    return Markup("").join([*parts, shape, label])


def _scale(times: Sequence[float], log: bool) -> Any:
    """Seconds to percent of the width; from zero, or logarithmic with room at both ends."""
    if log:
        low, high = math.log(min(times) / 1.3), math.log(max(times) * 1.3)
    else:
        low, high = 0.0, max(times) * 1.1

    def across(seconds: float) -> float:
        value = math.log(seconds) if log else seconds
        return _LEFT + (value - low) / (high - low) * (_RIGHT - _LEFT)

    return across


def _ticks(times: Sequence[float], log: bool) -> list[float]:
    """Three to five round times."""
    steps = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600]
    steps += [3600 * hours for hours in (2, 4, 6, 12, 24, 48, 96, 240, 720)]
    if log:
        inside = [s for s in [0.1, 0.2, 0.5, *steps] if min(times) / 1.3 <= s <= max(times) * 1.3]
        return [float(s) for s in inside[:: max(1, math.ceil(len(inside) / 4))]]
    top = max(times) * 1.1
    step = next((s for s in [0.1, 0.2, 0.5, *steps] if top / s <= 4.5), top / 4)
    return [step * n for n in range(int(top / step) + 1)]
