"""Nothing is read twice, and nothing changes by that."""

import dataclasses
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mlx_qwen35 import ModelKit
from mlx_qwen35.answers.results import GenerationResult
from mlx_qwen35.errors import GenerationCancelled, OptionError, SessionError
from mlx_qwen35.prompts.images import PreparedImage
from mlx_qwen35.prompts.positions import MediaLayout, MediaSpan
from mlx_qwen35.prompts.prompt import Prompt, find_branch_points
from mlx_qwen35.state.kept_files import KeptFiles
from mlx_qwen35.state.layout import StateLayout
from mlx_qwen35.state.prefix import Reading, images_of
from mlx_qwen35.state.prefix_cache import PrefixCache
from tests.conftest import Bench
from tests.state.conftest import make_caches
from tests.tiny import DENSE, IDS, VOCAB_SIZE, Shape

RED, GREEN, BLUE = (Image.new("RGB", (96, 64), colour) for colour in ("red", "green", "blue"))
SYSTEM = {"role": "system", "content": "you are brief"}
Message = dict[str, Any]


def user(text: str, *images: Image.Image) -> Message:
    return {
        "role": "user",
        "content": [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}],
    }


def assistant(text: str, reasoning: str = "", **more: Any) -> Message:
    return {"role": "assistant", "content": text, "reasoning_content": reasoning, **more}


def kept(directory: Path, capacity: int = 2**30, per_hour: int = 2**40) -> KeptFiles:
    return KeptFiles(directory, "m", capacity=capacity, per_hour=per_hour)


def ask(kit: ModelKit, messages: Any, **options: Any) -> GenerationResult:
    return kit.generate(messages, **{"max_tokens": 5, "temperature": 0.0, **options})


def left_to_read(result: GenerationResult) -> int:
    return result.stats.prompt_tokens - result.stats.cached_tokens


def tokens_of(kit: ModelKit, text: str) -> int:
    return len(kit.tokenizer.encode(text))


def test_a_following_turn_reads_the_answer_as_it_now_shows_and_the_new_message(
    fresh: Callable[..., ModelKit],
) -> None:
    kit = fresh()
    first = [SYSTEM, user("hello there")]
    assert ask(kit, first).stats.cached_tokens == 0
    second = [*first, assistant("a red square", "long reasoning that the template drops"), user("and then?")]
    new = "a red square<|im_end|>\n<|im_start|>user\nand then?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    result = ask(kit, second)
    assert left_to_read(result) == tokens_of(kit, new)
    assert result.tokens == ask(fresh(prompt_cache_bytes=0), second).tokens


def test_another_answer_reads_the_last_token_only(fresh: Callable[..., ModelKit]) -> None:
    kit = fresh()
    messages = [SYSTEM, user("hello", RED)]
    first = ask(kit, messages)
    again = ask(kit, messages)
    assert left_to_read(again) == 1
    assert again.tokens == first.tokens
    assert (again.stats.images_encoded, again.stats.images_reused) == (0, 1)


def test_an_edited_question_is_read_and_what_stands_before_it_is_not(fresh: Callable[..., ModelKit]) -> None:
    kit = fresh()
    begin = [SYSTEM, user("hello"), assistant("hi")]
    ask(kit, [*begin, user("the quick fox")])
    new = "<|im_start|>user\nthe lazy dog<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert left_to_read(ask(kit, [*begin, user("the lazy dog")])) == tokens_of(kit, new)


def test_a_tool_loop_reads_the_result_only(fresh: Callable[..., ModelKit]) -> None:
    """What the model wrote is in its caches; the next prompt continues it, here token by token."""
    kit = fresh()
    prompt = kit.process_prompt([user("weather?")])
    answer = ask(kit, prompt)
    result = kit.tokenizer.encode("<|im_end|>\n<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n")
    following = [*prompt.input_ids.tolist(), *answer.tokens, *result, IDS["<|im_start|>"]]
    assert left_to_read(ask(kit, following)) == len(result) + 1


def test_a_tool_loop_through_the_template_reads_the_call_and_the_result(fresh: Callable[..., ModelKit]) -> None:
    kit = fresh()
    call = {"type": "function", "function": {"name": "look", "arguments": {"name": "fox"}}}
    first = [SYSTEM, user("where is the fox?")]
    ask(kit, first, max_tokens=1)
    loop = [*first, assistant("", "think", tool_calls=[call]), {"role": "tool", "content": "there"}]
    before = ask(kit, loop).stats
    further = [*loop, assistant("", "more", tool_calls=[call]), {"role": "tool", "content": "no"}]
    # The last prompt ended with <think>, which stands before the reasoning in the history too.
    new = kit.process_prompt(further).input_ids[before.prompt_tokens - 1 :]
    assert left_to_read(ask(kit, further)) == len(new)


def test_a_new_image_alone_is_read_and_encoded(fresh: Callable[..., ModelKit]) -> None:
    kit = fresh()
    first = [user("what is it?", RED)]
    ask(kit, first)
    second = [*first, assistant("red"), user("and this?", GREEN)]
    result = ask(kit, second)
    new = "red<|im_end|>\n<|im_start|>user\n<|vision_start|><|vision_end|>and this?<|im_end|>\n"
    assert left_to_read(result) == tokens_of(kit, f"{new}<|im_start|>assistant\n<think>\n") + 6
    assert (result.stats.images_encoded, result.stats.images_reused) == (1, 1)


def test_a_changed_image_never_matches_and_what_stands_before_it_does(fresh: Callable[..., ModelKit]) -> None:
    kit, cold = fresh(), fresh(prompt_cache_bytes=0)
    ask(kit, [SYSTEM, user("what are they?", RED, GREEN)])
    for images in ((RED, BLUE), (BLUE, GREEN), (GREEN, RED)):
        messages = [SYSTEM, user("what are they?", *images)]
        result = ask(kit, messages)
        kept = 6 if images[0] is RED else 0
        system = tokens_of(kit, "<|im_start|>system\nyou are brief<|im_end|>\n")
        start = tokens_of(kit, "<|im_start|>user\n<|vision_start|>")
        assert result.stats.cached_tokens == system + (start + kept if kept else 0)
        assert result.tokens == ask(cold, messages).tokens


