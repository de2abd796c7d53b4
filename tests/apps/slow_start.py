"""An app whose import takes as long as a test wants: until the file that GATE names is there."""

from __future__ import annotations

import os
import time

from bananas import Bananas

while not os.path.exists(os.environ["GATE"]):
    time.sleep(0.01)

app = Bananas()


@app.task
async def nothing() -> None: ...
