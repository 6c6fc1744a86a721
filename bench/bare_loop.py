"""
The mark: a bare aiosmtplib loop that sends prebuilt mails over persistent connections.

Run as a process of its own by ``bench/deliveries.py``; prints what it measured as JSON.
"""

from __future__ import annotations

import asyncio
import json
import resource
import ssl
import sys
import time
from typing import Any

import aiosmtplib


async def one_connection(job: dict[str, Any], account: dict[str, str], count: int) -> None:
    """Open, authenticate, and send one mail after the other."""
    client = aiosmtplib.SMTP(
        hostname=job["host"],
        port=job["port"],
        start_tls=True,
        tls_context=CONTEXTS[job["ca_file"]],
        local_hostname="bench.example",
    )
    await client.connect()
    await client.auth_xoauth2(account["address"], account["token"])
    READY.append(client)
    await START.wait()
    mail = job["mail"].replace(job["mail_from"], account["address"]).encode("ascii")
    for _ in range(count):
        await client.sendmail(account["address"], ["ops@bench.example"], mail)


async def main() -> None:
    """Send the job's mails and tell rate and CPU."""
    job = json.loads(sys.stdin.read())
    CONTEXTS[job["ca_file"]] = ssl.create_default_context(cafile=job["ca_file"])
    accounts = job["accounts"]
    each = job["mails"] // len(accounts)
    tasks = [asyncio.create_task(one_connection(job, account, each)) for account in accounts]
    while len(READY) < len(accounts):
        await asyncio.sleep(0.01)
        for task in tasks:
            if task.done():
                task.result()
    cpu, begun = cpu_seconds(), time.perf_counter()
    START.set()
    await asyncio.gather(*tasks)
    seconds = time.perf_counter() - begun
    usage = resource.getrusage(resource.RUSAGE_SELF)
    told = {
        "mails": each * len(accounts),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds() - cpu,
        "peak_mb": usage.ru_maxrss / 1024,
    }
    print(json.dumps(told))


def cpu_seconds() -> float:
    """CPU of this process until now."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


CONTEXTS: dict[str, ssl.SSLContext] = {}
READY: list[aiosmtplib.SMTP] = []
START = asyncio.Event()

if __name__ == "__main__":
    asyncio.run(main())
