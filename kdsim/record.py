"""Records of a run, whose numbers are attributes too."""

from typing import Any

from kdcore.registry import nearest


class Record(dict[str, Any]):
    """A record: `record["accuracy"]`, or `record.accuracy`.

    As an attribute a metric of the whole run, which its record has under "metrics", is there too:
    `record.accuracy` is that of a round, and in the last record that of the run.
    """

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        metrics = self.get("metrics", {})
        if name in metrics:
            return metrics[name]
        if name.startswith("__"):
            raise AttributeError(name)
        known = [*self, *metrics]
        raise AttributeError(
            f"this record ({self.get('record')}) has no {name!r}; {nearest(name, known)}it has "
            f"{', '.join(known)}; rounds that are not evaluated have no accuracy"
        )

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self, *self.get("metrics", {})]
