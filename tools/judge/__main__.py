"""Ask a model questions that somebody else thought of, and print how many it answers rightly.

Run `python -m tools.judge --model PATH`; see README.md for what has to be installed.
"""

import argparse
import json
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlx_qwen35 import ModelKit
from tools.judge.asking import NOT_WELL_FORMED, Outcome, ask
from tools.judge.groups import GROUPS, questions
from tools.judge.question import Question


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.judge", description=__doc__)
    parser.add_argument("--model", type=Path, help="checkpoint; without it, questions are only made (and saved)")
    parser.add_argument("--count", type=int, default=40, help="questions per group (default: 40)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--group", action="append", choices=[*GROUPS, "clips"], help="only this one; more than once for more"
    )
    parser.add_argument("--out", type=Path, help="a JSON file of all answers")
    parser.add_argument("--save", type=Path, help="a folder for the pictures and the questions")
    parser.add_argument("--verbose", action="store_true", help="print the wrong answers")
    return parser.parse_args(given)


def save(folder: Path, group: str, index: int, question: Question) -> None:
    """The pictures as PNG, and a line of what is asked about them."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{group.replace(' ', '-')}-{index:03}"
    for number, image in enumerate(question.images, 1):
        image.save(folder / f"{name}-{number}.png")
    with (folder / "questions.jsonl").open("a") as file:
        line = {"name": name, "kind": question.kind, "question": question.text}
        file.write(json.dumps({**line, "expected": question.expectation.as_json()}) + "\n")


def save_clips(folder: Path, count: int, seed: int) -> None:
    """The frames as PNG, and a line of what is asked about them."""
    from tools.judge.clips import clips

    folder.mkdir(parents=True, exist_ok=True)
    for index, clip in enumerate(clips(count, seed)):
        for number, frame in enumerate(clip.frames):
            frame.save(folder / f"clips-{index:03}-{number:02}.png")
        with (folder / "questions.jsonl").open("a") as file:
            line = {"name": f"clips-{index:03}", "kind": clip.kind, "fps": clip.fps, "question": clip.text}
            file.write(json.dumps({**line, "expected": clip.expectation.as_json()}) + "\n")


def table(outcomes: dict[str, list[Outcome]]) -> Iterator[str]:
    """Right and asked of each group, and below it of each kind."""
    for group, found in outcomes.items():
        right = sum(not outcome.faults for outcome in found)
        yield f"{group:24}{right:5} / {len(found):<5}{right / max(1, len(found)):6.0%}"
        asked = Counter(outcome.question.kind for outcome in found)
        answered = Counter(outcome.question.kind for outcome in found if not outcome.faults)
        kinds = ", ".join(f"{kind} {answered[kind]}/{number}" for kind, number in sorted(asked.items()))
        yield textwrap.fill(kinds, 116, initial_indent="    ", subsequent_indent="    ")
        if calls := [outcome for outcome in found if outcome.question.expectation.call]:
            formed = sum(not {NOT_WELL_FORMED, "makes 0 calls"} & set(outcome.faults) for outcome in calls)
            yield f"    well formed, whatever they say: {formed}/{len(calls)}"
    everything = [outcome for found in outcomes.values() for outcome in found]
    right = sum(not outcome.faults for outcome in everything)
    yield f"{'together':24}{right:5} / {len(everything):<5}{right / max(1, len(everything)):6.0%}"


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(given)
    groups = [name for name in options.group or GROUPS if name in GROUPS]
    if options.group and "clips" in options.group and options.save:
        save_clips(options.save, options.count, options.seed)
    made = {group: list(questions(group, options.count, options.seed)) for group in groups}
    if options.save:
        for group, asked in made.items():
            for index, question in enumerate(asked):
                save(options.save, group, index, question)
    if options.model is None:
        return
    outcomes: dict[str, list[Outcome]] = {}
    started = time.monotonic()
    with ModelKit.load(options.model) as kit:
        for group, asked in made.items():
            outcomes[group] = list(ask(kit, asked))
            if options.verbose:
                for outcome in outcomes[group]:
                    if outcome.faults:
                        print(f"[{group}: {outcome.question.kind}] {outcome.question.text}")
                        print(f"    {outcome.answer!r}: {'; '.join(outcome.faults)}", flush=True)
    print("\n".join(table(outcomes)))
    print(f"seed {options.seed}, {time.monotonic() - started:.0f} s")
    if options.out:
        found = {group: [outcome.as_json() for outcome in outcomes[group]] for group in outcomes}
        options.out.write_text(json.dumps({"seed": options.seed, "groups": found}, indent=1))


if __name__ == "__main__":
    main()
