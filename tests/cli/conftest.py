"""The commands run as children of the tests."""

import signal

# A background shell starts its jobs with Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
