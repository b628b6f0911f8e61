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
* Tools that many requests share are described once; ``_Rules`` and ``_History`` are all that it depends on beside them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from gateway.errors import InvalidRequest
from gateway.profile import Profile
from gateway.translate.changes import Changes
from gateway.translate.schema_nodes import argument_types
from gateway.translate.tool_list import NO_TOOLS, OfferedTool, ToolList
from gateway.translate.tool_schema import fit_schema
from gateway.wire.json_text import Encoded, dumps_item, encoded_items
from gateway.wire.request_reader import SharedTools

JSON = dict[str, Any]
Form = Callable[[JSON, Changes], JSON]
"""Writes a tool of Chat Completions as another wire takes it."""

_SERVER_TOOLS = ("web_search_", "web_fetch_", "code_execution_", "tool_search_tool_", "advisor_", "mcp_toolset")
_CLIENT_TOOLS = ("bash_", "text_editor_", "computer_", "memory_", "browser_")
_TOOL_SEARCH = "tool_search_tool_"
_KEPT = frozenset(("name", "description", "input_schema", "type"))
_ODD = re.compile(r"[^a-zA-Z0-9_-]")
_HASH_LENGTH = 8
_MAX_GROWTH = 4
"""Tools that take more room upstream than this times what they took here are not remembered."""


class _Rules(NamedTuple):
    """What a tool's description depends on beside the request."""

    form: Form
    name_max: int
    reserved: tuple[str, ...]
    rewrites: tuple[str, ...]
    dropped: tuple[str, ...]
    leaks: bool


class _History(NamedTuple):
    """What the messages say about the tools."""

    references: dict[str, None]
    """Names that they load, in order."""
    removed: dict[str, None]
    """Names that they withdraw."""
    definitions: dict[str, JSON]
    """Tools that they bring."""
    call_ids: set[str]


@dataclass(slots=True)
class OfferedTools:
    """The tools of one upstream request."""

    listed: ToolList
    tools: tuple[OfferedTool, ...]
    """Those of ``listed`` that the choice leaves."""
    call_ids: Set[str] = frozenset()
    """The ids of the calls in the history."""

    def upstream_name(self, name: str, limit: int) -> str:
        """The upstream's form of a name that may stand only in the history."""
        return self.listed.upstream_names.get(name) or upstream_tool_name(name, limit)

    def to_wire(self, changes: Changes) -> Encoded:
        """The list, as the wire's body holds it."""
        for tool in self.tools:
            if tool.changes:
                changes.update(tool.changes)
        if self.tools is self.listed.tools:
            return self.listed.wire
        return encoded_items(tool.data for tool in self.tools)


def chat_form(function: JSON, changes: Changes) -> JSON:
    """A tool as Chat Completions takes it: ``function`` itself."""
    return function


def offer_tools(body: JSON, profile: Profile, changes: Changes, form: Form = chat_form) -> OfferedTools:
    """The offered tools. Raises InvalidRequest, naming the tool, for one that cannot be described."""
    history = _history(body.get("messages") or [], changes)
    tools = body.get("tools")
    if tools is None and not history.definitions:
        listed = NO_TOOLS
    else:
        listed = _listed(tools, history, _rules(profile, form))
        changes.update(listed.changes)
    if profile.tools_for_history and not listed.tools:
        listed = _past_tools(body, _rules(profile, form))
        changes.update(listed.changes)
    if profile.max_tools is not None and len(listed.tools) > profile.max_tools:
        count = len(listed.tools)
        raise InvalidRequest(f"tools: {count} tools are offered, and this model takes {profile.max_tools} at most")
    return OfferedTools(listed, listed.tools, history.call_ids)


def _rules(profile: Profile, form: Form) -> _Rules:
    return _Rules(
        form,
        profile.tool_name_max,
        profile.reserved_tool_names,
        profile.schema_rewrites,
        profile.schema_dropped,
        bool(profile.leaked_calls),
    )


