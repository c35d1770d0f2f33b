"""Which addresses are this machine's own: no proxy that the environment names stands between two of its programs."""

import ipaddress
from urllib.parse import urlsplit


def is_loopback(address: str) -> bool:
    """Whether an address, HOST, HOST:PORT or a URL, is this machine."""
    try:
        name = urlsplit(address if "://" in address else f"http://{address}").hostname or ""
        return (
            name == "localhost" or ipaddress.ip_address(name).is_loopback or ipaddress.ip_address(name).is_unspecified
        )
    except ValueError:
        return False
