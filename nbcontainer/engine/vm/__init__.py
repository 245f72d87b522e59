"""Containers in a small Linux guest under QEMU: the same spec, events and outcomes, without any privilege on the host.

:mod:`nbcontainer.engine.vm.engine` is the kernel's side, :mod:`nbcontainer.engine.vm.agent` the guest's, which runs the
local engine behind one stream. This file imports nothing: in the guest, each import takes ten times as long.
"""
