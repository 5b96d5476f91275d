"""What a kit hands to the builder of prompts."""

from inspect import signature
from types import SimpleNamespace
from typing import Any

from mlx_qwen35.prompts.builder import GivenMedia
from mlx_qwen35.prompts.making import RENDERING, PromptMaking, PromptOptions


class Maker(PromptMaking):
    """Keeps what its builder is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, GivenMedia, dict[str, Any], bool]] = []

        def build(prompt: Any, given: GivenMedia, options: dict[str, Any], *, extend: bool) -> Any:
            self.asked.append((prompt, given, options, extend))
            return "built"

        self._prompts = SimpleNamespace(build=build)  # type: ignore[assignment]


def test_everything_that_is_asked_for_arrives() -> None:
    maker = Maker()
    tools: list[Any] = [{"type": "function"}]
    found: Any = maker.process_prompt(
        "text", images=["i"], videos=["v"], tools=tools, enable_thinking=False, reasoning_effort="low", max_pixels=5,
        video_fps=2.5, min_frames=3, max_frames=9, on_frames=lambda done, of: None, add_generation_prompt=False,
        continue_final_message=True, chat_template_kwargs={"x": 1},
    )  # fmt: skip
    ((prompt, given, options, extend),) = maker.asked
    assert (found, prompt, extend) == ("built", "text", False)
    assert (given.images, given.videos, given.max_pixels) == (["i"], ["v"], 5)
    assert given.video_options == {"fps": 2.5, "min_frames": 3, "max_frames": 9}
    assert given.on_frames is not None
    assert options == {
        "tools": tools, "enable_thinking": False, "reasoning_effort": "low", "chat_template_kwargs": {"x": 1},
        "continue_final_message": True,
    }  # fmt: skip


def test_what_is_not_asked_for_is_none() -> None:
    """So that a finished string, which takes no options, can tell that there are none."""
    maker = Maker()
    maker.process_prompt("text")
    ((_, given, options, extend),) = maker.asked
    assert extend is True
    assert set(options.values()) == {None}
    assert (given.images, given.videos, given.max_pixels, given.on_frames) == (None,) * 4
    assert set(given.video_options.values()) == {None}


def test_a_chat_may_ask_for_all_of_it_but_media() -> None:
    """Those stand in its messages."""
    parameters = set(signature(PromptMaking.process_prompt).parameters)
    assert parameters - {"self", "prompt", "images", "videos"} == RENDERING
    assert set(PromptOptions.__annotations__) < RENDERING
