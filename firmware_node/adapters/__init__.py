"""All input, output and asyncio."""
