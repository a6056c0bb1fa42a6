"""The asyncio connection (L2): what users see, its two halves, the two doors."""
