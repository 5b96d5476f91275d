"""Checkpoints that somebody made to hang, fill or mislead whoever loads them: a clear error, soon.

Whatever is done to a checkpoint here, loading it and asking it one question either works as before or raises an
error of this package, within seconds and without taking much memory.
"""

import faulthandler
import json
import os
import shutil
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.errors import Qwen35Error
from mlx_qwen35.paths import shorten

Attack = Callable[[Path], None]

# What one attempt may take, and say.
MOST_SECONDS, MOST_CHARACTERS = 30.0, 4000

DEEP = '{"a":' * 50_000 + "1" + "}" * 50_000
PICTURE = Image.new("RGB", (40, 30), "red")
NUMBERS = [0, -1, 10**8, 2**63, 1e308, float("nan"), float("inf"), "4", [], {}, True, None]


def set_field(name: str, field: str, value: Any) -> Attack:
    """Another value of a field of a JSON file, by its dotted path."""

    def attack(directory: Path) -> None:
        path = directory / name
        raw = json.loads(path.read_text())
        *sections, last = field.split(".")
        inner = raw
        for section in sections:
            inner = inner[section]
        inner[last] = value
        path.write_text(json.dumps(raw))

    return attack


def content(name: str, data: str | bytes) -> Attack:
    """Another content of a file."""

    def attack(directory: Path) -> None:
        (directory / name).write_bytes(data.encode() if isinstance(data, str) else data)

    return attack


def in_place(name: str, make: Callable[[Path], Any]) -> Attack:
    """Something else in a file's place."""

    def attack(directory: Path) -> None:
        path = directory / name
        path.unlink(missing_ok=True)
        make(path)

    return attack


def sparse(path: Path) -> None:
    """A file of a terabyte that takes no disk."""
    with path.open("wb") as file:
        file.write(b"{")
        file.truncate(2**40)


def index(weight_map: Any) -> Attack:
    return content("model.safetensors.index.json", json.dumps({"weight_map": weight_map}))


def header(length: int, text: str = "{}") -> bytes:
    return struct.pack("<Q", length) + text.encode()


def tensor(**changes: Any) -> bytes:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | changes
    text = json.dumps({"model.norm.weight": entry})
    return header(len(text), text) + bytes(4)


FILES = ("config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json",
         "tokenizer_config.json", "chat_template.jinja", "model.safetensors.index.json")  # fmt: skip
