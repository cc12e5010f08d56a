"""A box that is a whole virtual machine: QEMU, on KVM where a guest boots there, else emulated for tests."""
