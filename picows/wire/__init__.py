"""Bytes to frames and frames to bytes (RFC 6455 section 5). Knows no asyncio, socket or logging."""
