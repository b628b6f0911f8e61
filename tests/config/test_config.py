"""What a right file becomes: providers, keys, addresses, layers, aliases, server settings, warnings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.config import Config, ConfigError, ServerSettings, demo, is_loopback, load, loads
from gateway.config.addresses import host_keys, normal_address, split_address
from gateway.config.mistakes import ConfigError as Refused
from gateway.config.presets import built_in, read_presets
from gateway.profile import APIS, PROFILE_FIELDS, Profile
from gateway.routing import Provider, Target
from tests.recordings import load_yaml

ROOT = Path(__file__).parents[2]
FACTS = ROOT / "tests" / "cases" / "facts.yaml"


def config(text: str, **env: str) -> Config:
    return loads(text.encode(), "providers.yaml", env)


def provider(section: str, name: str = "lab", **env: str) -> Provider:
    return config(f"providers:\n  {name}: {section}\nmodels: {{m: {name}/m}}\n", **env).providers[name]


def target(providers: str, entry: str, asked: str = "m") -> Target:
    return config(f"providers: {providers}\nmodels: {{m: {entry}}}\n").table.resolve(asked).targets[0]


# -- the example, the demo, the built-in facts ---------------------------------------------------------


def test_the_example_starts_without_any_key() -> None:
    example = load(ROOT / "providers.yaml", {})
    assert {"sonnet", "opus", "haiku", "default"} <= set(example.table.routes)
    assert [warning for warning in example.warnings if "DEEPSEEK_API_KEY is not set" in warning]
    assert example.server == ServerSettings()
    assert len((ROOT / "providers.yaml").read_text().splitlines()) <= 40


def test_what_the_example_has_commented_out_is_right_too() -> None:
    lines = (ROOT / "providers.yaml").read_text().splitlines()
    switched = [line for line in lines if not line.startswith("  haiku:")]
    text = "\n".join(line.replace("# ", "", 1) if line.startswith("  # ") else line for line in switched)
    table = config(text).table
    assert [t.name for t in table.resolve("lab/x").targets] == ["lab/x"]
    assert [t.name for t in table.resolve("haiku").targets] == ["ollama/qwen3:8b"]
    assert [t.name for t in table.resolve("gpt-7").targets] == ["openai/gpt-7"]


def test_the_demo_takes_every_name() -> None:
    for name in ("sonnet", "claude-opus-5-5[1m]", "haiku", "fable", "whatever", "default"):
        assert [t.name for t in demo().table.resolve(name).targets] == ["echo/echo"]
    assert demo().warnings == ()


@pytest.mark.parametrize("name", built_in().providers)
def test_every_preset_works_by_its_name_alone(name: str) -> None:
    preset = built_in().providers[name]
    env = {preset.key_env: "key-value"} if preset.key_env else {}
    address = preset.base_url.replace("*", "mine")
    # A form needs the user's part of the address; nothing else does.
    found = provider(f"{{base_url: {address}}}" if "*" in preset.base_url else "{}", name, **env)
    assert (found.api, found.preset) == (preset.api, name)
    assert found.api_key == ("key-value" if preset.key_env else None)
    assert preset.api in APIS
    if preset.base_url:
        parts = split_address(address)
        assert normal_address(parts, preset.api) == address == found.base_url
        assert preset.key_env is None or built_in().at(host_keys(parts)) is preset


@pytest.mark.parametrize("name", built_in().providers)
def test_every_model_pattern_of_a_preset_can_match(name: str) -> None:
    for facts in built_in().providers[name].models:
        assert facts.pattern == facts.pattern.lower()
        assert facts.profile.keys() <= PROFILE_FIELDS


@pytest.mark.parametrize(
    ("name", "api"), [(name, api) for name, preset in built_in().providers.items() for api in preset.apis]
)
def test_every_api_of_a_preset_works_by_its_name_alone(name: str, api: str) -> None:
    preset = built_in().providers[name]
    wire = preset.apis[api]
    address = wire.base_url.replace("*", "mine")
    written = f", base_url: {address}" if "*" in wire.base_url else ""
    found = target(f"{{{name}: {{api: {api}{written}}}}}", f"{name}/some-model")
    assert (found.api, found.base_url, found.provider.preset) == (api, address, name)
    assert {key: getattr(found.profile, key) for key in wire.profile if key not in ("extra_body", "error_codes")} == {
        key: value for key, value in wire.profile.items() if key not in ("extra_body", "error_codes")
    }
    for facts in wire.models:
        assert facts.pattern == facts.pattern.lower()
        assert facts.profile.keys() <= PROFILE_FIELDS - {"api"}


def test_hosts_belong_to_one_preset() -> None:
    hosts = [host for preset in built_in().providers.values() for host in preset.hosts]
    assert len(hosts) == len(set(hosts))


def test_mistakes_in_the_built_in_facts_are_mistakes() -> None:
    text = b"""
