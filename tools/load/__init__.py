"""A load on a server, with every answer held against a reference: `python -m tools.load`."""
