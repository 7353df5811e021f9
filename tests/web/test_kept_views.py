"""A view is made once for all who ask, and not for those who have gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from embedsearch.core.errors import Interrupted, UsageError
from embedsearch.core.session import Session
from tests.support.library import wait_for

pytest.importorskip("fastapi", reason="needs the extra `serve`")

from embedsearch.web.kept_views import KeptViews
from embedsearch.web.limits import ServerLimits
from embedsearch.web.turns import Turns


class Making:
    """Makes views that take as long as they are told to, and counts."""

    def __init__(self) -> None:
        self.begun, self.stopped, self.made = 0, 0, 0
        self.goes_on = threading.Event()

    def __call__(self, session: Session) -> str:
        self.begun += 1
        try:
            while not self.goes_on.wait(0.01):
                session.check()
        except Interrupted:
            self.stopped += 1
            raise
        self.made += 1
        return f"view {self.made}"


def run(test: Callable[[KeptViews, Making], Awaitable[None]]) -> None:
    async def within() -> None:
        turns = Turns(ServerLimits())
        making = Making()
        try:
            await asyncio.wait_for(test(KeptViews(turns), making), 30)
        finally:
            making.goes_on.set()
            turns.close()

    asyncio.run(within())


async def begun(making: Making, count: int) -> None:
    await asyncio.to_thread(wait_for, lambda: making.begun >= count)


def test_all_who_ask_get_the_same() -> None:
    async def test(views: KeptViews, making: Making) -> None:
        asking = [asyncio.create_task(views.get("a", making)) for _ in range(5)]
        await begun(making, 1)
        making.goes_on.set()
        assert await asyncio.gather(*asking) == ["view 1"] * 5
        assert await views.get("a", making) == "view 1"
        assert await views.get("b", making) == "view 2"
        assert making.begun == 2

    run(test)


def test_it_stops_with_the_last_who_waits() -> None:
    async def test(views: KeptViews, making: Making) -> None:
        one, two = (asyncio.create_task(views.get("a", making)) for _ in range(2))
        await begun(making, 1)
        one.cancel()
        await asyncio.sleep(0.1)
        assert (making.stopped, two.done()) == (0, False)
        two.cancel()
        await asyncio.to_thread(wait_for, lambda: making.stopped == 1)
        # Who asks now does not get the one that was stopped.
        again = asyncio.create_task(views.get("a", making))
        await begun(making, 2)
        making.goes_on.set()
        assert await again == "view 1"

    run(test)


def test_one_who_stays_gets_it() -> None:
    async def test(views: KeptViews, making: Making) -> None:
        one, two = (asyncio.create_task(views.get("a", making)) for _ in range(2))
        await begun(making, 1)
        one.cancel()
        making.goes_on.set()
        assert await two == "view 1"
        assert making.begun == 1

    run(test)


def test_one_at_a_time_and_the_last_eight_are_kept() -> None:
    async def test(views: KeptViews, making: Making) -> None:
        asking = [asyncio.create_task(views.get(name, making)) for name in range(3)]
        await begun(making, 1)
        await asyncio.sleep(0.1)
        assert making.begun == 1
        making.goes_on.set()
        await asyncio.gather(*asking)
        for name in range(3, 9):
            await views.get(name, making)
        assert await views.get(1, making) == "view 2"
        assert making.begun == 9
        await views.get(0, making)
        assert making.begun == 10

    run(test)


def test_what_fails_is_not_kept() -> None:
    async def test(views: KeptViews, making: Making) -> None:
        def failing(session: Session) -> str:
            raise UsageError("no")

        for _ in range(2):
            with pytest.raises(UsageError):
                await views.get("a", failing)
        making.goes_on.set()
        assert await views.get("a", making) == "view 1"

    run(test)
