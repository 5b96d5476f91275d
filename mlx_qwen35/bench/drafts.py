"""What speculative decoding gains: the same answers with and without drafts, in turns; and what verifying costs."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import mlx.core as mx
import numpy as np
from PIL import Image

from mlx_qwen35.answers.results import GenerationChunk
from mlx_qwen35.bench.runtimes import MlxVlmRuntime
from mlx_qwen35.errors import OptionError
from mlx_qwen35.model_kit import ModelKit
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.runtime.engine import Engine
from mlx_qwen35.runtime.request import Event
from mlx_qwen35.runtime.speculation import Speculate

WIDTHS = (1, 2, 3, 4, 8)
# What the small model in the package can answer with more than a few tokens.
_QUESTIONS = ("Count from 1 to 9.", "Spell the word picture.", "Count from 2 to 8.", "Spell the word yellow.")
_MOST = 64
# Seconds for which steps are measured by themselves: quantised matrices take long on a CPU.
_LONGEST = 60.0
_SAMPLED = {"temperature": 0.7, "seed": 1}


@dataclass(frozen=True)
class Task:
    """Questions that are answered one after the other, or at once.

    Args:
        rows: How many of each are answered at once.
        options: Of the answers.
    """

    name: str
    prompts: tuple[Prompt, ...]
    rows: int
    options: dict[str, Any]


@dataclass(frozen=True)
class Gain:
    """What came out for one task.

    Args:
        tps: Tokens per second behind the first one, of all rows together; the median of the turns.
        processor: Seconds of processor time for each of these tokens, which a busy machine changes less.
        tokens_per_step: Of each row.
        right: How often drafts were right, by their place; as far as there were any.
    """

    tps: float
    processor: float
    tokens_per_step: float
    right: tuple[float, ...]


def tasks(kit: ModelKit, *, lengths: Sequence[int], images: Sequence[int], batches: Sequence[int]) -> Iterator[Task]:
    """Behind so many tokens of conversation, behind so many pictures, in so many rows, greedy; and sampled."""
    greedy: dict[str, Any] = {"temperature": 0.0}

    def asked(before: int = 0, pictures: int = 0) -> tuple[Prompt, ...]:
        return tuple(_prompt(kit, question, before, pictures) for question in _QUESTIONS)

    for length in filter(None, lengths):
        yield Task(f"behind {length} tokens", asked(length), 1, greedy)
    if kit.vision.unavailable is None:
        for count in filter(None, images):
            yield Task(f"behind {count} image{'s' if count > 1 else ''}", asked(0, count), 1, greedy)
    for rows in batches:
        if rows > 1:
            yield Task(f"{rows} rows", asked(), rows, greedy)
    yield Task("sampled at 0.7", asked(), 1, _SAMPLED)
    text = kit.process_prompt([int(token) for token in np.random.default_rng(1).integers(0, 256, 128)])
    yield Task("a text quoted word for word", (text,), 1, greedy | {"logits_processors": [Quoting(text)]})


def measure(
    model: Path,
    modes: Sequence[Speculate],
    make_tasks: Callable[[ModelKit], Iterator[Task]],
    repeats: int,
    *,
    draft_tokens: int | None = None,
    beside: bool = False,
    on_task: Callable[[str, dict[str, Gain]], None] = lambda name, gains: None,
) -> dict[str, dict[str, Gain]]:
    """Every task without drafts and in every mode, in turns; by task, by mode.

    Args:
        beside: Measure mlx-vlm with its own drafter too, where it can answer.
    """
    results: dict[str, dict[str, Gain]] = {}
    with ExitStack() as stack:
        kits = {
            mode: stack.enter_context(
                ModelKit.load(
                    model, speculate=mode, draft_tokens=None if mode == "off" else draft_tokens, prompt_cache_bytes=0
                )
            )
            for mode in dict.fromkeys(["off", *modes])
        }
        runs: dict[str, Callable[[Task], Gain]] = {
            mode: lambda task, kit=kit: run(kit, task)  # type: ignore[misc]
            for mode, kit in kits.items()
        }
        if beside:
            other = MlxVlmDrafts(model)
            stack.callback(other.close)
            runs["mlx-vlm"] = other.run
        for task in make_tasks(kits["off"]):
            able = {name: call for name, call in runs.items() if name != "mlx-vlm" or MlxVlmDrafts.can(task)}
            turns = [{name: call(task) for name, call in able.items()} for _ in range(repeats + 1)]
            # The first one warms up.
            results[task.name] = {name: _median([turn[name] for turn in turns[1:]]) for name in able}
            on_task(task.name, results[task.name])
    return results


def run(kit: ModelKit, task: Task) -> Gain:
    """All questions of a task, one after the other."""
    tokens = seconds = processor = steps = written = 0.0
    drafted, accepted = np.zeros(7), np.zeros(7)
    for prompt in task.prompts:
        ends: SimpleQueue[Any] = SimpleQueue()
        engine = Engine(kit, max_rows=task.rows)
        for _ in range(task.rows):
            request = kit.request(prompt, max_tokens=_MOST, cache_prompt=False, **task.options)
            engine.submit(request, _Row(ends.put).take)
        rows = [ends.get(timeout=600) for _ in range(task.rows)]
        engine.close()
        failed = [row for row in rows if isinstance(row, BaseException)]
        if failed:
            raise failed[0]
        # All rows are there from the last one's first token to the first one's last.
        begin, end = max(row.times[0] for row in rows), min(row.times[-1] for row in rows)
        tokens += sum(sum(begin < moment <= end for moment in row.times) for row in rows)
        seconds += max(end - begin, 1e-9)
        used = [dict(zip(row.times, row.processor, strict=True)) for row in rows]
        processor += min(row[end] for row in used if end in row) - max(row[begin] for row in used if begin in row)
        for row in rows:
            steps, written = steps + row.stats.steps, written + row.stats.completion_tokens
            drafted, accepted = drafted + row.stats.drafted, accepted + row.stats.accepted
    right = tuple(float(a / d) for a, d in zip(accepted, drafted, strict=True) if d)
    return Gain(tokens / seconds, processor / max(tokens, 1), written / steps, right)


class Quoting:
    """A logits processor that has an answer repeat its prompt, as an edit repeats most of a file."""

    def __init__(self, prompt: Prompt) -> None:
        self._ids = mx.array(prompt.input_ids)

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """The history begins with the prompt's last token."""
        wanted = mx.arange(logits.shape[-1]) == self._ids[tokens.shape[0] - 1]
        return mx.where(wanted, logits + 1000.0, logits)

    def rewind(self, count: int) -> None:
        """Nothing: all that counts is the length of the history."""


