"""Tools and tool choice for servers that merely speak the Messages API (R43-R50, R131).

Rules:
* Nothing changes where the profile asks for nothing: the same objects go on.
* A name that the upstream keeps for itself is replaced in the tools, the history and the choice, and mapped
  back on its way down.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from operator import is_
from typing import Any

from gateway.errors import InvalidRequest
from gateway.profile import Profile
from gateway.translate.changes import Change, Changes
from gateway.translate.chat_tools import is_forced, upstream_tool_name
from gateway.translate.tool_schema import fit_schema
from gateway.wire.json_text import dumps_request
from gateway.wire.request_reader import SharedTools

JSON = dict[str, Any]
Fitted = tuple[list[Any] | None, tuple[Change, ...]]
"""The tools as the upstream takes them, None where that is as they are; and what was changed."""


def upstream_names(body: JSON, profile: Profile) -> dict[str, str]:
    """Client name -> upstream name of the tools that go up under another one."""
    if not profile.reserved_tool_names:
        return {}
    tools = body.get("tools")
    return {
        tool["name"]: upstream_tool_name(tool["name"], profile.tool_name_max, reserved=True)
        for tool in (tools if isinstance(tools, list) else ())
        if isinstance(tool, dict) and tool.get("name") in profile.reserved_tool_names
    }


def fit_tools(wire: JSON, history: list[Any], profile: Profile, names: dict[str, str], changes: Changes) -> None:
    """Tools without the fields and the keywords that the upstream refuses. Raises InvalidRequest for too many.

    ``history``: the client's messages, which tell when a deferred tool was loaded.
    """
    tools = wire.get("tools")
    if not isinstance(tools, list) or profile.first_party:
        return
    if isinstance(tools, SharedTools) and not tools.once("deferred", partial(_any_deferred, tools)):
        fitted, made = tools.once(_asked(profile, names), partial(_shared, tools, profile, names))
    else:
        fitted, made = _fitted_tools(tools, history, profile, names)
    tools = tools if fitted is None else fitted
    changes.update(made)
    if not tools:
        del wire["tools"]
        return
    wire["tools"] = tools
    if profile.max_tools is not None and len(tools) > profile.max_tools:
        raise InvalidRequest(f"tools: {len(tools)} tools are offered, and this model takes {profile.max_tools} at most")


def fit_choice(wire: JSON, profile: Profile, names: dict[str, str], changes: Changes) -> None:
    """``tool_choice`` as the upstream can be told it."""
    choice = wire.get("tool_choice")
    tools = wire.get("tools")
    if not isinstance(choice, dict) or profile.first_party:
        return
    if choice.get("type") == "none" and not profile.tool_choice_none:
        wire.pop("tools", None)
        del wire["tool_choice"]
        changes.add("dropped", "tools", "tool_choice is none, and the upstream knows no such choice")
        return
    if choice.get("disable_parallel_tool_use") and not profile.parallel_tool_calls:
        choice = {name: value for name, value in choice.items() if name != "disable_parallel_tool_use"}
        changes.add("dropped", "tool_choice.disable_parallel_tool_use", "the upstream has no such switch")
    if isinstance(choice.get("name"), str) and choice["name"] in names:
        choice = {**choice, "name": names[choice["name"]]}
    if is_forced({"tool_choice": choice}):
        if not _is_offered(choice, tools if isinstance(tools, list) else []):
            del wire["tool_choice"]
            changes.add("dropped", "tool_choice", "none of the tools it can mean is offered")
            return
        forced = _forced(choice, tools if isinstance(tools, list) else [], profile, wire, changes)
        if forced is None:
            del wire["tool_choice"]
            changes.add("dropped", "tool_choice", "the upstream takes no such forced choice")
            return
        choice = forced
    if choice is not wire["tool_choice"]:
        wire["tool_choice"] = choice


def _asked(profile: Profile, names: dict[str, str]) -> Hashable:
    """All that ``_fitted_tools`` reads beside the tools, and beside the history of deferred ones."""
    return (
        *("skin", profile.keep_betas, profile.server_tools, profile.cache, profile.drop_tool_fields),
        *(profile.schema_rewrites, profile.schema_dropped, tuple(names.items())),
    )


def _shared(tools: list[Any], profile: Profile, names: dict[str, str]) -> Fitted:
    fitted, changes = _fitted_tools(tools, [], profile, names)
    return None if fitted is None else SharedTools(fitted, dumps_request(fitted)), changes


def _fitted_tools(tools: list[Any], history: list[Any], profile: Profile, names: dict[str, str]) -> Fitted:
    changes = Changes()
    fitted = tools
    if not profile.keep_betas and not profile.server_tools:
        fitted = [tool for tool in fitted if not _runs_at_anthropic(tool, changes)]
    if "defer_loading" in profile.drop_tool_fields:
        fitted = _deferred_last(fitted, history)
    dropped = {*profile.drop_tool_fields, *(("cache_control",) if profile.cache == "none" else ())}
    fitted = [_fitted(tool, dropped, profile, names, changes) for tool in fitted]
    unchanged = len(fitted) == len(tools) and all(map(is_, fitted, tools))
    return None if unchanged else fitted, tuple(changes)


def _deferred_last(tools: list[Any], history: list[Any]) -> list[Any]:
    """Loaded tools behind all others, in the order of their references: the prefix before them stays cached."""
    deferred = [tool for tool in tools if _is_deferred(tool)]
    if not deferred:
        return tools
    found: list[str] = []
    for message in history:
        content = message.get("content") if isinstance(message, dict) else None
        for block in content if isinstance(content, list) else ():
            inner = block.get("content") if isinstance(block, dict) else None
            for item in (block, *(inner if isinstance(inner, list) else ())):
                if isinstance(item, dict) and item.get("type") == "tool_reference":
                    found.append(str(item.get("tool_name")))
    places = {name: place for place, name in reversed(list(enumerate(found)))}
    deferred.sort(key=lambda tool: places.get(str(tool.get("name")), len(found)))
    return [*(tool for tool in tools if not _is_deferred(tool)), *deferred]


def _any_deferred(tools: list[Any]) -> bool:
    return any(map(_is_deferred, tools))


def _is_deferred(tool: Any) -> bool:
    return isinstance(tool, dict) and bool(tool.get("defer_loading"))


def _runs_at_anthropic(tool: Any, changes: Changes) -> bool:
    kind = tool.get("type", "custom") if isinstance(tool, dict) else "custom"
    if kind in ("custom", "function") or "input_schema" in tool:
        return False
    changes.add("dropped", f"tools.{tool.get('name', kind)}", f"{kind} runs on Anthropic's servers only")
    return True


def _is_offered(choice: JSON, tools: list[Any]) -> bool:
    names = [tool.get("name") for tool in tools if isinstance(tool, dict)]
    return bool(names) if choice["type"] == "any" else choice.get("name") in names


def _forced(choice: JSON, tools: list[Any], profile: Profile, wire: JSON, changes: Changes) -> JSON | None:
    named = choice["type"] == "tool"
    if profile.tool_choice == "auto":
        return None
    if profile.tool_choice == "named" and not named:
        return {**choice, "type": "tool", "name": tools[0].get("name")} if len(tools) == 1 else None
    if profile.tool_choice == "string" and named:
        wire["tools"] = [tool for tool in tools if isinstance(tool, dict) and tool.get("name") == choice.get("name")]
        reason = "only this tool is offered: the upstream cannot be told which one to call"
        changes.add("replaced", "tool_choice", reason)
        return {**{name: value for name, value in choice.items() if name != "name"}, "type": "any"}
    return choice


def _fitted(tool: Any, dropped: set[str], profile: Profile, names: dict[str, str], changes: Changes) -> Any:
    if not isinstance(tool, dict):
        return tool
    schema = tool.get("input_schema")
    fitted = _fitted_schema(schema, profile) if isinstance(schema, dict) else schema
    renamed = isinstance(tool.get("name"), str) and tool["name"] in names
    if fitted is schema and not renamed and dropped.isdisjoint(tool):
        return tool
    kept: JSON = {}
    for name, value in tool.items():
        # Only the redundant word goes: any other type is what the tool is.
        if name in dropped and (name != "type" or value == "custom"):
            changes.add("dropped", f"tools[].{name}", "the upstream refuses it")
        elif name == "name" and renamed:
            kept[name] = names[value]
            changes.add("renamed", f"tools.{value}", "the upstream keeps that name for itself")
        elif name == "input_schema" and fitted is not schema:
            kept[name] = fitted
            changes.add("replaced", f"tools.{tool.get('name')}.input_schema", "fitted to what the upstream takes")
        else:
            kept[name] = value
    return tool if len(kept) == len(tool) and fitted is schema and not renamed else kept


def _fitted_schema(schema: JSON, profile: Profile) -> JSON:
    """The schema as every known server takes it (R43), then as this one does (R44)."""
    if profile.keep_betas and not profile.schema_rewrites and not profile.schema_dropped:
        return schema
    if "$schema" in schema or "$id" in schema:
        schema = {name: value for name, value in schema.items() if name not in ("$schema", "$id")}
    if "type" not in schema:
        schema = {"type": "object", "properties": {}, **schema}
    return fit_schema(schema, profile.schema_rewrites, profile.schema_dropped)