def test_what_the_user_will_continue_is_read_ahead(fresh: Callable[..., ModelKit]) -> None:
    kit = fresh()
    first = [SYSTEM, user("hello", RED)]
    ask(kit, first)
    answered = [*first, assistant("the lazy dog", "reasons")]
    known = kit.prefill_ahead(answered)
    result = ask(kit, [*answered, user("go on")])
    assert result.stats.cached_tokens == known
    new = "<|im_start|>user\ngo on<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert left_to_read(result) == tokens_of(kit, new)
    assert result.tokens == ask(fresh(prompt_cache_bytes=0), [*answered, user("go on")]).tokens


def test_reading_ahead_can_be_cancelled(fresh: Callable[..., ModelKit]) -> None:
    kit = fresh()
    messages = [user("the quick brown fox " * 8), assistant("yes")]
    with pytest.raises(GenerationCancelled, match="cancelled after 8 of"):
        kit.prefill_ahead(messages, prefill_step_size=8, on_progress=lambda done, _: done < 8)
    assert ask(kit, [*messages, user("go on")]).stats.cached_tokens == 8


def test_a_cancelled_prompt_is_continued(fresh: Callable[..., ModelKit]) -> None:
    kit = fresh()
    messages = [user("the quick brown fox " * 8)]
    with pytest.raises(GenerationCancelled):
        ask(kit, messages, prefill_step_size=8, on_progress=lambda done, _: done < 16)
    result = ask(kit, messages)
    assert result.stats.cached_tokens == 16
    assert result.tokens == ask(fresh(prompt_cache_bytes=0), messages).tokens


def test_an_answer_cut_short_is_continued(fresh: Callable[..., ModelKit]) -> None:
    kit = fresh()
    prompt = kit.process_prompt([user("hello")])
    stream = kit.stream(prompt, max_tokens=20, temperature=9.0, seed=1)
    tokens = [next(stream).token for _ in range(3)]
    stream.close()  # type: ignore[attr-defined]
    following = [*prompt.input_ids.tolist(), *tokens, *kit.tokenize("and more")]
    assert ask(kit, following).stats.cached_tokens == len(prompt.input_ids) + 3


