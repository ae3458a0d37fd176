"""Ask a server many questions, and keep going where one fails. Start it with `tessera serve`."""

import sys

from tessera import Client, Image, Message
from tessera.errors import TesseraError

address = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
conversations = [[Message("user", (Image(path), "What is the total?"))] for path in ("receipt.png", "missing.png")]
with Client(address) as client:
    for reply in client.each(conversations):
        print("failed:" if isinstance(reply, TesseraError) else "answer:", reply)
