"""Several requests at once to a server: this package's, mlx-lm's and mlx-vlm's, each as its users run it, in turns."""

import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from string import ascii_lowercase
from typing import IO, Any

from mlx_qwen35.bench.parents import SERVERS
from mlx_qwen35.errors import OptionError
from mlx_qwen35.prompts.tokenizer import Tokenizer

OWN = "mlx-qwen35"
MODULES = {OWN: ("mlx_qwen35.cli.main", "serve"), **SERVERS}
AT_ONCE = (1, 2, 4, 8)
_START_SECONDS = 300
_STOP_SECONDS = 10
_TIMEOUT_SECONDS = 600
_WORDS = ("name", "the", "shapes", "and", "colors", "that", "you", "see", "red", "circle", "blue", "square", "star")


@dataclass(frozen=True)
class Server:
    """A server that runs on this machine."""

    port: int
    process: subprocess.Popen[bytes]


@dataclass(frozen=True)
class Answer:
    """What one request got.

    Args:
        began, first, ended: When it was sent, wrote its first text, and was complete; of `time.perf_counter`.
        prompt_tokens, tokens: What the server counted.
    """

    began: float
    first: float
    ended: float
    prompt_tokens: int
    tokens: int


@dataclass(frozen=True)
class Figures:
    """Medians of one server with so many requests at once.

    Args:
        tokens_per_second: Written by all answers together, from the first request to the last token.
        first_token: Seconds, of the median request.
        prompt_tokens: Of one request.
        tokens: Of one answer.
    """

    tokens_per_second: float
    first_token: float
    prompt_tokens: int
    tokens: int


def command(name: str, model: str | Path) -> list[str]:
    """What starts a server, but for its address."""
    own = ("--served-model-name", str(model), "--log-level", "warning") if name == OWN else ()
    return [sys.executable, "-m", *MODULES[name], "--model", str(model), *own]


@contextmanager
def serving(command: Sequence[str], name: str, log: IO[bytes] | None = None) -> Iterator[Server]:
    """A server on a free port of this machine, reachable from it alone.

    Args:
        command: Takes --host and --port, and answers GET /v1/models when it is ready.
        name: For errors.
        log: Where its output goes; None for nowhere.
    Raises:
        OptionError: It does not come up.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # A key from the environment would shut out the requests made here.
    environment = {name: value for name, value in os.environ.items() if name != "MLX_QWEN35_API_KEY"}
    output: Any = subprocess.DEVNULL if log is None else log
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise OptionError(f"{name}: its server does not start: {' '.join(command[1:])}")
            time.sleep(0.1)
        yield Server(port, process)
    finally:
        stop(process)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v1/models")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def stop(process: subprocess.Popen[bytes], how: int = signal.SIGTERM, seconds: float = _STOP_SECONDS) -> bool:
    """End a process, gently first; whether that was enough."""
    if process.poll() is not None:
        return True
    process.send_signal(how)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


def request(port: int, body: dict[str, Any]) -> Answer:
    """One streamed chat completion.

    Raises:
        OptionError: The server refuses it, or does not say what it used.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    usage: dict[str, Any] = {}
    began, first = time.perf_counter(), None
    try:
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        if response.status != 200:
            raise OptionError(f"port {port}: expected status 200, found {response.status}: {response.read(300)!r}")
        for line in response:
            if not line.startswith(b"data: {"):
                continue  # a comment that keeps the connection alive, or the end
            chunk = json.loads(line[len(b"data: ") :])
            if first is None and any(_says_something(choice.get("delta") or {}) for choice in chunk.get("choices", ())):
                first = time.perf_counter()
            usage = chunk.get("usage") or usage
    finally:
        connection.close()
    ended = time.perf_counter()
    if "completion_tokens" not in usage or "prompt_tokens" not in usage:
        raise OptionError(f"port {port}: expected the usage of a request, found none")
    return Answer(began, first or ended, ended, usage["prompt_tokens"], usage["completion_tokens"])


def _says_something(delta: dict[str, Any]) -> bool:
    return any(delta.get(name) for name in ("content", "reasoning_content", "reasoning"))


