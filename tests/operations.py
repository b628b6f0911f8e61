"""Counts what code does, in units that do not depend on the machine: one for each step, one for each character copied
or looked at, one for each item walked over.

``metered()`` imports the gateway anew with its syntax tree rewritten: every call of something built in, every sum,
slice, comparison, display and loop charges the size of what it touches. A clock would tell the same, only less
reliably; counting lines would miss what C does (``text += piece`` is one line, and copies the whole text).

What CPython happens to do in place is charged as the copy that it is elsewhere: code may not count on it.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import operator
import re
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

PREFIX = "_metered_"
SIZED = (str, bytes, bytearray, list, tuple, dict, set, frozenset, deque)
LAZY = {map, filter, zip, enumerate, reversed, range}
TEXT = (str, bytes, bytearray)
CONSTANT = frozenset(
    (
        *("append", "appendleft", "popleft", "popitem", "get", "setdefault", "add", "discard", "clear", "items"),
        *("keys", "values", "len", "isinstance", "issubclass", "getattr", "setattr", "hasattr", "callable", "iter"),
        *("next", "id", "start", "end", "isdisjoint", "__setattr__", "__new__"),
    )
)
"""What built-in functions and methods of these names cost does not depend on any size."""


class Meter:
    """What was counted since it was made."""

    total = 0


METER = Meter()


def size(value: Any) -> int:
    return len(value) if isinstance(value, SIZED) else 0


def charge_result(value: Any) -> Any:
    """Something of this size was made."""
    METER.total += 1 + size(value)
    return value


def charge_step() -> None:
    METER.total += 1


def charge_items(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        METER.total += 1
        yield item


def charge_in(item: Any, container: Any) -> bool:
    found = item in container
    METER.total += 1
    if isinstance(container, TEXT):
        METER.total += container.find(item) + 1 if found else len(container)  # type: ignore[arg-type]
    elif isinstance(container, list | tuple | deque):
        METER.total += next((place for place, other in enumerate(container) if other is item), len(container))
    return found


def charge_equal(one: Any, other: Any) -> bool:
    METER.total += 1
    if size(one) == size(other):
        METER.total += size(one)
    return bool(one == other)


def charge_add(target: Any, value: Any) -> Any:
    """``target += value``"""
    METER.total += 1 + size(value)
    result = operator.iadd(target, value)
    if result is not target:
        METER.total += size(result)
    return result


def charge_call(function: Any, /, *args: Any, **kwargs: Any) -> Any:
    if isinstance(function, types.BuiltinFunctionType):
        name, owner = function.__name__, function.__self__
        METER.total += 1
        if name in CONSTANT and not isinstance(owner, re.Pattern):
            return function(*args, **kwargs)
        if isinstance(owner, types.ModuleType):
            owner = None
    elif is_ours(function):
        return function(*args, **kwargs)
    else:
        name, owner = getattr(function, "__name__", ""), getattr(function, "__self__", None)
    before = size(owner)
    # orjson.Fragment takes no keywords, not even none.
    result = function(*args, **kwargs) if kwargs else function(*args)
    METER.total += cost_of(name, function, owner, before, args, result)
    return result


def is_ours(function: Any) -> bool:
    """Whether the body charges for itself."""
    inner = getattr(function, "__func__", function)
    if isinstance(inner, types.FunctionType):
        return METER_NAME in inner.__globals__
    return (getattr(inner, "__module__", None) or "").startswith("gateway")


def cost_of(name: str, function: Any, owner: Any, before: int, args: Sequence[Any], result: Any) -> int:
    """``owner``: what a method was called on; ``before``: its size then."""
    if isinstance(owner, re.Pattern):
        return cost_of_pattern(name, args, result)
    if isinstance(function, type) and function in LAZY:
        return sum(map(size, args)) if function in (map, filter) else 0
    if name in ("extend", "update"):
        return sum(map(size, args))
    if isinstance(owner, TEXT):
        return cost_of_text(name, owner, args, result)
    if name == "pop":
        return before if args and not isinstance(owner, dict) else 0
    if isinstance(owner, set | dict) and name == "remove":
        return 0
    if owner is not None and not isinstance(owner, type):
        return before + sum(map(size, args)) + size(result)
    return sum(map(size, args)) + size(result)


def cost_of_text(name: str, owner: Any, args: Sequence[Any], result: Any) -> int:
    if name in ("find", "index"):
        start = args[1] if len(args) > 1 else 0
        end = min(args[2], len(owner)) if len(args) > 2 else len(owner)
        return max(0, (result if result >= 0 else end) - start)
    if name in ("rfind", "rindex"):
        return len(owner) - max(result, 0)
    if name in ("startswith", "endswith"):
        return max(map(size, args[0])) if isinstance(args[0], tuple) else size(args[0])
    if name in ("strip", "lstrip", "rstrip", "removeprefix", "removesuffix"):
        return 0 if result is owner else len(owner)
    if name == "join":
        return size(result) + size(args[0])
    return 0 if name == "isascii" and isinstance(owner, str) else len(owner) + size(result)


def cost_of_pattern(name: str, args: Sequence[Any], result: Any) -> int:
    text = args[1] if name in ("sub", "subn") else args[0]
    start = args[1] if name not in ("sub", "subn", "split") and len(args) > 1 else 0
    if isinstance(result, re.Match):
        return result.end() - start
    return len(text) - start


# -- rewriting -------------------------------------------------------------------------------------------

CHARGES: dict[str, Callable[..., Any]] = {
    f"{PREFIX}{function.__name__}": function
    for function in (charge_result, charge_step, charge_items, charge_in, charge_equal, charge_add, charge_call)
}
METER_NAME = f"{PREFIX}{charge_call.__name__}"
UNTOUCHED = {"super", "locals", "globals"}
"""They look at the frame that calls them."""


def charged(function: Callable[..., Any], *args: ast.expr, keywords: list[ast.keyword] | None = None) -> ast.Call:
    name = ast.Name(f"{PREFIX}{function.__name__}", ast.Load())
    return ast.Call(name, list(args), keywords or [])


class Charging(ast.NodeTransformer):
    """Rewrites the bodies of functions; decorators, annotations and what runs once stay as they are."""

    def __init__(self) -> None:
        self.depth = 0

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if self.depth or isinstance(node, ast.Module | ast.ClassDef | ast.If):
            return super().generic_visit(node)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.body = [self.visit(statement) for statement in node.body]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.depth += 1
        node.body = [ast.Expr(charged(charge_step)), *self.statements(node.body)]
        self.depth -= 1
        return node

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]

    def statements(self, body: list[ast.stmt]) -> list[ast.stmt]:
        return [self.visit(statement) for statement in body]

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        self.depth += 1
        node.body = self.visit(node.body)
        self.depth -= 1
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if self.depth and node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_While(self, node: ast.While) -> ast.AST:
        self.generic_visit(node)
        node.body.insert(0, ast.Expr(charged(charge_step)))
        return node

    def visit_For(self, node: ast.For) -> ast.AST:
        self.generic_visit(node)
        if self.depth:
            node.iter = charged(charge_items, node.iter)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        self.generic_visit(node)
        if self.depth and not node.is_async:
            node.iter = charged(charge_items, node.iter)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if self.depth == 0 or (isinstance(node.func, ast.Name) and node.func.id in UNTOUCHED):
            return node
        self.generic_visit(node)
        return charged(charge_call, node.func, *node.args, keywords=node.keywords)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        return charged(charge_result, node) if self.depth else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return charged(charge_result, node) if self.depth else node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        sliced = isinstance(node.slice, ast.Slice) and isinstance(node.ctx, ast.Load)
        return charged(charge_result, node) if self.depth and sliced else node

    def display(self, node: Any) -> ast.AST:
        self.generic_visit(node)
        loaded = isinstance(getattr(node, "ctx", ast.Load()), ast.Load)
        unpacks = any(key is None for key in node.keys) if isinstance(node, ast.Dict) else any(
            isinstance(item, ast.Starred) for item in node.elts
        )
        return charged(charge_result, node) if self.depth and loaded and unpacks else node

    visit_List = visit_Tuple = visit_Set = visit_Dict = display

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        self.generic_visit(node)
        if not self.depth or not isinstance(node.op, ast.Add):
            return node
        loaded = ast.parse(ast.unparse(node.target), mode="eval").body
        return ast.Assign([node.target], charged(charge_add, loaded, node.value))

    def visit_Delete(self, node: ast.Delete) -> Any:
        sliced = [
            ast.Expr(charged(charge_result, target.value))
            for target in node.targets
            if self.depth and isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Slice)
        ]
        return [*sliced, node]

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if not self.depth or len(node.ops) != 1:
            return node
        kind = type(node.ops[0])
        if kind in (ast.In, ast.NotIn):
            made: ast.expr = charged(charge_in, node.left, node.comparators[0])
        elif kind in (ast.Eq, ast.NotEq):
            made = charged(charge_equal, node.left, node.comparators[0])
        else:
            return node
        return ast.UnaryOp(ast.Not(), made) if kind in (ast.NotIn, ast.NotEq) else made


def rewritten(source: str | bytes, file: str) -> types.CodeType:
    tree = Charging().visit(ast.parse(source, file))
    return compile(ast.fix_missing_locations(tree), file, "exec", dont_inherit=True)


def define(source: str) -> dict[str, Any]:
    """The names that ``source`` defines, metered."""
    names: dict[str, Any] = {"__name__": "gateway.sample", **CHARGES}
    exec(rewritten(source, "sample"), names)
    return names


class Loader(importlib.machinery.SourceFileLoader):
    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> types.CodeType:  # type: ignore[override]
        return rewritten(data, path)

    def get_code(self, fullname: str) -> types.CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def exec_module(self, module: types.ModuleType) -> None:
        vars(module).update(CHARGES)
        super().exec_module(module)


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if not name.startswith("gateway."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            spec.loader = Loader(name, spec.origin)
        return spec


def ours() -> list[str]:
    return [name for name in sys.modules if name.startswith("gateway.")]


@contextmanager
def metered() -> Iterator[Callable[[str], types.ModuleType]]:
    """Yields ``import_module`` for metered modules; the others stay out of the way until the end."""
    package = sys.modules["gateway"]
    kept = {name: sys.modules.pop(name) for name in ours()}
    attributes = dict(vars(package))
    finder = Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield import_module
    finally:
        sys.meta_path.remove(finder)
        for name in ours():
            del sys.modules[name]
        sys.modules.update(kept)
        vars(package).clear()
        vars(package).update(attributes)


def operations(work: Callable[[], Any]) -> int:
    """What ``work`` costs."""
    before = METER.total
    work()
    return METER.total - before
