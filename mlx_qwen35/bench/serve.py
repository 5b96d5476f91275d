"""Several requests at once to a server: this package's, mlx-lm's and mlx-vlm's, each as its users run it, in turns."""

import statistics
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from string import ascii_lowercase
from typing import Any

from mlx_qwen35.bench.servers import OWN, Answer, command, serving, stream_chat
from mlx_qwen35.errors import OptionError
from mlx_qwen35.prompts.tokenizer import Tokenizer

AT_ONCE = (1, 2, 4, 8)
_WORDS = ("name", "the", "shapes", "and", "colors", "that", "you", "see", "red", "circle", "blue", "square", "star")


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
            answers.append(stream_chat(port, body))
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
        against: Names of `MODULES` beside this package's.
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
                    try:
                        answers = together(server.port, bodies)
                    except OptionError as error:
                        raise OptionError(f"{name}: {error}") from error
                    if turn:
                        found[name].append(answers)
            results[count] = {name: summarise(rounds) for name, rounds in found.items()}
            on_case(count, results[count])
    return results


def ratios(figures: dict[str, Figures], name: str) -> dict[str, float]:
    """How this package compares: speed (larger is better), time to first token (smaller is better).

    Args:
        name: Of the other server.
    Returns:
        Nothing for this package itself.
    """
    if name == OWN:
        return {}
    own, other = figures[OWN], figures[name]
    return {
        "tokens_per_second": own.tokens_per_second / other.tokens_per_second,
        "first_token": own.first_token / other.first_token,
    }
