"""Faults put into real runs, at every point at which a program changes what others can see."""
