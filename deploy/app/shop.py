"""An app for a first `docker compose up`: put your own here, or name another folder in APP_FOLDER."""

from bananas import Bananas

app = Bananas()


@app.task(queue="email", max_retries=5, timeout=30)
async def send_email(to: str, subject: str = "hi") -> str:
    """Pretend to send one."""
    return f"sent {subject!r} to {to}"
