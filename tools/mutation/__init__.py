"""How much of the code in plain Python the tests see, by mutmut's mutants: `python -m tools.mutation`."""