KINDS: dict[str, Callable[[Path], Any]] = {
    "a pipe": os.mkfifo,
    "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a directory": Path.mkdir,
    "a loop of links": lambda path: path.symlink_to(path),
    "a terabyte": sparse,
    "nothing": lambda path: path.write_bytes(b""),
    "no UTF-8": lambda path: path.write_bytes(b"\xff\xfe\x00{"),
    "no JSON": lambda path: path.write_text("{,}"),
    "a list": lambda path: path.write_text("[]"),
    "deep JSON": lambda path: path.write_text(DEEP),
    "many brackets": lambda path: path.write_text("[" * 1_000_000),
}
ATTACKS: dict[str, Attack] = {
    **{f"{kind} as {name}": in_place(name, make) for name in FILES for kind, make in KINDS.items()},
    **{
        f"{field} = {value!r}": set_field("config.json", field, value)
        for field in (
            "text_config.num_hidden_layers", "text_config.hidden_size", "text_config.num_attention_heads",
            "text_config.num_key_value_heads", "text_config.head_dim", "text_config.vocab_size",
            "text_config.linear_num_key_heads", "text_config.linear_num_value_heads",
            "text_config.linear_conv_kernel_dim", "text_config.linear_value_head_dim",
            "text_config.max_position_embeddings", "text_config.rms_norm_eps", "text_config.layer_types",
            "text_config.rope_parameters", "text_config.rope_parameters.rope_theta",
            "text_config.rope_parameters.partial_rotary_factor", "text_config.rope_parameters.mrope_section",
            "text_config.rope_parameters.rope_type", "vision_config.depth", "vision_config.num_heads",
            "vision_config.patch_size", "vision_config.spatial_merge_size", "vision_config.temporal_patch_size",
            "vision_config.num_position_embeddings", "vision_config.in_channels", "image_token_id", "video_token_id",
            "eos_token_id", "text_config.eos_token_id", "model_type", "text_config", "tie_word_embeddings",
        )
        for value in NUMBERS
    },
    **{
        f"preprocessor {field} = {value!r}": set_field("preprocessor_config.json", field, value)
        for field in ("size", "size.longest_edge", "patch_size", "merge_size", "image_mean")
        for value in NUMBERS
    },
    **{
        f"generation {field} = {value!r}": set_field("generation_config.json", field, value)
        for field in ("temperature", "top_k", "eos_token_id", "max_new_tokens", "unknown")
        for value in NUMBERS
    },
    "layers of no kind": set_field("config.json", "text_config.layer_types", [[], {}, None, 1]),
    "a section of no numbers": set_field("config.json", "text_config.rope_parameters.mrope_section", ["a", "b", "c"]),
    "sizes of no numbers": set_field("config.json", "vision_config.patch_size", [[], []]),
    "weights outside": index({"a": "../other/model.safetensors"}),
    "weights at the root": index({"a": "/etc/passwd"}),
    "weights of no kind": index({"a": "config.json"}),
    "weights of a long name": index({"a": "m" * 5000 + ".safetensors"}),
    "weights with a zero byte": index({"a": "m\0.safetensors"}),
    "weights that are a list": index(["model.safetensors"]),
    "weights that are numbers": index({"a": 1, "b": None}),
    "a header of 2**63": content("model.safetensors", header(2**63)),
    "a header beyond the end": content("model.safetensors", header(10**6)),
    "a header that is deep": content("model.safetensors", header(len(DEEP), DEEP)),
    "a negative shape": content("model.safetensors", tensor(shape=[-1])),
    "an enormous shape": content("model.safetensors", tensor(shape=[2**62, 2**62])),
    "offsets beyond the end": content("model.safetensors", tensor(data_offsets=[0, 2**50])),
    "offsets the other way": content("model.safetensors", tensor(data_offsets=[4, 0])),
    "infinite offsets": content("model.safetensors", tensor(data_offsets=[0, float("inf")])),
    "a type that is none": content("model.safetensors", tensor(dtype="X99")),
    "a name of no layout": content("model.safetensors", tensor().replace(b"model.norm.weight", b"nodel.norm.weight")),
    "a template that loops": content("chat_template.jinja", "{% for i in range(99999) %}" * 5 + "{% endfor %}" * 5),
    "a template that doubles": content(
        "chat_template.jinja",
        "{% set n = namespace(s='ab') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    ),
    "a template that calls itself": content("chat_template.jinja", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
    "a template that is deep": content("chat_template.jinja", "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}"),
    "a template that reads files": content("chat_template.jinja", "{% include '/etc/passwd' %}"),
    "a template that looks into Python": content("chat_template.jinja", "{{ ''.__class__.__mro__ }}"),
}  # fmt: skip


def attempt(directory: Path) -> str | None:
    """What loading and asking says; None if both work.

    Raises:
        AssertionError: It took too long, or says too much.
    """
    began = time.monotonic()
    # A hang ends the process, and says where it was.
    faulthandler.dump_traceback_later(10 * MOST_SECONDS, exit=True)
    try:
        with ModelKit.load(directory) as kit:
            for content in ("hi", [{"type": "image", "image": PICTURE}]):
                kit.generate(kit.process_prompt([{"role": "user", "content": content}]), max_tokens=1, temperature=0)
    except Qwen35Error as error:
        if len(str(error)) > MOST_CHARACTERS:
            raise AssertionError(f"a message of {len(str(error))} characters") from error
        return str(error)
    finally:
        faulthandler.cancel_dump_traceback_later()
        if time.monotonic() - began > MOST_SECONDS:
            raise AssertionError(f"it took {time.monotonic() - began:.1f} s")
    return None


def run(seconds: float, seed: int) -> list[str]:
    """What went wrong: other exceptions than the package's own, and attempts that took too long."""
    names = sorted(ATTACKS)
    Random(seed).shuffle(names)
    outcomes: Counter[str] = Counter()
    problems: list[str] = []
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory) / "base"
        make_victim(base)
        while names and time.monotonic() < deadline:
            name = names.pop()
            victim = Path(directory) / "victim"
            shutil.rmtree(victim, ignore_errors=True)
            shutil.copytree(base, victim)
            ATTACKS[name](victim)
            try:
                outcomes["works" if attempt(victim) is None else "refused"] += 1
            except Exception as error:
                outcomes["failed"] += 1
                problems.append(f"{name}: {type(error).__name__}: {shorten(error, 300)}")
    print(f"checkpoints: {dict(outcomes)}, {len(names)} of {len(ATTACKS)} left", flush=True)
    return problems


def make_victim(directory: Path) -> None:
    """The checkpoint in the package, with every file that an attack may be on."""
    shutil.copytree(BOX, directory)
