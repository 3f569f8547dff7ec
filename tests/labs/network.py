"""Hosts with addresses of their own on one machine: network namespaces, whose links can be cut.

Between this machine and host n there is a cable, a pair of virtual interfaces: this end is
10.211.n.1, the other one 10.211.n.2. ``cut`` pulls it out: packets vanish, and nobody is told.

But: it takes Linux, root and ``ip`` (iproute2), and as the addresses are the same for each, two of
them on one machine take turns.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

import filelock

NET = "10.211.0.0/16"
MISSING = "A partition takes network namespaces: Linux, root, and ip from iproute2."


def is_possible() -> bool:
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    probe = f"jobqueue-probe-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode != 0:
        return False
    cable = ["ip", "-n", probe, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"]
    possible = subprocess.run(cable, capture_output=True).returncode == 0
    _ip("netns", "delete", probe)
    return possible


class Network:
    """So many hosts, from number 0 on."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._turn = filelock.FileLock(Path(tempfile.gettempdir(), "jobqueue-network.lock"))

    def __enter__(self) -> Self:
        self._turn.acquire()
        self._remove()  # what a run that was killed has left
        for number in range(self._count):
            host, cable = _host(number), _cable(number)
            _ip("netns", "add", host)
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", host)
            _ip("address", "add", f"{self.address(number)}/24", "dev", cable)
            _ip("link", "set", cable, "up")
            _ip("-n", host, "address", "add", f"10.211.{number}.2/24", "dev", "eth0")
            _ip("-n", host, "link", "set", "eth0", "up")
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()
        self._turn.release()

    def _remove(self) -> None:
        for number in range(self._count):
            # The cable first: a namespace takes its end away later, when the name is needed again.
            for what in (["link", "delete", _cable(number)], ["netns", "delete", _host(number)]):
                subprocess.run(["ip", *what], capture_output=True)

    def address(self, number: int) -> str:
        """Of this machine, as host ``number`` sees it."""
        return f"10.211.{number}.1"

    def on_host(self, number: int) -> list[str]:
        """What a command begins with to run there."""
        return ["ip", "netns", "exec", _host(number)]

    def cut(self, number: int) -> None:
        _ip("-n", _host(number), "link", "set", "eth0", "down")

    def heal(self, number: int) -> None:
        _ip("-n", _host(number), "link", "set", "eth0", "up")


def _host(number: int) -> str:
    return f"jobqueue-{number}"


def _cable(number: int) -> str:
    return f"jobqueue{number}"  # 15 characters at most


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
