"""The command line: arguments to ModelKit calls, output and exit codes."""

# The folder stands at the top of the repository and is part of the package through a link.
if __name__ != "mlx_qwen35.cli":
    raise ImportError(f"import mlx_qwen35.cli, not {__name__}")
