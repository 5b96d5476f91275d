"""Real programs and libraries over the model in the package: does each get its answer?

    python -m tools.clients --npm DIR --python DIR/bin/python --out docs/clients.md

The programs are what `mlx-qwen35 launch` knows, from PATH or from `DIR/*/node_modules/.bin`; the libraries are those
that the interpreter of --python has, and the packages in `DIR/*/node_modules`. What is not there is left out. The
server has a copy of the checkpoint whose config allows long prompts: what it says to them is nonsense, what counts is
that a program ends well and that no request of its was refused. Every program has an empty home directory.

Ends with status 1 if one got no answer.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlx_qwen35.bench.servers import serving
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.cli.programs import PROGRAMS
from tools.clients.libraries import LIBRARIES, Library

CONTEXT = 262_144
KEY = "none"
# What makes a program answer one question without a terminal.
ASKING = {
    "claude": ["-p", "Hi"],
    "codex": ["exec", "--skip-git-repo-check", "Hi"],
    "opencode": ["run", "Hi"],
    "pi": ["-p", "Hi"],
    "qwen": ["-p", "Hi"],
}
BEGIN, END = "<!-- begin table: python -m tools.clients -->", "<!-- end table -->"
PATHS = {
    "/v1/chat/completions": "chat completions",
    "/v1/responses": "Responses",
    "/v1/messages": "Anthropic messages",
}


@dataclass(frozen=True)
class Trial:
    """A client that can run here.

    Args:
        command: Prints an answer and ends with status 0.
        place: The directory to run in.
    """

    name: str
    version: str
    command: Sequence[str]
    place: Path


@contextmanager
def large_context() -> Iterator[Path]:
    """A copy of the checkpoint in the package that takes long prompts."""
    with tempfile.TemporaryDirectory() as place:
        model = Path(shutil.copytree(BOX, Path(place) / "box"))
        config = json.loads((model / "config.json").read_text("utf-8"))
        config["text_config"]["max_position_embeddings"] = CONTEXT
        (model / "config.json").write_text(json.dumps(config), "utf-8")
        yield model


def requests(url: str) -> dict[tuple[str, int], float]:
    """How many requests the server had, by path and status."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as response:
        text = response.read().decode()
    found = re.findall(r'^mlx_qwen35_requests_total\{path="([^"]+)",status="(\d+)"\} (\S+)$', text, re.MULTILINE)
    return {(path, int(status)): float(number) for path, status, number in found}


def programs(url: str, path: str, place: Path) -> Iterator[Trial]:
    """The programs that are installed."""
    for name in PROGRAMS:
        program = shutil.which(name, path=path)
        if program is not None:
            told = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=120, check=False)
            version = re.search(r"\d+\.\d+\.\d+\S*", told.stdout + told.stderr)
            launch = [sys.executable, "-m", "mlx_qwen35.cli.main", "launch", "--url", url, name, "--", *ASKING[name]]
            yield Trial(name, version[0] if version else "?", launch, place)


def libraries(url: str, python: str | None, npm: Path | None, place: Path) -> Iterator[Trial]:
    """The libraries that are installed."""
    for name, library in LIBRARIES.items():
        script = library.filled(url, KEY)
        if library.language == "sh" and shutil.which(library.package):
            told = subprocess.run([library.package, "--version"], capture_output=True, text=True, check=True).stdout
            yield Trial(name, told.split()[1], ["sh", "-c", script], place)
        elif library.language == "python" and python:
            version = version_of(library, python)
            if version:
                yield Trial(name, version, [python, "-c", script], place)
        elif library.language == "node" and npm:
            for found in sorted(npm.glob(f"*/node_modules/{library.package}/package.json")):
                version = json.loads(found.read_text("utf-8"))["version"]
                command = ["node", "--input-type=module", "--eval", script]
                # Packages are looked for from the directory on.
                yield Trial(name, version, command, found.parents[2])


