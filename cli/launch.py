"""`mlx-qwen35 launch`: a coding agent over a server that is there for it."""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mlx_qwen35.cli.options import KEY_VARIABLE, add_answer_flags, add_model_flags, model_of
from mlx_qwen35.cli.programs import PATIENCE, PROGRAMS, Connection, Setup
from mlx_qwen35.errors import OptionError

URL = "http://127.0.0.1:8080"
SERVE = (sys.executable, "-m", "mlx_qwen35.cli.main", "serve")
_PROBE_SECONDS = 2.0
_READY_SECONDS = 5.0
_STOP_SECONDS = 10.0
# What a terminal or the system sends to end a program; Ctrl-C is the launched program's.
ENDING = (signal.SIGTERM, signal.SIGHUP)
_SHOWN_LINES = 5
_HANDLED = (signal.SIGINT, *ENDING)


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "launch",
        help="run a coding agent over the model",
        description=f"Run a coding agent ({', '.join(PROGRAMS)}) over a server that runs, or over one that is started "
        "for it and ends with it.",
        usage="mlx-qwen35 launch [flags] PROGRAM [flags] [-- ARGUMENT ...]",
    )
    add_model_flags(parser)
    add_answer_flags(parser.add_argument_group("answers", "where the program says nothing else"))
    parser.add_argument(
        "--url",
        help=f"a server that runs, its key in {KEY_VARIABLE}; default: {URL}, where one is there and no flag asks "
        "for another",
    )
    parser.add_argument("program", choices=tuple(PROGRAMS), metavar="PROGRAM", help=", ".join(PROGRAMS))
    # What stands behind --: the command line takes it away first, because versions of argparse differ in that.
    parser.set_defaults(run=run, arguments=[])


def run(options: argparse.Namespace) -> None:
    """Run a program to its end, with a server.

    Raises:
        OptionError: The program is not installed, or there is no server at the URL.
        SystemExit: With the program's status.
    """
    program = PROGRAMS[options.program]
    path = shutil.which(options.program)
    if path is None:
        raise OptionError(f"{options.program}: expected it on PATH, found none; {program.install} installs it")
    for number in ENDING:
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    with (
        tempfile.TemporaryDirectory(prefix="mlx-qwen35-") as place,
        server_for(options, Path(place)) as server,
    ):
        setup = program.set_up(server, Path(place))
        status = run_program([path, *setup.arguments, *options.arguments], setup)
    sys.exit(status)


def run_program(command: Sequence[str], setup: Setup) -> int:
    """Run a program with the terminal, and end it where this process is told to end.

    Returns:
        Its exit status; of a signal's, as shells have it.
    """
    environment = {name: value for name, value in os.environ.items() if name not in setup.without}
    # Ctrl-C goes to the program as well, and it is for the program to say what it means. It is not ignored here:
    # that would be inherited.
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        with running(command, env=environment | dict(setup.environment)) as process:
            status = process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    return status if status >= 0 else 128 - status


@contextmanager
def server_for(options: argparse.Namespace, place: Path) -> Iterator[Connection]:
    """A server that runs, or a new one until the block ends.

    Raises:
        OptionError: None answers at the URL that the flags name.
    """
    key = os.environ.get(KEY_VARIABLE) or "none"
    if options.url or not server_arguments(options):
        found = connect((options.url or URL).rstrip("/"), key)
        if found is not None:
            print(f"mlx-qwen35: over {found.model}, which {found.url} serves", file=sys.stderr)
            yield found
            return
        if options.url:
            raise OptionError(
                f"--url: expected a server of this package that takes the key, found none at {options.url}"
            )
    with started(options, place) as server:
        yield server


