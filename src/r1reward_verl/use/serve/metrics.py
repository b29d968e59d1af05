"""The metrics of the service, in Prometheus' form. Their labels never hold anything that a client sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from r1reward_verl.use.comparison import Comparison

_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"r1reward_{name}", text, labels, registry=self.registry)

        self._requests = counter("requests", "Requests by route and status; 499: the client left.", "route", "status")
        self._seconds = Histogram(
            "r1reward_request_seconds", "Seconds of requests.", ("route",), buckets=_BUCKETS, registry=self.registry
        )
        self._comparisons = counter("comparisons", "Comparisons, one for each order in which a pair was shown.")
        self._failed = counter("comparisons_failed", "Comparisons without a readable judgement.")
        self._ties = counter("ties", "Comparisons that were undecided.")
        self._disagreements = counter("order_disagreements", "Pairs whose verdict depends on their order.")
        self._cycles = counter("cycles", "Intransitive triples in rankings.")
        self._tokens = counter("tokens", "Tokens of prompts and of judgements, where the engine tells.", "kind")
        self.cohorts = counter("cohorts", "Cohorts by how they ended: complete, timeout, failed or drained.", "end")

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read whenever the metrics are."""
        Gauge(f"r1reward_{name}", text, registry=self.registry).set_function(read)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def compared(self, comparisons: Sequence[Comparison], disagreements: int, cycles: int) -> None:
        """Count the comparisons of a request."""
        self._comparisons.inc(len(comparisons))
        self._failed.inc(sum(one.probability is None for one in comparisons))
        self._ties.inc(sum(one.probability == 0.5 for one in comparisons))
        self._disagreements.inc(disagreements)
        self._cycles.inc(cycles)
        self._tokens.labels("prompt").inc(sum(one.prompt_tokens for one in comparisons))
        self._tokens.labels("judgement").inc(sum(one.tokens for one in comparisons))

    def text(self) -> bytes:
        """Return all metrics as Prometheus reads them."""
        return generate_latest(self.registry)
