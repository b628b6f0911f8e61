"""Changing one entry of keys.yaml: what is written, what stays, and that nothing is lost when it cannot be written."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.access.key_ring import KeyRing
from gateway.access.key_text import digest
from gateway.config import ConfigError, key_file_edit, rewrite
from gateway.config.key_file import load, loads
from gateway.config.key_file_edit import CannotEdit, Fields, change_key, edited

A, B, C, NEW = ("a" + digest(text).hex()[1:] for text in "abcd")
ADDED = {"sha256": NEW, "models": ["sonnet", "gpt-*"], "rpm": 60, "tpm": "400k", "user": None}


@pytest.fixture(params=(True, False), ids=("libyaml", "pure"))
def libyaml(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param and not yaml.__with_libyaml__:
        pytest.skip("PyYAML was built without libyaml")
    monkeypatch.setattr(yaml, "__with_libyaml__", request.param)


TEAM = f"""\
# the team's keys

keys:
  # --- developers ---
  anna:   # since March
    sha256: "{A}"
    rpm: 60      # she asked for it
    # tpm: 400k
    disabled: true
    # not before May

  bob: {{sha256: {B}, group: dev}}  # until June
  # --- guests ---
  carl:
      "sha256": {C}
      models: [sonnet,
               haiku]
# end
"""
DORA = f"""\
  dora:
    sha256: {NEW}
    models: [sonnet, "gpt-*"]
    rpm: 60
    tpm: "400k"
"""


def without(text: str, *lines: str) -> str:
    for line in lines:
        assert line in text
        text = text.replace(line, "", 1)
    return text


CARL = f'  carl:\n      "sha256": {C}\n      models: [sonnet,\n               haiku]\n'
BOB = f"  bob: {{sha256: {B}, group: dev}}  # until June\n"
ANNA = TEAM[TEAM.index("  anna:") : TEAM.index("\n  bob:")]
# before, name, fields, after
EDITS: dict[str, tuple[str, str, Fields | None, str]] = {
    "add at the end": (TEAM, "dora", ADDED, TEAM.replace("# end\n", f"{DORA}# end\n")),
    "add to no keys": ("keys:\n", "dora", ADDED, f"keys:\n{DORA}"),
    "add to an empty mapping": ("keys: {}   # none\n# end", "dora", ADDED, f"keys:   # none\n{DORA}# end\n"),
    "add to null": ("# a\nkeys: ~\n", "dora", ADDED, f"# a\nkeys:\n{DORA}"),
    "add behind a byte order mark": ("\ufeffkeys: { }\n", "dora", ADDED, f"\ufeffkeys:\n{DORA}"),
    "add without a last line end": (f"keys:\n{BOB.rstrip()}", "dora", ADDED, f"keys:\n{BOB}{DORA}"),
    "add between Windows' line ends": (
        f"keys:\r\n  bob: {{sha256: {B}}}\r\n", "dora", {"sha256": NEW},
        f"keys:\r\n  bob: {{sha256: {B}}}\r\n  dora:\r\n    sha256: {NEW}\r\n",
    ),
    "add at the file's own indentation": (
        f"keys:\n        bob: {{sha256: {B}}}\n", "dora", {"sha256": NEW},
        f"keys:\n        bob: {{sha256: {B}}}\n        dora:\n          sha256: {NEW}\n",
    ),
    "add names that need quotes": (
        "keys:\n", "null", {"sha256": "1" * 64, "expires": "2027-01-01"},
        f'keys:\n  "null":\n    sha256: "{"1" * 64}"\n    expires: "2027-01-01"\n',
    ),
    "remove the first": (TEAM, "anna", None, without(TEAM, ANNA)),
    "remove one in braces": (TEAM, "bob", None, without(TEAM, BOB)),
    "remove the last": (TEAM, "carl", None, without(TEAM, CARL)),
    "remove the only one": (f"keys:\n{BOB}# end\n", "bob", None, "keys:\n# end\n"),
    "remove one with a brace of its own": (
        f"keys:\n  bob: {{\n    sha256: {B}\n  }}\n{CARL}", "bob", None, f"keys:\n{CARL}"
    ),
    "remove what is not there": (TEAM, "dora", None, TEAM),
    "change a field": (TEAM, "anna", {"sha256": NEW}, TEAM.replace(f'"{A}"', NEW)),
    "change a field and its comment goes": (TEAM, "anna", {"rpm": 5}, TEAM.replace("60      # she asked for it", "5")),
    "take a field out": (TEAM, "anna", {"disabled": None}, without(TEAM, "    disabled: true\n")),
    "take out what is not there": (TEAM, "carl", {"disabled": None}, TEAM),
    "change a field of several lines": (
        TEAM, "carl", {"models": ["opus"]}, TEAM.replace("models: [sonnet,\n               haiku]", "models: [opus]")
    ),
    "add fields": (
        TEAM, "carl", {"disabled": True, "rpm": 5}, TEAM.replace(CARL, f"{CARL}      disabled: true\n      rpm: 5\n")
    ),
    "change, add and take out": (
        TEAM, "anna", {"rpm": None, "tpm": 9, "sha256": NEW, "user": "a"},
        TEAM.replace(ANNA, f"""\
  anna:   # since March
    sha256: {NEW}
    # tpm: 400k
    disabled: true
    # not before May
    tpm: 9
    user: a
