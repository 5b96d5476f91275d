"""Messages, as Anthropic's own client sees them."""

from typing import Any

from tests.server.clients import PARAMETERS, PARIS, RED_CIRCLE, SPELL, WEATHER, picture


def test_anthropic_messages(claude: Any) -> None:
    def ask(messages: Any, **options: Any) -> Any:
        extra = {"temperature": 0} | options.pop("extra_body", {})
        return claude.messages.create(model="box", max_tokens=100, messages=messages, extra_body=extra, **options)

    found = ask(SPELL, system="You are small.")
    assert (found.content[0].text, found.stop_reason) == ("s-t-a-r.", "end_turn")
    data = picture(RED_CIRCLE).partition(",")[2]
    source = {"type": "base64", "media_type": "image/png", "data": data}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "Describe the picture."}]
    assert ask([{"role": "user", "content": content}]).content[0].text == "A red circle."
    tools = [{"name": "get_weather", "description": WEATHER["description"], "input_schema": PARAMETERS}]
    called = ask(PARIS, tools=tools)
    assert called.stop_reason == "tool_use"
    (use,) = called.content
    assert (use.name, use.input) == ("get_weather", {"city": "Paris"})
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
    turns = [*PARIS, {"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
    assert ask(turns, tools=tools).content[0].text == "In Paris it is sunny."
    stopped = ask(SPELL, stop_sequences=["-a"])
    assert (stopped.content[0].text, stopped.stop_reason, stopped.stop_sequence) == ("s-t", "stop_sequence", "-a")
    thinking = ask(SPELL, thinking={"type": "enabled", "budget_tokens": 1024})
    assert [block.type for block in thinking.content] == ["thinking", "text"]
    again = ask([*SPELL, {"role": "assistant", "content": thinking.content}, *SPELL])
    assert again.content[-1].text == "s-t-a-r."
    assert again.usage.cache_read_input_tokens > 0
    with claude.messages.stream(model="box", max_tokens=100, messages=SPELL) as stream:
        assert "".join(stream.text_stream) == "s-t-a-r."
        assert stream.get_final_message().usage.output_tokens == found.usage.output_tokens
    with claude.messages.stream(model="box", max_tokens=100, messages=PARIS, tools=tools) as stream:
        assert stream.get_final_message().content[0].input == {"city": "Paris"}
    counted = claude.messages.count_tokens(model="box", messages=SPELL, system="You are small.")
    assert counted.input_tokens == found.usage.input_tokens + found.usage.cache_read_input_tokens


def test_a_prompt_is_read_for_later_requests(claude: Any) -> None:
    """With no token to write, as Anthropic's documentation has it."""
    asked = {"model": "box", "messages": SPELL, "system": "You are read ahead."}
    read = claude.messages.create(max_tokens=0, **asked)
    assert (read.content, read.stop_reason, read.usage.output_tokens) == ([], "max_tokens", 0)
    answered = claude.messages.create(max_tokens=100, **asked)
    assert answered.content[0].text == "s-t-a-r."
    assert answered.usage.cache_read_input_tokens > read.usage.cache_read_input_tokens
