"""Ask the checkpoint in the box held-out questions through ModelKit, and write what it got right.

    python -m tools.box.evaluate --model mlx_qwen35/box --count 30 --out docs/box/answers.json

Seeds of this script never occur in training. An answer counts if it is right to the letter; one that names first what
it counts, if the number is.
"""

import argparse
import json
import multiprocessing
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property, partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_qwen35 import ModelKit
from mlx_qwen35.prompts.positions import MediaLayout, MediaSpan
from mlx_qwen35.prompts.prompt import Prompt
from tools.box import about_functions, about_pictures, about_programs, about_several, about_text
from tools.box.asking import ABOUT_SHAPES
from tools.box.dialogues import Dialogue, Turn

SEED = "held-out"
# Tasks whose answers name first what they count.
NAMED_FIRST = ("how_many",)
CALL = re.compile(
    r"<tool_call>\n<function=(?P<name>[^>\n]+)>\n(?P<parameters>(<parameter=[^>\n]+>\n.*?\n</parameter>\n)*)"
    r"</function>\n</tool_call>",
    re.DOTALL,
)


@dataclass
class Score:
    """How many of the questions of one task were answered rightly."""

    asked: int = 0
    right: int = 0
    well_formed: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return self.right / max(self.asked, 1)


def tasks() -> dict[str, dict[str, Callable[[Random], Dialogue]]]:
    """Makers of a dialogue whose last turn is the question, by group and task."""
    shapes, numbers = (
        {name: partial(about_pictures.single, name) for name in names}
        for names in (ABOUT_SHAPES, about_pictures.NUMBERS)
    )
    return {
        "one picture": shapes,
        "numbers": numbers,
        "several pictures": {name: partial(about_several.several, name) for name in about_several.SEVERAL},
        "text": {name: maker for name, maker in about_text.TASKS.makers.items() if name != "off topic"},
        "off-topic": {"off topic": about_text.off_topic},
        "tools": about_functions.TASKS.makers
        | about_programs.TASKS.makers
        | {"any call": about_functions.single, "program": about_programs.single},
    }


def expected_text(turn: Turn) -> str:
    """The right answer; a call in Qwen's XML."""
    calls = [
        "<tool_call>\n<function={}>\n{}</function>\n</tool_call>".format(
            call["name"],
            "".join(
                f"<parameter={name}>\n{value if isinstance(value, str) else json.dumps(value)}\n</parameter>\n"
                for name, value in call["arguments"].items()
            ),
        )
        for call in turn.tool_calls
    ]
    return "\n".join([*([turn.answer] if turn.answer else []), *calls])


def questions(maker: Callable[[Random], Dialogue], seed: str, count: int) -> Iterator[Dialogue]:
    """The same dialogues for the same seed."""
    for number in range(count):
        yield maker(Random(f"{SEED}-{seed}-{number}"))


class Disturbance(Enum):
    """What is done to a prompt before it is asked, to see what the model's answers rest on."""

    NONE = "as it is"
    LATER_TEXT_LIKE = "later images with text-like positions"
    ALL_TEXT_LIKE = "all images with text-like positions"
    SWAPPED = "images swapped"


@dataclass(frozen=True)
class TextLikeLayout(MediaLayout):
    """Positions as a runtime gives them that forgets multimodal RoPE after the first `kept` images."""

    kept: int = 0

    @cached_property
    def _known(self) -> MediaLayout | None:
        return MediaLayout(self.spans[: self.kept], self.length) if self.kept else None

    def delta_at(self, tokens: int) -> int:
        """The delta of the images that are not forgotten."""
        return self._known.delta_at(tokens) if self._known else 0

    def position_ids(self, start: int, stop: int) -> NDArray[np.int32]:
        """Forgotten images advance the three axes together, token by token."""
        if self._known:
            return self._known.position_ids(start, stop)
        return np.broadcast_to(np.arange(start, stop, dtype=np.int32), (3, stop - start))


def disturb(prompt: Prompt, disturbance: Disturbance) -> Prompt:
    """The prompt with other positions, or with its pictures the other way round."""
    layout = prompt.layout
    if layout is None or disturbance is Disturbance.NONE:
        return prompt
    if disturbance is Disturbance.SWAPPED:
        media = prompt.media[::-1]
        spans, token, delta = [], 0, 0
        # The pieces of text between the images stay; each image takes its own room.
        pieces, cursor = [], 0
        for span in layout.spans:
            pieces.append(prompt.input_ids[cursor : span.start])
            cursor = span.stop
        ids: list[np.ndarray] = []
        placeholder = prompt.input_ids[layout.spans[0].start]
        for piece, image in zip(pieces, media, strict=True):
            ids += [piece, np.full(image.tokens, placeholder)]
            token += len(piece)
            spans.append(MediaSpan(token, token + image.tokens, token + delta, image.merged_grid_thw))
            token, delta = token + image.tokens, spans[-1].rope_delta
        ids.append(prompt.input_ids[cursor:])
        joined = np.concatenate(ids).astype(np.int32)
        return replace(prompt, input_ids=joined, media=media, layout=MediaLayout(tuple(spans), len(joined)))
    kept = 1 if disturbance is Disturbance.LATER_TEXT_LIKE else 0
    return replace(prompt, layout=TextLikeLayout(layout.spans, layout.length, kept))


