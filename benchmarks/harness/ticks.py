"""The messages of the compression benchmarks: made-up order book updates in JSON, about 300 bytes.

Always the same ones: they come from a fixed seed.
"""

from __future__ import annotations

import json
import random


def ticks(count: int) -> list[bytes]:
    chance = random.Random(7)
    found = []
    for number in range(count):
        price = chance.randint(90_000, 99_999) / 100

        def side(sign: int, price: float = price) -> list[list[str]]:
            return [
                [f"{price + sign * chance.random():.2f}", f"{chance.random() * 10:.6f}"]
                for _ in range(4)
            ]

        update = {
            "e": "depthUpdate",
            "E": 1_672_515_782_000 + 100 * number + chance.randint(0, 99),
            "s": chance.choice(["BNBBTC", "ETHUSDT", "BTCUSDT"]),
            "U": 10**8 + 20 * number,
            "u": 10**8 + 20 * number + chance.randint(1, 19),
            "b": side(-1),
            "a": side(1),
        }
        found.append(json.dumps(update).encode())
    return found