def test_an_error_leaves_nothing_behind(fresh: Callable[..., ModelKit], monkeypatch: pytest.MonkeyPatch) -> None:
    kit = fresh()
    monkeypatch.setattr("mlx_qwen35.runtime.batch.Batch.step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ask(kit, [user("hello")])
    monkeypatch.undo()
    assert len(kit.prompt_cache) == 0
    assert ask(kit, [user("hello")]).stats.cached_tokens == 0


def test_a_short_branch_does_not_carry_the_long_line_it_began_from(fresh: Callable[..., ModelKit]) -> None:
    kit, alone = fresh(), fresh()
    ask(kit, [SYSTEM, user("the quick brown fox " * 100)])
    before = kit.prompt_cache.nbytes
    ask(kit, [SYSTEM, user("hi")])
    ask(alone, [SYSTEM, user("hi")])
    assert kit.prompt_cache.nbytes - before <= alone.prompt_cache.nbytes


def test_a_request_cancelled_before_reading_changes_nothing(fresh: Callable[..., ModelKit]) -> None:
    kit = fresh()
    first = [SYSTEM, user("hello there")]
    ask(kit, first)
    before = kit.prompt_cache.nbytes
    with pytest.raises(GenerationCancelled):
        ask(kit, [SYSTEM, user("something else")], on_progress=lambda *_: False)
    assert (len(kit.prompt_cache), kit.prompt_cache.nbytes) == (1, before)


def test_other_answers_do_not_cost_the_one_that_is_continued(fresh: Callable[..., ModelKit]) -> None:
    """Two samples of one prompt, a cancelled third, and reading ahead after a call."""
    kit = fresh()
    prompt = kit.process_prompt([SYSTEM, user("weather?")])
    first = ask(kit, prompt, temperature=9.0, seed=1)
    ask(kit, prompt, temperature=9.0, seed=2)
    stream = kit.stream(prompt, temperature=9.0, seed=3)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    assert kit.prefill_ahead([SYSTEM, user("weather?"), assistant("", tool_calls=[call])]) == 0
    following = [*prompt.input_ids.tolist(), *first.tokens, 5, 6]
    assert left_to_read(ask(kit, following)) == 2


def test_a_turn_with_tools_is_known_from_its_question_on(fresh: Callable[..., ModelKit]) -> None:
    """Read cold, as by an agent that comes back; and afterwards no line of the finished turn stays behind."""
    kit = fresh()
    call = {"type": "function", "function": {"name": "look", "arguments": {"name": "fox"}}}
    turn = [SYSTEM, user("where is the quick brown fox? " * 10)]
    for number in range(2):
        turn += [assistant("", f"think {number}", tool_calls=[call]), {"role": "tool", "content": f"there {number}"}]
    prompt = kit.process_prompt(turn)
    think = prompt.input_ids.tolist().index(IDS["<think>"])
    assert prompt.turn_start == think
    ask(kit, prompt)
    result = ask(kit, [*turn, assistant("found"), user("thanks")])
    assert result.stats.cached_tokens == think
    assert len(kit.prompt_cache) == 1


@pytest.fixture(scope="module")
def preserving(checkpoint_dir: Callable[[Shape], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose template keeps earlier reasoning unless `preserve_thinking` is false, as Qwen3.8's does."""
    directory = tmp_path_factory.mktemp("preserving") / "model"
    shutil.copytree(checkpoint_dir(DENSE), directory)
    template = directory / "chat_template.jinja"
    drops, keeps = "if loop.index0 > last.query", "preserve_thinking is undefined or preserve_thinking is true or "
    text = template.read_text()
    assert text.count(drops) == 1
    template.write_text(text.replace(drops, drops.replace("if ", f"if {keeps}")))
    return directory


@pytest.mark.some(1)
@pytest.mark.parametrize("preserve", [None, True, False])
def test_reasoning_that_the_template_keeps_is_not_read_again(preserving: Path, preserve: bool | None) -> None:
    """Nothing of an earlier turn is; and where the template drops it, what stood before it still is not."""
    settings = {} if preserve is None else {"chat_template_kwargs": {"preserve_thinking": preserve}}
    messages, before, dropped = [SYSTEM], [], []
    with ModelKit.load(preserving) as kit:
        for number in range(4):
            messages.append(user(f"where is fox number {number}?"))
            prompt = kit.process_prompt(messages, **settings)
            ids = prompt.input_ids.tolist()
            known = next(
                (at for at, pair in enumerate(zip(before, ids, strict=False)) if len({*pair}) > 1), len(before)
            )
            messages.append(assistant(f"there {number}", f"I think {number}"))
            whole = kit.process_prompt(messages, add_generation_prompt=False, **settings).input_ids.tolist()
            assert whole[: len(ids)] == ids
            reply = iter(whole[len(ids) :])
            answer = kit.generate(prompt, sampler=lambda _, reply=reply: mx.array([next(reply, 0)]))
            assert answer.finish_reason == "stop"
            assert answer.stats.cached_tokens == known
            dropped.append(len(before) - known)
            before = [*ids, *answer.tokens]
    assert (dropped == [0] * 4) == (preserve is not False)


def test_closing_with_an_open_stream_keeps_nothing(fresh: Callable[..., ModelKit]) -> None:
    kit = fresh()
    stream = kit.stream([user("hello")], temperature=9.0, seed=1)
    next(stream)
    kit.close()
    assert kit.prompt_cache.nbytes == len(kit.prompt_cache) == 0


def test_images_are_encoded_once_and_do_not_pile_up(fresh: Callable[..., ModelKit]) -> None:
    """Whatever else is prepared in between, and without room for embeddings."""
    kit = fresh(image_cache_bytes=0)
    prompts = [kit.process_prompt([user("what?", image, other)]) for image, other in ((RED, GREEN), (GREEN, BLUE))]
    calls = []
    tower = kit.vision._tower

    def count(*arguments: Any) -> Any:
        calls.append(arguments)
        return tower(*arguments)

    count.patch_embed = kit._thread.call(lambda: tower.patch_embed)  # type: ignore[attr-defined]
    kit.vision._tower = count
    for prompt in prompts:
        result = ask(kit, prompt, on_progress=lambda *_: kit.process_prompt([user("hi")]) and None)
        assert result.stats.images_encoded == 2
    assert len(calls) == 4
    kit.process_prompt([user("hi")])
    assert kit.vision.features.nbytes == 0


def test_it_can_be_turned_off(fresh: Callable[..., ModelKit]) -> None:
    kit = fresh()
    messages = [user("hello")]
    for _ in range(2):
        assert ask(kit, messages, cache_prompt=False).stats.cached_tokens == 0
    off = fresh(prompt_cache_bytes=0)
    for _ in range(2):
        assert ask(off, messages).stats.cached_tokens == 0
    assert off.prompt_cache.nbytes == kit.prompt_cache.nbytes == 0
    assert off.prefill_ahead([*messages, assistant("hi")]) == 0
    with pytest.raises(OptionError, match="prompt_cache_bytes"):
        fresh(prompt_cache_bytes=-1)


def test_seeded_sampling_is_the_same_warm_and_cold(fresh: Callable[..., ModelKit]) -> None:
    kit = fresh()
    messages = [user("hello", RED)]
    runs = [ask(kit, messages, temperature=1.0, seed=3, max_tokens=12) for _ in range(2)]
    assert runs[0].tokens == runs[1].tokens
    assert runs[1].stats.cached_tokens > 0


def test_kits_do_not_share(fresh: Callable[..., ModelKit]) -> None:
    one, other = fresh(), fresh()
    ask(one, [user("hello")])
    assert ask(other, [user("hello")]).stats.cached_tokens == 0


@pytest.mark.thorough
def test_threads_may_continue_the_same_conversation(fresh: Callable[..., ModelKit]) -> None:
    kit, cold = fresh(), fresh(prompt_cache_bytes=0)
    first = [SYSTEM, user("hello", RED)]
    ask(kit, first)
    questions = [[*first, assistant("hi"), user(text)] for text in ("the fox", "the dog", "a circle", "a square")]
    expected = [ask(cold, messages, max_tokens=12).tokens for messages in questions]
    found: dict[int, GenerationResult] = {}

    def run(number: int) -> None:
        found[number] = ask(kit, questions[number], max_tokens=12)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(questions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number].tokens for number in range(len(questions))] == expected
    assert all(result.stats.cached_tokens for result in found.values())


# Against a cold start.


def branching(bench: Bench, ids: list[int], images: list[Image.Image] | None, points: tuple[int, ...]) -> Prompt:
    return dataclasses.replace(bench.prompt(ids, images), branch_points=points, turn_start=len(ids))


def chunk_edges(start: int, stop: int, step: int, points: tuple[int, ...]) -> list[int]:
    """Where chunks begin and end that cover [start, stop) and stop at `points`."""
    edges = [start]
    for end in [*(point for point in points if start < point < stop), stop]:
        edges += [*range(edges[-1] + step, end, step), end]
    return edges if stop > start else [start]


def read(bench: Bench, reading: Reading, step: int, stop: int) -> None:
    """Read a prompt up to token `stop`, with snapshots at its branch points."""
    prompt = reading.prompt
    bench.vision.fill(reading.state.caches, prompt)
    for begin, end in pairwise(chunk_edges(reading.start, stop, step, prompt.branch_points)):
        bench.model(mx.array(prompt.input_ids[begin:end])[None], cache=reading.state.caches)
        reading.state.evaluate()
        if end in prompt.branch_points and reading.snapshots is not None:
            reading.snapshots.append(reading.state.snapshot())


def begin(cache: PrefixCache, prompt: Prompt) -> Reading:
    reading = cache.begin(prompt)
    assert reading is not None
    return reading


def read_all(bench: Bench, cache: PrefixCache, prompt: Prompt, step: int) -> tuple[list[Any], mx.array, int]:
    """Read a prompt through the cache: its caches, the logits of its last token, and where it began."""
    reading = begin(cache, prompt)
    start = reading.start
    read(bench, reading, step, len(prompt.input_ids) - 1)
    cache.keep(reading)
    caches = reading.state.caches
    logits = bench.model(mx.array(prompt.input_ids[-1:])[None], cache=caches)
    mx.eval(logits)
    return caches, logits, start


def arrays_of(caches: list[Any]) -> list[mx.array]:
    out: list[mx.array] = []
    for cache in caches:
        out += list(cache.keys_and_values()) if hasattr(cache, "keys_and_values") else list(cache.cache)
    return out


def equal(one: list[mx.array], other: list[mx.array]) -> bool:
    return len(one) == len(other) and all(
        a.shape == b.shape and bool(mx.array_equal(a, b).item()) for a, b in zip(one, other, strict=True)
    )


IMAGE = [IDS["<|vision_start|>"], IDS["<|image_pad|>"], IDS["<|vision_end|>"]]
TEXT = list(range(20, 60))


@pytest.mark.some(2)
@pytest.mark.parametrize(
    ("first", "second", "images"),
    [
        (TEXT[:20], TEXT[:20] + TEXT[5:15], 0),
        (TEXT[:12] + IMAGE + TEXT[:5], TEXT[:12] + IMAGE + TEXT[:9], 1),
        (TEXT[:12] + IMAGE + TEXT[:5], TEXT[:12] + IMAGE + TEXT[:5] + IMAGE + TEXT[3:9], 2),
        (IMAGE + TEXT[:5] + IMAGE + TEXT[:6], IMAGE + TEXT[:5] + IMAGE + TEXT[:3] + TEXT[9:20], 2),
    ],
)
def test_a_warm_start_equals_a_cold_one(
    benches: Callable[[Shape], Bench],
    dense_and_moe: Shape,
    first: list[int],
    second: list[int],
    images: int,
) -> None:
    """Bit for bit in the same chunks, caches and logits; to 1e-4 of the logit scale in one piece. fp32."""
    bench = benches(dense_and_moe)
    pictures = [RED, BLUE][:images]
    cache = PrefixCache(bench.model.make_cache, 2**30, fingerprint="m")
    one = bench.prompt(first, pictures[: first.count(IDS["<|image_pad|>"])])
    shared = len(one.input_ids) - 3
    points = (shared, len(one.input_ids) - 1)
    prompt = bench.prompt(second, pictures)
    read_all(bench, cache, dataclasses.replace(one, branch_points=points, turn_start=shared), step=7)
    warm, logits, start = read_all(bench, cache, dataclasses.replace(prompt, branch_points=points), step=7)
    assert start in points

    length = len(prompt.input_ids)
    edges = [*chunk_edges(0, start, 7, points), *chunk_edges(start, length - 1, 7, points)[1:], length]
    cold = bench.cache(prompt)
    for begin, end in pairwise(edges):
        expected = bench.model(mx.array(prompt.input_ids[begin:end])[None], cache=cold)
        mx.eval(expected)
    assert mx.array_equal(logits[:, -1], expected[:, -1]).item()
    assert equal(arrays_of(warm), arrays_of(cold))

    whole = bench.model(mx.array(prompt.input_ids)[None], cache=bench.cache(prompt))[:, -1]
    scale = float(mx.abs(whole).max().item())  # type: ignore[arg-type]
    assert float(mx.abs(logits[:, -1] - whole).max().item()) < 1e-4 * scale  # type: ignore[arg-type]


def test_a_branch_never_changes_what_it_began_from(benches: Callable[[Shape], Bench]) -> None:
    bench = benches(DENSE)
    cache = PrefixCache(bench.model.make_cache, 2**30, fingerprint="m")
    trunk = branching(bench, TEXT[:20], None, (10, 19))
    read_all(bench, cache, trunk, step=64)
    (prefix,) = cache._prefixes
    assert prefix.state is not None
    before = [np.array(array) for array in prefix.state.arrays()]
    for tail in ([1, 2, 3], [4, 5, 6, 7]):
        _, _, start = read_all(bench, cache, branching(bench, TEXT[:12] + tail, None, (10,)), step=64)
        assert start == 10
    assert all(np.array_equal(a, np.array(b)) for a, b in zip(before, prefix.state.arrays(), strict=True))


def test_the_longest_of_several_lines_is_taken(benches: Callable[[Shape], Bench]) -> None:
    bench = benches(DENSE)
    cache = PrefixCache(bench.model.make_cache, 2**30, fingerprint="m")
    read_all(bench, cache, branching(bench, [*TEXT[:8], 1, 1, 1], None, (8, 10)), step=64)
    read_all(bench, cache, branching(bench, [*TEXT[:14], 2, 2, 2], None, (14,)), step=64)
    read_all(bench, cache, branching(bench, [*TEXT[:4], 3, 3, 3], None, (4,)), step=64)
    _, _, start = read_all(bench, cache, branching(bench, TEXT[:20], None, ()), step=64)
    assert start == 14


def test_of_lines_that_begin_alike_one_that_is_in_memory_is_taken(
    benches: Callable[[Shape], Bench], tmp_path: Path
) -> None:
    """Also if it was kept last: nobody waits for the disk for what is in memory too."""
    bench = benches(DENSE)
    lines = [branching(bench, [*TEXT[:14], number, number, number], None, (14,)) for number in (1, 2, 3)]
    probe = PrefixCache(bench.model.make_cache, 2**30, fingerprint="m")
    read_all(bench, probe, lines[0], step=64)
    cache = PrefixCache(bench.model.make_cache, int(1.5 * probe.nbytes), files=kept(tmp_path), fingerprint="m")
    for line in lines[:2]:
        read_all(bench, cache, line, step=64)
    assert cache.disk_bytes > 0
    assert [prefix.state is None for prefix in cache._prefixes] == [True, False]
    found = cache.begin(lines[2], on_ready=lambda: None)
    assert found is not None
    assert found.start == 14
    cache.close()


def test_nothing_is_kept_inside_an_image(fresh: Callable[..., ModelKit], tmp_path: Path) -> None:
    """A prompt that is cancelled in the middle of an image is kept up to the last place before it."""
    kit = fresh()
    messages = [SYSTEM, user("what is it?", RED)]
    prompt = kit.process_prompt(messages)
    assert prompt.layout is not None
    (span,) = prompt.layout.spans
    system = tokens_of(kit, "<|im_start|>system\nyou are brief<|im_end|>\n")
    for stop in (span.start + 1, span.stop - 1):
        with pytest.raises(GenerationCancelled, match=f"cancelled after {stop} of"):
            ask(kit, prompt, prefill_step_size=1, on_progress=lambda done, _, stop=stop: done < stop)
        assert kit.save_session(tmp_path / "a.session") == system
    result = ask(kit, messages)
    assert result.stats.cached_tokens == system
    assert result.tokens == ask(fresh(prompt_cache_bytes=0), messages).tokens


# Budgets.


def test_the_budget_bounds_memory_and_the_least_recently_used_goes(fresh: Callable[..., ModelKit]) -> None:
    probe = fresh()
    ask(probe, [user("the quick fox")])
    room = int(2.5 * probe.prompt_cache.nbytes)
    kit = fresh(prompt_cache_bytes=room)
    names = ["the quick fox", "the lazy dog", "a red square"]
    conversations = [[user(name)] for name in names]
    ask(kit, conversations[0])
    ask(kit, conversations[1])
    assert ask(kit, conversations[0]).stats.cached_tokens
    ask(kit, conversations[2])
    assert kit.prompt_cache.nbytes <= room
    assert ask(kit, conversations[0]).stats.cached_tokens
    assert ask(kit, conversations[1]).stats.cached_tokens <= 2


def test_old_snapshots_go_before_conversations(benches: Callable[[Shape], Bench]) -> None:
    bench = benches(DENSE)
    prompt = dataclasses.replace(branching(bench, TEXT, None, tuple(range(3, 39, 3))), turn_start=15)
    everything = PrefixCache(bench.model.make_cache, 2**30, fingerprint="m")
    read_all(bench, everything, prompt, step=64)
    cache = PrefixCache(bench.model.make_cache, everything.nbytes - 1, fingerprint="m")
    read_all(bench, cache, prompt, step=64)
    (prefix,) = cache._prefixes
    assert prefix.snapshot_tokens == [3, 15, 24, 27, 30, 33, 36, 39]
    assert begin(cache, branching(bench, [*TEXT[:30], 1, 1], None, ())).start == 30


@pytest.mark.parametrize("turn_start", [5, 16, 30, 40])
def test_a_prompt_that_was_read_in_part_comes_back_from_disk(
    benches: Callable[[Shape], Bench], tmp_path: Path, turn_start: int
) -> None:
    """Wherever its turn begins, which may be further on than what was read."""
    bench = benches(DENSE)
    prompt = dataclasses.replace(branching(bench, TEXT, None, ()), turn_start=turn_start)
    cache = PrefixCache(bench.model.make_cache, 2**30, fingerprint="m", files=kept(tmp_path))
    reading = begin(cache, prompt)
    read(bench, reading, 64, 16)
    cache.keep(reading)
    cache.shrink(0)
    assert cache.disk_bytes > 0
    assert cache.nbytes == 0
    assert begin(cache, prompt).start == 16
    cache.close()


def test_what_comes_back_from_its_way_to_disk_counts_again(benches: Callable[[Shape], Bench], tmp_path: Path) -> None:
    """Something else goes for it, and the budget is kept."""
    bench = benches(DENSE)
    lines = [branching(bench, [*TEXT[:14], number, number, number], None, ()) for number in (1, 2)]
    probe = PrefixCache(bench.model.make_cache, 2**30, fingerprint="m")
    read_all(bench, probe, lines[0], step=64)
    cache = PrefixCache(bench.model.make_cache, int(1.5 * probe.nbytes), files=kept(tmp_path), fingerprint="m")
    release = threading.Event()
    cache._disk.post(release.wait, 60)
    for line in lines:
        read_all(bench, cache, line, step=64)
    before = [prefix.leaving for prefix in cache._prefixes]
    start = begin(cache, lines[0]).start
    after, held = [prefix.leaving for prefix in cache._prefixes], cache.nbytes
    release.set()
    cache.close()
    assert (before, start, after) == ([True, False], 16, [True, False])
    assert held <= cache.budget


def test_what_waits_for_a_slow_disk_is_bounded_by_the_budget_too(
    benches: Callable[[Shape], Bench], tmp_path: Path
) -> None:
    """What there is no room for beside it is forgotten; what was to be written is written in the end."""
    bench = benches(DENSE)
    lines = [branching(bench, [number, *TEXT[:19]], None, ()) for number in range(6)]
    probe = PrefixCache(bench.model.make_cache, 2**30, fingerprint="m")
    read_all(bench, probe, lines[0], step=64)
    told: list[int] = []
    cache = PrefixCache(
        bench.model.make_cache, int(2.5 * probe.nbytes), fingerprint="m",
        files=KeptFiles(tmp_path, "m", capacity=2**30, per_hour=2**40), account=lambda nbytes: told.append(nbytes) or 0,
    )  # fmt: skip
    release = threading.Event()
    cache._disk.post(release.wait, 60)
    for line in lines:
        read_all(bench, cache, line, step=64)
    waiting = [prefix.leaving for prefix in cache._prefixes]
    release.set()
    assert cache.disk_bytes > 0
    assert waiting == [True, True, False, False]
    assert max(told) <= 2 * cache.budget
    assert told[-1] == cache.nbytes == 2 * probe.nbytes
    assert [begin(cache, line).start for line in lines] == [19, 19, 0, 0, 19, 19]
    cache.close()


@pytest.mark.thorough
def test_a_conversation_larger_than_the_budget_costs_no_other(fresh: Callable[..., ModelKit]) -> None:
    probe = fresh()
    ask(probe, [user("hello")])
    kit = fresh(prompt_cache_bytes=2 * probe.prompt_cache.nbytes)
    ask(kit, [user("hello")])
    ask(kit, [user("the quick brown fox " * 200)])
    assert left_to_read(ask(kit, [user("hello")])) == 1


@pytest.mark.thorough
def test_a_file_that_is_gone_costs_nothing_but_reading(fresh: Callable[..., ModelKit], tmp_path: Path) -> None:
    probe = fresh()
    ask(probe, [user("the quick fox")])
    kit = fresh(prompt_cache_bytes=int(1.5 * probe.prompt_cache.nbytes), prompt_cache_dir=tmp_path)
    for text in ("the quick fox", "a red square"):
        ask(kit, [user(text)])
    assert kit.prompt_cache.disk_bytes > 0
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    for text in ("the quick fox", "a red square", "hello", "the quick fox"):
        assert ask(kit, [user(text)]).tokens


def test_what_memory_has_no_room_for_goes_to_disk(fresh: Callable[..., ModelKit], tmp_path: Path) -> None:
    probe = fresh()
    first = ask(probe, [user("the quick fox", RED)])
    room = int(1.5 * probe.prompt_cache.nbytes)
    kit = fresh(prompt_cache_bytes=room, prompt_cache_dir=tmp_path)
    ask(kit, [user("the quick fox", RED)])
    ask(kit, [user("the lazy dog", GREEN)])
    assert kit.prompt_cache.nbytes <= room
    assert kit.prompt_cache.disk_bytes > 0
    again = ask(kit, [user("the quick fox", RED)])
    assert left_to_read(again) == 1
    assert again.tokens == first.tokens
    # Counting waits until what is on its way to disk has arrived.
    assert kit.prompt_cache.disk_bytes > 0
    for file in tmp_path.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    assert ask(kit, [user("the lazy dog", GREEN)]).stats.cached_tokens <= 2


@pytest.mark.thorough
def test_the_disk_is_bounded_too(benches: Callable[[Shape], Bench], tmp_path: Path) -> None:
    bench = benches(DENSE)
    probe = PrefixCache(bench.model.make_cache, 2**30, fingerprint="m")
    read_all(bench, probe, branching(bench, TEXT[:20], None, ()), step=64)
    capacity = int(10.5 * probe.nbytes)
    cache = PrefixCache(
        bench.model.make_cache, int(1.5 * probe.nbytes), fingerprint="m", files=kept(tmp_path, capacity)
    )
    for number in range(40):
        read_all(bench, cache, branching(bench, [number, *TEXT[:19]], None, ()), step=64)
    assert capacity / 2 < cache.disk_bytes <= capacity
    assert sum(file.stat().st_size for file in tmp_path.glob("*.safetensors")) == cache.disk_bytes
    cache.close()
    with pytest.raises(SessionError, match="cannot be written"):
        kept(tmp_path / "nowhere")


def test_bytes_on_disk_are_those_of_the_files(benches: Callable[[Shape], Bench], tmp_path: Path) -> None:
    """Also after a file went because its prefix is in memory again, where the disk has room for one of two."""
    bench = benches(DENSE)
    lines = [branching(bench, [number, *TEXT[:19]], None, ()) for number in (1, 2)]
    probe = PrefixCache(bench.model.make_cache, 2**30, fingerprint="m")
    read_all(bench, probe, lines[0], step=64)
    capacity = int(1.5 * probe.nbytes)
    cache = PrefixCache(
        bench.model.make_cache, int(1.5 * probe.nbytes), fingerprint="m", files=kept(tmp_path, capacity)
    )
    for line in (*lines, lines[0]):
        read_all(bench, cache, line, step=64)
        assert cache.disk_bytes == sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert [(prefix.state is None, prefix.file is None) for prefix in cache._prefixes] == [(True, False), (False, True)]
    cache.close()


def test_what_is_asked_again_in_part_is_the_last_to_go(benches: Callable[[Shape], Bench]) -> None:
    """A line that begins like a kept one, up to a place that none was kept at, is no prefix of its own."""
    bench = benches(DENSE)
    first, other, third = (branching(bench, [number, *TEXT[:19]], None, ()) for number in (1, 2, 3))
    probe = PrefixCache(bench.model.make_cache, 2**30, fingerprint="m")
    read_all(bench, probe, first, step=64)
    cache = PrefixCache(bench.model.make_cache, int(2.5 * probe.nbytes), fingerprint="m")
    beginning = branching(bench, [1, *TEXT[:9]], None, ())
    for line in (first, other, beginning, third):
        assert read_all(bench, cache, line, step=64)[2] == 0
    assert len(cache) == 2
    assert [begin(cache, line).start for line in (first, third, other)] == [19, 19, 0]


# Random conversations.

_WORDS = ("the quick fox", "a red square and a blue circle", "hello", "what is in the image?")
_PICTURES = (RED, GREEN, BLUE)
_OPERATIONS = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 3), st.lists(st.integers(0, 2), max_size=2)),
    st.tuples(st.just("again"), st.just(0), st.just([])),
    st.tuples(st.just("edit"), st.integers(0, 3), st.lists(st.integers(0, 2), max_size=2)),
    st.tuples(st.just("back"), st.integers(1, 2), st.just([])),
    st.tuples(st.just("cancel"), st.integers(0, 3), st.lists(st.integers(0, 2), max_size=1)),
    st.tuples(st.just("ahead"), st.just(0), st.just([])),
    st.tuples(st.just("session"), st.just(0), st.just([])),
    st.tuples(st.just("system"), st.integers(0, 1), st.just([])),
)


