"""A finished answer from the chunks of its stream."""

from typing import Any

import pytest

from mlx_qwen35.answers.results import GenerationChunk, GenerationResult, GenerationStats, TokenLogprob

STATS = GenerationStats(9, 4, 3, 1, 0, 3, 100.0, 50.0, 0.25, 1000, 200)
TOPS = (TokenLogprob(5, "a", -0.5), TokenLogprob(6, "b", -1.5))


def chunks(**scores: Any) -> list[GenerationChunk]:
    return [
        GenerationChunk("", "so", 5, in_reasoning=True, **scores),
        GenerationChunk("a", " it", 6, **scores),
        GenerationChunk("b", "", 7, finish_reason="length", stats=STATS, **scores),
    ]


def test_the_chunks_put_together() -> None:
    assert GenerationResult.from_chunks(chunks()) == GenerationResult("ab", "so it", (5, 6, 7), "length", STATS)


def test_log_probabilities_where_they_were_asked_for() -> None:
    found = GenerationResult.from_chunks(chunks(logprob=0.0, top_logprobs=TOPS))
    assert (found.logprobs, found.top_logprobs) == ((0.0,) * 3, (TOPS,) * 3)
    found = GenerationResult.from_chunks(chunks(logprob=-0.5))
    assert (found.logprobs, found.top_logprobs) == ((-0.5,) * 3, None)


def test_a_stream_that_was_not_read_to_its_end_is_no_answer() -> None:
    with pytest.raises(AssertionError, match="the stream was not read to its end"):
        GenerationResult.from_chunks(chunks()[:-1])


def test_what_is_shown_of_them_is_short() -> None:
    first, _, last = chunks()
    assert repr(first) == "GenerationChunk(text='', reasoning='so', token=5, in_reasoning=True)"
    assert repr(GenerationChunk("a", "", 0)) == "GenerationChunk(text='a', token=0)"
    assert "finish_reason='length', stats=GenerationStats(" in repr(last)
    result = GenerationResult.from_chunks(chunks())
    assert repr(result) == (
        "GenerationResult(text='ab', reasoning='so it', 3 tokens at 50.0 tokens/s, finish_reason='length')"
    )
    long = GenerationResult("a" * 9999, "", tuple(range(9999)), "stop", STATS)
    assert len(repr(long)) < 250


def test_a_notebook_shows_the_answer() -> None:
    assert GenerationResult("**ab**", "so", (5,), "stop", STATS)._repr_markdown_() == "**ab**"
