"""The L0 machine and what it boots: QEMU's command line, the initramfs, the process's life."""