@pytest.fixture(scope="module")
def pair(
    checkpoint_dir: Callable[[Shape], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ModelKit, ModelKit]]:
    """One with room for the longest conversation, and the disk for others; one without."""
    disk = tmp_path_factory.mktemp("evicted")
    warm = ModelKit.load(checkpoint_dir(DENSE), prompt_cache_bytes=1_200_000, prompt_cache_dir=disk)
    cold = ModelKit.load(checkpoint_dir(DENSE), prompt_cache_bytes=0)
    yield warm, cold
    warm.close()
    cold.close()


def contents(prompt: Prompt) -> list[Any]:
    """A prompt's ids, with an image's content in place of its placeholders."""
    ids: list[Any] = prompt.input_ids.tolist()
    for image in images_of(prompt):
        ids[image.start : image.stop] = [image.content_hash] * (image.stop - image.start)
    return ids


Converse = Callable[[list[Any], bool], None]
random_conversations = given(operations=st.lists(_OPERATIONS, min_size=2, max_size=8), thinking=st.booleans())


@pytest.mark.thorough
@settings(max_examples=6, derandomize=True)
@random_conversations
def test_random_conversations(converse: Converse, operations: list[Any], thinking: bool) -> None:
    converse(operations, thinking)


@pytest.mark.thorough
@settings(max_examples=60, derandomize=True)
@random_conversations
def test_many_random_conversations(converse: Converse, operations: list[Any], thinking: bool) -> None:
    converse(operations, thinking)


