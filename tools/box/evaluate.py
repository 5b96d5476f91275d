"""Ask the checkpoint in the box held-out questions through ModelKit, and write what it got right.

    python -m tools.box.evaluate --model mlx_qwen35/box --count 200 --out docs/box-report.json

Seeds of this script never occur in training. An answer counts if it is right to the letter.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from mlx_qwen35 import ModelKit
from tools.box import about_pictures, about_text, about_tools
from tools.box.dialogues import Dialogue, Turn

SEED = "held-out"
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
    single = {name: (lambda rng, name=name: about_pictures.single(name, rng)) for name in about_pictures.ONE_PICTURE}
    several = {name: (lambda rng, name=name: about_pictures.several(name, rng)) for name in about_pictures.SEVERAL}
    return {
        "one picture": single,
        "several pictures": several,
        "text": dict(about_text.TASKS.makers),
        "tools": dict(about_tools.TASKS.makers),
    }


def expected_text(turn: Turn) -> str:
    """The right answer; a call in Qwen's XML."""
    calls = [
        "<tool_call>\n<function={}>\n{}</function>\n</tool_call>".format(
            call["name"],
            "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in call["arguments"].items()),
        )
        for call in turn.tool_calls
    ]
    return "\n".join([*([turn.answer] if turn.answer else []), *calls])


def questions(maker: Callable[[Random], Dialogue], seed: str, count: int) -> Iterator[Dialogue]:
    """The same dialogues for the same seed."""
    for number in range(count):
        yield maker(Random(f"{SEED}-{seed}-{number}"))


def ask(kit: ModelKit, dialogue: Dialogue, *, thinking: bool) -> tuple[str, str]:
    """The model's answer to the last turn, and the right one; earlier turns are given."""
    messages = dialogue.messages(len(dialogue.turns), with_answer=False, thinking=thinking)
    prompt = kit.process_prompt(messages, tools=dialogue.tools or None, enable_thinking=thinking)
    result = kit.generate(prompt, max_tokens=160, temperature=0.0)
    return result.text.strip(), expected_text(dialogue.turns[-1])


def evaluate(
    kit: ModelKit, count: int, *, thinking: bool, groups: list[str] | None = None
) -> dict[str, dict[str, Score]]:
    """Scores by group and task."""
    scores: dict[str, dict[str, Score]] = {}
    for group, makers in tasks().items():
        if groups is not None and group not in groups:
            continue
        scores[group] = {}
        for name, maker in makers.items():
            score = scores[group][name] = Score()
            for dialogue in questions(maker, name, count):
                found, expected = ask(kit, dialogue, thinking=thinking)
                score.asked += 1
                score.right += found == expected
                score.well_formed += bool(CALL.fullmatch(found))
                if found != expected:
                    score.wrong.append(f"{dialogue.turns[-1].question} -> {found!r}, not {expected!r}")
    return scores


def total(scores: dict[str, Score]) -> float:
    """Share of right answers over all tasks of a group."""
    return sum(score.right for score in scores.values()) / sum(score.asked for score in scores.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--count", type=int, default=100, help="questions per task")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    report: dict[str, object] = {}
    with ModelKit.load(options.model) as kit:
        for mode, thinking in (("without reasoning", False), ("with reasoning", True)):
            scores = evaluate(kit, options.count, thinking=thinking)
            report[mode] = {
                group: {"all": round(total(found), 4), **{name: round(score.share, 4) for name, score in found.items()}}
                for group, found in scores.items()
            }
            for group, found in scores.items():
                print(f"{mode}, {group}: {total(found):.3f}")
                for name, score in found.items():
                    print(f"    {name:<16}{score.share:.3f}")
                    for line in score.wrong[: 3 if options.verbose else 0]:
                        print(f"        {line}")
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
