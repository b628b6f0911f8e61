"""What is counted, under which labels, and what a scrape makes of it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from gateway.config import Config, loads
from gateway.config.settings import AdminSettings, Group
from gateway.ledger.record import UsageRecord
from gateway.server import metrics as metrics_module
from gateway.server.exposition import render
from gateway.server.metric_families import CONFIG_STALE, FAMILIES, INFLIGHT, LEDGER_DROPPED, Family
from gateway.server.metrics import Metrics, merged
from gateway.server.metrics_board import HALF_BYTES, Board, Page
from tests.server.gateway_process import REPOSITORY

CONFIG = """\
providers:
  lab: {api: openai-chat, base_url: "http://127.0.0.1:1/v1"}
  house: {api: openai-chat, base_url: "http://127.0.0.1:1/v1"}
models:
  sonnet: [lab/large, house/spare]
  haiku: {use: lab/small, on_overflow: house/wide}
  "gpt-*": lab
  default: sonnet
"""

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def config() -> Config:
    return loads(CONFIG.encode(), "providers.yaml", {})


@pytest.fixture
def metrics(config: Config) -> Metrics:
    return Metrics(lambda: config)


def record(**what: Any) -> UsageRecord:
    """One good answer of ``sonnet``, unless ``what`` says otherwise."""
    usual: dict[str, Any] = {
        **{"time": 1.0, "request_id": "req_1", "outcome": "ok", "status": 200, "attempts": 1},
        **{"asked": "sonnet", "target": "lab/large", "provider": "lab", "input_tokens": 1000, "output_tokens": 101},
        **{"first_token_seconds": 0.5, "duration_seconds": 3.0},
    }
    return UsageRecord(**{**usual, **what})


def refused(**what: Any) -> UsageRecord:
    return UsageRecord(**{"time": 1.0, "request_id": "req_1", "status": 429, "outcome": "limited", **what})


def samples(metrics: Metrics, accept: str = "") -> Samples:
    """A scrape, as Prometheus would read it."""
    text, content_type = render(merged(metrics.collect()), metrics.processes, accept)
    if accept:
        assert content_type.startswith("application/openmetrics-text; version=1.0.0")
        families = list(open_metrics(text.decode()))
    else:
        assert content_type.startswith("text/plain; version=0.0.4")
        families = list(text_string_to_metric_families(text.decode()))
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def value(found: Samples, name: str, **labels: str) -> float:
    """The sum of the series that have ``labels`` among theirs."""
    wanted = set(labels.items())
    matching = [number for (of, has), number in found.items() if of == name and wanted <= has]
    assert matching, f"no {name} with {labels}"
    return sum(matching)


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=0.0.1,*/*;q=0.1"])
def test_an_answer_in_numbers(metrics: Metrics, accept: str) -> None:
    metrics.observe(record(cost=1_234_567_890, cache_read_tokens=4096, cache_write_tokens=4097))
    metrics.observe(record(cost=1))
    found = samples(metrics, accept)
    lab = {"gen_ai_provider_name": "lab", "gen_ai_response_model": "large"}
    assert value(found, "gateway_requests_total", outcome="ok", gen_ai_request_model="sonnet", error_type="") == 2
    assert value(found, "gateway_cost_dollars_total", **lab) == 1.234567891
    duration = "gen_ai_server_request_duration_seconds"
    assert value(found, f"{duration}_sum", **lab, error_type="") == 6
    assert value(found, f"{duration}_count", **lab) == 2
    assert value(found, f"{duration}_bucket", **lab, le="2.56") == 0
    assert value(found, f"{duration}_bucket", **lab, le="5.12") == 2
    assert value(found, f"{duration}_bucket", **lab, le="+Inf") == 2
    assert value(found, "gen_ai_server_time_to_first_token_seconds_bucket", **lab, le="0.5") == 2, "ends belong to it"
    assert value(found, "gen_ai_server_time_per_output_token_seconds_sum", **lab) == pytest.approx(0.05)
    tokens = "gen_ai_client_token_usage"
    for kind, total in (("input", 2000), ("output", 202), ("cache_read", 4096), ("cache_creation", 4097)):
        assert value(found, f"{tokens}_sum", **lab, gen_ai_token_type=kind) == total
    assert value(found, f"{tokens}_bucket", **lab, gen_ai_token_type="cache_read", le="4096.0") == 1
    assert value(found, f"{tokens}_bucket", **lab, gen_ai_token_type="cache_creation", le="4096.0") == 0
    assert value(found, "gateway_info") == 1
    assert value(found, "process_resident_memory_bytes") > 1e6


@pytest.mark.parametrize(
    ("what", "counted", "timed"),
    [
        pytest.param({}, {"outcome": "ok", "error_type": ""}, "", id="ok"),
        pytest.param(
            {"outcome": "error", "error_type": "overloaded_error", "status": 529, "first_token_seconds": None},
            {"outcome": "error", "error_type": "overloaded_error"},
            "overloaded_error",
            id="failed",
        ),
        pytest.param(
            {"outcome": "client_closed", "status": 499, "output_tokens": 7},
            {"outcome": "client_closed", "error_type": ""},
            "client_closed",
            id="left",
        ),
    ],
)
def test_how_it_ended(metrics: Metrics, what: dict[str, Any], counted: dict[str, str], timed: str) -> None:
    metrics.observe(record(**what))
    found = samples(metrics)
    assert value(found, "gateway_requests_total", **counted) == 1
    assert value(found, "gen_ai_server_request_duration_seconds_count", error_type=timed) == 1
    assert value(found, "gateway_client_disconnects_total") == (timed == "client_closed")
    assert not [name for name, _ in found if name.startswith("gateway_cost")], "no price is not a price of nothing"


@pytest.mark.parametrize("outcome", ["limited", "denied", "error"])
def test_a_request_that_was_refused_is_only_counted(metrics: Metrics, outcome: Any) -> None:
    """Also one for the limits of a provider that is known already: nobody there was asked."""
    before = set(samples(metrics))
    known = {} if outcome == "error" else {"target": "lab/large", "provider": "lab"}
    metrics.observe(refused(outcome=outcome, asked="sonnet", **known))
    found = samples(metrics)
    assert {name for name, _ in set(found) - before} == {"gateway_requests_total"}
    assert value(found, "gateway_requests_total", outcome=outcome, gen_ai_request_model="sonnet") == 1


def test_attempts(metrics: Metrics) -> None:
    for outcome in ("ok", "ok", "overloaded_error"):
        metrics.attempt("lab", outcome)
    found = samples(metrics)
    assert value(found, "gateway_upstream_attempts_total", gen_ai_provider_name="lab", outcome="ok") == 2
    assert value(found, "gateway_upstream_attempts_total", gen_ai_provider_name="lab") == 3


# -- labels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "target", "request_model", "response_model"),
    [
        ("sonnet", "lab/large", "sonnet", "large"),
        ("claude-sonnet-9-20290101[1m]", "house/spare", "sonnet", "spare"),
        ("haiku", "house/wide", "haiku", "wide"),
        ("nobody knows this", "lab/large", "default", "large"),
        ("gpt-9-invented", "lab/gpt-9-invented", "gpt-*", "other"),
        ("lab/large", "lab/large", "lab/large", "large"),
        ("sonnet", "lab/large#2", "sonnet", "large"),
        ("lab/invented", "lab/invented", "other", "other"),
        ("", "", "", None),
        ("x" * 5000, "", "other", None),
    ],
)
def test_labels_are_what_somebody_configured(
    metrics: Metrics, asked: str, target: str, request_model: str, response_model: str | None
) -> None:
    provider = target.partition("/")[0]
    metrics.observe(record(asked=asked, target=target, provider=provider))
    found = samples(metrics)
    assert value(found, "gateway_requests_total", gen_ai_request_model=request_model) == 1
    if response_model is not None:
        name = "gen_ai_server_request_duration_seconds_count"
        assert value(found, name, gen_ai_response_model=response_model, gen_ai_provider_name=provider) == 1


def test_invented_names_add_no_series(metrics: Metrics) -> None:
    """O3: each of the ways by which a client may come up with a name, once before and 180 times after."""
    ways = [
        ("anything-{}", "lab/large"),
        ("claude-sonnet-{}", "lab/large"),
        ("gpt-{}", "lab/gpt-{}"),
        ("lab/{}", "lab/{}"),
        ("x" * 200 + "{}", ""),
    ]

    def ask(number: int) -> None:
        asked, target = (text.format(number) for text in ways[number % len(ways)])
        metrics.observe(record(asked=asked, target=target, provider=target.partition("/")[0]))

    for number in range(len(ways)):
        ask(number)
    before = samples(metrics)
    for number in range(180):
        ask(number)
    after = samples(metrics)
    assert set(after) == set(before)
    assert value(after, "gateway_requests_total") == 185


def test_a_name_that_leads_nowhere(config: Config) -> None:
    without = CONFIG.replace("  default: sonnet\n", "")
    config = loads(without.encode(), "providers.yaml", {})
    metrics = Metrics(lambda: config)
    before = len(samples(metrics))
    for number in range(180):
        metrics.observe(refused(outcome="error", status=404, error_type="not_found_error", asked=f"invented-{number}"))
    assert len(samples(metrics)) == before + 1


def test_a_group_has_names_of_its_own(config: Config) -> None:
    table = loads(CONFIG.replace("  default: sonnet\n", "  opus: lab/secret\n").encode(), "p", {}).table
    config = replace(config, groups={"interns": Group("interns", None, table)})
    metrics = Metrics(lambda: config)
    metrics.observe(record(asked="claude-opus-9", group="interns", target="lab/secret"))
    metrics.observe(record(asked="claude-opus-9"))
    found = samples(metrics)
    assert value(found, "gateway_requests_total", gen_ai_request_model="opus") == 1
    assert value(found, "gateway_requests_total", gen_ai_request_model="default") == 1
    assert value(found, "gen_ai_client_token_usage_count", gen_ai_response_model="secret") == 2


def test_a_reload_adds_names_and_takes_none(config: Config) -> None:
    in_force = [config]
    metrics = Metrics(lambda: in_force[0])
    metrics.observe(record())
    in_force[0] = loads(CONFIG.replace("lab/large", "lab/new").encode(), "providers.yaml", {})
    for target in ("lab/new", "lab/large"):
        metrics.observe(record(target=target))
    found = samples(metrics)
    for model, count in (("large", 2), ("new", 1)):
        assert value(found, "gen_ai_server_request_duration_seconds_count", gen_ai_response_model=model) == count


@pytest.mark.parametrize("wanted", [True, False])
def test_keys_are_named_only_where_that_is_wanted(config: Config, wanted: bool) -> None:
    config = replace(config, server=replace(config.server, admin=AdminSettings(1, key_names=wanted)))
    metrics = Metrics(lambda: config)
    metrics.observe(record(key="anna", cost=5 * 10**8))
    metrics.observe(refused(key="anna"))
    found = samples(metrics)
    of_keys = {f"gateway_key_{what}_total" for what in ("requests", "tokens", "cost_dollars")}
    assert {name for name, labels in found if ("gateway_key", "anna") in labels} == (of_keys if wanted else set())
    if wanted:
        assert value(found, "gateway_key_requests_total", gateway_key="anna", outcome="limited") == 1
        assert value(found, "gateway_key_tokens_total", gateway_key="anna") == 1101
        assert value(found, "gateway_key_cost_dollars_total", gateway_key="anna") == 0.5


def test_there_is_an_end_to_labels(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "MAX_BYTES", 5_000)
    for number in range(1000):
        metrics.attempt(f"provider-{number}", "ok")
    found = samples(metrics)
    series = [labels for name, labels in found if name == "gateway_upstream_attempts_total"]
    assert 10 < len(series) < 100
    assert value(found, "gateway_upstream_attempts_total") == 1000, "none is lost"
    assert value(found, "gateway_upstream_attempts_total", gen_ai_provider_name="other", outcome="other") > 900


# -- several workers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "\N{GRINNING FACE}" * 200], ids=["numbers", "names"])
def test_what_is_full_fits_on_a_page(metrics: Metrics, text: str) -> None:
    """Numbers as large as they get, or names."""
    metrics.share(page_of(Board(1)))
    families = [family for family in FAMILIES if len(family.labels) == 3]
    number = 0
    while not all(("other",) * 3 in metrics._series[family.name] for family in families):
        for _ in range(200):
            number += 1
            for family in families:
                labels = (f"{number}", f"{number}{text}", f"{number}-")
                metrics._numbers(family, labels)[:] = [2**62 + number] * family.size
    assert number > 200
    metrics.publish()


def page_of(board: Board) -> Page:
    page = board.take()
    assert page is not None
    return page


def workers(config: Config, board: Board, count: int) -> list[Metrics]:
    found = []
    for _ in range(count):
        metrics = Metrics(lambda: config)
        metrics.share(page_of(board))
        found.append(metrics)
    return found


def test_numbers_of_all_workers(config: Config) -> None:
    board = Board(4)
    one, two = workers(config, board, 2)
    one.watch(INFLIGHT, lambda: 3)
    two.watch(INFLIGHT, lambda: 4)
    one.watch(CONFIG_STALE, lambda: True)
    two.watch(CONFIG_STALE, lambda: True)
    one.observe(record())
    two.observe(record())
    two.observe(record(asked="haiku", target="lab/small"))
    one.publish()
    found = samples(two)
    assert value(found, "gateway_requests_total") == 3
    assert value(found, "gen_ai_server_request_duration_seconds_bucket", le="5.12") == 3
    assert value(found, "gateway_inflight_streams") == 7
    assert value(found, "gateway_config_stale") == 1
    assert found.keys() == samples(one).keys()
    assert {name for name, _ in found if name.startswith("process_")} >= {"process_cpu_seconds_total"}
    assert value(found, "process_open_fds", worker="supervisor") > 0
    assert value(found, "process_open_fds", worker="1") > 0


def test_a_worker_goes_on_with_the_numbers_of_the_one_before(config: Config) -> None:
    board = Board(3)
    pages = [page_of(board) for _ in range(2)]
    first, other = Metrics(lambda: config), Metrics(lambda: config)
    for metrics, page in zip((first, other), pages, strict=True):
        metrics.share(page)
    first.watch(LEDGER_DROPPED, lambda: 5)
    first.watch(INFLIGHT, lambda: 9)
    for _ in range(10):
        first.observe(record())
        first.stalled(0.3)
    told = samples(first)
    del first  # it dies, with nothing published since the scrape
    board.release(pages[0])
    between = samples(other)
    for name in ("gateway_requests_total", "gateway_ledger_dropped_total", "gateway_loop_stall_seconds_count"):
        assert value(between, name) == value(told, name), "a page outlives its worker"
    assert "gateway_inflight_streams" not in {name for name, _ in between}, "what it had under way is gone"
    page = page_of(board)
    assert page == pages[0]
    second = Metrics(lambda: config)
    second.share(page)
    assert "gateway_inflight_streams" not in {name for name, _ in samples(other)}, "nor is it the next one's"
    second.watch(LEDGER_DROPPED, lambda: 2)
    second.observe(record())
    for scraped in (second, other):
        found = samples(scraped)
        assert value(found, "gateway_requests_total") == 11
        assert value(found, "gateway_loop_stall_seconds_bucket", le="0.5") == 10
        assert value(found, "gateway_ledger_dropped_total") == 7


def test_a_page_for_each_worker_as_long_as_there_are_any() -> None:
    board = Board(2)
    first, second = page_of(board), page_of(board)
    assert first != second
    assert board.take() is None
    board.release(second)
    assert page_of(board) == second


def test_half_a_write_is_never_read(config: Config) -> None:
    board = Board(1)
    page = page_of(board)
    for number in (1.0, 2.0, 3.0):
        page.publish({"gateway_client_disconnects_total": {(): [number]}})
        begin = 16 + (int(number) + 1) % 2 * HALF_BYTES
        board.memory[begin : begin + 40] = os.urandom(40)  # the next one begins to write, and is killed
        assert page.read() == {"gateway_client_disconnects_total": {(): [number]}}
    board.memory[16 + HALF_BYTES : 16 + HALF_BYTES + 8] = struct.pack("II", HALF_BYTES * 2, 1)
    assert page.read() == {}, "what cannot be right is not believed"


def test_what_does_not_fit_is_not_written() -> None:
    board = Board(2)
    first, second = page_of(board), page_of(board)
    second.publish({"gateway_client_disconnects_total": {(): [1]}})
    with pytest.raises(ValueError, match="too many"):
        first.publish({"gateway_requests_total": {("x" * HALF_BYTES,): [1]}})
    assert first.read() == {}
    assert second.read() == {"gateway_client_disconnects_total": {(): [1]}}


KILLED_WHILE_WRITING = """
import os, signal
from gateway.server.metrics_board import Board
for _ in range(5):
    board = Board(1)
    page = board.take()
    pid = os.fork()
    if pid == 0:
        number = 0
        while True:
            number += 1
            page.publish({"gateway_requests_total": {(f"{each}",): [number] for each in range(300)}})
    seen = 0
    while seen < 50:
        for numbers in page.read().get("gateway_requests_total", {}).values():
            assert numbers[0] >= seen, "what was read once is never taken back"
            seen = numbers[0]
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    (last,) = {numbers[0] for numbers in page.read()["gateway_requests_total"].values()}
    assert last >= seen
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked")
def test_a_writer_that_is_killed_at_any_moment() -> None:
    """Whoever reads meanwhile, and after it, sees whole numbers that only grow."""
    subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING], cwd=REPOSITORY, check=True, timeout=20)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_is_well_formed(family: Family) -> None:
    assert list(family.bounds) == sorted(set(family.bounds))
    assert family.name.endswith("_total") == (family.kind == "counter")
    assert bool(family.bounds) == (family.kind == "histogram")
    alone = merged([({family.name: {("x",) * len(family.labels): [1] * family.size}}, True)])
    text, _ = render(alone, {}, "")
    assert [found.type for found in text_string_to_metric_families(text.decode()) if found.name != "gateway_info"]
