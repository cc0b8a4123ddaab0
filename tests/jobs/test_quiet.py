"""The threads in which a device worker computes."""

import threading

import pytest

from audit.jobs.quiet import FreshThreads


def test_every_task_has_a_thread_that_ends_with_it():
    """OpenMP counts the helpers of every thread that is left over; with too many of them all computing slows down."""
    threads = FreshThreads()
    ran = [threads.submit(threading.current_thread).result(timeout=10) for _ in range(3)]
    for thread in ran:
        thread.join(timeout=10)
    assert len(set(map(id, ran))) == 3 and threading.current_thread() not in ran and not any(thread.is_alive() for thread in ran)


def test_tasks_run_beside_each_other():
    meet = threading.Barrier(2, timeout=10)
    assert sorted(future.result(timeout=10) for future in [FreshThreads().submit(meet.wait) for _ in range(2)]) == [0, 1]


def test_an_error_reaches_who_waits():
    with pytest.raises(ZeroDivisionError):
        FreshThreads().submit(lambda a, b: a / b, 1, b=0).result(timeout=10)
