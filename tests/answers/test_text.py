"""Tokens to text: reasoning, stop strings, characters cut in two."""

from typing import Any, cast

import pytest

from mlx_qwen35.answers.text import MAX_STOPS, AnswerText, Piece, check_stop
from mlx_qwen35.errors import OptionError
from mlx_qwen35.prompts.tokenizer import Tokenizer
from tests.tiny import IDS, VOCAB_SIZE, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    return Tokenizer(directory)


def run(
    tokenizer: Tokenizer, text: str, *, in_reasoning: bool = False, stop: tuple[str, ...] = ()
) -> tuple[str, str, bool, list[str]]:
    """Answer, reasoning, whether it stopped, and the pieces of the answer."""
    answer = AnswerText(tokenizer, in_reasoning=in_reasoning, stop=stop)
    out, reasoning, pieces = "", "", []
    for token in tokenizer.encode(text):
        piece = answer.add(token)
        out, reasoning = out + piece.text, reasoning + piece.reasoning
        pieces.append(piece.text)
        if piece.stopped:
            return out, reasoning, True, pieces
    last = answer.close()
    return out + last.text, reasoning + last.reasoning, last.stopped, [*pieces, last.text]


class Pieces:
    """In a tokenizer's place: each token is a piece of text or a marker, whatever a vocabulary may hold."""

    eos_token_ids = frozenset({"<|im_end|>"})

    def detokenizer(self) -> "Pieces":
        return self

    def control_id(self, name: str) -> str:
        return name

    def add(self, token: str) -> str:
        return token

    def flush(self) -> str:
        return ""

    pending = False


def run_pieces(pieces: list[str], **options: Any) -> tuple[str, str]:
    """Answer and reasoning."""
    answer = AnswerText(cast(Tokenizer, Pieces()), **options)
    total = Piece()
    for piece in pieces:
        total += answer.add(cast(int, piece))
        if total.stopped:
            return total.text, total.reasoning
    total += answer.close()
    return total.text, total.reasoning


@pytest.mark.parametrize(
    "pieces",
    [
        ["\n\n X-ray \n", "or X", "\n\n", "</think>", "\n\n", " X "],
        ["\n", "\n X-ray", " \nor X\n\n", "</think>", "\n\n X "],
        ["<think>", "\n", "\n X-ray \nor ", "X", "\n", "\n", "</think>", "\n", "\n X ", "<|im_end|>"],
    ],
)
def test_only_newlines_around_the_reasoning_belong_to_neither_side(pieces: list[str]) -> None:
    in_reasoning = pieces[0] != "<think>"
    assert run_pieces(pieces, in_reasoning=in_reasoning) == (" X ", " X-ray \nor X")


@pytest.mark.parametrize(
    "pieces",
    [["a fox ## b ## c"], ["a fox #", "#"], ["a", " fox ", "#", "# b"], ["a fo", "x #", "##"], ["a fox ", "# ", "##"]],
)
def test_a_stop_string_is_found_wherever_tokens_cut_it(pieces: list[str]) -> None:
    """At its first place, and after a beginning that went on otherwise."""
    assert run_pieces(pieces, stop=("##",))[0] == ("a fox # " if "# " in pieces else "a fox ")


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    answer = AnswerText(cast(Tokenizer, Pieces()), stop=("abc", "#"))
    pieces = [(answer.add(cast(int, piece)).text, answer.held) for piece in ["xab", "ab", "x", "bc", "a", "b"]]
    assert pieces == [("x", 2), ("ab", 2), ("abx", 0), ("bc", 0), ("", 1), ("", 2)]
    assert answer.close().text == "ab"


def test_plain_text_comes_out_as_it_went_in(tokenizer: Tokenizer) -> None:
    text = "  hello 漢字 é 🦊\n\n there "
    assert run(tokenizer, text)[:3] == (text, "", False)


def test_reasoning_is_separated_when_the_prompt_opened_it(tokenizer: Tokenizer) -> None:
    text = "let me see\nand think\n</think>\n\nthe answer\n"
    assert run(tokenizer, text, in_reasoning=True)[:2] == ("the answer\n", "let me see\nand think")


def test_reasoning_is_separated_when_the_model_opens_it(tokenizer: Tokenizer) -> None:
    assert run(tokenizer, "<think>\nsee\n</think>\n\nyes")[:2] == ("yes", "see")


@pytest.mark.parametrize("opening", ["", "<think>"])
def test_newlines_inside_reasoning_and_answer_are_kept(tokenizer: Tokenizer, opening: str) -> None:
    text = f"{opening}\n\n  see \n \n and \n\n</think>\n\n  yes \n"
    assert run(tokenizer, text, in_reasoning=not opening)[:2] == ("  yes \n", "  see \n \n and ")


