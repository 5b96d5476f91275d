"""Every kind of conversation through the templates of Qwen3.5, 3.6 and 3.8, against transformers, token for token."""

import re
from pathlib import Path
from typing import Any

import pytest

from mlx_qwen35.errors import PromptError
from mlx_qwen35.prompts.messages import render_messages
from mlx_qwen35.prompts.templates import ChatTemplate
from mlx_qwen35.prompts.tokenizer import Tokenizer
from tests.prompts.families import OURS, PUBLISHED, PUBLISHED_AS, SHARED, TEMPLATES, with_template
from tests.tiny import write_tokenizer

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Wie's <wird> & bleibt",
            "parameters": {"type": "object", "properties": {"city": {"enum": ["Zürich", None, True, 1.5]}}},
        },
    }
    for name in ("weather", "search")
]  # fmt: skip


def user(text: str = "what is it?", *, pictures: int = 0) -> dict[str, Any]:
    parts = [{"type": "image"}] * pictures + [{"type": "text", "text": text}]
    return {"role": "user", "content": parts if pictures else text}


def system(content: Any = " be kind \n") -> dict[str, Any]:
    return {"role": "system", "content": content}


def answer(content: Any = "it is a fox", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def call(name: str = "weather", **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def result(content: Any = "sunny") -> dict[str, Any]:
    return {"role": "tool", "content": content}


ODD = {"yes": True, "no": False, "none": None, "n": 1.5, "s": "a\nb", "l": [1, "x", None], "o": {"a": [True]}, "e": ""}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "a question": [user()],
    "a question with spaces": [user("  a question\n\n ")],
    "a system message": [system(), user()],
    "an empty system message": [system(""), user()],
    "a system message in parts": [system([{"type": "text", "text": "be"}, {"type": "text", "text": " kind"}]), user()],
    "several turns without reasoning": [system(), user("one"), answer("two"), user("three"), answer("four"), user()],
    "several turns with reasoning": [
        user("one"), answer("two", reasoning_content="hm\n"), user("three"),
        answer("four", reasoning_content="so"), user(),
    ],
    "some turns with reasoning": [user("one"), answer("two"), user("three"), answer("four", reasoning="so"), user()],
    "reasoning under an older name": [user("one"), answer("two", thinking="hm", reasoning="not this"), user()],
    "empty reasoning": [user("one"), answer("two", reasoning_content=""), user()],
    "an answer at the end": [user(), answer("it", reasoning_content="hm")],
    "an answer in parts": [user(), answer([{"type": "text", "text": "it "}, {"type": "text", "text": "is"}]), user()],
    "one call": [user(), answer("", tool_calls=[call(city="Zürich")]), result()],
    "one call and a text": [user(), answer("I look", reasoning_content="hm", tool_calls=[call(city="x")]), result()],
    "a call of nothing": [user(), answer(None, tool_calls=[call()]), result()],
    "odd arguments": [user(), answer("", tool_calls=[call(**ODD)]), result()],
    "several calls": [
        user(), answer("", reasoning_content="hm", tool_calls=[call(city="a"), call("search", q="b")]),
        result("1"), result("2"),
    ],
    "a loop of calls": [
        system(), user("one"),
        answer("", reasoning_content="first", tool_calls=[call(a=True)]), result("1"),
        answer("then", reasoning_content="second", tool_calls=[call(b=None), call(c=[False])]),
        result("2"), result("3"),
        answer("done", reasoning_content="third"), user("thanks"),
    ],
    "a loop of calls, reasoning not sent back": [
        user("one"), answer("", tool_calls=[call(a=1)]), result("1"),
        answer("then", tool_calls=[call(b=2)]), result("2"),
    ],
    "a call without a result": [user(), answer("", tool_calls=[call(city="a")]), user("never mind")],
    "pictures in a question": [user("which?", pictures=2)],
    "pictures in several turns": [user(pictures=1), answer("a"), user("and?", pictures=2), answer("b"), user()],
    "pictures in a result": [
        user(), answer("", tool_calls=[call()]), result([{"type": "image"}, {"type": "text", "text": " a picture "}]),
    ],
    "a picture in an answer": [user(), answer([{"type": "image"}, {"type": "text", "text": "a"}]), user()],
    "a picture in a system message": [system([{"type": "image"}]), user()],
    "a result as a question": [user("<x>a</x>"), answer("", tool_calls=[call()]), user(" <x>b</x>"), result("c")],
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "closed": {"add_generation_prompt": False},
    "thinking": {"enable_thinking": True},
    "not thinking": {"enable_thinking": False},
    "tools": {"tools": TOOLS},
    "tools, not thinking": {"tools": TOOLS, "enable_thinking": False},
    "thinking kept": {"preserve_thinking": True},
    "thinking dropped": {"preserve_thinking": False},
    "numbered pictures": {"add_vision_id": True},
    **{f"effort {effort}": {"reasoning_effort": effort} for effort in ("low", "medium", "xhigh", "high")},
    "low effort with tools": {"reasoning_effort": "low", "tools": TOOLS},
    "an effort that does not count": {"reasoning_effort": "high", "enable_thinking": False},
}
ARGUMENTS = ("add_generation_prompt", "enable_thinking", "tools")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    return Tokenizer(directory)


@pytest.mark.some(20)
@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_conversation_is_rendered_as_transformers_renders_it(
    tokenizer: Tokenizer, reference_tokenizer: Any, template: str, conversation: list[dict[str, Any]]
) -> None:
    """Equal ids with every option, or both refuse, against `apply_chat_template`."""
    ours = with_template(tokenizer, template)
    for name, options in OPTIONS.items():
        given: dict[str, Any] = {"add_generation_prompt": True, **options}
        arguments = {key: value for key, value in given.items() if key in ARGUMENTS}
        further = {key: value for key, value in given.items() if key not in ARGUMENTS}
        try:
            expected = reference_tokenizer.apply_chat_template(
                conversation, chat_template=template, return_dict=False, **given
            )
        except Exception as error:
            with pytest.raises(PromptError, match=re.escape(str(error))):
                render_messages(ours, conversation, **arguments, chat_template_kwargs=further)
        else:
            found = render_messages(ours, conversation, **arguments, chat_template_kwargs=further)
            assert found.input_ids == expected, name


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_where_nobody_asked_an_empty_question_is_rendered_as_transformers_renders_it(
    tokenizer: Tokenizer, reference_tokenizer: Any, template: str
) -> None:
    """Templates that refuse a conversation without a question get one; others render it as it is."""
    try:
        asked = [answer("a")]
        reference_tokenizer.apply_chat_template(asked, chat_template=template, add_generation_prompt=True)
    except Exception:
        asked = [user(""), answer("a")]
    expected = reference_tokenizer.apply_chat_template(
        asked, chat_template=template, return_dict=False, add_generation_prompt=True
    )
    assert render_messages(with_template(tokenizer, template), [answer("a")]).input_ids == expected


def in_our_words(text: str) -> str:
    """A published template's text with the sentences of ours, and neither with how calls are to be written."""
    text = re.sub(r"Reasoning effort is set to xhigh\.[^\n<]*", "Think for long.", text)
    text = re.sub(r"Reasoning effort is set to low\.[^\n<]*", "Think briefly.", text)
    return re.sub(
        r"</tools>.*?(</IMPORTANT>|write nothing after it:.*?</tool_call>)", "</tools>", text, flags=re.DOTALL
    )


@pytest.mark.parametrize("version", PUBLISHED_AS)
def test_our_templates_behave_as_the_published_ones(version: str) -> None:
    """Equal texts but for the wording of instructions, or both refuse: so the tests above say as much without them."""
    if version not in PUBLISHED:
        pytest.skip(f"needs the published templates in ../{SHARED.parent.name}/{SHARED.name}/")
    ours, theirs = ChatTemplate(OURS[version]), ChatTemplate(PUBLISHED[version])
    compared = 0
    for name, conversation in CONVERSATIONS.items():
        for options in OPTIONS.values():
            given = {"add_generation_prompt": True, **options}
            if "add_vision_id" in given:
                continue  # ours has no numbers
            plain = [
                {**message, "reasoning_content": message["reasoning"]} if "reasoning" in message else message
                for message in conversation
            ]
            try:
                expected = in_our_words(theirs.render(plain, **given))
            except Exception:
                with pytest.raises(Exception, match=r"."):
                    ours.render(plain, **given)
            else:
                assert in_our_words(ours.render(plain, **given)) == expected, (name, options)
            compared += 1
    assert compared == len(CONVERSATIONS) * (len(OPTIONS) - 1)


@pytest.mark.parametrize(
    ("version", "kept"), [("3.5", [False] * 3), ("3.6", [False, True, False]), ("3.8", [True, True, False])]
)
def test_earlier_reasoning_stays_as_each_generation_has_it(version: str, kept: list[bool]) -> None:
    """Without `preserve_thinking`, with true and with false."""
    template = ChatTemplate(OURS[version])
    conversation = CONVERSATIONS["several turns with reasoning"]
    texts = [
        template.render(conversation, **options)
        for options in ({}, OPTIONS["thinking kept"], OPTIONS["thinking dropped"])
    ]
    assert ["<think>\nhm\n</think>\n\ntwo" in text for text in texts] == kept
    # Not sent back, it is empty where it would stay.
    empty = template.render(CONVERSATIONS["several turns without reasoning"])
    assert ("<think>\n\n</think>\n\ntwo" in empty) == kept[0]


@pytest.mark.parametrize(("version", "splits"), [("3.5", True), ("3.6", True), ("3.8", False)])
@pytest.mark.parametrize("form", [str, lambda text: [{"type": "text", "text": text}]], ids=["text", "parts"])
def test_a_think_block_in_a_text_is_reasoning_where_the_template_says_so(
    tokenizer: Tokenizer, version: str, splits: bool, form: Any
) -> None:
    ours = with_template(tokenizer, OURS[version])
    assert ours.template.splits_reasoning == splits
    inside = [user(), answer(form("<think>\nhm\n</think>\n\nit is"))]
    apart = [user(), answer("it is", reasoning_content="hm")]
    found, expected = (
        render_messages(ours, messages, add_generation_prompt=False).input_ids for messages in (inside, apart)
    )
    assert (found == expected) == splits
    thoughts = tokenizer.control_id("</think>")
    assert found.count(thoughts) == expected.count(thoughts) == 1
    assert splits or "<think>\nhm\n</think>\n\nit is" in tokenizer.decode(found)


@pytest.mark.parametrize("version", ["3.5", "3.6"])
@pytest.mark.parametrize(
    "content", ["<think>hm</think> two", " <think> hm </think>\n  two \n", "hm</think>a</think> b"]
)
@pytest.mark.parametrize("tail", [[], [user()]], ids=["last turn", "earlier turn"])
def test_what_is_trimmed_around_a_think_block_is_for_the_template_to_say(
    tokenizer: Tokenizer, reference_tokenizer: Any, version: str, content: str, tail: list[dict[str, Any]]
) -> None:
    messages = [user(), answer(content), *tail]
    expected = reference_tokenizer.apply_chat_template(messages, chat_template=OURS[version], return_dict=False)
    found = render_messages(with_template(tokenizer, OURS[version]), messages, add_generation_prompt=False)
    assert found.input_ids == expected


@pytest.mark.parametrize(
    "source", ["{{ 1 / 0 }}", "{% if messages|length > 1 %}{{ raise_exception('no') }}{% endif %}"]
)
def test_a_template_that_refuses_to_be_asked_splits(source: str) -> None:
    assert ChatTemplate(source).splits_reasoning


def test_efforts_reach_the_template_that_knows_them(tokenizer: Tokenizer) -> None:
    ours = with_template(tokenizer, OURS["3.8"])
    texts = [
        tokenizer.decode(render_messages(ours, [user()], chat_template_kwargs={"reasoning_effort": effort}).input_ids)
        for effort in ("xhigh", "medium", "low")
    ]
    assert ["Think for long." in text for text in texts] == [True, False, False]
    assert ["Think briefly." in text for text in texts] == [False, False, True]
    with pytest.raises(PromptError, match="Unexpected effort high"):
        render_messages(ours, [user()], chat_template_kwargs={"reasoning_effort": "high"})


def test_published_templates_are_not_in_the_repository() -> None:
    root = Path(__file__).parents[2]
    committed = {path.read_text() for path in root.rglob("*.jinja") if ".venv" not in path.parts}
    assert not committed & set(PUBLISHED.values())
