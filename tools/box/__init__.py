"""The checkpoint in the box: its world, its training, and its report."""
