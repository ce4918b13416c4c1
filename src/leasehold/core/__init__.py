"""The pure middle: shared by all roles, enters the enclave, touches no wire, disk, clock or entropy."""
