"""providers.yaml -> a frozen Config, or every mistake in it at once.

Rules:
* A configuration is read whole or refused whole; nothing here keeps a state.
* Reading is bounded, whatever the file holds (document.py has the limits).
* No message and no ``repr`` holds a secret.
* The only package that imports yaml. It knows no adapter and no server.
"""

from __future__ import annotations

import stat
from collections.abc import Collection, Mapping
from pathlib import Path

from gateway.config.document import MapNode, read, read_file
from gateway.config.fields import FieldReader
from gateway.config.groups import idle_names, read_groups
from gateway.config.mistakes import NOWHERE, ConfigError, Mistake, Mistakes
from gateway.config.models import overflow_warnings, read_models
from gateway.config.presets import built_in
from gateway.config.providers import read_providers
from gateway.config.server import read_server
from gateway.config.settings import Config, ServerSettings
from gateway.profile import APIS

__all__ = ("Config", "ConfigError", "Mistake", "ServerSettings", "demo", "is_loopback", "load", "loads")

_SECTIONS = ("server", "providers", "models", "groups")
_DEMO = b"""
providers: {echo: {}}
models: {default: echo/echo, sonnet: echo/echo, opus: echo/echo, haiku: echo/echo, fable: echo/echo}
"""


def load(path: Path, env: Mapping[str, str], apis: Collection[str] = APIS) -> Config:
    """The configuration in ``path``; ``env`` gives the variables, ``apis`` the adapters there are.

    Raises ConfigError, also for a file that is missing or cannot be read.
    """
    mistakes = Mistakes(str(path))
    try:
        data, mode = read_file(path, mistakes)
    except FileNotFoundError:
        hint = "make one: the two sections 'providers' and 'models' are enough; docs/configuration.md has an example"
        raise mistakes.error(NOWHERE, "there is no such file", hint) from None
    others_read = bool(mode & (stat.S_IRGRP | stat.S_IROTH))
    return _config(data, mistakes, env, apis, path, others_read)


def loads(
    text: bytes, name: str, env: Mapping[str, str], apis: Collection[str] = APIS, directory: Path | None = None
) -> Config:
    """As ``load``, for a text; ``name`` stands for the file in messages, ``directory`` for its place."""
    return _config(text, Mistakes(name), env, apis, None, False, directory)


def demo() -> Config:
    """Every name goes to the embedded API that answers from the prompt; no key, no network."""
    return loads(_DEMO, "demo", {})


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on ``host``."""
    return host in ("localhost", "::1") or (host.startswith("127.") and host.replace(".", "").isdigit())


def _config(
    data: bytes,
    mistakes: Mistakes,
    env: Mapping[str, str],
    apis: Collection[str],
    path: Path | None,
    others_read: bool,
    directory: Path | None = None,
) -> Config:
    presets = built_in()
    reader = FieldReader(mistakes, env, directory or (path.parent if path else Path()), apis)
    document = read(data, mistakes)
    if not isinstance(document, MapNode):
        raise mistakes.error(document.mark, "the file has no sections", "it needs 'providers' and 'models'")
    root = reader.section(document, "the file", _SECTIONS)
    server = read_server(root.entries.get("server"), reader)
    if "providers" not in root.entries:
        mistakes.add(root.mark, "'providers' is missing", "add e.g. 'providers: {echo: {}}'")
    sections, warnings = read_providers(root.entries.get("providers"), reader, presets)
    names = read_models(root.entries.get("models"), root.mark, reader, sections, presets)
    written = read_groups(root.entries.get("groups"), reader, names)
    mistakes.raise_if_any()
    table = names.table(server.direct_models)
    groups = {each.name: each.group(table) for each in written}
    warnings += overflow_warnings(table) + idle_names(written, groups)
    if others_read and reader.inline:
        warnings.append(
            f"other users can read this file, and it holds {', '.join(reader.inline)}: chmod 600, or use ${{VAR}}"
        )
    if not server.token and not is_loopback(server.host):
        hint = "without client keys (gateway keys add) it will not start"
        warnings.append(f"server.host is open to the network and server.token is empty: {hint}")
    return Config(
        server=server,
        table=table,
        providers={name: section.provider for name, section in sections.items() if section},
        groups=groups,
        warnings=tuple(warnings),
        path=path,
        files=tuple(sorted(reader.files)),
        secrets=frozenset(reader.secrets),
    )
