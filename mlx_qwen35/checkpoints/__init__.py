"""Checkpoints: configuration, files, names and layouts, building."""