def version_of(library: Library, python: str) -> str | None:
    """Of a package of another interpreter; None where it has none."""
    script = f"import importlib.metadata as m; print(m.version({library.package!r}))"
    told = subprocess.run([python, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    return told.stdout.strip() or None


def attempt(trial: Trial, url: str, environment: Mapping[str, str], seconds: float) -> tuple[str, str]:
    """Run one client.

    Returns:
        The protocols that it used, and "answers" or what went wrong.
    """
    before = requests(url)
    try:
        done = subprocess.run(
            trial.command, cwd=trial.place, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=seconds, text=True, errors="replace", check=False,
        )  # fmt: skip
        status, output = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        status, output = None, ""
    after = requests(url)
    new = {key: number - before.get(key, 0) for key, number in after.items() if number > before.get(key, 0)}
    used = ", ".join(told for path, told in PATHS.items() if any(asked == path for asked, _ in new))
    refused = [f"{path}: {code}" for path, code in new if code >= 400]
    if status is None:
        return used, f"nothing in {seconds:.0f} s"
    if refused or status or not used:
        lines = output.strip().splitlines() or [""]
        told = next((line for line in lines if "Error" in line), lines[-1])[:300]
        return used, "; ".join([*refused, f"status {status}", told.replace("|", "/")])
    return used, "answers"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.clients", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join([*PROGRAMS, *LIBRARIES])}; or their beginnings"
    )
    parser.add_argument("--npm", type=Path, metavar="DIR", help="below it, packages are installed in */node_modules")
    parser.add_argument("--python", help="interpreter that has the libraries")
    parser.add_argument("--seconds", type=float, default=1800, help="for one client; default: 1800")
    parser.add_argument("--out", type=Path, help="file whose table gets the rows")
    return parser.parse_args(arguments)


@contextmanager
def household(npm: Path | None) -> Iterator[tuple[dict[str, str], Path]]:
    """An environment with an empty home, and an empty project in it."""
    bins = [str(found) for found in sorted(npm.glob("*/node_modules/.bin"))] if npm else []
    with tempfile.TemporaryDirectory() as home:
        environment = {name: value for name, value in os.environ.items() if name != "MLX_QWEN35_API_KEY"}
        path = os.pathsep.join([*bins, os.environ.get("PATH", "")])
        environment.update(HOME=home, PATH=path, PYTHONPATH=str(Path.cwd()))
        place = Path(home) / "project"
        subprocess.run(["git", "init", "-q", str(place)], check=True)
        yield environment, place


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is there, and print a table."""
    options = parse(arguments)
    npm = options.npm.resolve() if options.npm else None
    rows, failed = ["| client | version | protocol | result |", "|---|---|---|---|"], 0
    with large_context() as model, household(npm) as (environment, place):
        flags = ["--model", str(model), "--log-level", "warning", "--timeout", str(options.seconds)]
        with serving([sys.executable, "-m", "mlx_qwen35.cli.main", "serve", *flags], "serve") as server:
            url = f"http://127.0.0.1:{server.port}"
            for trial in [*programs(url, environment["PATH"], place), *libraries(url, options.python, npm, place)]:
                if options.names and not any(trial.name.startswith(name) for name in options.names):
                    continue
                began = time.monotonic()
                used, result = attempt(trial, url, environment, options.seconds)
                failed += result != "answers"
                rows.append(f"| {trial.name} | {trial.version} | {used} | {result} |")
                print(rows[-1], f"{time.monotonic() - began:.1f} s", flush=True)
    if options.out:
        write(options.out, rows)
    return 1 if failed or len(rows) == 2 else 0


def write(path: Path, rows: Sequence[str]) -> None:
    """Replace the table of a file; the rows of clients that were not run stay."""
    before, _, rest = path.read_text("utf-8").partition(BEGIN)
    old, _, after = rest.partition(END)
    merged = {row.split("|")[1].strip(): row for row in [*rows, *old.split("\n")[3:], *rows] if row.startswith("|")}
    order = ["client", "---", *PROGRAMS, *LIBRARIES]
    table = "\n".join(merged[name] for name in sorted(merged, key=order.index))
    path.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
