"""Two runs on the same items: is the one better, or was it chance?"""

from collections.abc import Mapping
from dataclasses import dataclass

from scipy import stats

from pipeline.evaluation.intervals import paired_difference


@dataclass(frozen=True)
class PairedComparison:
    """How often two runs were right on the same n items."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @classmethod
    def of(cls, first: Mapping[str, float], second: Mapping[str, float]) -> "PairedComparison":
        """From rewards by item, 1 or 0. Raises ValueError if the items are not the same."""
        if first.keys() != second.keys():
            odd = sorted(first.keys() ^ second.keys())
            raise ValueError(
                f"the runs have different items, {len(odd)} of them in one only: {odd[0]!r} for one"
            )
        pairs = [(bool(first[item]), bool(second[item])) for item in first]
        return cls(
            both=pairs.count((True, True)),
            only_first=pairs.count((True, False)),
            only_second=pairs.count((False, True)),
            neither=pairs.count((False, False)),
        )

    @property
    def n(self) -> int:
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """The second run's accuracy less the first's."""
        return (self.only_second - self.only_first) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The difference's 95% interval; see `intervals.paired_difference`."""
        return paired_difference(self.only_first, self.only_second, self.n)

    @property
    def p_value(self) -> float:
        """McNemar's exact test: how likely so uneven a change is, if neither run is better."""
        changed = self.only_first + self.only_second
        return float(stats.binomtest(self.only_second, changed).pvalue) if changed else 1.0