def with_images(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as a user of ModelKit sends them: with the drawn images in place of the pictures."""
    for message in messages:
        if isinstance(message["content"], list):
            message["content"] = [
                part if part["type"] == "text" else {"type": "image", "image": part["image"].image}
                for part in message["content"]
            ]
    return messages


def ask(
    kit: ModelKit, dialogue: Dialogue, *, thinking: bool, disturbance: Disturbance = Disturbance.NONE
) -> tuple[str, str]:
    """The model's answer to the last turn, and the right one; earlier turns are given."""
    messages = with_images(dialogue.messages(len(dialogue.turns), with_answer=False, thinking=thinking))
    prompt = kit.process_prompt(messages, tools=dialogue.tools or None, enable_thinking=thinking)
    # Read anew: the prompt cache goes by tokens and images, and would give back what was read undisturbed.
    result = kit.generate(disturb(prompt, disturbance), max_tokens=160, temperature=0.0, cache_prompt=False)
    return result.text.strip(), expected_text(dialogue.turns[-1])


def concluded(name: str, answer: str) -> str:
    """What an answer to a task comes to."""
    return answer.rpartition(": ")[2].lower() if name in NAMED_FIRST else answer


def score(
    kit: ModelKit, group: str, name: str, count: int, *, thinking: bool, disturbance: Disturbance = Disturbance.NONE
) -> Score:
    """How the model does at one task."""
    found_score = Score()
    for dialogue in questions(tasks()[group][name], name, count):
        found, expected = ask(kit, dialogue, thinking=thinking, disturbance=disturbance)
        found_score.asked += 1
        right = concluded(name, found) == concluded(name, expected)
        found_score.right += right
        found_score.well_formed += bool(CALL.fullmatch(found)) == bool(dialogue.turns[-1].tool_calls)
        if not right:
            found_score.wrong.append(f"{dialogue.turns[-1].question} -> {found!r}, not {expected!r}")
    return found_score


def evaluate(
    kit: ModelKit,
    count: int,
    *,
    thinking: bool,
    groups: Sequence[str],
    disturbance: Disturbance = Disturbance.NONE,
) -> dict[str, dict[str, Score]]:
    """Scores by group and task."""
    return {
        group: {name: score(kit, group, name, count, thinking=thinking, disturbance=disturbance) for name in names}
        for group, names in tasks().items()
        if group in groups
    }


def total(scores: dict[str, Score]) -> float:
    """Share of right answers over all tasks of a group."""
    return sum(score.right for score in scores.values()) / sum(score.asked for score in scores.values())


def as_report(scores: dict[str, dict[str, Score]]) -> dict[str, dict[str, float]]:
    """Shares by group and task, each group with its total."""
    return {
        group: {"all": round(total(found), 4), **{name: round(score.share, 4) for name, score in found.items()}}
        for group, found in scores.items()
    }


@dataclass(frozen=True)
class Job:
    """One task, asked in one way."""

    group: str
    name: str
    count: int
    thinking: bool
    disturbance: Disturbance = Disturbance.NONE


_kit: ModelKit


def _load(model: str) -> None:
    global _kit
    _kit = ModelKit.load(model)


def _run(job: Job) -> tuple[Job, Score]:
    found = score(_kit, job.group, job.name, job.count, thinking=job.thinking, disturbance=job.disturbance)
    return job, found


def main() -> None:
    """Print the scores, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--count", type=int, default=100, help="questions per task")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--verbose", action="store_true", help="show wrong answers")
    options = parser.parse_args()
    modes = {"without reasoning": False, "with reasoning": True}
    jobs = [
        Job(group, name, options.count, thinking)
        for thinking in modes.values()
        for group, names in tasks().items()
        for name in names
    ]
    several = tasks()["several pictures"]
    disturbed = [how for how in Disturbance if how is not Disturbance.NONE]
    jobs += [Job("several pictures", name, options.count, False, how) for how in disturbed for name in several]
    found: dict[Job, Score] = {}
    with multiprocessing.get_context("spawn").Pool(options.jobs, _load, [options.model]) as pool:
        for job, result in pool.imap_unordered(_run, jobs):
            found[job] = result
            how = "with" if job.thinking else "without"
            print(f"{job.group}, {job.name}, {how} reasoning, {job.disturbance.value}: {result.share:.3f}", flush=True)
            for line in result.wrong[: 3 if options.verbose else 0]:
                print(f"    {line}", flush=True)
    report: dict[str, Any] = {"questions per task": options.count}
    for mode, thinking in modes.items():
        scores = {
            group: {name: found[Job(group, name, options.count, thinking)] for name in names}
            for group, names in tasks().items()
        }
        report[mode] = as_report(scores)
        calls = [scores["tools"][name] for name in ("program", "any call")]
        well_formed = sum(score.well_formed for score in calls) / sum(score.asked for score in calls)
        report[mode]["tools"]["well-formed calls"] = round(well_formed, 4)
        print(mode, {group: shares["all"] for group, shares in report[mode].items()})
    report["positions"] = {}
    for how in Disturbance:
        scores_ = {name: found[Job("several pictures", name, options.count, False, how)] for name in several}
        report["positions"][how.value] = as_report({"several pictures": scores_})["several pictures"]
        print(f"several pictures, {how.value}: {report['positions'][how.value]}")
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