@pytest.fixture(scope="module")
def converse(pair: tuple[ModelKit, ModelKit], tmp_path_factory: pytest.TempPathFactory) -> Converse:
    """See `conversation`."""
    return partial(conversation, pair, tmp_path_factory.mktemp("random") / "random.session")


def conversation(pair: tuple[ModelKit, ModelKit], path: Path, operations: list[Any], thinking: bool) -> None:
    """Whatever was read before, the distribution of the first token is that of a cold start, to 1e-4.

    And a prompt that goes on from what was asked or read ahead last does not read it again, as far as the template
    leaves it as it was. One that does not, with another system message or without the last turns, may find more or
    less of itself, or nothing.
    """
    warm = pair[0]
    warm.prompt_cache.clear()
    system: list[Message] = []
    turns: list[Message] = []
    last: list[Any] = []

    def known_of(prompt: Prompt) -> int:
        return len(last) if contents(prompt)[: len(last)] == last else 0

    for kind, number, pictures in operations:
        question = user(_WORDS[number], *(_PICTURES[index] for index in pictures))
        if kind == "back":
            turns = turns[: -2 * number]
        elif kind == "system":
            system = [SYSTEM] if number else []
        elif kind == "session" and turns:
            prompt = warm.process_prompt([*system, *turns[:-1]], enable_thinking=thinking)
            with nullcontext() if known_of(prompt) else suppress(SessionError):
                assert warm.save_session(path, prompt) >= known_of(prompt)
                warm.load_session(path)
        elif kind == "ahead" and turns:
            stop = warm.prefill_ahead([*system, *turns], enable_thinking=thinking)
            # A question that nobody asked: what is read ahead ends before it.
            prompt = warm.process_prompt([*system, *turns, user("?")], enable_thinking=thinking)
            assert stop >= known_of(prompt)
            last = contents(prompt)[:stop]
        elif kind == "cancel":
            stop = 7 * number
            with pytest.raises(GenerationCancelled):
                ask(
                    warm,
                    [*system, *turns, question],
                    prefill_step_size=3,
                    on_progress=lambda done, total, stop=stop: done < min(stop, total - 1),
                )
        elif kind in ("again", "edit", "ask"):
            if kind != "ask":
                question = turns[-2] if kind == "again" and turns else question
                turns = turns[:-2]
            prompt = warm.process_prompt([*system, *turns, question], enable_thinking=thinking)
            results = [ask(kit, prompt, max_tokens=3, top_logprobs=VOCAB_SIZE - 1) for kit in pair]
            scores = [{top.token: top.logprob for top in result.top_logprobs[0]} for result in results]  # type: ignore[index]
            # Each lacks its own least likely token.
            tokens = sorted(scores[0].keys() & scores[1].keys())
            one, other = (np.array([score[token] for token in tokens]) for score in scores)
            assert np.isfinite(other).all()
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * np.abs(other).max())
            assert results[0].stats.cached_tokens >= known_of(prompt)
            assert warm.prompt_cache.nbytes <= warm.prompt_cache.budget
            last = contents(prompt)[: prompt.turn_start]
            turns = [*turns, question, assistant(results[0].text, results[0].reasoning)]


