"""Input that nobody means well with: bodies, pictures, session files and checkpoints."""
