"""``python -m tools.demo [--images FOLDER] [--out build/demo] [--seconds N]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mlkit.errors import Cancelled, MlkitError

__all__ = ["main"]


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.demo",
        description="Tag pictures, serve the tagging pipeline, load-test it, and write a report.",
    )
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="your own pictures (default: the sample)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/demo"), help="where to write (%(default)s)"
    )
    parser.add_argument(
        "--seconds", type=_seconds, default=10.0, help="length of each load test (%(default)g)"
    )
    return parser.parse_args(words)


def _seconds(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 600:
        raise argparse.ArgumentTypeError("from 1 to 600 seconds")
    return value


def main(words: list[str] | None = None) -> int:
    """Tell the story; the exit status."""
    arguments = _arguments(words)
    from mlkit.tagging import tag
    from tools.demo.interrupts import Interrupts
    from tools.demo.pictures import in_folder, sample
    from tools.demo.story import Story

    try:
        own = arguments.images is not None
        pictures = in_folder(arguments.images) if own else sample()
        with Interrupts() as check:
            story = Story(
                tag, pictures, arguments.out, own=own, seconds=arguments.seconds, check=check
            )
            story.tell()
    except (KeyboardInterrupt, Cancelled):
        print("interrupted; everything that was started is ended", file=sys.stderr)
        return 130
    except MlkitError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
