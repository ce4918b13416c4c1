"""A budget as the parts of a bar: numbers for a drawing, and the same in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from leasehold.core.messages import Budget

WIDTH: Final = 1000
PARTS: Final = ("settled", "outstanding", "written_off", "available")


@dataclass(frozen=True, slots=True)
class Part:
    """One part: `start` and `width` in thousandths of the bar, `units` in units."""

    name: str
    units: int
    start: int
    width: int


@dataclass(frozen=True, slots=True)
class Bar:
    """What became of the units that were granted."""

    granted: int
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, budget: Budget) -> Bar:
        """The parts side by side; what is not nothing can be seen."""
        parts, start, done = [], 0, 0
        for name in PARTS:
            units: int = getattr(budget, name)
            done += units
            end = done * WIDTH // max(1, budget.granted)
            if units and end == start:
                end += 1
            parts.append(Part(name.replace("_", " "), units, start, end - start))
            start = end
        return cls(budget.granted, tuple(parts))

    @property
    def words(self) -> str:
        """For those who cannot see it."""
        parts = ", ".join(f"{part.units:,} {part.name}" for part in self.parts)
        return f"Of {self.granted:,} units: {parts}."
