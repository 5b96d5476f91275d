"""The REPL in a pseudo-terminal, and fed from a pipe."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pexpect
import pytest
from PIL import Image

from mlx_qwen35.cli.conversation import Conversation
from tests.tiny import DENSE, Shape, write_checkpoint


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "my picture.png"
    Image.new("RGB", (96, 64), "red").save(path)
    return path


class Terminal:
    """A chat in a pseudo-terminal. What is typed before the prompt is there waits in the terminal."""

    def __init__(self, model: Path, home: Path, *arguments: str) -> None:
        environment = {**os.environ, "HOME": str(home), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        command = ["-m", "mlx_qwen35.cli.main", "chat", "--model", str(model), *arguments]
        self.child: Any = pexpect.spawn(
            sys.executable, command, env=environment, encoding="utf-8", timeout=60, dimensions=(50, 200)
        )
        self.child.expect(">>>")

    def say(self, line: str, shows: str) -> None:
        """Type a line and wait until something is shown (a regular expression)."""
        self.child.send(line + "\r")
        self.child.expect(shows)

    def interrupt(self, shows: str) -> None:
        """Ctrl-C, again if need be: while MLX's CPU backend runs the C compiler, system(3) has it ignored."""
        for _ in range(20):
            self.child.sendintr()
            if self.child.expect([shows, pexpect.TIMEOUT], timeout=3) == 0:
                return
        raise AssertionError(f"expected {shows!r} after Ctrl-C, found {self.child.before!r}")

    def leave(self) -> int:
        """Ctrl-D at the prompt; returns the exit code. Sent earlier, the terminal would swallow it."""
        self.child.expect(">>>")
        self.child.sendeof()
        self.child.expect(pexpect.EOF)
        self.child.close()
        return int(self.child.exitstatus)


