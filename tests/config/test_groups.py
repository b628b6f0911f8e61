"""Groups and limits in providers.yaml: right files, what they open, and what a change of them says."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.access.limits import NO_LIMITS, Budget, Limits
from gateway.config import Config, ConfigError, loads
from gateway.config.groups import MAX_ROUTES, MAX_WARNINGS
from gateway.config.settings import AdminSettings, TlsSettings
from gateway.reload import describe_change
from gateway.routing import may_ask

SHARED = """
providers: {echo: {}, lab: {api: openai-chat, base_url: http://h}}
models:
  sonnet: lab/big
  haiku: echo/small
  opus: [sonnet, {use: haiku, max_tokens: 5}]
  gpt-*: lab/gpt
  default: sonnet
"""


def config(groups: str = "", text: str = SHARED, **env: str) -> Config:
    return loads((text + groups).encode(), "providers.yaml", env)


def targets(config: Config, group: str, asked: str) -> list[str]:
    return [target.name for target in config.groups[group].table.resolve(asked).targets]


# -- limits --------------------------------------------------------------------------------------------

USD = 10**9


@pytest.mark.parametrize(
    ("written", "limits"),
    [
        ("{}", NO_LIMITS),
        ("{rpm: 60, tpm: 400k, concurrency: 8}", Limits(60, 400_000, 8)),
        ("{rpm: '60', tpm: 1.5M, concurrency: null}", Limits(60, 1_500_000)),
        ("{budget: 20usd/month}", Limits(budget=(Budget(20 * USD, "nanodollars", "month"),))),
        (
            "{budget: [$5/day, 2M tokens/week]}",
            Limits(budget=(Budget(5 * USD, "nanodollars", "day"), Budget(2_000_000, "tokens", "week"))),
        ),
        ("{rpm: '${RPM}', budget: '${BUDGET}'}", Limits(30, budget=(Budget(USD, "nanodollars", "day"),))),
    ],
)
def test_limits_of_a_group_and_of_a_provider(written: str, limits: Limits) -> None:
    group = config(f"groups: {{interns: {written}}}", RPM="30", BUDGET="1usd/day").groups["interns"]
    assert group.limits == limits
    provider = config(text=SHARED.replace("echo: {}", f"echo: {{limits: {written}}}"), RPM="30", BUDGET="1usd/day")
    assert provider.providers["echo"].limits == limits
    assert provider.providers["lab"].limits == NO_LIMITS
    assert provider.table.resolve("haiku").targets[0].provider.limits == limits


def test_limits_hold_for_all_keys_of_a_provider_together() -> None:
    text = SHARED.replace("echo: {}", "xai: {api_key: [a, b], limits: {rpm: 5}}, echo: {}")
    assert config(text=text).providers["xai"].limits == Limits(rpm=5)


# -- routes --------------------------------------------------------------------------------------------


def test_a_group_without_routes_has_those_of_the_configuration() -> None:
    read = config("groups: {staff: {}, interns: {rpm: 5}}")
    assert [group.table is read.table for group in read.groups.values()] == [True, True]
    assert read.tables == (read.table,)


ROUTES = """groups:
  interns:
    routes:
      sonnet: [echo/cheap, sonnet]
      cheap: {use: haiku, options: {a: 1}}
      "claude-haiku-*": cheap
      "gpt-4*": lab/four
"""


@pytest.mark.parametrize(
    ("asked", "of_the_group", "of_all"),
    [
        ("sonnet", ["echo/cheap", "lab/big"], ["lab/big"]),
        ("claude-sonnet-5-5[1m]", ["echo/cheap", "lab/big"], ["lab/big"]),
        ("cheap", ["echo/small"], ["lab/big"]),
        # What leads to a name that the group replaces follows it.
        ("opus", ["echo/cheap", "lab/big", "echo/small"], ["lab/big", "echo/small"]),
        ("anything", ["echo/cheap", "lab/big"], ["lab/big"]),
        # A pattern of the group comes before a name of the configuration, and before its families.
        ("claude-haiku-4-5", ["echo/small"], ["echo/small"]),
        ("gpt-4o", ["lab/four"], ["lab/gpt"]),
        ("gpt-5", ["lab/gpt"], ["lab/gpt"]),
        ("haiku", ["echo/small"], ["echo/small"]),
        ("lab/other", ["lab/other"], ["lab/other"]),
    ],
)
def test_where_names_go(asked: str, of_the_group: list[str], of_all: list[str]) -> None:
    read = config(ROUTES)
    assert targets(read, "interns", asked) == of_the_group
    assert [target.name for target in read.table.resolve(asked).targets] == of_all


def test_a_pattern_of_a_group_takes_what_a_name_of_the_configuration_would() -> None:
    read = config("groups: {interns: {routes: {'*': echo/cheap}}}")
    for asked in ("sonnet", "claude-opus-5", "gpt-4", "anything", "lab/big"):
        assert targets(read, "interns", asked) == ["echo/cheap"]
    assert [target.name for target in read.table.resolve("sonnet").targets] == ["lab/big"]


def test_settings_of_a_route() -> None:
    read = config(ROUTES)
    route = read.groups["interns"].table.resolve("claude-haiku-4-5")
    assert (route.name, route.targets[0].profile.extra_body) == ("claude-haiku-*", {"a": 1})
    assert read.table.resolve("haiku").targets[0].profile.extra_body == {}


def test_names_of_a_group_stand_first_and_nothing_is_built_twice() -> None:
    read = config(ROUTES)
    table = read.groups["interns"].table
    assert table.names() == ["sonnet", "cheap", "haiku", "opus", "default", "claude-haiku-*", "gpt-4*", "gpt-*"]
    assert table.routes["haiku"] is read.table.routes["haiku"]
    assert dict(table.patterns)["gpt-*"] is dict(read.table.patterns)["gpt-*"]
    assert read.tables == (read.table, table)


def test_groups_do_not_see_each_other() -> None:
    read = config("groups: {a: {routes: {sonnet: echo/a, own: echo/own}}, b: {routes: {haiku: echo/b}}}")
    assert targets(read, "a", "opus") == ["echo/a", "echo/small"]
    assert targets(read, "b", "opus") == ["lab/big", "echo/b"]
    assert "own" not in read.groups["b"].table.names()


def test_names_that_clients_spell_are_forbidden_in_groups_too() -> None:
    read = config("server: {direct_models: false}\ngroups: {a: {routes: {sonnet: echo/a}}}")
    assert targets(read, "a", "lab/x") == ["echo/a"]


def test_the_routes_of_all_groups_are_bounded() -> None:
    names = 80
    each = "\n".join(f"  m{number}: echo/x" for number in range(names))
    head = f"providers: {{echo: {{}}}}\nmodels:\n{each}\ngroups:\n"
    fits = MAX_ROUTES // (names + 1)
    group = "  g{}: {{routes: {{x: echo/x}}}}\n".format
    assert len(config("".join(map(group, range(fits))), head).groups) == fits
    with pytest.raises(ConfigError) as caught:
        config("".join(map(group, range(fits + 100))), head)
    assert [mistake.message for mistake in caught.value.mistakes] == ["groups: more than 10000 routes in all"]


# -- what may be asked for -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "asked", "allowed"),
    [
        (None, "anything", True),
        (("sonnet",), "sonnet", True),
        (("sonnet",), "claude-sonnet-5-5", True),
        (("sonnet",), "claude-sonnet-5-5[1m]", True),
        (("sonnet",), "opus", False),
        (("sonnet",), "claude-opus-5-5", False),
        (("sonnet",), "lab/big", False),
        # ``default`` goes where sonnet does, and is another name.
        (("sonnet",), "anything", False),
        (("default",), "anything", True),
        (("son*",), "claude-sonnet-5-5", True),
        (("claude-sonnet-*",), "claude-sonnet-5-5[1m]", True),
        (("claude-sonnet-5-5",), "claude-sonnet-5-5[1m]", True),
        (("claude-sonnet-5",), "claude-sonnet-5-5", False),
        (("claude-sonnet-*",), "sonnet", False),
        (("claude-sonnet-*",), "claude-opus-5", False),
        (("gpt-*",), "gpt-4", True),
        (("gpt-4*",), "gpt-4o", True),
        (("gpt-4*",), "gpt-5", False),
        # A pattern is not opened by a pattern that matches its text.
        (("gpt-?",), "gpt-5", True),
        (("gpt-?",), "gpt-55", False),
        (("lab/*",), "lab/big", True),
        (("lab/*",), "echo/big", False),
        (("lab/*",), "sonnet", False),
        (("*",), "anything", True),
        (("SONNET",), "sonnet", False),
        ((), "sonnet", False),
    ],
)
def test_may_ask(models: tuple[str, ...] | None, asked: str, allowed: bool) -> None:
    assert may_ask(models, config().table.resolve(asked), asked) is allowed


def test_names_that_open_nothing_are_a_warning() -> None:
    models = (
        "[sonnet, default, 'hai*', sonet, 'claude-opus-*', 'gpt-4*', 'gpt-*', 'lab/*', lab/x, 'nope/*', 'x-*', own]"
    )
    read = config(f"groups: {{interns: {{models: {models}, routes: {{own: echo/x}}}}}}")
    assert read.warnings == tuple(
        f"groups.interns.models: '{entry}' is no name under 'models', and matches none"
        for entry in ("sonet", "nope/*", "x-*")
    )


def test_a_warning_shows_no_resolved_value() -> None:
    read = config("groups: {a: {models: ['${NAME}', '${OTHER}']}}", NAME="haiku", OTHER="value-of-a-secret")
    assert read.groups["a"].models == ("haiku", "value-of-a-secret")
    assert read.warnings == ("groups.a.models: '${OTHER}' is no name under 'models', and matches none",)


def test_warnings_are_bounded() -> None:
    models = ", ".join(f"no{number}" for number in range(100))
    assert len(config(f"groups: {{a: {{models: [{models}]}}, b: {{models: [{models}]}}}}").warnings) == MAX_WARNINGS


# -- the server's new settings -------------------------------------------------------------------------


def test_sections_within_the_section_server() -> None:
    server = config("server: {tls: {certificate: c, key: k}, admin: {port: 0, key_names: true}}").server
    assert server.tls == TlsSettings("c", "k")
    assert server.admin == AdminSettings(0, key_names=True)
    assert config("server: {tls: null, admin: null, ledger: {}}").server == config().server


def test_tls_files_are_in_the_folder_of_the_file() -> None:
    text = SHARED + "server: {tls: {certificate: tls/chain.pem, key: '${KEY}', client_ca: /etc/ca.pem}}"
    tls = loads(text.encode(), "f", {"KEY": "key.pem"}, directory=Path("/srv/gateway")).server.tls
    assert tls == TlsSettings("/srv/gateway/tls/chain.pem", "/srv/gateway/key.pem", "/etc/ca.pem")


# -- in words ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("", "groups: {a: {rpm: 5}}", ["group a: added"]),
        ("groups: {a: {rpm: 5}}", "", ["group a: removed"]),
        ("groups: {a: {rpm: 5}}", "groups: {a: {rpm: 5}}", []),
        (
            "groups: {a: {rpm: 1}}",
            "groups: {a: {tpm: 2k, concurrency: 1, budget: [5usd/day, 1 token/month]}}",
            [
                "group a: 1 request a minute → "
                "2,000 tokens a minute, 1 request at a time, 5 USD a day, 1 token a month"
            ],
        ),
        ("groups: {a: {rpm: 5}}", "groups: {a: {}}", ["group a: 5 requests a minute → no limits"]),
        ("groups: {a: {}}", "groups: {a: {models: [gpt-*, opus]}}", ["group a may ask for: everything → gpt-*, opus"]),
        (
            "groups: {a: {}}",
            "groups: {a: {routes: {sonnet: echo/a}}}",
            [
                "group a: sonnet: as for all → echo/a",
                "group a: opus: as for all → echo/a, echo/small",
                "group a: default: as for all → echo/a",
            ],
        ),
        (
            "groups: {a: {routes: {x: echo/a}}}",
            "groups: {a: {routes: {x: {use: echo/a, max_tokens: 5}}}}",
            ["group a: x: echo/a with other settings"],
        ),
        ("groups: {a: {routes: {x: echo/a}}}", "groups: {a: {}}", ["group a: x: echo/a → as for all"]),
        ("", "server: {allowed_hosts: [h], trusted_proxies: [10.0.0.1]}", [
            "server.allowed_hosts changed", "server.trusted_proxies changed",
        ]),
        ("", "server: {allowed_origins: ['http://o'], relay: session}", [
            "server.relay changed", "server.allowed_origins changed",
        ]),
        ("", "server: {tls: {certificate: c, key: k}}", ["server.tls changed: takes effect after a restart"]),
        ("", "server: {ledger: {enabled: false}}", ["server.ledger changed: takes effect after a restart"]),
        ("", "server: {admin: {port: 1}}", ["server.admin changed: takes effect after a restart"]),
        ("server: {admin: {port: 1}}", "server: {admin: {port: 1, key_names: true}}", [
            "server.admin.key_names changed",
        ]),
    ],
)  # fmt: skip
def test_describe_change(before: str, after: str, words: list[str]) -> None:
    assert describe_change(config(before), config(after)) == words


def test_describe_change_of_a_providers_limits() -> None:
    limited = config(text=SHARED.replace("echo: {}", "echo: {limits: {rpm: 5}}"))
    assert describe_change(config(), limited) == ["provider echo: no limits → 5 requests a minute"]


def test_a_change_for_all_is_told_once() -> None:
    other = SHARED.replace("haiku: echo/small", "haiku: echo/other").replace(
        "opus: [sonnet, {use: haiku", "opus: [sonnet, {use: echo/small"
    )
    before = config("groups: {a: {routes: {sonnet: echo/a}}}")
    after = config("groups: {a: {routes: {sonnet: echo/a}}}", other)
    assert describe_change(before, after) == ["haiku: echo/small → echo/other"]