def test_branch_points(kit: ModelKit) -> None:
    """After the system message, at the last two questions, after an image, before the reasoning, at the last token."""
    messages = [SYSTEM, user("one"), assistant("1"), user("two", RED), assistant("2"), user("three")]
    prompt = kit.process_prompt(messages)
    ids = prompt.input_ids.tolist()
    starts = [index for index, token in enumerate(ids) if token == IDS["<|im_start|>"]]
    assert prompt.layout is not None
    expected = {starts[1], starts[3], starts[5], prompt.layout.spans[0].stop, ids.index(IDS["<think>"]), len(ids) - 1}
    assert prompt.branch_points == tuple(sorted(expected))
    assert prompt.turn_start == ids.index(IDS["<think>"])
    assert find_branch_points([5], None, kit.tokenizer) == ((), 1)


# Without a model: states of one GDN and one attention layer that know how many tokens they have read.


def prompt_of(ids: list[int], *, turn_start: int | None = None, image: tuple[int, int] | None = None) -> Prompt:
    """With an image of one row at the tokens between the two numbers."""
    layout, media = None, ()
    if image is not None:
        start, stop = image
        layout = MediaLayout((MediaSpan(start, stop, start, (1, 1, stop - start)),), len(ids))
        media = (PreparedImage(np.zeros((4 * (stop - start), 1), np.float32), (1, 2, 2 * (stop - start)),
                               (1, 1, stop - start), "ab" * 16),)  # fmt: skip
    turn_start = len(ids) if turn_start is None else turn_start
    return Prompt(np.array(ids, np.int32), layout, media, turn_start=turn_start)


