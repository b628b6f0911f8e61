"""The metrics that there are: names, labels, buckets. docs/metrics.md says the same to users; a test compares them.

Names and buckets of ``gen_ai_*`` are OpenTelemetry's (semantic conventions for generative AI, 2026-11), as Prometheus
spells them. The buckets of times go on to where long answers end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PROVIDER, REQUEST_MODEL, RESPONSE_MODEL = "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_response_model"
TOKEN_TYPE, ERROR_TYPE, OUTCOME, KEY = "gen_ai_token_type", "error_type", "outcome", "gateway_key"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric, with a series of numbers for each set of label values."""

    name: str
    """With ``_total`` where it counts."""
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """The upper ends of a histogram's buckets, without infinity."""
    unit: int = 1
    """What is counted, divided by this, is what is shown."""
    merge: Literal["sum", "max"] = "sum"
    """What a gauge of several workers is."""

    @property
    def size(self) -> int:
        """Numbers in a series: of a histogram, one for each bucket and the sum of what was observed."""
        return len(self.bounds) + 2 if self.kind == "histogram" else 1


_TOKENS = tuple(4**power for power in range(14))
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68)
_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0)
_EACH = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_STALLS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

REQUESTS = Family(
    "gateway_requests_total", "counter", "Requests, finished or refused.", (OUTCOME, ERROR_TYPE, REQUEST_MODEL)
)
DURATION = Family(
    "gen_ai_server_request_duration_seconds",
    "histogram",
    "From the request to the last byte of its answer.",
    (PROVIDER, RESPONSE_MODEL, ERROR_TYPE),
    _SECONDS,
)
FIRST_TOKEN = Family(
    "gen_ai_server_time_to_first_token_seconds",
    "histogram",
    "From the request to the first content of its answer.",
    (PROVIDER, RESPONSE_MODEL),
    _FIRST,
)
PER_TOKEN = Family(
    "gen_ai_server_time_per_output_token_seconds",
    "histogram",
    "Between two output tokens, after the first: the mean of each whole answer.",
    (PROVIDER, RESPONSE_MODEL),
    _EACH,
)
TOKENS = Family(
    "gen_ai_client_token_usage",
    "histogram",
    "Tokens of each request, by type; what a cache gave or took is not in input.",
    (PROVIDER, RESPONSE_MODEL, TOKEN_TYPE),
    _TOKENS,
)
COST = Family(
    "gateway_cost_dollars_total",
    "counter",
    "What requests cost, where a price is known.",
    (PROVIDER, RESPONSE_MODEL),
    unit=10**9,
)
ATTEMPTS = Family(
    "gateway_upstream_attempts_total", "counter", "Requests that went to an upstream.", (PROVIDER, OUTCOME)
)
DISCONNECTS = Family("gateway_client_disconnects_total", "counter", "Clients that left before their answer was whole.")
LEDGER_DROPPED = Family(
    "gateway_ledger_dropped_total", "counter", "Records that the ledger could not take: its disk is full or too slow."
)
KEY_REQUESTS = Family(
    "gateway_key_requests_total", "counter", "Requests of each client key (server.admin.key_names).", (KEY, OUTCOME)
)
KEY_TOKENS = Family(
    "gateway_key_tokens_total", "counter", "Tokens of each client key (server.admin.key_names).", (KEY, TOKEN_TYPE)
)
KEY_COST = Family(
    "gateway_key_cost_dollars_total",
    "counter",
    "What the requests of each client key cost (server.admin.key_names).",
    (KEY,),
    unit=10**9,
)
LOOP_STALL = Family(
    "gateway_loop_stall_seconds",
    "histogram",
    "How late a timer of the event loop came: what any request may have waited for another.",
    (),
    _STALLS,
)
INFLIGHT = Family("gateway_inflight_streams", "gauge", "Requests under way to or from an upstream.")
CONFIG_STALE = Family(
    "gateway_config_stale", "gauge", "1: providers.yaml as it stands is not in force; /readyz says why.", merge="max"
)
KEYS_STALE = Family("gateway_keys_stale", "gauge", "1: keys.yaml as it stands is not in force.", merge="max")

FAMILIES = (
    *(REQUESTS, DURATION, FIRST_TOKEN, PER_TOKEN, TOKENS, COST, ATTEMPTS, DISCONNECTS, INFLIGHT),
    *(CONFIG_STALE, KEYS_STALE, LEDGER_DROPPED, KEY_REQUESTS, KEY_TOKENS, KEY_COST, LOOP_STALL),
)
