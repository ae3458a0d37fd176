"""The small model that ships with Tessera: how its pictures are drawn, how it is taught and measured."""
