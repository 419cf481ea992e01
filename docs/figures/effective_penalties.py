"""``python docs/figures/effective_penalties.py``: draws the effective penalties of adaptive dropout as an SVG."""

from collections.abc import Iterator
from pathlib import Path

import torch

from engine.penalties.effective import (
    EffectivePenalty,
    HardConcrete,
    LogSquareSum,
    LogSum,
    Mcp,
    Power,
    Scad,
    Standout,
    VariationalDropout,
)

FILE = Path(__file__).with_suffix(".svg")
CURVES: dict[str, tuple[EffectivePenalty, str]] = {
    "l1": (Power(1.0), "#888888"),
    "l0.5": (Power(0.5), "#1f77b4"),
    "log-sum, epsilon 0.5": (LogSum(0.5), "#d62728"),
    "log of squares, epsilon 0.5": (LogSquareSum(0.5), "#ff9896"),
    "SCAD, 3 and 0.6": (Scad(3.0, 0.6), "#2ca02c"),
    "MCP, 1.5": (Mcp(1.5), "#98df8a"),
    "standout": (Standout(), "#9467bd"),
    "variational dropout": (VariationalDropout(), "#8c564b"),
    "hard concrete": (HardConcrete(), "#e377c2"),
}
LARGEST, SAMPLES = 3.0, 121
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, LEGEND = 460, 330, 50, 20, 45, 210


def svg() -> str:
    """Every penalty over a weight's magnitude, each as a share of its own value at the right edge."""
    size = f'width="{LEFT + WIDTH + LEGEND}" height="{TOP + HEIGHT + BOTTOM}"'
    font = 'font-family="sans-serif" font-size="13"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>', *_axes(), *_curves(), "</svg>"]
    return "\n".join(parts) + "\n"


def _axes() -> Iterator[str]:
    yield '<rect width="100%" height="100%" fill="white"/>'
    yield f'<path d="M{LEFT},{TOP}V{TOP + HEIGHT}H{LEFT + WIDTH}" fill="none" stroke="black"/>'
    for size in range(int(LARGEST) + 1):
        yield f'<text x="{_x(size):.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{size}</text>'
    for share in (0.0, 0.5, 1.0):
        yield f'<text x="{LEFT - 8}" y="{_y(share) + 4:.1f}" text-anchor="end">{share:g}</text>'
    yield f'<text x="{LEFT + WIDTH / 2}" y="{TOP + HEIGHT + 38}" text-anchor="middle">magnitude of the weight</text>'


def _curves() -> Iterator[str]:
    sizes = torch.linspace(0.0, LARGEST, SAMPLES, dtype=torch.float64)
    for row, (name, (penalty, colour)) in enumerate(CURVES.items()):
        values = penalty.value(sizes)
        places = zip(sizes.tolist(), (values / values[-1]).tolist(), strict=True)
        points = " ".join(f"{_x(size):.1f},{_y(share):.1f}" for size, share in places)
        height = TOP + 15 + 22 * row
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        yield f'<path d="M{LEFT + WIDTH + 15},{height - 4}h20" stroke="{colour}" stroke-width="3"/>'
        yield f'<text x="{LEFT + WIDTH + 42}" y="{height}">{name}</text>'


def _x(size: float) -> float:
    return LEFT + WIDTH * size / LARGEST


def _y(share: float) -> float:
    return TOP + HEIGHT * (1 - share)


if __name__ == "__main__":
    FILE.write_text(svg())
