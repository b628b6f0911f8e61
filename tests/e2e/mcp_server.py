"""A tiny MCP server on stdio with one tool, ``weigh``: standard library only, one JSON-RPC message a line."""

from __future__ import annotations

import json
import sys
from typing import Any

TOOL = {
    "name": "weigh",
    "description": "Weighs a thing, in grams.",
    "inputSchema": {
        "type": "object",
        "properties": {"thing": {"type": "string", "description": "What to weigh"}},
        "required": ["thing"],
    },
}


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The result of one request."""
    if method == "initialize":
        return {
            "protocolVersion": params.get("protocolVersion", "2025-06-18"),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "scales", "version": "1"},
        }
    if method == "tools/list":
        return {"tools": [TOOL]}
    if method == "tools/call":
        thing = params["arguments"]["thing"]
        return {"content": [{"type": "text", "text": f"{thing}: {len(thing)} g"}], "isError": False}
    return {}


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if "id" in request:
            result = answer(request["method"], request.get("params", {}))
            print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)


if __name__ == "__main__":
    main()
