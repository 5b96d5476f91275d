"""The REPL in a pseudo-terminal, and fed from a pipe."""

import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pexpect
import pytest
from PIL import Image

from mlx_qwen35.cli.conversation import Conversation
from tests.cli.conftest import UNCOMPILED
from tests.cli.test_commands import Done, run
from tests.tiny import DENSE, Shape, write_checkpoint


@pytest.fixture
def picture(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Another one for each test, which no chat has seen before."""
    path = tmp_path / "my picture.png"
    Image.new("RGB", (96, 64), f"#{zlib.crc32(request.node.nodeid.encode()) & 0xFFFFFF:06x}").save(path)
    return path


class Terminal:
    """A chat in a pseudo-terminal. What is typed before the prompt is there waits in the terminal."""

    def __init__(self, model: Path, home: Path, *arguments: str, **environment: str) -> None:
        environment = {**os.environ, "HOME": str(home), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **environment}
        command = ["-m", "mlx_qwen35.cli.main", "chat", "--model", str(model), *arguments]
        self.child: Any = pexpect.spawn(
            sys.executable, command, env=environment, encoding="utf-8", timeout=120, dimensions=(50, 200)
        )
        self.child.expect(">>>")

    def say(self, line: str, shows: str) -> None:
        """Type a line and wait until something is shown (a regular expression)."""
        self.child.send(line + "\r")
        self.child.expect(shows)

    def interrupt(self, shows: str) -> None:
        """Ctrl-C."""
        self.child.sendintr()
        self.child.expect(shows)

    def forget(self, folder: Path) -> None:
        """Begin anew, with the settings of a fresh chat."""
        Conversation().save(folder / "nothing.json")
        self.say(f"/load {folder}/nothing.json", shows="0 messages from")

    def leave(self) -> int:
        """Ctrl-D at the prompt; returns the exit code. Sent earlier, the terminal would swallow it."""
        self.child.expect(">>>")
        self.child.sendeof()
        self.child.expect(pexpect.EOF)
        self.child.close()
        return int(self.child.exitstatus)


@pytest.fixture(scope="module")
def shared(checkpoint_dir: Callable[[Shape], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """One process for many tests: most of its time goes to starting it."""
    terminal = Terminal(checkpoint_dir(DENSE), tmp_path_factory.mktemp("home"), "-m", "6", "--temp", "0")
    yield terminal
    terminal.child.close(force=True)


@pytest.fixture
def terminal(shared: Terminal, tmp_path: Path) -> Terminal:
    """A chat about nothing yet."""
    shared.forget(tmp_path)
    return shared


@pytest.fixture(scope="module")
def unending(endless: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A chat that reads a token at a time, and writes answers without end."""
    flags = ("-m", "100000", "--temp", "0", "--prefill-step-size", "1", "--no-prefill-ahead")
    terminal = Terminal(endless, tmp_path_factory.mktemp("home"), *flags, **UNCOMPILED)
    yield terminal
    terminal.child.close(force=True)


def test_a_conversation_with_images(terminal: Terminal, picture: Path) -> None:
    terminal.say("hello there", shows=r"6 tokens at .* tokens/s")
    terminal.say(f"/image {picture}", shows="goes with the next message")
    terminal.say("what is this?", shows=r"prompt tokens \(6 image\)")
    escaped = str(picture).replace(" ", "\\ ")
    terminal.say(f"{escaped} and this?", shows=r"prompt tokens \(12 image\)")


def test_commands(terminal: Terminal, tmp_path: Path) -> None:
    terminal.say("/help", shows="/image PATH")
    terminal.say("/think off", shows="reasoning is off")
    terminal.say("/think", shows="reasoning is on")
    terminal.say("/think maybe", shows="/think: expected on or off, found maybe")
    terminal.say("/effort low", shows="effort: low")
    terminal.say("/effort hgih", shows="/effort: expected one of none, minimal, low, .*, found hgih")
    terminal.say("/think", shows="reasoning is off")
    terminal.say("/effort", shows="effort: as the model has it")
    terminal.say("/system be brief", shows="system message: be brief")
    terminal.say("hello", shows="tokens/s")
    terminal.say(f"/save {tmp_path}/chat.json", shows="saved to")
    terminal.say("/clear", shows="the conversation is empty")
    terminal.say(f"/load {tmp_path}/chat.json", shows="2 messages from")
    terminal.say("/nothing", shows="/nothing: no such command")
    terminal.say("/image /nowhere.png", shows="No such file or directory")
    terminal.say("/load /nowhere.json", shows="cannot be read")


def test_several_lines(terminal: Terminal, tmp_path: Path) -> None:
    terminal.say("one\x1b\rtwo", shows="tokens/s")
    terminal.say(f"/save {tmp_path}/chat.json", shows="saved to")
    assert '"text": "one\\ntwo"' in (tmp_path / "chat.json").read_text()


def test_a_following_turn_knows_what_was_read(terminal: Terminal, picture: Path, tmp_path: Path) -> None:
    """Within a chat, and after /save and /load in another one."""
    terminal.say(f"/image {picture}", shows="goes with the next message")
    terminal.say("what is this?", shows=r"1 of 1 images encoded in")
    terminal.say("and now?", shows=r"prompt tokens \(6 image\), \d+ known, 0 of 1 images encoded in")
    terminal.say(f"/save {tmp_path}/chat.json", shows=r"tokens that were read of it to .*chat\.json\.session")
    terminal.say("/clear", shows="the conversation is empty")
    terminal.say(
        f"/load {tmp_path}/chat.json", shows=r"4 messages from .*chat\.json; \d+ tokens need not be read again"
    )
    terminal.say("go on", shows=r"\d+ known, 0 of 1 images")
    session = tmp_path / "chat.json.session"
    session.write_bytes(session.read_bytes()[:-9])
    terminal.say(f"/load {tmp_path}/chat.json", shows="they will be read again: .*cut short")


def test_ctrl_c_stops_the_answer_and_not_the_program(unending: Terminal, tmp_path: Path) -> None:
    unending.forget(tmp_path)
    unending.child.send("hello there\r")
    unending.child.expect("\x1b\\[2m")
    unending.interrupt(shows="stopped")
    unending.child.send("half a line")
    unending.child.expect("half a line")
    unending.child.sendintr()
    unending.say("/think off", shows="reasoning is off")


def test_a_long_prompt_shows_a_bar_and_can_be_stopped(unending: Terminal, tmp_path: Path) -> None:
    """Ctrl-C while the prompt is read: the question is taken back, and the next one is answered."""
    # Minutes long.
    conversation = Conversation()
    conversation.ask("the quick brown fox " * 8000)
    conversation.answer("and so on", "")
    conversation.save(tmp_path / "long.json")
    unending.say(f"/load {tmp_path}/long.json", shows="2 messages from")
    unending.say("go on", shows=r"reading the prompt .* [1-9]\d*/\d{5} tokens")
    unending.interrupt(shows="stopped")
    unending.say(f"/save {tmp_path}/chat.json", shows="saved to")
    assert len(json.loads((tmp_path / "chat.json").read_text())["messages"]) == 2
    unending.say("/clear", shows="the conversation is empty")
    unending.say("hello there", shows="\x1b\\[2m")
    unending.interrupt(shows="stopped")


def test_history_is_kept(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    """The line of an earlier chat comes back with the Up key, and this chat's lines are written behind it."""
    history = tmp_path / ".mlx_qwen35" / "history"
    history.parent.mkdir()
    history.write_text("\n# 2026-01-01 12:00:00.000000\n+/system remembered words\n")
    terminal = Terminal(checkpoint_dir(DENSE), tmp_path)
    terminal.say("\x1b[A", shows="system message: remembered words")
    terminal.say("/system other words", shows="system message: other words")
    assert terminal.leave() == 0
    lines = [line for line in history.read_text().splitlines() if line.startswith("+")]
    assert lines == ["+/system remembered words", "+/system other words"]


def test_lines_may_come_from_a_pipe(checkpoint_dir: Callable[[Shape], Path], picture: Path) -> None:
    lines = f"hello\n/image {picture}\nwhat?\n/bad\n/quit\nnever asked\n"
    command = [sys.executable, "-m", "mlx_qwen35.cli.main", "chat", "--model", str(checkpoint_dir(DENSE))]
    command += ["-m", "4", "--no-think"]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) >= 2
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr.count("tokens/s") == 2
    assert "/bad: no such command" in done.stderr


def talk(model: Path, lines: str | bytes, *arguments: str) -> Done:
    """Lines from a pipe, to a chat in this process."""
    return run("chat", "--model", str(model), *arguments, stdin=lines)


def test_an_image_for_the_first_message(checkpoint_dir: Callable[[Shape], Path], picture: Path) -> None:
    done = talk(checkpoint_dir(DENSE), "what?\n", "-m", "2", "--image", str(picture))
    assert "(6 image)" in done.stderr


def test_a_video_for_the_first_message(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    """The second question encodes nothing of it."""
    clip = tmp_path / "clip.gif"
    frames = [Image.new("RGB", (64, 32), (50 * number, 0, 0)) for number in range(4)]
    frames[0].save(clip, save_all=True, append_images=frames[1:], duration=500, loop=0)
    done = talk(checkpoint_dir(DENSE), "what?\nand now?\n", "-m", "2", "--video", str(clip), "--max-frames", "4")
    assert re.search(r"\(\d+ video\), 4 of 4 frames encoded in", done.stderr), done.stderr
    assert re.search(r"\(\d+ video\), \d+ known, 0 of 4 frames encoded in", done.stderr), done.stderr


def test_an_image_for_a_model_that_cannot_see_is_refused_at_once(tmp_path: Path, picture: Path) -> None:
    model = write_checkpoint(tmp_path / "model", replace(DENSE, name="text-only", text_only=True))
    done = talk(model, f"/image {picture}\nhello\n", "-m", "2")
    assert "this checkpoint cannot see images" in done.stderr
    assert done.stderr.count("tokens/s") == 1


def test_a_dropped_url_a_saved_picture_and_a_loaded_one(terminal: Terminal, picture: Path, tmp_path: Path) -> None:
    terminal.say(f"{picture.as_uri()} what is this?", shows=r"prompt tokens \(6 image\)")
    terminal.say(f"/save {tmp_path}/chat.json", shows="saved to")
    picture.unlink()
    terminal.say("/clear", shows="the conversation is empty")
    terminal.say(f"/load {tmp_path}/chat.json", shows="2 messages from")
    terminal.say("and now?", shows=r"prompt tokens \(6 image\)")


def test_reasoning_is_switched_from_what_the_template_does(terminal: Terminal) -> None:
    terminal.say("/think", shows="reasoning is off")
    terminal.say("/think", shows="reasoning is on")
    terminal.say("/system be brief", shows="system message: be brief")
    terminal.say("/system none", shows="system message: none")


def test_generate_on_a_terminal_shows_reasoning_and_status(checkpoint_dir: Callable[[Shape], Path]) -> None:
    command = ["-m", "mlx_qwen35.cli.main", "generate", "--model", str(checkpoint_dir(DENSE)), "-p", "hi", "-m", "5"]
    child = pexpect.spawn(sys.executable, command, env={**os.environ, "TERM": "xterm"}, encoding="utf-8", timeout=120)
    child.expect("\x1b\\[2m")
    child.expect("5 tokens at")
    child.expect(pexpect.EOF)


def test_a_home_that_cannot_be_written_does_not_matter(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("a file where a directory is expected")
    terminal = Terminal(checkpoint_dir(DENSE), home, "-m", "2")
    terminal.say("hello", shows="tokens/s")
    terminal.say("/quit", shows=pexpect.EOF)
    terminal.child.close()
    assert terminal.child.exitstatus == 0


def test_text_that_is_not_utf8_is_told(checkpoint_dir: Callable[[Shape], Path]) -> None:
    done = talk(checkpoint_dir(DENSE), b"hello\xff\n", "-m", "2")
    assert done.returncode == 2
    assert "standard input: expected text" in done.stderr


def test_windows_line_ends_are_line_ends(checkpoint_dir: Callable[[Shape], Path]) -> None:
    done = talk(checkpoint_dir(DENSE), b"/think off\r\n/quit\r\n")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "reasoning is off")
