"""JupyterHub with SystemdSpawner (`pip install jupyterhub-systemdspawner`): systemd makes the cgroups, and gives them away.

Needs control groups version 2. Limits are SystemdSpawner's own, mem_limit and cpu_limit.
"""

from nbcontainer.jupyter.hub import SYSTEMD_DELEGATE, SYSTEMD_ENVIRONMENT

c = get_config()  # type: ignore[name-defined] # noqa: F821 (JupyterHub gives it)

# Everybody who has an account here and its password; or name them, with allowed_users.
c.Authenticator.allow_all = True

c.JupyterHub.spawner_class = "systemd"
c.SystemdSpawner.unit_extra_properties = SYSTEMD_DELEGATE | {"TasksMax": "512"}
# A kernel's first files are not in the homes, whose disk may be full.
c.SystemdSpawner.environment = SYSTEMD_ENVIRONMENT
c.SystemdSpawner.mem_limit = "2G"
c.SystemdSpawner.cpu_limit = 1.0
# With private devices or /tmp, systemd mounts over /proc or parts of it, and containers get no /proc of their own.
c.SystemdSpawner.isolate_devices = False
c.SystemdSpawner.disable_user_sudo = True
