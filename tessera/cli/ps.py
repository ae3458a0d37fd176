"""`tessera ps`: the state of a running server, from /health, /v1/models and /metrics."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from tessera.errors import FetchError

TIMEOUT_S = 5.0
GAUGES = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")


def run_ps(url: str, api_key: str | None, *, as_json: bool) -> None:
    state = server_state(url.rstrip("/"), api_key or os.environ.get("TESSERA_API_KEY", "").split(",")[0])
    if as_json:
        print(json.dumps(state))
        return
    print(f"{'server':<10}{state['url']}, {'healthy' if state['healthy'] else 'unhealthy; see its log'}")
    print(f"{'models':<10}{', '.join(state['models'])}")
    if {"num_requests_running", "num_requests_waiting"} <= state.keys():
        print(
            f"{'requests':<10}{state['num_requests_running']:.0f} running, {state['num_requests_waiting']:.0f} waiting"
        )
    if "kv_cache_usage_perc" in state:
        print(f"{'KV cache':<10}{100 * state['kv_cache_usage_perc']:.0f} % in use")


def server_state(url: str, api_key: str) -> dict[str, Any]:
    """Query the server's state; raises FetchError if there is no server, or it requires a key."""
    health, _ = _get(f"{url}/health", "")
    status, models = _get(f"{url}/v1/models", api_key)
    if status in (401, 403):
        raise FetchError(f"{url} requires an API key; give it with --api-key, or in TESSERA_API_KEY.")
    try:
        names = [str(model["id"]) for model in json.loads(models)["data"]]
    except (ValueError, KeyError, TypeError) as error:
        raise FetchError(f"{url} answers but is not a model server; check the address in --url.") from error
    _, metrics = _get(f"{url}/metrics", api_key)
    return {"url": url, "healthy": health == 200, "models": names, **gauges(metrics)}


def gauges(metrics: str) -> Mapping[str, float]:
    """Parse the displayed values from Prometheus' text."""
    found = {}
    for name in GAUGES:
        if match := re.search(rf"^tessera:{name}(?:\{{[^}}]*\}})? (\S+)$", metrics, re.MULTILINE):
            found[name] = float(match[1])
    return found


def _get(url: str, api_key: str) -> tuple[int, str]:
    try:
        request = Request(url, headers={"Authorization": f"Bearer {api_key}"} if api_key else {})
        with build_opener(ProxyHandler({})).open(request, timeout=TIMEOUT_S) as answer:
            return int(answer.status), answer.read().decode("utf-8", "replace")
    except HTTPError as error:
        return error.code, ""
    except (URLError, OSError, ValueError) as error:
        raise FetchError(
            f"no server answers at {url.rpartition('/')[0]}; start one with `tessera serve`, or name it with --url."
        ) from error