apis: {x: {colour: red}}
providers:
  a: {hosts: []}
  b: {api: x, models: {}}
  c: {api: x, models: [{match: a}, {match: [1, []], profile: {}}]}
"""
    with pytest.raises(Refused) as caught:
        read_presets(text, "profiles.yaml")
    assert len(caught.value.mistakes) == 5
    assert read_presets(b"apis: {}\n", "f").providers == {}


@pytest.mark.parametrize("row", load_yaml(FACTS), ids=lambda row: " ".join(row[:-1]))
def test_facts(row: list[Any]) -> None:
    name, model, *chosen, facts = row
    entries = [f"api: {api}" for api in chosen]
    if "*" in built_in().providers[name].base_url:
        entries.append("base_url: https://mine.openai.azure.com")
    profile = target(f"{{{name}: {{{', '.join(entries)}}}}}", f"{name}/{model}").profile
    found = {field: getattr(profile, field) for field in facts}
    assert found == {field: tuple(fact) if isinstance(fact, list) else fact for field, fact in facts.items()}


def test_every_preset_has_a_row() -> None:
    assert {row[0] for row in load_yaml(FACTS)} == set(built_in().providers) - {"echo"}


@pytest.mark.parametrize(
    ("section", "model", "url"),
    [
        ("openai: {}", "gpt-4.1", "openai-chat https://api.openai.com/v1"),
        ("openai: {}", "gpt-5.6", "openai-responses https://api.openai.com/v1"),
        ("openai: {api: openai-chat}", "gpt-5.6", "openai-chat https://api.openai.com/v1"),
        ("openai: {base_url: 'http://10.0.0.5:8000'}", "gpt-5.6", "openai-responses http://10.0.0.5:8000/v1"),
        ("azure: {base_url: https://a.openai.azure.com}", "x", "openai-responses https://a.openai.azure.com/openai/v1"),
        ("minimax: {api: anthropic}", "MiniMax-M3", "anthropic https://api.minimax.io/anthropic"),
        ("minimax: {models: {'*-m3*': {api: anthropic}}}", "MiniMax-M3", "anthropic https://api.minimax.io/anthropic"),
        ("minimax: {models: {'*-m3*': {api: anthropic}}}", "MiniMax-M2", "openai-chat https://api.minimax.io/v1"),
        ("cn: {api: anthropic, base_url: https://api.minimaxi.com}", "x", "anthropic https://api.minimaxi.com/anthropic"),
        ("cn: {base_url: https://api.minimaxi.com/anthropic}", "x", "anthropic https://api.minimaxi.com/anthropic"),
        ("qwen: {base_url: https://coding-intl.dashscope.aliyuncs.com/v1}", "x", "openai-chat https://coding-intl.dashscope.aliyuncs.com/v1"),
        ("zai: {base_url: https://api.z.ai/v1}", "x", "openai-chat https://api.z.ai/api/paas/v4"),
        ("cn: {api: anthropic, base_url: https://open.bigmodel.cn}", "x", "anthropic https://open.bigmodel.cn/api/anthropic"),
        ("openrouter: {api: anthropic}", "a/b", "anthropic https://openrouter.ai/api"),
        ("ollama: {}", "qwen3:8b", "ollama http://localhost:11434"),
        ("ollama: {base_url: 'http://10.0.0.5:11434/v1/'}", "qwen3:8b", "ollama http://10.0.0.5:11434"),
        ("ollama: {api: openai-chat}", "qwen3:8b", "openai-chat http://localhost:11434/v1"),
        ("llamacpp: {api: anthropic, base_url: 'http://10.0.0.5:8080'}", "x", "anthropic http://10.0.0.5:8080"),
    ],
)
def test_where_a_model_is_asked(section: str, model: str, url: str) -> None:
    found = target(f"{{{section}}}", f"{section.partition(':')[0]}/{model}")
    assert f"{found.api} {found.base_url}" == url


def test_error_codes_are_text() -> None:
    codes = target("{minimax: {}}", "minimax/MiniMax-M2").profile.error_codes
    assert (codes["1002"], codes["1039"]) == ("rate_limit_error", "prompt_too_long")


# -- presets and addresses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "preset"),
    [
        ("{preset: minimax, base_url: https://api.minimaxi.com/v1}", "minimax"),
        ("{api: openai-chat, base_url: https://api.minimaxi.com/v1}", "minimax"),
        ("{base_url: https://API.DeepSeek.com}", "deepseek"),
        ("{api: openai-chat, base_url: http://127.0.0.1:11434}", "ollama"),
        ("{api: openai-chat, base_url: http://127.0.0.1:11435}", None),
        ("{base_url: https://mine.openai.azure.com}", "azure"),
        ("{api: openai-chat, base_url: https://openai.azure.com.evil.example}", None),
        ("{api: openai-chat, base_url: https://api.deepseek.com.evil.example}", None),
        ("{preset: vllm, base_url: https://api.deepseek.com}", "vllm"),
    ],
)
def test_preset(section: str, preset: str | None) -> None:
    assert provider(section).preset == preset


@pytest.mark.parametrize(
    ("api", "written", "kept"),
    [
        ("openai-chat", "http://h:8000", "http://h:8000/v1"),
        ("openai-chat", "http://h:8000/", "http://h:8000/v1"),
        ("openai-chat", "http://h:8000/v1", "http://h:8000/v1"),
        ("openai-chat", "http://h:8000/v1/", "http://h:8000/v1"),
        ("openai-chat", "http://h:8000/v1/chat/completions", "http://h:8000/v1"),
        ("openai-chat", "http://h:8000/v1/chat/completions/", "http://h:8000/v1"),
        ("openai-chat", "https://api.z.ai/api/paas/v4", "https://api.z.ai/api/paas/v4"),
        ("openai-chat", "http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("openai-responses", "http://h:8000", "http://h:8000/v1"),
        ("openai-responses", "http://h:8000/v1/", "http://h:8000/v1"),
        ("openai-responses", "http://h:8000/v1/responses", "http://h:8000/v1"),
        ("ollama", "http://h:11434", "http://h:11434"),
        ("ollama", "http://h:11434/v1/", "http://h:11434"),
        ("ollama", "http://h:11434/api/chat", "http://h:11434"),
        ("anthropic", "https://h", "https://h"),
        ("anthropic", "https://h/", "https://h"),
        ("anthropic", "https://h/v1", "https://h"),
        ("anthropic", "https://h/v1/", "https://h"),
        ("anthropic", "https://h/v1/messages", "https://h"),
        ("anthropic", "https://h/anthropic/v1/messages/", "https://h/anthropic"),
        ("anthropic", "https://h/anthropic", "https://h/anthropic"),
    ],
)
def test_addresses(api: str, written: str, kept: str) -> None:
    assert provider(f'{{api: {api}, base_url: "{written}"}}').base_url == kept


def test_third_party_apis_keep_the_path() -> None:
    text = b"providers: {x: {api: special, base_url: https://h/p/}}\nmodels: {m: x/m}\n"
    assert loads(text, "f", {}, (*APIS, "special")).providers["x"].base_url == "https://h/p"


def test_an_api_that_is_not_installed() -> None:
    with pytest.raises(ConfigError, match="unknown api 'openai-chat'"):
        loads(b"providers: {groq: {api: openai-chat}}\nmodels: {m: groq/m}\n", "f", {}, ("echo",))


def test_an_api_that_a_preset_does_not_list_has_only_its_own_defaults() -> None:
    profile = target("{groq: {api: anthropic, base_url: https://api.groq.com/x}}", "groq/m").profile
    assert profile == target("{lab: {api: anthropic, base_url: http://h}}", "lab/m").profile
    found = provider("{api: anthropic, base_url: https://api.deepseek.com/anthropic}", DEEPSEEK_API_KEY="key-value")
    assert (found.api_key, found.preset) == ("key-value", "deepseek")


# -- keys ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "env", "expected"),
    [
        ('{api_key: "${K}"}', {"K": "value"}, ("value", None, "K")),
        ('{api_key: "${K}"}', {"K": " value\n"}, ("value", None, "K")),
        ('{api_key: "${K}"}', {}, (None, "K", "K")),
        ('{api_key: "${K}"}', {"K": ""}, (None, "K", "K")),
        ('{api_key: "${K}"}', {"K": "  "}, (None, "K", "K")),
        ('{api_key: "${J}${K}"}', {"J": "value"}, (None, "K", "K")),
        ('{api_key: "${K:-}"}', {}, (None, None, None)),
        ('{api_key: "${K:-spare}"}', {}, ("spare", None, "K")),
        ("{api_key: inline}", {}, ("inline", None, None)),
        ("{api_key: 12345}", {}, ("12345", None, None)),
        ("{api_key: a$$b}", {}, ("a$b", None, None)),
        ('{api_key: "${file:/no/such}"}', {}, (None, "/no/such", "/no/such")),
        ("{}", {"XAI_API_KEY": "value"}, ("value", None, "XAI_API_KEY")),
        ("{}", {}, (None, "XAI_API_KEY", "XAI_API_KEY")),
        ("", {}, (None, "XAI_API_KEY", "XAI_API_KEY")),
    ],
)
def test_keys(section: str, env: dict[str, str], expected: tuple[str | None, ...]) -> None:
    found = provider(section, "xai", **env)
    assert (found.api_key, found.missing_key, found.key_source) == expected


def test_a_customary_key_never_goes_to_another_host() -> None:
    found = provider("{base_url: http://10.0.0.5:1234}", "openai", OPENAI_API_KEY="value")
    assert (found.api_key, found.missing_key) == (None, None)


def test_a_missing_key_disables_one_provider_only() -> None:
    found = config("providers: {xai: {}, echo: {}}\nmodels: {a: xai/x, b: echo/x}\n")
    assert found.warnings == ("providers.xai is disabled: XAI_API_KEY is not set",)
    assert [t.provider.missing_key for name in "ab" for t in found.table.resolve(name).targets] == ["XAI_API_KEY", None]


def test_secrets_are_collected_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("token-value-0\n")
    text = """
