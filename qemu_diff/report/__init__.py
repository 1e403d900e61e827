"""Renderings of a campaign's result. Pure, but for the files that they are asked to write."""