class _Row:
    """When the tokens of one row came."""

    def __init__(self, done: Callable[[Any], None]) -> None:
        self.times: list[float] = []
        self.processor: list[float] = []
        self.stats: Any = None
        self._done = done

    def take(self, event: Event) -> None:
        """On the thread that owns MLX."""
        if isinstance(event, BaseException):
            self._done(event)
        elif isinstance(event, GenerationChunk):
            self.times.append(time.perf_counter())
            self.processor.append(time.process_time())
            if event.stats is not None:
                self.stats = event.stats
                self._done(self)


class MlxVlmDrafts:
    """mlx-vlm with its own Qwen3.5 drafter, with the weights of the same checkpoint.

    Raises:
        OptionError: The checkpoint has no MTP module as transformers writes it.
    """

    def __init__(self, model: Path) -> None:
        from mlx_vlm.speculative.drafters.qwen3_5_mtp import Model, ModelConfig

        from mlx_qwen35.checkpoints.build import read_tensors
        from mlx_qwen35.checkpoints.files import Checkpoint

        checkpoint = Checkpoint.open(model)
        tensors = read_tensors(checkpoint.weight_files())
        own = {name: value for name, value in tensors.items() if name.startswith("mtp.")}
        if not own:
            raise OptionError("--against mlx-vlm: expected an MTP module among the weights, found none")
        self._drafter = Model(ModelConfig.from_dict({"text_config": checkpoint.config.raw["text_config"]}))
        self._drafter.load_weights(list(self._drafter.sanitize(own).items()))
        mx.eval(self._drafter.parameters())
        self._runtime = MlxVlmRuntime(model)
        self._ends = set(checkpoint.eos_token_ids)

    @staticmethod
    def can(task: Task) -> bool:
        """Whether it is asked: its loop for one row, greedy."""
        return task.rows == 1 and task.options == {"temperature": 0.0}

    def run(self, task: Task) -> Gain:
        """All questions of a task, one after the other."""
        from mlx_vlm.generate import generate_step

        tokens = seconds = processor = 0.0
        for prompt in task.prompts:
            arguments: dict[str, Any] = {"draft_model": self._drafter, "draft_kind": "mtp"}
            pixels = None
            if prompt.images:
                pixels = mx.array(np.concatenate([image.pixel_values for image in prompt.images]))
                arguments["image_grid_thw"] = mx.array(np.array([image.grid_thw for image in prompt.images]))
            ids = mx.array(prompt.input_ids)[None]
            model = self._runtime._model
            times, used = [], []
            for token, _ in generate_step(ids, model, pixels, None, max_tokens=_MOST, temperature=0.0, **arguments):
                times.append(time.perf_counter())
                used.append(time.process_time())
                if int(token) in self._ends:
                    break
            tokens += len(times) - 1
            seconds += times[-1] - times[0]
            processor += used[-1] - used[0]
        return Gain(tokens / max(seconds, 1e-9), processor / max(tokens, 1), 0.0, ())

    def close(self) -> None:
        """Release the weights."""
        self._runtime.close()
        del self._drafter


