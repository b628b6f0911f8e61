"""Refusals that a second attempt can mend: the table in tests/cases/rejected_parameters.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from gateway.profile import Profile, merge
from gateway.routing import Provider, Target
from gateway.server.learned import Learned
from gateway.translate.rejected_parameter import amendment
from gateway.translate.upstream_errors import ErrorContext, http_error

CASES = yaml.safe_load((Path(__file__).parent / "cases" / "rejected_parameters.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_case(case: dict[str, Any]) -> None:
    body = case["body"].encode() if isinstance(case["body"], str) else orjson.dumps(case["body"])
    status = case.get("status", 400)
    error = http_error(status, {}, body, ErrorContext("p", "m", "asked"))
    profile = merge(Profile(), case.get("profile", {}))
    found = amendment(status, body, error.message, orjson.dumps(case["sent"]), profile)
    expected = case.get("layer")
    if expected is None:
        assert found is None
        return
    assert found is not None
    layer = {name: list(value) if isinstance(value, tuple) else value for name, value in found.layer.items()}
    assert layer == expected
    assert found.remember is not case.get("forgotten", False)


def test_what_was_learned_adds_up_and_is_told_once() -> None:
    learned = Learned()
    target = Target(Provider("p", "openai-chat", "http://h/v1"), "m", Profile(drop_fields=("user",)))
    assert learned.add("p/m", {"drop_fields": ("top_p",)})
    assert not learned.add("p/m", {"drop_fields": ("top_p",)})
    assert learned.add("p/m", {"drop_fields": ("stop",), "max_tokens_field": "max_completion_tokens"})
    profile = learned.apply(target).profile
    assert profile.drop_fields == ("user", "top_p", "stop")
    assert profile.max_tokens_field == "max_completion_tokens"
    learned.clear()
    assert learned.apply(target) is target