def advance(reading: Reading, tokens: int, *, mark: bool = False) -> None:
    """Read so many tokens more."""
    gdn, attention = reading.state.caches
    read = attention.size() + tokens
    gdn.cache = [mx.full((1, 3, 8), read), mx.full((1, 2, 4, 4), read)]
    attention.update_and_fetch(mx.full((1, 1, tokens, 8), read), mx.full((1, 1, tokens, 8), read))
    if mark and reading.snapshots is not None:
        reading.snapshots.append(reading.state.snapshot())


def test_what_was_read_behind_a_place_is_no_part_of_what_goes_on_from_it(
    open_cache: Callable[..., PrefixCache],
) -> None:
    cache = open_cache()
    first = begin(cache, prompt_of(list(range(12))))
    for tokens in (4, 4, 3):
        advance(first, tokens, mark=True)
    cache.keep(first)
    other = begin(cache, prompt_of([*range(9), 50, 51, 52]))
    assert other.start == other.state.tokens == 8
    assert [snapshot.tokens for snapshot in other.snapshots or []] == [4, 8]
    advance(other, 3)
    cache.keep(other)
    assert [prefix.snapshot_tokens for prefix in cache._prefixes] == [[4, 8, 11], [4, 8, 11]]
    found = begin(cache, prompt_of([*range(9), 50, 51, 52]))
    gdn, attention = found.state.caches
    assert (found.start, gdn.cache[0][0, 0, 0].item()) == (11, 11)
    assert attention.keys_and_values()[0][0, 0, :, 0].tolist() == [4] * 4 + [8] * 4 + [11] * 3


