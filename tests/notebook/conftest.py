"""The kernels of these tests are on a host of their own, as networks of root's containers have a link to the host."""

from __future__ import annotations

import hostnet
from facilities import rootless

if not rootless():
    hostnet.leave_real_host()
