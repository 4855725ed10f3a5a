"""What was measured, as Markdown and charts. Medians; every figure stands beside what it is compared with."""

import datetime
import os
import platform
import subprocess

import calls
import chart
import measure
import peers
import world as worlds

HOW = """All ways work on the same data in the same PostgreSQL, in turn, {rounds} times; medians, each figure by itself. Before each run there is
a checkpoint, and everything is on the disk; the page cache is warm; autovacuum is off. A restore counts only when every table holds
what it held, by the number of its rows and the sums of two hashes of each.

*CPU s* is that of all processes of a pipe, or of the service and its client; *of PostgreSQL* that of all of its processes. *Peak MB*
is the largest resident size (VmHWM) of each of those processes, added up, without PostgreSQL and without the page cache. `gpg`
encrypts with AES-256, as Holdfast does. None of the others waits until its file is on the disk, or reads it back.

"""
CALLS = """For {seconds} s each, by `ghz` on the same machine, which takes its part of the processors. The files are whole backups of a
small platform.

"""
BESIDE = "`pgbench`, 200 reads and writes of a row a second, while one backup follows the other.\n"
GROWTH = """CPU is that of the service, its client and PostgreSQL together; the memory is the peak of the service alone. Restores are into
emptied tables.

"""
WRITTEN = "holdfast, file written"


def compare(out, facts, scale, seed, rounds, ways, answers, beside):
    groups = by_group(ways)
    parts = [head("Benchmark", f"make bench SCALE={scale:g} SEED={seed} ROUNDS={rounds}", "benchmark.svg", facts)]
    parts.append(HOW.format(rounds=rounds))
    parts += [contest(title, entries) for title, entries in groups.items()]
    if answers:
        figures = ["rate", "p50", "p99", "cpu_ms", "server_cpu_ms"]
        rows = [[what, f"{files:,}", *(seconds(one[name]) for name in figures), ""] for what, files, one in answers]
        named = ["call", "files", "calls/s", "p50 ms", "p99 ms", "CPU ms a call", "of PostgreSQL", ""]
        parts += ["## Calls\n\n", table(named, rows), CALLS.format(seconds=calls.SECONDS)]
    named = ["", "reads p50 ms", "p99 ms", "added", "writes p50 ms", "p99 ms", "added", ""]
    if beside:
        parts += ["## The platform beside a backup\n\n", table(named, list(beside_rows(beside))), BESIDE]
    write(out / "benchmark.md", "".join(parts))
    write(out / "benchmark.svg", chart.bars([(title, list(bars(entries))) for title, entries in groups.items()]))


def growth(out, facts, seed, rounds, sizes, tables, files, on_tables):
    largest = os.environ.get("LARGEST", "1GB")
    parts = [head("Growth", f"make bench-growth LARGEST={largest} SEED={seed} ROUNDS={rounds}", "growth.svg", facts), GROWTH]
    named = ["backup s", "CPU s", "peak MB", "restore s", "CPU s", "peak MB"]

    def cells(one):
        found = [one[kind] for kind in ["backup", "restore"] if kind in one]
        return [
            cell
            for cost in found
            for cell in [seconds(cost.wall), seconds(cost.cpu + cost.server_cpu), mega(cost.more["service"])]
        ]

    by_size = [
        [one["what"], mega(one["bytes"]), *cells(one), seconds(one["backup"].wall / one["bytes"] * 1e9), ""] for one in sizes
    ]
    parts += ["## By the size of the data\n\n", table(["data", "MB as copied", *named, "backup, s a GB", ""], by_size)]
    by_tables = [[one["what"], *cells(one), f"{one['backup'].wall / tables[0]['backup'].wall:.2f}", ""] for one in tables]
    parts += [
        f"## By the number of tables\n\n{on_tables.strip()}\n\n",
        table(["tables", *named, "backup, to one table", ""], by_tables),
    ]
    by_files = [[one["what"], seconds(one["start"]), seconds(one["get"]), *cells(one), ""] for one in files]
    parts += ["## By the number of files\n\nWhole backups of a small platform, all of them known.\n\n"]
    parts += [table(["files", "start s", "`holdfast show` s", *named[:3], ""], by_files)]
    write(out / "growth.md", "".join(parts))

    both = ["backup", "restore"]
    panels = [
        (
            "Size of the data",
            "s",
            [(one["what"], one["bytes"]) for one in sizes],
            {kind: [one[kind].wall for one in sizes] for kind in both},
        ),
        (
            "Tables",
            "s",
            [(one["what"], one["count"]) for one in tables],
            {kind: [one[kind].wall for one in tables] for kind in both},
        ),
        (
            "Files",
            "s",
            [(one["what"], one["count"]) for one in files],
            {"backup": [one["backup"].wall for one in files], "start": [one["start"] for one in files]},
        ),
    ]
    write(out / "growth.svg", chart.lines(panels))


