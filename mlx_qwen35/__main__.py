"""`python -m mlx_qwen35`: the command line."""

import sys

from mlx_qwen35.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