@pytest.mark.parametrize("space", ["\n", "\n\n", " ", " \n "])
def test_reasoning_may_begin_after_white_space(tokenizer: Tokenizer, space: str) -> None:
    assert run(tokenizer, f"{space}<think>\nsee\n</think>\n\nyes")[:2] == (f"{space}yes", "see")


def test_the_end_of_reasoning_is_text_where_there_is_none(tokenizer: Tokenizer) -> None:
    assert run(tokenizer, "yes </think> no")[:2] == ("yes </think> no", "")
    assert run(tokenizer, "see</think>yes </think> no", in_reasoning=True)[:2] == ("yes </think> no", "see")


def test_a_marker_after_held_text_is_text(tokenizer: Tokenizer) -> None:
    """What may begin a stop string has begun the answer, although nobody saw it yet."""
    assert run(tokenizer, "#<think> no", stop=("##",))[:2] == ("#<think> no", "")
    assert run(tokenizer, " <think>see</think>no", stop=(" ##",))[:2] == (" no", "see")


def test_markers_spelled_as_text_are_text(tokenizer: Tokenizer) -> None:
    answer = AnswerText(tokenizer)
    ids = tokenizer.encode_text("a <think> b </think> c")
    assert IDS["<think>"] not in ids
    assert "".join(answer.add(token).text for token in ids) + answer.close().text == "a <think> b </think> c"


def test_a_late_marker_does_not_swallow_the_answer(tokenizer: Tokenizer) -> None:
    assert run(tokenizer, "yes <think> no")[:2] == ("yes <think> no", "")


def test_unclosed_reasoning_is_reasoning(tokenizer: Tokenizer) -> None:
    assert run(tokenizer, "still thinking", in_reasoning=True)[:2] == ("", "still thinking")


@pytest.mark.parametrize("eos", ["<|im_end|>", "<|endoftext|>"])
def test_both_end_tokens_stop(tokenizer: Tokenizer, eos: str) -> None:
    assert run(tokenizer, f"done{eos}more")[:3] == ("done", "", True)


@pytest.mark.parametrize("stop", ["###", "x#", " the other"])
def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(tokenizer: Tokenizer, stop: str) -> None:
    text = f"one fox{stop} dog"
    out, _, stopped, pieces = run(tokenizer, text, stop=("never", stop))
    assert (out, stopped) == ("one fox", True)
    assert "".join(pieces) == "one fox"


def test_a_stop_string_is_found_however_its_tokens_are_cut(tokenizer: Tokenizer) -> None:
    """Character by character, where all but the last one is held; and no more than that."""
    answer = AnswerText(tokenizer, stop=("#+#", "fox jumps"))
    pieces = [answer.add(token) for letter in "a #+fox jumps" for token in tokenizer.encode(letter)]
    assert [piece.text for piece in pieces] == ["a", " ", "", "", "#+", *[""] * 8]
    assert [piece.stop_string for piece in pieces] == [None] * 12 + ["fox jumps"]
    answer = AnswerText(tokenizer, stop=("#+#",))
    pieces = [answer.add(token) for letter in "##++#+#" for token in tokenizer.encode(letter)]
    assert [piece.text for piece in pieces] == ["", "#", "", "#++", "", "", ""]
    assert pieces[-1].stopped


def test_text_that_only_began_like_a_stop_string_is_given_back(tokenizer: Tokenizer) -> None:
    """The case that loses text elsewhere: max_tokens cuts the answer in a possible stop string."""
    assert run(tokenizer, "end ##", stop=("###",))[:3] == ("end ##", "", False)
    assert run(tokenizer, "end ## and more", stop=("###",))[:3] == ("end ## and more", "", False)


@pytest.mark.parametrize("order", [("h", "t"), ("t", "h")])
def test_the_earliest_stop_string_wins(tokenizer: Tokenizer, order: tuple[str, str]) -> None:
    """Of two that one token completes, the one that comes first in the text, whatever their order in the request."""
    (token,) = tokenizer.encode(" the")
    piece = AnswerText(tokenizer, stop=order).add(token)
    assert piece == Piece(text=" ", stopped=True, stop_string="t")
    assert run(tokenizer, "a dog and a fox", stop=("fox", "dog"))[0] == "a "


def test_a_stop_string_counts_behind_the_least_length_alone(tokenizer: Tokenizer) -> None:
    """As vLLM has it: not one that ends, nor one that begins, within the first tokens."""
    for least, expected in [(0, "a"), (4, "ab a"), (5, "ab ab a"), (8, "ab ab ab")]:
        answer = AnswerText(tokenizer, stop=("b",), min_tokens=least)
        text = ""
        for letter in "ab ab ab":
            (token,) = tokenizer.encode(letter)
            piece = answer.add(token)
            text += piece.text
            if piece.stopped:
                break
        assert text == expected
    answer = AnswerText(tokenizer, stop=("bc",), min_tokens=2)
    assert [answer.add(tokenizer.encode(letter)[0]).text for letter in "abcbd"] == ["a", "b", "c", "", "bd"]


