"""mlx-lm's Qwen3.5 classes with media, and how to put them in mlx-lm's place."""

# The folder stands at the top of the repository and is part of the package through a link.
# Imported under its short name, every class in it would exist twice.
if __name__ != "mlx_qwen35.patches":
    raise ImportError(f"import mlx_qwen35.patches, not {__name__}")
