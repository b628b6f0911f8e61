"""The watch on providers.yaml: every way in which a file changes, and none of the ways in which it breaks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config import Config, ConfigError, loads
from gateway.env_file import read_env_file
from gateway.file_watch import PATIENCE
from gateway.reload import Reloader, describe_change

GOOD = "providers: {echo: {}}\nmodels: {m: echo/one}\n"
OTHER = "providers: {echo: {}}\nmodels: {m: echo/two}\n"
BAD = "providers: {echo: {}}\nmodels: {m: ehco/one}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "providers.yaml"
    path.write_text(GOOD)
    return path


@pytest.fixture
def reloader(path: Path) -> Reloader:
    reloader = Reloader(path, dict)
    assert goes_to(reloader.start()) == "echo/one"
    assert reloader.poll() is None
    return reloader


def goes_to(result: Config | ConfigError | None) -> str:
    assert isinstance(result, Config)
    return result.table.resolve("m").targets[0].name


def settled(reloader: Reloader) -> Config | ConfigError | None:
    """What the second poll after a change says; the first one waits for the file to rest."""
    assert reloader.poll() is None
    return reloader.poll()


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


def by_rename(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def by_link(path: Path, text: str) -> None:
    version = path.parent / f"version-{len(list(path.parent.iterdir()))}"
    version.write_text(text)
    link = path.with_suffix(".link")
    link.symlink_to(version)
    link.rename(path)


WAYS = (in_place, by_rename, by_link)


@pytest.mark.parametrize("write", WAYS)
def test_a_change_is_taken_up_once(reloader: Reloader, path: Path, write: Callable[[Path, str], None]) -> None:
    write(path, OTHER + "# longer\n")
    assert goes_to(settled(reloader)) == "echo/two"
    assert reloader.poll() is None
    write(path, GOOD)
    assert goes_to(settled(reloader)) == "echo/one"


@pytest.mark.parametrize("write", WAYS)
def test_the_same_bytes_are_no_change(reloader: Reloader, path: Path, write: Callable[[Path, str], None]) -> None:
    write(path, GOOD)
    os.utime(path, ns=(1, 1))
    assert settled(reloader) is None
    assert reloader.poll() is None


def test_a_change_of_the_same_size_is_seen(reloader: Reloader, path: Path) -> None:
    in_place(path, OTHER)
    os.utime(path, ns=(1, 1))
    assert goes_to(settled(reloader)) == "echo/two"


@pytest.mark.parametrize("bad", [BAD, "", "providers: {echo", GOOD[:25], "\x00"])
def test_a_bad_file_is_reported_once(reloader: Reloader, path: Path, bad: str) -> None:
    in_place(path, bad)
    assert isinstance(settled(reloader), ConfigError)
    assert reloader.stale
    assert reloader.poll() is None
    assert reloader.poll() is None


@pytest.mark.parametrize("write", WAYS)
def test_the_old_bytes_after_a_bad_file_are_good_news(
    reloader: Reloader, path: Path, write: Callable[[Path, str], None]
) -> None:
    write(path, BAD)
    assert isinstance(settled(reloader), ConfigError)
    write(path, GOOD)
    os.utime(path, ns=(1, 1))
    assert goes_to(settled(reloader)) == "echo/one"
    assert not reloader.stale


def test_deletion_is_reported_once_and_a_new_file_is_taken(reloader: Reloader, path: Path) -> None:
    path.unlink()
    result = settled(reloader)
    assert isinstance(result, ConfigError)
    assert "there is no such file" in str(result)
    assert reloader.poll() is None
    path.write_text(OTHER)
    assert goes_to(settled(reloader)) == "echo/two"


def test_a_file_replaced_by_a_directory(reloader: Reloader, path: Path) -> None:
    path.unlink()
    path.mkdir()
    assert "this is not a file" in str(settled(reloader))


def test_a_file_that_is_being_written_is_not_read(reloader: Reloader, path: Path) -> None:
    in_place(path, "")
    assert reloader.poll() is None
    in_place(path, OTHER[:30])
    assert reloader.poll() is None
    in_place(path, OTHER + "\n")
    assert goes_to(settled(reloader)) == "echo/two"


def test_a_file_that_never_rests_is_read_in_the_end(reloader: Reloader, path: Path) -> None:
    results = []
    for number in range(PATIENCE):
        in_place(path, OTHER + "#" * (number + 1))
        results.append(reloader.poll())
    assert results[:-1] == [None] * (PATIENCE - 1)
    assert goes_to(results[-1]) == "echo/two"


def test_a_change_taken_back_in_time_is_none(reloader: Reloader, path: Path) -> None:
    before = path.stat()
    os.utime(path, ns=(1, 1))
    assert reloader.poll() is None
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert reloader.poll() is None
    assert reloader.poll() is None


def test_a_forced_reload_reads_the_variables_anew(path: Path) -> None:
    env = {"MODEL": "one"}
    path.write_text(GOOD.replace("echo/one", '"echo/${MODEL}"'))
    reloader = Reloader(path, lambda: env)
    assert goes_to(reloader.start()) == "echo/one"
    env["MODEL"] = "two"
    assert reloader.poll() is None
    assert goes_to(reloader.reload()) == "echo/two"


def test_a_key_file_is_watched_too(path: Path) -> None:
    key = path.with_name("key")
    key.write_text("old-key")
    path.write_text("providers: {xai: {api_key: '${file:key}'}}\nmodels: {m: xai/x}\n")
    reloader = Reloader(path, dict)
    assert reloader.start().providers["xai"].api_key == "old-key"
    assert reloader.poll() is None
    key.write_text("newer-key")
    result = settled(reloader)
    assert isinstance(result, Config)
    assert result.providers["xai"].api_key == "newer-key"
    key.unlink()
    result = settled(reloader)
    assert isinstance(result, Config)
    assert result.providers["xai"].missing_key == "key"


def test_a_bad_file_at_the_start(path: Path) -> None:
    path.write_text(BAD)
    with pytest.raises(ConfigError):
        Reloader(path, dict).start()


def test_a_file_without_permission(reloader: Reloader, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_place(path, OTHER + "#")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "cannot be read: Permission denied" in str(settled(reloader))


# -- in words ------------------------------------------------------------------------------------------

BEFORE = """
providers: {xai: {api_key: "${XAI}"}, echo: {}, lab: {api: openai-chat, base_url: http://h/v1}}
models: {sonnet: [xai/a, lab/b], haiku: echo/x, opus: echo/x, "gpt-*": xai, default: sonnet}
"""
AFTER = """
server: {port: 5, token: new-token, direct_models: false}
providers: {xai: {api_key: "${XAI}"}, lab: {api: openai-chat, base_url: http://other/v1}, more: {api: echo}}
models:
  haiku: {use: more/x, max_tokens: 5}
  "gpt-*": {use: xai, max_tokens: 5}
  sonnet: xai/a
  fable: more/x
  default: sonnet
"""


def read(text: str, **env: str) -> Config:
    return loads(text.encode(), "f", env)


def test_describe_change() -> None:
    assert describe_change(read(BEFORE, XAI="old-key"), read(AFTER, XAI="new-key")) == [
        "server.port changed: takes effect after a restart",
        "server.token changed",
        "provider xai: another key",
        "provider echo: removed",
        "provider lab: another address",
        "provider more: added",
        "sonnet: xai/a, lab/b → xai/a",
        "haiku: echo/x → more/x",
        "opus: echo/x → nothing",
        "default: xai/a, lab/b → xai/a",
        "gpt-*: xai/* with other settings",
        "fable: nothing → more/x",
        "provider/model by clients: not allowed",
        "the order of the names changed",
    ]


def test_describe_change_of_keys() -> None:
    without, with_key = read(BEFORE), read(BEFORE, XAI="key")
    assert describe_change(without, with_key) == ["provider xai: ready"]
    assert describe_change(with_key, without) == ["provider xai: no key (XAI)"]
    assert describe_change(with_key, read(BEFORE, XAI="key")) == []
    with_default = read(BEFORE.replace("${XAI}", "${XAI:-}"))
    assert describe_change(with_default, read(BEFORE.replace("${XAI}", "${XAI:-}"))) == []
    forbidden = read("server: {direct_models: false}" + BEFORE)
    assert describe_change(forbidden, without) == ["provider/model by clients: allowed"]


ROUTES = "models: {{sonnet: {{use: xai/a, on_overflow: {overflow}}}}}"
PLACES = "providers: {{xai: {{api_key: {keys}}}, lab: {{api: openai-chat, {lab}}}}}\n"
TWO = "endpoints: [{base_url: 'http://a'}, {base_url: 'http://b'}]"


def places(keys: str = "[key-1, key-2]", lab: str = TWO, overflow: str = "lab/b", retry: str = "{}") -> Config:
    text = f"server: {{retry: {retry}}}\n" + PLACES.format(keys=keys, lab=lab) + ROUTES.format(overflow=overflow)
    return read(text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"retry": "{budget: 0.5}"}, ["server.retry changed"]),
        ({"keys": "[key-1, key-3]"}, ["provider xai: other keys or addresses"]),
        ({"keys": "[key-3, key-2]"}, ["provider xai: other keys or addresses"]),
        ({"keys": "key-1"}, ["provider xai: other keys or addresses"]),
        ({"lab": TWO.replace("//b", "//c")}, ["provider lab: other keys or addresses"]),
        ({"lab": TWO.replace("//a", "//c")}, ["provider lab: other keys or addresses"]),
        ({"overflow": "lab/c"}, ["sonnet: xai/a; on overflow: lab/b → xai/a; on overflow: lab/c"]),
        ({"overflow": "[lab/b, lab/c]"}, ["sonnet: xai/a; on overflow: lab/b → xai/a; on overflow: lab/b, lab/c"]),
        ({"overflow": "{use: lab/b, max_tokens: 5}"}, ["sonnet: xai/a; on overflow: lab/b with other settings"]),
        ({}, []),
    ],
)
def test_describe_change_of_what_helps_when_one_fails(change: dict[str, str], words: list[str]) -> None:
    assert describe_change(places(), places(**change)) == words


# -- the environment file ------------------------------------------------------------------------------

KEYED = "providers: {xai: {api_key: '${XAI}'}}\nmodels: {m: xai/x}\n"


@pytest.fixture
def env_file(path: Path) -> Path:
    path.write_text(KEYED)
    file = path.with_name(".env")
    file.write_text("XAI=key-one\n")
    return file


def with_env_file(path: Path, env_file: Path) -> Reloader:
    return Reloader(path, lambda: {"XAI": "of-the-process", **read_env_file(env_file)}, env_files=[env_file])


def key_of(result: Config | ConfigError | None) -> str | None:
    assert isinstance(result, Config)
    return result.providers["xai"].api_key


@pytest.mark.parametrize("write", WAYS)
def test_a_change_of_the_environment_file_is_one(
    path: Path, env_file: Path, write: Callable[[Path, str], None]
) -> None:
    reloader = with_env_file(path, env_file)
    assert key_of(reloader.start()) == "key-one", "it wins over the process"
    assert reloader.poll() is None
    write(env_file, "XAI=key-number-two\n")
    assert key_of(settled(reloader)) == "key-number-two"
    assert reloader.poll() is None
    assert {"key-one", "key-number-two"} <= reloader.secrets
    write(env_file, "XAI=key-number-two\n")
    assert settled(reloader) is None, "the same bytes"


def test_a_bad_environment_file_keeps_the_configuration_and_is_named(path: Path, env_file: Path) -> None:
    reloader = with_env_file(path, env_file)
    reloader.start()
    env_file.write_text("XAI=key-one\nXAI='key-three\n")
    result = settled(reloader)
    assert isinstance(result, ConfigError)
    assert str(result).startswith(f"{env_file}:2:1: ")
    assert "key-three" not in str(result)
    assert reloader.poll() is None, "told once"
    env_file.unlink()
    assert "there is no such file" in str(settled(reloader))
    env_file.write_text("XAI=key-four\n")
    assert key_of(settled(reloader)) == "key-four"


def test_a_bad_environment_file_at_the_start(path: Path, env_file: Path) -> None:
    env_file.write_text("XAI")
    reloader = with_env_file(path, env_file)
    with pytest.raises(ConfigError):
        reloader.start()


def test_all_that_is_named_is_watched_together(path: Path, env_file: Path) -> None:
    """A file that is named later must not make a change of the others go unseen."""
    reloader = with_env_file(path, env_file)
    reloader.start()
    key = path.with_name("key")
    key.write_text("key-in-a-file")
    path.write_text(KEYED.replace("${XAI}", "${file:key}"))
    assert reloader.poll() is None
    assert key_of(reloader.poll()) == "key-in-a-file"
    key.write_text("key-in-a-new-file")
    assert key_of(settled(reloader)) == "key-in-a-new-file"
    env_file.write_text("XAI=key-of-no-use\n")
    assert isinstance(settled(reloader), Config)
    assert reloader.poll() is None
