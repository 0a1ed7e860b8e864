"""Print what becomes of every type of the zoo on every way; ``make zoo``."""

import argparse
import asyncio
import sys
import warnings

from tests.zoo.catalog import ENTRIES
from tests.zoo.ways import WAYS, Entry, visit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="types, by default all")
    parser.add_argument("--examples", type=int, default=20, help="values drawn for a type")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    entries = [e for e in ENTRIES if not options.names or e.name in options.names]
    width = max(len(entry.name) for entry in entries)
    print(f"{'type':{width}}", *(f"{way:18}" for way in WAYS))
    loop = asyncio.new_event_loop()
    diagnoses = [line for entry in entries for line in row(entry, loop, options.examples, width)]
    print(f"\n{len(entries)} types, {len(WAYS)} ways: {len(diagnoses)} other outcomes")
    print(*diagnoses, sep="\n")
    return 1 if diagnoses else 0


def row(entry: Entry, loop: asyncio.AbstractEventLoop, examples: int, width: int) -> list[str]:
    """Print the row of a type; return what is wrong."""
    outcome = visit(entry, loop, examples)
    print(f"{entry.name:{width}}", *(f"{outcome.words[way]:18}" for way in WAYS), flush=True)
    return [f"{entry.name}: {line}" for line in outcome.wrong]


if __name__ == "__main__":
    sys.exit(main())
