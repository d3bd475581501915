"""`python -m bench setup|teardown|all`: options in, tables or JSON out."""

import argparse
import json
import sys
from typing import List, Optional

try:
    import nsnet
    from bench import measure, scenarios
except ImportError as error:
    sys.exit(f"bench: {error}")

ROUNDS, WARM_UP = 60, 3
QUICK_ROUNDS, QUICK_WARM_UP = 10, 1


def main(argv: Optional[List[str]] = None) -> int:
    """Exit 0 if it was measured, 1 if this machine does not let it, 2 for bad usage, 130 when interrupted."""
    options = parser().parse_args(argv)
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    wanted = list(scenarios.SCENARIOS) if options.scenario == "all" else [options.scenario]
    try:
        machine = measure.machine()
        results = scenarios.run(wanted, rounds, QUICK_WARM_UP if options.quick else WARM_UP)
        if options.json:
            write_json(options.json, {"machine": machine, "nsnet": nsnet.__version__,
                                      "results": {name: result.as_json() for name, result in results.items()}})
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    except scenarios.FloorMissing as error:
        print(f"bench: the floor gave way while it was measured: {error}", file=sys.stderr)
        return 1
    except (nsnet.NsnetError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if options.json != "-":
        print(", ".join(f"{name}: {value}" for name, value in machine.items()))
        for result in results.values():
            print("\n" + measure.table(result))
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m bench", description="What network namespaces cost: nsnet beside the"
                                   " same work in straight-line C. Touches no network but its own; needs no privilege.")
    made.add_argument("scenario", choices=[*scenarios.SCENARIOS, "all"])
    made.add_argument("--rounds", type=positive, metavar="N", help=f"of each side, in turns ({ROUNDS})")
    made.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds: for a first look")
    made.add_argument("--json", metavar="FILE", help="write every round to FILE, too; - for standard output, alone")
    return made


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def write_json(path: str, content: dict) -> None:
    text = json.dumps(content, indent=1) + "\n"
    if path == "-":
        sys.stdout.write(text)
    else:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    sys.exit(main())
