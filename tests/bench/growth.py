"""How time, CPU and memory grow: with the data, the number of tables, and the number of files."""

import os
import re
import shutil
import time

import calls
import data
import measure
import report
import world as worlds

UNITS = {"MB": 10**6, "GB": 10**9}
ROWS = int(os.environ.get("ROWS", 100_000))
MOST = int(os.environ.get("MOST", 10_000))
"""Tables, and files."""


def largest():
    text = os.environ.get("LARGEST", "1GB")
    found = re.fullmatch(r"(\d+)(MB|GB)", text)
    if not found:
        raise SystemExit(f"bench: LARGEST={text!r} is not such as 1GB or 500MB")
    return int(found[1]) * UNITS[found[2]]


def powers(first, last):
    while first <= last:
        yield first
        first *= 10


def run(out, seed, rounds, say):
    # As many locks as there are tables and indexes are held at a time.
    with worlds.World(6 * largest() + (3 << 30), max_locks_per_transaction="1024") as world:
        say("==> By the size of the data")
        sizes = []
        for size in powers(10 * 10**6, largest()):
            catalog = data.fill(world, "platform", size / data.BYTES, seed, tables=10)
            sizes.append(both(world, f"{size // 10**6} MB", size, catalog, rounds, say))
        say(f"==> By the number of tables, with {ROWS} rows in all")
        tables, refusal = [], ""
        for count in powers(1, MOST):
            catalog = data.many_tables(world, "platform", count, ROWS)
            try:
                tables.append(both(world, f"{count:,}", count, catalog, rounds, say))
            except measure.Failed as error:
                # That so many tables are too many is a result, too.
                refusal = f"{count:,} tables: {error}"
                say(refusal)
                break
        say("==> By the number of files")
        files = by_files(world, rounds, say)
        facts = report.machine(world)
    report.growth(out, facts, seed, rounds, sizes, tables, files, f"{ROWS:,} rows in all. {refusal}")


def both(world, what, count, catalog, rounds, say):
    """Backups of a platform, and restores of it into its emptied tables."""
    backups, restores = [], []
    service = worlds.Service(world, "platform", catalog)
    for _ in range(rounds):
        service.start()
        backups.append(measure.measured(world, service.backup))
    size = sum(int(part["sizeBytes"]) for part in service.latest()["resources"])
    wanted = data.digest(world, "platform")
    for _ in range(rounds):
        data.empty(world, "platform")
        service.start()
        restores.append(measure.measured(world, lambda: service.restore("--skip-safety-backup")))
        data.expect(world, "platform", wanted, "holdfast")
    service.stop()
    shutil.rmtree(service.folder)
    found = {"what": what, "count": count, "bytes": size}
    found |= {"backup": measure.median(backups), "restore": measure.median(restores)}
    for kind in ["backup", "restore"]:
        say(f"{what:<14} {kind:<8} {found[kind]}")
    return found


def by_files(world, rounds, say):
    """A small platform, whose folder has more and more files: the start, one call, one backup."""
    service = calls.small_service(world, "files")
    rows, planted, name = [], 1, service.latest()["name"]
    for files in powers(1, MOST):
        if files > planted:
            calls.plant(service, planted, files - 1)
            planted = files
            service.start()
        calls.known(service, files)
        backups = []
        for _ in range(rounds):
            service.start()
            backups.append(measure.measured(world, service.backup))
        service.stop()
        started = time.monotonic()
        service.start()
        start = time.monotonic() - started
        get = measure.measured(world, lambda: service.cost("show", name))
        found = {"what": f"{files:,}", "count": files, "backup": measure.median(backups), "start": start, "get": get.wall}
        rows.append(found)
        say(f"{files:>6} files  start {start:6.2f} s  show {get.wall:6.3f} s  backup {found['backup']}")
    service.stop()
    return rows
