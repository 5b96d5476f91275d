"""Drafts save time and change nothing: every answer is that of a kit that drafts nothing."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_qwen35 import ModelKit
from mlx_qwen35.answers.constraints import ThinkingBudget
from mlx_qwen35.answers.grammars import Grammars
from mlx_qwen35.answers.results import GenerationResult
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.errors import CheckpointError, InsufficientMemoryError, OptionError, SessionError
from mlx_qwen35.runtime.batch import Batch
from mlx_qwen35.runtime.choosing import Chooser
from mlx_qwen35.runtime.drafter import Drafter
from mlx_qwen35.runtime.engine import Engine
from mlx_qwen35.runtime.speculation import Speculation, check_speculation
from mlx_qwen35.state.sequence import FrozenState
from tests.parity.cases import CASES
from tests.runtime.test_engine import Caller, at_once, is_chunk
from tests.tiny import DENSE, MOE, VOCAB_SIZE, Shape

GREEDY: dict[str, Any] = {"temperature": 0.0}
SAMPLED: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "top_k": 50}
OPTIONS: list[dict[str, Any]] = [
    GREEDY,
    GREEDY | {"repetition_penalty": 1.3, "logit_bias": {7: 2.0}},
    SAMPLED,
    SAMPLED | {"presence_penalty": 0.5, "frequency_penalty": 0.2},
]
Load = Callable[..., ModelKit]


@pytest.fixture(scope="module")
def drafting(checkpoint_dir: Callable[[Shape], Path]) -> Iterator[Load]:
    """From a shape and options to a kit that drafts; its head is random, so it is wrong nearly always."""
    loaded: dict[Any, ModelKit] = {}

    def get(shape: Shape = DENSE, speculate: str = "mtp", draft_tokens: int | None = None) -> ModelKit:
        key = (shape.name, speculate, draft_tokens)
        if key not in loaded:
            loaded[key] = ModelKit.load(checkpoint_dir(shape), speculate=speculate, draft_tokens=draft_tokens)
        return loaded[key]

    yield get
    for kit in loaded.values():
        kit.close()


@pytest.fixture
def plain(kit: ModelKit) -> ModelKit:
    """A kit that drafts nothing."""
    return kit


# Whether a draft is right, by its place in the answer.
Right = Callable[[int], bool]


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, GenerationResult], dict[int, Right]], None]:
    """In place of the module: knows answers by the last token of their prompts, and is right where it is told to be."""

    def put(answers: dict[int, GenerationResult], right: dict[int, Right]) -> None:
        rows: list[Any] = []
        with_drafts = Batch._with_drafts

        def ask(batch: Batch, *args: Any) -> Any:
            rows[:] = batch.rows
            return with_drafts(batch, *args)

        def draft(drafter: Drafter, depth: int, state: Any) -> mx.array:
            drafter.catch_up(state)
            drafts = []
            for row in rows:
                name, place = int(row.reading.prompt.input_ids[-1]), len(row.reading.written)
                known = [*answers[name].tokens[place:], *[0] * depth][:depth]
                drafts.append([(token + (not right[name](place + at))) % VOCAB_SIZE for at, token in enumerate(known)])
            return mx.array(drafts, mx.uint32)

        monkeypatch.setattr(Batch, "_with_drafts", ask)
        monkeypatch.setattr(Drafter, "draft", draft)

    return put


def ids(seed: int, length: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, 300, length)]


def same(one: GenerationResult, other: GenerationResult) -> None:
    assert one.tokens == other.tokens
    assert (one.text, one.reasoning, one.finish_reason) == (other.text, other.reasoning, other.finish_reason)


def newest(kit: ModelKit) -> FrozenState:
    """What the kit remembers of its last request."""
    state = next(reversed(kit.prompt_cache._prefixes)).state
    assert state is not None
    return state


def same_states(one: ModelKit, other: ModelKit) -> None:
    """To the bit, of the decoder's layers, at every snapshot."""
    first, second = newest(one), newest(other)
    assert [s.tokens for s in first.snapshots] == [s.tokens for s in second.snapshots]
    tokens, layers = first.snapshots[-1].tokens, len(one.config.text.layer_types)

    def compare() -> None:
        for held, wanted in zip(first.held[:layers], second.held[:layers], strict=True):
            for array, expected in zip(held, wanted, strict=True):
                assert mx.array_equal(array[..., :tokens, :], expected[..., :tokens, :]).item()
        for snapshot, like in zip(first.snapshots, second.snapshots, strict=True):
            for mark, wanted in zip(snapshot.marks[:layers], like.marks[:layers], strict=True):
                assert all(mx.array_equal(a, b).item() for a, b in zip(mark, wanted, strict=True))

    one._thread.call(compare)


def together(kit: ModelKit, prompts: list[Any], options: list[dict[str, Any]]) -> list[GenerationResult]:
    """Answers of several rows at once."""
    engine = Engine(kit, max_rows=len(prompts))
    callers = [
        Caller(engine, kit.request(prompt, cache_prompt=False, **given))
        for prompt, given in zip(prompts, options, strict=True)
    ]
    found = [caller.result() for caller in callers]
    engine.close()
    return found