def test_stop_strings_do_not_cut_reasoning(tokenizer: Tokenizer) -> None:
    out = run(tokenizer, "a dog</think>\n\nthe fox and the dog", in_reasoning=True, stop=("dog",))
    assert out[:3] == ("the fox and the ", "a dog", True)


def test_ids_that_the_tokenizer_does_not_know_give_nothing(tokenizer: Tokenizer) -> None:
    answer = AnswerText(tokenizer)
    ids = [*tokenizer.encode("a"), VOCAB_SIZE - 1, *tokenizer.encode(" fox")]
    assert "".join(answer.add(token).text for token in ids) + answer.close().text == "a fox"


@pytest.mark.parametrize("end", ["", "<|im_end|>", "<|endoftext|>"])
@pytest.mark.parametrize("in_reasoning", [False, True])
def test_a_character_cut_in_two_becomes_the_replacement_character(
    tokenizer: Tokenizer, end: str, in_reasoning: bool
) -> None:
    """Whether the answer ends by an end token or without one."""
    answer = AnswerText(tokenizer, in_reasoning=in_reasoning)
    ids = tokenizer.encode("漢")
    assert len(ids) > 1
    assert [answer.add(token) for token in ids[:-1]] == [Piece()] * (len(ids) - 1)
    last = answer.add(IDS[end]) if end else answer.close()
    assert (last.reasoning if in_reasoning else last.text) == "\ufffd"
    assert last.stopped == bool(end)


def test_a_character_cut_by_the_end_of_the_reasoning_is_reasoning(tokenizer: Tokenizer) -> None:
    answer = AnswerText(tokenizer, in_reasoning=True)
    first, *rest = tokenizer.encode("漢")
    assert answer.add(first) == Piece()
    assert answer.add(IDS["</think>"]) == Piece(reasoning="\ufffd")
    pieces = [answer.add(token) for token in rest]
    assert "".join(piece.text for piece in [*pieces, answer.close()]) == "\ufffd" * len(rest)


def test_a_cut_character_before_a_marker_is_text(tokenizer: Tokenizer) -> None:
    """So the answer has begun, and the marker is text too."""
    ids = [tokenizer.encode("漢")[0], IDS["<think>"], *tokenizer.encode("fox")]
    answer = AnswerText(tokenizer)
    pieces = [*map(answer.add, ids), answer.close()]
    assert "".join(piece.text for piece in pieces) == "\ufffd<think>fox"
    assert not any(piece.reasoning for piece in pieces)


@pytest.mark.parametrize("stop", ["", [""], [7], ("a", ""), 5, {"a": 1}])
def test_bad_stop_strings_are_refused(stop: Any) -> None:
    with pytest.raises(OptionError, match="stop: expected strings of at least one character"):
        check_stop(stop)


def test_stop_strings_are_no_more_than_can_be_looked_for_behind_every_token() -> None:
    many = [str(number) for number in range(MAX_STOPS + 1)]
    assert len(check_stop(many[1:])) == MAX_STOPS
    with pytest.raises(OptionError, match="stop: expected at most 256 strings, found 257"):
        check_stop(many)


def test_stop_strings_come_alone_or_in_lists() -> None:
    assert check_stop(None) == ()
    assert check_stop("a") == ("a",)
    assert check_stop(["a", "b"]) == ("a", "b")


def test_bytes_that_never_become_a_character_do_not_hold_the_text_back(tokenizer: Tokenizer) -> None:
    """A model with padded or broken output still streams: each is known to be none when the next one comes."""
    lone = tokenizer.encode("漢")[0]
    answer = AnswerText(tokenizer)
    pieces = [answer.add(lone).text for _ in range(40)]
    assert pieces == ["", *["\ufffd"] * 39]
    assert answer.close().text == "\ufffd"


def test_the_stop_string_is_named(tokenizer: Tokenizer) -> None:
    """The one that ended the answer, by the piece that it ended with; none where an end token did."""
    text = AnswerText(tokenizer, stop=("three", "two"))
    pieces = []
    for token in tokenizer.encode("one two three"):
        pieces.append(text.add(token))
        if pieces[-1].stopped:
            break
    assert [piece.stop_string for piece in pieces] == [None] * (len(pieces) - 1) + ["two"]
    assert "".join(piece.text for piece in pieces) == "one "
    assert AnswerText(tokenizer, stop=("two",)).add(IDS["<|im_end|>"]) == Piece(stopped=True)


def test_a_stop_string_that_only_the_end_completes_is_found(tokenizer: Tokenizer) -> None:
    """U+FFFD, which bytes become at the end."""
    answer = AnswerText(tokenizer, stop=("\ufffd",))
    assert answer.add(tokenizer.encode("漢")[0]) == Piece()
    assert answer.close() == Piece(stopped=True, stop_string="\ufffd")