"""),
    ),
    "change one in braces": (
        TEAM, "bob", {"group": None, "disabled": True, "rpm": 7},
        TEAM.replace(BOB, f"  bob:\n    sha256: {B}\n    disabled: true\n    rpm: 7\n"),
    ),
    "change one in braces over lines": (
        f"keys:\n  bob: {{sha256: {B}, disabled: true,  # holiday\n"
        f"        previous: [{{sha256: {C}, until: 2027-01-01}}]}}\n",
        "bob", {"disabled": None},
        f'keys:\n  bob:\n    sha256: {B}\n    previous: [{{sha256: {C}, until: "2027-01-01"}}]\n',
    ),
}  # fmt: skip


@pytest.mark.usefixtures("libyaml")
@pytest.mark.parametrize(("before", "name", "fields", "after"), EDITS.values(), ids=EDITS)
def test_edits(before: str, name: str, fields: Fields | None, after: str) -> None:
    assert edited(before, name, fields) == after
    loads(after.encode(), "f")


@pytest.mark.parametrize(("before", "name", "fields", "after"), EDITS.values(), ids=EDITS)
def test_edits_of_a_file(tmp_path: Path, before: str, name: str, fields: Fields | None, after: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_bytes(before.encode())
    old = load(path)
    key = change_key(path, name, lambda ring: fields)
    assert path.read_bytes() == after.encode()
    assert load(path).get(name) == key
    assert (key is None) == (fields is None)
    assert [key for key in load(path).keys if key.name != name] == [key for key in old.keys if key.name != name]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(("anna", "bob", "carl")), unique=True, min_size=1),
    st.lists(st.sampled_from(("", "  # note\n", "# end\n", "    # deep\n", "\n")), min_size=8, max_size=8),
    st.sampled_from(("anna", "bob", "carl", "dora")),
    st.sampled_from((None, {"sha256": NEW}, {"sha256": NEW, "disabled": True}, {"sha256": NEW, "rpm": None})),
)
def test_the_rest_stays_byte_for_byte(names: list[str], notes: list[str], name: str, fields: Fields | None) -> None:
    entries = {
        "anna": [f"  anna:\n    sha256: {A}\n", "    rpm: 60\n"],
        "bob": [f"  bob: {{sha256: {B}}}\n"],
        "carl": [f"  carl:\n    rpm: 9\n    sha256: {C}\n"],
    }
    between = iter(notes)
    pieces = [next(between), "keys:\n", next(between)]
    others = list(pieces)
    for each in names:
        for line in entries[each]:
            pieces += [line, note] if (note := next(between)) else [line]
        if each != name:
            others += entries[each]
    after = edited("".join(pieces), name, fields)
    rest = iter(after.splitlines())
    assert all(line in rest for line in "".join(others).splitlines()), "in their order"
    assert (loads(after.encode(), "f").get(name) is None) == (fields is None)


ODD: dict[str, tuple[str, str]] = {
    "all on one line": (f"keys: {{bob: {{sha256: {B}}}}}\n", "share lines"),
    "all in braces": (f"{{keys: {{bob: {{sha256: {B}}}}}}}\n", "share lines"),
    "an empty file in braces": ("{keys: {}}\n", "no room under 'keys'"),
    "what others share": (
        f"keys:\n  anna: {{sha256: {A}, models: &m [sonnet]}}\n  carl: {{sha256: {C}, models: *m}}\n", "would be wrong",
    ),
    "what another shares whole": (
        f"keys:\n  anna:\n    sha256: {A}\n    previous: [{{sha256: {C}, until: &day 2027-01-01}}]\n"
        f"  bob:\n    sha256: {B}\n    expires: *day\n",
        "would be wrong",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), ODD.values(), ids=ODD)
def test_a_layout_that_leaves_no_place_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    name = "anna" if "anna" in text else "dora"
    with pytest.raises(CannotEdit, match=said) as caught:
        change_key(path, name, lambda ring: None if name == "anna" else {"sha256": NEW})
    assert "\n" not in str(caught.value)
    assert path.read_text() == text


def test_an_edit_that_would_change_another_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(TEAM)
    added = edited(TEAM, "dora", ADDED)
    for wrong in (TEAM, added.replace(B, "e" * 64), without(added, BOB), without(added, "    disabled: true\n")):
        monkeypatch.setattr(key_file_edit, "edited", lambda text, name, fields, wrong=wrong: wrong)
        with pytest.raises(CannotEdit, match="by hand"):
            change_key(path, "dora", lambda ring: ADDED)
        assert path.read_text() == TEAM


def test_a_wrong_file_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    for text, said in (("keys: {anna: {}}\n", "sha256"), ("", "the file is empty"), ("# keys\n", "the file is empty")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=said):
            change_key(path, "dora", lambda ring: ADDED)
        assert path.read_text() == text


def test_wrong_fields_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    for fields in ({"sha256": NEW, "rpm": "many"}, {"sha256": NEW, "colour": "red"}, {"rpm": 60}, {}):
        with pytest.raises(CannotEdit, match="would be wrong"):
            change_key(path, "dora", lambda ring, fields=fields: fields)  # type: ignore[misc]
    assert list(tmp_path.iterdir()) == []


def test_who_changes_may_refuse(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(TEAM)

    def refuse(ring: KeyRing) -> Fields:
        assert ring.get("carl")
        raise LookupError

    with pytest.raises(LookupError):
        change_key(path, "carl", refuse)
    assert path.read_text() == TEAM


# -- the file --------------------------------------------------------------------------------------------------


def add_dora(path: Path) -> Any:
    return change_key(path, "dora", lambda ring: ADDED)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o000])
def test_a_new_file_is_its_owners_alone(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "keys.yaml"
    before = os.umask(mask)
    try:
        assert add_dora(path).name == "dora"
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == f"keys:\n{DORA}"
    assert [each.name for each in tmp_path.iterdir()] == ["keys.yaml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another group")
def test_a_new_file_may_be_read_by_the_group_whose_folder_it_is_in(tmp_path: Path) -> None:
    """root, in the folder of a service."""
    os.chown(tmp_path, -1, 54321)
    path = tmp_path / "keys.yaml"
    change_key(path, "anna", lambda _: {"sha256": "0" * 64})
    state = path.stat()
    assert (state.st_uid, state.st_gid, stat.S_IMODE(state.st_mode)) == (0, 54321, 0o640)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_permissions_stay(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(TEAM)
    path.chmod(mode)
    add_dora(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("there", [True, False])
def test_behind_a_link_its_target_is_replaced(tmp_path: Path, there: bool) -> None:
    target, link = tmp_path / "etc" / "team.yaml", tmp_path / "keys.yaml"
    target.parent.mkdir()
    if there:
        target.write_text(TEAM)
    link.symlink_to("etc/team.yaml")
    add_dora(link)
    assert link.readlink() == Path("etc/team.yaml")
    assert load(target).get("dora")


def test_no_change_is_no_write(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(TEAM)
    before = path.stat()
    change_key(path, "carl", lambda ring: {"disabled": None})
    assert path.stat() == before


def test_readers_see_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """Whoever has the file open keeps what it had: it is another file that takes its place."""
    path = tmp_path / "keys.yaml"
    path.write_text(TEAM)
    with path.open() as opened:
        add_dora(path)
        assert opened.read() == TEAM


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_only(*_: Any, **__: Any) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def mounted(*_: Any) -> None:
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


TROUBLE: dict[str, tuple[Any, str, Callable[..., None], str]] = {
    "a full disk": (os, "fsync", full, "No space left on device"),
    "a read-only folder": (tempfile, "mkstemp", read_only, "Read-only file system"),
    "a file that is mounted by itself": (os, "replace", mounted, "mount its folder instead"),
}


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(("module", "function", "trouble", "said"), TROUBLE.values(), ids=TROUBLE)
def test_what_cannot_be_written_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, module: Any, function: str, trouble: Any, said: str
) -> None:
    path = tmp_path / "keys.yaml"
    if there:
        path.write_text(TEAM)
    with monkeypatch.context() as patched:
        patched.setattr(module, function, trouble)
        with pytest.raises(CannotEdit) as caught:
            add_dora(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [each.read_text() for each in tmp_path.iterdir()] == ([TEAM] if there else [])
    add_dora(path)


@pytest.mark.parametrize("name", ["gone/keys.yaml", "file/keys.yaml", "k" * 300])
def test_a_place_that_cannot_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((CannotEdit, ConfigError)) as caught:
        add_dora(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_what_an_editor_saved_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(TEAM)
    saved = without(TEAM, BOB)
    replace_file = rewrite.replace_file

    def late(*arguments: Any) -> None:
        path.write_text(saved)
        replace_file(*arguments)

    monkeypatch.setattr(key_file_edit, "replace_file", late)
    with pytest.raises(CannotEdit, match="changed meanwhile"):
        add_dora(path)
    assert path.read_text() == saved
    assert [each.name for each in tmp_path.iterdir()] == ["keys.yaml"]


# -- one at a time ---------------------------------------------------------------------------------------------


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    """The folder, locked by somebody else."""
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    yield handle
    os.close(handle)


@pytest.mark.usefixtures("lock")
def test_a_lock_that_is_never_given_back_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_file_edit, "LOCK_SECONDS", 0.05)
    with pytest.raises(CannotEdit, match="another process holds the lock"):
        add_dora(tmp_path / "keys.yaml")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_waited_for(tmp_path: Path, lock: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.yaml"
    asked = threading.Event()
    monkeypatch.setattr(key_file_edit.time, "sleep", lambda seconds: asked.set())
    thread = threading.Thread(target=add_dora, args=(path,))
    thread.start()
    assert asked.wait(5)
    assert not path.exists()
    fcntl.flock(lock, fcntl.LOCK_UN)
    thread.join(5)
    assert load(path).get("dora")


def test_a_file_system_without_locks_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(key_file_edit.fcntl, "flock", none)
    assert add_dora(tmp_path / "keys.yaml")


def test_changes_at_the_same_time_are_all_made(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(TEAM)
    names = [f"user{number}" for number in range(12)]

    def add(name: str) -> None:
        change_key(path, name, lambda ring: {"sha256": digest(name).hex()})

    threads = [threading.Thread(target=add, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in load(path).keys} == {*names, "anna", "bob", "carl"}
    assert path.read_text().startswith(without(TEAM, "# end\n"))