@pytest.mark.some(4)
@pytest.mark.parametrize("batches", [(0,), pytest.param((1, 2, 3), marks=pytest.mark.thorough)], ids=str)
@pytest.mark.parametrize("number", range(len(OPTIONS)))
def test_answers_to_random_prompts_are_those_without_drafts(
    kits: Callable[[Shape], ModelKit], drafting: Load, dense_and_moe: Shape, number: int, batches: tuple[int, ...]
) -> None:
    """Four rows at a time, of different lengths, by a head that drafts at random, and by what repeats itself."""
    for batch in batches:
        seeds = range(100 * number + 4 * batch, 100 * number + 4 * batch + 4)
        prompts = [ids(seed, 2 + 3 * (seed % 5)) + ids(seed, 3) for seed in seeds]
        options = [OPTIONS[number] | {"seed": seed, "max_tokens": 7} for seed in seeds]
        expected = together(kits(dense_and_moe), prompts, options)
        for speculate in ("mtp", "lookup"):
            found = together(drafting(dense_and_moe, speculate), prompts, options)
            assert [one.tokens for one in found] == [one.tokens for one in expected]


@pytest.mark.some(4)
@pytest.mark.parametrize(
    "name", ["text", pytest.param("three images", marks=pytest.mark.thorough), "an image, then a video"]
)
@pytest.mark.parametrize(
    "options",
    [GREEDY, SAMPLED | {"seed": 1}, pytest.param(SAMPLED | {"seed": 2}, marks=pytest.mark.thorough)],
    ids=["greedy", "sampled", "sampled again"],
)
def test_answers_of_a_row_alone_are_those_without_drafts(
    kits: Callable[[Shape], ModelKit], drafting: Load, dense_and_moe: Shape, name: str, options: dict[str, Any]
) -> None:
    plain = kits(dense_and_moe)
    prompt = plain.process_prompt(CASES[name].input_ids, **CASES[name].media)
    expected = plain.generate(prompt, max_tokens=8, **options)
    for speculate in ("mtp", "lookup", "auto"):
        same(drafting(dense_and_moe, speculate).generate(prompt, max_tokens=8, **options), expected)


PATTERNS: dict[str, Right] = {
    "always": lambda place: True,
    "never": lambda place: False,
    "every other": lambda place: place % 2 == 0,
    "two of three": lambda place: place % 3 != 0,
    "at first": lambda place: place < 5,
    "at last": lambda place: place >= 9,
}


