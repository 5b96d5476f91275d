"""The names of options, for type checkers and at run time."""

from dataclasses import fields

import pytest

from mlx_qwen35.answers.options import GenerationOptions, Sampling, check_names
from mlx_qwen35.answers.sampling import SamplingOptions
from mlx_qwen35.errors import OptionError


def test_what_is_sampled_with_may_be_asked_for() -> None:
    assert list(Sampling.__annotations__) == [field.name for field in fields(SamplingOptions)]


def test_unknown_options_are_refused_with_all_that_there_are() -> None:
    check_names({"temperature": 1, "stop": "."}, GenerationOptions)
    with pytest.raises(OptionError) as refused:
        check_names({"temprature": 1, "stop": "."}, GenerationOptions)
    message = str(refused.value)
    assert message.startswith("unknown option temprature: expected one of cache_prompt, ")
    assert message.endswith("; did you mean temperature?")
    assert [name for name in GenerationOptions.__annotations__ if f" {name}" not in message] == []


def test_a_name_like_no_other_gets_no_hint() -> None:
    with pytest.raises(OptionError, match="unknown option a, xyz: .*top_p$"):
        check_names({"xyz": 1, "a": 2}, GenerationOptions)
