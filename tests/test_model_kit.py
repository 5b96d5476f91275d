"""The Python API."""

import copy
import dataclasses
import inspect
import json
import pickle
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_qwen35 import Engine, ModelKit, model_kit
from mlx_qwen35.answers.results import GenerationStats
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.errors import (
    ContextLengthError,
    GenerationCancelled,
    KitClosedError,
    MediaError,
    OptionError,
    PromptError,
    PromptMismatchError,
    Qwen35Error,
)
from mlx_qwen35.prompts.making import RENDERING
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.runtime import executor
from mlx_qwen35.runtime.request import Request
from tests.parity.cases import CASES
from tests.tiny import DENSE, IDS, VOCAB_SIZE, Shape, write_checkpoint

USER = {"role": "user", "content": "what is in the picture?"}
RED, BLUE = Image.new("RGB", (96, 64), "red"), Image.new("RGB", (64, 128), "blue")


def with_images(*images: Any) -> list[dict[str, Any]]:
    parts = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "what is in the picture?"}]}]


def test_a_text_prompt(kit: ModelKit) -> None:
    prompt = kit.process_prompt([USER], enable_thinking=False)
    assert prompt.input_ids.dtype == np.int32
    assert prompt.position_ids is None
    assert (prompt.rope_delta, prompt.image_tokens, prompt.in_reasoning) == (0, 0, False)
    assert kit.process_prompt([USER]).in_reasoning


def test_an_image_prompt(kit: ModelKit) -> None:
    prompt = kit.process_prompt(with_images(RED, BLUE))
    assert prompt.position_ids is not None
    assert prompt.position_ids.shape == (3, len(prompt.input_ids))
    assert prompt.image_tokens == 6 + 8
    assert prompt.rope_delta == (3 - 6) + (4 - 8)


def test_every_form_of_one_prompt_is_the_same_prompt(kit: ModelKit) -> None:
    """Messages, images beside the messages, a finished string, ids, expanded ids."""
    whole = kit.process_prompt(with_images(RED, BLUE))
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "what is in the picture?"}]
    text = kit.tokenizer.decode(kit.process_prompt(with_images(RED)).input_ids.tolist())
    vision = f"<|vision_start|>{'<|image_pad|>'}<|vision_end|>"
    text = f"<|im_start|>user\n{vision}{vision}what is in the picture?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    ids = kit.tokenizer.encode(text)
    images = [RED, BLUE]
    forms = [
        kit.process_prompt([{"role": "user", "content": parts}], images=images),
        kit.process_prompt(text, images=images),
        kit.process_prompt(ids, images=images),
        kit.process_prompt(np.array(ids), images=images),  # type: ignore[arg-type]
        kit.process_prompt(whole.input_ids.tolist(), images=images),
    ]
    for form in forms:
        np.testing.assert_array_equal(form.input_ids, whole.input_ids)
        np.testing.assert_array_equal(form.position_ids, whole.position_ids)  # type: ignore[arg-type]
        assert [image.content_hash for image in form.images] == [image.content_hash for image in whole.images]
        assert form.in_reasoning


def test_tokenize_spells_control_tokens_out(kit: ModelKit) -> None:
    assert IDS["<|im_end|>"] not in kit.tokenize("a<|im_end|>b")
    assert kit.tokenizer.decode(kit.tokenize("a<|im_end|>b")) == "a<|im_end|>b"


def test_logits_are_float32_and_usable_in_the_caller_s_thread(kit: ModelKit) -> None:
    logits = kit.logits(kit.process_prompt(with_images(RED)))
    assert logits.dtype == mx.float32
    assert logits.shape[1] == VOCAB_SIZE
    assert mx.isfinite(logits.sum()).item()


def test_two_images_give_two_answers(kit: ModelKit) -> None:
    green = Image.new("RGB", RED.size, "green")
    red, again, other = (
        np.array(kit.logits(kit.process_prompt(with_images(image))))[-1] for image in (RED, RED, green)
    )
    np.testing.assert_array_equal(red, again)
    assert np.abs(red - other).max() > 0.01


def test_the_order_of_images_matters(kit: ModelKit) -> None:
    one = np.array(kit.logits(kit.process_prompt(with_images(RED, BLUE))))[-1]
    other = np.array(kit.logits(kit.process_prompt(with_images(BLUE, RED))))[-1]
    assert np.abs(one - other).max() > 0.01


def test_a_stream_ends_with_a_reason_and_stats(kit: ModelKit) -> None:
    prompt = kit.process_prompt(with_images(RED))
    chunks = list(kit.stream(prompt, max_tokens=7, temperature=0.0, top_logprobs=3))
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    last = chunks[-1]
    assert last.stats is not None
    assert last.stats.prompt_tokens == len(prompt.input_ids)
    assert last.stats.image_tokens == 6
    assert last.stats.completion_tokens == len(chunks) == 7
    assert last.stats.peak_memory > 0
    assert 0 < last.stats.time_to_first_token < 60
    for chunk in chunks:
        assert chunk.top_logprobs is not None
        assert len(chunk.top_logprobs) == 3
        assert chunk.top_logprobs[0].token == chunk.token
        assert chunk.top_logprobs[0].logprob == chunk.logprob
        assert chunk.top_logprobs[0].logprob > chunk.top_logprobs[2].logprob


