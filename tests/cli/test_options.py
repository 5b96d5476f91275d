"""Flags."""

import argparse

from mlx_qwen35.cli.completion import all_actions
from mlx_qwen35.cli.main import build_parser


def test_every_flag_that_takes_a_value_tells_its_default() -> None:
    parser = build_parser()
    formatter = parser._get_formatter()
    flags = [action for action in all_actions(parser) if action.option_strings and action.nargs != 0]
    assert len(flags) > 100
    silent = {
        action.option_strings[0]
        for action in flags
        if not action.required and "default" not in (formatter._get_help_string(action) or "")
    }
    assert silent == set()


def test_defaults_are_told_once() -> None:
    parser = build_parser()
    formatter = parser._get_formatter()
    for action in all_actions(parser):
        if not isinstance(action, argparse._HelpAction):
            assert (formatter._get_help_string(action) or "").count("default: ") <= 1, action.option_strings
