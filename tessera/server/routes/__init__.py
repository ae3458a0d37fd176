"""The routes; each file reads its requests, answers them, and writes its streamed events."""
