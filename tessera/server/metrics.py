"""Prometheus metrics: the engine's counts when scraped, and the times of finished requests.

Metrics that vLLM has too appear under both names, so that dashboards and routers made for vLLM work
unchanged; the others have our name only.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from tessera.chat import Delta, FinishReason
from tessera.engine.tally import Stats
from tessera.server.backend import Backend

OURS = ("tessera:",)
BOTH = ("tessera:", "vllm:")
LABEL = "model_name"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 131072)


class Metrics:
    def __init__(self, backend: Backend, model: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_EngineCollector(backend, model))
        self._model = model
        self._first_token = self._histograms("time_to_first_token_seconds", "Arrival to first token.", SECONDS)
        self._queue = self._histograms("request_queue_time_seconds", "Arrival to first step.", SECONDS)
        self._prefill = self._histograms("request_prefill_time_seconds", "First step to first token.", SECONDS)
        self._decode = self._histograms("request_decode_time_seconds", "First token to last.", SECONDS)
        self._whole = self._histograms("e2e_request_latency_seconds", "Arrival to last token.", SECONDS)
        self._token = self._histograms(
            "request_time_per_output_token_seconds", "A request's mean time between tokens.", TOKEN_SECONDS
        )
        self._prompt = self._histograms("request_prompt_tokens", "Tokens of a request's prompt.", TOKENS)
        self._reply = self._histograms("request_generation_tokens", "Tokens of a reply.", TOKENS)
        self._answers = Counter(
            OURS[0] + "http_requests",
            "Answers by method, route and status.",
            ("method", "route", "status"),
            registry=self.registry,
        )

    def observe(self, last: Delta) -> None:
        """Record the times of a finished request."""
        timings, usage = last.timings, last.usage
        if timings is None or usage is None or not usage.completion_tokens:
            return
        self._add(self._queue, timings.queue_s)
        self._add(self._prefill, timings.first_token_s - timings.queue_s)
        self._add(self._first_token, timings.first_token_s)
        self._add(self._decode, timings.decode_s)
        self._add(self._whole, timings.first_token_s + timings.decode_s)
        self._add(self._prompt, usage.prompt_tokens)
        self._add(self._reply, usage.completion_tokens)
        if usage.completion_tokens > 1:
            self._add(self._token, timings.decode_s / (usage.completion_tokens - 1))

    def count_answer(self, method: str, route: str, status: int) -> None:
        """Count one response; the caller ensures that routes and methods come from short lists."""
        self._answers.labels(method, route, status).inc()

    def render(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _histograms(self, name: str, text: str, buckets: tuple[float, ...]) -> list[Histogram]:
        made = [Histogram(prefix + name, text, (LABEL,), buckets=buckets, registry=self.registry) for prefix in BOTH]
        for histogram in made:
            histogram.labels(self._model)  # created at the start, so that a rate sees the first observation
        return made

    def _add(self, histograms: list[Histogram], value: float) -> None:
        for histogram in histograms:
            histogram.labels(self._model).observe(value)


class _EngineCollector(Collector):
    """Reads the engine's counts at each scrape."""

    def __init__(self, backend: Backend, model: str) -> None:
        self._backend = backend
        self._model = model

    def collect(self) -> Iterator[Metric]:
        stats = self._backend.stats()
        for prefix in BOTH:
            yield from self._shared(prefix, stats)
        yield from self._own(OURS[0], stats)

    def _shared(self, prefix: str, stats: Stats) -> Iterator[Metric]:
        """Metrics that vLLM has too."""
        config = self._backend.config
        yield self._gauge(prefix, "num_requests_running", "Requests in the running batch.", stats.running)
        yield self._gauge(prefix, "num_requests_waiting", "Requests that wait to run.", stats.waiting)
        used = stats.blocks.used / stats.blocks.total
        yield self._gauge(prefix, "kv_cache_usage_perc", "Share of the cache's blocks in use, 0 to 1.", used)
        yield self._counter(prefix, "num_preemptions", "Requests set back to make room.", stats.preemptions)
        yield self._counter(prefix, "prompt_tokens", "Prompt tokens of ended requests.", stats.prompt_tokens)
        yield self._counter(prefix, "generation_tokens", "Tokens written by ended requests.", stats.completion_tokens)
        yield self._counter(prefix, "prefix_cache_queries", "Prompt tokens looked up.", stats.prompt_tokens)
        yield self._counter(prefix, "prefix_cache_hits", "Prompt tokens found in the cache.", stats.cached_tokens)
        yield self._counter(prefix, "mm_cache_queries", "Images whose embeddings were needed.", stats.image_queries)
        yield self._counter(prefix, "mm_cache_hits", "Images whose embeddings were cached.", stats.image_hits)
        drafts = stats.drafts
        yield self._counter(prefix, "spec_decode_num_drafts", "Drafts that were checked.", drafts.drafts)
        yield self._counter(prefix, "spec_decode_num_draft_tokens", "Guessed tokens in them.", drafts.tokens)
        yield self._counter(
            prefix, "spec_decode_num_accepted_tokens", "Of those, chosen by the model.", drafts.accepted
        )
        ended = CounterMetricFamily(prefix + "request_success", "Ended requests.", labels=(LABEL, "finished_reason"))
        for reason in get_args(FinishReason):
            ended.add_metric([self._model, reason], stats.finished.get(reason, 0))
        yield ended
        between = HistogramMetricFamily(
            prefix + "inter_token_latency_seconds", "Between two tokens of a request.", labels=(LABEL,)
        )
        found = stats.token_intervals
        bounds = [*(str(bound) for bound in found.bounds), "+Inf"]
        between.add_metric(
            [self._model], list(zip(bounds, accumulate(found.counts), strict=True)), sum_value=found.total
        )
        yield between
        cache = GaugeMetricFamily(
            prefix + "cache_config_info", "The key/value cache.", labels=(LABEL, "block_size", "num_gpu_blocks")
        )
        cache.add_metric([self._model, str(config.block_tokens), str(config.num_blocks)], 1)
        yield cache

    def _own(self, prefix: str, stats: Stats) -> Iterator[Metric]:
        backend = self._backend
        yield self._gauge(prefix, "engine_alive", "1 while the engine accepts requests.", int(backend.alive))
        yield self._gauge(prefix, "model_sound", "0 while the model's numbers are not finite.", int(backend.is_sound))
        yield self._gauge(prefix, "engine_silent_seconds", "Since the engine last began a step.", backend.silent_s)
        yield self._counter(prefix, "engine_steps", "Steps computed.", stats.steps)
        yield self._gauge(prefix, "image_cache_bytes", "Bytes of cached image embeddings.", stats.image_cache_bytes)
        yield self._counter(prefix, "image_tokens", "Image tokens of ended requests.", stats.image_tokens)
        encoded = stats.image_queries - stats.image_hits
        yield self._counter(prefix, "images_encoded", "Images that had to be encoded.", encoded)
        blocks = GaugeMetricFamily(prefix + "kv_cache_blocks", "Blocks by state.", labels=(LABEL, "state"))
        for state in ("free", "cached", "used"):
            blocks.add_metric([self._model, state], getattr(stats.blocks, state))
        yield blocks
        limit = backend.config.max_num_seqs
        yield self._gauge(prefix, "max_num_seqs", "Requests that may run at once.", limit)
        adapters = tuple(backend.adapters)
        yield self._gauge(prefix, "lora_adapters", "Loaded adapters.", len(adapters))
        asked = CounterMetricFamily(prefix + "lora_requests", "Requests by loaded adapter.", labels=(LABEL, "adapter"))
        for each in adapters:
            asked.add_metric([self._model, each.name], each.num_requests)
        yield asked
        queue = backend.config.max_queued_requests
        yield self._gauge(prefix, "max_num_queued_reqs", "Requests that may wait in the queue.", queue)

    def _gauge(self, prefix: str, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(prefix + name, text, labels=(LABEL,))
        family.add_metric([self._model], value)
        return family

    def _counter(self, prefix: str, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(prefix + name, text, labels=(LABEL,))
        family.add_metric([self._model], value)
        return family
