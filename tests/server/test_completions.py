"""Plain completions, as OpenAI's own client sees them."""

import json
from typing import Any


def test_completions(client: Any) -> None:
    prompts = [
        "<|im_start|>user\nSpell the word star.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "1, 2",
    ]
    found = client.completions.create(model="box", prompt=prompts, temperature=0, max_tokens=20, logprobs=2)
    assert [choice.index for choice in found.choices] == [0, 1]
    assert found.choices[0].text == "s-t-a-r."
    scores = found.choices[0].logprobs
    assert len(scores.tokens) == len(scores.token_logprobs) == len(scores.top_logprobs) == len(scores.text_offset)
    held = client.completions.create(
        model="box", prompt=prompts[0], temperature=0, max_tokens=20, logprobs=0, stop=["-s", "t-a-x"]
    ).choices[0]
    places = zip(held.logprobs.tokens[:-1], held.logprobs.text_offset, strict=False)
    assert all(held.text.startswith(token, at) for token, at in places), held
    chunks = list(client.completions.create(model="box", prompt=prompts[0], temperature=0, max_tokens=20, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "s-t-a-r."


def test_a_prompt_is_echoed_with_the_log_probabilities_of_its_tokens(client: Any) -> None:
    """As others' programs score texts; the same tokens as an answer have the same values."""
    prompt = "<|im_start|>user\nSpell the word star.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    answer = client.completions.create(model="box", prompt=prompt, temperature=0, max_tokens=5, logprobs=1).choices[0]
    scored = client.completions.create(
        model="box", prompt=prompt + answer.text, temperature=0, max_tokens=0, logprobs=1, echo=True
    )
    (choice,) = scored.choices
    assert (choice.text, choice.finish_reason) == (prompt + answer.text, "length")
    own, found = answer.logprobs, choice.logprobs
    assert found.tokens[-len(own.tokens) :] == own.tokens
    for one, other in zip(own.token_logprobs, found.token_logprobs[-len(own.tokens) :], strict=True):
        assert abs(one - other) < 1e-3
    assert found.token_logprobs[0] is None
    assert all(choice.text.startswith(token, at) for token, at in zip(found.tokens, found.text_offset, strict=True))
    assert scored.usage.completion_tokens == 0
    assert scored.usage.prompt_tokens == len(found.tokens)
    assert scored.usage.prompt_tokens_details.cached_tokens == 0


def test_an_answer_follows_a_schema(client: Any) -> None:
    """Every prompt's does, and an echo stands in front of it as it is."""
    schema = {"type": "object", "properties": {"letters": {"type": "integer"}}, "required": ["letters"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "count", "schema": schema}}
    found = client.completions.create(
        model="box", prompt=["1, 2", "Once"], temperature=0, max_tokens=40, echo=True,
        extra_body={"response_format": wanted},
    )  # fmt: skip
    for choice, prompt in zip(found.choices, ("1, 2", "Once"), strict=True):
        assert choice.text.startswith(prompt)
        assert list(json.loads(choice.text.removeprefix(prompt))) == ["letters"]
