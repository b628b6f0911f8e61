"""What a body must look like: each refusal names its field, and nothing else is refused."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import InvalidRequest
from gateway.translate.request_check import MAX_MESSAGES, check_request

GOOD: dict[str, Any] = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}


def with_content(content: Any) -> dict[str, Any]:
    return {**GOOD, "messages": [{"role": "user", "content": content}]}


# body -> how the message begins
REFUSED: dict[str, tuple[Any, str]] = {
    "a list": ([], "body: "),
    "nothing": (None, "body: "),
    "no model": ({**GOOD, "model": None}, "model: Field required"),
    "an empty model": ({**GOOD, "model": ""}, "model: "),
    "a model that is no text": ({**GOOD, "model": 7}, "model: Input should be a string"),
    "no max_tokens": ({**GOOD, "max_tokens": None}, "max_tokens: Field required"),
    "max_tokens true": ({**GOOD, "max_tokens": True}, "max_tokens: Input should be an integer"),
    "half a token": ({**GOOD, "max_tokens": 1.5}, "max_tokens: Input should be an integer"),
    "no token": ({**GOOD, "max_tokens": 0}, "max_tokens: Input should be greater than"),
    **{
        f"{name}: {value!r}": ({**GOOD, name: value}, f"{name}: ")
        for name, value in [
            *(("stream", "true"), ("stream", 1), ("system", 7), ("system", {}), ("tools", {}), ("tool_choice", "any")),
            *(("stop_sequences", "x"), ("temperature", "1"), ("temperature", True), ("top_p", []), ("top_k", 1.5)),
            *(("metadata", "x"), ("thinking", True), ("output_config", [])),
        ]
    },
    "no messages": ({**GOOD, "messages": None}, "messages: Field required"),
    "messages in an object": ({**GOOD, "messages": {}}, "messages: Input should be a list"),
    "not one message": ({**GOOD, "messages": []}, "messages: at least one"),
    "a message that is text": ({**GOOD, "messages": [*GOOD["messages"], "hi"]}, "messages[1]: "),
    "no role": ({**GOOD, "messages": [{"content": "hi"}]}, "messages[0].role: "),
    "no content": ({**GOOD, "messages": [{"role": "user"}]}, "messages[0].content: "),
    "content in an object": (with_content({}), "messages[0].content: "),
    "a block that is text": (with_content(["hi"]), "messages[0].content[0]: "),
    "a block without a type": (with_content([{"type": "text", "text": "a"}, {}]), "messages[0].content[1]: "),
    "text that is none": (with_content([{"type": "text", "text": 7}]), "messages[0].content[0].text: "),
}


@pytest.mark.parametrize(("body", "said"), REFUSED.values(), ids=REFUSED)
def test_refused_by_its_field(body: Any, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_request(body)
    assert caught.value.message.startswith(said)
    assert caught.value.status == 400


def test_too_many_messages() -> None:
    with pytest.raises(InvalidRequest, match=f"at most {MAX_MESSAGES}"):
        check_request({**GOOD, "messages": GOOD["messages"] * (MAX_MESSAGES + 1)})


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"field_of_tomorrow": {"a": 1}},
        {"system": None, "tools": None, "stream": None, "temperature": None},
        {"temperature": 1, "top_p": 0.5, "top_k": 5, "stream": True, "system": "x"},
        {"messages": [{"role": "role of tomorrow", "content": [{"type": "block_of_tomorrow"}]}]},
        {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": []}]},
    ],
)
def test_the_rest_is_taken_as_it_is(more: dict[str, Any]) -> None:
    body = {**GOOD, **more}
    assert check_request(body) is body


def test_counting_needs_no_max_tokens() -> None:
    body = {name: value for name, value in GOOD.items() if name != "max_tokens"}
    assert check_request(body, needs_max_tokens=False) is body
