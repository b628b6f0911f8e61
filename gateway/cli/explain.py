"""``gateway explain``: what a request would become upstream, and why. Sends nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, BinaryIO

import click
import orjson

from gateway import adapters
from gateway.adapters.base import MessagesRequest, UpstreamRequest
from gateway.cli.options import config_option, env_file_option, load_or_exit, variables_or_exit
from gateway.errors import GatewayError, InvalidRequest
from gateway.routing import Target
from gateway.translate.request_check import check_request
from gateway.translate.token_estimate import TokenEstimator, measure
from gateway.wire.json_text import loads_request


@click.command()
@config_option
@env_file_option
@click.argument("request_file", type=click.File("rb"), metavar="REQUEST.json")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def explain(path: Path, env_file: Path | None, request_file: BinaryIO, as_json: bool) -> None:
    """Show the upstream request for REQUEST.json, and every change made to it with its reason.

    The file holds a body for /v1/messages, or {"headers": …, "body": …}; - reads standard input.
    """
    config = load_or_exit(path, variables_or_exit(env_file))
    try:
        body, headers = _read(request_file.read())
        target = config.table.resolve(body["model"]).targets[0]
        tokens = TokenEstimator().estimate(target.name, measure(body))
        request = MessagesRequest(body, headers, "", "msg_explain", tokens)
        upstream = adapters.get(target.api).prepare(request, target)
    except GatewayError as error:
        click.echo(f"{error.status} {error.error_type}: {error.message}", err=True)
        sys.exit(1)
    shown = _masked(_shown(request, target, upstream), sorted(config.secrets, key=len, reverse=True))
    click.echo(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode() if as_json else _text(shown))


def _read(data: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        value = loads_request(data)
    except ValueError as error:
        raise click.ClickException(f"not valid JSON: {error}") from None
    headers: dict[str, str] = {}
    if isinstance(value, dict) and isinstance(value.get("body"), dict):
        given = value.get("headers")
        if given is not None and not isinstance(given, dict):
            raise InvalidRequest("headers: Input should be an object")
        headers = {str(name).lower(): str(text) for name, text in (given or {}).items()}
        value = value["body"]
    return check_request(value), headers


def _shown(request: MessagesRequest, target: Target, upstream: UpstreamRequest) -> dict[str, Any]:
    return {
        "asked": request.model,
        "target": target.name,
        "ready": target.provider.missing_key is None,
        "missing_key": target.provider.missing_key,
        "estimated_input_tokens": request.input_tokens,
        "url": upstream.url,
        "headers": dict(upstream.headers),
        "body": orjson.loads(upstream.body) if upstream.body else None,
        "changes": [{"action": c.action, "path": c.path, "reason": c.reason} for c in upstream.changes],
    }


def _masked(value: Any, secrets: list[str]) -> Any:
    """``value`` without any secret in its strings."""
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "[key]")
        return value
    if isinstance(value, dict):
        return {_masked(name, secrets): _masked(item, secrets) for name, item in value.items()}
    if isinstance(value, list):
        return [_masked(item, secrets) for item in value]
    return value


def _text(shown: dict[str, Any]) -> str:
    lines = [f"{shown['asked']} → {shown['target']}, about {shown['estimated_input_tokens']} tokens in"]
    if not shown["ready"]:
        lines.append(f"not ready: set {shown['missing_key']}")
    lines += ["", f"POST {shown['url']}", *(f"{name}: {text}" for name, text in shown["headers"].items()), ""]
    if shown["body"] is not None:
        lines.append(orjson.dumps(shown["body"], option=orjson.OPT_INDENT_2).decode())
    lines += ["", f"{len(shown['changes'])} changes:"]
    lines += [f"  {change['action']:<8} {change['path']}: {change['reason']}" for change in shown["changes"]]
    return "\n".join(lines)
