"""What was measured, as Markdown and charts. Medians; every figure stands beside what it is compared with."""

import datetime
import os
import pathlib
import platform
import subprocess

import calls
import chart
import measure
import world as worlds

HEAD = """<!-- Written by `{command}`. Do not edit. -->

# {title}

Absolute times are those of one machine; ratios, taken in one run on the same data, are what lasts.

"""


def said(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, env=worlds.clean_env(), cwd=worlds.ROOT, check=True).stdout.strip().splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def machine(world):
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    tools = [said(*command) for command in [("gpg", "--version"), ("zstd", "--version"), (os.environ.get("PGBACKREST", "pgbackrest"), "version")]]
    changed = "" if said("git", "status", "--porcelain", "--", "src", "Cargo.lock") is None else ", with changes"
    program = said(str(world.holdfast), "--version")
    if "BENCH_BINARY" in os.environ:
        program += ", another program than the release of these sources"
    else:
        program += f" ({said('git', 'rev-parse', '--short', 'HEAD') or 'sources without git'}{changed}), release"
    return [
        f"- {len(os.sched_getaffinity(0))} x {model}, {memory / 1e9:.0f} GB of memory, {said('stat', '-f', '-c', '%T', str(world.dir))}, Linux {platform.release()}",
        f"- {program}",
        f"- PostgreSQL {world.sql('show server_version')}; {'; '.join(filter(None, tools))}",
        f"- {datetime.date.today().isoformat()}",
    ]


def table(head, rows):
    lines = [head, ["---", *["---:"] * (len(head) - 2), "---"], *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in lines) + "\n"


def seconds(value):
    return "" if value is None else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def mega(value):
    return f"{value / 1e6:.1f}" if value < 10e6 else f"{value / 1e6:.0f}"


def by_group(ways):
    groups = {}
    for way, costs in ways:
        groups.setdefault(way.group, []).append((way, costs, measure.median(costs)))
    return groups


def contest(title, entries):
    ours = next(median for way, _, median in entries if way.name == "holdfast")
    rows = []
    for way, costs, one in sorted(entries, key=lambda entry: entry[0].name != "holdfast"):
        walls = [cost.wall for cost in costs]
        rows.append([way.name if way.name.startswith("holdfast") else f"`{way.name}`", seconds(one.wall), f"{seconds(min(walls))} to {seconds(max(walls))}",
                     f"{one.wall / ours.wall:.2f}", seconds(one.cpu), seconds(one.server_cpu), f"{(one.cpu + one.server_cpu) / (ours.cpu + ours.server_cpu):.2f}",
                     mega(one.memory), mega(one.size) if one.size else "", mega(one.wal), way.note])
    text = f"## {title}\n\n" + table(["", "s", "range", "to Holdfast", "CPU s", "of PostgreSQL", "both, to Holdfast", "peak MB", "file MB", "WAL MB", ""], rows)
    if ours.more.get("written"):
        text += f"The file was written {seconds(ours.more['written'])} s after the call; the rest of it proves what is on the disk.\n"
    return text + f"The service alone had {mega(ours.more['service'])} MB at most.\n\n"