@pytest.mark.some(6)
@pytest.mark.parametrize("depth", [1, pytest.param(3, marks=pytest.mark.thorough), 7])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_after_any_pattern_of_right_drafts_the_state_is_that_without_drafts(
    plain: ModelKit, drafting: Load, oracle: Callable[..., None], pattern: str, depth: int
) -> None:
    prompt = CASES["wide image"]
    kit = drafting(DENSE, "mtp", depth)
    ready = plain.process_prompt(prompt.input_ids, images=prompt.images)
    for one in (plain, kit):
        one.prompt_cache.clear()
    expected = plain.generate(ready, max_tokens=14, **GREEDY)
    name = int(ready.input_ids[-1])
    oracle({name: expected}, {name: PATTERNS[pattern]})
    found = kit.generate(ready, max_tokens=14, **GREEDY)
    same(found, expected)
    same_states(kit, plain)
    # The first token comes without drafts.
    most = {"always": 1 + -(-13 // (depth + 1)), "never": 14}.get(pattern)
    assert most is None or found.stats.steps == most
    assert sum(found.stats.accepted) == 14 - found.stats.steps


@pytest.mark.parametrize("pattern", ["always", "two of three", "at last"])
def test_the_module_has_read_the_answer_itself_whatever_drafts_were_right(
    plain: ModelKit, drafting: Load, oracle: Callable[..., None], pattern: str
) -> None:
    """Keys and values of its layers, which it reads before that is known; those without right drafts, 1e-5."""
    kit, prompt = drafting(DENSE, "mtp", 3), ids(3, 20)
    expected = plain.generate(prompt, max_tokens=15, **GREEDY)
    layers, held = len(kit.config.text.layer_types), []
    for name in ("never", pattern):
        kit.prompt_cache.clear()
        oracle({prompt[-1]: expected}, {prompt[-1]: PATTERNS[name]})
        kit.generate(prompt, max_tokens=15, **GREEDY)
        state = newest(kit)
        tokens = state.snapshots[-1].tokens
        assert tokens >= 20 + 14
        held.append([np.array(array[..., :tokens, :]) for layer in state.held[layers:] for array in layer])
    assert held[0]
    for wanted, found in zip(*held, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_rows_with_different_patterns_get_what_each_gets_alone(
    plain: ModelKit, drafting: Load, oracle: Callable[..., None]
) -> None:
    """They join and leave at different times, and one is cancelled in the middle."""
    kit = drafting()
    prompts = [[*ids(seed, 5 + 9 * seed), 301 + seed] for seed in range(5)]
    lengths = [30, 11, 24, 17, 40]
    alone = {
        prompt[-1]: plain.generate(prompt, max_tokens=length, cache_prompt=False, **GREEDY)
        for prompt, length in zip(prompts, lengths, strict=True)
    }
    names = ("never", "always", "every other", "two of three", "at first")
    oracle(alone, dict(zip(alone, [PATTERNS[name] for name in names], strict=True)))
    # The one that is cancelled would go on for long.
    lengths[0] = 3000
    engine = Engine(kit, max_rows=4)
    callers = {}
    for prompt, length in zip(prompts, lengths, strict=True):
        callers[prompt[-1]] = Caller(engine, kit.request(prompt, max_tokens=length, cache_prompt=False, **GREEDY))
        callers[prompt[-1]].until(is_chunk)
        if prompt is prompts[2]:
            engine.cancel(callers[prompts[0][-1]].job)
    for name, caller in list(callers.items())[1:]:
        same(caller.result(), alone[name])
    assert isinstance(callers[prompts[0][-1]].end(), BaseException)
    engine.close()


def test_prompts_of_one_token_in_a_batch_get_what_each_gets_alone(
    plain: ModelKit, drafting: Load, oracle: Callable[..., None]
) -> None:
    """Of which nothing is read before the batch begins."""
    kit, prompts = drafting(), [[301], [302]]
    options = GREEDY | {"max_tokens": 14, "cache_prompt": False}
    alone = {prompt[0]: plain.generate(prompt, **options) for prompt in prompts}
    oracle(alone, {301: PATTERNS["always"], 302: PATTERNS["every other"]})
    engine = Engine(kit)
    for caller, wanted in zip(
        at_once(kit, engine, [kit.request(prompt, **options) for prompt in prompts]), alone.values(), strict=True
    ):
        found = caller.result()
        same(found, wanted)
        assert sum(found.stats.accepted) > 0
    engine.close()


@pytest.mark.some(1)
@pytest.mark.parametrize("depth", [3, 7])
def test_an_answer_ends_inside_a_step(plain: ModelKit, drafting: Load, oracle: Callable[..., None], depth: int) -> None:
    """By a stop string, an end token or its length, where drafts go on; what is remembered ends there."""
    kit = drafting(DENSE, "mtp", depth)
    prompt = [*ids(3, 20), 301]
    whole = plain.generate(prompt, max_tokens=20, **GREEDY)
    end = sorted(plain.tokenizer.eos_token_ids)[0]

    def ends(tokens: mx.array, logits: mx.array) -> mx.array:
        wanted = mx.arange(logits.shape[-1]) == (end if tokens.shape[0] == 8 else whole.tokens[tokens.shape[0] - 1])
        return mx.where(wanted, logits + 100, logits)

    oracle({301: whole}, {301: lambda place: True})
    for options in ({"stop": whole.text[8:11]}, {"logits_processors": [ends]}, {"max_tokens": 6}):
        for one in (plain, kit):
            one.prompt_cache.clear()
        given = GREEDY | {"max_tokens": 20} | options
        expected = plain.generate(prompt, **given)
        assert len(expected.tokens) < 20
        same(kit.generate(prompt, **given), expected)
        same_states(kit, plain)


@pytest.mark.some(1)
@pytest.mark.parametrize("speculate", ["mtp", "lookup"])
def test_a_least_length_holds_with_drafts_that_end_the_answer(speculate: str) -> None:
    """The model in the package is sure of where it ends, and so are its drafts."""
    question = [{"role": "user", "content": "Spell the word star."}]
    found = []
    for way in ("off", speculate):
        with ModelKit.load(BOX, speculate=way) as kit:
            prompt = kit.process_prompt(question, enable_thinking=False)
            found.append([kit.generate(prompt, min_tokens=least, max_tokens=40, **GREEDY) for least in (0, 12, 40)])
    for expected, drafted, least in zip(*found, (1, 13, 40), strict=True):
        same(drafted, expected)
        assert len(expected.tokens) >= least
    assert sum(found[1][-1].stats.drafted) > 0


def test_a_grammar_and_a_thinking_budget_hold_with_right_and_wrong_drafts(
    plain: ModelKit, drafting: Load, oracle: Callable[..., None]
) -> None:
    grammars = Grammars(plain.tokenizer, plain.config.text.vocab_size)
    schema: dict[str, Any] = {"type": "object", "properties": {"name": {"enum": ["fox", "dog"]}}, "required": ["name"]}
    schema["additionalProperties"] = False
    prompt = [*ids(4, 12), 301]

    def given(kit: ModelKit) -> dict[str, Any]:
        budget = ThinkingBudget(kit.tokenizer, 3, in_reasoning=True)
        processors = [grammars.json_schema(schema, in_reasoning=True), budget]
        return GREEDY | {"max_tokens": 60, "logits_processors": processors}

    expected = plain.generate(prompt, **given(plain))
    assert expected.finish_reason == "stop"
    for pattern in ("always", "never", "two of three"):
        oracle({301: expected}, {301: PATTERNS[pattern]})
        same(drafting(DENSE, "mtp", 7).generate(prompt, **given(plain)), expected)


class Pushed:
    """Has a token come at one place of the answer."""

    def __init__(self, token: int, place: int) -> None:
        self._token, self._place = token, place

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        here = (mx.arange(logits.shape[-1]) == self._token) & (tokens.shape[0] == 1 + self._place)
        return mx.where(here, 1e4, logits)

    def rewind(self, count: int) -> None:
        """Nothing: it goes by the history's length."""


@pytest.mark.parametrize("in_reasoning", [False, True])
def test_a_call_in_free_text_is_held_with_right_and_wrong_drafts(
    plain: ModelKit, drafting: Load, oracle: Callable[..., None], in_reasoning: bool
) -> None:
    """Before it drafts need not be known; none of them counts behind the token that it begins with."""
    grammars, prompt = Grammars(plain.tokenizer, plain.config.text.vocab_size), [*ids(6, 12), 301]
    end_think, call = (plain.tokenizer.control_id(token) for token in ("</think>", "<tool_call>"))

    def given() -> dict[str, Any]:
        pushed = [Pushed(end_think, 5)] * in_reasoning + [Pushed(call, 9)]
        held = grammars.calls_in_text([WEATHER], parallel=False, in_reasoning=in_reasoning)
        return GREEDY | {"max_tokens": 60, "logits_processors": [*pushed, held]}

    expected = plain.generate(prompt, **given())
    assert "<tool_call>\n<function=weather>\n" in expected.text
    for patterns in PATTERNS.values():
        oracle({301: expected}, {301: patterns})
        same(drafting(DENSE, "mtp", 7).generate(prompt, **given()), expected)


def test_a_text_in_a_call_is_held_with_right_and_wrong_drafts(
    plain: ModelKit, drafting: Load, oracle: Callable[..., None]
) -> None:
    """In it drafts need not be known; none counts behind a line that nearly ends it."""
    grammars, prompt = Grammars(plain.tokenizer, plain.config.text.vocab_size), [*ids(6, 12), 301]
    note = {"name": "note", "parameters": {"properties": {"text": {"type": "string"}}, "required": ["text"]}}
    call, ends = plain.tokenizer.control_id("<tool_call>"), plain.tokenizer.encode("\n</parameter>")
    nearly = plain.tokenizer.encode("\n</parameter then\n</\n")

    def given() -> dict[str, Any]:
        pushed = [Pushed(call, 3), *(Pushed(token, 40 + at) for at, token in enumerate(nearly))]
        pushed += [Pushed(token, 60 + at) for at, token in enumerate(ends)]
        held = grammars.calls_in_text([note], parallel=False, in_reasoning=False)
        return GREEDY | {"max_tokens": 90, "logits_processors": [*pushed, held]}

    expected = plain.generate(prompt, **given())
    assert expected.finish_reason == "stop"
    assert expected.text.endswith("\n</parameter>\n</function>\n</tool_call>")
    assert "\n</parameter then\n</\n" in expected.text
    for patterns in PATTERNS.values():
        oracle({301: expected}, {301: patterns})
        same(drafting(DENSE, "mtp", 7).generate(prompt, **given()), expected)


def test_drafts_in_free_text_are_not_waited_for(plain: ModelKit) -> None:
    grammars = Grammars(plain.tokenizer, plain.config.text.vocab_size)
    call, held = plain.tokenizer.control_id("<tool_call>"), grammars.calls_in_text([WEATHER], in_reasoning=False)
    chooser = Chooser(plain.request(ids(1, 4), logits_processors=[held], **GREEDY))
    logits = mx.zeros((1, plain.config.text.vocab_size))
    for token, needed in ((5, False), (6, False), (call, False), (7, True)):
        assert not chooser.needs_drafts or needed
        chooser.processed(mx.array([token]), logits)
    assert chooser.needs_drafts


def test_a_grammar_beside_what_cannot_be_taken_back_ends_inside_a_step(
    plain: ModelKit, drafting: Load, oracle: Callable[..., None]
) -> None:
    """A function without `rewind` has the places asked for one by one; the grammar goes back all the same."""
    grammars, prompt = Grammars(plain.tokenizer, plain.config.text.vocab_size), [*ids(4, 12), 301]
    schema = {"type": "object", "properties": {"name": {"enum": ["fox", "dog"]}}, "required": ["name"]}

    def given() -> dict[str, Any]:
        processors = [grammars.json_schema(schema, in_reasoning=False), lambda tokens, logits: logits]
        return GREEDY | {"max_tokens": 60, "logits_processors": processors}

    whole = plain.generate(prompt, **given())
    stop = whole.text[2:4]
    expected = plain.generate(prompt, stop=stop, **given())
    assert len(expected.tokens) < len(whole.tokens)
    oracle({301: whole}, {301: PATTERNS["always"]})
    same(drafting(DENSE, "mtp", 7).generate(prompt, stop=stop, **given()), expected)


def test_functions_of_the_caller_see_every_token_once(
    plain: ModelKit, drafting: Load, oracle: Callable[..., None]
) -> None:
    prompt = [*ids(5, 12), 301]
    expected = plain.generate(prompt, max_tokens=12, **GREEDY)
    oracle({301: expected}, {301: PATTERNS["two of three"]})
    seen: list[list[int]] = []

    def watch(tokens: mx.array, logits: mx.array) -> mx.array:
        seen.append(tokens.tolist())  # type: ignore[arg-type]
        return logits

    found = drafting().generate(
        prompt, max_tokens=12, logits_processors=[watch], sampler=lambda scores: mx.argmax(scores, axis=-1)
    )
    same(found, expected)
    # One call is ahead of the answer's end.
    assert seen == [[301, *expected.tokens[:count]] for count in range(13)]


def test_an_error_of_the_callers_function_ends_the_request(drafting: Load, oracle: Callable[..., None]) -> None:
    def fails(tokens: mx.array, logits: mx.array) -> mx.array:
        if tokens.shape[0] > 3:
            raise ZeroDivisionError
        return logits

    with pytest.raises(ZeroDivisionError):
        drafting().generate([5, 6, 7], max_tokens=12, logits_processors=[fails])
    assert len(drafting().generate([5, 6, 7], max_tokens=3, **GREEDY).tokens) == 3


def test_log_probabilities_are_those_without_drafts(
    plain: ModelKit, drafting: Load, oracle: Callable[..., None]
) -> None:
    """Within 1e-5 of the largest."""
    prompt = [*ids(6, 12), 301]
    options = GREEDY | {"max_tokens": 9, "top_logprobs": 3}
    expected = plain.generate(prompt, **options)
    oracle({301: expected}, {301: PATTERNS["two of three"]})
    found = drafting().generate(prompt, **options)
    wanted = np.array([[one.logprob for one in place] for place in expected.top_logprobs or ()])
    values = np.array([[one.logprob for one in place] for place in found.top_logprobs or ()])
    np.testing.assert_allclose(values, wanted, atol=1e-5 * np.abs(wanted).max())


def test_the_next_turn_reads_as_little_as_without_drafts_and_sessions_hold_the_module(
    plain: ModelKit, drafting: Load, tmp_path: Path
) -> None:
    kit = drafting()
    for one in (plain, kit):
        one.prompt_cache.clear()
    messages: list[dict[str, Any]] = [{"role": "user", "content": "hello there"}]
    first = [one.generate(messages, max_tokens=6, **GREEDY) for one in (plain, kit)]
    same(first[1], first[0])
    kit.save_session(tmp_path / "session")
    kit.prompt_cache.clear()
    kit.load_session(tmp_path / "session")
    following = [*plain.process_prompt(messages).input_ids.tolist(), *first[0].tokens, *ids(1, 5)]
    second = [one.generate(following, max_tokens=6, **GREEDY) for one in (plain, kit)]
    same(second[1], second[0])
    assert second[1].stats.cached_tokens == second[0].stats.cached_tokens > 0


def test_the_head_in_the_package_drafts_right_and_answers_are_the_same() -> None:
    prompt = [{"role": "user", "content": "Count from 1 to 9."}]
    with ModelKit.load(BOX, speculate="off") as plain, ModelKit.load(BOX, speculate="mtp", draft_tokens=1) as kit:
        expected, found = (one.generate(prompt, max_tokens=60, **GREEDY) for one in (plain, kit))
        same(found, expected)
        assert found.stats.accepted[0] > 0.8 * found.stats.drafted[0] > 0
        assert found.stats.tokens_per_step > 1.6
        assert (expected.stats.steps, sum(expected.stats.drafted)) == (len(expected.tokens), 0)


def test_text_that_repeats_itself_is_looked_up(plain: ModelKit, drafting: Load) -> None:
    prompt = ids(7, 20)
    bias = {"logit_bias": {9: 100.0}}
    found = drafting(DENSE, "lookup").generate(prompt, max_tokens=40, **GREEDY, **bias)
    same(found, plain.generate(prompt, max_tokens=40, **GREEDY, **bias))
    assert found.stats.steps < 15


def test_memory_is_counted_for_the_module_and_for_what_is_kept(
    checkpoint_dir: Callable[[Shape], Path], plain: ModelKit, drafting: Load
) -> None:
    kit = drafting()
    assert kit.guard.weights > plain.guard.weights
    assert kit.guard.held(100) > plain.guard.held(100)
    assert kit.guard.passing(100, 1) > plain.guard.passing(100, 1)
    assert kit.ledger.by_purpose()["mtp module"] == kit.guard.weights - plain.guard.weights
    with pytest.raises(InsufficientMemoryError, match="speculate off"):
        ModelKit.load(checkpoint_dir(DENSE), speculate="mtp", memory_limit=plain.guard.needs(1, 1) + 1000)


def test_options_are_checked(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    directory = checkpoint_dir(DENSE)
    for options, message in (
        ({"speculate": "fast"}, "speculate: expected one of off, mtp, lookup, auto, found 'fast'"),
        ({"speculate": "mtp", "exact": True}, "speculate: expected off where exact is asked for"),
        ({"draft_tokens": 8}, "draft_tokens: expected a whole number from 0 to 7"),
    ):
        with pytest.raises(OptionError, match=message):
            ModelKit.load(directory, **options)  # type: ignore[arg-type]


def test_a_checkpoint_without_a_module_says_so(checkpoint_dir: Callable[[Shape], Path]) -> None:
    shape = Shape("text-only-drafts", seed=11, text_only=True)
    with pytest.raises(CheckpointError, match="expected the weights of an MTP module"):
        ModelKit.load(checkpoint_dir(shape), speculate="mtp")
    with ModelKit.load(checkpoint_dir(shape), speculate="auto") as kit:
        assert not kit.speculation.uses_module
        assert len(kit.generate(ids(1, 9), max_tokens=4, **GREEDY).tokens) == 4


def test_a_head_may_come_from_a_repository_of_its_own(
    checkpoint_dir: Callable[[Shape], Path], plain: ModelKit, tmp_path: Path
) -> None:
    """It drafts, nothing else changes, and what is kept is told from what is kept without it."""
    tensors = load_file(checkpoint_dir(DENSE) / "model.safetensors")
    bare, apart = tmp_path / "bare", tmp_path / "head"
    shutil.copytree(checkpoint_dir(DENSE), bare)
    apart.mkdir()
    head = {name: value for name, value in tensors.items() if name.startswith("mtp.")}
    save_file({name: value for name, value in tensors.items() if name not in head}, bare / "model.safetensors")
    save_file(head, apart / "model.safetensors")
    expected = plain.generate("the fox", max_tokens=6, **GREEDY)
    with ModelKit.load(bare, speculate="mtp", mtp_path=apart) as kit:
        found = kit.generate("the fox", max_tokens=6, **GREEDY)
        assert found.tokens == expected.tokens
        assert sum(found.stats.drafted) > 0
        kit.save_session(tmp_path / "kept")
    changed = {name: value + 1 if name == "mtp.fc.weight" else value for name, value in head.items()}
    save_file(changed, apart / "model.safetensors")
    with ModelKit.load(bare, speculate="mtp", mtp_path=apart) as kit, pytest.raises(SessionError):
        kit.load_session(tmp_path / "kept")
    for options in ({"speculate": "off"}, {"speculate": "lookup"}, {"speculate": "mtp", "draft_tokens": 0}):
        with pytest.raises(OptionError, match='mtp_path: expected with speculate="mtp" or "auto"'):
            ModelKit.load(bare, mtp_path=apart, **options)
    with pytest.raises(CheckpointError, match="expected the weights of an MTP module"):
        ModelKit.load(bare, speculate="mtp")


def test_a_limit_on_the_reasoning_is_foreseen(plain: ModelKit, drafting: Load, oracle: Callable[..., None]) -> None:
    """All places of a step are asked for at once, whoever set it, and right and wrong drafts change nothing."""
    messages = [{"role": "user", "content": "the quick brown fox"}]
    low = plain.process_prompt(messages, reasoning_effort="low")
    assert Chooser(plain.request(low)).foresees
    for budget in (0, 2, 5):
        given = GREEDY | {"thinking_budget": budget, "max_tokens": 16}
        expected = plain.generate(low, **given)
        for pattern in ("always", "never", "two of three"):
            oracle({int(low.input_ids[-1]): expected}, {int(low.input_ids[-1]): PATTERNS[pattern]})
            found = drafting().generate(low, **given)
            same(found, expected)
        assert found.stats.tokens_per_step > 1


def test_steps_without_drafts_teach_both_who_draft_and_others_only_one() -> None:
    speculation = Speculation("auto", has_module=True)
    times = {kind: regulator.times for kind, regulator in speculation._regulators.items()}
    for _ in range(2):
        speculation.took(1, (0, False), (0, False), tokens=1, seconds=1.0)
    assert times[True].of(1, 0) == times[False].of(1, 0) == 1.0
    for by_module in (True, False):
        for _ in range(2):
            speculation.took(1, (2, by_module), (2, by_module), tokens=1, seconds=3.0)
        assert times[by_module].of(1, 2) == 3.0
        assert (times[not by_module].of(1, 2) is None) == by_module


def row(speculation: Speculation, room: int, prompt: Sequence[int] = ()) -> Any:
    """One that may still be given so many tokens."""
    return SimpleNamespace(record=speculation.record(prompt), room=room)


@pytest.mark.parametrize(
    ("mode", "given", "most"),
    [("off", None, 0), ("off", 5, 0), ("mtp", None, 2), ("mtp", 7, 7), ("lookup", None, 7), ("auto", None, 7),
     ("auto", 2, 2)],
)  # fmt: skip
def test_how_many_tokens_are_drafted_and_by_whom(mode: Any, given: int | None, most: int) -> None:
    speculation = Speculation(mode, given, has_module=True)
    assert speculation.most == most
    assert (speculation.uses_module, speculation.uses_lookup) == (mode in ("mtp", "auto"), mode in ("lookup", "auto"))
    assert speculation.is_on == (most > 0)
    assert (speculation.record([]).text is not None) == speculation.uses_lookup
    assert Speculation(mode, 0, has_module=True).record([]).text is None
    assert not Speculation(mode, given).uses_module


def test_the_module_drafts_as_far_as_any_row_has_room() -> None:
    speculation = Speculation("mtp", 5, has_module=True)
    rooms = {(9, 1): 5, (4, 1): 4, (0, 0): 0}
    for several, depth in rooms.items():
        assert speculation.depth([row(speculation, room) for room in several]) == depth
    assert Speculation("lookup", 5, has_module=True).depth([row(speculation, 9)]) == 0


def test_what_is_found_is_cut_to_what_it_is_worth() -> None:
    """All of it or nothing; and beside the module only what repeats eight tokens counts as found."""
    short, long = [1, 2, 3, 4, 5, 1, 2, 3], [*range(20), *range(9)]
    always = Speculation("lookup")
    assert always.found(row(always, 2, short), 1) == [4, 5]
    assert always.found(row(always, 0, short), 1) == []
    for pays in (False, True):
        auto, asked = Speculation("auto", has_module=True), []

        def answer(*given: Any, asked: list[Any] = asked, pays: bool = pays) -> bool:
            asked.append(given)
            return pays

        auto._regulators[False].pays = answer  # type: ignore[method-assign]
        assert auto.found(row(auto, 3, short), 4) == []
        assert asked == []
        one = row(auto, 3, long)
        assert auto.found(one, 4) == ([9, 10, 11] if pays else [])
        assert asked == [(one.record.lookup, 4, 3)]


def test_what_steps_cost_is_entered_as_tokens_of_a_row() -> None:
    """Once it is known what one takes without drafts; by what such steps usually take, unless their number changes."""
    speculation, entered = Speculation("auto", has_module=True), []
    speculation._budget = SimpleNamespace(add=lambda *given, drafted: entered.append((*given, drafted)))  # type: ignore[assignment]
    none, draft = (0, False), (2, True)
    for done, begun, tokens, seconds in (
        (none, none, 2, 1.0), (none, none, 2, 1.0), (none, draft, 2, 9.0),
        (draft, draft, 4, 5.0), (draft, draft, 4, 3.0), (draft, none, 6, 8.0),
    ):  # fmt: skip
        speculation.took(2, done, begun, tokens=tokens, seconds=seconds)
    assert entered == [
        (1.0, 1.0, 1.0, False), (1.0, 1.0, 9.0, True),
        (1.0, 2.0, 5.0, True), (1.0, 2.0, 3.0, True), (1.0, 3.0, 8.0, True),
    ]  # fmt: skip


def test_drafts_are_counted_by_their_place_for_the_row_and_for_all() -> None:
    speculation = Speculation("auto", has_module=True)
    one, other = row(speculation, 9), row(speculation, 9)
    speculation.learn(one, 3, 1, by_module=True)
    speculation.learn(other, 2, 2, by_module=False)
    assert (one.record.drafted[:4], one.record.accepted[:4]) == ([1, 1, 1, 0], [1, 0, 0, 0])
    assert (speculation.drafted[:4], speculation.accepted[:4]) == ([2, 2, 1, 0], [2, 1, 0, 0])
    assert one.record.module.share(1) < one.record.lookup.share(1) < other.record.lookup.share(1)
    speculation.stepped(one)
    assert (one.record.steps, other.record.steps, speculation.steps) == (1, 0, 1)


def test_where_exact_is_asked_for_nothing_is_drafted() -> None:
    assert check_speculation("auto", None, exact=True) == ("off", None)
    assert check_speculation("off", 0, exact=True) == ("off", 0)
    assert check_speculation("auto", 7, exact=False) == ("auto", 7)
    for mode, exact in (("off", False), ("auto", True)):
        with pytest.raises(OptionError, match="draft_tokens: expected where tokens are drafted, found 3"):
            check_speculation(mode, 3, exact=exact)
    for mode in ("mtp", "lookup"):
        with pytest.raises(OptionError, match="speculate: expected off where exact is asked for"):
            check_speculation(mode, None, exact=True)


@pytest.mark.parametrize(
    ("done", "begun", "measured"),
    [
        ((0, False), (0, False), {True, False}), ((2, True), (2, True), {True}), ((2, True), (2, False), set()),
        ((2, False), (0, False), {False}), ((0, True), (2, True), {True}),
    ],
)  # fmt: skip
def test_a_step_teaches_those_whose_drafts_alone_it_had(
    done: tuple[int, bool], begun: tuple[int, bool], measured: set[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    speculation = Speculation("auto", has_module=True)
    taught: list[bool] = []
    for kind, regulator in speculation._regulators.items():
        monkeypatch.setattr(regulator, "took", lambda *_, kind=kind: taught.append(kind))
    speculation.took(1, done, begun, tokens=1, seconds=1.0)
    assert set(taught) == measured


@pytest.mark.parametrize("by_module", [True, False])
def test_who_drafted_learns_and_the_other_does_not(by_module: bool) -> None:
    speculation = Speculation("auto", has_module=True)
    one = row(speculation, 100)
    before = one.record.module.share(0)
    for _ in range(20):
        speculation.learn(one, 1, 0, by_module=by_module)
    learnt = [one.record.module, speculation._regulators[True].acceptance]
    others = [one.record.lookup, speculation._regulators[False].acceptance]
    learnt, others = (learnt, others) if by_module else (others, learnt)
    assert all(acceptance.share(0) < before / 2 for acceptance in learnt)
    assert all(acceptance.share(0) == before for acceptance in others)


WEATHER: dict[str, Any] = {
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]},
}
FOX: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"enum": ["fox", "dog"]}, "legs": {"type": "integer"}},
    "required": ["name", "legs"],
    "additionalProperties": False,
}


@pytest.mark.thorough
@pytest.mark.parametrize("shape", [DENSE, MOE], ids=lambda shape: shape.name)
def test_text_images_tool_calls_and_json_in_one_batch_are_those_without_drafts(
    kits: Callable[[Shape], ModelKit],
    drafting: Load,
    oracle: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    shape: Shape,
) -> None:
    """Greedy and sampled; by a random head, by one that is always right, and by one that is wrong at every place."""
    plain, kit = kits(shape), drafting(shape)
    grammars, case = Grammars(plain.tokenizer, plain.config.text.vocab_size), CASES["wide image"]
    prompts = [
        plain.process_prompt([*ids(21, 14), 301]),
        plain.process_prompt([*case.input_ids, *ids(22, 3), 302], images=case.images),
        plain.process_prompt([*ids(23, 9), 303]),
        plain.process_prompt([*ids(24, 20), 304]),
    ]

    def given() -> list[dict[str, Any]]:
        constraints = [
            [],
            [],
            [grammars.tool_calls([WEATHER], parallel=False, in_reasoning=False)],
            [grammars.json_schema(FOX, in_reasoning=True), ThinkingBudget(plain.tokenizer, 2, in_reasoning=True)],
        ]
        most, kinds = (16, 16, 70, 60), (SAMPLED, GREEDY, GREEDY, SAMPLED)
        return [
            kinds[row] | {"max_tokens": most[row], "seed": row, "logits_processors": own}
            for row, own in enumerate(constraints)
        ]

    expected = [plain.generate(prompt, cache_prompt=False, **own) for prompt, own in zip(prompts, given(), strict=True)]
    assert [one.finish_reason for one in expected[2:]] == ["stop"] * 2
    found = [together(kit, prompts, given())]
    for pattern in ("always", "never"):
        known = {int(prompt.input_ids[-1]): one for prompt, one in zip(prompts, expected, strict=True)}
        oracle(known, dict.fromkeys(known, PATTERNS[pattern]))
        found.append(together(kit, prompts, given()))
        monkeypatch.undo()
    for answers in found:
        for answer, wanted in zip(answers, expected, strict=True):
            same(answer, wanted)
    # Rows that join drop the drafts of the step that is on its way.
    assert all(one.stats.tokens_per_step > 1.5 for one in found[1])
    assert all(sum(one.stats.accepted) == 0 for one in found[2])


def test_after_a_cancellation_in_the_middle_of_a_step_the_next_turn_is_that_without_drafts(
    plain: ModelKit, drafting: Load, oracle: Callable[..., None]
) -> None:
    kit, prompt = drafting(DENSE, "mtp", 7), [*ids(31, 12), 301]
    # No token that stands for a picture, so that the answer may be part of a prompt.
    options = GREEDY | {"logit_bias": dict.fromkeys(range(300, VOCAB_SIZE), -100.0)}
    for one in (plain, kit):
        one.prompt_cache.clear()
    expected = plain.generate(prompt, max_tokens=40, **options)
    following = [*prompt, *expected.tokens[:20], *ids(32, 4)]
    wanted = plain.generate(following, max_tokens=8, **options)
    oracle({301: expected}, {301: lambda place: True})
    stream = kit.stream(prompt, max_tokens=3000, **options)
    assert [next(stream).token for _ in range(5)] == list(expected.tokens[:5])
    stream.close()
    oracle({following[-1]: wanted}, {following[-1]: PATTERNS["every other"]})
    found = kit.generate(following, max_tokens=8, **options)
    same(found, wanted)
    assert len(prompt) <= found.stats.cached_tokens <= len(following)
