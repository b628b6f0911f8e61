"""The text of a scrape. prometheus_client renders it; to import that takes 60 ms, so a thread does it for the first.

Rule: nothing here touches what the event loop counts; it gets a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gateway import __version__
from gateway.server.metric_families import FAMILIES, Family
from gateway.server.metrics import Labels, Snapshot

_OPEN_METRICS = "application/openmetrics-text"


def render(snapshot: Snapshot, processes: Mapping[str, int], accept: str) -> tuple[bytes, str]:
    """The text and its content type, in the form that the header ``accept`` asks for.

    ``processes``: what Metrics.processes says.
    """
    # The rest of the header is the client's, and would only choose between ways to write names that ours are not.
    encode, content_type = choose_encoder(f"{_OPEN_METRICS}; version=1.0.0" if _OPEN_METRICS in accept else "")
    return encode(_Answer(snapshot, processes)), content_type


class _Answer(Collector):
    """What one scrape finds."""

    def __init__(self, snapshot: Snapshot, processes: Mapping[str, int]) -> None:
        self._snapshot = snapshot
        self._processes = processes

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("gateway", "This gateway.", {"version": __version__})
        for family in FAMILIES:
            if self._snapshot[family.name]:
                yield _metric(family, self._snapshot[family.name])
        yield from _of_processes(self._processes)


def _metric(family: Family, series: Mapping[Labels, list[float]]) -> Metric:
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        ends = [*map(floatToGoString, family.bounds), "+Inf"]
        for labels, numbers in series.items():
            buckets = list(zip(ends, accumulate(numbers[:-1]), strict=True))
            histogram.add_metric(labels, buckets, numbers[-1])
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, numbers in series.items():
        metric.add_metric(labels, numbers[0] / family.unit)
    return metric


def _of_processes(processes: Mapping[str, int]) -> Iterable[Metric]:
    """Memory, processor time and descriptors, by worker where there are several; nothing where there is no /proc."""
    if not processes:
        return ProcessCollector(registry=None).collect()
    found: dict[str, Metric] = {}
    for name, process in processes.items():
        for metric in ProcessCollector(pid=partial(str, process), registry=None).collect():
            of_all = found.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            for sample in metric.samples:
                of_all.add_sample(sample.name, {"worker": name}, sample.value)
    return found.values()
