"""What a profile becomes on Ollama's wire is worked out once for each profile, and never taken for another's."""

from __future__ import annotations

import pytest

from gateway.translate import ollama_request
from gateway.translate.ollama_request import on_this_wire
from tests.recordings import target_of, with_profile

TARGET = target_of("generic", "ollama")


def test_it_is_made_once() -> None:
    profile = TARGET.profile
    assert on_this_wire(profile, "auto") is on_this_wire(profile, "auto")
    assert on_this_wire(profile, "auto").tool_choice == "auto"
    assert on_this_wire(profile, "string").tool_choice == "string"


def test_each_profile_has_its_own() -> None:
    for number in range(1, 300):  # gone at once: the next may lie at the same place in memory
        profile = with_profile(TARGET, {"max_output_tokens": number}).profile
        assert on_this_wire(profile, "auto").max_output_tokens == number
        del profile


def test_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama_request, "_MOST_FITTED", 3)
    monkeypatch.setattr(ollama_request, "_FITTED", {})
    profiles = [with_profile(TARGET, {"max_output_tokens": number}).profile for number in range(1, 9)]
    for profile in profiles:
        on_this_wire(profile, "auto")
        assert len(ollama_request._FITTED) <= 3