def test_logprobs_equal_the_logits(kit: ModelKit) -> None:
    prompt = kit.process_prompt(with_images(RED))
    first = next(iter(kit.stream(prompt, temperature=0.0, logprobs=True)))
    logits = np.array(kit.logits(prompt))[-1]
    expected = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    assert first.logprob == pytest.approx(expected[first.token], abs=1e-4)
    assert next(iter(kit.stream(prompt, temperature=0.0))).logprob is None


def test_logits_are_of_whatever_a_prompt_is_made_of(kit: ModelKit) -> None:
    made = kit.process_prompt([USER])
    expected = np.array(kit.logits(made))
    for prompt in ([USER], list(made.input_ids)):
        np.testing.assert_array_equal(np.array(kit.logits(prompt)), expected)


def test_without_a_name_the_model_in_the_package_is_loaded() -> None:
    with ModelKit.load() as kit:
        assert kit.checkpoint.directory == BOX


def test_generate_joins_the_stream(kit: ModelKit) -> None:
    options: dict[str, Any] = {"max_tokens": 9, "temperature": 0.0}
    chunks = list(kit.stream([USER], **options))
    result = kit.generate([USER], **options)
    assert result.tokens == tuple(chunk.token for chunk in chunks)
    assert result.text == "".join(chunk.text for chunk in chunks)
    assert result.finish_reason == chunks[-1].finish_reason


def test_stopping_at_an_end_token(kit: ModelKit) -> None:
    bias = {IDS["<|im_end|>"]: 100.0}
    result = kit.generate([USER], logit_bias=bias, max_tokens=5)
    assert (result.tokens, result.text, result.finish_reason) == ((IDS["<|im_end|>"],), "", "stop")


def test_stop_strings_and_max_tokens(kit: ModelKit) -> None:
    """A forced answer 'aaaa...': stopped inside, or cut while the stop string had only begun."""
    (token,) = kit.tokenize("a")
    options: dict[str, Any] = {"logit_bias": {token: 200.0}, "temperature": 0.0}
    prompt = kit.process_prompt([USER], enable_thinking=False)
    stopped = kit.generate(prompt, stop="aaa", max_tokens=8, **options)
    assert (stopped.text, stopped.finish_reason) == ("", "stop")
    cut = kit.generate(prompt, stop=["aaab", "never"], max_tokens=5, **options)
    assert (cut.text, cut.finish_reason) == ("aaaaa", "length")


def test_an_answer_may_have_a_least_length(kit: ModelKit) -> None:
    """Neither an end token nor a stop string ends it before; its length does at any time."""
    (token,) = kit.tokenize("a")
    prompt = kit.process_prompt([USER], enable_thinking=False)
    ending: dict[str, Any] = {"temperature": 0.0, "logit_bias": {IDS["<|im_end|>"]: 200.0, token: 100.0}}
    for least in (1, 4):
        longer = kit.generate(prompt, min_tokens=least, max_tokens=9, **ending)
        assert (longer.text, longer.tokens[-1]) == ("a" * least, IDS["<|im_end|>"])
        assert (len(longer.tokens), longer.finish_reason) == (least + 1, "stop")
    letters: dict[str, Any] = {"temperature": 0.0, "logit_bias": {token: 200.0}}
    stopped = kit.generate(prompt, stop="aa", min_tokens=3, max_tokens=9, **letters)
    assert (stopped.text, len(stopped.tokens), stopped.finish_reason) == ("aaa", 5, "stop")
    whole = kit.generate(prompt, min_tokens=3, max_tokens=3, **ending)
    assert (whole.text, whole.finish_reason) == ("aaa", "length")
    for wrong in (-1, 10, 1.5, True):
        with pytest.raises(OptionError, match=r"^min_tokens: expected a whole number from 0 to 9, found "):
            kit.request(prompt, min_tokens=wrong, max_tokens=9)  # type: ignore[arg-type]


@pytest.mark.parametrize("speculate", ["off", "mtp", "lookup"])
def test_further_tokens_may_end_an_answer(fresh: Callable[..., ModelKit], speculate: str) -> None:
    """As an end token: it is among the tokens, and no text; drafts do not run past it. Not before the least length."""
    kit = fresh(speculate=speculate)
    prompt = kit.process_prompt([USER], enable_thinking=False)
    whole = kit.generate(prompt, max_tokens=24, temperature=0.0, logit_bias={IDS["<|im_end|>"]: -200.0})
    options: dict[str, Any] = {"max_tokens": 24, "temperature": 0.0, "logit_bias": {IDS["<|im_end|>"]: -200.0}}
    end = whole.tokens[5]
    first = whole.tokens.index(end)
    for ends in ([end], [end, 0], (IDS["<|im_start|>"], end)):
        found = kit.generate(prompt, stop_token_ids=ends, **options)
        assert (found.tokens, found.finish_reason) == (whole.tokens[: first + 1], "stop")
        assert found.text == kit.tokenizer.decode(whole.tokens[:first]).lstrip("\n")
    later = kit.generate(prompt, stop_token_ids=[end], min_tokens=first + 2, **options)
    assert end not in later.tokens[: first + 2]
    assert len(later.tokens) > first + 2


