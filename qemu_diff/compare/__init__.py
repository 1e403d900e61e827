"""The step contract and what follows from it. Pure: arrays and dataclasses in, dataclasses out."""
