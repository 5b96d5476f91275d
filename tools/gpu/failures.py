"""A plugin for pytest (`-p tools.gpu.failures`): why a test failed, as soon as it has.

pytest itself says so at its end, which a run that is cut off does not reach.
"""

import pytest


class Failures:
    """Writes each report of a failure behind its test's line."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The traceback, in the form that --tb asks for."""
        if report.failed:
            self._terminal.ensure_newline()
            self._terminal.write_line(report.longreprtext)
            self._terminal.flush()


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Begin, if there is a terminal to write to; that is made in this hook too."""
    terminal = config.pluginmanager.getplugin("terminalreporter")
    if terminal is not None:
        config.pluginmanager.register(Failures(terminal))
