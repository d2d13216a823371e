# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs pytest's items in several processes: most of these tests wait for clocks and disks, not for a processor.

Debian's pytest comes without such a plugin. The parent forks workers once all is collected; each takes the next item from a pipe, and
sends its reports up, where they count as if the item had run there. BLKMOVE_JOBS=1 does without.
"""
import multiprocessing.connection
import os
import struct
import traceback

INDEX = struct.Struct("I")


class Sender:
    """A worker's plugin: its reports go to the parent."""

    def __init__(self, config, pipe):
        self.config, self.pipe = config, pipe

    def pytest_runtest_logreport(self, report):
        self.pipe.send(self.config.hook.pytest_report_to_serializable(config=self.config, report=report))


def take(queue, items):
    record = os.read(queue, INDEX.size)
    return items[INDEX.unpack(record)[0]] if record else None


def work(session, queue, pipe):
    manager = session.config.pluginmanager
    for name in ("terminalreporter", "junitxml"):
        if manager.hasplugin(name):
            manager.unregister(name=name)
    # A capture of its own: the parent's file would be shared.
    capture = manager.getplugin("capturemanager")
    capture.stop_global_capturing()
    capture.start_global_capturing()
    manager.register(Sender(session.config, pipe))
    item = take(queue, session.items)
    while item:
        following = take(queue, session.items)
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        item = following


def worker(session, queue):
    """Returns the parent's end of the worker's pipe, and its pid."""
    ours, theirs = multiprocessing.connection.Pipe(duplex=False)
    pid = os.fork()
    if pid:
        theirs.close()
        return ours, pid
    code = 1
    try:
        ours.close()
        work(session, queue, theirs)
        code = 0
    except BaseException:
        theirs.send(traceback.format_exc())
        # Devices and servers of the item that was under way.
        session._setupstate.teardown_exact(None)
    finally:
        os._exit(code)


def queue_of(items):
    """A pipe that holds the index of every item; 64 KiB are enough for 16,000."""
    read, write = os.pipe()
    os.write(write, b"".join(INDEX.pack(index) for index in range(len(items))))
    os.close(write)
    return read


def listen(session, pipes):
    """Replays what workers report until all have ended. Returns what went wrong among them."""
    trouble = []
    while pipes:
        for pipe in multiprocessing.connection.wait(list(pipes)):
            try:
                message = pipe.recv()
            except EOFError:
                pipes.remove(pipe)
                continue
            if isinstance(message, str):
                trouble.append(message)
                continue
            report = session.config.hook.pytest_report_from_serializable(config=session.config, data=message)
            if report.when == "setup":
                session.config.hook.pytest_runtest_logstart(nodeid=report.nodeid, location=report.location)
            session.config.hook.pytest_runtest_logreport(report=report)
            if report.when == "teardown":
                session.config.hook.pytest_runtest_logfinish(nodeid=report.nodeid, location=report.location)
    return trouble


def run(session, jobs):
    queue = queue_of(session.items)
    workers = [worker(session, queue) for _ in range(jobs)]
    os.close(queue)
    trouble = listen(session, [pipe for pipe, _ in workers])
    codes = [os.waitpid(pid, 0)[1] for _, pid in workers]
    if trouble or any(codes):
        raise session.Failed("\n".join(trouble) or f"a worker ended with status {codes}")


def loop(session):
    """For pytest_runtestloop: True when the items have been run here."""
    jobs = min(int(os.environ.get("BLKMOVE_JOBS") or 4), len(session.items))
    if jobs < 2 or session.config.option.collectonly or session.testsfailed or session.config.option.maxfail:
        return None
    run(session, jobs)
    return True
