"""The real radio: a TI ZNP stick on a serial port, driven over zigpy-znp."""
