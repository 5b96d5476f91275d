"""What the runtime costs, beside mlx-lm and mlx-vlm doing the same work."""
