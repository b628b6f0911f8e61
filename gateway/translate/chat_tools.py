"""Tools: which of a request's tools are offered upstream, under which names, and the tool choice.

Rules:
* A tool with ``defer_loading`` is offered once a ``tool_reference`` to it stands in the history, and from
  then on (client.md 0b, row 2). Order: what is always there, in the request's order; then loaded tools
  in the order of their references, so that the upstream's prefix cache breaks as late as possible.
  Where Anthropic's own tool search would do the finding, nobody could: then all deferred tools are offered.
* ``tool_addition`` and ``tool_removal`` blocks are applied to the list (row 4).
* Anthropic's server tools cannot run elsewhere: dropped. Tools whose schema only Anthropic's models know
  (computer, text editor…) cannot be described: a 400 that names them.
* A schema is fitted to what the upstream's grammar takes (tool_schema.py), and a choice to what it can be
  told: forced, named, by offering one tool only, or not at all.
* A name is what the upstream allows; a longer one is cut and told apart by a hash, and mapped back.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import InvalidRequest
from gateway.profile import Profile
from gateway.translate.changes import Changes
from gateway.translate.leaked_calls import LeakedCalls
from gateway.translate.tool_schema import fit_schema

JSON = dict[str, Any]

_SERVER_TOOLS = ("web_search_", "web_fetch_", "code_execution_", "tool_search_tool_", "advisor_", "mcp_toolset")
_CLIENT_TOOLS = ("bash_", "text_editor_", "computer_", "memory_", "browser_")
_TOOL_SEARCH = "tool_search_tool_"
_KEPT = frozenset(("name", "description", "input_schema", "type"))
_HASH_LENGTH = 8


@dataclass(slots=True)
class OfferedTools:
    """The tools of one upstream request."""

    functions: list[JSON] = field(default_factory=list)
    """As Chat Completions takes them."""
    upstream_names: dict[str, str] = field(default_factory=dict)
    """Client name -> upstream name, for every tool of the request, offered or not."""
    dropped: set[str] = field(default_factory=set)
    """Client names of server tools that are not offered."""

    @property
    def client_names(self) -> dict[str, str]:
        """Upstream name -> client name."""
        return {upstream: client for client, upstream in self.upstream_names.items()}

    def leaked_calls(self, profile: Profile) -> LeakedCalls | None:
        """What heals calls of these tools that leak into the text; None where the profile knows of none."""
        if not profile.leaked_calls:
            return None
        functions = (tool["function"] for tool in self.functions)
        return LeakedCalls(profile.leaked_calls, {function["name"]: function["parameters"] for function in functions})

    def upstream_name(self, name: str, limit: int) -> str:
        """The upstream's form of a name that may stand only in the history."""
        return self.upstream_names.get(name) or upstream_tool_name(name, limit)


def offer_tools(body: JSON, profile: Profile, changes: Changes) -> OfferedTools:
    """The offered tools. Raises InvalidRequest, naming the tool, for one that cannot be described."""
    declared = _declared(body.get("tools"))
    references, removed = _mentions(body.get("messages") or [], declared, changes)
    offered = OfferedTools()
    deferred: dict[str, JSON] = {}
    always: list[JSON] = []
    search_is_ours = any(str(tool.get("type", "")).startswith(_TOOL_SEARCH) for tool in declared.values())
    for position, (name, tool) in enumerate(declared.items()):
        if _is_server_tool(tool, position, changes):
            offered.dropped.add(name)
        elif tool.get("defer_loading") and not search_is_ours:
            deferred[name] = tool
        else:
            always.append(tool)
    loaded = [deferred.pop(name) for name in references if name in deferred]
    for name in deferred:
        changes.add("dropped", f"tools.{name}", "deferred and not loaded yet: no tool_reference to it in the history")
    for tool in [*always, *loaded]:
        name = tool["name"]
        if name in removed:
            changes.add("dropped", f"tools.{name}", "withdrawn by a tool_removal block")
            continue
        offered.upstream_names[name] = _renamed(name, profile, changes)
        offered.functions.append(_function(tool, offered.upstream_names[name], profile, changes))
    if profile.tools_for_history and not offered.functions:
        _offer_past_tools(body, offered, profile, changes)
    if profile.max_tools is not None and len(offered.functions) > profile.max_tools:
        count = len(offered.functions)
        raise InvalidRequest(f"tools: {count} tools are offered, and this model takes {profile.max_tools} at most")
    return offered


