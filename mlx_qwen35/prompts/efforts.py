"""How much to think, in the words of OpenAI's and Anthropic's protocols, as a checkpoint's template knows it."""

from collections.abc import Set
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mlx_qwen35.errors import OptionError
from mlx_qwen35.paths import shorten

EffortName = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
EFFORTS = get_args(EffortName)
# With these no reasoning comes.
THOUGHTLESS = ("none", "minimal")
# Where the template knows no effort, the model thinks or does not; a lower effort is a limit on the tokens of it.
_BUDGETS = {"low": 1024, "medium": 8192}
# As Qwen3.8's template names them; the highest stands for all above.
_IN_TEMPLATE = {"low": "low", "medium": "medium"}
_VARIABLE = "reasoning_effort"


@dataclass(frozen=True)
class Effort:
    """What an effort means to one chat template.

    Args:
        enable_thinking: Whether the answer begins with reasoning.
        in_template: The template's `reasoning_effort`; None where it has none, or the answer does not think.
        thinking_budget: At most this many tokens of reasoning; None for no limit.
    """

    enable_thinking: bool
    in_template: str | None = None
    thinking_budget: int | None = None

    def apply(self, options: dict[str, Any]) -> dict[str, Any]:
        """Options for `render_messages` with this effort.

        Raises:
            OptionError: They say something else.
        """
        thinking, further = options.get("enable_thinking"), dict(options.get("chat_template_kwargs") or {})
        if thinking is not None and thinking != self.enable_thinking:
            expected = "beside an effort" if self.enable_thinking else "without one"
            raise OptionError(f"reasoning_effort: expected enable_thinking={not thinking} {expected}, found {thinking}")
        if self.in_template is not None and further.setdefault(_VARIABLE, self.in_template) != self.in_template:
            raise OptionError(
                f"chat_template_kwargs[{_VARIABLE!r}]: expected {self.in_template!r} as the argument has it, "
                f"found {shorten(repr(further[_VARIABLE]))}"
            )
        return {**options, "enable_thinking": self.enable_thinking, "chat_template_kwargs": further}


def understand_effort(effort: Any, template_variables: Set[str]) -> Effort:
    """An effort as a checkpoint has it: a variable of its template, or a limit on its reasoning.

    Args:
        effort: One of `EFFORTS`.
        template_variables: What the chat template reads; see `ChatTemplate.variables`.
    Raises:
        OptionError: It is no effort.
    """
    if effort not in EFFORTS:
        raise OptionError(f"reasoning_effort: expected one of {', '.join(EFFORTS)}, found {shorten(repr(effort))}")
    if effort in THOUGHTLESS:
        return Effort(False)
    if _VARIABLE in template_variables:
        return Effort(True, in_template=_IN_TEMPLATE.get(effort, "xhigh"))
    return Effort(True, thinking_budget=_BUDGETS.get(effort))