@pytest.mark.parametrize(
    ("read", "written", "kept"), [((11,), [], 11), ((11, 3), [7, 8], 14), ((11, 4), [7, 8], None), ((), [], None)]
)
def test_no_more_is_kept_than_is_known(
    open_cache: Callable[..., PrefixCache], read: tuple[int, ...], written: list[int], kept: int | None
) -> None:
    """A state that has read tokens nobody told of, as after a fault, is kept neither, nor one that has read none."""
    cache = open_cache()
    reading = begin(cache, prompt_of(list(range(12))))
    for tokens in read:
        advance(reading, tokens)
    reading.written = written
    cache.keep(reading)
    assert [len(prefix) for prefix in cache._prefixes] == ([] if kept is None else [kept])
    if kept is not None:
        assert [*range(12), *written][:kept] == next(iter(cache._prefixes)).input_ids.tolist()


def test_nothing_is_kept_of_a_prompt_that_read_nothing_new(open_cache: Callable[..., PrefixCache]) -> None:
    cache = open_cache()
    first = begin(cache, prompt_of(list(range(12))))
    advance(first, 11, mark=True)
    cache.keep(first)
    (prefix,) = cache._prefixes
    again = begin(cache, prompt_of([*range(11), 40]))
    assert again.start == 11
    cache.keep(again)
    assert list(cache._prefixes) == [prefix]
    assert len(again.snapshots or []) == 1


def test_the_end_is_a_place_too_where_there_are_earlier_ones(open_cache: Callable[..., PrefixCache]) -> None:
    """Once, where the last of them is the end."""
    for mark in (False, True):
        cache = open_cache()
        reading = begin(cache, prompt_of(list(range(12))))
        advance(reading, 4, mark=True)
        advance(reading, 6, mark=mark)
        cache.keep(reading)
        assert [prefix.snapshot_tokens for prefix in cache._prefixes] == [[4, 10]]


def test_images_that_were_not_reached_are_no_part_of_what_is_kept(open_cache: Callable[..., PrefixCache]) -> None:
    """One that was read in part ends it where the last place before it is; one that was read whole is in it."""
    for tokens, end, images in ((4, 4, 0), (6, 3, 0), (8, 8, 1), (9, 9, 1)):
        cache = open_cache()
        reading = begin(cache, prompt_of([*range(5), 9, 9, 9, 20, 21], image=(5, 8)))
        advance(reading, 3, mark=True)
        advance(reading, tokens - 3)
        cache.keep(reading)
        (prefix,) = cache._prefixes
        assert (len(prefix), len(prefix.images), prefix.turn_start) == (end, images, end)


def test_the_conversation_that_was_used_last_is_saved_without_a_prompt(
    open_cache: Callable[..., PrefixCache], tmp_path: Path
) -> None:
    """Whole, and loaded by one whose budget it exactly fits."""
    cache = open_cache()
    for first in (0, 100):
        reading = begin(cache, prompt_of(list(range(first, first + 12)), turn_start=5))
        advance(reading, 11)
        cache.keep(reading)
    path = tmp_path / "a"
    assert cache.save(path, None) == 11
    other = open_cache(path.stat().st_size)
    assert other.load(path) == 11
    assert [int(prefix.input_ids[0]) for prefix in other._prefixes] == [100]
    with pytest.raises(SessionError, match="expected at most .* bytes .the prompt cache's budget., found"):
        open_cache(path.stat().st_size - 1).load(path)


def test_of_a_prompt_no_more_is_saved_than_it_has_without_its_last_token(
    open_cache: Callable[..., PrefixCache], tmp_path: Path
) -> None:
    """Unless it goes on to where the turn starts: then the conversation is what it is about."""
    cache = open_cache()
    reading = begin(cache, prompt_of(list(range(12)), turn_start=10))
    for tokens in (4, 4, 3):
        advance(reading, tokens, mark=True)
    cache.keep(reading)
    for ids, saved in ((range(8), 4), ([*range(8), 40], 8), (range(10), 11), ([*range(10), 40], 11)):
        assert cache.save(tmp_path / "a", prompt_of(list(ids))) == saved


def test_a_session_is_held_against_the_layout_of_the_model(
    tmp_path: Path, open_cache: Callable[..., PrefixCache]
) -> None:
    cache = open_cache()
    reading = begin(cache, prompt_of(list(range(12))))
    advance(reading, 11)
    cache.keep(reading)
    cache.save(tmp_path / "a", None)
    other = StateLayout(held=((), ()), marks=((), ()))
    strict = PrefixCache(make_caches, 10**9, fingerprint="m", layout=lambda: other)
    with pytest.raises(SessionError, match="expected 0 arrays, found 2"):
        strict.load(tmp_path / "a")
    assert len(strict) == 0
    strict.close()
