"""A tiny MCP server on stdio with two tools, ``weigh`` and ``photo``: one JSON-RPC message a line, no dependency."""

from __future__ import annotations

import json
import sys
from typing import Any

TOOLS = [
    {
        "name": "weigh",
        "description": "Weighs a thing, in grams.",
        "inputSchema": {
            "type": "object",
            "properties": {"thing": {"type": "string", "description": "What to weigh"}},
            "required": ["thing"],
        },
    },
    {"name": "photo", "description": "A photo of the scales.", "inputSchema": {"type": "object"}},
]
RED_DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The result of one request."""
    if method == "initialize":
        return {
            "protocolVersion": params.get("protocolVersion", "2025-06-18"),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "scales", "version": "1"},
        }
    if method == "tools/list":
        return {"tools": TOOLS}
    if method == "tools/call" and params["name"] == "photo":
        picture = {"type": "image", "data": RED_DOT, "mimeType": "image/png"}
        return {"content": [{"type": "text", "text": "The photo."}, picture], "isError": False}
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
