"""Draws the pictures of how-a-gpt-works.md, from the model that it trains: ``python docs/pictures.py``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import outputs
import torch

from gptscratch.config import SCHEDULES, TrainConfig
from gptscratch.model.equations import attention_weights
from gptscratch.training.schedule import schedule_of

FOLDER = Path(__file__).parent / "pictures"
PAGE = Path(__file__).with_name("how-a-gpt-works.md")
COLORS = ("#2563eb", "#dc2626", "#16a34a", "#9333ea", "#d97706")
TEXT = "better than ugly"


def svg(width: float, height: float, parts: Iterable[str]) -> str:
    """A picture on white, so that it can be read in light and dark pages."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}">'
    style = "<style>text{font:12px sans-serif;fill:#222}.m{font-family:monospace;white-space:pre}</style>"
    back = f'<rect width="{width:g}" height="{height:g}" rx="6" fill="#fff"/>'
    return "\n".join((head, style, back, *parts, "</svg>")) + "\n"


def label(x: float, y: float, text: str, *, anchor: str = "middle", css: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}">{escape(text)}</text>'


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]], title: str, x_name: str, ticks: Sequence[float]
) -> str:
    """A line chart with a legend; the y-axis starts at 0."""
    left, top, width, height = 46.0, 34.0, 360.0, 190.0
    x_most = max(x for points in lines.values() for x, _ in points)
    y_most = max(ticks)
    parts = [label(left + width / 2, 20, title), label(left + width / 2, top + height + 34, x_name)]
    for y in ticks:
        at = top + height * (1 - y / y_most)
        parts.append(f'<path d="M{left} {at:.1f}h{width}" stroke="#ddd"/>')
        parts.append(label(left - 6, at + 4, f"{y:g}", anchor="end"))
    for x in (0.0, x_most / 2, x_most):
        parts.append(label(left + width * x / x_most, top + height + 17, f"{x:g}"))
    for i, (name, points) in enumerate(lines.items()):
        places = [(left + width * x / x_most, top + height * (1 - y / y_most)) for x, y in points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path d="{path}" fill="none" stroke="{COLORS[i]}" stroke-width="2"/>')
        y = top + 10 + 20 * i
        parts.append(f'<path d="M{left + width + 14} {y}h18" stroke="{COLORS[i]}" stroke-width="2"/>')
        parts.append(label(left + width + 38, y + 4, name, anchor="start"))
    return svg(left + width + 130, top + height + 46, parts)


def heat_maps(maps: Mapping[str, torch.Tensor], tokens: str) -> str:
    """Attention weights (T, T) next to one another: rows are queries, columns are keys, dark is large."""
    cell, gap, top = 12.0, 34.0, 52.0
    size = cell * len(tokens)
    parts = []
    for i, (name, weights) in enumerate(maps.items()):
        left = 20 + i * (size + gap)
        parts.append(label(left + size / 2, 18, name))
        for row, query in enumerate(tokens):
            parts.append(label(left - 7, top + cell * (row + 0.8), query, css="m"))
            parts.append(label(left + cell * (row + 0.5), top - 5, query, css="m"))
            for column, weight in enumerate(weights[row].tolist()):
                fill = f"rgba(37,99,235,{weight:.2f})" if column <= row else "#eee"
                place = f'x="{left + cell * column:.1f}" y="{top + cell * row:.1f}"'
                parts.append(f'<rect {place} width="{cell - 1}" height="{cell - 1}" fill="{fill}"/>')
    return svg(20 + len(maps) * (size + gap), top + size + 12, parts)


def main() -> None:
    session: dict[str, Any] = {"__name__": "page"}
    losses: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory() as home:
        os.environ["GPTSCRATCH_HOME"] = home
        for block in outputs.blocks_of(PAGE):
            if block.language == "python" and not outputs.is_excerpt(block):
                shown = outputs.run_block(block, PAGE, session)
                if shown.startswith("step  training"):
                    for line in shown.splitlines()[1:]:
                        step, training, validation = map(float, line.split())
                        losses.append((step, training, validation))
    FOLDER.mkdir(exist_ok=True)
    lines = {"training": [(s, t) for s, t, _ in losses], "validation": [(s, v) for s, _, v in losses]}
    picture = curves(lines, "loss on the Zen of Python, nats/token", "step", (0, 1, 2, 3, 4, 5))
    (FOLDER / "overfitting.svg").write_text(picture, encoding="utf-8")

    ids = torch.tensor([session["tokenizer"].encode(TEXT)])
    weights = attention_weights(session["model"], ids)
    maps = {
        f"layer {layer}, head {head}": weights[layer][0, head]
        for layer in range(len(weights))
        for head in range(weights[layer].size(1))
    }
    (FOLDER / "attention.svg").write_text(heat_maps(maps, TEXT.replace(" ", "␣")), encoding="utf-8")

    schedules = {}
    for name in SCHEDULES:
        scale = schedule_of(TrainConfig(lr_schedule=name, warmup_steps=5))
        schedules[name] = [(float(step), scale(step, step / 100)) for step in range(101)]
    title = "learning rate, as a fraction of its peak"
    picture = curves(schedules, title, "progress of the run, percent", (0, 0.5, 1))
    (FOLDER / "schedules.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
