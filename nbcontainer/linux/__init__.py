"""The one door to Linux: system calls, capabilities, probes."""
