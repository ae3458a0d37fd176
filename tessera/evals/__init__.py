"""Evaluation: scoring replies against the right answers."""
