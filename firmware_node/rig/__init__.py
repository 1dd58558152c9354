"""The world around the device: Comms Hub, head end, virtual time, faults."""
