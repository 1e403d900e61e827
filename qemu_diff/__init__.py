"""qemu-diff judges KVM/arm64 guest single-step, kernel against kernel and both against the truth.

The sub-packages stand in data-flow order, and none imports a later one:
``config`` → ``kernels`` → ``guest`` → ``truth`` → ``flood`` → ``drive`` → ``trace`` → ``compare``
→ ``campaign`` → ``report``; ``cli`` sees them all.
"""
