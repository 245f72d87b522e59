"""JupyterHub on one machine, for Unix users, as root: `jupyterhub -f jupyterhub_config.py`.

Every server gets a cgroup of its own with these limits; they hold for the server, its kernels and its containers together,
and their users can limit what they start further, with %%container. Users have no rights that they had not before.
"""

from nbcontainer.jupyter.hub import check_host

c = get_config()  # type: ignore[name-defined] # noqa: F821 (JupyterHub gives it)

check_host()  # says now, and not at the first login, what is missing on this machine

# Everybody who has an account here and its password; or name them, with allowed_users.
c.Authenticator.allow_all = True

c.JupyterHub.spawner_class = "nbcontainer"
c.Spawner.mem_limit = "2G"
c.Spawner.cpu_limit = 1.0
c.DelegatingSpawner.pids_limit = 512

# Servers go on while the hub is restarted; it finds them again.
c.JupyterHub.cleanup_servers = False
