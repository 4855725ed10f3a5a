"""Charts as SVG, readable on light and on dark ground: bars of what was compared, lines of what grows."""

import math
from html import escape

STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #24292f }
.small { font-size: 11px; fill: #57606a }
.title { font-size: 15px; font-weight: 600 }
.ours { fill: #1a7f64 }
.other { fill: #8c959f }
.grid { stroke: #d0d7de }
polyline { fill: none; stroke-width: 2 }
.line0 { stroke: #1a7f64 }
.line1 { stroke: #0969da }
.dot0 { fill: #1a7f64 }
.dot1 { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .small { fill: #9198a1 }
  .ours, .dot0 { fill: #3fb68b }
  .other { fill: #656c76 }
  .grid { stroke: #3d444d }
  .line0 { stroke: #3fb68b }
  .line1 { stroke: #4493f8 }
  .dot1 { fill: #4493f8 }
}
</style>"""


def svg(width, height, parts, title):
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">'
    return "\n".join([head, f"<title>{escape(title)}</title>", STYLE, *parts, "</svg>"]) + "\n"


def text(x, y, words, kind="", anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def bars(groups):
    """Groups of (title, [(name, seconds, is it ours)]), each on a scale of its own."""
    width, left, parts, y = 860, 400, [], 0
    for title, entries in groups:
        y += 30
        parts.append(text(10, y, title, "title"))
        longest = max((seconds for _, seconds, _ in entries), default=0) or 1
        for name, seconds, ours in entries:
            y += 24
            length = max(1, seconds / longest * (width - left - 70))
            parts += [
                text(left - 10, y, name, anchor="end"),
                f'<rect x="{left}" y="{y - 13}" width="{length:.1f}" height="16" rx="2" class="{"ours" if ours else "other"}"/>',
                text(left + length + 6, y, f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2f} s", "small"),
            ]
        y += 14
    return svg(width, y + 10, parts, ", ".join(title for title, _ in groups))


def lines(panels):
    """Panels of (title, unit, [(label, x)], {name: [y]}), side by side, logarithmic both ways."""
    width, height, top, bottom, gap = 300, 260, 44, 40, 62
    parts = []
    for place, (title, unit, ticks, series) in enumerate(panels):
        left = place * (width + gap) + gap
        values = [y for ys in series.values() for y in ys if y > 0] or [1]
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        high = max(high, low + 1)
        first, last = math.log10(ticks[0][1]), math.log10(ticks[-1][1])

        def across(x):
            return left + (math.log10(x) - first) / ((last - first) or 1) * (width - 20)

        def up(y):
            return height - bottom - (math.log10(max(y, 10**low)) - low) / (high - low) * (height - top - bottom)

        parts.append(text(left, 20, title, "title"))
        for power in range(low, high + 1):
            parts += [
                f'<line x1="{left}" x2="{left + width - 20}" y1="{up(10**power):.1f}" y2="{up(10**power):.1f}" class="grid"/>',
                text(left - 6, up(10**power) + 4, f"{10**power:g} {unit}", "small", "end"),
            ]
        for label, x in ticks:
            parts.append(text(across(x), height - bottom + 18, label, "small", "middle"))
        for number, (name, ys) in enumerate(series.items()):
            points = [(across(x), up(y)) for (_, x), y in zip(ticks, ys)]
            parts.append(f'<polyline class="line{number}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" class="dot{number}"/>' for x, y in points]
            parts += [
                f'<circle cx="{left + 8 + number * 110}" cy="{height - 8}" r="4" class="dot{number}"/>',
                text(left + 16 + number * 110, height - 4, name, "small"),
            ]
    return svg(len(panels) * (width + gap) + gap, height + 6, parts, ", ".join(panel[0] for panel in panels))
