"""Nano, the small model that ships with Tessera: drawing its pictures, training it, and evaluating it."""
