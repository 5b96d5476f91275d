"""Bars as SVG, without a plotting library."""

from collections.abc import Mapping
from xml.sax.saxutils import escape

_COLOURS = ("#c33", "#36c", "#3a3", "#a3a")
_BAR, _GAP, _LABELS, _WIDTH = 14, 12, 190, 420


def bars(groups: Mapping[str, Mapping[str, float | None]], unit: str = "tok/s") -> str:
    """Horizontal bars, group by group, all to one scale; a value of None has no bar.

    Args:
        groups: By group, by name.
    """
    rows = {
        group: shown
        for group, values in groups.items()
        if (shown := {name: value for name, value in values.items() if value is not None})
    }
    top = max((value for values in rows.values() for value in values.values()), default=1.0)
    names = list(dict.fromkeys(name for values in rows.values() for name in values))
    lines, y = [], 0
    for group, values in rows.items():
        middle = y + len(values) * _BAR / 2 + 4
        lines.append(f'<text x="{_LABELS - 8}" y="{middle:.0f}" text-anchor="end">{escape(group)}</text>')
        for name, value in values.items():
            width = max(1.0, value / top * _WIDTH)
            colour = _COLOURS[names.index(name) % len(_COLOURS)]
            lines.append(f'<rect x="{_LABELS}" y="{y}" width="{width:.1f}" height="{_BAR - 2}" fill="{colour}"/>')
            label = f"{value:.0f} {escape(name)}"
            lines.append(f'<text x="{_LABELS + width + 4:.1f}" y="{y + _BAR - 4}" font-size="10">{label}</text>')
            y += _BAR
        y += _GAP
    # White behind it, for pages that are dark.
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -8 {_LABELS + _WIDTH + 130} {y + 24}" font-size="12" '
        'style="background:#fff">'
    )
    return "\n".join([head, *lines, f'<text x="{_LABELS}" y="{y + 8}">{escape(unit)}</text>', "</svg>", ""])
