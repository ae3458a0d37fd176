"""Evaluation: what a reply is worth beside the right answer."""
