"""The house keeps its shape: which part imports which, what no part contains, how large a piece may be.

The reasons are in docs and CONTRIBUTING.md; the lists below are the law. A part may import what its
row names, and itself. Imports inside functions and under TYPE_CHECKING count too.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from tests.cli.gateway_command import run, serving, written

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gateway"
SOURCES = sorted(PACKAGE.rglob("*.py"))

MAY_IMPORT = {
    "errors": set(),
    "profile": {"errors"},
    "access": {"errors"},
    "routing": {"errors", "profile", "access"},
    "ledger": {"errors", "profile", "routing", "access"},
    "resilience": {"errors", "profile", "routing"},
    "config": {"errors", "profile", "routing", "resilience", "access"},
    "wire": {"errors"},
    "translate": {"errors", "profile", "wire"},
    "adapters": {"errors", "profile", "routing", "translate", "wire"},
    "file_watch": {"config"},
    "reload": {"errors", "profile", "routing", "config", "access", "file_watch"},
    "env_file": {"config"},
    "server": {
        *("errors", "profile", "routing", "config", "reload", "resilience", "translate", "wire", "adapters"),
        *("access", "ledger", "file_watch"),
    },
    "cli": {
        *("errors", "profile", "routing", "config", "env_file", "reload", "translate", "wire", "adapters", "server"),
        *("access", "ledger", "file_watch"),
    },
}
ONLY_IN = {
    "aiohttp": {"server"},
    "asyncio": {"server"},
    "backoff": {"resilience"},
    "uvloop": {"server"},
    "yaml": {"config"},
    "click": {"cli"},
    "sqlite3": {"ledger"},
    "prometheus_client": {"server"},
}
PURE = {"wire", "translate", "adapters", "resilience", "access"}
IMPURE = {
    *("asyncio", "concurrent", "datetime", "http", "logging", "multiprocessing", "os", "pathlib", "random"),
    *("secrets", "select", "signal", "socket", "ssl", "subprocess", "tempfile", "threading", "time", "uuid"),
}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "core", "misc", "tools"}
API_OWNERS = {"anthropic", "openai", "ollama", "echo"}
"""Providers whose name is also the name of a wire format; prose may say it, code may not compare with it."""
API_IDENTIFIERS = {"anthropic", "ollama", "echo"}
ENGLISH_WORDS = {"together"}
"""Providers named like a word: only a literal of exactly that name is found."""
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def part_of(path: Path) -> str:
    """``translate`` for gateway/translate/writer.py, ``errors`` for gateway/errors.py, "" for the package itself."""
    first = path.relative_to(PACKAGE).parts[0]
    name = first.removesuffix(".py")
    return "" if name == "__init__" else name


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of every import, relative ones resolved."""
    package = ["gateway", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*prefix, *([node.module] if node.module else [])])
            yield node.lineno, module
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def our_imports(path: Path) -> Iterator[tuple[int, str]]:
    for line, name in imports_of(path):
        pieces = name.split(".")
        if pieces[0] == "gateway" and len(pieces) > 1:
            yield line, pieces[1]


def outside_imports(path: Path) -> Iterator[tuple[int, str]]:
    for line, name in imports_of(path):
        top = name.split(".")[0]
        if top != "gateway":
            yield line, top


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def listed(findings: list[str]) -> str:
    return "\n  ".join(["", *findings])


def test_every_part_is_in_the_table() -> None:
    assert {part_of(path) for path in SOURCES} - {"", "__main__"} == set(MAY_IMPORT)


def test_imports_point_one_way() -> None:
    wrong = [
        f"{place(path, line)} {part_of(path)} imports {other}"
        for path in SOURCES
        if part_of(path) in MAY_IMPORT
        for line, other in our_imports(path)
        if other in MAY_IMPORT and other not in MAY_IMPORT[part_of(path)] | {part_of(path)}
    ]
    assert not wrong, listed(wrong)


def test_libraries_stay_in_their_part() -> None:
    wrong = [
        f"{place(path, line)} imports {name}, which belongs in {', '.join(sorted(ONLY_IN[name]))}/"
        for path in SOURCES
        for line, name in outside_imports(path)
        if name in ONLY_IN and part_of(path) not in ONLY_IN[name]
    ]
    assert not wrong, listed(wrong)


def test_translation_is_pure() -> None:
    wrong = [
        f"{place(path, line)} imports {name}"
        for path in SOURCES
        if part_of(path) in PURE
        for line, name in outside_imports(path)
        if name in IMPURE
    ]
    assert not wrong, listed(wrong)


def test_dependencies_are_declared_and_used() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[^\w-]", line, maxsplit=1)[0].lower() for line in project["dependencies"]}
    distributions = packages_distributions()
    used = {
        distributions.get(name, [name])[0].lower().replace("_", "-")
        for path in SOURCES
        for _, name in outside_imports(path)
        if name not in sys.stdlib_module_names
    }
    assert used == declared


def provider_names() -> set[str]:
    profiles = yaml.safe_load((PACKAGE / "profiles.yaml").read_text(encoding="utf-8"))
    return set(profiles.get("providers", profiles))


