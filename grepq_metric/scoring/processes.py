"""Worker processes: work is handed out in order, comes back in order, and survives the death of who has it."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Protocol

from grepq_metric.errors import GRepQError

IN_HANDS = 4
"""Items that a process has at most: one at work, the others being read."""
WINDOW = 256
"""Rows for each process that may wait for an earlier one, which takes longer."""
DEATHS = 4
"""Of processes, without any work done in between: then there is no sense in more."""
MOMENT = 0.02
"""Seconds to wait for an item before saying that there is none."""


class Worker(Protocol):
    """What can be sent to processes: it is picklable."""

    def facts(self) -> dict[str, Any]:
        """Load what is needed, and say what it is."""

    def stream(self, items: Iterable[Any | None]) -> Iterator[tuple[Any, Any]]:
        """Items with their rows, in order; a None means that there is no item at the moment."""


class _Process:
    """One process.

    Attributes:
        hands: numbers and items that it has, in the order in which their rows will come.
        alone: what it has is suspected of killing processes, and gets no company.
        facts: what it says of itself; None until it is ready.
    """

    def __init__(self, worker: Worker, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, worker, threads), daemon=True)
        with _without_interrupts():
            self.process.start()
        theirs.close()  # so that its end is noticed here
        self.hands: deque[tuple[int, Any]] = deque()
        self.alone = False
        self.facts: dict[str, Any] | None = None

    def give(self, number: int, item: Any) -> None:
        self.hands.append((number, item))
        with suppress(OSError):  # its death is noticed where its rows are awaited
            self.pipe.send(item)

    def end(self) -> str:
        """How it ended, or is ended now."""
        self.pipe.close()
        self.process.join(1)
        if self.process.exitcode is None:
            self.process.terminate()
            self.process.join(5)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        code = self.process.exitcode or 0
        with suppress(ValueError):
            return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
        return f"by signal {-code}"


class Processes:
    """Processes that work on items with copies of one worker, and an equal share of this process's threads each.

    Args:
        worker: sent to each of them.
        jobs: how many.

    Raises:
        Exception: what `Worker.facts` raises in one of them.
        GRepQError: one ends before it is ready.
        OSError: they can't be started.

    Attributes:
        facts: what `Worker.facts` says.
    """

    def __init__(self, worker: Worker, jobs: int) -> None:
        import torch

        self.worker, self.jobs = worker, jobs
        self.threads = max(1, torch.get_num_threads() // jobs)
        self.deaths = 0
        self._all: list[_Process] = []
        try:
            for _ in range(jobs):
                self._all.append(_Process(worker, self.threads))
            while waiting := [process for process in self._all if process.facts is None]:
                for process in self._ready(waiting, None):
                    if not self._hear(process, {}):
                        raise GRepQError(
                            f"a process that was to score ended {process.end()} before it was ready: scripts that start some "
                            "need 'if __name__ == \"__main__\":', and each takes memory for a model of its own"
                        )
            self.facts = self._all[0].facts or {}
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End all of them, whatever they do."""
        for process in self._all:
            process.process.terminate()
        for process in self._all:
            process.end()
        self._all = []

    def stream(self, items: Iterable[Any | None], lost: Callable[[str], Any]) -> Iterator[tuple[Any, Any]]:
        """Items with their rows, in order, see `Worker.stream`; `lost` makes rows of errors.

        When a process dies, a new one takes its place. What it had in hand is tried again, one item at a time; one that it
        dies of again, alone, gets a row that says so.

        Raises:
            GRepQError: they keep dying, without any work done.
        """
        source, more = iter(items), True
        given = due = 0
        done: dict[int, tuple[Any, Any]] = {}
        suspects: deque[tuple[int, Any]] = deque()
        while True:
            idle = False
            while more and not suspects and given < due + WINDOW * self.jobs and (free := self._free()) is not None:
                try:
                    item = next(source)
                except StopIteration:
                    more = False
                    break
                if item is None:
                    idle = True
                    break
                free.give(given, item)
                given += 1
            for process in self._all:
                if suspects and process.facts is not None and not process.hands:
                    process.give(*suspects.popleft())
                    process.alone = True
            if not more and due == given:
                return
            for process in self._ready(self._all, 0 if idle else None):
                if not self._hear(process, done):
                    suspects.extend(self._bury(process, done, lost))
            while due in done:
                yield done.pop(due)
                due += 1

    def _free(self) -> _Process | None:
        """The process with the least in its hands, if that is little."""
        usable = (process for process in self._all if process.facts is not None and not process.alone)
        least = min(usable, key=lambda process: len(process.hands), default=None)
        return least if least is not None and len(least.hands) < IN_HANDS else None

    @staticmethod
    def _ready(processes: list[_Process], timeout: float | None) -> list[_Process]:
        """Those that have sent something, or died."""
        ready = {id(pipe) for pipe in wait([process.pipe for process in processes], timeout)}
        return [process for process in processes if id(process.pipe) in ready]

    def _hear(self, process: _Process, done: dict[int, tuple[Any, Any]]) -> bool:
        """Take what a process sent; False: it is dead."""
        try:
            heard = process.pipe.recv()
        except (EOFError, OSError):
            return False
        if isinstance(heard, Exception):
            raise heard
        if process.facts is None:
            process.facts = heard
            return True
        number, item = process.hands.popleft()
        done[number] = (item, heard)
        process.alone, self.deaths = False, 0
        return True

    def _bury(self, process: _Process, done: dict[int, tuple[Any, Any]], lost: Callable[[str], Any]) -> list[tuple[int, Any]]:
        """Put a new process in the place of a dead one; what is to be tried again, one at a time."""
        how = process.end()
        self.deaths += 1
        if self.deaths >= DEATHS * self.jobs:
            raise GRepQError(f"processes that score keep dying, the last one {how}: try fewer, or one")
        self._all[self._all.index(process)] = _Process(self.worker, self.threads)
        if process.alone:
            ((number, item),) = process.hands
            done[number] = (item, lost(f"the process that scored it died {how}: perhaps for want of memory"))
            return []
        return list(process.hands)


def _serve(pipe: Connection, worker: Worker, threads: int) -> None:
    """The life of a process: it ends when the other end of the pipe is closed, or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started it, who then ends it
    import torch

    torch.set_num_threads(threads)
    try:
        facts = worker.facts()
    except Exception as error:
        pipe.send(error)
        return
    with suppress(OSError):  # nobody is there any more
        pipe.send(facts)
        for _, row in worker.stream(_received(pipe)):
            pipe.send(row)


def _received(pipe: Connection) -> Iterator[Any | None]:
    while True:
        try:
            yield pipe.recv() if pipe.poll(MOMENT) else None
        except (EOFError, OSError):
            return


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Without Ctrl-C, which a process that is started here inherits: it would show a traceback while it imports."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
