"""Benchmarks of Holdfast against what people use instead. `make bench`, `make bench-growth`, `make bench-memory`.

    python3 -B tests/bench compare|growth|memory

SCALE, SEED     size and contents of the data; 1 is 1.4 GB as text
ROUNDS          how often each way is run; medians are reported
TABLES          compare: small tables besides, 300
FILES, SECONDS  compare: files in the list, 10000, and how long each load lasts, 20
LARGEST, MOST   growth: the largest data, 1GB, and the most tables and files, 10000
LIMIT_MIB       memory: the limit, 192
BENCH_BINARY    another program than the release of these sources
BENCH_OUT       folder for the report, docs unless given
"""

import os
import pathlib
import signal
import sys

import calls
import data
import growth
import measure
import memory
import peers
import report
import world as worlds

SCALE = float(os.environ.get("SCALE", 1))
SEED = int(os.environ.get("SEED", 1))
TABLES = int(os.environ.get("TABLES", 300))
ROUNDS = int(os.environ.get("ROUNDS", 3))


def say(text):
    print(text, flush=True)


def compare():
    # The platform twice, its files, what a restore writes ahead.
    with worlds.World(int(SCALE * 12 * data.BYTES) + (2 << 30)) as world:
        say(f"==> Making the data, scale {SCALE:g}")
        catalog = data.fill(world, "platform", SCALE, SEED, TABLES)
        service = worlds.Service(world, "platform", catalog)
        contest = peers.Contest(world, service)
        say("==> Backups")
        ways = peers.rounds(world, contest.backups(), ROUNDS, say)
        facts = [*report.machine(world), data.described(service, SCALE, SEED, TABLES)]
        say("==> Restores")
        ways += peers.rounds(world, contest.restores(), ROUNDS, say)
        say("==> Calls, and the platform beside a backup")
        answers = or_nothing(lambda: calls.service_figures(world, say))
        beside = or_nothing(lambda: calls.beside(service, contest, ROUNDS, say))
    report.compare(out(), facts, SCALE, SEED, ROUNDS, ways, answers, beside)


def or_nothing(figures):
    """What fails here has its part left out of the report, after so many runs."""
    try:
        return figures()
    except measure.Failed as error:
        say(f"LEFT OUT: {error}")
        return None


def out():
    folder = pathlib.Path(os.environ.get("BENCH_OUT", worlds.ROOT / "docs"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main():
    commands = {"compare": compare, "growth": lambda: growth.run(out(), SEED, ROUNDS, say), "memory": lambda: memory.run(say)}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        print(__doc__, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    try:
        commands[sys.argv[1]]()
    except measure.Failed as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
