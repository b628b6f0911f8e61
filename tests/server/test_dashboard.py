"""What is made of the metrics: the dashboard, the alerts and the page about them name only what there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gateway.config import loads
from gateway.config.settings import AdminSettings
from gateway.server.exposition import render
from gateway.server.metric_families import FAMILIES
from gateway.server.metrics import Snapshot

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "deploy" / "grafana-dashboard.json"
RULES = ROOT / "deploy" / "prometheus-rules.yaml"
PAGE = ROOT / "docs" / "metrics.md"
NOT_OURS = {"instance", "job", "worker", "version", "le"}
"""Labels that Prometheus adds, and those of gateway_info and process_*."""
FUNCTIONS = {"by", "rate", "sum", "max", "increase", "histogram_quantile", "label_values", "or"}


def shown() -> dict[str, set[str]]:
    """Name of each series of a scrape that has everything -> its labels."""
    snapshot: Snapshot = {family.name: {("x",) * len(family.labels): [1] * family.size} for family in FAMILIES}
    text, _ = render(snapshot, {}, "")
    return {
        each.name: set(each.labels)
        for family in text_string_to_metric_families(text.decode())
        for each in family.samples
    }


def queries() -> Iterator[tuple[str, str]]:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield f"dashboard: {panel['title']}", target["expr"]
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                yield f"dashboard: {panel['title']}, legend", f"sum by ({label}) (gateway_info)"
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield f"dashboard: {variable['name']}", variable["definition"]
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield f"rule: {rule['alert']}", rule["expr"]
            for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
                yield f"rule: {rule['alert']}, summary", f"sum by ({label}) (gateway_info)"
    for query in re.findall(r"`((?:sum|histogram_quantile)\([^`]+)`", PAGE.read_text(encoding="utf-8")):
        yield "docs/metrics.md", query


@pytest.mark.parametrize("query", [pytest.param(query, id=where) for where, query in queries()])
def test_every_query_asks_for_what_there_is(query: str) -> None:
    series = shown()
    words = re.sub(r'"[^"]*"', '""', re.sub(r"\[[^\]]*\]", "", query))
    labels = {label for by in re.findall(r"by \(([^)]*)\)", words) for label in by.split(", ")}
    labels |= set(re.findall(r"(\w+)(?:=~|!=|=)\"", words)) | set(re.findall(r"label_values\(\w+, (\w+)\)", words))
    names = set(re.findall(r"[a-z_]\w*", words)) - labels - FUNCTIONS
    assert names
    if names != {"up"}:
        assert names <= set(series), names - set(series)
        of_all = NOT_OURS.union(*series.values()) if names == {"gateway_info"} else None
        for name in names:
            assert labels <= (of_all or NOT_OURS | series[name]), name


def test_the_panels_do_not_cover_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    for panel in panels:
        at = panel["gridPos"]
        squares = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not squares & taken, panel["title"]
        assert max(x for x, _ in squares) < 24
        taken |= squares
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_dashboard_shows_every_metric() -> None:
    text = DASHBOARD.read_text(encoding="utf-8")
    assert not [family.name for family in FAMILIES if family.name not in text]


def test_the_page_describes_every_metric_and_no_other() -> None:
    described = {}
    for line in PAGE.read_text(encoding="utf-8").partition("\n## What is counted\n")[2].splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if line.startswith("| `g") and len(cells) == 4:
            described[cells[0].strip("`")] = (cells[1], tuple(re.findall(r"`(\w+)`", cells[2])))
    assert described.pop("gateway_info") == ("gauge", ("version",))
    assert described == {family.name: (family.kind, family.labels) for family in FAMILIES}


def test_prometheus_asks_where_the_page_says() -> None:
    (job,) = yaml.safe_load((ROOT / "deploy" / "prometheus.yaml").read_text(encoding="utf-8"))["scrape_configs"]
    block = PAGE.read_text(encoding="utf-8").partition("```yaml\n")[2].partition("```")[0]
    admin = loads(block.encode(), "metrics.md", {}).server.admin
    assert isinstance(admin, AdminSettings)
    assert job["static_configs"][0]["targets"] == [f"{admin.host}:{admin.port}"]
    assert "metrics_path" not in job
    assert f'job="{job["job_name"]}"' in RULES.read_text(encoding="utf-8")
