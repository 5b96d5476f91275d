"""From messages, text and images to token ids, pixels and positions."""