def _offer_past_tools(body: JSON, offered: OfferedTools, profile: Profile, changes: Changes) -> None:
    """Stand-ins for the tools that the history called (R46)."""
    for message in body.get("messages") or []:
        blocks = message.get("content") if isinstance(message, dict) else None
        for block in blocks if isinstance(blocks, list) else ():
            if not isinstance(block, dict) or block.get("type") != "tool_use":
                continue
            name = str(block.get("name"))
            if name not in offered.upstream_names:
                changes.add("added", f"tools.{name}", "past calls need a list of tools upstream")
                offered.upstream_names[name] = _renamed(name, profile, changes)
                tool = {"name": name, "description": "No longer offered."}
                offered.functions.append(_function(tool, offered.upstream_names[name], profile, changes))


def is_forced(body: JSON) -> bool:
    """Whether the client demands a call."""
    choice = body.get("tool_choice")
    return isinstance(choice, dict) and choice.get("type") in ("any", "tool")


def tool_choice(body: JSON, offered: OfferedTools, profile: Profile, thinking: bool | None, changes: Changes) -> JSON:
    """``tool_choice`` and ``parallel_tool_calls`` of the upstream body (R47-R49).

    ``thinking``: the model will reason. Takes tools out of ``offered`` where the upstream needs that.
    """
    choice = body.get("tool_choice")
    wire: JSON = {"parallel_tool_calls": True} if profile.ask_parallel and offered.functions else {}
    if not offered.functions or not isinstance(choice, dict):
        if is_forced(body):
            changes.add("dropped", "tool_choice", "none of the tools it can mean is offered")
        return wire
    kind = choice.get("type")
    if kind == "none" and profile.tool_choice_none:
        wire["tool_choice"] = "none"
    elif kind == "none":
        offered.functions.clear()
        changes.add("dropped", "tools", "tool_choice is none, and the upstream knows no such choice")
        return {}
    elif kind in ("any", "tool"):
        wire.update(_forced_choice(choice, offered, profile, thinking, changes))
    if choice.get("disable_parallel_tool_use"):
        if profile.parallel_tool_calls:
            wire["parallel_tool_calls"] = False
        else:
            changes.add("dropped", "tool_choice.disable_parallel_tool_use", "the upstream has no such switch")
    return wire


def _forced_choice(
    choice: JSON, offered: OfferedTools, profile: Profile, thinking: bool | None, changes: Changes
) -> JSON:
    name = choice.get("name") if choice["type"] == "tool" else None
    if choice["type"] == "tool" and (not isinstance(name, str) or name not in offered.upstream_names):
        changes.add("dropped", "tool_choice", f"the tool {name} is not offered upstream")
        return {}
    upstream = offered.upstream_names[name] if isinstance(name, str) else None
    if profile.tool_choice == "auto" or (not profile.tool_choice_thinking and thinking is not False):
        refused = "at all" if profile.tool_choice == "auto" else "while it thinks"
        changes.add("dropped", "tool_choice", f"the upstream takes no forced choice {refused}")
        return {}
    if upstream is None and profile.tool_choice == "named":
        if len(offered.functions) > 1:
            changes.add("dropped", "tool_choice", "the upstream takes the name of a tool only, and several are offered")
            return {}
        upstream = offered.functions[0]["function"]["name"]
    if upstream is None:
        return {"tool_choice": "any" if profile.tool_choice == "any" else "required"}
    if profile.tool_choice != "string":
        return {"tool_choice": {"type": "function", "function": {"name": upstream}}}
    offered.functions[:] = [tool for tool in offered.functions if tool["function"]["name"] == upstream]
    changes.add("replaced", "tool_choice", f"only {name} is offered: the upstream cannot be told which tool to call")
    return {"tool_choice": "required"}


def upstream_tool_name(name: str, limit: int, *, reserved: bool = False) -> str:
    """``name`` with the characters and the length that upstreams allow; two names never become one."""
    clean = re.sub(r"[^a-zA-Z0-9_-]", "_", name)
    if clean == name and len(name) <= limit and not reserved:
        return name
    digest = hashlib.blake2s(name.encode("utf-8", "replace")).hexdigest()[:_HASH_LENGTH]
    return f"{clean[: limit - _HASH_LENGTH - 1]}_{digest}"


