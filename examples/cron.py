"""Jobs by the clock: each tick runs once, however many workers there are. This script starts two of them and waits for three ticks.

python cron.py    # in this folder
"""

import subprocess
import sys
from datetime import UTC, datetime

from bananas import Bananas, current_job

app = Bananas()


@app.cron("0 8 * * mon-fri", timezone="Europe/Berlin", missed="skip")
async def good_morning() -> None:
    print("good morning, Berlin", flush=True)


@app.cron(every=1)
async def tick() -> None:
    due = datetime.fromtimestamp(int(current_job().headers["scheduled-for-ms"]) / 1000, UTC)
    print(f"tick of {due:%H:%M:%S}", flush=True)


def main() -> None:
    command = [sys.executable, "-m", "bananas", "worker", "cron:app", "--processes", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as workers:
        assert workers.stdout is not None
        for _ in range(3):
            print(workers.stdout.readline(), end="")
        workers.terminate()


if __name__ == "__main__":
    main()
