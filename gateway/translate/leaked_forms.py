"""The grammars in which models write tool calls as text; leaked_calls.py finds the sections that hold them.

Rules:
* A grammar is generic; the markers around it, which differ from model to model, come with the profile.
* All of a section or nothing: whatever does not belong to a call makes it no section of that kind.
* Bare text in tags is taken as it stands, nothing is unescaped. Of several closing tags the one counts after
  which the call goes on or ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.wire.json_text import dumps

RawArgument = tuple[str, str, bool | None]
"""Name, text, and whether the markup says that it is a string (None: it does not say)."""
TaggedCall = tuple[str, list[RawArgument]]
RawCall = tuple[str, str | list[RawArgument]]
"""Name, and the arguments: as the JSON text of an object, or one by one."""


@dataclass(frozen=True, slots=True)
class Markup:
    """How a model writes tool calls when nobody parses them."""

    open: str
    """The marker that begins a section."""
    close: str
    """The marker that ends it."""
    form: str
    """The grammar between them, one of ``FORMS``."""


def is_possible(markup: Markup, head: str, offered: Mapping[str, Any]) -> bool:
    """Whether a section may begin with ``head``. Once False, it stays so for any longer head."""
    head = head.lstrip()
    if not head:
        return True
    if markup.form == "json":
        return head[0] in "{["
    if markup.form != "arg_pairs":
        return head[0] in ("<", markup.open[0])
    name = re.split(r"[\s<]", head, maxsplit=1)[0]
    return name in offered if len(name) < len(head) else any(known.startswith(name) for known in offered)


def is_unfinished(markup: Markup, body: str) -> bool:
    """Whether ``body`` ends within an argument, so that a closing marker after it is a part of that."""
    if markup.form == "json":
        try:
            _json(markup, body)
        except (ValueError, RecursionError) as problem:
            return str(problem).startswith("Unterminated string")
        return False
    if markup.form == "sections":
        ends = [found.end() for found in _CALL_END.finditer(body)]
        return _ARGUMENTS_BEGIN.search(body, ends[-1] if ends else 0) is not None
    opening, closing = _VALUE_EDGES[markup.form]
    return body.rfind(opening) > body.rfind(closing)


def _no_number(text: str) -> Any:
    raise ValueError(text)


def loads(text: str) -> Any:
    """JSON without ``NaN`` and ``Infinity``. Raises ValueError or RecursionError."""
    return json.loads(text, parse_constant=_no_number)


# -- JSON ---------------------------------------------------------------------------------------------------------


def _json(markup: Markup, body: str) -> list[RawCall] | None:
    """One object with ``name`` and ``arguments`` (or ``parameters``), several in a row, or a list of them."""
    decoder = json.JSONDecoder(parse_constant=_no_number, strict=False)
    calls: list[RawCall] = []
    at = _skip(body, 0)
    while at < len(body):
        value, at = decoder.raw_decode(body, at)
        calls += [_json_call(item) for item in (value if isinstance(value, list) else [value])]
        at = _skip(body, at)
        at = _skip(body, at + body.startswith(",", at))
    return calls


def _json_call(item: Any) -> RawCall:
    if not isinstance(item, dict):
        raise ValueError("no call")
    inner = item.get("function")
    item = inner if isinstance(inner, dict) else item
    arguments = item.get("arguments", item.get("parameters"))
    if not isinstance(item.get("name"), str):
        raise ValueError("no name")
    return item["name"], _object_text({} if arguments is None else arguments)


def _object_text(arguments: Any) -> str:
    """Arguments, given as an object or as JSON text, as the JSON text of an object. Raises ValueError."""
    text = (arguments.strip() or "{}") if isinstance(arguments, str) else dumps(arguments).decode()
    try:
        value = loads(text)
    except json.JSONDecodeError:  # models leave line breaks in strings as they are
        value = json.loads(text, parse_constant=_no_number, strict=False)
        text = dumps(value).decode()
    if not isinstance(value, dict):
        raise ValueError("arguments are an object")
    return text


_BAR = r"[|\uff5c]"
_GAP = r"[_\u2581]"
_CALL_BEGIN = rf"<{_BAR}tool{_GAP}call{_GAP}begin{_BAR}>"
_CALL_END = re.compile(rf"<{_BAR}tool{_GAP}call{_GAP}end{_BAR}>")
_ARGUMENTS_BEGIN = re.compile(rf"<{_BAR}tool{_GAP}(?:call{_GAP}argument{_GAP}begin|sep){_BAR}>")
_CALL_HEAD = re.compile(rf"{_CALL_BEGIN}([^<]*){_ARGUMENTS_BEGIN.pattern}")


def _sections(markup: Markup, body: str) -> list[RawCall] | None:
    """Calls between control tokens: begin, ``functions.NAME:INDEX`` or NAME, separator, JSON, end."""
    calls: list[RawCall] = []
    at = _skip(body, 0)
    while at < len(body):
        head = _CALL_HEAD.match(body, at)
        end = _CALL_END.search(body, head.end()) if head else None
        if head is None or end is None:
            return None
        name, arguments = head[1].strip(), body[head.end() : end.start()].strip()
        if name == "function":  # the older way: the name and a fenced block follow
            name, _, arguments = arguments.partition("\n")
            arguments = arguments.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
        calls.append((_plain_name(name), _object_text(arguments)))
        at = _skip(body, end.end())
    return calls


def _plain_name(name: str) -> str:
    """``NAME`` of ``functions.NAME:INDEX``."""
    head, colon, index = name.strip().removeprefix("functions.").rpartition(":")
    return head if colon and index.isdigit() else head + colon + index


# -- tags ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Tags:
    """Calls as nested tags whose values are bare text."""

    call: re.Pattern[str]
    """What begins a call; group 1 is its name."""
    argument: re.Pattern[str]
    """What begins an argument; group 1 is its name; a group ``string`` says whether it is text."""
    argument_end: str
    """What ends it, as a pattern; ``{name}`` stands for its name."""
    call_end: re.Pattern[str]
    line_breaks: bool = False
    """A value stands on lines of its own: one line break at each end belongs to the tags."""

    def calls(self, body: str) -> list[TaggedCall] | None:
        found: list[TaggedCall] = []
        at = _skip(body, 0)
        while at < len(body):
            head = self.call.match(body, at)
            if head is None:
                return None
            arguments: list[RawArgument] = []
            at = _skip(body, head.end())
            while (end := self.call_end.match(body, at)) is None:
                opened = self.argument.match(body, at)
                closed = self._end_of_value(body, opened) if opened else None
                if opened is None or closed is None:
                    return None
                text = body[opened.end() : closed.start()]
                if self.line_breaks:
                    text = text.removeprefix("\n").removesuffix("\n")
                said = opened.groupdict().get("string")
                arguments.append((opened[1].strip(), text, None if said is None else said == "true"))
                at = _skip(body, closed.end())
            found.append((head[1], arguments))
            at = _skip(body, end.end())
        return found

    def _end_of_value(self, body: str, opened: re.Match[str]) -> re.Match[str] | None:
        """The first closing tag after which the call goes on or ends: those before it belong to the value."""
        closing = re.compile(self.argument_end.replace("{name}", re.escape(opened[1])))
        for closed in closing.finditer(body, opened.end()):
            after = _skip(body, closed.end())
            if self.call_end.match(body, after) or self.argument.match(body, after):
                return closed
        return None


_BLANKS = re.compile(r"\s*")


def _skip(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at


def _prefix(markup: Markup) -> str:
    """What the opening marker puts before the name of its tag: ``<x:calls>`` has ``x:``."""
    return re.sub(r"[A-Za-z_]\w*>$", "", markup.open).removeprefix("<")


def _invoke(markup: Markup, body: str) -> list[TaggedCall] | None:
    """``<invoke name="N"><parameter name="P">V</parameter></invoke>``, tags with the marker's prefix or without."""
    lead = f"(?:{re.escape(_prefix(markup))})?"
    return _Tags(
        call=re.compile(rf"<{lead}invoke\s+name=[\"']?([^\"'>]+)[\"']?\s*>"),
        argument=re.compile(
            rf"<{lead}parameter\s+name=[\"']?([^\"'>]+)[\"']?(?:\s+string=\"(?P<string>true|false)\")?\s*>"
        ),
        argument_end=rf"</{lead}parameter>",
        call_end=re.compile(rf"</{lead}invoke>"),
    ).calls(body)


