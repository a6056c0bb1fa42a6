"""The asyncio connection (L2): what users see, the writing half, the reading half, the two doors."""