def _listed(tools: Any, history: _History, rules: _Rules) -> ToolList:
    names = (*history.references, *history.removed)
    if not isinstance(tools, SharedTools) or history.definitions or sum(map(len, names)) > len(tools.json):
        return _described(tools, history, rules)

    def described() -> ToolList | None:
        made = _described(tools, history, rules)
        return made if made.size <= _MAX_GROWTH * len(tools.json) else None

    key = ("offered", rules, tuple(history.references), frozenset(history.removed))
    return tools.once(key, described) or _described(tools, history, rules)


def _described(tools: Any, history: _History, rules: _Rules) -> ToolList:
    changes = Changes()
    declared = {**history.definitions, **_declared(tools)}
    for name, definition in history.definitions.items():
        declared.setdefault(name, definition)
    deferred: dict[str, JSON] = {}
    always: list[JSON] = []
    search_is_ours = any(str(tool.get("type", "")).startswith(_TOOL_SEARCH) for tool in declared.values())
    for position, (name, tool) in enumerate(declared.items()):
        if _is_server_tool(tool, position, changes):
            continue
        if tool.get("defer_loading") and not search_is_ours:
            deferred[name] = tool
        else:
            always.append(tool)
    loaded = [deferred.pop(name) for name in history.references if name in deferred]
    for name in deferred:
        changes.add("dropped", f"tools.{name}", "deferred and not loaded yet: no tool_reference to it in the history")
    offered: list[JSON] = []
    for tool in [*always, *loaded]:
        if tool["name"] in history.removed:
            changes.add("dropped", f"tools.{tool['name']}", "withdrawn by a tool_removal block")
        else:
            offered.append(tool)
    return _written(offered, rules, changes)


def _written(tools: Iterable[JSON], rules: _Rules, changes: Changes) -> ToolList:
    """``tools`` as the wire takes them."""
    written: list[OfferedTool] = []
    upstream_names: dict[str, str] = {}
    schemas: dict[str, JSON] = {}
    for tool in tools:
        name = upstream_names[tool["name"]] = _renamed(tool["name"], rules, changes)
        function = _function(tool, name, rules, changes)
        if rules.leaks:
            schemas[name] = _argument_types(function["function"]["parameters"])
        formed = Changes()
        written.append(OfferedTool(name, dumps_item(rules.form(function, formed)), tuple(formed)))
    client_names = {upstream: client for client, upstream in upstream_names.items()}
    return ToolList(tuple(written), upstream_names, client_names, schemas, tuple(changes))


def _argument_types(schema: JSON) -> JSON:
    """What LeakedCalls asks of a schema, and nothing else of it."""
    return {"properties": {name: _typed(types) for name, types in argument_types(schema).items()}}


@lru_cache(maxsize=64)
def _typed(types: frozenset[str]) -> JSON:
    return {"type": sorted(types)}


def _past_tools(body: JSON, rules: _Rules) -> ToolList:
    """Stand-ins for the tools that the history called (R46)."""
    changes = Changes()

    def tools() -> Iterator[JSON]:
        names: set[str] = set()
        for message in body.get("messages") or []:
            blocks = message.get("content") if isinstance(message, dict) else None
            for block in blocks if isinstance(blocks, list) else ():
                if not isinstance(block, dict) or block.get("type") != "tool_use":
                    continue
                name = str(block.get("name"))
                if name not in names:
                    names.add(name)
                    changes.add("added", f"tools.{name}", "past calls need a list of tools upstream")
                    yield {"name": name, "description": "No longer offered."}

    return _written(tools(), rules, changes)


def is_forced(body: JSON) -> bool:
    """Whether the client demands a call."""
    choice = body.get("tool_choice")
    return isinstance(choice, dict) and choice.get("type") in ("any", "tool")