def _declared(tools: Any) -> dict[str, JSON]:
    declared: dict[str, JSON] = {}
    if tools is None:
        return declared
    if not isinstance(tools, list):
        raise InvalidRequest("tools: Input should be a list")
    for position, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise InvalidRequest(f"tools[{position}]: Input should be an object")
        name = tool.get("name") or (tool.get("mcp_server_name") if tool.get("type") == "mcp_toolset" else None)
        if not isinstance(name, str) or not name:
            raise InvalidRequest(f"tools[{position}].name: Field required")
        if name in declared:
            raise InvalidRequest(f"tools[{position}].name: '{name}' is used twice; tool names must be unique")
        declared[name] = tool
    return declared


def _mentions(messages: list[Any], declared: dict[str, JSON], changes: Changes) -> tuple[list[str], set[str]]:
    """(names loaded by the history, in order; names withdrawn by it). Inline definitions join ``declared``."""
    references: dict[str, None] = {}
    removed: set[str] = set()

    def walk(blocks: Any) -> None:
        for block in blocks if isinstance(blocks, list) else ():
            if not isinstance(block, dict):
                continue
            kind = block.get("type")
            if kind == "tool_reference":
                references.setdefault(str(block.get("tool_name")))
            elif kind in ("tool_addition", "tool_removal"):
                change(kind, block.get("tool"))
            elif kind in ("tool_result", "tool_search_tool_result"):
                content = block.get("content")
                walk(content)
                if isinstance(content, dict):
                    walk(content.get("tool_references"))

    def change(kind: str, tool: Any) -> None:
        if not isinstance(tool, dict):
            return
        definition = tool.get("definition")
        if isinstance(definition, dict) and isinstance(definition.get("name"), str):
            declared.setdefault(definition["name"], {**definition, "defer_loading": True})
            name = definition["name"]
        else:
            name = str(tool.get("name") or tool.get("tool_name"))
        changes.add("moved", f"tools.{name}", f"a {kind} block in the messages is applied to the list of tools")
        if kind == "tool_addition":
            references.setdefault(name)
            removed.discard(name)
        else:
            removed.add(name)

    for message in messages:
        if isinstance(message, dict):
            walk(message.get("content"))
    return list(references), removed


def _is_server_tool(tool: JSON, position: int, changes: Changes) -> bool:
    kind = tool.get("type")
    if kind is None or kind in ("custom", "function"):
        return False
    kind = str(kind)
    if kind.startswith(_CLIENT_TOOLS):
        raise InvalidRequest(
            f"tools[{position}].type: {kind} is known to Anthropic's models only; "
            "this model needs a custom tool with an input_schema"
        )
    if kind.startswith(_SERVER_TOOLS) or "input_schema" not in tool:
        changes.add("dropped", f"tools.{tool.get('name', kind)}", f"{kind} runs on Anthropic's servers only")
        return True
    return False


def _renamed(name: str, profile: Profile, changes: Changes) -> str:
    upstream = upstream_tool_name(name, profile.tool_name_max, reserved=name in profile.reserved_tool_names)
    if upstream != name:
        changes.add("renamed", f"tools.{name}", f"sent as {upstream}: the upstream's names are shorter or plainer")
    return upstream


def _function(tool: JSON, name: str, profile: Profile, changes: Changes) -> JSON:
    for key in tool:
        if key not in _KEPT:
            changes.add("dropped", f"tools[].{key}", "no such field on a function")
    schema = tool.get("input_schema")
    if schema is not None and not isinstance(schema, dict):
        raise InvalidRequest(f"tools.{tool['name']}.input_schema: Input should be an object")
    parameters = {key: value for key, value in (schema or {}).items() if key not in ("$schema", "$id")}
    if "type" not in parameters:
        parameters = {"type": "object", **parameters}
    if parameters["type"] == "object" and "properties" not in parameters:
        parameters["properties"] = {}
    fitted = fit_schema(parameters, profile.schema_rewrites, profile.schema_dropped)
    if fitted is not parameters:
        changes.add("replaced", f"tools.{tool['name']}.input_schema", "fitted to the schemas that the upstream takes")
    function: JSON = {"name": name}
    if isinstance(tool.get("description"), str):
        function["description"] = tool["description"]
    function["parameters"] = fitted
    return {"type": "function", "function": function}
