"""Interrupt sources and where they place their interrupts: pure, and seeded."""
