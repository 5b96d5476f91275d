"""Run mutmut over modules of modules.toml, one at a time with their own tests, and print a score for each.

    python -m tools.mutation                      # all of them, in a copy under build/mutation
    python -m tools.mutation positions text       # some
    python -m tools.mutation positions --again    # only what the last run left, after a change to the tests

The last lines are the table of docs/testing.md; before it stands the difference that each survivor makes.
"""

import argparse
import fnmatch
import json
import random
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.utils.format_utils import get_mutant_name

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "mutation"
MODULES: dict[str, dict[str, Any]] = tomllib.loads((Path(__file__).parent / "modules.toml").read_text())
# What mutmut writes down for a mutant: the exit status of its tests.
KILLED, OUT_OF_TIME, SURVIVED, NO_TESTS = {1, 3}, {-24, 24, 152}, {0}, {33}


def drawn(module: dict[str, Any]) -> tuple[list[str], int]:
    """The mutants of a module that are run, and how many mutmut makes of the functions that count."""
    source = module["source"]
    made = mutate_file_contents(source, (ROOT / source).read_text()).mutant_names
    functions = module.get("functions", ["*"])
    names = [name for name in made if any(fnmatch.fnmatch(name, f"x*{function}__mutmut_*") for function in functions)]
    chosen = random.Random(0).sample(names, round(len(names) * module.get("share", 1.0)))
    return [get_mutant_name(Path(source), name) for name in sorted(chosen, key=made.index)], len(names)


def prepare(directory: Path, module: dict[str, Any]) -> None:
    """A place to work in, so that mutmut neither writes into the checkout nor needs its layout."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("mlx_qwen35", "cli", "patches", "tests", "tools", "docs", "README.md"):
        if not (directory / name).exists():
            (directory / name).symlink_to(ROOT / name)
    # [tool.mutmut] is the last table of the file.
    settings = {"only_mutate": [module["source"]], "pytest_add_cli_args_test_selection": module["tests"]}
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in settings.items()]
    (directory / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + "".join(lines))


def statuses(directory: Path, module: dict[str, Any]) -> dict[str, int | None]:
    """What the last run wrote down."""
    path = directory / "mutants" / (module["source"] + ".meta")
    found: dict[str, int | None] = json.loads(path.read_text())["exit_code_by_key"] if path.exists() else {}
    return found


def mutmut(directory: Path, *arguments: str, show: bool = True) -> str:
    """One call of mutmut; its output where it is not shown."""
    run = subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments], cwd=directory, check=True, text=True,
        stdout=None if show else subprocess.PIPE,
    )  # fmt: skip
    return run.stdout or ""


def judge(name: str, again: bool) -> str:
    """Run one module; its line of the table."""
    module, directory = MODULES[name], WORK / name
    names, made = drawn(module)
    if not again:
        shutil.rmtree(directory, ignore_errors=True)
    prepare(directory, module)
    before = statuses(directory, module)
    rest = [mutant for mutant in names if before.get(mutant) not in KILLED]
    if rest:
        mutmut(directory, "run", "--max-children", "1", *rest)
    after = statuses(directory, module)
    kinds = Counter(map(kind, (after[mutant] for mutant in names)))
    for mutant in names:
        if kind(after[mutant]) != "killed":
            changed = [line for line in mutmut(directory, "show", mutant, show=False).splitlines() if line[:1] in "+-#"]
            print("\n".join(line for line in changed if not line.startswith(("---", "+++"))))
    caught = kinds["killed"] + kinds["out of time"]
    cells = [name, made, len(names), kinds["killed"], kinds["out of time"], len(names) - caught]
    return row([*cells, f"{100 * caught / len(names):.1f} %"])


def kind(status: int | None) -> str:
    """A name for an exit status; what is none of the known ones caught nothing."""
    if status in KILLED:
        return "killed"
    return "out of time" if status in OUT_OF_TIME else "survived"


def row(cells: Iterable[object]) -> str:
    """A line of a table in Markdown."""
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutation", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(MODULES)}; all by default")
    parser.add_argument("--again", action="store_true", help="only the mutants that the last run did not kill")
    options = parser.parse_args()
    unknown = set(options.modules) - set(MODULES)
    if unknown:
        parser.error(f"expected modules of {', '.join(MODULES)}, found {', '.join(sorted(unknown))}")
    rows = []
    for name in options.modules or MODULES:
        rows.append(judge(name, options.again))
        print(rows[-1], flush=True)
    print(row(["module", "mutants", "run", "killed", "out of time", "survived", "score"]))
    print(row(["---"] + ["---:"] * 6))
    print("\n".join(rows))


if __name__ == "__main__":
    main()
