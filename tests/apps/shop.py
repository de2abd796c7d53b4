"""A shop with a good deal to do: for pictures of the dashboard, and its test with many jobs."""

from __future__ import annotations

import asyncio
import os

from bananas import Bananas, Retry, current_job

app = Bananas()


def is_open() -> bool:
    return os.path.exists(os.environ["SHOP_GATE"])


class CardDeclined(Exception):
    """The bank said no."""


@app.task(queue="email", timeout=30)
async def send_email(to: str, subject: str = "welcome") -> str:
    return f"sent {subject!r} to {to}"


@app.task(queue="billing", max_retries=0)
async def charge_card(order: int, cents: int) -> None:
    raise CardDeclined(f"order {order}: insufficient funds for {cents / 100:.2f} EUR")


@app.task(queue="billing", max_retries=5, retry=Retry(base=3600, factor=1, cap=3600, jitter=False))
async def sync_ledger(account: str) -> None:
    raise ConnectionError("ledger.internal:5432 did not answer within 5 s")


@app.task(queue="media", timeout=600)
async def resize_image(path: str, width: int) -> str:
    """Wait until the gate is open."""
    while not is_open():
        await asyncio.sleep(0.05)
    return f"{path}@{width}"


@app.task(queue="media", timeout=600)
async def import_customers(pages: int) -> None:
    """Come to page 4, and wait until the gate is open."""
    job = current_job()
    job.log("page 3 has 2 rows without a name")
    job.progress(4 / pages, f"page 4 of {pages}")
    while not is_open():
        await asyncio.sleep(0.05)


@app.cron("30 2 * * *", timezone="Europe/Berlin", queue="billing")
async def nightly_report() -> None:
    """Close the day."""


@app.cron(every=300, queue="email")
async def send_digest() -> None:
    """Send what has gathered."""