def together(port: int, bodies: Sequence[dict[str, Any]]) -> list[Answer]:
    """Requests that begin at the same time.

    Raises:
        OptionError: One of them fails.
    """
    answers: list[Answer] = []
    errors: list[Exception] = []
    start = threading.Barrier(len(bodies))

    def send(body: dict[str, Any]) -> None:
        start.wait()
        try:
            answers.append(request(port, body))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=send, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0] if isinstance(errors[0], OptionError) else OptionError(f"port {port}: {errors[0]}")
    return answers


def text(tokenizer: Tokenizer, tokens: int, seed: str) -> str:
    """Words of at least so many tokens; another seed gives another text from its first words on."""
    rng = Random(seed)
    words = [rng.choice(_WORDS)]
    while len(tokenizer.encode(" ".join(words))) < tokens:
        words.append(rng.choice(_WORDS))
    return " ".join(words)


def letters(tokenizer: Tokenizer) -> dict[str, float]:
    """A bias for answers of letters only, which never end by themselves and whose every token is text."""
    ids = {letter: tokenizer.encode(letter) for letter in ascii_lowercase}
    return {str(found[0]): 100.0 for found in ids.values() if len(found) == 1}


def summarise(rounds: Sequence[Sequence[Answer]]) -> Figures:
    """Medians over rounds."""
    speeds = [
        sum(answer.tokens for answer in answers)
        / (max(answer.ended for answer in answers) - min(answer.began for answer in answers))
        for answers in rounds
    ]
    firsts = [statistics.median(answer.first - answer.began for answer in answers) for answers in rounds]
    every = [answer for answers in rounds for answer in answers]
    return Figures(
        statistics.median(speeds),
        statistics.median(firsts),
        round(statistics.median(answer.prompt_tokens for answer in every)),
        round(statistics.median(answer.tokens for answer in every)),
    )


def measure(
    model: str | Path,
    against: Sequence[str],
    at_once: Sequence[int],
    *,
    prompt_tokens: int,
    tokens: int,
    repeats: int,
    on_case: Callable[[int, dict[str, Figures]], None] = lambda count, figures: None,
) -> dict[int, dict[str, Figures]]:
    """Every number of requests at every server, in turns: A B C, A B C.

    All servers run throughout, and are asked one at a time. No prompt comes twice, so that nothing is
    kept of it. The first turn warms up, and is not counted.

    Args:
        against: Names of `SERVERS` beside this package's.
        at_once: Numbers of requests.
        prompt_tokens, tokens: Of each request: at least, and exactly.
        on_case: Called with each finished number of requests.
    Returns:
        By number of requests, by server.
    Raises:
        OptionError: A server does not start, or refuses a request.
    """
    tokenizer = Tokenizer(Path(model))
    fixed = {
        "model": str(model), "max_tokens": tokens, "temperature": 0.0, "stream": True,
        "stream_options": {"include_usage": True}, "logit_bias": letters(tokenizer),
        # Each server knows at least one of the two.
        "enable_thinking": False, "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip
    results: dict[int, dict[str, Figures]] = {}
    with ExitStack() as stack:
        names = list(dict.fromkeys((OWN, *against)))
        servers = {name: stack.enter_context(serving(command(name, model), name)) for name in names}
        for count in at_once:
            found: dict[str, list[list[Answer]]] = {name: [] for name in names}
            for turn in range(repeats + 1):
                prompts = [text(tokenizer, prompt_tokens, f"{count}-{turn}-{row}") for row in range(count)]
                bodies = [{**fixed, "messages": [{"role": "user", "content": prompt}]} for prompt in prompts]
                for name, server in servers.items():
                    answers = together(server.port, bodies)
                    if turn:
                        found[name].append(answers)
            results[count] = {name: summarise(rounds) for name, rounds in found.items()}
            on_case(count, results[count])
    return results


def ratios(figures: dict[str, Figures], parent: str) -> dict[str, float]:
    """How this package compares: speed (larger is better), time to first token (smaller is better)."""
    own, other = figures[OWN], figures[parent]
    return {
        "tokens_per_second": own.tokens_per_second / other.tokens_per_second,
        "first_token": own.first_token / other.first_token,
    }