@contextmanager
def started(options: argparse.Namespace, place: Path) -> Iterator[Connection]:
    """A server of its own, on a free port of this machine, with a key that nobody else knows.

    Raises:
        SystemExit: It does not start, and has said why.
    """
    import secrets

    options.model = model_of(options)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    key = secrets.token_urlsafe(32)
    with running(
        [
            *SERVE, "--port", str(port), "--log-level", "warning", "--timeout", str(PATIENCE // 1000),
            *server_arguments(options),
        ],
        env=os.environ | {KEY_VARIABLE: key}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        # A Ctrl-C for the program is none for its server.
        stderr=subprocess.PIPE, process_group=0,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        log = Log(process.stderr, place / "server.log")
        try:
            while (server := connect(f"http://127.0.0.1:{port}", key, _READY_SECONDS)) is None:
                if process.poll() is not None:
                    log.finish()
                    sys.exit(process.returncode if process.returncode > 0 else 1)
                time.sleep(0.1)
            log.shown = False
            yield server
        finally:
            early = process.poll()
            stop(process)
            log.finish()
            if early is not None and not log.shown:
                told = f"mlx-qwen35: the server ended early, with status {early}"
                print(told, *log.last_lines(), sep="\n", file=sys.stderr)


def server_arguments(options: argparse.Namespace) -> list[str]:
    """The flags about the model and its answers, as they were given."""
    parser = argparse.ArgumentParser(add_help=False)
    add_model_flags(parser)
    add_answer_flags(parser)
    found: list[str] = []
    for action in parser._actions:
        flag, value = action.option_strings[0], getattr(options, action.dest)
        if action.nargs == 0:
            found += [flag] if value is action.const else []
        elif value != action.default:
            # With a sign of equality, a value may begin with a dash.
            values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
            found += [f"{flag}={one}" for one in values]
    return found


def connect(url: str, key: str, seconds: float = _PROBE_SECONDS) -> Connection | None:
    """The server of this package at a URL; None where there is none that takes the key."""
    # The key goes to nobody who does not look like one.
    health = _json(f"{url}/health", {}, seconds)
    if not health.keys() >= {"status", "model", "running", "waiting"}:
        return None
    models = _json(f"{url}/v1/models", {"Authorization": f"Bearer {key}"}, seconds).get("data") or [{}]
    if models[0].get("owned_by") != "mlx_qwen35":
        return None
    return Connection(url, key, models[0]["id"], models[0]["max_model_len"])


def _json(url: str, headers: dict[str, str], seconds: float) -> dict[str, Any]:
    """An object that is answered; an empty one where there is none."""
    # Most of the time that a --help would take.
    import urllib.error
    import urllib.request

    # No proxy of the environment: it would not find this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=seconds) as response:
            found = json.load(response)
    except urllib.error.HTTPError as error:
        # An answer too, which is open until it is closed.
        error.close()
        return {}
    except (OSError, ValueError):  # a URLError is an OSError
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def running(command: Sequence[str], **options: Any) -> "Iterator[subprocess.Popen[bytes]]":
    """A process that ends with the block, whatever ends that.

    What would end this process while the other one starts, and nobody could end it yet, is heeded when it has started.
    """
    early: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: early.append(number)) for number in ENDING}
    process = None
    try:
        try:
            process = subprocess.Popen(command, **options)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if early:
            sys.exit(128 + early[0])
        yield process
    finally:
        if process is not None:
            stop(process)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process, and kill it if that takes too long."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Log:
    """What a server says: into a file, and on the screen as long as it has not started.

    Args:
        source: Closed when it ends.
    """

    def __init__(self, source: IO[bytes], path: Path) -> None:
        self.shown = True
        self._source, self._path = source, path
        self._thread = threading.Thread(target=self._copy, daemon=True)
        # Signals are for the main thread, which waits for the program: one that came here would not wake it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        self._thread.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _copy(self) -> None:
        with self._source, self._path.open("wb", buffering=0) as file:
            while data := os.read(self._source.fileno(), 65536):
                file.write(data)
                if self.shown:
                    sys.stderr.write(data.decode("utf-8", "replace"))
                    sys.stderr.flush()

    def finish(self) -> None:
        """Wait for the last of it."""
        self._thread.join()

    def last_lines(self) -> list[str]:
        """The end of the file."""
        return self._path.read_text("utf-8", "replace").splitlines()[-_SHOWN_LINES:]
