"""Other gateways, measured with --peers where they are on PATH; each as its own documents say, logging turned down.

README.md tells how to install them. None of them needs the network here, and none gets any.
"""

from __future__ import annotations

import json
import sys

from bench import claude_gateway
from bench.gateways import KEY, ROOT, Contender, Launch, Site, Unavailable, on_path
from bench.streams import MEASURED


def _litellm(site: Site) -> Launch:
    # hosted_vllm/: with openai/ it sends requests that think to /v1/responses.
    target = {"model": "hosted_vllm/*", "api_base": f"http://127.0.0.1:{site.upstream}/v1", "api_key": KEY}
    config = {
        "model_list": [{"model_name": "*", "litellm_params": target}],
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"drop_params": True, "telemetry": False},
    }
    (site.folder / "config.yaml").write_text(json.dumps(config))
    command = [on_path("litellm"), "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(site.port)]
    return Launch(command, {"HOME": str(site.folder), "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"})


def _ccr(site: Site) -> Launch:
    url = f"http://127.0.0.1:{site.upstream}/v1/chat/completions"
    config = {
        "HOST": "127.0.0.1",
        "PORT": site.port,
        "APIKEY": KEY,
        "LOG": False,
        "Providers": [{"name": "mock", "api_base_url": url, "api_key": KEY, "models": ["short"]}],
        "Router": {"default": "mock,short"},
    }
    (site.folder / ".claude-code-router").mkdir()
    (site.folder / ".claude-code-router" / "config.json").write_text(json.dumps(config))
    return Launch([on_path("ccr"), "start"], {"HOME": str(site.folder)}, model_prefix="mock,")


def _smg(site: Site) -> Launch:
    command = [
        *(on_path("smg"), "launch", "--host", "127.0.0.1", "--port", str(site.port)),
        *("--worker-urls", f"http://127.0.0.1:{site.upstream}", "--backend", "anthropic"),
        *("--policy", "round_robin", "--log-level", "error", "--prometheus-port", str(site.spare)),
        *("--max-concurrent-requests", "4096"),
    ]
    return Launch(command, {"HOME": str(site.folder)})


def _claude(site: Site) -> Launch:
    on_path("claude")
    try:
        claude_gateway.postgres_program("initdb")
    except FileNotFoundError as error:
        raise Unavailable(str(error)) from None
    config = claude_gateway.config(site.port, site.spare, site.upstream, MEASURED)
    (site.folder / "config.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "bench.claude_gateway", "config.yaml", str(site.spare)]
    token = claude_gateway.session_token()
    return Launch(
        command, {"HOME": str(site.folder), "PYTHONPATH": str(ROOT)}, headers={"authorization": f"Bearer {token}"}
    )


PEERS = (
    Contender("smg", "Rust, hands /v1/messages through", _smg),
    Contender("litellm", "Python, translates", _litellm),
    Contender("ccr", "JavaScript, translates", _ccr),
    Contender("claude", "`claude gateway`, hands /v1/messages through; with its PostgreSQL", _claude),
)
