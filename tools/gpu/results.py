"""What became of the steps that `tools.gpu.there` runs, as a table; with nothing but Python."""

import contextlib
import json
import re
import statistics
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Step:
    """What became of a command.

    Args:
        status: 124 if it was stopped.
        text: All that it printed.
    """

    name: str
    status: int
    seconds: float
    text: str


def objects(text: str) -> list[dict[str, Any]]:
    """The lines that are JSON objects."""
    found = []
    for line in text.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            if line.startswith("{"):
                found.append(json.loads(line))
    return found


def outcomes(text: str) -> dict[str, list[str]]:
    """Of pytest's own lines, the tests by what became of them."""
    found: dict[str, list[str]] = {}
    for test, outcome in re.findall(r"^(tests/\S+::.*?) (PASSED|FAILED|ERROR|SKIPPED)\b", text, re.MULTILINE):
        found.setdefault(outcome, []).append(test)
    return found


def table(name: str, found: Sequence[Step]) -> str:
    """The results as Markdown; `name` is the card's."""
    lines = [f"# On {name}", ""]
    for step in found:
        for one in objects(step.text) if step.name == "versions" else ():
            lines += [", ".join(f"{key} {value}" for key, value in one.items()) + ".", ""]
    lines += ["| step | status | seconds | passed | failed | skipped | last line |", "|---|--:|--:|--:|--:|--:|---|"]
    wrong = []
    for step in found:
        tests = outcomes(step.text)
        bad = tests.get("FAILED", []) + tests.get("ERROR", [])
        wrong += [f"- {step.name}: `{test}`" for test in bad]
        counts = (len(tests.get("PASSED", ())), len(bad), len(tests.get("SKIPPED", ())))
        cells = [str(count) if tests else "" for count in counts]
        last = (step.text.strip().splitlines() or [""])[-1].strip("= ")
        last = "" if last.startswith("{") else last.replace("|", "/")
        lines.append(f"| {step.name} | {step.status} | {step.seconds:.1f} | {' | '.join(cells)} | {last} |")
    if wrong:
        lines += ["", "Failed:", "", *wrong]
    lines += ["", "| weights | case | runtime | prompt | first token | per token |", "|---|---|---|--:|--:|--:|"]
    lines += rows([one for step in found if step.name.startswith(("speed", "warm")) for one in objects(step.text)])
    return "\n".join([*lines, ""])


def rows(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each runtime's figures of a case: medians of all runs but the first, which may compile kernels.

    Where there is no other, the first, and the line says so.
    """
    by_case: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for run in runs:
        by_case.setdefault((run["weights"], run["case"], run["runtime"]), []).append(run)
    lines = []
    for (weights, case, runtime), all_of_it in by_case.items():
        counted = [run for run in all_of_it if run["run"] > 0] or all_of_it
        found = {
            name: statistics.median(run[name] for run in counted) if counted[0][name] is not None else None
            for name in ("prompt_tps", "first_token", "per_token")
        }
        prompt, first = found["prompt_tps"], found["first_token"]
        cells = ["" if prompt is None else f"{prompt:.0f} tok/s", "" if first is None else f"{first * 1000:.1f} ms"]
        name = runtime if counted[0]["run"] > 0 else f"{runtime}, first run"
        lines.append(f"| {weights} | {case} | {name} | {cells[0]} | {cells[1]} | {found['per_token'] * 1000:.2f} ms |")
    return lines


class Report:
    """The steps that have ended, and the table of them on disk."""

    def __init__(self, name: str, out: Path) -> None:
        self._name, self._out = name, out
        self._lock = threading.Lock()
        self.steps: list[Step] = []

    def add(self, step: Step) -> None:
        """After each: what there is so far, should the machine go away."""
        with self._lock:
            self.steps.append(step)
            print(f"{step.name}: status {step.status} after {step.seconds:.1f} s", flush=True)
            (self._out / "table.md").write_text(table(self._name, self.steps))
