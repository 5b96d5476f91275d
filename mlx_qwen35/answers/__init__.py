"""From logits to answers: sampling, grammars, text, tool calls."""