server: {token: "${file:token}"}
providers:
  xai: {api_key: "${KEY}", headers: {X-Api-Key: "inline-header-1", X-Plain: plain-text-2}}
  openai: {api_key: inline-key-3}
models:
  m: {use: xai/m, options: {password: "${PASSWORD}"}, headers: {X-Other: "${HEADER}"}}
  d: xai
"""
    env = {"KEY": "env-key-4", "PASSWORD": "env-password-5", "HEADER": "env-header-6", "OTHER": "unused"}
    found = loads(text.encode(), "f", env, directory=tmp_path)
    secrets = {"token-value-0", "inline-header-1", "inline-key-3", "env-key-4", "env-password-5", "env-header-6"}
    assert found.secrets == secrets
    assert found.files == (tmp_path / "token",)
    assert found.server.token == "token-value-0"
    shown = repr(found) + str(found) + repr(found.table.resolve("xai/x"))
    assert [secret for secret in secrets if secret in shown] == []


# -- layers --------------------------------------------------------------------------------------------


def test_layers_lie_over_each_other_in_order() -> None:
    text = """
providers:
  lab:
    preset: minimax
    base_url: http://h/v1
    headers: {A: provider, B: provider}
    profile: {context_window: 1, max_output_tokens: 1, stop_limit: 1, extra_headers: {C: profile}}
    models: {"MiniMax-M*": {max_output_tokens: 2, stop_limit: 2}, "m2": {stop_limit: 9}}