@pytest.fixture
def terminal(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(checkpoint_dir(DENSE), tmp_path, "-m", "6", "--temp", "0")
    yield terminal
    terminal.child.close(force=True)


def test_a_conversation_with_images(terminal: Terminal, picture: Path) -> None:
    terminal.say("hello there", shows=r"6 tokens at .* tokens/s")
    terminal.say(f"/image {picture}", shows="goes with the next message")
    terminal.say("what is this?", shows=r"prompt tokens \(6 image\)")
    escaped = str(picture).replace(" ", "\\ ")
    terminal.say(f"{escaped} and this?", shows=r"prompt tokens \(12 image\)")
    assert terminal.leave() == 0


def test_commands(terminal: Terminal, tmp_path: Path) -> None:
    terminal.say("/help", shows="/image PATH")
    terminal.say("/think off", shows="reasoning is off")
    terminal.say("/think", shows="reasoning is on")
    terminal.say("/think maybe", shows="/think: expected on or off, found maybe")
    terminal.say("/system be brief", shows="system message: be brief")
    terminal.say("hello", shows="tokens/s")
    terminal.say(f"/save {tmp_path}/chat.json", shows="saved to")
    terminal.say("/clear", shows="the conversation is empty")
    terminal.say(f"/load {tmp_path}/chat.json", shows="2 messages from")
    terminal.say("/nothing", shows="/nothing: no such command")
    terminal.say("/image /nowhere.png", shows="No such file or directory")
    terminal.say("/load /nowhere.json", shows="cannot be read")
    terminal.say("/quit", shows=pexpect.EOF)


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
    assert terminal.leave() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    # A hot, seeded model of random weights does not come to an end by itself.
    terminal = Terminal(checkpoint_dir(DENSE), tmp_path, "-m", "4000", "--temp", "9", "--seed", "1")
    terminal.child.send("hello\r")
    terminal.child.expect("\x1b\\[2m")
    terminal.interrupt(shows="stopped")
    terminal.child.send("half a line")
    terminal.child.expect("half a line")
    terminal.child.sendintr()
    terminal.say("/think off", shows="reasoning is off")
    assert terminal.leave() == 0


def test_history_is_kept(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    for _ in range(2):
        terminal = Terminal(checkpoint_dir(DENSE), tmp_path)
        terminal.say("/system remembered words", shows="system message")
        assert terminal.leave() == 0
    assert (tmp_path / ".mlx_qwen35" / "history").read_text().count("remembered words") >= 1


def pipe(model: Path, text: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "mlx_qwen35.cli.main", "chat", "--model", str(model), *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def test_lines_may_come_from_a_pipe(checkpoint_dir: Callable[[Shape], Path], picture: Path) -> None:
    lines = f"hello\n/image {picture}\nwhat?\n/bad\n/quit\nnever asked\n"
    done = pipe(checkpoint_dir(DENSE), lines, "-m", "4", "--no-think")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) >= 2
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr.count("tokens/s") == 2
    assert "/bad: no such command" in done.stderr


def test_an_image_for_the_first_message(checkpoint_dir: Callable[[Shape], Path], picture: Path) -> None:
    done = pipe(checkpoint_dir(DENSE), "what?\n", "-m", "2", "--image", str(picture))
    assert "(6 image)" in done.stderr


def test_an_image_for_a_model_that_cannot_see_is_refused_at_once(tmp_path: Path, picture: Path) -> None:
    model = write_checkpoint(tmp_path / "model", replace(DENSE, name="text-only", text_only=True))
    done = pipe(model, f"/image {picture}\nhello\n", "-m", "2")
    assert "this checkpoint cannot see images" in done.stderr
    assert done.stderr.count("tokens/s") == 1


def test_a_dropped_url_a_saved_picture_and_a_loaded_one(terminal: Terminal, picture: Path, tmp_path: Path) -> None:
    terminal.say(f"{picture.as_uri()} what is this?", shows=r"prompt tokens \(6 image\)")
    terminal.say(f"/save {tmp_path}/chat.json", shows="saved to")
    picture.unlink()
    terminal.say("/clear", shows="the conversation is empty")
    terminal.say(f"/load {tmp_path}/chat.json", shows="2 messages from")
    terminal.say("and now?", shows=r"prompt tokens \(6 image\)")
    assert terminal.leave() == 0


def test_reasoning_is_switched_from_what_the_template_does(terminal: Terminal) -> None:
    terminal.say("/think", shows="reasoning is off")
    terminal.say("/think", shows="reasoning is on")
    terminal.say("/system be brief", shows="system message: be brief")
    terminal.say("/system none", shows="system message: none")


def test_a_long_prompt_shows_a_bar_and_can_be_stopped(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    """Ctrl-C while the prompt is read: the question is taken back, and the next one is answered."""
    # Long enough, read one token at a time, that Ctrl-C arrives in the middle of it.
    conversation = Conversation()
    conversation.ask("the quick brown fox " * 400)
    conversation.answer("and so on", "")
    conversation.save(tmp_path / "long.json")
    terminal = Terminal(checkpoint_dir(DENSE), tmp_path, "-m", "3", "--prefill-step-size", "1", "--no-prefill-ahead")
    terminal.say(f"/load {tmp_path}/long.json", shows="2 messages from")
    terminal.child.send("go on\r")
    terminal.child.expect("reading the prompt")
    terminal.interrupt(shows="stopped")
    terminal.say(f"/save {tmp_path}/chat.json", shows="saved to")
    assert len(json.loads((tmp_path / "chat.json").read_text())["messages"]) == 2
    terminal.say("/clear", shows="the conversation is empty")
    terminal.say("hello", shows="tokens/s")
    assert terminal.leave() == 0


def test_generate_on_a_terminal_shows_reasoning_and_status(checkpoint_dir: Callable[[Shape], Path]) -> None:
    command = ["-m", "mlx_qwen35.cli.main", "generate", "--model", str(checkpoint_dir(DENSE)), "-p", "hi", "-m", "5"]
    child = pexpect.spawn(sys.executable, command, env={**os.environ, "TERM": "xterm"}, encoding="utf-8", timeout=60)
    child.expect("\x1b\\[2m")
    child.expect("5 tokens at")
    child.expect(pexpect.EOF)


def test_a_home_that_cannot_be_written_does_not_matter(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("a file where a directory is expected")
    terminal = Terminal(checkpoint_dir(DENSE), home, "-m", "2")
    terminal.say("hello", shows="tokens/s")
    assert terminal.leave() == 0


def test_text_that_is_not_utf8_is_told(checkpoint_dir: Callable[[Shape], Path]) -> None:
    command = [sys.executable, "-m", "mlx_qwen35.cli.main", "chat", "--model", str(checkpoint_dir(DENSE)), "-m", "2"]
    environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, input=b"hello\xff\n", capture_output=True, env=environment, check=False)
    assert done.returncode == 2
    assert b"standard input: expected text" in done.stderr


def test_windows_line_ends_are_line_ends(checkpoint_dir: Callable[[Shape], Path]) -> None:
    done = pipe(checkpoint_dir(DENSE), "/think off\r\n/quit\r\n")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "reasoning is off")
