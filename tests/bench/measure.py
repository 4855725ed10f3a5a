"""What something costs: wall time, CPU seconds, peak memory, WAL. No cgroup is needed, so it is the same for everybody."""

import os
import pathlib
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass, field, fields

TICK = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 0.05


class Failed(Exception):
    """Something that is measured did not do what it was asked for. A figure of it would be worth nothing."""


@dataclass
class Cost:
    wall: float = 0.0
    cpu: float = 0.0
    """Of the program and what it started: a pipe's processes, or the service and its client."""
    server_cpu: float = 0.0
    """Of PostgreSQL, all of its processes."""
    memory: int = 0
    """The most that each process had resident (VmHWM), added up, in bytes. The page cache is not in it."""
    wal: int = 0
    size: int = 0
    """Of the file that was made, or 0."""
    more: dict = field(default_factory=dict)

    def __str__(self):
        return f"{self.wall:8.2f} s  {self.cpu:7.2f} + {self.server_cpu:6.2f} s CPU  {self.memory / 1e6:6.0f} MB"


FIGURES = [each.name for each in fields(Cost) if each.name != "more"]


def median(costs):
    """Each figure is the median of its own."""
    figures = {name: statistics.median(getattr(cost, name) for cost in costs) for name in FIGURES}
    return Cost(**figures, more={name: statistics.median(cost.more[name] for cost in costs) for name in costs[0].more})


def _stat(pid):
    """Parent, and ticks of CPU: its own and that of all children that have ended and were waited for."""
    words = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[1]), sum(map(int, words[11:15]))


def _all():
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            found[int(pid)] = _stat(pid)
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def tree_cpu(root):
    """CPU seconds that a process and all below it have used since they began. A process that ended is not lost: whoever waits
    for it takes its time over, as the postmaster does for each of its backends. Asked while nothing begins or ends: one that ends
    between two looks would count twice or not at all, so looks are repeated until two of them agree on who is there."""
    before = None
    while True:
        found, tree, grown = _all(), {root}, True
        while grown:
            more = {pid for pid, (parent, _) in found.items() if parent in tree} - tree
            tree, grown = tree | more, bool(more)
        if root not in found:
            raise Failed(f"process {root} has ended")
        if tree == before:
            return sum(found[pid][1] for pid in tree) / TICK
        before = tree


def peak_memory(pid):
    """VmHWM in bytes; 0 when it has ended."""
    try:
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def _children(pid):
    try:
        return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


class _Sampler(threading.Thread):
    """Looks at the peak memory of processes and all below them. The kernel keeps the peak; only what grew within the last
    moment of a process is missed. (`ru_maxrss` will not do: it begins with the size of this process.)"""

    def __init__(self, roots):
        super().__init__(daemon=True)
        self.roots, self.peaks, self.ended = roots, {}, threading.Event()

    def run(self):
        while not self.ended.wait(SAMPLE_SECONDS if self.peaks else 0):
            waiting = list(self.roots)
            while waiting:
                pid = waiting.pop()
                self.peaks[pid] = max(self.peaks.get(pid, 0), peak_memory(pid))
                waiting += _children(pid)

    def finish(self):
        self.ended.set()
        self.join()
        return sum(self.peaks.values())


def pipeline(commands, env, out=None, lines=None):
    """Runs commands joined by pipes, the last one into the file `out`, and says what they cost together. `lines` is called
    with each line that the last one says on standard error. Each has to succeed."""
    started = time.monotonic()
    running, errors = [], []
    sink = open(out, "wb") if out else subprocess.DEVNULL
    source = subprocess.DEVNULL
    try:
        for place, command in enumerate(commands):
            last = place == len(commands) - 1
            process = subprocess.Popen(
                command,
                env=env,
                stdin=source,
                stdout=sink if last else subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            if place:
                source.close()  # The one before it must notice when this one ends.
            source = process.stdout
            running.append(process)
            said = []
            reader = threading.Thread(target=_read, args=(process.stderr, said, lines if last else None), daemon=True)
            reader.start()
            errors.append((reader, said))
        sampler = _Sampler([process.pid for process in running])
        sampler.start()
        cpu, wrong = 0.0, []
        for process, command, (reader, said) in zip(running, commands, errors):
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            cpu += usage.ru_utime + usage.ru_stime
            reader.join()
            if process.returncode:
                wrong.append(f"{command[0]} ended with {process.returncode}: {' / '.join(said[-8:])}")
        wall = time.monotonic() - started
        memory = sampler.finish()
    finally:
        for process in running:
            if process.returncode is None:
                process.kill()
                process.wait()
        if out:
            sink.close()
    if wrong:
        raise Failed("; ".join(wrong))
    return Cost(wall=wall, cpu=cpu, memory=memory)


def _read(stream, said, lines):
    with stream:
        for line in stream:
            text = line.decode(errors="replace").rstrip()
            said.append(text)
            del said[:-50]
            if lines:
                lines(text)


def measured(world, run):
    """What `run` costs, which returns a `Cost` of its own processes; PostgreSQL and its WAL are added. Before it everything is
    on the disk, so that nobody pays for what was written before."""
    world.sql("checkpoint")
    os.sync()
    end_of_wal = "select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"
    wal, cpu = int(world.sql(end_of_wal)), tree_cpu(world.postmaster())
    cost = run()
    cost.server_cpu = tree_cpu(world.postmaster()) - cpu
    cost.wal = int(world.sql(end_of_wal)) - wal
    return cost
