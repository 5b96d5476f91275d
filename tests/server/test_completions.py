"""Plain completions, as OpenAI's own client sees them."""

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