_NAMED_TAGS = _Tags(
    call=re.compile(r"<invoke\s+name=[\"']?([^\"'>]+)[\"']?\s*>"),
    argument=re.compile(r"<(?!/)([\w.-]+)>"),
    argument_end=r"</{name}>",
    call_end=re.compile(r"</invoke>"),
)
_FUNCTION_TAGS = _Tags(
    call=re.compile(r"<function=([^>\s]+)>"),
    argument=re.compile(r"<parameter=([^>]+)>"),
    argument_end=r"</parameter>",
    call_end=re.compile(r"</function>"),
    line_breaks=True,
)
_ARGUMENT_PAIRS = _Tags(
    call=re.compile(r"([^\s<]+)"),
    argument=re.compile(r"<arg_key>([^<]*)</arg_key>\s*<arg_value>"),
    argument_end=r"</arg_value>",
    call_end=re.compile(r"\Z"),
)


def _tags(markup: Markup, body: str) -> list[TaggedCall] | None:
    """``<invoke name="N"><P>V</P></invoke>``, each tag after whatever stands before the tag of the marker."""
    lead = markup.open[: markup.open.rfind("<")]
    calls = _NAMED_TAGS.calls(body.replace(lead, "") if lead else body)
    nested = any("</" in text for _, arguments in calls or [] for _, text, _ in arguments)
    return None if nested else calls


_VALUE_EDGES = {
    "invoke": ("parameter name=", "parameter>"),
    "tags": ("<invoke ", "</invoke>"),
    "function": ("<parameter=", "</parameter>"),
    "arg_pairs": ("<arg_value>", "</arg_value>"),
}

FORMS: dict[str, Callable[[Markup, str], Sequence[RawCall] | None]] = {
    "json": _json,
    "sections": _sections,
    "invoke": _invoke,
    "tags": _tags,
    "function": lambda markup, body: _FUNCTION_TAGS.calls(body),
    "arg_pairs": lambda markup, body: _ARGUMENT_PAIRS.calls(body),
}
"""The grammars of a section; each gives its calls, or None (or raises ValueError) for what is none of its kind."""