models:
  inner: {use: lab/MiniMax-M2, options: {k: 1, l: [1, {m: null}]}, headers: {B: inner}, drop: [top_p]}
  m:
    use: [inner, echo-like]
    profile: {stop_limit: 3, extra_body: {j: 0}}
    options: {k: 2}
    drop: [stop, top_p]
  echo-like: {use: lab/other, max_tokens: 7}
"""
    first, second = config(text).table.resolve("m").targets
    profile = first.profile
    assert (profile.cumulative_deltas, profile.context_window, profile.max_output_tokens) == (True, 1, 2)
    assert (profile.stop_limit, profile.drop_fields) == (3, ("top_p", "stop"))
    assert profile.extra_headers == {"A": "provider", "B": "inner", "C": "profile"}
    known = {"reasoning_split": True}
    assert profile.extra_body == {**known, "k": 2, "l": [1, {"m": None}], "j": 0}
    assert (second.model, second.profile.max_output_tokens) == ("other", 7)
    assert second.profile.extra_body == {**known, "j": 0, "k": 2}


def test_drop_adds_to_what_the_provider_drops() -> None:
    section, entry = "{deepseek: {api: anthropic}}", "{use: deepseek/deepseek-v4-pro, drop: [user]}"
    known = built_in().providers["deepseek"].apis["anthropic"].profile["drop_fields"]
    assert target(section, entry).profile.drop_fields == (*known, "user")
    assert len(known) > 1
    entry = "{use: openai/gpt-5.6, profile: {drop_fields: [a]}, drop: [b]}"
    assert target("{openai: {}}", entry).profile.drop_fields == ("a", "b")


def test_numbers_may_come_from_variables() -> None:
    found = config(
        'server: {port: "${P}", direct_models: "${D:-false}"}\nproviders: {echo: {}}\nmodels: {m: echo}\n', P="5"
    )
    assert (found.server.port, found.server.direct_models) == (5, False)
    entry = "{use: echo/m, profile: {idle_timeout: 30, first_byte_timeout: null}, options: {a: 1, b: '1', c: 1.5}}"
    profile = target("{echo: {}}", entry).profile
    assert (profile.idle_timeout, profile.first_byte_timeout) == (30.0, None)
    assert profile.extra_body == {"a": 1, "b": "1", "c": 1.5}


# -- references ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "asked", "expected"),
    [
        ("echo/vendor/name:8b", "m", ["echo/vendor/name:8b"]),
        ("[echo/a, [echo/b, echo/a], {use: echo/c}]", "m", ["echo/a", "echo/b", "echo/c"]),
        ("other", "m", ["echo/o1", "echo/o2"]),
        ("[echo/a, other]", "m", ["echo/a", "echo/o1", "echo/o2"]),
        ("{use: other, max_tokens: 5}", "m", ["echo/o1", "echo/o2"]),
        ("echo", "m", ["echo/m"]),
        ("{use: echo, max_tokens: 5}", "m[1m]", ["echo/m"]),
        ("vendor/alias", "m", ["echo/v"]),
        ("twice", "m", ["echo/o1", "echo/o2"]),
    ],
)
def test_references(entry: str, asked: str, expected: list[str]) -> None:
    text = f"""
