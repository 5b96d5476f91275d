"""What programs of other people send: each gets an answer, and is told what changed nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.server.app import MAX_NAMED, UNUSED_HEADER
from mlx_qwen35.server.bodies import parse_body
from mlx_qwen35.server.protocols import PROTOCOLS
from mlx_qwen35.server.stored import StoredResponses
from mlx_qwen35.server.wire import ApiError, unused_fields
from tests.server.clients import PARAMETERS, SPELL, WEATHER, raw
from tests.server.conftest import Running, serving

SHARED = Path(__file__).parents[3] / "shared" / "requests"
RECORDED = sorted(SHARED.glob("*.json"))
# Those in which everything is honoured.
PLAIN = ("ai-sdk-responses-1", "ai-sdk-responses-2", "cline", "opencode", "pydantic-ai")
EPHEMERAL = {"type": "ephemeral"}
FUNCTION = {"type": "function", "function": {**WEATHER, "strict": True}}

# As coding agents and libraries send them, with words of our own: path, body, and what has to be named.
SKELETONS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "an agent over Anthropic's protocol": (
        "/v1/messages?beta=true",
        {
            "model": "any-name-at-all", "max_tokens": 8, "thinking": {"type": "adaptive", "display": "summarized"},
            "output_config": {"effort": "high"}, "metadata": {"user_id": "me"},
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            "system": [
                {"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=12ab;"},
                {"type": "text", "text": "Be brief.", "cache_control": EPHEMERAL},
            ],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Hello!", "cache_control": EPHEMERAL}]},
                {"role": "system", "content": "<total_tokens>9000 tokens left</total_tokens>"},
                {"role": "system", "content": "The user may be in a hurry."},
            ],
            "tools": [
                {"name": "get_weather", "input_schema": PARAMETERS, "eager_input_streaming": True},
                {"type": "web_search_20250305", "name": "web_search", "max_uses": 5},
            ],
        },
        ["context_management", "metadata", "thinking.display", "tools.eager_input_streaming",
         "tools.web_search_20250305", "messages.content.cache_control", "system.cache_control"],
    ),
    "an agent over responses": (
        "/v1/responses",
        {
            "model": "any", "store": False, "include": ["reasoning.encrypted_content"], "prompt_cache_key": "key",
            "client_metadata": {"turn": "1"}, "reasoning": {"summary": "auto"}, "max_output_tokens": 8,
            "text": {"verbosity": "low"},
            "input": [
                {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
                {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]},
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello!"}]},
            ],
            "tools": [
                {"type": "function", **WEATHER, "strict": False},
                {"type": "namespace", "name": "agents", "description": "Others.",
                 "tools": [{"type": "function", "name": "close", "parameters": PARAMETERS}]},
                {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "definition": "x"}},
                {"type": "web_search", "external_web_access": False},
            ],
        },
        ["client_metadata", "prompt_cache_key", "text.verbosity", "tools.web_search"],
    ),
    "two system messages": (
        "/v1/chat/completions",
        {
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "system", "content": "Be nice."}, *SPELL],
            "tools": [FUNCTION], "tool_choice": "auto", "max_tokens": 8, "user": "me", "future_field": {"a": 1},
        },
        ["future_field", "user"],
    ),
    "a speaker's name and a result that failed": (
        "/v1/messages",
        {
            "model": "box", "max_tokens": 8,
            "messages": [
                {"role": "user", "content": "Hello!"},
                {"role": "assistant", "content": [
                    {"type": "redacted_thinking", "data": "AAAA"},
                    {"type": "thinking", "thinking": "so", "signature": "x"},
                    {"type": "tool_use", "id": "t", "name": "get_weather", "input": {"city": "Paris"}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t", "is_error": True, "content": [
                        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "no"}},
                        {"type": "search_result", "source": "s", "title": "t",
                         "content": [{"type": "text", "text": "a"}]},
                    ]}]},
            ],
            "tools": [{"name": "get_weather", "input_schema": PARAMETERS}],
        },
        ["messages.content.is_error", "messages.content.redacted_thinking", "messages.content.signature"],
    ),
}  # fmt: skip


def unused_in(headers: dict[str, str]) -> list[str]:
    """What a response names as having changed nothing."""
    return {key.lower(): value for key, value in headers.items()}.get(UNUSED_HEADER.lower(), "").split(", ")


@pytest.mark.some(1)
@pytest.mark.parametrize("name", SKELETONS)
def test_what_programs_send_is_answered(server: Running, name: str) -> None:
    path, body, named = SKELETONS[name]
    status, headers, text = raw(server.url, path, body)
    assert status == 200, text
    assert set(named) <= set(unused_in(headers))
    status, headers, text = raw(server.url, path, {**body, "stream": True})
    assert status == 200, text
    assert "event: error" not in text
    assert unused_in(headers) != [""]


@pytest.mark.skipif(not RECORDED, reason=f"needs the recorded requests in {SHARED.name}/")
@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_requests_are_understood(server: Running, path: Path) -> None:
    """Everything up to reading the prompt, which is longer than the model's context and takes its time.

    But for one that refers to a response of another server: that is gone, and it is told so.
    """
    recorded = json.loads(path.read_text())
    (protocol,) = (one for one in PROTOCOLS if one.path == recorded["path"].partition("?")[0])
    body = parse_body(json.dumps(recorded["body"]).encode(), protocol.body)
    assert unused_fields(body) or path.stem in PLAIN
    if any(item.get("type") == "item_reference" for item in recorded["body"].get("input", ())):
        with pytest.raises(ApiError, match="is stored; it is gone, or was never stored") as error:
            body.resolve(StoredResponses())
        assert error.value.status == 404
        return
    body.resolve(StoredResponses())
    (wanted,) = body.generation_requests()
    prompt = server.service._prompt(wanted)
    assert len(prompt.input_ids) > 10


def test_a_strict_server_refuses_what_changes_nothing(box: ModelKit) -> None:
    with serving(box, strict=True) as running:
        body = {"messages": SPELL, "max_tokens": 1}
        assert raw(running.url, "/v1/chat/completions", body)[0] == 200
        status, _, text = raw(running.url, "/v1/chat/completions", {**body, "user": "me", "nonsense": 1})
        assert status == 400
        expected = "nonsense, user: no effect here, and refused because of --strict"
        assert json.loads(text)["error"]["message"] == expected


def test_what_changes_nothing_is_counted(server: Running) -> None:
    """By its name if the protocol has it; what a client invents is no label."""
    body = {"messages": SPELL, "max_tokens": 1, "service_tier": "flex", "made-up \u00e9\n": 1}
    _, headers, _ = raw(server.url, "/v1/chat/completions", body)
    assert {key.lower(): value for key, value in headers.items()}[
        UNUSED_HEADER.lower()
    ] == "made-up \\xe9?, service_tier"
    lines = raw(server.url, "/metrics")[2].splitlines()
    found = {line.split("{")[1].split("}")[0] for line in lines if line.startswith("mlx_qwen35_unused_fields_total")}
    assert 'field="service_tier",path="/v1/chat/completions"' in found
    assert 'field="unknown",path="/v1/chat/completions"' in found
    assert "made-up" not in str(found)


def test_of_much_that_changes_nothing_some_is_named(server: Running) -> None:
    """A header has no room for all of it."""
    body = {"messages": SPELL, "max_tokens": 1, **{f"made_up_{number:03}": 1 for number in range(100)}}
    _, headers, _ = raw(server.url, "/v1/chat/completions", body)
    assert unused_in(headers) == [f"made_up_{number:03}" for number in range(MAX_NAMED)]


def test_what_says_that_it_is_not_wanted_is_accepted(server: Running) -> None:
    body = {"messages": SPELL, "max_tokens": 1, "functions": [], "guided_json": None, "echo": False, "user": None}
    status, headers, text = raw(server.url, "/v1/chat/completions", body)
    assert status == 200, text
    assert "user" not in unused_in(headers)


@pytest.mark.thorough
def test_calls_of_other_kinds_of_tools_come_back_as_they_went(client: Any) -> None:
    """A function of a namespace, and a tool with free text, each forced."""
    weather = {"type": "function", **WEATHER}
    tools = [
        {"type": "namespace", "name": "earth", "description": "x", "tools": [weather]},
        {"type": "custom", "name": "write", "description": "Writes."},
    ]
    options: dict[str, Any] = {"model": "box", "temperature": 0.0, "reasoning": {"effort": "none"}, "tools": tools}
    found = client.responses.create(
        input="What is the weather in Paris?", tool_choice={"type": "function", "name": "earth__get_weather"}, **options
    )
    (call,) = (item for item in found.output if item.type == "function_call")
    assert (call.name, call.namespace) == ("get_weather", "earth")
    found = client.responses.create(
        input="Write!", tool_choice={"type": "custom", "name": "write"}, max_output_tokens=60, **options
    )
    items = [item for item in found.output if item.type == "custom_tool_call"]
    assert found.status == "incomplete" or items[0].name == "write"


def test_what_stood_before_a_stored_response_is_listed_page_by_page(client: Any) -> None:
    asked = [
        {"role": "user", "content": "Spell the word star."},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "s"},
    ]
    found = client.responses.create(model="box", input=asked, max_output_tokens=1)
    pages = [client.responses.input_items.list(found.id, limit=1)]
    while pages[-1].has_next_page():
        pages.append(pages[-1].get_next_page())
    listed = [item for page in pages for item in page.data]
    assert [item.type for item in listed] == ["function_call_output", "function_call", "message"]
    assert len({item.id for item in listed}) == 3
    assert [item.id for item in client.responses.input_items.list(found.id, order="asc")] == [
        item.id for item in reversed(listed)
    ]
    # Ids that the server gave can be referred to, and stay.
    reference = {"type": "item_reference", "id": listed[-1].id}
    again = client.responses.create(model="box", input=[reference], max_output_tokens=1)
    assert client.responses.input_items.list(again.id).data[0].id == listed[-1].id


def test_a_stored_response_is_not_streamed(client: Any) -> None:
    """An empty stream would look like an answer that has nothing to say."""
    found = client.responses.create(model="box", input="Hi", max_output_tokens=1)
    with pytest.raises(Exception, match="stream: expected none: what is stored is complete"):
        client.responses.retrieve(found.id, stream=True)


def test_a_stored_response_is_gone_on_with(client: Any, server: Running) -> None:
    options: dict[str, Any] = {"model": "box", "temperature": 0.0, "reasoning": {"effort": "none"}}
    first = client.responses.create(input="Spell the word star.", **options)
    assert first.store is True
    again = client.responses.retrieve(first.id)
    assert again.output_text == first.output_text
    (item,) = client.responses.input_items.list(first.id).data
    assert item.role == "user"
    second = client.responses.create(input="Spell the word moon.", previous_response_id=first.id, **options)
    whole = client.responses.create(
        input=[
            {"role": "user", "content": "Spell the word star."},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "Spell the word moon."},
        ],
        **options,
    )
    assert second.usage.input_tokens == whole.usage.input_tokens
    assert second.output_text == whole.output_text
    referred = client.responses.create(
        input=[
            {"role": "user", "content": "Spell the word star."},
            {"type": "item_reference", "id": first.output[0].id},
            {"role": "user", "content": "Spell the word moon."},
        ],
        **options,
    )
    assert referred.usage.input_tokens == whole.usage.input_tokens
    client.responses.delete(first.id)
    for method, path in (("GET", f"/v1/responses/{first.id}"), ("GET", "/v1/responses/resp_none")):
        assert method == "GET"
        status, _, text = raw(server.url, path)
        assert status == 404
        assert "it is gone, or was never stored" in json.loads(text)["error"]["message"]
    status, _, text = raw(server.url, "/v1/responses", {"input": "a", "previous_response_id": first.id})
    assert (status, json.loads(text)["error"]["param"]) == (404, "previous_response_id")
    kept = client.responses.create(input="Hello!", store=False, **options)
    assert raw(server.url, f"/v1/responses/{kept.id}")[0] == 404


def test_reasoning_goes_out_and_comes_back(client: Any, box: ModelKit) -> None:
    """As `encrypted_content` too, for clients that keep nothing else."""
    options: dict[str, Any] = {"model": "box", "temperature": 0.0, "store": False}
    found = client.responses.create(
        input="Spell the word star.", reasoning={"effort": "high"}, include=["reasoning.encrypted_content"], **options
    )
    reasoning = next(item for item in found.output if item.type == "reasoning")
    sealed = {"type": "reasoning", "id": reasoning.id, "summary": [], "encrypted_content": reasoning.encrypted_content}
    open_ = {
        "type": "reasoning",
        "id": reasoning.id,
        "summary": [],
        "content": [part.model_dump() for part in reasoning.content],
    }
    call = {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": '{"city": "Paris"}'}
    result = {"type": "function_call_output", "call_id": "c", "output": "sunny"}
    counts = [
        client.responses.create(
            input=[{"role": "user", "content": "Weather?"}, *items, call, result], max_output_tokens=1, **options
        ).usage.input_tokens
        for items in ([sealed], [open_], [])
    ]
    assert counts[0] == counts[1] > counts[2]


def test_old_responses_give_way(box: ModelKit) -> None:
    with serving(box, max_stored=2) as running:
        ids = []
        for word in ("star", "moon", "sun"):
            body = {"input": f"Spell the word {word}.", "max_output_tokens": 1}
            ids.append(json.loads(raw(running.url, "/v1/responses", body)[2])["id"])
        assert [raw(running.url, f"/v1/responses/{name}")[0] for name in ids] == [404, 200, 200]


def test_what_changes_with_every_request_costs_no_prefix(server: Running) -> None:
    """Claude Code's first line, and its counter."""

    def ask(number: int, *more: dict[str, Any]) -> dict[str, Any]:
        system = [
            {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2; cch={number:05x};"},
            {"type": "text", "text": "You are brief, and you are kind to everybody who asks you something."},
        ]
        counter = {"role": "system", "content": f"<total_tokens>{90_000 - number} tokens left</total_tokens>"}
        messages = [{"role": "user", "content": "Spell the word star."}, *more, counter]
        body = {"model": "m", "max_tokens": 12, "temperature": 0, "system": system, "messages": messages}
        found: dict[str, Any] = json.loads(raw(server.url, "/v1/messages", body)[2])
        return found

    first = ask(1)
    second = ask(
        2, {"role": "assistant", "content": first["content"][0]["text"]}, {"role": "user", "content": "Thanks."}
    )
    new = second["usage"]["input_tokens"]
    assert second["usage"]["cache_read_input_tokens"] > new


@pytest.mark.thorough
def test_models_have_the_shape_of_either_sdk(server: Running) -> None:
    anthropic = pytest.importorskip("anthropic", reason="needs the test extra")
    with anthropic.Anthropic(base_url=server.url, api_key="none") as client:
        (model,) = client.models.list().data
        assert (model.id, model.type, model.display_name) == ("box", "model", "box")
        assert model.created_at.year >= 2025
        assert client.models.retrieve("whatever").id == "whatever"
