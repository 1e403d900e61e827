"""Asking for steps: jobs for the step VMM, and boots that run them."""
