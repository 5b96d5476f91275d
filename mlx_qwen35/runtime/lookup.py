"""Drafts that stand in prompt and answer already: what followed the last few tokens where they stood before."""

from collections.abc import Sequence

# So many tokens have to be the same for a place to be looked at.
SHORTEST = 3
# Tokens further back than this are not compared.
_LONGEST = 32


class Lookup:
    """The tokens of one prompt and its answer, and where each three of them stood last.

    Args:
        tokens: Of the prompt.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._places: dict[tuple[int, ...], int] = {}
        # Before the newest occurrence of three tokens: what follows the newest itself is not known yet.
        self._earlier: dict[tuple[int, ...], int] = {}
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        """The answer's next token."""
        self._tokens.append(token)
        if len(self._tokens) >= SHORTEST:
            key = tuple(self._tokens[-SHORTEST:])
            if key in self._places:
                self._earlier[key] = self._places[key]
            self._places[key] = len(self._tokens)

    def find(self, most: int, matching: int = SHORTEST) -> list[int]:
        """The next tokens, as they stood where the last ones stood before; empty if nowhere.

        There are at most `most`, and about half as many as there are tokens that are the same: a short match is soon
        over, and one that has been going on for long goes on.

        Args:
            matching: How many of the last tokens have to be the same, at least.
        """
        tokens, end = self._tokens, len(self._tokens)
        place = self._earlier.get(tuple(tokens[-SHORTEST:]))
        if place is None or most < 1:
            return []
        same = SHORTEST
        while same < min(_LONGEST, place) and tokens[place - 1 - same] == tokens[end - 1 - same]:
            same += 1
        if same < matching:
            return []
        # Where the two overlap, what is found repeats itself.
        period = end - place
        return [tokens[place + number % period] for number in range(min(most, same // 2 + 1))]
