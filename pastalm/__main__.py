"""The command `pasta`, and `python -m pastalm`: Ctrl-C ends it quietly, also while it is still starting."""

import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line."""
    try:
        from pastalm.cli import app

        app(prog_name="pasta")
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
