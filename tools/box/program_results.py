"""What programs return, in the forms that they return it in: words, JSON, lists, several lines, errors."""

import json
from collections.abc import Mapping
from random import Random
from typing import Any

from tools.box.lexicon import word

# Beside what was asked for.
_BESIDE = ("id", "request_id", "count", "version", "took_ms", "code")
_ERRORS = (
    "not found", "permission denied", "timeout", "no connection", "invalid value", "service unavailable",
    "access denied", "rate limit exceeded", "unknown error", "not supported", "{word} not found", "no such {word}",
    "the {word} is busy", "missing {word}", "{word} is not available", "internal error {number}",
)  # fmt: skip


def _beside(rng: Random) -> dict[str, Any]:
    """What nobody asked for."""
    return {name: rng.randint(1, rng.choice([9, 99, 9999])) for name in rng.sample(_BESIDE, rng.choice([0, 0, 1, 2]))}


def _dumped(found: Any, rng: Random) -> str:
    chance = rng.random()
    if chance < 0.1:
        return json.dumps(found, indent=2)
    return json.dumps(found, separators=(",", ":")) if chance < 0.25 else json.dumps(found)


def _shuffled(found: Mapping[str, Any], rng: Random) -> dict[str, Any]:
    return dict(rng.sample(list(found.items()), len(found)))


def returned(result: Any, arguments: Mapping[str, Any], rng: Random) -> str:
    """As text. Objects hold more than what is asked for: what the function was given, numbers of their own."""
    given: Mapping[str, Any] = arguments if rng.random() < 0.4 else {}
    if isinstance(result, dict):
        found = _shuffled({**_beside(rng), **given, **result}, rng)
        if rng.random() < 0.15:
            return "\n".join(f"{name}: {value}" for name, value in found.items())
        return _dumped(found, rng)
    if isinstance(result, list):
        if not result and rng.random() < 0.5:
            return rng.choice(["none", "nothing", "empty", "no results"])
        lines = ["\n".join(result), ", ".join(result)] if result else []
        name = rng.choice(["items", "results", "data", "entries", "files"])
        return rng.choice([*lines, *lines, _dumped(result, rng), _dumped({name: result, "count": len(result)}, rng)])
    chance = rng.random()
    if chance < 0.6:
        return str(result)
    if str(result).lower() in ("ok", "done", "success", "true"):
        states: list[dict[str, Any]] = [{"status": "ok"}, {"success": True}, {"status": "success"}, {"ok": True}]
        return _dumped(_shuffled({**_beside(rng), **given, **rng.choice(states)}, rng), rng)
    if chance < 0.8:
        return _dumped({"result": result}, rng)
    name = rng.choice(["result", "result", "output", "value", "text", "data"])
    return _dumped(_shuffled({**_beside(rng), **given, name: result}, rng), rng)


def failed(rng: Random) -> tuple[str, str]:
    """What a program returns that could not do it, and the error in it."""
    error = rng.choice(_ERRORS).format(word=word(rng), number=rng.randint(100, 599))
    text = rng.choice([f"Error: {error}", f"error: {error}", json.dumps({"error": error}), f"ERROR {error}",
                       json.dumps({"status": "error", "message": error}), f"Failed: {error}",
                       json.dumps({"success": False, "error": error})])  # fmt: skip
    return text, error
