"""Search in archives of documents: one SQLite file with their pages' text, places and fields, and what asks it."""