def verify_costs(
    kit: ModelKit, widths: Sequence[int] = WIDTHS, repeats: int = 20, *, seconds: float = _LONGEST
) -> dict[int, tuple[float, float]]:
    """Median seconds of a step that reads so many tokens: if all of them stay, and if only the first one does.

    Widths take turns, so that what the machine does beside meets all of them alike.

    Args:
        repeats: Steps of each kind.
        seconds: No further ones are begun after that, once each kind was measured.
    """

    def run() -> dict[int, tuple[float, float]]:
        decoder = kit._loop._executor._decoder
        read = mx.array(np.arange(64)[None] % 200)
        states = {width: decoder.make_state() for width in widths}
        for state in states.values():
            decoder.read(read, read, state)
            state.evaluate()
        times: dict[tuple[int, bool], list[float]] = {(width, right): [] for width in widths for right in (True, False)}
        start = time.perf_counter()
        # The first two turns warm up.
        for turn in range(-2, 2 * repeats):
            right = turn % 2 == 0
            if turn >= 2 and right and time.perf_counter() - start >= seconds:
                break
            for width, state in states.items():
                began = time.perf_counter()
                logits, _ = decoder.step(read[:, :width], state)
                mx.eval(mx.argmax(logits, axis=-1))
                decoder.settle(state, width, [width if right else 1])
                state.evaluate()
                if turn >= 0:
                    times[width, right].append(time.perf_counter() - began)
        medians = {kind: statistics.median(found) for kind, found in times.items()}
        return {width: (medians[width, True], medians[width, False]) for width in widths}

    return kit._thread.call(run)


def draft_costs(kit: ModelKit, widths: Sequence[int] = WIDTHS, repeats: int = 20) -> dict[int, float]:
    """Median seconds in which the module reads so many pairs and drafts one token less; empty without a module."""

    def run() -> dict[int, float]:
        decoder = kit._loop._executor._decoder
        if decoder.module is None:
            return {}
        read = mx.array(np.arange(64)[None] % 200)
        hidden = mx.random.normal((1, max(widths), kit.config.text.hidden_size), key=mx.random.key(1))
        states = {width: decoder.make_state() for width in widths if width > 1}
        for state in states.values():
            decoder.read(read, read, state)
            state.evaluate()
        times: dict[int, list[float]] = {width: [] for width in states}
        for turn in range(-2, repeats):
            for width, state in states.items():
                began = time.perf_counter()
                seed = decoder.settle_pairs(decoder.read_pairs(read[:, :width], hidden[:, :width], state), [1], state)
                mx.eval(decoder.draft(seed, width - 1, state))
                if turn >= 0:
                    times[width].append(time.perf_counter() - began)
        return {width: statistics.median(found) for width, found in times.items()}

    return kit._thread.call(run)


def _prompt(kit: ModelKit, question: str, before: int, pictures: int) -> Prompt:
    """A question behind so many tokens of conversation, or so many pictures."""
    rng = np.random.Generator(np.random.PCG64(1))
    images = [Image.fromarray(rng.integers(0, 255, (128, 128, 3), dtype=np.uint8)) for _ in range(pictures)]
    parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    messages: list[dict[str, Any]] = [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
    number = 0
    while True:
        prompt = kit.process_prompt(messages, enable_thinking=False)
        if len(prompt.input_ids) >= before:
            return prompt
        number += 1
        last = 1 + number % 9
        answer = ", ".join(map(str, range(1, last + 1))) + "."
        turn = ({"role": "user", "content": f"Count to {last}."}, {"role": "assistant", "content": answer})
        messages[:0] = turn


def _median(gains: Sequence[Gain]) -> Gain:
    ordered = sorted(gains, key=lambda gain: gain.tps)
    processor = statistics.median(gain.processor for gain in gains)
    tps = statistics.median(gain.tps for gain in gains)
    return replace(ordered[len(ordered) // 2], tps=tps, processor=processor)
