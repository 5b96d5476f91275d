"""Questions that somebody else asks: an evaluation of the small checkpoint that shares nothing with its training.

Nothing here may be used for training: drawings, fonts and wordings were chosen without a look at the generator that
the checkpoint learns from. `python -m tools.judge --model PATH` asks and prints a table; see __main__ and README.md.
"""