def compare(out, facts, scale, seed, rounds, ways, answers, beside):
    command = f"make bench SCALE={scale:g} SEED={seed} ROUNDS={rounds}"
    groups = by_group(ways)
    text = HEAD.format(command=command, title="Benchmark") + "![Seconds of each](benchmark.svg)\n\n" + "\n".join(facts) + f"\n\n    {command}\n\n"
    text += f"""All ways work on the same data in the same PostgreSQL, in turn, {rounds} times; medians, each figure by itself. Before each run a checkpoint, and
everything on the disk; the page cache is warm; autovacuum is off. A restore counts only when every table holds what it held, by
the count and the sum of two hashes of all rows. *CPU s* is that of all processes of a pipe, or of the service and its client;
*of PostgreSQL* that of all of its processes. *Peak MB* is the largest resident size of each of those processes (VmHWM) added up, without PostgreSQL
and without the page cache. `gpg` encrypts with AES-256, as Holdfast does; none of the others waits until its file is on the disk, or reads it back.

"""
    text += "".join(contest(title, entries) for title, entries in groups.items())
    if answers:
        text += "## Calls\n\n" + table(["call", "files", "calls/s", "p50 ms", "p99 ms", "CPU ms a call", "of PostgreSQL", ""], [
            [what, f"{files:,}", f"{one['rate']:.0f}", f"{one['p50']:.2f}", f"{one['p99']:.2f}", f"{one['cpu_ms']:.2f}", f"{one['server_cpu_ms']:.2f}", ""]
            for what, files, one in answers])
        text += f"For {calls.SECONDS} s each, by `ghz` on the same machine, which takes its part of the processors. The files are whole backups of a small platform.\n\n"
    text += "## The platform beside a backup\n\n" + table(["", "reads p50 ms", "p99 ms", "added", "writes p50 ms", "p99 ms", "added", ""], beside_rows(beside))
    text += "`pgbench`, 200 single-row reads and writes a second by primary key, while one backup follows the other.\n"
    (out / "benchmark.md").write_text(text)
    shown = [(title, [(way.name, one.wall, way.name.startswith("holdfast")) for way, _, one in entries]) for title, entries in groups.items()]
    (out / "benchmark.svg").write_text(chart.bars(shown))
    print(f"{out / 'benchmark.md'} and benchmark.svg are written.")


def beside_rows(beside):
    rows = []
    for who, kinds in beside.items():
        row = [who]
        for kind, values in kinds.items():
            p99 = calls.percentile(values, 99)
            row += [f"{calls.percentile(values, 50):.2f}", f"{p99:.2f}", f"{p99 - calls.percentile(beside['alone'][kind], 99):+.2f}"]
        rows.append([*row, ""])
    return rows


def growth(out, facts, seed, rounds, sizes, tables, files, rows):
    command = f"make bench-growth LARGEST={os.environ.get('LARGEST', '1GB')} SEED={seed} ROUNDS={rounds}"
    text = HEAD.format(command=command, title="Growth") + "![Seconds over size](growth.svg)\n\n" + "\n".join(facts) + f"\n\n    {command}\n\n"
    text += "CPU is that of the service, its client and PostgreSQL together; the memory is the peak of the service. Restores are into emptied tables.\n\n"
    head = ["", "backup s", "CPU s", "peak MB", "restore s", "CPU s", "peak MB"]
    text += "## By the size of the data\n\n" + table([*head[:1], "MB as copied", *head[1:], "backup s a GB", ""], [
        [one["what"], mega(one["bytes"]), *cells(one), seconds(one["backup"].wall / one["bytes"] * 1e9), ""] for one in sizes])
    text += f"## By the number of tables\n\n{rows:,} rows in all.\n\n" + table([*head, "backup, to one table", ""], [
        [one["what"], *cells(one), f"{one['backup'].wall / tables[0]['backup'].wall:.2f}", ""] for one in tables])
    text += "## By the number of files\n\nWhole backups of a small platform, all of them known.\n\n" + table(
        ["", "start s", "GetBackup s, with its client", "backup s", "CPU s", "peak MB", ""], [
            [one["what"], seconds(one["start"]), seconds(one["get"]), *cells(one), ""] for one in files])
    (out / "growth.md").write_text(text)
    two = [("backup", "backup"), ("restore", "restore")]
    (out / "growth.svg").write_text(chart.lines([
        ("Size of the data", "s", [(one["what"], one["bytes"]) for one in sizes], {name: [one[key].wall for one in sizes] for name, key in two}),
        ("Tables", "s", [(one["what"].split()[0], int(one["what"].split()[0])) for one in tables], {name: [one[key].wall for one in tables] for name, key in two}),
        ("Files", "s", [(f"{one['files']}", one["files"]) for one in files], {"backup": [one["backup"].wall for one in files], "start": [one["start"] for one in files]}),
    ]))
    print(f"{out / 'growth.md'} and growth.svg are written.")


def cells(one):
    row = []
    for kind in ["backup", "restore"]:
        if cost := one.get(kind):
            row += [seconds(cost.wall), seconds(cost.cpu + cost.server_cpu), mega(cost.more["service"])]
    return row