def tool_choice(body: JSON, offered: OfferedTools, profile: Profile, thinking: bool | None, changes: Changes) -> JSON:
    """``tool_choice`` and ``parallel_tool_calls`` of the upstream body (R47-R49).

    ``thinking``: the model will reason. Takes tools out of ``offered`` where the upstream needs that.
    """
    choice = body.get("tool_choice")
    wire: JSON = {"parallel_tool_calls": True} if profile.ask_parallel and offered.tools else {}
    if not isinstance(choice, dict):
        return wire
    if not offered.tools:
        if is_forced(body):
            changes.add("dropped", "tool_choice", "none of the tools it can mean is offered")
        return wire
    kind = choice.get("type")
    if kind == "none" and profile.tool_choice_none:
        wire["tool_choice"] = "none"
    elif kind == "none":
        offered.tools = ()
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
    if choice["type"] == "tool" and (not isinstance(name, str) or name not in offered.listed.upstream_names):
        changes.add("dropped", "tool_choice", f"the tool {name} is not offered upstream")
        return {}
    upstream = offered.listed.upstream_names[name] if isinstance(name, str) else None
    if profile.tool_choice == "auto" or (not profile.tool_choice_thinking and thinking is not False):
        refused = "at all" if profile.tool_choice == "auto" else "while it thinks"
        changes.add("dropped", "tool_choice", f"the upstream takes no forced choice {refused}")
        return {}
    if upstream is None and profile.tool_choice == "named":
        if len(offered.tools) > 1:
            changes.add("dropped", "tool_choice", "the upstream takes the name of a tool only, and several are offered")
            return {}
        upstream = offered.tools[0].name
    if upstream is None:
        return {"tool_choice": "any" if profile.tool_choice == "any" else "required"}
    if profile.tool_choice != "string":
        return {"tool_choice": {"type": "function", "function": {"name": upstream}}}
    offered.tools = tuple(tool for tool in offered.tools if tool.name == upstream)
    changes.add("replaced", "tool_choice", f"only {name} is offered: the upstream cannot be told which tool to call")
    return {"tool_choice": "required"}


def upstream_tool_name(name: str, limit: int, *, reserved: bool = False) -> str:
    """``name`` with the characters and the length that upstreams allow; two names never become one."""
    clean = _ODD.sub("_", name)
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


def _history(messages: list[Any], changes: Changes) -> _History:
    history = _History({}, {}, {}, set())
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            _read(content, history, changes)
    return history


def _read(blocks: list[Any], history: _History, changes: Changes) -> None:
    for block in blocks:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text":
            continue
        if kind == "tool_use":
            history.call_ids.add(str(block.get("id")))
        elif kind == "tool_result" or kind == "tool_search_tool_result":
            content = block.get("content")
            if isinstance(content, dict):
                content = content.get("tool_references")
            if isinstance(content, list):
                _read(content, history, changes)
        elif kind == "tool_reference":
            history.references.setdefault(str(block.get("tool_name")))
        elif kind in ("tool_addition", "tool_removal"):
            _change(kind, block.get("tool"), history, changes)


def _change(kind: str, tool: Any, history: _History, changes: Changes) -> None:
    """A tool that the history adds or withdraws."""
    if not isinstance(tool, dict):
        return
    definition = tool.get("definition")
    if isinstance(definition, dict) and isinstance(definition.get("name"), str):
        name = definition["name"]
        history.definitions.setdefault(name, {**definition, "defer_loading": True})
    else:
        name = str(tool.get("name") or tool.get("tool_name"))
    changes.add("moved", f"tools.{name}", f"a {kind} block in the messages is applied to the list of tools")
    if kind == "tool_addition":
        history.references.setdefault(name)
        history.removed.pop(name, None)
    else:
        history.removed.setdefault(name)


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


def _renamed(name: str, rules: _Rules, changes: Changes) -> str:
    upstream = upstream_tool_name(name, rules.name_max, reserved=name in rules.reserved)
    if upstream != name:
        changes.add("renamed", f"tools.{name}", f"sent as {upstream}: the upstream's names are shorter or plainer")
    return upstream


def _function(tool: JSON, name: str, rules: _Rules, changes: Changes) -> JSON:
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
    fitted = fit_schema(parameters, rules.rewrites, rules.dropped)
    if fitted is not parameters:
        changes.add("replaced", f"tools.{tool['name']}.input_schema", "fitted to the schemas that the upstream takes")
    function: JSON = {"name": name}
    if isinstance(tool.get("description"), str):
        function["description"] = tool["description"]
    function["parameters"] = fitted
    return {"type": "function", "function": function}