providers: {{echo: {{}}}}
models:
  m: {entry}
  other: [echo/o1, echo/o2]
  twice: [other, other]
  vendor/alias: echo/v
"""
    assert [t.name for t in config(text).table.resolve(asked).targets] == expected


def test_a_provider_alone_keeps_the_asked_name_and_the_overrides() -> None:
    text = 'providers: {openai: {}}\nmodels: {"gpt-*": {use: openai, max_tokens: 5, drop: [x]}, openai: openai}\n'
    found = config(text)
    route = found.table.resolve("gpt-5.6")
    assert [t.name for t in route.targets] == ["openai/gpt-5.6"]
    profile = route.targets[0].profile
    assert (profile.max_output_tokens, profile.api) == (5, "openai-responses")
    assert profile.drop_fields == ("x",)
    assert [t.name for _, shown in found.table.patterns for t in shown.targets] == ["openai/*"]
    assert [t.name for t in found.table.resolve("openai").targets] == ["openai/openai"]


def test_chains_and_targets_are_bounded() -> None:
    chain = "".join(f"  a{n}: a{n + 1}\n" for n in range(40))
    with pytest.raises(ConfigError, match="more than 32 names in a row"):
        config(f"providers: {{echo: {{}}}}\nmodels:\n{chain}  a40: echo/x\n")
    many = ", ".join(f"echo/{n}" for n in range(33))
    with pytest.raises(ConfigError, match=r"models.m: more than 32 targets"):
        target("{echo: {}}", f"[{many}]")
    halves = [", ".join(f"echo/{n}" for n in numbers) for numbers in (range(20), range(20, 40))]
    with pytest.raises(ConfigError, match=r"5:\d+: models.m: more than 32 targets") as caught:
        config(f"providers: {{echo: {{}}}}\nmodels:\n m:\n  - [{halves[0]}]\n  - [{halves[1]}]\n")
    assert len(caught.value.mistakes) == 1
    patterns = ", ".join(f"p{n}: {{}}" for n in range(17))
    with pytest.raises(ConfigError, match="more than 16 patterns"):
        target(f"{{echo: {{models: {{{patterns}}}}}}}", "echo/x")


# -- the file and the server ---------------------------------------------------------------------------


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.yaml", {})
    assert str(caught.value).startswith(f"{tmp_path}/none.yaml: there is no such file (make one")
    with pytest.raises(ConfigError, match="this is not a file"):
        load(tmp_path, {})
    with pytest.raises(ConfigError, match="cannot be read: the path is not valid"):
        load(tmp_path / "a\0b", {})
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match="cannot be read: "):
        load(tmp_path / "loop", {})


def test_keys_in_a_file_that_others_can_read(tmp_path: Path) -> None:
    path = tmp_path / "providers.yaml"
    path.write_text("server: {token: inline-token}\nproviders: {xai: {api_key: inline-key}}\nmodels: {m: xai/m}\n")
    path.chmod(0o644)
    found = load(path, {})
    assert found.path == path
    assert found.warnings == (
        "other users can read this file, and it holds server.token, providers.xai.api_key: chmod 600, or use ${VAR}",
    )
    path.chmod(0o600)
    assert load(path, {}).warnings == ()


@pytest.mark.parametrize(
    ("server", "warned"),
    [("", False), ("{host: 0.0.0.0}", True), ("{host: 0.0.0.0, token: x}", False), ("{host: localhost}", False)],
)
def test_an_open_listener_without_a_token(server: str, warned: bool) -> None:
    found = config(f"server: {server}\nproviders: {{echo: {{}}}}\nmodels: {{m: echo/m}}\n")
    assert bool(found.warnings) == warned


def test_an_empty_token_is_none() -> None:
    text = 'server: {token: "${T:-}"}\nproviders: {echo: {}}\nmodels: {m: echo/m}\n'
    assert config(text).server.token is None
    assert config(text, T="t").server.token == "t"


def test_loopback() -> None:
    hosts = ("127.0.0.1", "127.8.8.8", "localhost", "::1", "0.0.0.0", "::", "127.evil.example", "10.0.0.1", "")
    assert [is_loopback(host) for host in hosts] == [True] * 4 + [False] * 5


def test_defaults_of_the_profile_suit_an_unknown_server() -> None:
    section = "{lab: {api: openai-chat, base_url: http://h/v1}}"
    assert target(section, "lab/m").profile == Profile()


def test_the_documentation_is_right() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    example = text.split("```yaml\n")[1].split("```")[0]
    assert [t.name for t in config(example).table.resolve("opus").targets] == ["deepseek/deepseek-v4-pro", "lab/qwen3"]
    listed = text.split("**Built in**: ")[1].split(". Their")[0].replace("\n", " ").split(", ")
    assert listed == sorted(built_in().providers)
