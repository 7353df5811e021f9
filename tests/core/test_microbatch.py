"""What threads ask for at once is done together, and nobody gets another's answer."""

from __future__ import annotations

import threading
import time

from embedsearch.core.microbatch import MicroBatcher


def ask_together(batcher: MicroBatcher[int, int], items: list[int]) -> dict[int, object]:
    """Ask for each item from a thread of its own, while another one keeps the batcher busy."""
    found: dict[int, object] = {}

    def ask(item: int) -> None:
        try:
            found[item] = batcher([item])
        except ValueError as error:
            found[item] = error

    threads = [threading.Thread(target=ask, args=(item,)) for item in items]
    for thread in threads:
        thread.start()
        time.sleep(0.02)  # in order
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    return found


def test_waiting_calls_share_the_next_batch() -> None:
    batches: list[list[int]] = []

    def work(items: list[int]) -> list[int]:
        batches.append(items)
        time.sleep(0.3)
        return [10 * item for item in items]

    found = ask_together(MicroBatcher(work, 3), [1, 2, 3, 4, 5])
    assert found == {item: [10 * item] for item in (1, 2, 3, 4, 5)}
    assert batches[0] == [1]
    assert sorted(len(batch) for batch in batches) == [1, 1, 3]


def test_more_items_than_a_batch_holds_stay_together() -> None:
    batcher: MicroBatcher[int, int] = MicroBatcher(lambda items: [-item for item in items], 2)
    assert batcher(range(5)) == [0, -1, -2, -3, -4]
    assert batcher([]) == []


def test_an_error_reaches_all_of_its_batch_and_no_other() -> None:
    def work(items: list[int]) -> list[int]:
        time.sleep(0.2)
        if 2 in items:
            raise ValueError("two")
        return items

    found = ask_together(MicroBatcher(work, 2), [1, 2, 3, 4])
    failed = {item for item, outcome in found.items() if isinstance(outcome, ValueError)}
    assert 2 in failed and 1 not in failed and len(failed) <= 2


def test_an_interrupt_is_the_leaders_alone() -> None:
    """Ctrl-C stops the thread that it comes to; those that waited with it are still answered."""
    started = threading.Event()
    calls: list[list[int]] = []

    def work(items: list[int]) -> list[int]:
        calls.append(items)
        if len(calls) == 1:
            started.set()
            time.sleep(0.2)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return items

    batcher = MicroBatcher(work, 10)
    outcomes: dict[int, object] = {}

    def ask(item: int) -> None:
        try:
            outcomes[item] = batcher([item])
        except KeyboardInterrupt:
            outcomes[item] = "interrupted"

    threads = [threading.Thread(target=ask, args=(item,)) for item in range(4)]
    threads[0].start()
    started.wait(5)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive(), "a call waits for ever"
    assert sorted(map(str, outcomes.values()))[-1] == "interrupted"
    assert sum(outcome == "interrupted" for outcome in outcomes.values()) == 1
    assert all(outcome in ("interrupted", [item]) for item, outcome in outcomes.items())
