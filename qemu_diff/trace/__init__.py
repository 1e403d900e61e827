"""What a boot left behind, read and checked: reports, truth, interrupts."""
