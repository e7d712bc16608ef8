"""The command line, one command a file. Heavy imports wait inside the commands: `pasta --help` answers at once."""

from pastalm.cli.main import app

__all__ = ["app"]
