"""What the scripts of this folder share: the command line, figures over time, and the verdict."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field


def minutes_asked(description: str, default: float) -> float:
    """The value of ``--minutes``; ``description`` is printed with ``--help``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--minutes", type=float, default=default, help=f"how long it runs; {default:g} if not given")
    minutes: float = parser.parse_args().minutes
    return minutes


def slope_per_hour(samples: list[tuple[float, float]]) -> float:
    """The slope of a straight line through (seconds, value), least squares, per hour; 0 for less than two samples."""
    count = len(samples)
    if count < 2:
        return 0.0
    middle = sum(at for at, _ in samples) / count
    spread = sum((at - middle) ** 2 for at, _ in samples)
    return 3600 * sum((at - middle) * value for at, value in samples) / spread if spread else 0.0


@dataclass
class Verdict:
    """Figures as they come, and which of them break a promise."""

    broken: list[str] = field(default_factory=list)

    def figure(self, name: str, value: float | str, holds: bool = True, limit: str = "") -> None:
        """Prints one figure; ``limit`` is what was promised."""
        shown = f"{value:.2f}" if isinstance(value, float) else str(value)
        told = f"   ({limit}{'' if holds else ': BROKEN'})" if limit else ""
        print(f"{name:<44} {shown:>12}{told}", flush=True)
        if not holds:
            self.broken.append(name)

    def exit(self) -> None:
        """Ends the script: status 1 when a promise broke."""
        sys.exit(1 if self.broken else 0)
