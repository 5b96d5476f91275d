"""Flags and commands of other programs that people type out of habit, and what is theirs here."""

import argparse
from collections.abc import Mapping, Sequence

# Of mlx-lm and mlx-vlm, llama.cpp, vLLM: what differs from the flag named here, or has its name elsewhere alone.
FLAGS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("--max-kv-size", "--ctx-size", "-c", "--max-model-len", "--context-length"), ("--max-context",)),
    **dict.fromkeys(("--n-predict", "-n"), ("--max-tokens",)),
    "--repeat-penalty": ("--repetition-penalty",),
    **dict.fromkeys(("--draft-model", "-md", "--draft-kind"), ("--speculate", "--mtp-model")),
    "--draft-block-size": ("--draft-tokens",),
    "--resize-shape": ("--max-pixels",),
    "--prompt-cache-file": ("--prompt-cache-dir",),
    "--prompt-cache-size": ("--prompt-cache-bytes",),
    **dict.fromkeys(("--kv-cache-dtype", "--cache-type-k", "--cache-type-v", "-ctk", "-ctv"), ("--kv-bits",)),
    "--gpu-memory-utilization": ("--memory-limit",),
    **dict.fromkeys(("--parallel", "-np"), ("--max-rows",)),
    "--alias": ("--served-model-name",),
    **dict.fromkeys(("--eos-tokens", "--extra-eos-token"), ("--stop",)),
}
# What needs no flag.
NEEDLESS = {
    "--trust-remote-code": "not needed: no code of a checkpoint is run",
    "--revision": "models pull ID --revision downloads one",
}
# Of `serve`, which a chat has as flags.
PER_REQUEST = {"--system-prompt": "messages"}
# Other programs' commands.
COMMANDS = {
    **dict.fromkeys(("server", "start"), "serve"),
    "run": "chat --model MODEL",
    **dict.fromkeys(("pull", "download", "get"), "models pull ID"),
    **dict.fromkeys(("list", "ls"), "models"),
    "rm": "models rm ID",
    "quantize": "convert --bits 4",
}
# What other programs have as a command too, and is a flag.
FLAG_COMMANDS = {"help": "--help", "version": "--version"}


def hint(unknown: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """What to type in place of arguments that a command does not know; empty where nothing is like them."""
    known, found = parser._option_string_actions, []
    for argument in unknown:
        flag = argument.partition("=")[0]
        ours = [name for name in FLAGS.get(flag, ()) if name in known]
        if ours:
            found.append(f"{flag}: see {', '.join(ours)}")
        elif "--served-model-name" in known and flag in PER_REQUEST:
            found.append(f"{flag}: requests say it, as {PER_REQUEST[flag]}")
        elif flag in NEEDLESS:
            found.append(f"{flag}: {NEEDLESS[flag]}")
    # Others take the checkpoint, or the prompt, without a flag; behind an unknown flag it is that flag's value.
    if unknown and not unknown[0].startswith("-"):
        flags = {"--model": "a checkpoint comes behind --model", "--prompt": "a prompt behind -p"}
        found += [", ".join(words for flag, words in flags.items() if flag in known)]
    return "; ".join(filter(None, found))


def wrong_beginning(arguments: Sequence[str]) -> str | None:
    """What is wrong with a line that begins with no command; None where argparse says it as well."""
    first = arguments[0] if arguments else ""
    if first in COMMANDS:
        return f"{first}: expected a command, like {COMMANDS[first]}"
    flag = first.partition("=")[0]
    own = ("-h", "--help", "-V", "--version")
    if len(first) > 1 and first.startswith("-") and not any(name.startswith(flag) for name in own):
        return f"{flag}: expected a command before it, like chat, generate or serve"
    return None
