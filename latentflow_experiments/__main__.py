"""The command ``latentflow``, also as ``python -m latentflow_experiments``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line of the experiments, or say how to install what it needs."""
    try:
        from latentflow_experiments.cli import main as run  # noqa: PLC0415 - the extras may be missing
    except ModuleNotFoundError as error:
        print(
            f"latentflow: error: the command needs {error.name}, which is not installed: "
            'pip install "latentflow-torch[experiments]"',
            file=sys.stderr,
        )
        return 1
    return run()


if __name__ == "__main__":
    sys.exit(main())
