"""``gateway keys``: what each command writes, prints and refuses; no key on the disk; nothing lost among several."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.access.client_key import ClientKey
from gateway.access.key_ring import KeyRing
from gateway.access.key_text import digest, is_well_formed, make
from gateway.access.limits import Budget, Limits
from gateway.cli import main
from gateway.config.key_file import load, loads
from gateway.errors import AuthenticationFailed
from tests.cli.gateway_command import GATEWAY, ROOT, environment, run, written

DOCUMENT = (ROOT / "docs" / "keys.md").read_text(encoding="utf-8")
FILE = """\
server: {port: 4444, token: "${TOKEN:-}"}
providers: {echo: {}, lab: {api: openai-chat, base_url: "http://127.0.0.1:9/v1"}}
models: {sonnet: lab/up}
groups: {interns: {rpm: 5}, developers: {}}
"""
DAY = 86_400


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("GATEWAY_CONFIG", "GATEWAY_ENV_FILE", "TOKEN"):
        monkeypatch.delenv(name, raising=False)
    written(tmp_path, FILE)
    return tmp_path


def keys(*arguments: str) -> Result:
    """The command, whatever it says; never a traceback."""
    ended = CliRunner().invoke(main, ["keys", *arguments])
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exc_info
    return ended


def done(*arguments: str) -> Result:
    ended = keys(*arguments)
    assert ended.exit_code == 0, ended.output
    return ended


def given(*arguments: str) -> str:
    """The key that a command prints."""
    key = done(*arguments).stdout.splitlines()[0]
    assert is_well_formed(key)
    return key


def ring(path: str = "keys.yaml") -> KeyRing:
    return load(Path(path))


def opens(key: str, later: float = 0) -> str:
    """Whose it is, or why it does not open."""
    try:
        return ring().identify(key, time.time() + later).name
    except AuthenticationFailed as error:
        return error.message


# -- add -------------------------------------------------------------------------------------------------------


def test_add_prints_the_key_once_and_what_to_export() -> None:
    ended = done("add", "anna")
    key, *rest = ended.stdout.splitlines()
    assert rest == [
        "",
        "for Claude Code:",
        "export ANTHROPIC_BASE_URL=http://127.0.0.1:4444",
        f"export ANTHROPIC_AUTH_TOKEN={key}",
        "export CLAUDE_CODE_AUTO_MODE_SERVER=0",
    ]
    assert key not in ended.stderr
    assert opens(key) == "anna"
    for command in (["list"], ["list", "--json"], ["show", "anna"], ["show", "anna", "--json"]):
        shown = done(*command).output
        assert key not in shown
        assert digest(key).hex() not in shown


def test_no_clear_key_is_on_the_disk(folder: Path) -> None:
    """X6."""
    found = [given("add", "anna"), given("add", "bob"), given("rotate", "anna"), given("rotate", "bob", "--grace", "0")]
    assert len(set(found)) == 4
    for file in folder.rglob("*"):
        for key in found:
            assert key[3:46].encode() not in file.read_bytes()
    assert digest(found[2]).hex() in (folder / "keys.yaml").read_text()
    assert sorted(file.name for file in folder.iterdir()) == ["keys.yaml", "providers.yaml"]


def test_every_option() -> None:
    before = time.time()
    key = given(
        *("add", "ci", "--user", "anna", "--group", "interns", "--models", "sonnet, gpt-*,", "--rpm", "60"),
        *("--tpm", "400k", "--concurrency", "8", "--budget", "20usd/month", "--budget", "2M tokens/day"),
        *("--expires", "90d"),
    )
    (found,) = ring().keys
    assert found.expires is not None
    assert found.created is not None
    assert before + 90 * DAY - 1 <= found.expires <= time.time() + 90 * DAY
    assert before - DAY <= found.created <= time.time()
    budgets = (Budget(20 * 10**9, "nanodollars", "month"), Budget(2_000_000, "tokens", "day"))
    assert found == ClientKey(
        name="ci",
        user="anna",
        group="interns",
        models=("sonnet", "gpt-*"),
        limits=Limits(60, 400_000, 8, budgets),
        expires=found.expires,
        digests=((digest(key), None),),
        created=found.created,
    )


def test_json_is_for_programs() -> None:
    said = json.loads(done("add", "anna", "--json").stdout)
    assert (said["name"], opens(said["key"])) == ("anna", "anna")
    assert said["env"]["ANTHROPIC_AUTH_TOKEN"] == said["key"]
    again = json.loads(done("rotate", "anna", "--json").stdout)
    assert opens(again["key"]) == "anna"


def test_the_first_key_says_what_it_changes() -> None:
    assert "every client needs one" in done("add", "anna").stderr
    assert "every client needs one" not in done("add", "bob").stderr


WRONG_OPTIONS: dict[str, tuple[list[str], str]] = {
    "a name": (["anna meier"], "this cannot be a name"),
    "a key as the name": ([make(bytes(32))], "this is a key, not its name"),
    "no name": ([], "Missing argument 'NAME'"),
    "a user": (["anna", "--user", ""], "this cannot be a name"),
    "a group that is not there": (["anna", "--group", "intern"], "no group intern (did you mean 'interns'?)"),
    "a group like no other": (["anna", "--group", "x"], "no group x (known: interns, developers)"),
    "no models": (["anna", "--models", ","], "names with commas between them"),
    "rpm": (["anna", "--rpm", "many"], "'many' is no number"),
    "no rpm": (["anna", "--rpm", "0"], "must be more than 0"),
    "tpm": (["anna", "--tpm", "4e5"], "'4e5' is no number"),
    "concurrency": (["anna", "--concurrency", "-1"], "'-1' is no number"),
    "a budget": (["anna", "--budget", "20usd"], "the period is missing"),
    "two budgets of a kind": (["anna", "--budget", "1usd/day", "--budget", "2usd/day"], "the second budget"),
    "an end": (["anna", "--expires", "soon"], "write e.g. 90d or 2027-02-20"),
    "an end in the past": (["anna", "--expires", "2020-01-01"], "'2020-01-01' is over"),
    "an option": (["anna", "--modles", "x"], "No such option"),
}


@pytest.mark.parametrize(("arguments", "said"), WRONG_OPTIONS.values(), ids=WRONG_OPTIONS)
def test_a_wrong_command_line(folder: Path, arguments: list[str], said: str) -> None:
    ended = keys("add", *arguments)
    assert ended.exit_code == 2
    assert ended.stdout == ""
    assert said in ended.stderr
    assert make(bytes(32)) not in ended.stderr
    assert not (folder / "keys.yaml").exists()


def test_groups_without_any(folder: Path) -> None:
    written(folder, FILE.partition("groups:")[0])
    ended = keys("add", "anna", "--group", "interns")
    assert (ended.exit_code, "no group interns (it has none)" in ended.stderr) == (2, True)


def test_a_name_is_given_once() -> None:
    key = given("add", "anna")
    ended = keys("add", "anna")
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr == "Error: anna has a key already: 'gateway keys rotate anna' gives a new one\n"
    assert opens(key) == "anna"


# -- rotate, disable, revoke -----------------------------------------------------------------------------------


def test_rotate_keeps_the_old_key_for_the_grace_time() -> None:
    old = given("add", "anna", "--rpm", "60")
    new = given("rotate", "anna", "--grace", "2h")
    assert (opens(old), opens(new)) == ("anna", "anna")
    assert opens(old, 7190) == "anna"
    assert "was replaced" in opens(old, 7201)
    assert opens(new, 7201) == "anna"
    assert ring().keys[0].limits.rpm == 60


def test_a_day_is_the_usual_grace() -> None:
    old = given("add", "anna")
    given("rotate", "anna")
    assert opens(old, DAY - 10) == "anna"
    assert "was replaced" in opens(old, DAY + 1)


def test_no_older_key_outlives_the_grace() -> None:
    oldest, old = given("add", "anna"), given("rotate", "anna", "--grace", "30d")
    new = given("rotate", "anna", "--grace", "1h")
    assert [opens(key, 3590) for key in (oldest, old, new)] == ["anna"] * 3
    assert ["replaced" in opens(key, 3601) for key in (oldest, old, new)] == [True, True, False]
    newest = given("rotate", "anna", "--grace", "0")
    assert ["not know" in opens(key) for key in (oldest, old, new, newest)] == [True, True, True, False]
    assert "previous" not in Path("keys.yaml").read_text()


def test_a_shorter_end_is_not_made_longer() -> None:
    oldest = given("add", "anna")
    given("rotate", "anna", "--grace", "1h")
    given("rotate", "anna", "--grace", "30d")
    assert "was replaced" in opens(oldest, 3601)
    assert len(ring().keys[0].digests) == 3


def test_an_expired_key_needs_a_new_end(monkeypatch: pytest.MonkeyPatch) -> None:
    given("add", "anna", "--expires", "1h")
    later = time.time() + 7200
    monkeypatch.setattr(time, "time", lambda: later)
    ended = done("rotate", "anna")
    assert "anna is expired, and the new key with it: rotate again with --expires" in ended.stderr
    assert "has expired" in opens(ended.stdout.splitlines()[0])
    assert opens(given("rotate", "anna", "--expires", "1h")) == "anna"


def test_disable_and_enable() -> None:
    key = given("add", "anna")
    assert done("disable", "anna").stdout.startswith("anna is disabled; ")
    assert "is disabled" in opens(key)
    assert done("disable", "anna").stdout.startswith("anna is disabled; ")
    assert "'gateway keys enable anna'" in done("rotate", "anna").stderr
    assert done("enable", "anna").stdout.startswith("anna is active; ")
    assert done("enable", "anna").exit_code == 0
    assert opens(key) == "anna"


def test_revoke_is_for_good_and_opens_no_door() -> None:
    key = given("add", "anna")
    assert done("revoke", "anna").stdout == "anna is revoked; a running gateway follows within two seconds\n"
    assert "may have been revoked" in opens(key)
    assert ring()
    assert "nobody is admitted" in done("list").stdout


@pytest.mark.parametrize("command", ["show", "revoke", "disable", "enable", "rotate"])
def test_a_key_that_is_not_there(command: str, folder: Path) -> None:
    ended = keys(command, "anna")
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr == "Error: there is no key anna in keys.yaml\n"
    assert not (folder / "keys.yaml").exists()
    given("add", "anna")
    before = (folder / "keys.yaml").read_bytes()
    ended = keys(command, "ana")
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr == "Error: there is no key ana in keys.yaml (did you mean 'anna'?)\n"
    assert (folder / "keys.yaml").read_bytes() == before


# -- list, show ------------------------------------------------------------------------------------------------


def test_the_table(folder: Path) -> None:
    assert done("list").stdout == "there is no keys.yaml: no client has a key of its own\n"
    text = "keys:\n"
    for number, fields in enumerate((
        "group: dev, rpm: 60, tpm: 1.5M, budget: [0.5usd/day, 90k tokens/week]",
        "user: anna, expires: 2020-01-01, concurrency: 8",
        "disabled: true, expires: 2999-12-31T10:00:00Z, rpm: 1001",
    )):  # fmt: skip
        text += f"  k{number}: {{sha256: '{digest(str(number)).hex()}', {fields}}}\n"
    written(folder, text, "keys.yaml")
    assert done("list").stdout.splitlines() == [
        "name  user  group  limits                                          expires     state",
        "k0    k0    dev    60 rpm, 1500k tpm, 0.5usd/day, 90k tokens/week  -           active",
        "k1    anna  -      8 at once                                       2020-01-01  expired",
        "k2    k2    -      1001 rpm                                        2999-12-31  disabled",
    ]
    first, second, third = json.loads(done("list", "--json").stdout)
    assert (first["budget"], first["state"], first["expires"]) == (["0.5usd/day", "90k tokens/week"], "active", None)
    assert (second["user"], second["expires"]) == ("anna", "2020-01-01T00:00:00Z")
    assert (third["rpm"], third["state"]) == (1001, "disabled")
    assert json.loads(done("show", "k2", "--json").stdout) == third


def test_show() -> None:
    given("add", "anna", "--models", "sonnet,haiku", "--rpm", "60")
    given("rotate", "anna")
    shown = dict(re.split(r"\s{2,}", line) for line in done("show", "anna").stdout.splitlines())
    assert shown.keys() == {"name", "user", "state", "models", "rpm", "created", "old keys until"}
    assert (shown["state"], shown["models"], shown["rpm"]) == ("active", "sonnet, haiku", "60")


def test_others_who_can_change_the_file_are_a_warning(folder: Path) -> None:
    """To read it gives nobody a key; where it is mounted, its group does."""
    given("add", "anna")
    for mode in (0o600, 0o640, 0o444):
        (folder / "keys.yaml").chmod(mode)
        assert done("list").stderr == ""
    for mode in (0o620, 0o602):
        (folder / "keys.yaml").chmod(mode)
        assert done("list").stderr == "warning: other users can change keys.yaml: chmod go-w\n"


# -- which file ------------------------------------------------------------------------------------------------


def test_the_keys_are_where_the_configuration_says(folder: Path) -> None:
    (folder / "etc").mkdir()
    written(folder / "etc", FILE.replace("{port", "{keys_file: team.yaml, port"), "gateway.yaml")
    given("add", "anna", "--config", "etc/gateway.yaml")
    assert ring("etc/team.yaml").get("anna")
    given("add", "bob", "--keys-file", "other.yaml")
    assert ring("other.yaml").get("bob")
    assert not (folder / "keys.yaml").exists()


def test_a_broken_configuration_does_not_stop_a_revocation(folder: Path) -> None:
    key = given("add", "anna")
    written(folder, "providers: {lab: {api: nonsense}}\nmodels: {}\n")
    ended = done("revoke", "anna")
    (warning,) = ended.stderr.splitlines()
    assert warning.startswith("warning: providers.yaml:1:")
    assert warning.endswith("; the keys are taken to be in keys.yaml")
    assert "revoked" in opens(key)
    ended = done("add", "bob", "--group", "whatever")
    assert ended.stdout.endswith(f"for Claude Code:\nexport ANTHROPIC_AUTH_TOKEN={ended.stdout.splitlines()[0]}\n")


def test_no_configuration_at_all(folder: Path) -> None:
    (folder / "providers.yaml").unlink()
    ended = done("add", "anna")
    assert "providers.yaml: there is no such file" in ended.stderr
    assert ring().get("anna")


def test_a_variable_may_come_from_the_env_file(folder: Path) -> None:
    written(folder, FILE.replace("{port", '{keys_file: "${KEYS}", port'))
    written(folder, "KEYS=team.yaml\n", "keys.env")
    given("add", "anna", "--env-file", "keys.env")
    assert ring("team.yaml").get("anna")


@pytest.mark.parametrize("arguments", [["list"], ["show", "a"], ["revoke", "a"], ["add", "a"], ["rotate", "a"]])
def test_mistakes_in_the_file_are_status_2(folder: Path, arguments: list[str]) -> None:
    text = "keys:\n  anna: {rpm: many}\n  bob: {sha256: x}\n"
    written(folder, text, "keys.yaml")
    ended = keys(*arguments)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert [line.split(" ")[0] for line in ended.stderr.splitlines()] == [
        "keys.yaml:2:9:", "keys.yaml:2:15:", "keys.yaml:3:17:",
    ]  # fmt: skip
    assert (folder / "keys.yaml").read_text() == text


# -- as processes ----------------------------------------------------------------------------------------------


def test_what_cannot_be_written_is_one_line_and_the_key_is_not_printed(folder: Path) -> None:
    """A limit on the size of files is what a full disk looks like to a process."""
    key = given("add", "anna")
    before = (folder / "keys.yaml").read_bytes()
    program = "from resource import *; setrlimit(RLIMIT_FSIZE, (64, 64)); from gateway.cli import main; main()"
    command = [GATEWAY[0], "-c", program, "keys", "add", "bob"]
    ended = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "Error: keys.yaml cannot be changed, and is as it was: File too large\n"
    assert (folder / "keys.yaml").read_bytes() == before
    assert sorted(file.name for file in folder.iterdir()) == ["keys.yaml", "providers.yaml"]
    assert opens(key) == "anna"


def test_several_at_the_same_time_lose_nothing(folder: Path) -> None:
    note = "# Anna's laptop\n"
    given("add", "anna")
    text = (folder / "keys.yaml").read_text().replace("  anna:", f"  {note}  anna:")
    written(folder, text, "keys.yaml")
    commands = [["add", f"user{number}"] for number in range(5)] + [["disable", "anna"]]
    processes = [
        subprocess.Popen([*GATEWAY, "keys", *command], cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True)
        for command in commands
    ]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 6
    for number, out in enumerate(said[:5]):
        assert opens(out.splitlines()[0]) == f"user{number}"
    anna = ring().get("anna")
    assert anna
    assert anna.disabled
    assert note in (folder / "keys.yaml").read_text()


def test_as_a_process(folder: Path) -> None:
    ended = run("keys", "add", "anna", cwd=folder)
    assert (ended.status, opens(ended.out.splitlines()[0])) == (0, "anna")
    ended = run("keys", cwd=folder)
    assert ended.status == 2
    assert "revoke" in ended.err


# -- the document ----------------------------------------------------------------------------------------------


def test_the_commands_of_the_document_run_one_after_the_other() -> None:
    in_block = re.findall(r"^gateway (keys .+)$", DOCUMENT, re.MULTILINE)
    in_table = re.findall(r"^\| `gateway (keys [^`]+)` \|", DOCUMENT, re.MULTILINE)
    assert (len(in_block), len(in_table)) == (3, 6)
    for command in in_block + in_table:
        assert done(*shlex.split(command)[1:]).stdout
    assert [key.name for key in ring().keys] == ["ci"]


def test_the_options_of_the_document_are_those_of_add() -> None:
    table = DOCUMENT.partition("| option of `add` |")[2].partition("\n\n")[0]
    described = set(re.findall(r"--[a-z]+", re.sub(r" \| .*", "", table)))
    options = {name for option in main.get_command(None, "keys").commands["add"].params for name in option.opts}  # type: ignore[union-attr, arg-type]
    assert described == {name for name in options if name.startswith("--")} - {
        "--json", "--config", "--env-file", "--keys-file",
    }  # fmt: skip


def test_the_file_of_the_document_is_right() -> None:
    (text,) = re.findall(r"^```yml\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    anna, ci = loads(text.encode(), "keys.yaml").keys
    assert (anna.name, anna.group, ci.user, ci.disabled) == ("anna", "dev", "anna", True)
    shown: Any = ci.digests
    assert len(shown) == 2


def test_the_answers_of_the_document_are_those_that_are_given() -> None:
    table = DOCUMENT.partition("| what is said |")[2]
    said = re.findall(r"^\| (`.*?) \| ", table, re.MULTILINE)
    assert len(said) == 3
    source = (ROOT / "gateway" / "access" / "key_ring.py").read_text(encoding="utf-8")
    for phrase in re.findall(r"`([^`]+)`", " ".join(said)):
        assert phrase.replace("the key anna", "the key {key.name}") in source


def test_the_key_of_the_document_is_made_of_no_secret() -> None:
    assert set(re.findall(r"gw_[0-9A-Za-z]{49}", DOCUMENT)) == {make(bytes(range(32)))}