def test_no_provider_is_named_in_code() -> None:
    names = provider_names()
    assert len(names) >= 10, names
    telling = sorted(map(re.escape, names - API_OWNERS - ENGLISH_WORDS))
    pattern = re.compile(rf"\b({'|'.join(telling)})\b", re.IGNORECASE)
    wrong = [
        f"{place(path, number)} names {match[0]}: put the quirk into a Profile field"
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (match := pattern.search(line))
    ]
    wrong += [
        f"{place(path, node.lineno)} has the literal {node.value!r}"
        for path in SOURCES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant) and node.value in names - API_IDENTIFIERS
    ]
    assert not wrong, listed(wrong)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_size(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"{lines} lines"
    long = [
        f"{place(path, node.lineno)} {node.name}: {length} lines"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not long, listed(long)


def test_modules_say_what_they_are() -> None:
    silent = [str(path.relative_to(ROOT)) for path in SOURCES if not ast.get_docstring(tree_of(path))]
    assert not silent, listed(silent)


def test_names_say_what_is_inside() -> None:
    vague = [
        str(path.relative_to(ROOT))
        for path in [*PACKAGE.rglob("*"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]
        if path.stem in FORBIDDEN_NAMES and (path.is_dir() or path.suffix == ".py")
    ]
    assert not vague, listed(vague)


def shipped_texts() -> Iterator[Path]:
    """What a reader or an installer gets: code, docs, build files; not recordings and not the tests."""
    yield from SOURCES
    yield from PACKAGE.rglob("*.yaml")
    for folder in ("docs", "bench", "deploy", "requirements", ".ci"):
        yield from (path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc")
    yield from (path for path in ROOT.iterdir() if path.suffix in {".md", ".toml", ".yaml"} or path.name == "Makefile")


def test_nothing_of_one_machine_is_written_down() -> None:
    machine = re.compile(r"(?<![\w.~/-])/(?:work|tmp|root|home|Users)/|pypi\.org/simple|--index-url|--find-links|file://")
    wrong = [
        f"{place(path, number)} {match[0]}"
        for path in shipped_texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (match := machine.search(line))
    ]
    assert not wrong, listed(wrong)


@pytest.mark.parametrize("lock", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_every_requirement_is_pinned_with_hashes(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    requirements = re.sub(r"\\\n\s*", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    loose = [line for line in requirements if not re.fullmatch(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)]
    assert requirements
    assert not loose, listed(loose)


def test_a_command_starts_without_the_server() -> None:
    """``gateway check`` and ``--help`` must not pay for aiohttp; nor must an import error there break them."""
    program = "import sys, gateway.cli; print(*sorted({'aiohttp', 'asyncio', 'yaml', 'uvloop'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


NOT_TO_SERVE = {
    "of Python": "ctypes difflib importlib.metadata multiprocessing pdb pydoc sqlite3 tomllib unittest xml",
    "of others": "backoff cffi prometheus_client pydantic requests rich",
    "not wanted of aiohttp (gateway/server/lean_aiohttp.py)": "frozenlist._frozenlist",
    "of other commands": "gateway.config.overrides gateway.config.rewrite gateway.cli.check gateway.cli.explain "
    "gateway.config.key_file_edit gateway.cli.keys gateway.cli.usage gateway.ledger.report "
    "gateway.cli.routes gateway.server.live_asker gateway.server.live_check gateway.server.live_probes",
    "of wires that nobody uses": "gateway.adapters.openai_chat gateway.adapters.openai_responses "
    "gateway.adapters.ollama gateway.adapters.anthropic_messages gateway.translate.chat_request "
    "gateway.translate.chat_stream gateway.translate.responses_request gateway.translate.responses_stream "
    "gateway.translate.ollama_request gateway.translate.ollama_stream gateway.translate.passthrough_request "
    "gateway.translate.tool_schema gateway.translate.leaked_calls",
    "for the first error": "gateway.translate.error_wording gateway.translate.rejected_parameter",
}
"""Why not -> modules."""
NOT_TO_CHECK = {"aiohttp", "asyncio", "uvloop", "importlib.metadata", "gateway.server", "gateway.adapters"}


def imported(said: list[str]) -> set[str]:
    """The modules that a process imported, by what PYTHONVERBOSE makes it say."""
    return {line.split("'")[1] for line in said if line.startswith("import '")}


def test_serving_imports_only_what_it_needs(tmp_path: Path) -> None:
    """What only some users need is imported when they need it: a module costs a millisecond and 40 KB."""
    with serving("--demo", cwd=tmp_path, env={"PYTHONVERBOSE": "1"}) as gateway:
        assert gateway.ask("hello") == "echo: hello"
    found = imported(gateway.err)
    assert {"gateway.adapters.echo", "aiohttp.web"} <= found
    wrong = [f"{name} is {why}" for why, names in NOT_TO_SERVE.items() for name in names.split() if name in found]
    assert not wrong, listed(wrong)


def test_what_is_not_to_be_served_exists() -> None:
    """A module that was renamed would be looked for in vain."""
    ours = {name for names in NOT_TO_SERVE.values() for name in names.split() if name.startswith("gateway.")}
    gone = sorted(name for name in ours if not (ROOT / f"{name.replace('.', '/')}.py").exists())
    assert not gone


def test_a_file_is_checked_without_the_server(tmp_path: Path) -> None:
    file = written(tmp_path, "providers: {lab: {api: openai-chat, base_url: http://h}}\nmodels: {m: lab/m}\n")
    ended = run("check", file, cwd=tmp_path, env={"PYTHONVERBOSE": "1"})
    assert ended.status == 0
    found = imported(ended.err.splitlines())
    assert "gateway.config" in found
    assert not found & NOT_TO_CHECK
