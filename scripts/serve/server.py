"""A `batchlab serve` to try things on: started on a free port of 127.0.0.1, watched, and ended."""

import json
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

START_SECONDS = 60
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(stat):
    """User and system."""
    with open(stat) as file:
        fields = file.read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Server:
    """The bundled model on the CPU. `limit_files` is the process's hard limit of open files."""

    def __init__(self, binary, *options, port=0, limit_files=None):
        self.log = tempfile.NamedTemporaryFile("w+", prefix="batchlab-serve-", suffix=".log")
        command = [binary, "serve", "--device", "cpu", "--port", str(port), "--log-format", "json"]
        if limit_files:
            command = ["sh", "-c", f'ulimit -n {limit_files} && exec "$@"', "sh", *command]
        self.process = subprocess.Popen(
            [*command, *options], stdout=subprocess.DEVNULL, stderr=self.log)
        self.port = self._port()

    def _port(self):
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            if address := re.search(r"listening on http://127\.0\.0\.1:(\d+)", self.text()):
                return int(address[1])
            time.sleep(0.05)
        self.stop()
        raise SystemExit(f"the server did not start:\n{self.text()}")

    def text(self):
        with open(self.log.name, errors="replace") as log:
            return log.read()

    def requests(self, since=0):
        """What the log says of each request that ended, from a place in it on."""
        with open(self.log.name, errors="replace") as log:
            log.seek(since)
            lines = [json.loads(line) for line in log if line.startswith("{")]
        return [line for line in lines if line.get("message") == "request"]

    def log_end(self):
        return os.stat(self.log.name).st_size

    def panics(self):
        return self.text().count("panicked")

    def metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as page:
            lines = page.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line[:1] != "#")
        return {name.removeprefix("batchlab_"): float(value) for name, value in pairs}

    def left(self):
        """What is still held: 0 once every request has ended and every client is gone."""
        now = self.metrics()
        return {
            "rows": int(now["requests_running"]),
            "queued": int(now["requests_waiting"]),
            "pages": int(now["kv_pages_used"]),
            # The one that asks is one itself.
            "connections": int(now["connections"]) - 1,
        }

    def settle(self, seconds):
        """What is left once nothing is, or when the time is over."""
        end = time.monotonic() + seconds
        while any((left := self.left()).values()) and time.monotonic() < end:
            time.sleep(0.1)
        return left

    def rss_mib(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024

    def cpu_seconds(self):
        return cpu_seconds(f"/proc/{self.process.pid}/stat")

    def engine_cpu_seconds(self):
        """Of the engine's thread and those that compute for it."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(cpu_seconds(f"{task}/stat") for task in tasks
                   if (task / "comm").read_text().strip() == "engine")

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self):
        """Its exit status; it is killed where it does not end."""
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
        try:
            return self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
