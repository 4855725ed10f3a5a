"""Whether the service lives within a limit of memory: a backup, verify, restore, download and upload with rows of 20 MB."""

import os
import pathlib
import tempfile

import data
import measure
import world as worlds

LIMIT = int(os.environ.get("LIMIT_MIB", 192)) << 20
ROW = int(os.environ.get("ROW_MB", 20)) * 1_000_000
ROWS = int(os.environ.get("ROWS", 12))
"""In each of two tables: bytes, and text."""


class Group:
    """A control group with a limit of memory and without swap, below that of this process or beside it; of version 2 where the kernel
    has it, else of version 1. It is removed at the end."""

    def __init__(self, path, version):
        self.version = version
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir=path))
        limits = {"memory.max": LIMIT, "memory.swap.max": 0}
        if version == 1:
            limits = {"memory.limit_in_bytes": LIMIT, "memory.memsw.limit_in_bytes": LIMIT}
        try:
            for name, value in limits.items():
                # A kernel without swap accounting has no file for it.
                if name in ("memory.max", "memory.limit_in_bytes") or (self.path / name).exists():
                    (self.path / name).write_text(str(value))
        except OSError:
            self.path.rmdir()
            raise

    def join(self):
        (self.path / "cgroup.procs").write_text("0")

    def killed(self):
        events = (self.path / ("memory.events" if self.version == 2 else "memory.oom_control")).read_text().split()
        return int(events[events.index("oom_kill") + 1])

    def close(self):
        self.path.rmdir()


def group():
    """Where this process may make one. None: nowhere."""
    own = {}
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers] = path.lstrip("/")
    mounts = [line.split()[1:3] for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    tries = []
    for at, kind in mounts:
        if kind == "cgroup2" and "" in own:
            # The nearest that gives its children limits of memory. One with processes of its own cannot.
            here = pathlib.Path(at) / own[""]
            places = [place for place in [here, *here.parents] if place.is_relative_to(at)]
            tries += [(place, 2) for place in places if "memory" in _words(place / "cgroup.subtree_control")]
        if kind == "cgroup" and at.endswith("/memory") and "memory" in own:
            tries.append((pathlib.Path(at) / own["memory"], 1))
    for place, version in tries:
        try:
            return Group(place, version)
        except OSError:
            continue
    return None


def _words(path):
    try:
        return path.read_text().split()
    except OSError:
        return []


def run(say):
    limit = group()
    if limit is None:
        say("The kernel does not let this user limit memory (as root it would), so the peak is only looked at.")
    try:
        with worlds.World(ROW * ROWS * 12 + (2 << 30)) as world:
            _run(world, limit, say)
    finally:
        if limit:
            limit.close()


def _run(world, limit, say):
    say(f"==> Making {2 * ROWS} rows of {ROW / 1e6:g} MB")
    catalog = data.wide_rows(world, "platform", ROWS, ROW)
    wanted = data.digest(world, "platform")
    service = worlds.Service(world, "platform", catalog, join=limit and limit.join)
    saved = world.dir / "saved"
    saved.mkdir()

    def step(what, prepare, *command):
        prepare()
        service.start()
        try:
            cost = service.cost(*command)
        except measure.Failed as error:
            if service.process.poll() is not None or (limit and limit.killed()):
                raise measure.Failed(f"{what}: the service was KILLED within {LIMIT >> 20} MiB") from error
            raise
        if limit and limit.killed():
            raise measure.Failed(f"{what}: something was KILLED within {LIMIT >> 20} MiB")
        if cost.more["service"] > LIMIT:
            raise measure.Failed(f"{what}: the service had {cost.more['service'] >> 20} MiB resident, the limit is {LIMIT >> 20}")
        say(f"{what:<28} {cost.wall:7.1f} s  {cost.more['service'] >> 20:5} MiB")

    def damage():
        world.sql(
            "update bench.letter set content = reverse(content) where id % 2 = 1; delete from bench.picture where id % 3 = 1",
            "platform",
        )

    def nothing():
        pass

    opened = ["--passphrase-file", world.passphrase_file]
    step("backup", nothing, "backup")
    name = service.latest()["name"]
    step("verify --level contents", nothing, "verify", name, "--level", "contents", *opened)
    step("verify --level rehearsal", nothing, "verify", name, "--level", "rehearsal", *opened)
    step("restore, rows changed", damage, "restore", name, "--yes", *opened)
    data.expect(world, "platform", wanted, "holdfast, rows changed")
    step("restore, empty", lambda: data.empty(world, "platform"), "restore", name, "--yes", "--skip-safety-backup", *opened)
    data.expect(world, "platform", wanted, "holdfast, empty")
    step("download", nothing, "download", name, "-o", saved)
    file = next(saved.iterdir())
    step("upload", lambda: service.command("delete", name, "--yes"), "upload", file)
    service.stop()
    say(f"Nothing was killed within {LIMIT >> 20} MiB{'' if limit else ', as far as its peak tells'}.")
