"""The messages of the compression benchmarks, made up, in JSON, of about 300 bytes: updates of an
order book, which are mostly new digits, and quotes, each of which is nearly the one before.

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


def quotes(count: int) -> list[bytes]:
    chance = random.Random(7)
    found = []
    bid = 2_841_250
    for number in range(count):
        bid += chance.randint(-3, 3)
        quote = {
            "type": "quote",
            "venue": "XNAS",
            "instrument": "ES-2027-03",
            "currency": "USD",
            "session": "regular",
            "conditions": ["firm", "displayed"],
            "sequence": 48_120_000 + number,
            "time": 1_672_515_782_000_000 + 1000 * number + chance.randint(0, 999),
            "bid": {"price": f"{bid / 100:.2f}", "size": chance.randint(1, 99), "orders": 4},
            "ask": {"price": f"{bid / 100 + 0.25:.2f}", "size": chance.randint(1, 99), "orders": 7},
            "last": {"price": "28412.75", "size": 2},
        }
        found.append(json.dumps(quote).encode())
    return found