@pytest.mark.parametrize(
    ("given", "told"),
    [([-1], r"\[0\]: expected a whole number from 0 to"), ([1, 10**9], r"\[1\]: expected a whole"),
     ("1", ": expected a list"), (7, ": expected a list of token ids, found int")],
)  # fmt: skip
def test_what_is_no_token_ends_no_answer(kit: ModelKit, given: Any, told: str) -> None:
    with pytest.raises(OptionError, match=f"^stop_token_ids{told}"):
        kit.request([1, 2], stop_token_ids=given)


def test_reasoning_is_separate(kit: ModelKit) -> None:
    (token,) = kit.tokenize("a")
    result = kit.generate([USER], logit_bias={token: 200.0}, max_tokens=3)
    assert (result.text, result.reasoning) == ("", "aaa")


def test_max_tokens_one(kit: ModelKit) -> None:
    result = kit.generate([USER], max_tokens=1)
    assert (len(result.tokens), result.finish_reason) == (1, "length")
    assert result.stats.generation_tps == 0.0


def test_speeds_are_those_of_what_was_read_and_of_the_tokens_that_followed(
    kit: ModelKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that only this test moves: a second for each sign of progress, two for each token."""
    clock = SimpleNamespace(now=100.0)
    for module in (executor, model_kit):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def watch(processed: int, total: int) -> None:
        clock.now += 1

    def ask() -> GenerationStats:
        prompt = kit.process_prompt(CASES["text"].input_ids[:40])
        stats = None
        for chunk in kit.stream(prompt, max_tokens=4, prefill_step_size=10, on_progress=watch):
            clock.now += 2
            stats = chunk.stats
        assert stats is not None
        return stats

    kit.prompt_cache.clear()
    # Progress at 0, 10, 20, 30, 39, where the first token comes, and 40.
    stats = ask()
    assert (stats.cached_tokens, stats.prompt_tps, stats.time_to_first_token) == (0, 40 / 5, 5.0)
    assert stats.generation_tps == 3 / 7
    # All but the last token is known; it is read with the answer, after the one sign of progress.
    stats = ask()
    assert (stats.cached_tokens, stats.prompt_tps, stats.time_to_first_token) == (39, 1.0, 1.0)


def test_progress_is_told_in_the_caller_s_thread_and_can_cancel(kit: ModelKit) -> None:
    seen = []

    def watch(processed: int, total: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        seen.append((processed, total))

    prompt = kit.process_prompt(CASES["text"].input_ids)
    kit.generate(prompt, max_tokens=1, prefill_step_size=32, cache_prompt=False, on_progress=watch)
    assert seen == [(0, 70), (32, 70), (64, 70), (69, 70), (70, 70)]
    with pytest.raises(GenerationCancelled, match="cancelled after 32 of 70 prompt tokens"):
        kit.generate(prompt, prefill_step_size=32, cache_prompt=False, on_progress=lambda done, _: done < 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens: expected a whole number of at least 1, found 0"),
        ({"max_tokens": 2.5}, "max_tokens: expected a whole number"),
        ({"prefill_step_size": 0}, "prefill_step_size: expected a whole number of at least 1, found 0"),
        ({"top_logprobs": -1}, "top_logprobs: expected a whole number from 0 to 351, found -1"),
        ({"top_logprobs": 400}, "top_logprobs: expected a whole number from 0 to 351, found 400"),
        ({"temperature": -2}, "temperature"),
        ({"logit_bias": {9999: 1.0}}, "logit_bias: expected token ids below 352, found 9999"),
        ({"max_kv_size": 7}, "unknown option max_kv_size"),
        ({"stop": [""]}, "stop: expected strings"),
    ],
)
def test_bad_options_are_refused_before_any_work(kit: ModelKit, options: dict[str, Any], message: str) -> None:
    """By the call itself, not when the first token is asked for."""
    with pytest.raises(OptionError, match=message):
        kit.stream([USER], **options)


@pytest.mark.parametrize(
    ("prompt", "options", "error", "message"),
    [
        ("", {}, PromptError, "prompt: expected at least one token"),
        ([], {}, PromptError, "prompt: expected at least one token"),
        ([1, 400], {}, PromptError, r"prompt\[1\]: expected a token id below 352, found 400"),
        ([1, -1], {}, PromptError, r"prompt\[1\]: expected a token id below 352, found -1"),
        ([1, 2], {"images": [RED]}, PromptMismatchError, r"expected 1 image placeholders .*, found 0"),
        ("<|image_pad|>", {}, PromptMismatchError, r"expected 0 image placeholders .*, found 1"),
        (
            "<|video_pad|>",
            {},
            PromptMismatchError,
            r"prompt: expected 0 video placeholders \(one per video\), found 1",
        ),
        ([USER], {"images": [RED]}, PromptMismatchError, r"images: expected 0 .*, found 1"),
        (with_images("/nowhere.png"), {}, MediaError, r"messages\[0\]\.content\[0\]: /nowhere.png"),
        ("hello", {"tools": [{"name": "x"}]}, OptionError, "tools: expected only with messages"),
        ("hello", {"enable_thinking": True}, OptionError, "enable_thinking: expected only with messages"),
    ],
)
def test_bad_prompts_are_refused(
    kit: ModelKit, prompt: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        kit.process_prompt(prompt, **options)


def test_prompts_longer_than_the_context_are_refused(kit: ModelKit) -> None:
    prompt = kit.process_prompt([5] * 4096)
    with pytest.raises(ContextLengthError, match=r"prompt: expected at most 4095 tokens .*, found 4096"):
        kit.stream(prompt)
    with pytest.raises(ContextLengthError, match=r"expected at most 4096 tokens .*, found 4097"):
        kit.logits(kit.process_prompt([5] * 4097))


@pytest.mark.thorough
def test_an_answer_ends_where_the_context_ends(kit: ModelKit) -> None:
    prompt = kit.process_prompt([5] * 4093)
    eos = dict.fromkeys((IDS["<|im_end|>"], IDS["<|endoftext|>"]), -1000.0)
    result = kit.generate(prompt, max_tokens=50, logit_bias=eos)
    assert (len(result.tokens), result.finish_reason) == (3, "length")


def test_the_pixel_budget_of_a_kit_and_of_a_prompt(checkpoint_dir: Callable[[Shape], Path]) -> None:
    """And of an image, which goes before both."""
    large = Image.new("RGB", (256, 256))
    two = with_images(large, large)
    two[0]["content"][1]["max_pixels"] = 64 * 128
    with ModelKit.load(checkpoint_dir(DENSE), max_pixels=64 * 64) as kit:
        assert kit.process_prompt(with_images(large)).image_tokens == 4
        assert kit.process_prompt(with_images(large), max_pixels=128 * 128).image_tokens == 16
        assert kit.process_prompt(two, max_pixels=128 * 128).image_tokens == 16 + 4
        two[0]["content"][1]["max_pixels"] = 128 * 128
        assert kit.process_prompt(two).image_tokens == 4 + 16
        two[0]["content"][1] |= {"resized_height": 32, "resized_width": 96}
        assert kit.process_prompt(two).image_tokens == 4 + 3
        two[0]["content"][1]["min_pixels"] = 64 * 96
        assert kit.process_prompt(two).image_tokens == 4 + 10
        two[0]["content"][1]["max_pixels"] = "few"
        with pytest.raises(OptionError, match=re.escape("messages[0].content[1].max_pixels: expected a whole number")):
            kit.process_prompt(two)


def test_defaults_come_from_generation_config(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    directory = shutil.copytree(checkpoint_dir(DENSE), tmp_path / "copy")
    (directory / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 5.0, "eos_token_id": 7})
    )
    with ModelKit.load(directory) as kit:
        assert 7 in kit.tokenizer.eos_token_ids
        sampled = {kit.generate([USER], max_tokens=8).tokens for _ in range(4)}
        assert len(sampled) > 1
        greedy = {kit.generate([USER], max_tokens=8, temperature=0.0).tokens for _ in range(3)}
        assert len(greedy) == 1


def test_seeds(kit: ModelKit) -> None:
    def draw(seed: int) -> tuple[int, ...]:
        return kit.generate([USER], max_tokens=12, temperature=2.0, seed=seed).tokens

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.thorough
def test_many_threads_may_call(kit: ModelKit) -> None:
    """Text and image requests from eight threads: each gets what it would get alone."""
    names = ["text", "two images", "wide image", "image last"]

    def ask(name: str) -> tuple[int, ...]:
        prompt = kit.process_prompt(CASES[name].input_ids, images=CASES[name].images)
        return kit.generate(prompt, max_tokens=10, temperature=0.0, prefill_step_size=9).tokens

    expected = {name: ask(name) for name in names}
    found: list[tuple[str, tuple[int, ...]]] = []
    threads = [threading.Thread(target=lambda name=name: found.append((name, ask(name)))) for name in names * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted((name, expected[name]) for name in names * 2)


def test_a_prompt_may_be_used_again_after_others(kit: ModelKit) -> None:
    """Preparing another prompt in between clears the add-on, not the prompt."""
    prompt = kit.process_prompt(with_images(RED))
    expected = kit.generate(prompt, max_tokens=5, temperature=0.0).tokens
    kit.process_prompt(with_images(BLUE))
    assert kit.generate(prompt, max_tokens=5, temperature=0.0).tokens == expected
    assert dataclasses.is_dataclass(prompt)


def test_a_closed_kit_says_so(checkpoint_dir: Callable[[Shape], Path]) -> None:
    kit = ModelKit.load(checkpoint_dir(DENSE))
    stream = kit.stream([USER], max_tokens=50)
    next(stream)
    kit.close()
    kit.close()
    with pytest.raises(KitClosedError, match="this ModelKit was closed"):
        kit.generate([USER])
    with pytest.raises(KitClosedError):
        next(stream)


def test_a_failed_load_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(Qwen35Error):
        ModelKit.load(tmp_path)
    assert threading.active_count() == before


@pytest.mark.some(1)
@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)", "kit.close()"])
def test_a_process_ends_cleanly_whatever_is_left_open(checkpoint_dir: Callable[[Shape], Path], ending: str) -> None:
    """MLX aborts a process whose threads still own streams when it ends."""
    script = f"""
from mlx_qwen35 import ModelKit
kit = ModelKit.load({str(checkpoint_dir(DENSE))!r})
stream = kit.stream([1, 2, 3], max_tokens=50)
next(stream)
{ending}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3 if "3" in ending else 0, "")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (["5", "6"], r"prompt\[0\]: expected a token id below 352, found '5'"),
        ([1.7], r"prompt\[0\]: expected a token id below 352, found 1.7"),
        ([True], r"prompt\[0\]: expected a token id"),
        (np.zeros((2, 2), np.int32), r"prompt\[0\]: expected a token id"),
        (b"hi", r"prompt: expected messages, a string or token ids, found bytes"),
        (None, r"found NoneType"),
        (USER, r"expected a list of messages, found a single message"),
    ],
)
def test_prompts_of_the_wrong_type_are_refused(kit: ModelKit, prompt: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        kit.process_prompt(prompt)


def test_prompts_and_images_may_come_from_iterables(kit: ModelKit) -> None:
    expected = kit.process_prompt([1, IDS["<|image_pad|>"]], images=[RED])
    forms: list[tuple[Any, Any]] = [
        (iter([1, IDS["<|image_pad|>"]]), iter([RED])),
        ((np.int64(1), np.int64(IDS["<|image_pad|>"])), RED),
    ]
    for ids, images in forms:
        np.testing.assert_array_equal(kit.process_prompt(ids, images=images).input_ids, expected.input_ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_logprobs": 2.0}, "top_logprobs: expected a whole number"),
        ({"top_logprobs": True}, "top_logprobs: expected a whole number"),
        ({"top_logprobs": "3"}, "top_logprobs: expected a whole number"),
        ({"stop": 5}, "stop: expected strings"),
        ({"logit_bias": [1]}, "logit_bias: expected a mapping"),
        ({"logit_bias": {True: 1.0}}, "logit_bias: expected a whole number"),
        ({"logprobs": np.array([1, 2])}, "logprobs: expected True or False"),
        ({"cache_prompt": "no"}, "cache_prompt: expected True or False, found 'no'"),
        ({"continue_final_message": "no"}, "continue_final_message: expected True or False, found 'no'"),
        ({"on_progress": 1}, "on_progress: expected a function, found int"),
        ({"on_frames": []}, "on_frames: expected a function, found list"),
    ],
)
def test_options_of_the_wrong_type_are_refused(kit: ModelKit, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        kit.stream([USER], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"enable_thinking": "no"}, "enable_thinking: expected True, False or None, found 'no'"),
        ({"continue_final_message": []}, r"continue_final_message: expected True or False, found \[\]"),
        ({"chat_template_kwargs": "x"}, "chat_template_kwargs: expected a mapping, found 'x'"),
        ({"on_frames": 1}, "on_frames: expected a function, found 1"),
    ],
)
def test_ways_to_render_a_prompt_have_their_types(kit: ModelKit, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        kit.process_prompt([USER], **options)


def test_what_reads_ahead_calls_a_function(kit: ModelKit) -> None:
    with pytest.raises(OptionError, match="on_progress: expected a function, found int"):
        kit.prefill_ahead([USER, {"role": "assistant", "content": "x"}], on_progress=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["save_session", "load_session"])
def test_a_session_has_a_files_name(kit: ModelKit, name: str) -> None:
    with pytest.raises(Qwen35Error, match="expected a file's name, found"):
        getattr(kit, name)("\ud800")


def test_max_new_tokens_of_the_checkpoint_is_the_default(
    checkpoint_dir: Callable[[Shape], Path], tmp_path: Path
) -> None:
    directory = shutil.copytree(checkpoint_dir(DENSE), tmp_path / "copy")
    (directory / "generation_config.json").write_text(json.dumps({"max_new_tokens": 3}))
    with ModelKit.load(directory) as kit:
        assert len(kit.generate([USER]).tokens) == 3
        assert len(kit.generate([USER], max_tokens=5).tokens) == 5


def test_stop_strings_of_the_checkpoint_are_the_default(
    checkpoint_dir: Callable[[Shape], Path], tmp_path: Path, kit: ModelKit
) -> None:
    directory = shutil.copytree(checkpoint_dir(DENSE), tmp_path / "copy")
    whole = kit.generate("hello", max_tokens=16, temperature=0.0).text
    stop = whole[len(whole) // 2 :][:3]
    (directory / "generation_config.json").write_text(json.dumps({"stop_strings": [stop]}))
    with ModelKit.load(directory) as stopping:
        result = stopping.generate("hello", max_tokens=16, temperature=0.0)
        assert (result.text, result.finish_reason) == (whole[: whole.index(stop)], "stop")
        assert stopping.generate("hello", max_tokens=16, temperature=0.0, stop=[]).text == whole


def test_image_messages_equal_what_transformers_renders(kit: ModelKit, reference_tokenizer: Any) -> None:
    """The tokenizer's own template with placeholders repeated, as Qwen3VLProcessor does it."""
    messages = with_images(RED, BLUE)
    plain = [{"role": "user", "content": [{"type": part["type"], **({"text": part["text"]} if "text" in part else {})}
                                          for part in messages[0]["content"]]}]  # fmt: skip
    hf = reference_tokenizer
    text = hf.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    for tokens in (6, 8):
        text = text.replace("<|image_pad|>", "<|placeholder|>" * tokens, 1)
    expected = hf(text.replace("<|placeholder|>", "<|image_pad|>"))["input_ids"]
    assert kit.process_prompt(messages).input_ids.tolist() == expected


def test_input_embeddings_of_a_caller_are_not_written_to(kits: Callable[[Shape], ModelKit]) -> None:
    """mlx-lm's generate_step passes slices of one array."""
    kit = kits(DENSE)
    prompt = kit.process_prompt([1, IDS["<|image_pad|>"], 2], images=[RED])

    def run() -> tuple[bool, bool]:
        given = kit.model.language_model.model.embed_tokens(mx.array(prompt.input_ids)[None])
        before = np.array(given)
        cache = kit.vision.fill(kit.model.make_cache(), prompt)
        out = kit.model(mx.array(prompt.input_ids)[None], cache=cache, input_embeddings=given)
        cache = kit.vision.fill(kit.model.make_cache(), prompt)
        expected = kit.model(mx.array(prompt.input_ids)[None], cache=cache)
        return bool((np.array(given) == before).all()), bool(mx.array_equal(out, expected).item())

    assert kit._thread.call(run) == (True, True)


def test_logits_processors_see_the_answer_and_choose(kit: ModelKit) -> None:
    """As in mlx-lm; the history begins with the prompt's last token."""
    prompt = kit.process_prompt(CASES["text"].input_ids)
    seen = []

    def only_seven(tokens: mx.array, logits: mx.array) -> mx.array:
        seen.append(np.array(tokens).tolist())
        return mx.where(mx.arange(logits.shape[-1]) == 7, logits, -float("inf"))

    result = kit.generate(prompt, max_tokens=3, temperature=0.0, logits_processors=[only_seven])
    assert result.tokens == (7, 7, 7)
    last = int(prompt.input_ids[-1])
    assert seen[:3] == [[last], [last, 7], [last, 7, 7]]


def test_chunks_say_which_tokens_are_reasoning(kit: ModelKit) -> None:
    end = kit.tokenizer.control_id("</think>")
    assert end is not None
    messages = [{"role": "user", "content": "Hello"}]
    prompt = kit.process_prompt(messages, enable_thinking=True)
    assert prompt.in_reasoning

    def third(tokens: mx.array, logits: mx.array) -> mx.array:
        return mx.where(mx.arange(logits.shape[-1]) == (end if len(tokens) == 3 else 7), logits, -float("inf"))

    chunks = list(kit.stream(prompt, max_tokens=5, temperature=0.0, logits_processors=[third]))
    assert [chunk.in_reasoning for chunk in chunks] == [True, True, True, False, False]


def closed_after(kit: ModelKit, request: Request) -> int | None:
    """Tokens of reasoning behind which nothing but its end can be said; None if there are none such up to 19.

    All that can be said of it is: a request that is run again has to begin anew.
    """
    processors, logits = request.make_processors(), mx.zeros(kit.config.text.vocab_size)
    start, forced = request.prompt.input_ids[-1:].tolist(), []
    for written in range(20):
        scores = logits
        for processor in processors:
            scores = processor(mx.array(start + [7] * written), scores)
        if mx.any(scores == -mx.inf).item():
            forced.append(written)
    assert not forced or forced == list(range(forced[0], forced[0] + len(forced)))
    assert 19 not in forced
    return forced[0] if forced else None


def test_reasoning_has_a_limit_in_tokens_or_in_an_effort(kit: ModelKit) -> None:
    low = kit.process_prompt([USER], reasoning_effort="low")
    assert low.in_reasoning
    assert low.thinking_budget == 1024
    assert closed_after(kit, kit.request(low)) is None
    request = kit.request(low, thinking_budget=3)
    assert [closed_after(kit, request), closed_after(kit, request)] == [3, 3]
    assert closed_after(kit, kit.request(replace(low, thinking_budget=5))) == 5
    none = kit.process_prompt([USER], reasoning_effort="none")
    assert (none.in_reasoning, none.thinking_budget) == (False, None)
    assert closed_after(kit, kit.request(none, thinking_budget=0)) is None
    with pytest.raises(OptionError, match="thinking_budget: expected a whole number of at least 0, found -1"):
        kit.request(low, thinking_budget=-1)


def test_an_effort_is_the_template_s_own_where_it_has_one(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "model", replace(DENSE, text_only=True))
    template = directory / "chat_template.jinja"
    template.write_text("{{ reasoning_effort | default('nothing') }}<|im_start|>user\nhello<|im_end|>\n<think>\n")
    with ModelKit.load(directory) as knowing:
        for effort, expected in (("low", "low"), ("max", "xhigh"), (None, "nothing")):
            prompt = knowing.process_prompt([USER], reasoning_effort=effort)
            assert knowing.tokenizer.decode(prompt.input_ids.tolist()).startswith(expected + "<|im_start|>")
            assert prompt.thinking_budget is None


def test_another_chat_template_takes_the_place_of_the_checkpoint_s(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "model", replace(DENSE, text_only=True))
    own = "{% for message in messages %}<|im_start|>{{ greeting | default('hi') }} {{ message.content }}{% endfor %}"
    with ModelKit.load(directory, chat_template=own) as kit:
        prompt = kit.process_prompt([USER], chat_template_kwargs={"greeting": "hello"})
        assert kit.tokenizer.decode(prompt.input_ids.tolist()) == f"<|im_start|>hello {USER['content']}"
        assert kit.tokenizer.settable_variables == {"greeting"}
    with pytest.raises(OptionError, match="chat_template: expected a Jinja template, found unexpected '}'"):
        ModelKit.load(directory, chat_template="{{ } }}")
    with pytest.raises(OptionError, match="expected a Jinja template of messages, found one that does not read them"):
        ModelKit.load(directory, chat_template="{{ message }}")


def test_a_question_may_be_asked_in_short(kit: ModelKit) -> None:
    """Through the template, where `generate` completes the string as it is."""
    messages = [{"role": "user", "content": "hello"}]
    expected = kit.generate(kit.process_prompt(messages, enable_thinking=False), max_tokens=5)
    assert kit.chat("hello", enable_thinking=False, max_tokens=5).tokens == expected.tokens
    assert kit.chat(messages, enable_thinking=False, max_tokens=5).tokens == expected.tokens
    assert kit.generate("hello", max_tokens=5).stats.prompt_tokens < expected.stats.prompt_tokens


@pytest.mark.parametrize("images", [RED, [RED], [RED, RED]], ids=["one", "a list", "two"])
def test_a_question_in_short_may_be_about_pictures(kit: ModelKit, images: Any) -> None:
    count = len(images) if isinstance(images, list) else 1
    parts: list[Any] = [{"type": "image", "image": RED}] * count
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": "what?"}]}]
    expected = kit.generate(messages, max_tokens=4)
    assert kit.chat("what?", images=images, max_tokens=4).tokens == expected.tokens


@pytest.mark.parametrize(
    ("options", "message"),
    [({"temprature": 1}, "unknown option temprature"), ({"continue_final_message": True}, "an assistant's message to")],
)
def test_bad_options_of_a_question_in_short_are_refused(kit: ModelKit, options: dict[str, Any], message: str) -> None:
    with pytest.raises((OptionError, PromptError), match=message):
        kit.chat("hello", **options)


def test_an_answer_is_continued_from_where_it_ends(kit: ModelKit) -> None:
    """Token by token as it went on before, where the text splits into the same tokens."""
    question: dict[str, Any] = {"role": "user", "content": "hello"}
    prompt = kit.process_prompt([question], enable_thinking=False)
    text = "the quick brown fox"
    ids = [*prompt.input_ids.tolist(), *kit.tokenize(text)]
    expected = kit.generate(ids, max_tokens=6).tokens
    messages = [question, {"role": "assistant", "content": text}]
    assert kit.process_prompt(messages, continue_final_message=True).input_ids.tolist() == ids
    assert kit.generate(messages, continue_final_message=True, max_tokens=6).tokens == expected
    assert kit.chat(messages, continue_final_message=True, max_tokens=6).tokens == expected
    assert next(kit.stream(messages, continue_final_message=True, max_tokens=6)).token == expected[0]


def test_only_messages_have_a_last_one_to_continue(kit: ModelKit) -> None:
    for prompt in ("hello", [1, 2], kit.process_prompt("hello")):
        with pytest.raises(OptionError, match="continue_final_message: expected only with messages, found with a fin"):
            kit.generate(prompt, continue_final_message=True)
    with pytest.raises(OptionError, match="chat_template_kwargs: expected only with messages, found with a finished"):
        kit.process_prompt("hello", chat_template_kwargs={"preserve_thinking": True})


def test_the_ids_of_a_prompt_cannot_be_written_to(kit: ModelKit) -> None:
    """Kept prefixes are matched by them. Nor can its pictures, which other prompts share."""
    prompt = kit.process_prompt([IDS["<|image_pad|>"]], images=[RED])
    for array in (prompt.input_ids, prompt.images[0].pixel_values):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    given = np.array([1, 2], np.int32)
    own = Prompt(given)
    given[0] = 5
    assert own.input_ids.tolist() == [1, 2]


def test_a_kit_is_made_by_load(tmp_path: Path) -> None:
    for arguments, options in ((("owner/name",), {}), ((tmp_path,), {"exact": True})):
        with pytest.raises(OptionError, match=r"expected ModelKit\.load\('.*'\), found ModelKit\("):
            ModelKit(*arguments, **options)  # type: ignore[arg-type]


def test_unknown_options_are_refused_with_all_that_there_are(kit: ModelKit) -> None:
    calls: dict[str, tuple[Callable[..., Any], str]] = {
        "request": (kit.request, "stop"),
        "stream": (kit.stream, "stop"),
        "generate": (kit.generate, "on_progress"),
        "chat": (kit.chat, "enable_thinking"),
    }
    for call, further in calls.values():
        with pytest.raises(OptionError, match=rf"temprature: .*\b{further}\b.*top_p.*; did you mean temperature\?"):
            call("hello", temprature=1.0)
    with pytest.raises(OptionError, match=r"unknown option image: .*\bimages\b.*; did you mean images\?"):
        kit.chat("hello", image="a.png")  # type: ignore[call-arg]


def test_what_chat_hands_on_is_what_a_prompt_takes() -> None:
    taken = set(inspect.signature(ModelKit.process_prompt).parameters)
    assert taken - {"self", "prompt", "images", "videos"} == RENDERING
    assert set(model_kit.ChatOptions.__annotations__) >= RENDERING


def test_what_is_shown_of_it_all_is_short(kit: ModelKit) -> None:
    layers = len(kit.config.text.layer_types)
    assert repr(kit) == f"<ModelKit dense: qwen3_5, {layers} layers, text and images, context {kit.context_length}>"
    prompt = kit.process_prompt(with_images(RED, BLUE))
    assert repr(prompt) == f"Prompt({len(prompt.input_ids)} tokens, 2 images (14 of the tokens), in_reasoning=True)"
    assert repr(kit.process_prompt([1, 2])) == "Prompt(2 tokens, in_reasoning=False)"
    engine = Engine(kit)
    assert repr(engine) == f"<Engine over {kit!r}: 0 running, 0 waiting>"
    engine.close()
    assert len(repr(kit.request(prompt))) < 1000
    assert "array" not in repr(prompt.images[0])


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_kit_is_neither_pickled_nor_copied(kit: ModelKit, take: Callable[[ModelKit], object]) -> None:
    """A pool of processes would try, and fail after a while with what MLX or Jinja says."""
    with pytest.raises(TypeError, match=r"dense.* neither be pickled nor copied: call ModelKit\.load in each process"):
        take(kit)


def test_what_is_read_ahead_is_checked_as_a_prompt_is(kit: ModelKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its messages by their form, and the whole of it by its length, before anything is read."""
    monkeypatch.setattr(kit, "_consume", lambda *_: pytest.fail("read"))
    for wrong in (["hello"], [{"role": "user", "content": "a"}, 5]):
        with pytest.raises(PromptError):
            kit.prefill_ahead(wrong)  # type: ignore[arg-type]
    monkeypatch.setattr(kit, "context_length", 12)
    with pytest.raises(ContextLengthError):
        kit.prefill_ahead([{"role": "user", "content": "a word or two " * 9}, {"role": "assistant", "content": "yes"}])


def test_as_much_is_read_ahead_as_every_next_question_begins_with(
    kit: ModelKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the last place at which a later prompt can begin, in the steps that memory allows."""
    asked: list[Request] = []
    monkeypatch.setattr(kit, "_consume", lambda request, on_progress: asked.append(request) or ())
    monkeypatch.setattr(kit, "_plan", lambda prompt, new, step: SimpleNamespace(step_size=min(step, 5)))
    messages = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    known = kit.prefill_ahead(messages, prefill_step_size=64)
    (request,) = asked
    following = kit.process_prompt([*messages, {"role": "user", "content": "three"}])
    assert known == request.read_to == max(point for point in following.branch_points if point <= known)
    assert (request.prompt.input_ids[:known] == following.input_ids[:known]).all()
    # There are earlier ones, too.
    assert min(request.prompt.branch_points) < known
    assert request.prefill_step_size == 5
