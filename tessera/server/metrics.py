"""What Prometheus may ask: counts of the engine at the moment of asking, and times of ended requests.

Each metric has our name and vLLM's, so that boards and routers made for vLLM work unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tessera.chat import Delta
from tessera.server.backend import Backend

PREFIXES = ("tessera:", "vllm:")
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    def __init__(self, backend: Backend, model: str) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineCollector(backend, model))
        self._model = model
        self._first_token = self._histograms("time_to_first_token_seconds", "Arrival to first token.", SECONDS)
        self._queue = self._histograms("request_queue_time_seconds", "Waiting before the first step.", SECONDS)
        self._whole = self._histograms("e2e_request_latency_seconds", "Arrival to last token.", SECONDS)
        self._token = self._histograms("inter_token_latency_seconds", "Mean time between tokens.", TOKEN_SECONDS)

    def observe(self, last: Delta) -> None:
        """Take in the times of a request that has ended."""
        timings, usage = last.timings, last.usage
        if timings is None or usage is None or not usage.completion_tokens:
            return
        self._add(self._queue, timings.queue_s)
        self._add(self._first_token, timings.first_token_s)
        self._add(self._whole, timings.first_token_s + timings.decode_s)
        if usage.completion_tokens > 1:
            self._add(self._token, timings.decode_s / (usage.completion_tokens - 1))

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)

    def _histograms(self, name: str, text: str, buckets: tuple[float, ...]) -> list[Histogram]:
        labels = ("model_name",)
        return [Histogram(prefix + name, text, labels, buckets=buckets, registry=self.registry) for prefix in PREFIXES]

    def _add(self, histograms: list[Histogram], value: float) -> None:
        for histogram in histograms:
            histogram.labels(self._model).observe(value)


class _EngineCollector(Collector):
    """Reads the engine's own counts when it is asked."""

    def __init__(self, backend: Backend, model: str) -> None:
        self._backend = backend
        self._model = model

    def collect(self) -> Iterator[Metric]:
        for prefix in PREFIXES:
            yield from self._collect(prefix)

    def _collect(self, prefix: str) -> Iterator[Metric]:
        stats = self._backend.stats()
        yield self._gauge(prefix, "num_requests_running", "Requests in the running batch.", stats.running)
        yield self._gauge(prefix, "num_requests_waiting", "Requests that wait to run.", stats.waiting)
        used = stats.blocks.used / stats.blocks.total
        yield self._gauge(prefix, "kv_cache_usage_perc", "Share of the cache's blocks in use, 0 to 1.", used)
        yield self._gauge(prefix, "image_cache_bytes", "Bytes of cached picture embeddings.", stats.image_cache_bytes)
        yield self._gauge(prefix, "engine_alive", "1 while the engine accepts requests.", int(self._backend.alive))
        yield self._counter(prefix, "num_preemptions", "Requests set back to make room.", stats.preemptions)
        yield self._counter(prefix, "engine_steps", "Steps computed.", stats.steps)
        yield self._counter(prefix, "prompt_tokens", "Prompt tokens of ended requests.", stats.prompt_tokens)
        yield self._counter(prefix, "generation_tokens", "Tokens written by ended requests.", stats.completion_tokens)
        yield self._counter(prefix, "image_tokens", "Picture tokens of ended requests.", stats.image_tokens)
        yield self._counter(prefix, "prefix_cache_queries", "Prompt tokens looked up.", stats.prompt_tokens)
        yield self._counter(prefix, "prefix_cache_hits", "Prompt tokens found in the cache.", stats.cached_tokens)
        ended = CounterMetricFamily(
            prefix + "request_success", "Ended requests.", labels=("model_name", "finished_reason")
        )
        for reason, count in stats.finished.items():
            ended.add_metric([self._model, reason], count)
        yield ended

    def _gauge(self, prefix: str, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(prefix + name, text, labels=("model_name",))
        family.add_metric([self._model], value)
        return family

    def _counter(self, prefix: str, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(prefix + name, text, labels=("model_name",))
        family.add_metric([self._model], value)
        return family
