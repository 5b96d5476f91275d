"""Whether to speculate, and how far: what a kit was asked for, and what a row has to show for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

from mlx_qwen35.answers.sampling import whole_number
from mlx_qwen35.errors import OptionError
from mlx_qwen35.runtime.lookup import SHORTEST, Lookup
from mlx_qwen35.runtime.regulator import DEEPEST, Acceptance, Budget, Regulator

# "mtp" drafts by the checkpoint's module in every step, "lookup" with what stands in prompt and answer already; "auto"
# does both as far as it pays.
Speculate = Literal["off", "mtp", "lookup", "auto"]
DRAFT_TOKENS = 2
# Beside the module, only what repeats so many tokens is looked up.
_LONG_MATCH = 8


@dataclass
class Record:
    """What drafts did for one row.

    Args:
        module, lookup: How often they were right, by where they came from.
        text: What drafts are looked up in; None if none are.
        steps: Forward passes that gave tokens.
        drafted, accepted: Drafts by their place in the step, and those that were right.
    """

    module: Acceptance
    lookup: Acceptance
    text: Lookup | None = None
    steps: int = 0
    drafted: list[int] = field(default_factory=lambda: [0] * DEEPEST)
    accepted: list[int] = field(default_factory=lambda: [0] * DEEPEST)


class HasRecord(Protocol):
    """A row."""

    record: Record

    @property
    def room(self) -> int:
        """Tokens that it may still be given behind the next one."""


class Speculation:
    """The drafts of one kit.

    Args:
        mode: What was asked for; "auto" drafts as far as it pays.
        draft_tokens: At most so many at once; None for as many as pay, or 2 of the module's without a regulator.
        has_module: Whether there is an MTP module.
    Raises:
        OptionError: An option is not what it may be.
    """

    def __init__(self, mode: Speculate = "off", draft_tokens: int | None = None, *, has_module: bool = False) -> None:
        self.mode = mode
        self.uses_module = has_module and mode in ("mtp", "auto")
        self.uses_lookup = mode in ("lookup", "auto")
        fixed = DRAFT_TOKENS if mode == "mtp" else DEEPEST
        self.most = 0 if mode == "off" else fixed if draft_tokens is None else draft_tokens
        self._budget = Budget()
        self._regulators = {kind: Regulator(self._budget) for kind in (True, False)}
        # Of all rows.
        self.steps = 0
        self.drafted, self.accepted = [0] * DEEPEST, [0] * DEEPEST

    @property
    def is_on(self) -> bool:
        """Whether there will ever be drafts."""
        return self.most > 0 and (self.uses_module or self.uses_lookup)

    def record(self, prompt: Sequence[int]) -> Record:
        """That of a new row."""
        module, lookup = (Acceptance(self._regulators[kind].acceptance) for kind in (True, False))
        return Record(module, lookup, Lookup(prompt) if self.uses_lookup and self.most else None)

    def depth(self, rows: Sequence[HasRecord]) -> int:
        """Drafts that the module is to make for the next step of these rows."""
        most = min(self.most, max(row.room for row in rows))
        if not self.uses_module or most < 1:
            return 0
        if self.mode == "mtp":
            return most
        return self._regulators[True].choose([row.record.module for row in rows], most)

    def found(self, row: HasRecord, rows: int) -> list[int]:
        """Drafts for one row that stand in its prompt or answer."""
        most = min(self.most, row.room)
        if row.record.text is None or most < 1:
            return []
        drafts = row.record.text.find(most, _LONG_MATCH if self.uses_module else SHORTEST)
        if drafts and self.mode == "auto":
            return drafts if self._regulators[False].pays(row.record.lookup, rows, len(drafts)) else []
        return drafts

    def took(self, rows: int, done: tuple[int, bool], begun: tuple[int, bool], tokens: int, seconds: float) -> None:
        """A step was measured.

        Args:
            done, begun: Drafts of the step that was waited for and of the one that was begun, and whether they are the
                module's.
            tokens: That all rows were given.
        """
        for kind, regulator in self._regulators.items():
            if all(by_module is kind or not drafts for drafts, by_module in (done, begun)):
                regulator.took(rows, done[0], begun[0], seconds)
        times = self._regulators[done[1]].times
        plain = times.of(rows, 0)
        if plain is not None:
            # What other programs make of a single step is nobody's loss.
            usual = times.of(rows, done[0]) if done == begun else None
            seconds = seconds if usual is None else usual
            self._budget.add(plain, tokens / rows, seconds, drafted=done[0] > 0 or begun[0] > 0)

    def stepped(self, row: HasRecord) -> None:
        """A row was given tokens."""
        row.record.steps += 1
        self.steps += 1

    def learn(self, row: HasRecord, drafts: int, right: int, *, by_module: bool) -> None:
        """Of a row's drafts the first `right` were what was chosen."""
        record = row.record
        for acceptance in (
            record.module if by_module else record.lookup,
            self._regulators[by_module].acceptance,
        ):
            acceptance.add(drafts, right)
        for place in range(min(drafts, DEEPEST)):
            for counts in (record, self):
                counts.drafted[place] += 1
                counts.accepted[place] += place < right


def check_speculation(mode: object, draft_tokens: object, *, exact: bool) -> tuple[Speculate, int | None]:
    """Options of a kit that say how it speculates.

    Raises:
        OptionError: They are not what they may be, or the model has to be exact.
    """
    if mode not in get_args(Speculate):
        raise OptionError(f"speculate: expected one of {', '.join(get_args(Speculate))}, found {mode!r}")
    if exact and mode not in ("off", "auto"):
        raise OptionError(f"speculate: expected off where exact is asked for, found {mode!r}")
    most = None if draft_tokens is None else whole_number("draft_tokens", draft_tokens, 0, DEEPEST)
    found = "off" if exact else mode
    if found == "off" and most:
        raise OptionError(f"draft_tokens: expected where tokens are drafted, found {most} with speculate off or exact")
    return found, most  # type: ignore[return-value]
