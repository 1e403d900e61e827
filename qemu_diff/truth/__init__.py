"""The truth: what L2 really executed, recorded outside of every kernel by a TCG plugin."""
