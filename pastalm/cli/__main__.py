"""`python -m pastalm.cli`: the command for launchers that start modules, such as `accelerate launch -m`."""

from pastalm.cli import app

if __name__ == "__main__":
    app()