def by_group(ways):
    """Holdfast first in each."""
    groups = {title: [] for title in [peers.BACKUP, peers.EMPTY, peers.CHANGED]}
    for way, costs in sorted(ways, key=lambda entry: entry[0].name != "holdfast"):
        groups[way.group].append((way, costs, measure.median(costs)))
    return groups


def contest(title, entries):
    ours, rows = entries[0][2], []
    for way, costs, one in entries:
        name = way.name if way.name.startswith("holdfast") else f"`{way.name}`"
        both = (one.cpu + one.server_cpu) / ((ours.cpu + ours.server_cpu) or 1)
        rest = [
            seconds(one.cpu),
            seconds(one.server_cpu),
            f"{both:.2f}",
            mega(one.memory),
            mega(one.size) if one.size else "",
            mega(one.wal),
        ]
        rows.append([name, *walls([cost.wall for cost in costs], one.wall, ours), *rest, way.note])
        if written := one.more.get("written"):
            note = "the same, when the file is as the others leave it: neither on the disk nor proven"
            rows.append([WRITTEN, *walls([cost.more["written"] for cost in costs], written, ours), *[""] * 6, note])
    named = ["", "s", "range", "to Holdfast", "CPU s", "of PostgreSQL", "both, to Holdfast", "peak MB", "file MB", "WAL MB", ""]
    return f"## {title}\n\n{table(named, rows)}The service alone had {mega(ours.more['service'])} MB at most.\n\n"


def walls(all_of_them, median, ours):
    return [seconds(median), f"{seconds(min(all_of_them))} to {seconds(max(all_of_them))}", f"{median / ours.wall:.2f}"]


def bars(entries):
    for way, _, one in entries:
        yield way.name, one.wall, way.name.startswith("holdfast")
        if written := one.more.get("written"):
            yield WRITTEN, written, True


def beside_rows(beside):
    for who, kinds in beside.items():
        row = [who]
        for kind, values in kinds.items():
            p99 = calls.percentile(values, 99)
            added = p99 - calls.percentile(beside["alone"][kind], 99)
            row += [f"{calls.percentile(values, 50):.2f}", f"{p99:.2f}", "" if who == "alone" else f"{added:+.2f}"]
        yield [*row, ""]


def machine(world):
    """What was measured on, and what."""
    with open("/proc/cpuinfo") as lines:
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    files = said("stat", "-f", "-c", "%T", str(world.dir))
    program = f"{said(str(world.holdfast), '--version')}, "
    if "BENCH_BINARY" in os.environ:
        program += "a program that was named"
    else:
        changed = said("git", "status", "--porcelain", "--", "src", "Cargo.lock")
        program += (
            f"release of {said('git', 'rev-parse', '--short', 'HEAD') or 'these sources'}{' with changes' if changed else ''}"
        )
    tools = [("gpg", "--version"), ("zstd", "--version"), (os.environ.get("PGBACKREST", "pgbackrest"), "version")]
    tools = [version.strip("* ") for version in (said(*tool) for tool in tools) if version]
    return [
        f"- {len(os.sched_getaffinity(0))} x {model}, {memory:.0f} GB of memory, {files}, Linux {platform.release()}",
        f"- {program}",
        f"- PostgreSQL {world.sql('show server_version')}, shared_buffers {world.sql('show shared_buffers')}; {'; '.join(tools)}",
        f"- {datetime.date.today().isoformat()}; {world.load:.1f} processes at work in the 15 minutes before",
    ]


def said(*command):
    """The first line that a program says; None where there is none."""
    try:
        made = subprocess.run(command, capture_output=True, text=True, env=worlds.clean_env(), cwd=worlds.ROOT, check=True)
        return made.stdout.strip().splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def head(title, command, image, facts):
    lines = [
        f"<!-- Written by `{command}`. Do not edit. -->",
        f"# {title}",
        f"![{title}]({image})",
        "\n".join(facts),
        f"    {command}",
    ]
    lines.append("Absolute times are those of one machine; ratios, taken in one run on the same data, are what lasts.")
    return "\n\n".join(lines) + "\n\n"


def table(named, rows):
    """Words on the left and at the end, figures between them."""
    lines = [named, ["---", *["---:"] * (len(named) - 2), "---"], *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in lines) + "\n"


def seconds(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def mega(value):
    return f"{value / 1e6:.1f}" if value < 10e6 else f"{value / 1e6:.0f}"


def write(path, text):
    path.write_text(text)
    print(f"{path} is written.")
